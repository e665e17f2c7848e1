"""Keep the newest executions of a Runtime, within a count and a number of bytes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from lazycluster._tasks.completion import completion
from lazycluster._tasks.record import Record
from lazycluster.exceptions import LazyclusterError, SerializationError

EXECUTIONS_KEPT = 1000
MEMORY_KEPT = 8 * 2**20  # bytes of values in memory; older ones are in the file of all spools
BYTES_KEPT = 256 * 2**20  # bytes of values, in memory or in the file

_logger = logging.getLogger("lazycluster")


class History:
    """The executions of a Runtime in the order in which they began.

    Beyond the limits the oldest fall out, but for those that run. What the user refers to, like a
    task with its log and values, stays usable.

    Args:
        host: The host, for messages.
        processes: The handles of asynchronous executions by their keys. An execution that falls out
            takes its handle along.
    """

    def __init__(self, host: str, processes: MutableMapping[str, Any]) -> None:
        self._host = host
        self._processes = processes
        # For attributes, never held over a read or write of a file. Reentrant: a signal handler may
        # call `clear_tasks` between two of the lines below.
        self._lock = threading.RLock()
        self._running: dict[Record, None] = {}
        self._forgotten: dict[Record, None] = {}  # run, but are not in the history any more
        self._ended: dict[Record, int] = {}  # bytes, by execution in the order of their ends
        self._in_memory: dict[Record, int] = {}  # bytes that are in memory, in that order, too
        self._bytes = 0
        self._bytes_in_memory = 0
        self._lost_unread = False
        self._warned = False

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the executions in the order in which they began."""
        with self._lock:
            found = [*self._ended, *self._running]
        return iter(sorted(found, key=lambda execution: execution.number))

    @property
    def running(self) -> list[Record]:
        """Return the executions that run, those that `clear` has forgotten, too."""
        with self._lock:
            return [*self._forgotten, *self._running]

    def add(self, execution: Record) -> None:
        """Add an execution that is about to begin."""
        with self._lock:
            self._running[execution] = None

    def end(self, execution: Record) -> None:
        """Take the end of an execution: its values are complete, and count from now on."""
        with self._lock:
            if execution in self._forgotten:
                del self._forgotten[execution]
                return
            del self._running[execution]
            self._count(execution)
            dropped = self._drop_oldest()  # freed without the lock, with objects of the user
            large = self._leave_memory()
        for one in large:
            with contextlib.suppress(OSError):  # a full disk; the limits hold in memory, too
                one.values.spool.spill()
        if not self._warned and any(one.values.unread and not one.is_readable for one in dropped):
            self._warned = True
            message = self._lost_message()
            if execution.in_background:  # no code of a user, as a handler is, in a reader thread
                completion.post(lambda: _logger.warning("%s", message))
            else:
                _logger.warning("%s", message)

    def _count(self, execution: Record) -> None:
        spool = execution.values.spool
        size, in_memory = len(spool), spool.in_memory
        self._ended[execution] = size
        self._bytes += size
        if in_memory:
            self._in_memory[execution] = in_memory
            self._bytes_in_memory += in_memory

    def _drop_oldest(self) -> list[Record]:
        dropped = []
        while len(self._ended) > EXECUTIONS_KEPT or (
            self._bytes > BYTES_KEPT and len(self._ended) > 1
        ):
            dropped.append(next(iter(self._ended)))
            self._drop(dropped[-1])
        return dropped

    def _leave_memory(self) -> list[Record]:
        """Return the oldest executions, whose values are to be written to the file."""
        found = []
        while self._bytes_in_memory > MEMORY_KEPT:
            found.append(next(iter(self._in_memory)))
            self._bytes_in_memory -= self._in_memory.pop(found[-1])
        return found

    def _drop(self, execution: Record) -> None:
        self._bytes -= self._ended.pop(execution)
        self._bytes_in_memory -= self._in_memory.pop(execution, 0)
        self._drop_handle(execution)
        self._lost_unread |= execution.values.unread

    def _drop_handle(self, execution: Record) -> None:
        if execution.key is not None:
            self._processes.pop(execution.key, None)

    def _lost_message(self) -> str:
        return (
            f"Values of functions on {self._host} were dropped before they were read from the "
            f"Runtime, which keeps its newest {EXECUTIONS_KEPT} executions and "
            f"{BYTES_KEPT >> 20} MiB of values. Call clear_tasks() when you do not need them, or "
            "keep the tasks and read their function_returns."
        )

    def check_nothing_lost(self) -> None:
        """Raise a LazyclusterError if a value was dropped before it was read."""
        if self._lost_unread:
            raise LazyclusterError(self._lost_message())

    def function_returns(self) -> Iterator[object]:
        """Yield the values of all functions; see `Runtime.function_returns`."""
        self.check_nothing_lost()
        yield from returns_of(self)

    def clear(self) -> None:
        """Forget all executions, with their handles; what runs goes on."""
        with self._lock:
            ended = list(self._ended)  # freed without the lock
            for execution in ended:
                self._drop(execution)
            for execution in self._running:
                self._drop_handle(execution)
            self._forgotten.update(self._running)
            self._running.clear()
            self._lost_unread = False


def returns_of(executions: Iterable[Record]) -> Iterator[object]:
    """Yield the values of all functions of executions; see `Runtime.function_returns`."""
    first: LazyclusterError | None = None
    for execution in executions:
        execution.join()
        errors: list[LazyclusterError] = []
        for load in execution.returns():
            value = None
            try:
                value = None if load is None else load()
            except SerializationError as unreadable:
                errors.append(unreadable)
            yield value
        failure = execution.final_error()
        if failure is not None:
            errors.append(failure)
        for error in errors:
            if first is None:
                first = error
            elif error is not failure or not execution.logged:
                execution.logged |= error is failure
                _logger.error("%s", str(error))  # a handler may keep what it gets
    if first is not None:
        raise first
