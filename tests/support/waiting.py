"""Wait for a condition that nothing announces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT = 150.0
"""Seconds for an event that takes milliseconds; a loaded computer is not a failure."""

INTERVAL = 0.01
"""Seconds between two looks."""


def wait_until(
    condition: Callable[[], T],
    failure: str | Callable[[], str] = "the condition does not hold",
    timeout: float = TIMEOUT,
) -> T:
    """Call `condition` until its result is true.

    Args:
        condition: What is waited for.
        failure: The message if it does not come about, or a function that makes the message.
        timeout: Seconds.

    Returns:
        The result of `condition`.

    Raises:
        AssertionError: It did not come about in time.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            message = failure() if callable(failure) else failure
            raise AssertionError(f"{message} (after {timeout:g} s)")
        time.sleep(INTERVAL)
    return result
