"""Branches: supervisors that are forked from this one and have imported modules for functions.

    manager ──frames── supervisor ──frames, two pipes── branch ── processes of steps

A branch serves whole requests like the supervisor, which passes their frames on. What it forks has
the modules already. It ends at the end of its pipe, with all that it has started.
"""

import _signal as signal  # see `child`
import collections
import os
import struct

from .._shared import frames
from . import plain_json
from .child import fork
from .imports import library_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop

    Description = dict[str, Any]  # see `frames`

MOST_BRANCHES = 4  # without a request; a branch that serves one is never ended for another

READ = 1 << 18  # bytes

# To a branch that unpickles a value, see `SharedValues`. Other processes ignore it.
STOP_LOADING = signal.SIGURG
STOPPED = struct.Struct("=Q")  # the number of the request whose value it is


class Branch:
    """One branch, and the requests that it serves.

    Args:
        key: What it has imported; equal keys share a branch.
        modules: The names of the modules.
        loop: The supervisor's.
        serve: Runs in the new process, with its ends of the pipes, and with the memory that has the
            number of a request whose value is not waited for any more.
        on_frame: Called with each frame of the branch: kind, request and payload.
    """

    def __init__(
        self,
        key: "str",
        modules: "list[str]",
        loop: "Loop",
        serve: "Callable[[int, int, Any], object]",
        on_frame: "Callable[[Branch, int, int, Any], object]",
    ) -> "None":
        self.key = key
        self.modules = modules
        self.tasks = {}  # type: dict[int, int]  # the task of each request
        self.steps = {}  # type: dict[int, int]  # the index of the step that each request runs
        self.is_replaced = False
        self.values = set()  # type: set[str]  # the keys of the shared values that it was given
        self._named = {}  # type: dict[int, list[str]]  # those that each request names
        self._freed = set()  # type: set[str]  # those that are not needed after these requests
        self._loading = set()  # type: set[int]  # requests that bring one
        self._loop = loop
        self._on_frame = on_frame
        self._frames = frames.FrameReader(frames.TO_MANAGER)
        self._queue = collections.deque()  # type: collections.deque[tuple[int, bytes]]
        self._is_ready = False  # it has imported its modules
        with library_first():  # most connections have no branch
            import mmap

        self._stopped = mmap.mmap(-1, STOPPED.size)  # shared by both processes
        theirs_in, self._sink = os.pipe()
        self._source, theirs_out = os.pipe()

        def run() -> "None":
            os.close(self._sink)
            os.close(self._source)
            serve(theirs_in, theirs_out, self._stopped)

        try:
            self.pid = fork(run)
        except OSError:
            self.pid = 0
            self.close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(self._sink, False)
        loop.add_reader(self._source, lambda _: self.read())

    def send(self, kind: "int", number: "int", payload: "bytes") -> "None":
        """Pass a frame on, when the branch takes it."""
        self._queue.append((number, frames.encode(kind, number, payload)))
        self._flush()

    def add_request(self, number: "int", description: "Description") -> "None":
        """Note a request, and what it needs."""
        self.tasks[number] = description.get("task") or number
        steps = description["steps"]
        self._named[number] = [key for step in steps for key in step.get("shared", ())]
        if steps[0]["kind"] == "share":
            self._loading.add(number)
            self._named[number].append(steps[0]["key"])
            self.values.add(steps[0]["key"])

    def drop_request(self, number: "int") -> "None":
        """Take the end of a request, and free what only that has still needed."""
        del self.tasks[number], self._named[number]
        self._loading.discard(number)
        for key in list(self._freed):
            self.free(key)

    def free(self, key: "str") -> "None":
        """Free a shared value when no request names it any more."""
        if any(key in keys for keys in self._named.values()):
            self._freed.add(key)
            return
        self._freed.discard(key)
        self.values.discard(key)
        self.send(frames.FREE, 0, key.encode("ascii"))
        if not self.values and not self.modules:
            self.is_replaced = True  # with the process goes all that the values have left

    def take_outcome(self, number: "int", payload: "bytes") -> "None":
        """Look at an outcome; after a value that has started a thread no fork is safe."""
        if number in self._loading:
            outcome = plain_json.loads(payload.decode("ascii"))
            self.is_replaced = self.is_replaced or outcome.get("failure") == "shared"

    def stop_loading(self, number: "int", how: "int") -> "None":
        """Send a signal to the branch if it still has to load the value of a request."""
        if number in self._loading and self.pid:
            STOPPED.pack_into(self._stopped, 0, number)
            os.kill(self.pid, how)

    def end_of(self, number: "int", how: "str") -> "Description":
        """Return the outcome of a request that the branch has taken with it."""
        if self.modules and not self._named[number]:
            reason = "the process that has imported it was ended by " + how
            return {"failure": "preload", "module": self.modules[-1], "message": reason}
        reason = "the process that holds it was ended by " + how
        if number in self.steps:
            reason += ", and the function with it"
        return {"failure": "shared", "keys": [], "message": reason}

    def forget(self, number: "int") -> "bool":
        """Forget a request that has not been passed on; return whether that was so.

        An import may take any time, and a request that is killed meanwhile must not start later.
        """
        if not self._is_ready:
            kept = [each for each in self._queue if each[0] != number]
            self._queue = collections.deque(kept)
        return not self._is_ready

    def _flush(self) -> "None":
        while self._queue and self._is_ready and self._sink >= 0:
            number, data = self._queue[0]
            try:
                written = os.write(self._sink, data)
            except BlockingIOError:
                self._loop.add_writer(self._sink, lambda _: self._flush())
                return
            except OSError:  # it has ended, which is noticed elsewhere
                self._queue.clear()
                break
            if written < len(data):
                self._queue[0] = number, data[written:]
            else:
                self._queue.popleft()
        self._loop.remove_writer(self._sink)

    def read(self) -> "bool":
        """Take what the branch has sent; return whether something may be left."""
        if self._source < 0:
            return False
        try:
            data = os.read(self._source, READ)
        except BlockingIOError:
            return False
        for kind, number, payload in self._frames.feed(data):
            if kind == frames.STARTED:
                self.steps[number] = plain_json.loads(payload.decode("ascii"))["step"]
            elif kind == frames.FINISHED:
                self.steps.pop(number, None)
            if kind == frames.HELLO:
                self._is_ready = True
                self._flush()
            elif kind != frames.HEARTBEAT:
                self._on_frame(self, kind, number, payload)
        return bool(data)

    def close(self) -> "None":
        """Close the pipes, which ends the branch; kill it if it still imports its modules."""
        if self.pid and not self._is_ready:
            os.kill(self.pid, signal.SIGKILL)
        sink, self._sink = self._sink, -1
        if sink >= 0:
            self._loop.remove_writer(sink)
            os.close(sink)
        source, self._source = self._source, -1
        if source >= 0:
            self._loop.close_reader(source)

    def close_in_child(self) -> "None":
        """Close what the loop does not, in a process that the supervisor has forked."""
        if self._sink >= 0:
            os.close(self._sink)


