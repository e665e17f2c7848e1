"""The values that a branch holds for its functions, which find them by copy-on-write.

A value arrives as the input of a request, is unpickled once in the branch itself, and lies in
memory that each later fork shares until one of them writes to it.
"""

import collections
import contextlib
import gc
import mmap
import signal
import sys
import threading
import time

from .._shared import frames
from . import interpreter, streams
from .branches import STOP_LOADING, STOPPED
from .imports import is_own_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .request import Request

    Description = dict[str, Any]  # see `frames`

TOLD = 2.0  # seconds in which calls are told why a value is not there; then it may come again
_HUGE_PAGE = 1 << 21  # bytes
# With huge pages a fork copies less of the page tables: 3.3 instead of 5.9 ms with 200 MB.
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # type: int | None


class _StoppedError(BaseException):
    """The manager does not wait for a value any more."""


class SharedValues:
    """Take, hold and free values. In a branch this takes the place of `Branches`.

    The signal STOP_LOADING ends the unpickling of a value that is not waited for any more. The
    branch goes on, since functions use the other values that it holds.

    Args:
        supervisor: The branch's own `Supervisor`.
        stopped: See `Branch`.
    """

    def __init__(self, supervisor: "Any", stopped: "Any") -> "None":
        self._supervisor = supervisor
        self._arriving = {}  # type: dict[int, _Arrival]  # by request
        self._values = None  # type: dict[str, Any] | None  # of `rebuild`, once it is imported
        # By key: why a value is not there, and until when calls are told so.
        self._failures = {}  # type: dict[str, tuple[Description, float]]
        self._stopped = stopped
        self._loading = None  # type: int | None  # the request whose value is unpickled
        signal.signal(STOP_LOADING, self._stop_loading)

    def take(self, number: "int", description: "Description", text: "bytes") -> "bool":
        """Serve a request that brings a value; return whether it is one."""
        step = description["steps"][0]
        if step["kind"] != "share":
            return False
        failure = self._refusal(step)
        if failure is None and not self._is_known(step["key"]):
            try:
                self._arriving[number] = _Arrival(step)
            except (OSError, ValueError, MemoryError) as error:
                message = str(error) or "not enough memory"
                failure = {"failure": "os", "message": message}
        if number not in self._arriving:
            self._end(number, failure or {"result": True})
        elif step["input"] > frames.CHUNK:
            self._give_credit(number, frames.WINDOW - frames.FIRST_WINDOW)
        return True

    def _refusal(self, step: "Description") -> "Description | None":
        """Return the outcome of a value that cannot be taken, or None."""
        if self._supervisor.preload_failure is not None:
            return self._supervisor.preload_failure  # type: ignore[no-any-return]
        if not is_own_python(step["python"]):
            return {"failure": "python_version", "python": "%d.%d.%d" % sys.version_info[:3]}
        missing = self._supervisor.starter.modules.load_rest()
        if missing is not None:
            return {"failure": "python_modules", "message": missing}
        from . import rebuild  # sent with the first function

        self._values = rebuild.shared
        return None

    def _has(self, key: "str") -> "bool":
        return self._values is not None and key in self._values

    def _is_known(self, key: "str") -> "bool":
        return self._has(key) or any(key == each.key for each in self._arriving.values())

    def pass_on(self, kind: "int", number: "int", payload: "Any") -> "int | None":
        """Take a frame of a request that brings a value."""
        arrival = self._arriving.get(number)
        if arrival is None:
            return None
        if kind == frames.KILL:
            self._stop(number)
            self._supervisor.start_waiting()
            return number
        owed = arrival.take(payload)
        if owed:
            self._give_credit(number, owed)
        if arrival.is_complete:
            self._load(number, arrival)
        return number

    def _stop(self, number: "int") -> "None":
        del self._arriving[number]
        self._supervisor.loop.send(frames.FINISHED, number)

    def _give_credit(self, number: "int", count: "int") -> "None":
        self._supervisor.loop.send_json(frames.CREDIT, number, {"bytes": count})

    def _end(self, number: "int", outcome: "Description") -> "None":
        self._supervisor.loop.send_json(frames.ENDED, number, dict(outcome, step=0))
        self._supervisor.loop.send(frames.FINISHED, number)

    def _load(self, number: "int", arrival: "_Arrival") -> "None":
        """Unpickle a value, and let the functions start that wait for it."""
        self._supervisor._start_fresh()  # the functions that came with its last bytes wait, too
        del self._arriving[number]
        try:
            failure = self._unpickle(number, arrival)
        except _StoppedError:  # for functions that wait, the manager may send it again
            self._end(number, {"failure": "os", "message": "it was stopped"})
        else:
            self._end(number, failure or {"result": True})
            if failure is not None:
                failure.pop("module", None)  # the function itself can travel as it is
                self._failures[arrival.key] = failure, time.monotonic() + TOLD
                self._fail_waiting(arrival.key, failure)
        self._supervisor.start_waiting()

    def _unpickle(self, number: "int", arrival: "_Arrival") -> "Description | None":
        """Unpickle a value and hold it; return the outcome if that fails, else None.

        Raises:
            _StoppedError: If the manager does not wait for it any more.
        """
        from . import local_modules, raised, unpickler  # sent with the first function

        failure = value = None  # type: Any
        is_stopped = False
        contents = self._supervisor.starter.contents
        keys = arrival.step["contents"]
        try:
            contents.expect(keys)
            own = [contents.complete[key] for key in keys]
            local_modules.install_for_all(own)
            try:
                self._loading = number
                value = unpickler.load_shared(own, *arrival.take_buffers())
            finally:
                self._loading = None
        except _StoppedError:
            is_stopped = True
        except local_modules.LocalImportError as error:
            failure = dict(raised.describe("load", error.reason), module=error.module)
        except BaseException as error:
            failure = raised.describe("load", error)
        finally:
            streams.flush_streams()  # else each function would print what is in the buffers
            streams.note_modules()
            self._renew()
        others = [it.name for it in threading.enumerate() if it is not threading.main_thread()]
        if others:
            # A lock that a thread holds at a fork is never released in the new process.
            reason = "it has started a thread ({})".format(", ".join(others))
            return {"failure": "shared", "keys": [], "message": reason}
        if is_stopped:
            raise _StoppedError
        if failure is not None:
            return failure  # type: ignore[no-any-return]
        assert self._values is not None
        self._values[arrival.key] = value
        return None

    def _stop_loading(self, *_: "object") -> "None":
        if self._loading == STOPPED.unpack_from(self._stopped)[0]:
            self._loading = None
            raise _StoppedError

    def _fail_waiting(self, key: "str", failure: "Description") -> "None":
        for request in list(self._supervisor.waiting):
            if key in _keys_of(request):
                self._supervisor.waiting.remove(request)
                self._supervisor._end_step(request, failure)

    def is_awaited(self, request: "Request") -> "bool":
        """Return True if the step that is to start needs a value that is on its way."""
        keys = _keys_of(request)
        return any(arrival.key in keys for arrival in self._arriving.values())

    def find_failure(self, request: "Request") -> "Description | None":
        """Return the outcome of a function that cannot have its shared values here, or None."""
        keys = _keys_of(request)
        if not keys or self.is_awaited(request):
            return None
        missing = [key for key in keys if not self._has(key)]
        for key in missing:
            failure, until = self._failures.get(key, (None, 0.0))
            if time.monotonic() < until:
                return failure
        if missing:
            return {"failure": "shared", "keys": missing, "message": "it is not there"}
        variables = interpreter.read_at_start(request.environment)
        if variables:
            reason = "Python reads {} only when it starts".format(" and ".join(variables))
            return {"failure": "shared", "keys": [], "message": reason}
        return None

    def free(self, key: "str") -> "None":
        """Free a value; no function that needs it has still to start."""
        self._failures.pop(key, None)
        if self._values is None or self._values.pop(key, None) is None:
            return
        if hasattr(gc, "unfreeze"):
            gc.unfreeze()  # the value may be part of a cycle
        self._renew()

    def _renew(self) -> "None":
        """Let the processes to come share all that is there now, and nothing that has gone."""
        gc.collect()
        if hasattr(gc, "freeze"):  # from Python 3.7 on
            gc.freeze()
        self._supervisor.starter.dismiss_preforked()
        self._supervisor.loop.call_later(0, self._supervisor.starter.prefork)

    # The rest of what `Branches` has

    def send_to_all(self, kind: "int", payload: "Any") -> "None":
        """Do nothing: a branch has no branches."""

    def handle_reaped(self, pid: "int", status: "int") -> "None":
        """Do nothing: a branch has no branches."""

    def close_in_child(self) -> "None":
        """Do nothing: a fork keeps the values."""


