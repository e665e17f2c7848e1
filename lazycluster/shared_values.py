"""SharedValue: a value that a host holds for many calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar

from lazycluster._tasks.completion import completion
from lazycluster._tracebacks import short_tracebacks

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # of the standard library only from Python 3.11 on

__all__ = ["SharedValue"]

T = TypeVar("T")


class Held(Protocol):
    """What a SharedValue stands for; see `_tasks.sharing`."""

    host: str
    type: str
    key: str

    @property
    def is_closed(self) -> bool:
        """Return True after `close`."""

    def close(self) -> None:
        """Let the host free it."""


@short_tracebacks
class SharedValue(Generic[T]):
    """A value of type T that a host holds; `Runtime.share` returns it.

    Give it to functions of its Runtime in place of the value, also inside of lists, tuples and
    dictionaries. Each function gets the value itself, by copy-on-write: nothing is sent or
    unpickled again, and what one function changes no other one sees.

    `close`, the end of a `with` block and the garbage collector let the host free it.
    """

    _is_shared_value = True  # see `_functions.pickler`

    def __init__(self, held: Held) -> None:
        self._held = held

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<SharedValue of type {self._held.type} on {self._held.host!r}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A SharedValue cannot be pickled; give it to a function of its Runtime.")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The garbage collector may run while this thread holds any lock.
        if "_held" in vars(self):
            completion.post(self._held.close)

    @property
    def host(self) -> str:
        """Return the host, as the user gave it."""
        return self._held.host

    @property
    def closed(self) -> bool:
        """Return True after `close`."""
        return self._held.is_closed

    def close(self) -> None:
        """Let the host free the value; functions that have it already keep it until their end.

        It does not wait for the host. A second call does nothing. A function that gets a closed
        SharedValue is a ValueError, before anything is sent.
        """
        self._held.close()
