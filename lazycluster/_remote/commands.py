"""Start the commands of steps, each by a shell that leads a process session of its own."""

import _signal as signal  # see `child`
import contextlib
import os

from .._shared import paths
from .files import to_bytes
from .imports import library_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .cleanup_process import CleanupProcess
    from .request import Request
    from .step_process import StepProcess

    Environment = dict[bytes, bytes]

LONG_COMMAND = 100000  # bytes; Linux takes at most 128 KiB as one word of an argv
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them


class Commands:
    """Start commands.

    Args:
        null: `/dev/null`.
        cleanup: Knows what is temporary.
    """

    def __init__(self, null: "int", cleanup: "CleanupProcess") -> "None":
        self._null = null
        self._cleanup = cleanup
        # Neither changes while the connection lasts; to ask again would take 0.1 ms.
        self._environment = dict(os.environb)
        self._environment.pop(b"", None)  # posix_spawn refuses what has no name
        self._shell = account_shell()
        self._scripts = None  # type: str | None  # the folder of long commands

    def start(self, request: "Request", step: "dict[str, Any]") -> "None":
        """Start the command of a request's step, as `request.process`.

        Raises:
            OSError, ValueError: If the shell cannot be started; everything is closed then.
        """
        process = request.process
        working_dir = None if request.working_dir is None else to_bytes(request.working_dir)
        environment = dict(self._environment)
        if working_dir is not None:
            environment[b"PWD"] = working_dir  # else a shell shows it resolved through links
        for name, value in request.environment.items():
            environment[to_bytes(name)] = to_bytes(value)
        shell = [to_bytes(word) for word in step["shell"]] if step.get("shell") else [self._shell]
        command = to_bytes(step["command"])
        with contextlib.ExitStack() as on_error:
            on_error.callback(process.close)
            on_error.callback(process.remove_script)
            if len(command) > LONG_COMMAND:
                argv = [*shell, self._write_script(process, command, request.number)]
            else:
                argv = [*shell, b"-c", command]
            with contextlib.ExitStack() as theirs:
                process.output, output = os.pipe()
                theirs.callback(os.close, output)
                errors, source = output, self._null
                if step.get("separate"):
                    process.errors, errors = os.pipe()
                    theirs.callback(os.close, errors)
                if step.get("input") is not None:
                    source, process.payload = os.pipe()
                    theirs.callback(os.close, source)
                    os.set_blocking(process.payload, False)
                process.pid = start_program(argv, environment, working_dir, source, output, errors)
            on_error.pop_all()

    def _write_script(self, process: "StepProcess", command: "bytes", number: "int") -> "bytes":
        """Write a command that is too long for an argv to a file, and return its path."""
        if self._scripts is None:
            scripts = paths.temporary_path()
            self._cleanup.add_temporary(scripts)
            self._scripts = paths.make_private_directory(scripts)
        path = os.path.join(self._scripts, str(number))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        process.script = path
        with open(fd, "wb") as file:
            file.write(command + b"\n")
        return os.fsencode(path)


def start_program(
    argv: "list[bytes]",
    environment: "Environment",
    working_dir: "bytes | None",
    source: "int",
    output: "int",
    errors: "int",
) -> "int":
    """Start a program in a process session of its own; return its pid.

    Args:
        argv: Its words; the first is looked for in the PATH of the environment.
        environment: All its variables.
        working_dir: Where it starts; None for the supervisor's own directory.
        source: Its standard input.
        output: Its standard output.
        errors: Its standard error.

    Raises:
        OSError: If the program cannot be started, or the directory cannot be entered.
        ValueError: If a NUL is in a word or a variable, or a `=` in a name.
    """
    fds = (source, output, errors)
    if hasattr(os, "posix_spawn"):  # from Python 3.8 on
        with contextlib.suppress(NotImplementedError, _NoWayBackError):
            return _spawn(argv, environment, working_dir, fds)
    return _start_by_subprocess(argv, environment, working_dir, fds)


def _spawn(
    argv: "list[bytes]",
    environment: "Environment",
    working_dir: "bytes | None",
    fds: "tuple[int, int, int]",
) -> "int":
    """Start a program by `os.posix_spawn`.

    It takes 0.14 ms less than `subprocess`, and needs no import of 2 ms.

    Raises:
        NotImplementedError: If this C library cannot start a process session.
        _NoWayBackError: If this process cannot open its own directory, to come back to it.
    """
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]
    with contextlib.ExitStack() as stack:
        # A spawn cannot enter a directory. This process has one thread, so it may do so itself.
        if working_dir is not None:
            stack.callback(_leave, _open_own_directory())
            os.chdir(working_dir)
        failure = None  # type: OSError | None
        for path in _candidates(argv[0], environment):
            try:
                return os.posix_spawn(
                    path,
                    argv,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigdef=_DEFAULT_SIGNALS,
                )
            except (FileNotFoundError, NotADirectoryError) as error:
                failure = failure or error
            except OSError as error:
                failure = error
        assert failure is not None
        raise OSError(failure.errno, failure.strerror, argv[0])


class _NoWayBackError(Exception):
    """The supervisor may not come back to its own directory once it has left it."""


def _open_own_directory() -> "int":
    try:
        return os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        raise _NoWayBackError from None


def _leave(home: "int") -> "None":
    """Go back to a directory, and close its descriptor."""
    try:
        os.fchdir(home)
    except OSError:  # its permissions have just changed: what follows must not run elsewhere
        os.kill(os.getpid(), signal.SIGTERM)
    os.close(home)


def _candidates(program: "bytes", environment: "Environment") -> "list[bytes]":
    if b"/" in program:
        return [program]
    folders = os.get_exec_path(environment)  # type: ignore[arg-type]  # bytes will do
    return [os.path.join(os.fsencode(folder), program) for folder in folders]


def _start_by_subprocess(
    argv: "list[bytes]",
    environment: "Environment",
    working_dir: "bytes | None",
    fds: "tuple[int, int, int]",
) -> "int":
    with library_first():
        import subprocess

    source, output, errors = fds
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
    process.returncode = 0  # the supervisor waits for all its children itself
    return process.pid


def account_shell() -> "bytes":
    """Return the account's own shell, or /bin/sh if that refuses logins, as of a service."""
    try:
        import pwd

        shell = pwd.getpwuid(os.getuid()).pw_shell
    except (ImportError, KeyError):  # a random uid has no entry
        shell = os.environ.get("SHELL", "")
    refuses = os.path.basename(shell) in ("", "nologin", "false")
    return os.fsencode("/bin/sh" if refuses else shell)
