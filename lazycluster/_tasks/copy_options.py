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
        delete: True if what the source does not have is removed from the destination.
        skip_errors: True if what cannot be read or written is skipped.
        mode: The permission bits of files; None for the source's.
        in_place: True if files that exist are overwritten, and nothing is renamed.
    """

    exclude: tuple[str, ...] = ()
    only_changed: bool = False
    delete: bool = False
    skip_errors: bool = False
    mode: int | None = None
    in_place: bool = False

    @classmethod
    def checked(
        cls,
        *,
        exclude: Sequence[str],
        only_changed: bool,
        delete: bool,
        on_error: str,
        mode: int | None,
        in_place: bool,
    ) -> CopyOptions:
        """Return the options that a user gave.

        Raises:
            ValueError: If a pattern or the mode is invalid, or `on_error` is something else.
            TypeError: If `exclude` is not a list or tuple of strings, a flag is not a bool, or the
                mode is not a number.
        """
        check_flags(only_changed=only_changed, delete=delete, in_place=in_place)
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
        if mode is not None and (not isinstance(mode, int) or isinstance(mode, bool)):
            raise TypeError(f"mode must be a number such as 0o644, not {mode!r}.")
        if mode is not None and not 0 <= mode <= 0o777:
            raise ValueError(f"Invalid mode {mode}: use permission bits such as 0o644.")
        flags = (bool(only_changed), bool(delete), on_error == "skip")
        return cls(tuple(exclude), *flags, mode, bool(in_place))

    def check_no_folder(self) -> None:
        """Check the options of a copy of bytes, or from or to a file object.

        Raises:
            ValueError: If one compares what is on both sides.
        """
        if self.only_changed:
            raise ValueError("only_changed compares files: bytes and file objects have no times.")
        if self.delete:
            raise ValueError("delete needs a folder as the source.")

    def for_sender(self) -> dict[str, Any]:
        """Return what differs from the defaults, for the side that sends."""
        own = self._given("exclude", "only_changed", "skip_errors")
        if self.only_changed and self.delete:
            own["keeps_names"] = True
        return own

    def for_receiver(self) -> dict[str, Any]:
        """Return what differs from the defaults, for the side that receives."""
        return self._given("exclude", "delete", "skip_errors", "mode", "in_place")

    def _given(self, *names: str) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != getattr(DEFAULTS, name)}


DEFAULTS = CopyOptions()
