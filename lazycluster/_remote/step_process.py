"""The process of a step: how it is started, and the supervisor's ends of its pipes."""

import contextlib
import os

from . import child, streams
from .channel import Messages
from .imports import library_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401 - stands in a comment

LONG_COMMAND = 100000  # bytes; Linux takes at most 128 KiB as one word of an argv
PIPES = ("output", "channel", "payload")  # of a fork


class StepProcess:
    """The leader of a step's process session, and our ends of its pipes, -1 where there is none.

    Attributes:
        pid: Its pid; 0 before it is started.
        status: Its wait status; None until it has ended.
        output: What it prints.
        errors: The standard error of a command, if it is separate.
        channel: Its value, what it logs and its outcome, see `channel`.
        payload: Where its job and its input are written; a command's standard input.
        job: What is still to be written to the payload before any input.
        modules: How many modules had been imported when it was forked.
        contents: How many contents had come then.
        messages: Cuts what comes through the channel.
        request: The request whose step it runs; None while it has no job.
    """

    # What most processes do not change is an attribute of the class, which takes no time.
    pid = 0
    status = None  # type: int | None
    output = errors = channel = payload = -1
    is_streaming = False  # parts of a value follow one another
    job = memoryview(b"")
    modules = contents = 0
    request = None  # type: Any
    _script = None  # type: str | None

    def __init__(self) -> "None":
        self.messages = Messages()

    def start_command(
        self,
        command: "bytes",
        shell: "list[bytes]",
        working_dir: "bytes | None",
        environment: "dict[bytes, bytes]",
        null: "int | None",
        separate: "bool",
        script: "str | None",
    ) -> "None":
        """Run a command by a shell.

        Args:
            command: The command.
            shell: The words before `-c`.
            working_dir: Where it starts; None for the supervisor's own directory.
            environment: All its variables.
            null: `/dev/null`, its standard input; None for a pipe.
            separate: Whether its standard error has a pipe of its own.
            script: The file for a command too long for an argv.

        Raises:
            OSError, ValueError: If the shell cannot be started; everything is closed then.
        """
        with library_first():  # takes 2 ms at the first command, and a login does without
            import subprocess

        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            on_error.callback(self.remove_script)
            argv = [*shell, b"-c", command]
            if script is not None:
                fd = os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._script = script
                with open(fd, "wb") as file:
                    file.write(command + b"\n")
                argv = [*shell, os.fsencode(script)]
            with contextlib.ExitStack() as theirs:
                self.output, output = os.pipe()
                theirs.callback(os.close, output)
                errors, source = output, null
                if separate:
                    self.errors, errors = os.pipe()
                    theirs.callback(os.close, errors)
                if source is None:
                    source, self.payload = os.pipe()
                    theirs.callback(os.close, source)
                    os.set_blocking(self.payload, False)
                process = subprocess.Popen(
                    argv,
                    stdin=source,
                    stdout=output,
                    stderr=errors,
                    cwd=working_dir,
                    env=environment,
                    start_new_session=True,
                    close_fds=False,  # exec closes all of ours
                )
            on_error.pop_all()
        process.returncode = 0  # the supervisor waits for all its children itself
        self.pid = process.pid

    def start_fork(self, warm: "bool", contents: "dict[str, bytes]") -> "None":
        """Fork a process that waits for its job, and has no other descriptors than its own.

        Raises:
            OSError: If there are no descriptors or processes left; everything is closed then.
        """
        theirs = {}  # type: dict[str, int]

        def run() -> "None":
            streams.close_all_but({0, 1, 2, *theirs.values()})
            child.main(warm=warm, contents=contents, **theirs)

        try:
            for name in PIPES:
                reader, writer = os.pipe()
                ours, theirs[name] = (writer, reader) if name == "payload" else (reader, writer)
                setattr(self, name, ours)
            child.prepare_fork()
            self.pid = child.fork(run)
        except OSError:
            self.close()
            raise
        finally:
            for fd in theirs.values():
                os.close(fd)

    def close(self) -> "None":
        """Close our ends of the pipes, none of which is in the loop."""
        for name in (*PIPES, "errors"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def close_payload(self) -> "None":
        """Close the payload: nothing more comes for the step."""
        if self.payload >= 0:
            os.close(self.payload)
            self.payload = -1

    def remove_script(self) -> "None":
        """Remove the file that a long command was written to."""
        if self._script is not None:
            os.unlink(self._script)
            self._script = None


def account_shell() -> "bytes":
    """Return the account's own shell, or /bin/sh if that refuses logins, as of a service."""
    try:
        import pwd

        shell = pwd.getpwuid(os.getuid()).pw_shell
    except (ImportError, KeyError):  # a random uid has no entry
        shell = os.environ.get("SHELL", "")
    refuses = os.path.basename(shell) in ("", "nologin", "false")
    return os.fsencode("/bin/sh" if refuses else shell)
