"""Check what users give, before anything starts; each error names the input."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)


def checked_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of environment variables that any host can set.

    Raises:
        ValueError: If a name is invalid, or a value is not a string without NUL. The message does
            not contain the value, which may be a secret.
    """
    for name, value in environment.items():
        if not isinstance(name, str) or not _ENVIRONMENT_NAME.match(name):
            raise ValueError(
                f"Invalid name of an environment variable {name!r}: use letters, digits and "
                "underscores, and no digit first."
            )
        if not isinstance(value, str):
            raise ValueError(f"The environment variable {name} must be a string.")
        check_text(value, f"The environment variable {name}")
    return dict(environment)


def check_path(path: str, what: str) -> None:
    """Check that a host can have this path; the message calls it `what`, like "The local path".

    Raises:
        ValueError: If it is empty, or contains a NUL or half of a surrogate pair.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"{what} must be a string that is not empty.")
    check_text(path, what)


def check_text(text: str, what: str) -> None:
    """Check that the host can have this text as bytes.

    The message does not contain the text, which may be a secret, but calls it `what`.

    Raises:
        ValueError: If it contains a NUL, or half of a surrogate pair.
    """
    if "\0" in text:
        raise ValueError(f"{what} must not contain a NUL character.")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{what} must not contain half of a surrogate pair.") from None


def checked_words(line: str, what: str) -> tuple[str, ...]:
    """Return the words of a command line, split as a shell splits them.

    Args:
        line: The command line.
        what: What the message calls it, like "The shell".

    Raises:
        ValueError: If it is empty, has an unclosed quote, or a host cannot have it.
    """
    import shlex

    if not isinstance(line, str) or not line.strip():
        raise ValueError(f"{what} must be a string that is not empty.")
    check_text(line, what)
    try:
        return tuple(shlex.split(line))
    except ValueError as error:
        raise ValueError(f"{what} {line!r} cannot be split into words: {error}.") from None


def checked_timeout(timeout: float | None) -> float | None:
    """Return a timeout in seconds, or None.

    Raises:
        ValueError: If it is not a positive number.
    """
    if timeout is not None:
        check_seconds(timeout, "timeout")
    return timeout


def check_seconds(seconds: float, what: str) -> None:
    """Check the parameter `what`, a duration in seconds.

    Raises:
        ValueError: If it is not a positive number.
    """
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"Invalid {what} {seconds!r}: it must be a positive number of seconds.")


def checked_wait(timeout: float | None) -> float | None:
    """Return how many seconds to wait at most, or None; 0 does not wait.

    Raises:
        ValueError: If it is negative or not a number.
    """
    if timeout is None:
        return None
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or math.isnan(timeout) or timeout < 0:
        raise ValueError(f"Invalid timeout {timeout!r}: it must be a number of seconds, 0 or more.")
    return timeout


def checked_port(port: int, what: str = "port", *, lowest: int = 1) -> int:
    """Return the parameter `what`, a TCP port; it may be 0, any free port, if `lowest` is 0.

    Raises:
        ValueError: If it is not a whole number from `lowest` to 65535.
    """
    number = isinstance(port, int) and not isinstance(port, bool)
    if not number or not lowest <= port <= 65535:
        raise ValueError(
            f"Invalid {what} {port!r}: it must be a whole number from {lowest} to 65535."
        )
    return port
