"""Keep an object in the process that was forked for it, and call its methods.

A message on the payload pipe is one call, and gets one reply as a part of the value; see
`messages`.
"""

import contextlib
import io
import os
import signal
import sys
import traceback
import types

from .._shared import messages
from .._shared.frames import KEY_SIZE
from . import (
    awaitables,
    call,
    local_modules,
    log_records,
    plain_json,
    python_end,
    raised,
    rebuild,
    spawning,
    streams,
    unpickler,
)
from .imports import MissingModulesError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .channel import Channel

    Outcome = dict[str, Any]  # see `frames`

WHOLE = 1 << 24  # bytes of a call that is read before it is unpickled
PART = 1 << 16  # bytes of a value that are sent before the rest is pickled

_OUTPUTS = ("stdout", "stderr")
_CLOSED = b"A method has closed the pipes that its value goes through.\n"
_GENERATORS = (types.GeneratorType, types.AsyncGeneratorType)


def run(
    step: "dict[str, Any]", contents: "dict[str, bytes]", payload: "int", channel: "Channel"
) -> "Outcome":
    """Make the object, and call its methods until the manager closes it; return the outcome.

    See `call.run` for the arguments.
    """
    log_records.start(step.get("levels", {}), channel.log)
    outcome = {"returned": True}  # type: Outcome
    try:
        _Actor(step, contents, payload, channel).serve()
    except KeyboardInterrupt:  # between two calls, where no code of the user takes it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # what a signal handler raises there
        traceback.print_exc()
        outcome = {"exit_status": 1}
    if python_end.is_due():
        channel.report({"ending": True})
    python_end.run()
    return outcome


class _Actor:
    """The object, and the pipes that calls come and go through."""

    def __init__(
        self,
        step: "dict[str, Any]",
        contents: "dict[str, bytes]",
        payload: "int",
        channel: "Channel",
    ) -> "None":
        self._contents = contents
        self._used = [contents[key] for key in step.get("contents", ())]
        self._local = frozenset()  # type: frozenset[str]  # names of modules that were sent
        self._source = open(payload, "rb")
        self._channel = channel
        self._pid = os.getpid()
        self._object = None  # type: Any
        self._event_loop = None  # type: Any
        self._module_count = 0
        self._flush_c = False

    def serve(self) -> "None":
        """Take messages until the one that closes the actor."""
        rebuild.keep()
        load = self._load_class
        while True:
            kind, length = messages.HEADER.unpack(self._read(messages.HEADER.size))
            if kind == messages.REFERENCE:
                self._install(self._read(length))
            elif kind == messages.CALL:
                is_made = self._answer(load, length)
                if load == self._load_class and not is_made:
                    return
                load = self._load_method
            else:
                self._end()
                return

    def _read(self, count: "int") -> "bytes":
        data = self._source.read(count)
        if len(data) < count:
            os._exit(0)  # the supervisor has ended
        return data

    # A call

    def _answer(self, load: "Callable[[int], tuple[Any, ...]]", length: "int") -> "bool":
        """Do a call of `length` bytes and send the reply; return whether it has returned."""
        reply = _Reply(self._channel)
        failure = function = args = kwargs = result = pickled = None  # type: Any
        try:
            function, args, kwargs = load(length)
        except _NoMethodError as error:
            failure, pickled = self._describe(error.reason)
        except local_modules.LocalImportError as error:
            failure = dict(raised.describe("load", error.reason), module=error.module)
        except BaseException as error:
            raised.reserve.clear()
            failure = raised.describe("load", error)
        else:
            try:
                result = function(*args, **kwargs)
                if awaitables.is_awaitable(result):
                    result = self._wait_for(result)
            except BaseException as error:
                raised.reserve.clear()
                failure, pickled = self._describe(error)
        if os.getpid() != self._pid:
            call.leave_fork(failure)
        self._flush()
        if not self._channel.is_open:
            streams.write_all(2, _CLOSED)
            os._exit(1)
        if failure is not None:
            failure["pickled"] = pickled is not None
            if pickled is not None:
                reply.write(pickled)
        elif load == self._load_class:
            self._object = result
        else:
            failure = self._dump(reply, result)
        # A traceback that something keeps would hold this frame, and with it the object.
        function = args = kwargs = result = None
        reply.finish(failure)
        if not raised.reserve:
            raised.keep_reserve()
        return failure is None

    def _describe(self, error: "BaseException") -> "tuple[Outcome, bytes | None]":
        """Return what a method has raised, and its pickle."""
        failure = raised.describe("call", error)
        return failure, raised.pickled(error) if os.getpid() == self._pid else None

    def _load_class(self, length: "int") -> "tuple[Any, ...]":
        loaded = spawning.load(self._used, self._source, length)  # type: tuple[Any, ...]
        self._local = local_modules.names(self._used)
        return loaded

    def _load_method(self, length: "int") -> "tuple[Any, ...]":
        """Return the method and the arguments."""
        part = None
        if length <= WHOLE:
            source = io.BytesIO(self._read(length))  # type: Any
        else:
            source = part = _Part(self._source, length)
        try:
            name, args, kwargs = unpickler.unpickle(source, self._local)
        finally:
            if part is not None:
                part.skip()
        return _find_method(self._object, name), args, kwargs

    def _dump(self, reply: "_Reply", result: "object") -> "Outcome | None":
        try:
            if isinstance(result, _GENERATORS):
                raise TypeError("cannot pickle {!r} object".format(type(result).__name__))
            unpickler.dump_value(result, reply)
        except MissingModulesError as error:
            return raised.describe("call", error)
        except BaseException as error:
            raised.reserve.clear()
            return raised.describe_value(result, error, unpickler.make_pickler)
        return None

    def _wait_for(self, awaitable: "Any") -> "Any":
        """Wait for an awaitable in the one event loop of this actor."""
        import asyncio

        if self._event_loop is None:
            self._event_loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._event_loop)
        return self._event_loop.run_until_complete(awaitables.wait_for(awaitable))

    def _install(self, data: "bytes") -> "None":
        """Take what the next call refers to; a module that has been imported stays as it is."""
        key = data[:KEY_SIZE].hex()
        if len(data) > KEY_SIZE:
            self._contents[key] = data[KEY_SIZE:]
        content = self._contents[key]
        if content in self._used:
            return
        imported = {
            name: module
            for name, module in list(sys.modules.items())
            if isinstance(getattr(module, "__loader__", None), local_modules.LocalModules)
        }
        self._local |= local_modules.install([content])
        sys.modules.update(imported)
        self._used.append(content)

    def _flush(self) -> "None":
        """Write out what the call has printed; `streams.flush_streams` takes 0.05 ms."""
        for name in _OUTPUTS:
            with contextlib.suppress(Exception):  # a call that breaks its streams has a value
                getattr(sys, name).flush()
        if not self._flush_c and len(sys.modules) != self._module_count:
            self._module_count = len(sys.modules)
            self._flush_c = streams.runs_foreign_code()
        if self._flush_c:
            streams.flush_c()

    def _end(self) -> "None":
        """Let go of the object, before the functions of `atexit` are called."""
        self._object = None
        loop = self._event_loop
        if loop is not None:
            import asyncio

            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


