"""Keep the values that the functions of one execution return, pickled until they are asked for."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lazycluster._functions.payload import load_value
from lazycluster._spool import Spool
from lazycluster.exceptions import LazyclusterError

_VERSIONS_TIMEOUT = 5.0  # seconds to ask the host for the versions of its packages


def ask_versions(
    conversation: Any, environment: Mapping[str, str], names: list[str]
) -> Iterable[tuple[str, str | None]]:
    """Return the versions of packages on a host; nothing if the host cannot be asked.

    Args:
        conversation: The `Conversation` with the host, or None.
        environment: The variables of the steps.
        names: The packages.
    """
    if conversation is None:
        return ()
    deadline = time.monotonic() + _VERSIONS_TIMEOUT
    try:
        found = conversation.operate(
            "read_versions", {"names": names}, environment=environment, deadline=deadline
        )
        return [(str(name), version and str(version)) for name, version in found]
    except (LazyclusterError, OSError, TypeError, ValueError):
        return ()


class Values:
    """Hold the pickled values in one spool, in the order of the steps.

    Attributes:
        spool: The values received so far.
        unread: True if a function has returned whose value has not been asked for.
    """

    def __init__(self) -> None:
        self.spool: Spool = Spool()
        self.unread: bool = False
        self._spans: dict[int, tuple[int, int]] = {}  # [start, end) in the spool, by step
        self._returned: set[int] = set()
        self._lost: dict[int, OSError] = {}
        self._find_conversation: Callable[[], Any] = lambda: None
        self._environment: Mapping[str, str] = {}  # of the steps

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        del state["_find_conversation"], state["_environment"]  # a secret may be there
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.update(state)

    def come_from(self, conversation: object, environment: Mapping[str, str]) -> None:
        """Note the `Conversation` that brings the values, which is not kept alive.

        It is an object here, because all that a public class can lead to has a complete type.
        """
        self._find_conversation = weakref.ref(conversation)
        self._environment = environment

    def append(self, index: int, data: memoryview) -> None:
        """Store the next chunk of a step's value; steps come in order.

        A full disk of the manager must not stop a function on the host: `error` has the reason.
        """
        if index in self._lost:
            return
        try:
            self.spool.write(data)
        except OSError as error:
            self._lost[index] = error
            return
        end = len(self.spool)
        start, _ = self._spans.get(index, (end - len(data), end))
        self._spans[index] = (start, end)

    def mark_returned(self, index: int) -> None:
        """Note that the function of a step has returned, so that its value is complete."""
        self._returned.add(index)
        self.unread = True

    def error(self, index: int) -> OSError | None:
        """Return the reason why a step's value could not be stored; None if it is stored."""
        return self._lost.get(index)

    def sent_by(self, index: int, limit: int) -> bytes:
        """Return what a step that has not returned has sent; empty if that is above `limit` bytes.

        Raises:
            OSError: If it is in a file that cannot be read.
        """
        start, end = self._spans.get(index, (0, 0))
        if end - start > limit or index in self._lost:
            return b""
        return self.spool.read_at(start, end - start)

    def __iter__(self) -> Iterator[object]:
        """Unpickle the complete values, one at a time."""
        for load in self.loaders().values():
            yield load()

    def loaders(self) -> dict[int, Callable[[], object]]:
        """Return for each complete value a function that unpickles it, by step, in order."""
        self.unread = False
        return {
            index: functools.partial(self._load, self.spool, *span)
            for index, span in sorted(self._spans.items())
            if index in self._returned and index not in self._lost
        }

    def _load(self, spool: Spool, start: int, end: int) -> object:
        return load_value(spool.open(start, end), self.find_versions)

    def find_versions(self, names: list[str]) -> Iterable[tuple[str, str | None]]:
        """Return the versions of packages on the host; nothing if the host cannot be asked."""
        return ask_versions(self._find_conversation(), self._environment, names)

    def clear(self) -> None:
        """Free the values; a copy of the execution keeps them."""
        self.__init__()  # type: ignore[misc]
