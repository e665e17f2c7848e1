"""Keep the values that the functions of one execution return, pickled until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from lazycluster._functions.payload import load_value
from lazycluster._spool import Spool


class Values:
    """Hold the pickled values in one spool, in the order of the steps."""

    def __init__(self) -> None:
        self._spool = Spool()
        self._sizes: dict[int, int] = {}  # bytes received, by step
        self._returned: set[int] = set()

    def append(self, index: int, data: memoryview) -> None:
        """Store the next chunk of a step's value; steps come in order."""
        self._spool.write(data)
        self._sizes[index] = self._sizes.get(index, 0) + len(data)

    def mark_returned(self, index: int) -> None:
        """Note that the function of a step has returned, so that its value is complete."""
        self._returned.add(index)

    def __iter__(self) -> Iterator[object]:
        """Unpickle the complete values, one at a time."""
        start = 0
        for index, size in sorted(self._sizes.items()):
            if index in self._returned:
                yield load_value(self._spool.open(start, start + size))
            start += size

    def clear(self) -> None:
        """Free the values; a copy of the execution keeps them."""
        self._returned = set()
        self._sizes = {}
        self._spool = Spool()
