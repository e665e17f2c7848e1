"""What a host is and has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from lazycluster.exceptions import LazyclusterError

FILTER_TIMEOUT = 60.0
"""Seconds for a filter command by default; it looks for something, which takes milliseconds."""


class Lack(NamedTuple):
    """What a host lacks of what is required."""

    filter: str  # the parameter of `check_filter` that requires it
    what: str
    is_late: bool = False  # True if it is not known, because the filter took too long


@dataclass(frozen=True)
class HostInfo:
    """What a host is and has; see the properties of `Runtime` with these names."""

    host: str
    os: str
    cpu_cores: int
    memory: int | None  # bytes; None if the host does not report it
    python_version: str
    gpus: list[dict[str, Any]]

    def known_memory(self) -> int:
        """Return the usable memory in bytes.

        Raises:
            LazyclusterError: If the host does not report its memory.
        """
        if self.memory is None:
            raise LazyclusterError(f"{self.host} does not report its memory.")
        return self.memory

    def find_lack(
        self, *, gpu_required: bool, min_memory: int | None, min_cpu_cores: int | None
    ) -> Lack | None:
        """Return what the host lacks of what is required, None if nothing; see `check_filter`.

        Raises:
            LazyclusterError: If memory is required and the host does not report it.
        """
        if gpu_required and not self.gpus:
            return Lack("gpu_required", "a GPU")
        if min_memory is not None and self.known_memory() // 2**20 < min_memory:
            known = self.known_memory() // 2**20
            return Lack("min_memory", f"{min_memory} MB of memory, it has {known}")
        if min_cpu_cores is not None and self.cpu_cores < min_cpu_cores:
            what = f"{min_cpu_cores} CPU cores, it has {self.cpu_cores}"
            return Lack("min_cpu_cores", what)
        return None

    def format(self) -> str:
        """Return a table with one line for each field and GPU; a MB has 2**20 bytes."""
        rows = [
            ("host", self.host),
            ("operating system", self.os),
            ("Python", self.python_version),
            ("CPU cores", str(self.cpu_cores)),
            ("memory", "unknown" if self.memory is None else f"{self.memory // 2**20} MB"),
            ("GPUs", str(len(self.gpus))),
        ]
        for gpu in self.gpus:
            memory = "" if gpu["memory"] is None else f", {gpu['memory'] // 2**20} MB"
            rows.append((f"GPU {gpu['id']}", f"{gpu['name']}{memory}"))
        width = max(len(name) for name, _ in rows)
        return "".join(f"{name:<{width}}  {value}\n" for name, value in rows)
