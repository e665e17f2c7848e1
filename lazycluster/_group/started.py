"""The executions that a group has started."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

from lazycluster._tasks.record import Record

PRUNED_AT = 1000
"""Executions after which those are forgotten that exist no more."""


class Started:
    """Executions in the order in which they began, for as long as others keep them.

    A Runtime keeps its newest ones, and a task its last one, so a group has the same limits.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant for a signal handler
        self._references: list[weakref.ref[Record]] = []
        self._prune_at = PRUNED_AT
        self._lost = False

    def __iter__(self) -> Iterator[Record]:
        with self._lock:
            found = self._find()
        return iter(sorted(found, key=lambda execution: execution.number))

    @property
    def has_lost(self) -> bool:
        """Return True if an execution exists no more."""
        with self._lock:
            self._find()
            return self._lost

    def add(self, execution: Record) -> None:
        """Add an execution."""
        with self._lock:
            self._references.append(weakref.ref(execution))
            if len(self._references) > self._prune_at:
                self._find()
                self._prune_at = max(PRUNED_AT, 2 * len(self._references))

    def clear(self) -> None:
        """Forget all executions."""
        with self._lock:
            self._references = []
            self._lost = False

    def _find(self) -> list[Record]:
        """Return those that exist, and drop the references to others; the caller has the lock."""
        pairs = [(reference, reference()) for reference in self._references]
        self._references = [reference for reference, found in pairs if found is not None]
        self._lost |= len(self._references) < len(pairs)
        return [found for _, found in pairs if found is not None]
