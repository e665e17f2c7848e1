"""What users give, refused early and by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)


def checked_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of environment variables that can be set on any host.

    Raises:
        ValueError: A name is not a name, or a value is not a string without NUL. The message holds
            no value, which may be a secret.
    """
    for name, value in environment.items():
        if not isinstance(name, str) or not _ENVIRONMENT_NAME.match(name):
            raise ValueError(
                f"{name!r} is no name of an environment variable. "
                "Use letters, digits and underscores, and no digit first."
            )
        if not isinstance(value, str):
            raise ValueError(f"The environment variable {name} must be a string.")
        check_text(value, f"The environment variable {name}")
    return dict(environment)


def check_path(path: str, what: str) -> None:
    """Refuse what no path can be.

    Raises:
        ValueError: It is empty, holds a NUL or half of a surrogate pair.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"{what} must be a string that is not empty.")
    check_text(path, what)


def check_text(text: str, what: str) -> None:
    """Refuse what no byte string of the host can be; the message does not hold it.

    Raises:
        ValueError: A NUL, or half of a surrogate pair.
    """
    if "\0" in text:
        raise ValueError(f"{what} cannot hold a NUL character.")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{what} cannot hold half of a surrogate pair.") from None


def checked_timeout(timeout: float | None) -> float | None:
    """A timeout in seconds, or None.

    Raises:
        ValueError: It is no positive number.
    """
    if timeout is None:
        return None
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not math.isfinite(timeout) or timeout <= 0:
        raise ValueError(f"A timeout must be a positive number of seconds, not {timeout!r}.")
    return timeout


def checked_port(port: int) -> int:
    """A port from 1 to 65535.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ValueError(f"A port must be a number from 1 to 65535, not {port!r}.")
    return port
