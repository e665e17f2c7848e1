"""The steps of a task: frozen, and each describes itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lazycluster._shared import frames
from lazycluster._spool import Spool
from lazycluster._tasks import transfers as _transfers
from lazycluster._tasks.progress import Meter, Progress


@dataclass(frozen=True)
class Step:
    """What is common to the steps of a task.

    Attributes:
        name: What messages call it.
        timeout: Seconds that it may take; None for no bound.
        alone: Whether it is a request of its own, and not one with the steps beside it.
        returns: Whether it has a value that the task yields.
    """

    name: str
    timeout: float | None = None

    alone: ClassVar[bool] = False
    returns: ClassVar[bool] = False

    @property
    def paths(self) -> tuple[str, str] | None:
        """The local and the remote path of a step that copies, else None."""
        return None

    def describe(self) -> dict[str, Any]:
        """The step, as the supervisor takes it."""
        raise NotImplementedError

    def meter(self) -> Meter | None:
        """What counts the bytes of an execution of it, if somebody wants to know."""
        return None

    def pieces(self, meter: Meter | None) -> Iterator[bytes]:
        """What it reads on the host."""
        return iter(())

    def download(self, meter: Meter | None) -> _transfers.Download | None:
        """What takes the file or folder that it sends back, if it does."""
        return None


@dataclass(frozen=True)
class RunCommand(Step):
    """A step that runs a shell command, which is its name."""

    shell: str | None = None  # the account's own

    def describe(self) -> dict[str, Any]:
        """The step, as the supervisor takes it."""
        return {"kind": "command", "command": self.name, "shell": self.shell}


@dataclass(frozen=True)
class RunFunction(Step):
    """A step that calls a function, which is pickled already."""

    payload: Spool = field(default_factory=Spool)

    returns: ClassVar[bool] = True

    def describe(self) -> dict[str, Any]:
        """The step, as the supervisor takes it."""
        python = list(sys.version_info[:2])
        return {"kind": "function", "input": len(self.payload), "python": python}

    def pieces(self, meter: Meter | None) -> Iterator[bytes]:
        """The pickle."""
        for start in range(0, len(self.payload), frames.CHUNK):
            yield self.payload.read_at(start, frames.CHUNK)


@dataclass(frozen=True)
class _Copy(Step):
    local_path: str = ""  # absolute
    remote_path: str = ""
    progress: Progress | None = None

    alone: ClassVar[bool] = True

    def __deepcopy__(self, memo: object) -> _Copy:
        """Nothing in it changes; a copy of a bound method would tell a copy of its object."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Of another process nobody is told here; a lambda could not even be pickled."""
        return {**self.__dict__, "progress": None}

    def meter(self) -> Meter | None:
        """What counts the bytes of an execution of it, if somebody wants to know."""
        return Meter(self.progress, self.name) if self.progress else None

    @property
    def paths(self) -> tuple[str, str] | None:
        """The local and the remote path."""
        return self.local_path, self.remote_path


@dataclass(frozen=True)
class SendFile(_Copy):
    """A step that sends a file or folder to the host."""

    def describe(self) -> dict[str, Any]:
        """The step, as the supervisor takes it."""
        name = _transfers.own_name(self.local_path)
        return {"kind": "unpack", "target": self.remote_path, "name": name}

    def pieces(self, meter: Meter | None) -> Iterator[bytes]:
        """The file or folder as a stream."""
        return _transfers.upload(self.local_path, meter)


@dataclass(frozen=True)
class GetFile(_Copy):
    """A step that gets a file or folder from the host."""

    def describe(self) -> dict[str, Any]:
        """The step, as the supervisor takes it."""
        return {"kind": "pack", "path": self.remote_path, "measured": bool(self.progress)}

    def download(self, meter: Meter | None) -> _transfers.Download | None:
        """What takes it."""
        return _transfers.Download(self.local_path, self.remote_path, meter)
