"""The process of a step: how it is started, what it is connected by, how its group is ended."""

import errno
import os
import signal
import subprocess
import time

from .._shared import folders
from . import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable  # noqa: F401 - Any stands in a comment

_exit = os._exit  # a function may replace what is in os
LEFTOVER_GRACE = 2.0  # seconds between SIGTERM and SIGKILL when the connection ends
POLL = 0.02  # seconds: a group whose leader has ended sends no signal when it ends itself
NOTES_PAUSE = 0.1  # seconds in which an heir lets notes gather; it is not to be woken for each step
NOTES_LIMIT = 1 << 20  # bytes of them
LONG_COMMAND = 100000  # bytes; Linux takes at most 128 KiB as one word of an argv
BLOCKED_WHILE_FORKING = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


class StepProcess:
    """The leader of a step's process group and our ends of its pipes, -1 where there is none."""

    def __init__(self) -> "None":
        self.pid = 0
        self.status = None  # type: int | None  # as waitpid gives it, once it has ended
        self.output = self.value = self.tell = self.payload = -1
        self.script = None  # type: str | None
        self.job = memoryview(b"")  # what has to go through the payload before all else
        self.modules = 0  # how many there were when it was forked
        self.request = None  # type: Any  # whose step it is; None while it has no job

    def start_command(
        self,
        command: "bytes",
        shell: "bytes",
        working_dir: "bytes | None",
        environment: "dict[bytes, bytes]",
        null: "int",
        script: "str",
    ) -> "None":
        """Run a command by a shell.

        Args:
            command: The command.
            shell: The shell.
            working_dir: Where, or None for where the supervisor is.
            environment: All its variables.
            null: `/dev/null`, for its standard input.
            script: Where a command too long for an argv may be written.
        """
        argv = [shell, b"-c", command]
        if len(command) > LONG_COMMAND:
            fd = os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "wb") as file:
                file.write(command + b"\n")
            self.script = script
            argv = [shell, os.fsencode(script)]
        self.output, output = os.pipe()
        try:
            process = subprocess.Popen(
                argv,
                stdin=null,
                stdout=output,
                stderr=output,
                cwd=working_dir,
                env=environment,
                start_new_session=True,
                close_fds=False,  # exec closes all of ours
            )
        finally:
            os.close(output)
        process.returncode = 0  # the supervisor waits for all its children itself
        self.pid = process.pid

    def start_fork(self, close: "Callable[[], None]", warm: "bool") -> "None":
        """Fork; the child waits for its job, does it, see `function.work`, and tells how it went.

        Args:
            close: Called in the child: closes what is the supervisor's.
            warm: Whether the job is still to come.
        """
        ends = []  # type: list[int]
        try:
            for name in ("output", "value", "tell", "payload"):
                reader, writer = os.pipe()
                ours, theirs = (writer, reader) if name == "payload" else (reader, writer)
                setattr(self, name, ours)
                ends.append(theirs)
            # A signal that comes before the child has its own actions would be taken by ours.
            signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_WHILE_FORKING)
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    self._in_child(ends, close, warm)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_WHILE_FORKING)
        finally:
            for fd in ends:
                os.close(fd)

    def _in_child(self, ends: "list[int]", close: "Callable[[], None]", warm: "bool") -> "None":
        """Never returns, whatever happens."""
        try:
            output, value, tell, payload = ends
            close()
            self.close()
            channel = child.identity(tell)
            child.leave(tell, channel, child.work(payload, value, tell, output, warm))
        finally:
            _exit(1)

    def close(self) -> "None":
        """In the forked process: the supervisor's ends are not its own."""
        for fd in (self.output, self.value, self.tell, self.payload):
            os.close(fd)

    def close_payload(self) -> "None":
        """No more is coming for the step."""
        if self.payload >= 0:
            os.close(self.payload)
            self.payload = -1

    def remove_script(self) -> "None":
        """Remove the file that a long command was written to."""
        if self.script is not None:
            os.unlink(self.script)
            self.script = None


