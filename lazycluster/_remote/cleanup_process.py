"""The process that cleans up on the host if the supervisor is killed with SIGKILL.

It reads what is to be cleaned up from a pipe that only the supervisor writes to, one note a line:

    +PID   a step's process leads a session
    ~PID   this leader has been waited for; its session may have more processes
    tPATH  the absolute path (in hex) is temporary
    sPATH:IDENTITY  the socket there was made by sshd for a forward; see `_shared.sockets`
    -PID, -PATH, -PATH:  the session has no process left; the path is kept, or has been removed

At the end of the pipe it does what the supervisor would have done. If no process can be forked, the
supervisor works without it.
"""

import _signal as signal  # see `child`
import os
import time

from .._shared import folders, sockets
from .child import END_SIGNALS, fork
from .sessions import end_sessions, living_groups, signal_sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

NOTES_INTERVAL = 0.1  # seconds between two reads; a short step must not wake the process each time
NOTES_LIMIT = 1 << 20  # bytes that may wait for the pipe


class CleanupProcess:
    """The supervisor's side of the cleanup process.

    Attributes:
        temporary: The paths that are to be removed in the end.
        sockets: The sockets that are to be removed in the end, unless replaced by then.
    """

    def __init__(self) -> "None":
        self.temporary = set()  # type: set[str]
        self.sockets = {}  # type: dict[str, Sequence[int]]  # path → identity
        self._pid = 0
        self._notes = -1
        self._waiting = bytearray()

    def start(self, null: "int", close: "Callable[[], None]") -> "None":
        """Fork it; it calls `close` to close the supervisor's descriptors.

        `null` is for its standard streams, since ssh would wait until they are closed.
        """
        notes, self._notes = os.pipe()
        os.set_blocking(self._notes, False)

        def run() -> "None":
            for fd in (1, 2):
                os.dup2(null, fd)
            close()
            _clean_up_at_end(notes)

        try:
            self._pid = fork(run)
        except OSError:
            self.dismiss()
        finally:
            os.close(notes)

    def add_temporary(self, path: "str") -> "None":
        """Note that a path is to be removed in the end."""
        self.temporary.add(path)
        self.note(b"t" + os.fsencode(path).hex().encode())

    def keep(self, path: "str") -> "None":
        """Note that a path is not, or no longer, to be removed."""
        self.temporary.discard(path)
        self.note(b"-" + os.fsencode(path).hex().encode())

    def add_socket(self, path: "str", identity: "Sequence[int]") -> "None":
        """Note that a socket is to be removed in the end; of a path the last note counts."""
        self.sockets[path] = identity
        numbers = ",".join(map(str, identity))
        self.note(b"s" + os.fsencode(path).hex().encode() + b":" + numbers.encode())

    def drop_socket(self, path: "str") -> "None":
        """Note that a socket has been removed, replaced by another, or not been made."""
        self.sockets.pop(path, None)
        self.note(b"-" + os.fsencode(path).hex().encode() + b":")

    def remove_all(self) -> "None":
        """Remove what is temporary, in the supervisor."""
        for path in self.temporary:
            folders.remove_tree(path)
        for path, identity in self.sockets.items():
            _remove_socket(path, identity)

    def note(self, note: "bytes") -> "None":
        """Write a line to the process; it waits here while the pipe is full."""
        if self._notes < 0:
            return
        self._waiting += note + b"\n"
        try:
            del self._waiting[: os.write(self._notes, self._waiting)]
        except BlockingIOError:
            if len(self._waiting) > NOTES_LIMIT:
                self.dismiss()  # it has been stopped
        except OSError:
            self.dismiss()  # it has been killed

    def dismiss(self) -> "None":
        """End the process, since nothing is left for it to do."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # before it sees the end of the notes
            os.waitpid(self._pid, 0)
            self._pid = 0
        self.close_in_child()

    def close_in_child(self) -> "None":
        """Close the notes in a forked process, whose life must not keep the pipe open."""
        if self._notes >= 0:
            os.close(self._notes)
            self._notes = -1

    def handle_reaped(self, pid: "int") -> "None":
        """Take the pid of a child that has been waited for: the number may be given again."""
        if pid == self._pid:
            self._pid = 0


def _clean_up_at_end(notes: "int") -> "None":
    """Read notes until the supervisor has gone, then end the sessions and remove the paths."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    noted = {}  # type: dict[bytes, tuple[bytes, float]]  # PID or PATH → its last note, and when
    rest = b""
    while True:
        data = os.read(notes, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line[:1] == b"-":
                noted.pop(line[1:], None)
            else:
                name, colon, identity = line[1:].partition(b":")
                noted[name + colon] = line[:1] + identity, time.monotonic()
        time.sleep(NOTES_INTERVAL)
    led = {int(pid) for pid, (kind, _) in noted.items() if kind == b"+"}
    orphaned = {int(pid): ended for pid, (kind, ended) in noted.items() if kind == b"~"}
    forked = led - set(living_groups(led))  # they are not leaders yet
    signal_sessions(forked, signal.SIGTERM, led)

    def look() -> "tuple[set[int], dict[int, float]]":
        living = living_groups(led | set(orphaned))
        return led & set(living), {pid: orphaned[pid] for pid in living if pid in orphaned}

    end_sessions(look)
    for path, (kind, _) in noted.items():
        if kind == b"t":
            folders.remove_tree(_path_of(path))
        elif kind[:1] == b"s":
            _remove_socket(_path_of(path[:-1]), [int(number) for number in kind[1:].split(b",")])


def _path_of(note: "bytes") -> "str":
    return os.fsdecode(bytes.fromhex(note.decode("ascii")))


def _remove_socket(path: "str", identity: "Sequence[int]") -> "None":
    try:
        sockets.remove_socket(path, identity)
    except OSError:  # its folder may not be written any more
        pass
