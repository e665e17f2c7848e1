"""`Pool.map`: inputs in chunks, values in the order of the inputs."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
Chunk = list[tuple[object, ...]]


def map_in_chunks(
    submit: Callable[[Chunk], Future[list[T]]],
    iterables: tuple[Iterable[Any], ...],
    chunksize: int,
    buffersize: int | None,
    deadline: float | None,
) -> Iterator[T]:
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

    def values() -> Iterator[T]:
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
            for _, future in futures:
                future.cancel()

    try:
        submit_more()
    except BaseException:
        for _, future in futures:
            future.cancel()
        raise
    return values()
