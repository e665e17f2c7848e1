"""Keep the newest executions of a Runtime, within a count and a number of bytes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

from lazycluster._tasks.record import Record
from lazycluster.exceptions import LazyclusterError

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
        # Reentrant: a signal handler may call `clear_tasks` between two of the lines below.
        self._lock = threading.RLock()
        self._running: dict[Record, None] = {}
        self._ended: dict[Record, int] = {}  # bytes, by execution in the order of their ends
        self._in_memory: dict[Record, int] = {}  # bytes that are in memory, in that order, too
        self._bytes = 0
        self._bytes_in_memory = 0
        self._lost_unread = False
        self._warned = False

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the last execution of each task, in the order in which they began."""
        with self._lock:
            found = [*self._ended, *self._running]
        found.sort(key=lambda execution: execution.number)
        return iter([execution for execution in found if not execution.replaced])

    def add(self, execution: Record) -> None:
        """Add an execution that is about to begin."""
        with self._lock:
            self._running[execution] = None

    def end(self, execution: Record) -> None:
        """Take the end of an execution: its values are complete, and count from now on."""
        dropped = []  # freed without the lock, since a user's object may be freed with it
        with self._lock:
            self._running.pop(execution)
            spool = execution.values.spool
            size, in_memory = len(spool), spool.in_memory
            self._ended[execution] = size
            self._bytes += size
            if in_memory:
                self._in_memory[execution] = in_memory
                self._bytes_in_memory += in_memory
            while len(self._ended) > EXECUTIONS_KEPT or (
                self._bytes > BYTES_KEPT and len(self._ended) > 1
            ):
                dropped.append(next(iter(self._ended)))
                self._drop(dropped[-1])
            while self._bytes_in_memory > MEMORY_KEPT:
                oldest = next(iter(self._in_memory))
                self._bytes_in_memory -= self._in_memory.pop(oldest)
                with contextlib.suppress(OSError):  # a full disk; the limits hold in memory, too
                    oldest.values.spool.spill()
        if not self._warned and any(self._is_lost(execution) for execution in dropped):
            self._warned = True
            _logger.warning("%s", self._lost_message())

    def _drop(self, execution: Record) -> None:
        self._bytes -= self._ended.pop(execution)
        self._bytes_in_memory -= self._in_memory.pop(execution, 0)
        if execution.key is not None:
            self._processes.pop(execution.key, None)
        self._lost_unread |= execution.values.unread and not execution.replaced

    def _is_lost(self, execution: Record) -> bool:
        return execution.values.unread and not execution.is_referred_to()

    def _lost_message(self) -> str:
        return (
            f"Values of functions on {self._host} were dropped before they were read from the "
            f"Runtime, which keeps its newest {EXECUTIONS_KEPT} executions and "
            f"{BYTES_KEPT >> 20} MiB of values. Call clear_tasks() when you do not need them, or "
            "keep the tasks and read their function_returns."
        )

    def check_complete(self) -> None:
        """Check that no value fell out before it was read.

        Raises:
            LazyclusterError: If one did, since the last `clear`.
        """
        if self._lost_unread:
            raise LazyclusterError(self._lost_message())

    def clear(self) -> None:
        """Forget the executions that have ended, with their handles."""
        with self._lock:
            ended = list(self._ended)
            for execution in ended:
                self._drop(execution)
            self._lost_unread = False
