"""Call a function for each of several inputs."""

from . import awaitables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def call_each(function: "Callable[..., Any]", chunk: "list[tuple[Any, ...]]") -> "list[Any]":
    """Return the value of each call; what a coroutine function returns is run."""
    values = []
    for arguments in chunk:
        value = function(*arguments)
        values.append(awaitables.run(value) if awaitables.is_awaitable(value) else value)
    return values