class _NoMethodError(Exception):
    """There is no such method."""

    def __init__(self, reason: "BaseException") -> "None":
        super().__init__()
        self.reason = reason


def _find_method(owner: "Any", name: "str") -> "Callable[..., Any]":
    """Return a method of an object.

    Raises:
        _NoMethodError: If there is none.
    """
    try:
        method = getattr(owner, name)
    except BaseException as error:  # a property may raise anything
        raise _NoMethodError(error) from None
    if callable(method):
        return method  # type: ignore[no-any-return]
    text = "{}.{} is not a method, but an object of {!r}. Add a method that returns it."
    text = text.format(type(owner).__qualname__, name, type(method).__name__)
    raise _NoMethodError(TypeError(text))


class _Reply:
    """Takes the pickle of a value, as a file does, and sends the reply to a call."""

    def __init__(self, channel: "Channel") -> "None":
        self._channel = channel
        self._parts = []  # type: list[Any]
        self._size = 0

    def write(self, data: "Any") -> "int":
        """Take a part; only what is small waits for more."""
        size = memoryview(data).nbytes
        self._parts.append(data)
        self._size += size
        if self._size > PART:
            self._send(messages.VALUE_PART)
        return size

    def finish(self, failure: "Outcome | None") -> "None":
        """Send what is left, and how the call has ended."""
        if failure is None:
            self._send(messages.RETURNED)
            return
        if failure.get("pickled"):
            self._send(messages.VALUE_PART)
        self._parts = [plain_json.dumps(failure).encode("ascii")]
        self._size = len(self._parts[0])
        self._send(messages.RAISED)

    def _send(self, kind: "int") -> "None":
        header = messages.HEADER.pack(kind, self._size)
        parts, self._parts, self._size = self._parts, [], 0
        if len(parts) == 1 and len(parts[0]) > PART:
            self._channel.send_value(header)
            self._channel.send_value(parts[0])
        else:
            self._channel.send_value(b"".join([header, *parts]))


class _Part:
    """A part of a file, as a file that an unpickler reads."""

    def __init__(self, source: "Any", size: "int") -> "None":
        self._source = source
        self._left = size

    def read(self, size: "int") -> "bytes":
        return self._count(self._source.read(min(size, self._left)))

    def readline(self) -> "bytes":
        return self._count(self._source.readline(self._left))

    def readinto(self, buffer: "Any") -> "int":
        view = memoryview(buffer).cast("B")
        count = self._source.readinto(view[: self._left])  # type: int
        self._left -= count
        return count

    def _count(self, data: "bytes") -> "bytes":
        self._left -= len(data)
        return data

    def skip(self) -> "None":
        """Read to the end."""
        while self._left and self._count(self._source.read(min(PART, self._left))):
            pass