class Heir:
    """A process that ends what the supervisor has started if that is killed with SIGKILL.

    It reads what there is to end from a pipe that only the supervisor writes to. At the pipe's end
    it does what the supervisor would have done. Where no process can be had there is no heir.
    """

    def __init__(self) -> "None":
        self._pid = 0
        self._notes = -1
        self._waiting = bytearray()

    def start(self, null: "int", close: "Callable[[], None]") -> "None":
        """Fork it.

        Args:
            null: `/dev/null`, for its standard streams: ssh would wait for their ends.
            close: Called in it: closes what is the supervisor's.
        """
        notes, self._notes = os.pipe()
        os.set_blocking(self._notes, False)
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_WHILE_FORKING)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    for fd in (1, 2):
                        os.dup2(null, fd)
                    close()
                    _inherit(notes)
                finally:
                    os._exit(0)
        except OSError:
            self.dismiss()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_WHILE_FORKING)
            os.close(notes)

    def leads(self, pid: "int") -> "None":
        """A process leads a session from now on."""
        self._note(b"+%d" % pid)

    def has_ended(self, pid: "int") -> "None":
        """It has been waited for; there may be others in its session."""
        self._note(b"~%d" % pid)

    def is_empty(self, session: "int") -> "None":
        """Nobody is left in a session."""
        self._note(b"-%d" % session)

    def is_temporary(self, path: "str") -> "None":
        """Something is to be removed in the end."""
        self._note(b"t" + os.fsencode(path).hex().encode())

    def is_kept(self, path: "str") -> "None":
        """No longer."""
        self._note(b"k" + os.fsencode(path).hex().encode())

    def _note(self, note: "bytes") -> "None":
        if self._notes < 0:
            return
        self._waiting += note + b"\n"
        try:
            del self._waiting[: os.write(self._notes, self._waiting)]
        except BlockingIOError:
            if len(self._waiting) > NOTES_LIMIT:
                self.dismiss()  # somebody has stopped it
        except OSError:
            self.dismiss()  # somebody has ended it

    def dismiss(self) -> "None":
        """End it, as nothing is left for it to do."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # before it sees the end of the notes
            os.waitpid(self._pid, 0)
            self._pid = 0
        self.close_in_child()

    def close_in_child(self) -> "None":
        """In a forked process, whose life must not keep the pipe open."""
        if self._notes >= 0:
            os.close(self._notes)
            self._notes = -1

    def is_reaped(self, pid: "int") -> "None":
        """Told of each child that has been waited for: its number may be another's now."""
        if pid == self._pid:
            self._pid = 0


def _inherit(notes: "int") -> "None":
    """What an heir does, all its life."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in BLOCKED_WHILE_FORKING:
        signal.signal(number, signal.SIG_IGN)
    led, left, temporary = set(), set(), set()  # type: set[int], set[int], set[bytes]
    rest = b""
    while True:
        data = os.read(notes, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            kind, what = line[:1], line[1:]
            if kind in b"tk":
                path = bytes.fromhex(what.decode("ascii"))
                (temporary.add if kind == b"t" else temporary.discard)(path)
                continue
            pid = int(what)
            (led.add if kind == b"+" else led.discard)(pid)
            (left.add if kind == b"~" else left.discard)(pid)
        time.sleep(NOTES_PAUSE)
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_sessions(led | left, number, led)
        until = time.monotonic() + LEFTOVER_GRACE
        while living_groups(led | left) and time.monotonic() < until:
            time.sleep(POLL)
    for path in temporary:
        folders.remove_tree(os.fsdecode(path))


def account_shell() -> "bytes":
    """The account's own shell, as sshd finds it."""
    try:
        import pwd

        shell = pwd.getpwuid(os.getuid()).pw_shell
    except (ImportError, KeyError):  # a random uid has no entry
        shell = os.environ.get("SHELL", "")
    return os.fsencode(shell or "/bin/sh")


def living_groups(sessions: "set[int]") -> "dict[int, set[int]]":
    """The process groups, by session, that have a process which has not ended.

    A step leads a session, and not only one group: `timeout`, or a shell with job control, puts
    what it starts into a group of its own. Only /proc tells of these; where there is none, the
    leader's group stands for the session.

    An ended process that nobody waits for does not count: the first process of a container may
    never wait for the orphans that it gets.
    """
    found = {}  # type: dict[int, set[int]]
    if not sessions:
        return found
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        pids = []
    if not pids:
        return {session: {session} for session in sessions if _is_signalled(session, 0)}
    for pid in pids:
        try:
            with open("/proc/{}/stat".format(pid), "rb") as file:
                state, _, group, session = file.read().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):  # it ended just now
            continue
        if int(session) in sessions and state not in (b"Z", b"X"):
            found.setdefault(int(session), set()).add(int(group))
    return found


def signal_sessions(sessions: "set[int]", number: "int", led: "set[int]") -> "None":
    """Send a signal to all process groups of the sessions that steps lead or led.

    The system gives a number to no new process while a session or group of that number has a
    member. So a process whose number is that of a session, though its leader has been waited for,
    says that ours ended some time ago and the number was given again: it is left alone.

    Args:
        sessions: Their numbers, which are their leaders' pids.
        number: The signal.
        led: Those whose leaders have not been waited for.
    """
    groups = living_groups(sessions)
    for session in sessions:
        if session not in led:
            try:
                os.kill(session, 0)
                continue
            except OSError as error:
                if error.errno != errno.ESRCH:
                    continue
        for group in groups.get(session, ()):
            _is_signalled(group, number)
        if session in led and session not in groups.get(session, ()):
            try:
                os.kill(session, number)  # it is forked, and its setsid is still to come
            except OSError:
                continue  # or it has just ended


def _is_signalled(group: "int", number: "int") -> "bool":
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
