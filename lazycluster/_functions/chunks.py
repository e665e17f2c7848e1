"""The call of a function for each of several inputs, as a pickle names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def call_each(function: Callable[..., Any], chunk: Iterable[tuple[object, ...]]) -> list[Any]:
    """Return the value of each call of a function; the host's is in `_remote.chunks`."""
    return [function(*arguments) for arguments in chunk]
