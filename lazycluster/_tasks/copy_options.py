"""The options of copies, checked once and described to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lazycluster._checks import check_flags
from lazycluster._shared.patterns import compile_patterns


@dataclass(frozen=True)
class CopyOptions:
    """What `RuntimeTask.send_file` and `get_file` can be told about a copy.

    Attributes:
        exclude: Patterns of what is left out, see `_shared.patterns`.
        only_changed: True if what the destination has already is not sent.
        skip_errors: True if what cannot be read or written is skipped.
    """

    exclude: tuple[str, ...] = ()
    only_changed: bool = False
    skip_errors: bool = False

    @classmethod
    def checked(cls, *, exclude: Sequence[str], only_changed: bool, on_error: str) -> CopyOptions:
        """Return the options that a user gave.

        Raises:
            ValueError: If a pattern is invalid, or `on_error` is something else.
            TypeError: If `exclude` is not a list or tuple of strings, or a flag is not a bool.
        """
        check_flags(only_changed=only_changed)
        if not isinstance(exclude, (list, tuple)):
            raise TypeError(
                f"exclude must be a list of patterns, like ['*.pyc'], not {type(exclude).__name__}."
            )
        for pattern in exclude:
            if not isinstance(pattern, str):
                cure = "; os.fsdecode makes one of bytes" if isinstance(pattern, bytes) else ""
                raise TypeError(f"A pattern in exclude must be a string, not {pattern!r}{cure}.")
        compile_patterns(exclude)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"Invalid on_error {on_error!r}: use 'raise' or 'skip'.")
        return cls(tuple(exclude), bool(only_changed), on_error == "skip")

    def for_sender(self) -> dict[str, Any]:
        """Return what differs from the defaults, for the side that sends."""
        names = ("exclude", "only_changed", "skip_errors")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


DEFAULTS = CopyOptions()
