"""Keep the exception that a function has raised on a host, pickled until it is asked for."""

from __future__ import annotations

import io
import logging
import traceback

from lazycluster.exceptions import RemoteTraceback

_logger = logging.getLogger("lazycluster")


class OwnException:
    """An exception that came from a host.

    Pickling and copying keep the pickle, not what was made of it.

    Args:
        data: The pickle.
        headline: What happened, as a line.
        remote_traceback: The traceback on the host.
        hint: What the host cannot know; it becomes a part of the exception's message.
    """

    def __init__(self, data: bytes, headline: str, remote_traceback: str, hint: str = "") -> None:
        self._data: bytes = data
        self._headline: str = headline
        self._remote_traceback: str = remote_traceback
        self._hint: str = hint
        self._loaded: list[Exception | None] = []

    def __reduce__(self) -> tuple[type[OwnException], tuple[bytes, str, str, str]]:
        return OwnException, (self._data, self._headline, self._remote_traceback, self._hint)

    def load(self) -> Exception | None:
        """Unpickle the exception in this thread, at the first call; its cause is the traceback.

        Returns:
            The exception, each time the same one. None if it cannot be unpickled here, or has a
            meaning for the code that it would pass through, as a StopIteration has.
        """
        if not self._loaded:
            # Another thread may have been faster: the first one counts.
            self._loaded.append(self._unpickle())
        return self._loaded[0]

    def _unpickle(self) -> Exception | None:
        from concurrent.futures import CancelledError

        from lazycluster._functions.pickler import ValueUnpickler

        try:
            error = ValueUnpickler(io.BytesIO(self._data)).load()
            if not isinstance(error, Exception):
                return None
            error.__cause__ = RemoteTraceback(self._headline, self._without_last(error))
            if self._hint and isinstance(error, (ImportError, AttributeError)):
                text = f"{error}. {self._hint}"
                error.args = (text,)
                if isinstance(error, ImportError):
                    error.msg = text
        except Exception as failure:  # a user's class may raise anything
            kind = type(failure).__name__
            _logger.debug("%s Its exception cannot be unpickled: %s", self._headline, kind)
            return None
        hidden = (StopIteration, StopAsyncIteration, CancelledError)
        return None if isinstance(error, hidden) else error

    def _without_last(self, error: Exception) -> str:
        """Return the remote traceback without the lines that Python prints of the exception."""
        last = "".join(traceback.format_exception_only(type(error), error))
        text = self._remote_traceback
        return text[: -len(last)] if text.endswith(last) else text
