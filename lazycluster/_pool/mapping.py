"""`Pool.map`: inputs in chunks, values in the order of the inputs."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from lazycluster._tracebacks import short_tracebacks

T = TypeVar("T")
Chunk = list[tuple[object, ...]]


@short_tracebacks
class Values(Generic[T]):
    """The values of a map.

    A generator that has not begun does nothing when it is closed. So `close` cancels by itself. The
    end of a reference does not: a map whose values are not asked for is called for what it does.

    Args:
        values: Yields them, and cancels what is left if it is closed after its first value.
        cancel: Cancels what is left.
    """

    def __init__(self, values: Generator[T, None, None], cancel: Callable[[], object]) -> None:
        self._values = values
        self._cancel = cancel

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._values)

    def close(self) -> None:
        """Cancel what is left, and yield no more."""
        self._values.close()
        self._cancel()


def map_in_chunks(
    submit: Callable[[Chunk], Future[list[T]]],
    iterables: tuple[Iterable[Any], ...],
    chunksize: int,
    buffersize: int | None,
    deadline: float | None,
) -> Values[T]:
    """Submit the first chunks now, and return an iterator of all values.

    Args:
        submit: Runs a chunk.
        iterables: The inputs.
        chunksize: How many inputs a call has.
        buffersize: The most inputs whose values are not yielded yet; None for no bound.
        deadline: The time by `time.monotonic()` at which waiting ends; None for none.
    """
    if buffersize is not None:
        chunksize = min(chunksize, buffersize)
    inputs = zip(*iterables)
    futures: collections.deque[tuple[int, Future[list[T]]]] = collections.deque()
    outstanding = 0

    def submit_more() -> None:
        nonlocal outstanding
        while buffersize is None or outstanding + chunksize <= buffersize:
            chunk = list(itertools.islice(inputs, chunksize))
            if not chunk:
                return
            futures.append((len(chunk), submit(chunk)))
            outstanding += len(chunk)

    def cancel() -> None:
        for _, future in futures:
            future.cancel()

    def values() -> Generator[T, None, None]:
        nonlocal outstanding
        try:
            while futures:
                _, future = futures[0]
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                results = future.result(left)
                futures.popleft()
                results.reverse()
                while results:
                    outstanding -= 1
                    if outstanding + chunksize <= (buffersize or 0):
                        submit_more()
                    yield results.pop()
        finally:
            cancel()

    try:
        submit_more()
    except BaseException:
        cancel()
        raise
    return Values(values(), cancel)
