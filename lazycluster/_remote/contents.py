"""What calls refer to, modules and texts of files: it comes once for each connection."""

from .._shared.frames import KEY_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable  # noqa: F401 - Callable stands in a comment


class Contents:
    """Contents by key. A forked process has those that were complete then."""

    def __init__(self) -> "None":
        self.complete = {}  # type: dict[str, bytes]  # in this order
        self.decode = None  # type: Callable[[bytes], object] | None
        self._numbers = {}  # type: dict[str, int]  # how many were complete before
        self._arriving = {}  # type: dict[str, bytes]

    def add(self, data: "Any") -> "None":
        """Take the data of a frame: a key, and a part of its content."""
        key = data[:KEY_SIZE].hex()
        if key not in self.complete:
            self._arriving[key] = self._arriving.get(key, b"") + data[KEY_SIZE:]

    def expect(self, keys: "Iterable[str]") -> "None":
        """Take the contents that a call names, of which all parts have come.

        Raises:
            KeyError: If one has not come.
        """
        for key in keys:
            if key not in self.complete:
                self._numbers[key] = len(self._numbers)
                self.complete[key] = self._arriving.pop(key)
                if self.decode is not None:
                    self.decode(self.complete[key])  # for all calls

    def after(self, keys: "Iterable[str]", known: "int") -> "list[tuple[str, bytes]]":
        """Return those of some contents that are not among the first `known` ones."""
        return [(key, self.complete[key]) for key in keys if self._numbers[key] >= known]
