"""Say what makes a call large."""

from __future__ import annotations

import functools
import itertools
import logging
import time
import types
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from lazycluster._shared.referents import find_place, item, key_text, referents

_SECONDS = 5.0  # to find the parts
_NAMED = 3  # parts, at most
_SHARE = 0.05  # of the bytes of the call, at least, in a part that is named
_MOST = 0.8  # of the bytes of a part, in those of its parts that are named instead
_DEEPEST = 6  # parts within parts

_CALLABLES = (types.FunctionType, types.MethodType, functools.partial)
_SMALL = frozenset([type(None), bool, int, float, complex, type])

Step = tuple[str, Any]  # the name of an object, and the object

_logger = logging.getLogger("lazycluster")
_warned: set[tuple[object, ...]] = set()


def warn_of_size(
    size: int,
    roots: Sequence[Step],
    name: str,
    make_pickler: Callable[[Any], Any],
) -> None:
    """Log a WARNING that names the largest parts of a call, once for each function.

    Args:
        size: The bytes of the call.
        roots: The function, then its arguments, with their names.
        name: The name of the function.
        make_pickler: Makes the pickler for a file.
    """
    function = roots[0][1]
    key = (getattr(function, "__module__", None), name)
    if key in _warned:
        return
    _warned.add(key)
    parts = _Parts(make_pickler, size * _SHARE)
    found = []
    for root in roots:
        whole = parts.measure(root[1])
        if whole >= size * _SHARE:
            found += list(parts.find([root], whole))
    found.sort(key=lambda part: -part[0])
    ways = ", ".join(_tell(part, steps) for part, steps in found[:_NAMED])
    _logger.warning(
        "The call of `%s` is %s%s. It is sent with each call: send it once with share or "
        "send_file, or make it in the function.",
        name,
        _megabytes(size),
        f": {ways}" if ways else "",
    )


def _tell(size: int, steps: list[Step]) -> str:
    """Return the way to a part, without the function at its beginning, its size and place."""
    names = [name for name, _ in steps if name]
    if len(names) > 1 and isinstance(steps[0][1], _CALLABLES):
        del names[0]
    where = find_place(steps)
    return f"{' → '.join(names)} {_megabytes(size)}{f' ({where})' if where else ''}"


def _megabytes(size: int) -> str:
    return f"{round(size / 1e6)} MB"


class _Count:
    """A file that counts what is written."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self.size += size
        return size


class _Parts:
    """Find the parts that make a call large, by pickling them one by one.

    Args:
        make_pickler: Makes the pickler for a file.
        least: The bytes of a part that matters.
    """

    def __init__(self, make_pickler: Callable[[Any], Any], least: float) -> None:
        self._make_pickler = make_pickler
        self._least = least
        self._end = time.monotonic() + _SECONDS

    def find(self, steps: list[Step], size: int) -> Iterator[tuple[int, list[Step]]]:
        """Yield the parts that are known in time, as (bytes, the way).

        The way goes into what has most of its bytes in a few parts.
        """
        held = self._held_by(steps[-1][1]) if len(steps) <= _DEEPEST else []
        if sum(part_size for part_size, _ in held) < size * _MOST:
            held = []
        for part_size, step in held:
            yield from self.find([*steps, step], part_size)
        if not held:
            yield size, steps

    def _held_by(self, obj: Any) -> list[tuple[int, Step]]:
        found = []
        seen = {id(obj)}
        for name, part in itertools.islice(_held(obj), 1000):
            if id(part) not in seen:
                seen.add(id(part))
                size = self.measure(part)
                if size >= self._least:
                    found.append((size, (name, part)))
        return found

    def measure(self, obj: Any) -> int:
        """Return the bytes of a pickle; 0 if it cannot be pickled alone, or the time is up."""
        if type(obj) in _SMALL or time.monotonic() > self._end:
            return 0
        count = _Count()
        try:
            self._make_pickler(count).dump(obj)
        except Exception:
            return 0
        return count.size


def _held(obj: Any) -> Iterator[Step]:
    if isinstance(obj, (str, bytes, bytearray)):
        return
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"key {key_text(key)}", value
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            yield item(index), value
    else:
        yield from referents(obj)
