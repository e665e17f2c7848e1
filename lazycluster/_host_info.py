"""What a host is and has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lazycluster.exceptions import LazyclusterError


@dataclass(frozen=True)
class HostInfo:
    """What a host is and has.

    Attributes:
        host: The host, as the user gave it.
        os: The operating system, such as `Linux-6.1.0-x86_64-with-glibc2.36`.
        cpu_cores: The number of usable CPU cores.
        memory: The usable memory in bytes; None if the host does not report it.
        python_version: The version of the host's Python, such as `3.11.2`.
        gpus: One entry for each visible GPU, see `Runtime.gpus`.
    """

    host: str
    os: str
    cpu_cores: int
    memory: int | None
    python_version: str
    gpus: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary, which the caller may change."""
        return asdict(self)

    def known_memory(self) -> int:
        """Return the usable memory in bytes.

        Raises:
            LazyclusterError: If the host does not report its memory.
        """
        if self.memory is None:
            raise LazyclusterError(f"{self.host} does not report its memory.")
        return self.memory

    def meets(
        self, *, gpu_required: bool, min_memory: int | None, min_cpu_cores: int | None
    ) -> bool:
        """Return True if the host has what is required.

        Args:
            gpu_required: If True, a GPU is required.
            min_memory: The least memory in MB of 2**20 bytes; None for any.
            min_cpu_cores: The least number of CPU cores; None for any.

        Raises:
            LazyclusterError: If memory is required and the host does not report it.
        """
        if gpu_required and not self.gpus:
            return False
        if min_memory is not None and self.known_memory() // 2**20 < min_memory:
            return False
        return min_cpu_cores is None or self.cpu_cores >= min_cpu_cores

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
