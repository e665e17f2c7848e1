"""Check what users give, before anything starts; each error names the input."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union

_Word = TypeVar("_Word", str, Union[str, "os.PathLike[str]"])

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)


def checked_environment(
    environment: Mapping[str, Any] | Iterable[tuple[str, Any]],
) -> dict[str, str]:
    """Return a copy of environment variables that any host can set.

    Numbers and booleans are converted by `str()`.

    Raises:
        ValueError: If a name is invalid, or a value is something else, or holds a NUL. The message
            does not contain the value, which may be a secret.
        TypeError: If it does not have names and values.
    """
    checked = {}
    for name, value in dict(environment).items():
        if not isinstance(name, str) or not _ENVIRONMENT_NAME.match(name):
            raise ValueError(
                f"Invalid name of an environment variable {name!r}: use letters, digits and "
                "underscores, and no digit first."
            )
        if not isinstance(value, (str, int, float)):
            raise ValueError(
                f"The environment variable {name} must be a string, a number or a boolean."
            )
        checked[name] = str(value)
        check_text(checked[name], f"The environment variable {name}")
    return checked


def check_flags(cure: str = "", **flags: object) -> None:
    """Check parameters that are a bool or None.

    Args:
        cure: A further sentence for the message.
        **flags: The values by the names of the parameters. The message does not show a value.

    Raises:
        TypeError: If one is something else.
    """
    for name, flag in flags.items():
        if flag is not None and not isinstance(flag, bool):
            message = f"{name} must be True, False or None, not {type(flag).__name__}. {cure}"
            raise TypeError(message.rstrip())


def path_text(path: object, what: str) -> str:
    """Return a path as a string; the messages call it `what`, like "The local path".

    Raises:
        TypeError: If it is neither a string nor an `os.PathLike` of one.
    """
    text: object = os.fspath(path) if isinstance(path, os.PathLike) else path
    if isinstance(text, bytes):
        raise TypeError(f"{what} must be a string, not bytes; os.fsdecode makes one of them.")
    if not isinstance(text, str):
        kind = type(text).__name__
        raise TypeError(f"{what} must be a string or an os.PathLike (pathlib), not {kind}.")
    return text


def checked_path(path: object, what: str) -> str:
    """Return a path that a host can have; see `path_text`.

    Raises:
        ValueError: If it is empty, or contains a NUL or half of a surrogate pair.
        TypeError: If it is neither a string nor an `os.PathLike` of one.
    """
    text = path_text(path, what)
    if not text:
        raise ValueError(f"{what} must not be empty.")
    check_text(text, what)
    return text


def listed_words(value: _Word | list[_Word] | None) -> list[_Word]:
    """Return a list for one string or path or several; none for None and an empty string."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, os.PathLike)) else list(value)


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


def checked_command(command: str) -> str:
    """Return a command that a shell can read.

    Raises:
        ValueError: If it is empty, or contains a NUL or half of a surrogate pair.
    """
    if not isinstance(command, str) or not command.strip():
        raise ValueError("A command must be a string that is not empty.")
    check_text(command, "A command")
    return command


def checked_input(data: str | bytes | None) -> bytes | None:
    """Return the standard input of a command as bytes; a string as UTF-8.

    Raises:
        TypeError: If it is neither a string nor bytes.
        ValueError: If a string contains half of a surrogate pair.
    """
    if data is None or isinstance(data, bytes):
        return data
    if not isinstance(data, str):
        raise TypeError(f"input must be a string or bytes, not {type(data).__name__}.")
    try:
        return data.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # its message has a part of the input, which may be a secret
        raise ValueError("input must not contain half of a surrogate pair.") from None


def command_line(line: str | os.PathLike[str], what: str) -> str:
    """Return a command line; of an `os.PathLike` the line that is only this path.

    Raises:
        ValueError: If a path is empty, or contains a NUL or half of a surrogate pair.
        TypeError: If a path is not one of a string.
    """
    if not isinstance(line, os.PathLike):
        return line
    import shlex

    path = checked_path(line, what)
    home = "~/" if path.startswith("~/") else ""  # which a shell expands without quotes only
    return home + shlex.quote(path[len(home) :])


def checked_words(line: str | os.PathLike[str], what: str) -> tuple[str, ...]:
    """Return the words of a command line, split as a shell splits them.

    Args:
        line: The command line, or a path as its only word.
        what: What the message calls it, like "The shell".

    Raises:
        ValueError: If it is empty, has an unclosed quote, or a host cannot have it.
    """
    import shlex

    line = command_line(line, what)
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
