"""Environment variables as users set them: a dictionary that holds only what a host can set."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Union

from lazycluster._checks import checked_environment

WORKING_DIR = "WORKING_DIR"
"""The variable with the path of the working directory."""

_Variables = Union[Mapping[str, Any], Iterable[tuple[str, Any]]]


class EnvVariables(dict[str, str]):
    """Names and values of environment variables.

    Every method that changes it checks names and values, and converts numbers and booleans by
    `str()`. A change with an error changes nothing. Copies, those by pickle too, are plain
    dictionaries.

    Args:
        variables: The names and values to begin with.
        lock: Held during each change. Defaults to a lock of its own.
        reserved: The name of a variable that cannot be set. Defaults to "", none.

    Raises:
        ValueError: If a name or a value is invalid; see `checked_environment`.
    """

    def __init__(
        self,
        variables: _Variables = (),
        lock: threading.RLock | None = None,
        *,
        reserved: str = "",
    ) -> None:
        super().__init__(checked_environment(variables))
        self._lock = threading.RLock() if lock is None else lock
        self._reserved = reserved

    def reserve(self, name: str, value: str) -> None:
        """Set a variable that only this method can change or remove from now on."""
        with self._lock:
            self._reserved = name
            super().__setitem__(name, value)

    def snapshot(self) -> dict[str, str]:
        """Return a copy that no other thread changes."""
        with self._lock:
            return dict(self)

    def replace(self, variables: _Variables) -> None:
        """Replace all variables but the reserved one."""
        checked = checked_environment(variables)
        with self._lock:
            self._refuse_reserved(checked)
            kept = {name: value for name, value in self.items() if name == self._reserved}
            super().clear()
            super().update(kept, **checked)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.snapshot(),)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, variables: _Variables = (), /, **more: Any) -> None:  # type: ignore[override]
        """Set several variables."""
        checked = {**checked_environment(variables), **checked_environment(more)}
        with self._lock:
            self._refuse_reserved(checked)
            super().update(checked)

    def __ior__(self, variables: _Variables) -> EnvVariables:  # type: ignore[override,misc]
        self.update(variables)
        return self

    def setdefault(self, name: str, value: Any = None) -> str:
        """Set a variable that is missing, and return its value."""
        with self._lock:
            if name not in self:
                self[name] = value
            return self[name]

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a variable, and return its value, or the default if it is missing."""
        with self._lock:
            self._refuse_reserved({name: None})
            return super().pop(name, *default)

    def popitem(self) -> tuple[str, str]:
        """Remove the last variable that is not reserved, and return its name and value."""
        with self._lock:
            for name in reversed(self):
                if name != self._reserved:
                    return name, self.pop(name)
        raise KeyError("popitem(): there is no variable that can be removed")

    def clear(self) -> None:
        """Remove all variables but the reserved one."""
        self.replace({})

    def _refuse_reserved(self, changed: Mapping[str, str | None]) -> None:
        name = self._reserved
        if name in changed and changed[name] != self.get(name):
            raise ValueError(
                f"{name} always is the working directory; assign to `working_dir` to change it."
            )