class Branches:
    """The branches of a supervisor, and the requests that they serve.

    Args:
        loop: The supervisor's.
        serve: Serves as a branch, in a new process: see `Supervisor._serve_branch`.
        on_pid: Called with the pid of each new branch.
    """

    def __init__(
        self,
        loop: "Loop",
        serve: "Callable[[int, int, Any, Description, str | None], object]",
        on_pid: "Callable[[int], object]",
    ) -> "None":
        self._loop = loop
        self._serve = serve
        self._on_pid = on_pid
        self._branches = []  # type: list[Branch]  # the one that was used last is the last
        self._routes = {}  # type: dict[int, Branch]  # by request

    def take(self, number: "int", description: "Description", text: "bytes") -> "bool":
        """Let a branch serve a request, if it wants that; return whether it does.

        Raises:
            OSError: If there are no processes or descriptors left for a new branch.
        """
        for step in description["steps"]:
            preload = step.get("preload")
            if preload:
                break
        else:
            return False
        branch = self._find(preload, description["working_dir"])
        self._routes[number] = branch
        branch.add_request(number, description)
        parts = [text[at : at + frames.CHUNK] for at in range(0, len(text), frames.CHUNK)]
        for part in parts[:-1]:
            branch.send(frames.REQUEST_PART, number, part)
        branch.send(frames.REQUEST, number, parts[-1])
        return True

    def pass_on(self, kind: "int", number: "int", payload: "Any") -> "int | None":
        """Pass a frame to the branch of its request; return the task, None without a branch."""
        branch = self._routes.get(number)
        if branch is None:
            return None
        task = branch.tasks[number]
        if kind == frames.KILL and branch.forget(number):
            self._finish(branch, number)
            self._drop_unused(branch)
        else:
            branch.send(kind, number, payload)
            if kind == frames.KILL:
                grace = plain_json.loads(payload.decode("ascii"))["grace"]
                branch.stop_loading(number, STOP_LOADING)
                self._loop.call_later(grace, lambda: branch.stop_loading(number, signal.SIGKILL))
        return task

    def send_to_all(self, kind: "int", payload: "Any") -> "None":
        """Pass a frame to all branches."""
        for branch in self._branches:
            branch.send(kind, 0, payload)

    def free(self, key: "str") -> "None":
        """Free a shared value in all branches."""
        for branch in list(self._branches):
            if key in branch.values:
                branch.free(key)
                if branch.is_replaced:
                    self._drop_unused(branch)

    def _find(self, preload: "Description", working_dir: "str | None") -> "Branch":
        key = plain_json.dumps(sorted(preload.items()))
        for branch in self._branches:
            if branch.key == key and not branch.is_replaced:
                self._branches.remove(branch)
                self._branches.append(branch)
                return branch
        for branch in list(self._branches):
            # A local module has changed, or no request has named these modules for a while.
            branch.is_replaced = branch.is_replaced or branch.modules == preload["modules"]
            is_one_too_many = len(self._branches) >= MOST_BRANCHES and not branch.values
            if is_one_too_many or branch.is_replaced:
                self._drop_unused(branch)
        branch = Branch(
            key,
            preload["modules"],
            self._loop,
            lambda source, sink, stopped: self._serve(source, sink, stopped, preload, working_dir),
            self._relay,
        )
        self._on_pid(branch.pid)
        self._branches.append(branch)
        return branch

    def _drop_unused(self, branch: "Branch") -> "None":
        if not branch.tasks:
            self._branches.remove(branch)
            branch.close()

    def _relay(self, branch: "Branch", kind: "int", number: "int", payload: "Any") -> "None":
        """Pass a frame of a branch on to the manager."""
        if number not in branch.tasks:
            return
        if kind == frames.ENDED:
            branch.take_outcome(number, payload)
        elif kind == frames.FINISHED:
            del self._routes[number]
            branch.drop_request(number)
        may_wait = kind in (frames.STARTED, frames.LOGGED)
        self._loop.send(kind, number, bytes(payload), may_wait=may_wait)
        if branch.is_replaced and branch in self._branches:
            self._drop_unused(branch)

    def handle_reaped(self, pid: "int", status: "int") -> "None":
        """Take the end of a child; the requests of a branch that has ended end with it."""
        for branch in [each for each in self._branches if each.pid == pid]:
            self._branches.remove(branch)
            while branch.read():
                pass
            how = "signal {}".format(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else "its exit"
            for number in list(branch.tasks):
                step = branch.steps.get(number, 0)
                outcome = dict(branch.end_of(number, how), step=step)
                self._loop.send_json(frames.ENDED, number, outcome)
                self._finish(branch, number)
            branch.pid = 0
            branch.close()

    def _finish(self, branch: "Branch", number: "int") -> "None":
        del self._routes[number]
        branch.drop_request(number)
        self._loop.send(frames.FINISHED, number)

    def close_in_child(self) -> "None":
        """Close what the loop does not, in a process that the supervisor has forked."""
        for branch in self._branches:
            branch.close_in_child()
