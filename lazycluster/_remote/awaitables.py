"""Run what a coroutine function returns to its end."""

import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ITERABLE_COROUTINE = 0x100  # of a generator that `types.coroutine` has made awaitable


def is_awaitable(value: "object") -> "bool":
    """Return True for what `await` takes, such as the coroutine that an `async def` returns."""
    if isinstance(value, types.GeneratorType):
        return bool(value.gi_code.co_flags & _ITERABLE_COROUTINE)
    return hasattr(type(value), "__await__")


def run(awaitable: "Any") -> "Any":
    """Wait for an awaitable in an event loop of its own; see `asyncio.run`."""
    import asyncio  # takes some 30 ms

    return asyncio.run(wait_for(awaitable))  # type: ignore[attr-defined, unused-ignore]


async def wait_for(awaitable: "Any") -> "Any":
    """Await it. A traceback shows what is below this frame, and nothing of the event loop."""
    return await awaitable
