"""Process sessions that steps lead or have left behind, and how all their processes are ended.

A step leads a process session, not only a process group: `timeout`, or a shell with job control,
puts its children into groups of their own. A session is orphaned once its leader has ended.
"""

import _signal as signal  # see `child`
import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

END_GRACE = 2.0  # seconds between SIGTERM and SIGKILL when the connection ends
LEAVE_TIME = 1.0  # seconds after the end of a leader, for what it left to leave the session
POLL_INTERVAL = 0.02  # seconds; a group whose leader has ended sends no signal when it ends itself


class Sessions:
    """Know the sessions of a supervisor's steps, and note each change for the cleanup process."""

    def __init__(self, note: "Callable[[bytes], object]") -> "None":
        self._note = note
        self._led = set()  # type: set[int]  # those whose leaders have not been waited for
        self._orphaned = {}  # type: dict[int, int]  # session → number of the task that left it
        self._ended = {}  # type: dict[int, float]  # session → end of its leader's step

    def add(self, pid: "int") -> "None":
        """Take a new step's process, which leads a session."""
        self._led.add(pid)
        self._note(b"+%d" % pid)

    def orphan(self, pid: "int", task: "int") -> "None":
        """Take the end of a leader's step; a kill of the task concerns what is left of its session.

        The leader has ended or is about to exit, and `handle_reaped` is still to come.
        """
        self._orphaned[pid] = task
        self._ended[pid] = time.monotonic()

    def handle_reaped(self, pid: "int") -> "None":
        """Take the pid of a child that has been waited for: the number may be given again."""
        if pid in self._led:
            self._led.remove(pid)
            # Whether an orphaned session is empty is checked later.
            self._note(b"~%d" % pid if pid in self._orphaned else b"-%d" % pid)

    def signal_task(self, number: "int", task: "int", pid: "int") -> "None":
        """Send a signal to a task's orphaned sessions, and to the leader `pid` unless it is 0."""
        signal_sessions(self._of_task(task) | ({pid} & self._led), number, self._led)

    def has_living(self, task: "int") -> "bool":
        """Return True if an orphaned session of the task has a process."""
        return bool(living_groups(self._of_task(task)))

    def _of_task(self, task: "int") -> "set[int]":
        return {session for session, other in self._orphaned.items() if other == task}

    def forget_empty(self) -> "None":
        """Forget orphaned sessions without a process, before their numbers are given again."""
        living = living_groups(set(self._orphaned))
        for session in set(self._orphaned) - set(living) - self._led:
            del self._orphaned[session], self._ended[session]
            self._note(b"-%d" % session)

    def end(self, on_reaped: "Callable[[int], object]") -> "None":
        """End all processes of all sessions, see `end_sessions`."""

        def look() -> "tuple[set[int], dict[int, float]]":
            for pid, _ in ended_children():
                on_reaped(pid)
                if pid in self._led and pid not in self._orphaned:
                    self.orphan(pid, 0)
                self.handle_reaped(pid)
            self.forget_empty()
            return self._led, self._ended

        end_sessions(look)


def end_sessions(look: "Callable[[], tuple[set[int], dict[int, float]]]") -> "None":
    """End all processes of sessions: SIGTERM, and SIGKILL after END_GRACE.

    The processes that a step left less than LEAVE_TIME ago get the rest of that time to leave the
    session: a shell that has started `setsid command &` ends before setsid has taken effect
    (measured: of ten such jobs two lived).

    Args:
        look: Returns the sessions left: those with leaders, and for the others the times at which
            their leaders ended.
    """
    leave_until = {session: ended + LEAVE_TIME for session, ended in look()[1].items()}
    for number in (signal.SIGTERM, signal.SIGKILL):
        signalled = set()  # type: set[int]
        deadline = time.monotonic() + END_GRACE
        while time.monotonic() < deadline:
            led, orphaned = look()
            if not led and not orphaned:
                return
            now = time.monotonic()
            due = {s for s in led | set(orphaned) if leave_until.get(s, now) <= now} - signalled
            if due:
                signal_sessions(due, number, led)
                signalled |= due
                deadline = now + END_GRACE
            time.sleep(POLL_INTERVAL)


def ended_children() -> "list[tuple[int, int]]":
    """Wait for each child that has ended; return their pids and wait statuses."""
    found = []  # type: list[tuple[int, int]]
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status))


def out_of_memory_kills(path: "str" = "/proc/vmstat") -> "int | None":
    """Return how many processes the kernel has ended for lack of memory; None if it does not say.

    Those of control groups (containers) count too, see Documentation/admin-guide/cgroup-v2.rst.
    """
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def living_groups(sessions: "set[int]") -> "dict[int, set[int]]":
    """Return the process groups, by session, that have a process which has not ended.

    Without /proc the leader's group stands for the session. A zombie does not count: the first
    process of a container may never wait for the orphans that it gets.
    """
    found = {}  # type: dict[int, set[int]]
    if not sessions:
        return found
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        pids = []
    if not pids:
        return {session: {session} for session in sessions if _signal_group(session, 0)}
    for pid in pids:
        try:
            with open("/proc/{}/stat".format(pid), "rb") as file:
                state, _, group, session = file.read().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):  # it has just ended
            continue
        if int(session) in sessions and state not in (b"Z", b"X"):
            found.setdefault(int(session), set()).add(int(group))
    return found


def signal_sessions(sessions: "set[int]", number: "int", led: "set[int]") -> "None":
    """Send a signal to all process groups of the sessions.

    The system gives a number to no new process while a session or group of that number has a
    member. So if a session's leader has been waited for and a process has the session's number,
    then the session ended some time ago and the number was given again: it is left alone.
    The leaders of `led` have not been waited for.
    """
    groups = living_groups(sessions)
    for session in sessions:
        if session not in led and not _is_unused(session):
            continue
        for group in groups.get(session, ()):
            _signal_group(group, number)
        if session in led and session not in groups.get(session, ()):
            try:
                os.kill(session, number)  # it is forked, and its setsid is still to come
            except OSError:
                continue  # or it has just ended


def _is_unused(pid: "int") -> "bool":
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False


def _signal_group(group: "int", number: "int") -> "bool":
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