class _Arrival:
    """A value on its way: its pickle, and the buffers that are not part of the pickle.

    Raises:
        OSError: If there is not enough memory.
    """

    def __init__(self, step: "Description") -> "None":
        self.step = step
        self.key = step["key"]  # type: str
        self._buffers = [_allocate(size) for size in (step["pickle"], *step["buffers"])]
        spaces = [memoryview(buffer) for buffer in self._buffers]
        self._rest = collections.deque(spaces)
        self._owed = 0  # bytes taken since the manager last got credit for them

    @property
    def is_complete(self) -> "bool":
        """Return True if all bytes have come."""
        return not self._rest

    def take(self, payload: "memoryview") -> "int":
        """Take bytes; return for how many the manager is to get credit now.

        Raises:
            ValueError: If they are more than were announced.
        """
        self._owed += len(payload)
        while payload:
            if not self._rest:
                raise ValueError("more input than was asked for")
            space = self._rest[0]
            part = payload[: len(space)]
            space[: len(part)] = part
            payload = payload[len(part) :]
            if len(part) < len(space):
                self._rest[0] = space[len(part) :]
            else:
                self._rest.popleft()
        owed, self._owed = self._owed, 0
        if owed < frames.CHUNK and self._rest:
            owed, self._owed = 0, owed
        return owed

    def take_buffers(self) -> "tuple[mmap.mmap, list[mmap.mmap]]":
        """Return the pickle and its buffers, and keep them no more."""
        pickled, *buffers = self._buffers
        self._buffers = []
        return pickled, buffers


def _allocate(size: "int") -> "mmap.mmap":
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)  # a function's writes are its own
    if _ADVICE is not None and size >= _HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(_ADVICE)
    return memory


def _keys_of(request: "Request") -> "list[str]":
    """Return the keys of the shared values that the step of a request needs."""
    return request.steps[request.index].get("shared", ())  # type: ignore[no-any-return]
