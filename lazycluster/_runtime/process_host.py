"""What runs in the background for a Runtime: the handles of tasks, and of ports."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lazycluster._checks import check_flags, checked_path
from lazycluster._runtime.calls import CallingHost
from lazycluster._ssh.endpoints import checked_end, is_path
from lazycluster._tasks.history import EXECUTIONS_KEPT
from lazycluster._tracebacks import short_tracebacks
from lazycluster.processes import (
    KEY_DELIMITER,
    PORT_FROM_RUNTIME,
    PORT_TO_RUNTIME,
    TASK,
    PortExposure,
    TaskProcess,
    kind_of,
)

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster._ssh.endpoints import PortOrPath
    from lazycluster._tasks.execution import Execution
    from lazycluster.connection import Connection
    from lazycluster.forwards import Forward


@short_tracebacks
class ProcessHost(CallingHost):
    """A host with handles of what runs there in the background; see `Runtime`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._processes: dict[str, TaskProcess | PortExposure] = {}

    def expose_port_to_runtime(
        self,
        local_port: PortOrPath,
        runtime_port: PortOrPath | None = None,
        *,
        to_host: str | None = None,
        bind_address: str | None = None,
        restore: bool = False,
    ) -> str:
        """Make a service of the manager reachable on the host (a remote forward, `-R`).

        The host listens on its loopback addresses, which its other users can reach too. The
        listener is verified before this returns. The exposure ends when it is stopped or with the
        connection.

        In place of a port, the path of a unix socket can be given on either side. It contains a
        slash; on the host it is relative to the working directory, and a leading `~`, `$HOME/` or
        `${HOME}/` is the home directory. The listening side makes the socket, for its account
        alone, and removes it at the end. What is at its path already is an error.

        Args:
            local_port: The port of the service on the manager's loopback address; or its socket.
            runtime_port: The port to listen on, 0 for any free port, which the key has; or the path
                of a socket. Defaults to `local_port`.
            to_host: A host or address that the manager reaches, whose service it is. Defaults to
                None, the manager itself.
            bind_address: The address of the host to listen on: an IP address, `localhost`, or `*`
                for all; its sshd must have `GatewayPorts clientspecified`. Defaults to None,
                127.0.0.1 and ::1.
            restore: If True, and the connection is lost, make the exposure again after the next
                login, before the first use of that; under the same key and port. A failure is a
                WARNING then. Defaults to False.

        Returns:
            The process key, for `stop_process`. `""` if there is nothing to do: the host is written
            `localhost` and is the manager itself, and both ports have one number.

        Raises:
            ValueError: If a port is invalid, a path too long, or a host or address is none.
            PortInUseError: If the port or path is in use on the host.
            ForwardError: If ssh cannot forward the port; the message has the reason.
        """
        check_flags(restore=restore)
        checked_end(local_port, "local_port", lowest=1, on_host=False)
        port = local_port if runtime_port is None else runtime_port
        if not is_path(port):  # the host expands a path
            checked_end(port, "runtime_port", lowest=0, on_host=True)
        if self._is_own_port(port, local_port, to_host, bind_address):
            return ""
        forward = self._connection.forward_remote(
            self._on_host(port), local_port, to_host=to_host, bind_address=bind_address
        )
        return self._add_exposure(PORT_TO_RUNTIME, forward, restore)

    def expose_port_from_runtime(
        self,
        runtime_port: PortOrPath,
        local_port: PortOrPath | None = None,
        *,
        to_host: str | None = None,
        bind_address: str | None = None,
        restore: bool = False,
    ) -> str:
        """Make a service of the host reachable on the manager (a local forward, `-L`).

        The counterpart of `expose_port_to_runtime`: the manager listens on its loopback addresses.

        Args:
            runtime_port: The port of the service on the host's loopback address; or its socket.
            local_port: The port to listen on, 0 for any free port, which the key has; or the path
                of a socket. Defaults to `runtime_port`.
            to_host: A host or address that the host reaches, whose service it is. Defaults to None,
                the host itself by any of its names: localhost, 127.0.0.1 and ::1.
            bind_address: The address of the manager to listen on, see `expose_port_to_runtime`.
            restore: If True, make it again after a loss, see `expose_port_to_runtime`.

        Returns:
            The process key, for `stop_process`, or `""` as for `expose_port_to_runtime`.
        """
        check_flags(restore=restore)
        if not is_path(runtime_port):  # the host expands a path
            checked_end(runtime_port, "runtime_port", lowest=1, on_host=True)
        port = runtime_port if local_port is None else local_port
        checked_end(port, "local_port", lowest=0, on_host=False)
        if self._is_own_port(port, runtime_port, to_host, bind_address):
            return ""
        forward = self._connection.forward_local(
            port, self._on_host(runtime_port), to_host=to_host, bind_address=bind_address
        )
        return self._add_exposure(PORT_FROM_RUNTIME, forward, restore)

    def _is_own_port(
        self, port: PortOrPath, to_port: PortOrPath, to_host: str | None, bind_address: str | None
    ) -> bool:
        """Return True if a port or socket would lead to itself, because the host is the manager."""
        if port != to_port or self.host != self.LOCALHOST or to_host or bind_address:
            return False
        from lazycluster._shared.ports import network_id

        own = network_id()
        return own is not None and own == self._operate("network_id")

    def _on_host(self, port: PortOrPath) -> PortOrPath:
        """Return the port, or the absolute path of a socket on the host."""
        if isinstance(port, int) or not is_path(port):
            return port
        path = checked_path(port, "The path of a socket on the host")
        return path if path.startswith("/") else str(self._operate("expand", path=path))

    def _add_process(self, execution: Execution) -> TaskProcess:
        with self._lock:
            key = execution.key = self._new_key(self.host, TASK, execution.name)
            process = self._processes[key] = TaskProcess(key, execution)
        return process

    def _add_exposure(self, direction: str, forward: Forward, restore: bool) -> str:
        with self._lock:
            key = self._new_key(self.host, direction, *forward._route.keys)
            exposure = self._processes[key] = PortExposure(key, forward)
            for name in self._ended_exposures()[:-EXECUTIONS_KEPT]:
                del self._processes[name]
        if restore:
            exposure._restores = True
            self._connection._restorers.append(_restorer(self._connection, exposure))
        return key

    def _ended_exposures(self) -> list[str]:
        """Return the keys of exposures that have ended for good; the caller holds the lock."""
        exposures = [p for p in self._processes.values() if isinstance(p, PortExposure)]
        return [one.name for one in exposures if not one.is_alive() and not one._waits]

    def _forget_exposures(self) -> None:
        """Forget the exposures that have ended for good."""
        with self._lock:
            for name in self._ended_exposures():
                del self._processes[name]

    @property
    def task_processes(self) -> list[TaskProcess]:
        """Return the handles of all asynchronous executions of tasks, in order."""
        return [p for p in self.get_processes().values() if isinstance(p, TaskProcess)]

    @property
    def alive_process_count(self) -> int:
        """Return the number of processes that are alive."""
        return len(self.get_processes(only_alive=True))

    @property
    def alive_task_process_count(self) -> int:
        """Return the number of task processes that are alive."""
        return sum(process.is_alive() for process in self.task_processes)

    def get_process(self, key: str) -> TaskProcess | PortExposure:
        """Return the process with a key.

        Args:
            key: The process key.

        Raises:
            ValueError: If there is no process with that key.
        """
        with self._lock:
            if key not in self._processes:
                raise ValueError(f"There is no process {key!r} on {self.host}.")
            return self._processes[key]

    def get_processes(self, only_alive: bool = False) -> dict[str, TaskProcess | PortExposure]:
        """Return all processes by their keys.

        Args:
            only_alive: If True, leave out those that have ended. Defaults to False.
        """
        with self._lock:
            processes = dict(self._processes)
        return {k: p for k, p in processes.items() if not only_alive or p.is_alive()}

    def stop_process(self, key: str) -> None:
        """Terminate a process and wait until it has ended.

        Args:
            key: The process key.

        Raises:
            ValueError: If there is no process with that key.
        """
        self.get_process(key).terminate()

    @classmethod
    def is_runtime_task_process(cls, process_key: str) -> bool:
        """Return True if a process key belongs to an asynchronous execution of a task.

        Args:
            process_key: The process key.
        """
        return kind_of(process_key) == TASK

    @classmethod
    def is_port_exposure_process(cls, process_key: str) -> bool:
        """Return True if a process key belongs to a port that is exposed to or from a host.

        Args:
            process_key: The process key.
        """
        return kind_of(process_key) in (PORT_TO_RUNTIME, PORT_FROM_RUNTIME)

    def _new_key(self, *parts: str) -> str:
        """Return an unused process key; the caller holds the lock."""
        key = KEY_DELIMITER.join(parts)
        count, unique = 1, key
        while unique in self._processes:
            count += 1
            unique = f"{key}{KEY_DELIMITER}{count}"
        return unique


def _restorer(connection: Connection, exposure: PortExposure) -> Callable[[Conversation], None]:
    """Return what makes an exposure again on a new login."""

    def restore(conversation: Conversation) -> None:
        from lazycluster.forwards import _make_forward

        exposure._restore(
            conversation, lambda route: _make_forward(connection, conversation, route)
        )
        if not exposure._restores:  # it has been stopped
            connection._restorers.remove(restore)

    return restore
