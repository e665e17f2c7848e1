"""What a host is and has: asked for once, kept, compared with what somebody needs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lazycluster._checks import check_path
from lazycluster._text import show
from lazycluster.exceptions import CommandError, LazyclusterError, TaskExecutionError

if TYPE_CHECKING:
    from lazycluster.tasks import RuntimeTask


class Information:
    """The part of a Runtime that tells what its host is and has."""

    def __init__(self) -> None:
        self._info: dict[str, Any] | None = None
        self._info_lock = threading.Lock()

    @property
    def host(self) -> str:
        """The host, as it was given."""
        raise NotImplementedError

    def _operate(self, operation: str, **arguments: Any) -> Any:
        raise NotImplementedError

    def _execute_quietly(self, task: RuntimeTask) -> RuntimeTask:
        raise NotImplementedError

    @property
    def class_name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    @property
    def info(self) -> dict[str, Any]:
        """What is known of the host; a copy. Asked for in one request, the first time.

        Returns:
            `host`, `os`, `cpu_cores`, `memory` (bytes), `python_version` and `gpus`.

        Raises:
            LazyclusterError: The host could not tell.
        """
        with self._info_lock:
            if self._info is None:
                self._info = {"host": self.host, **self._operate("read_host_info")}
            return {**self._info, "gpus": [dict(gpu) for gpu in self._info["gpus"]]}

    @property
    def os(self) -> str:
        """The operating system, as `Linux-6.1.0-x86_64-with-glibc2.36`."""
        return str(self.info["os"])

    @property
    def cpu_cores(self) -> int:
        """How many CPU cores can be used.

        The least of those that are there, the affinity, and the quotas of cgroups v1 and v2 along
        the whole path, rounded up.
        """
        return int(self.info["cpu_cores"])

    @property
    def memory(self) -> int:
        """The memory that can be used, in bytes.

        The least of what is there and the limits of cgroups v1 and v2 along the whole path.

        Raises:
            LazyclusterError: The host could not tell.
        """
        memory = self.info["memory"]
        if memory is None:
            raise LazyclusterError(f"{self.host} does not tell how much memory it has.")
        return int(memory)

    @property
    def memory_in_mb(self) -> int:
        """The same in units of 2**20 bytes, rounded down."""
        return self.memory // 2**20

    @property
    def python_version(self) -> str:
        """The version of the host's Python, as `3.11.2`."""
        return str(self.info["python_version"])

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """One entry for each GPU that `nvidia-smi` lists and CUDA_VISIBLE_DEVICES leaves.

        Each has `id`, `name`, `uuid`, `memory` (bytes) and `driver_version`; None where it does
        not say. Empty where there is no `nvidia-smi` or it fails.
        """
        gpus: list[dict[str, Any]] = self.info["gpus"]
        return gpus

    @property
    def gpu_count(self) -> int:
        """How many GPUs there are."""
        return len(self.gpus)

    def print_info(self) -> None:
        """Print what is known of the host as a table; a MB has 2**20 bytes."""
        info = self.info
        rows = [
            ("host", info["host"]),
            ("operating system", info["os"]),
            ("Python", info["python_version"]),
            ("CPU cores", str(info["cpu_cores"])),
            ("memory", "unknown" if info["memory"] is None else f"{info['memory'] // 2**20} MB"),
            ("GPUs", str(len(info["gpus"]))),
        ]
        for gpu in info["gpus"]:
            memory = "" if gpu["memory"] is None else f", {gpu['memory'] // 2**20} MB"
            rows.append((f"GPU {gpu['id']}", f"{gpu['name']}{memory}"))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            show(f"{name:<{width}}  {value}\n")

    def check_filter(
        self,
        gpu_required: bool = False,
        min_memory: int | None = None,
        min_cpu_cores: int | None = None,
        installed_executables: str | list[str] | None = None,
        filter_commands: str | list[str] | None = None,
    ) -> bool:
        """Whether the host has what somebody needs.

        Args:
            gpu_required: Whether a GPU is needed. Defaults to False.
            min_memory: The least memory in MB, of 2**20 bytes. Defaults to None, any.
            min_cpu_cores: The least number of CPU cores. Defaults to None, any.
            installed_executables: One or more names of programs that must be found on the PATH.
            filter_commands: One or more shell commands, each of which must print `true`, and
                nothing else, and succeed.

        Returns:
            True if all is so.

        Raises:
            ValueError: A name or a command is empty.
            TaskExecutionError: The connection was lost while a command ran.
        """
        if gpu_required and not self.gpu_count:
            return False
        if min_memory is not None and self.memory_in_mb < min_memory:
            return False
        if min_cpu_cores is not None and self.cpu_cores < min_cpu_cores:
            return False
        return all(
            [self._is_installed(name) for name in _listed(installed_executables)]
            + [self._prints_true(command) for command in _listed(filter_commands)]
        )

    def _is_installed(self, name: str) -> bool:
        check_path(name, "The name of an executable")
        return bool(self._operate("is_executable", name=name))

    def _prints_true(self, command: str) -> bool:
        from lazycluster.tasks import RuntimeTask

        task = RuntimeTask("filter").run_command(command)
        try:
            self._execute_quietly(task)
        except TaskExecutionError as error:
            if isinstance(error.__cause__, CommandError):
                return False
            raise
        return task.execution_log[0].strip() == "true"


def _listed(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
