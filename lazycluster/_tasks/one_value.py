"""Keep the value that one call returns, pickled until it is asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

from lazycluster._functions.payload import load_value
from lazycluster._spool import Spool
from lazycluster.exceptions import SerializationError


class OneValue:
    """Hold what one call sends: its value, or the exception that it has raised.

    Most values come in one chunk, which needs no spool.

    Attributes:
        returned: True if the function has returned, so that the value is complete.
    """

    def __init__(self) -> None:
        self.returned: bool = False
        self._whole = b""  # a value of one chunk
        self._spool: Spool | None = None  # one of several chunks
        self._lost: OSError | None = None

    @property
    def is_empty(self) -> bool:
        """Return True if nothing has come."""
        return not self._whole and self._spool is None and self._lost is None

    def append(self, data: memoryview) -> None:
        """Store the next chunk.

        A full disk of the manager must not stop a function on the host: `error` has the reason.
        """
        if self._lost is not None:
            return
        spool = self._spool
        if spool is None and not self._whole:
            self._whole = bytes(data)
            return
        try:
            if spool is None:
                spool = self._spool = Spool(self._whole)
                self._whole = b""
            spool.write(data)
        except OSError as error:
            self._lost = error

    def error(self, _index: int = 0) -> OSError | None:
        """Return the reason why the value could not be stored; None if it is stored."""
        return self._lost

    def sent_by(self, _index: int, limit: int) -> bytes:
        """Return what a call that has not returned has sent; empty if that is above `limit` bytes.

        Raises:
            OSError: If it is in a file that cannot be read.
        """
        if self._lost is not None:
            return b""
        if self._spool is None:
            return b"" if len(self._whole) > limit else self._whole
        return b"" if len(self._spool) > limit else self._spool.read_at(0, limit)

    def load(
        self,
        host: str,
        name: str,
        find_versions: Callable[[list[str]], Iterable[tuple[str, str | None]]],
    ) -> object:
        """Unpickle the value in this thread, and forget the bytes.

        Args:
            host: The host, for messages.
            name: The name of the function, for messages.
            find_versions: Returns the versions of packages on the host.

        Raises:
            SerializationError: If it cannot be unpickled here; another Exception if its class
                raises one.
        """
        spool = self._spool
        if not self.returned or self._lost is not None or not (self._whole or spool):
            raise SerializationError(f"{host} has sent no value of {name}.")
        file = io.BytesIO(self._whole) if spool is None else spool.open()
        value = load_value(file, find_versions)
        self._whole, self._spool = b"", None
        return value
