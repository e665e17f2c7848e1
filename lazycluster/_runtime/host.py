"""Host: everything about a Runtime that needs neither tasks nor processes."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

from lazycluster._checks import check_text, checked_path, checked_port
from lazycluster._functions.preload import Preload
from lazycluster._runtime.host_info import HostInfo
from lazycluster._runtime.working_dir import WorkingDirectory, make_directory
from lazycluster._tasks.env_variables import WORKING_DIR, EnvVariables
from lazycluster._tasks.execution import Target
from lazycluster._tasks.starter import Starter
from lazycluster._text import escaped, show
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import Connection
from lazycluster.exceptions import (
    InvalidRuntimeError,
    LazyclusterError,
    NoPortsLeftError,
    PathCreationError,
)

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation

SHOWN = 10
"""Entries that stayed, in the warning of `delete_dir`."""


@short_tracebacks
class Host:
    """A connection to a host, a working directory there, and what can be asked of the host.

    See `Runtime` for the arguments.
    """

    WORKING_DIR_ENV_VAR_NAME = WORKING_DIR
    """The environment variable with the path of the working directory."""

    LOCALHOST = "localhost"
    """The name under which a host can be the manager itself."""

    log: logging.Logger = logging.getLogger("lazycluster")
    """The logger of Runtimes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._host = connection.host  # as the user gave it
        self._closed = False
        # For attributes, never held over a request. Reentrant, because a signal handler may use the
        # Runtime while this thread holds it.
        self._lock = threading.RLock()
        self._env_variables = EnvVariables(lock=self._lock)
        self._preload = Preload()
        self._shares = object()  # tells its shared values from those of other Runtimes
        self._info: HostInfo | None = None
        self._starter = Starter(self.host)
        set_variable = functools.partial(self._env_variables.reserve, self.WORKING_DIR_ENV_VAR_NAME)
        self._working_dir = WorkingDirectory(connection, set_variable)
        self._is_starting = True

    def _start(self, working_dir: str | None) -> None:
        """Log in, make the working directory and ask `is_valid_runtime`.

        Raises:
            InvalidRuntimeError: If the host cannot be used.
            PathCreationError: If the working directory cannot be made.
        """
        try:
            self._log_in(working_dir)
            verdict = self.is_valid_runtime()
            if not verdict:
                reason = f"its is_valid_runtime() returned {verdict!r}"
                raise InvalidRuntimeError(
                    f"{self.host} cannot be used as a {self.class_name}: {reason}.", host=self.host
                )
        except BaseException:
            self._connection.close()
            raise
        self._is_starting = False

    def _log_in(self, working_dir: str | None) -> None:
        try:
            self._working_dir.open(working_dir)
        except PathCreationError:
            raise
        except LazyclusterError as error:
            raise InvalidRuntimeError(
                f"{self.host} cannot be used as a Runtime: {error._reason()}.", host=self.host
            ) from error._as_cause()

    def __repr__(self) -> str:
        return f"<Runtime {self.host!r}>"

    def __str__(self) -> str:
        return f"{self.class_name}: {self.host}"

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Runtime cannot be pickled or copied; make one where it is needed.")

    @property
    def host(self) -> str:
        """Return the host, as the user gave it."""
        return self._host

    @property
    def class_name(self) -> str:
        """Return the name of the class."""
        return type(self).__name__

    @property
    def working_dir(self) -> str:
        """Return the path of the working directory on the host, as it was given, made absolute.

        Links stay in it, and PWD has the same text. Assign a path to use another directory, which
        is made if it is missing; a relative path begins at the home directory. A temporary
        directory that it replaces is removed, unless it contains the new one.

        Raises:
            ValueError: On assignment, if the path is empty or invalid.
            PathCreationError: On assignment, if the directory cannot be made.
        """
        return self._working_dir.path

    @working_dir.setter
    def working_dir(self, path: str | PathLike[str]) -> None:
        path = checked_path(path, "The working directory")
        self._working_dir.change(path)

    @property
    def env_variables(self) -> dict[str, str]:
        """Return the environment variables of all tasks.

        The dictionary is live: later tasks get what is changed in it. Numbers and booleans become
        strings. It always has the path of the working directory. Assign names and values to replace
        all others. A task's variables override its Runtime's.

        Raises:
            ValueError: On a change, if a name is invalid, a value is something else or holds a NUL,
                or the working directory's variable would change. No message has a value.
        """
        return self._env_variables

    @env_variables.setter
    def env_variables(self, env_variables: Mapping[str, str | float]) -> None:
        self._env_variables.replace(env_variables)

    def add_env_variables(self, env_variables: Mapping[str, str | float]) -> None:
        """Add environment variables for all tasks; a name that exists gets the new value.

        Args:
            env_variables: Names and values. Any value without a NUL character arrives unchanged.

        Raises:
            ValueError: As for `env_variables`.
        """
        self._env_variables.update(env_variables)

    def is_valid_runtime(self) -> bool:
        """Return True if the host can be used now; never raise.

        The constructor calls it at its end, before a subclass has set attributes of its own.
        Override it to require more of a host: if it returns False, the constructor raises
        InvalidRuntimeError.
        """
        if self._is_starting:  # the login has shown it
            return True
        try:
            self._operate("make_directory", path=".")
        except LazyclusterError:
            return False
        except OSError as error:
            if error.errno is None:  # a signal handler's TimeoutError
                raise
            return False
        return True

    def wait_until_back(self, timeout: float = 600.0) -> None:
        """Wait for the end of the connection, as after `sudo reboot`, and log in again.

        See `Connection.wait_until_back`. A temporary working directory is then a new one.
        """
        self._connection.wait_until_back(timeout)

    def _read_info(self, target: Target | None = None) -> HostInfo:
        """Return what the host is and has, requested at the first call.

        Args:
            target: Where to ask. Defaults to None: where steps run now, after a login if needed.
        """
        if self._info is None:  # two threads may both request it, without harm
            operate = self._operate if target is None else target.operate
            self._info = HostInfo(host=self.host, **operate("read_host_info"))
        return self._info

    @property
    def info(self) -> dict[str, Any]:
        """Return a copy of what is known of the host, requested at the first use.

        Returns:
            `host`, `os`, `cpu_cores`, `memory` (bytes), `python_version` and `gpus`.

        Raises:
            LazyclusterError: If the host does not answer.
        """
        return dataclasses.asdict(self._read_info())

    @property
    def os(self) -> str:
        """Return the operating system, such as `Linux-6.1.0-x86_64-with-glibc2.36`."""
        return self._read_info().os

    @property
    def cpu_cores(self) -> int:
        """Return the number of CPU cores that affinity and cgroups leave, rounded up."""
        return self._read_info().cpu_cores

    @property
    def memory(self) -> int:
        """Return the usable memory in bytes, the smallest of what is present and cgroups allow.

        Raises:
            LazyclusterError: If the host does not report its memory.
        """
        return self._read_info().known_memory()

    @property
    def memory_in_mb(self) -> int:
        """Return the usable memory in units of 2**20 bytes, rounded down."""
        return self.memory // 2**20

    @property
    def python_version(self) -> str:
        """Return the version of the host's Python, such as `3.11.2`."""
        return self._read_info().python_version

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """Return one entry for each GPU that `nvidia-smi` lists and CUDA_VISIBLE_DEVICES leaves.

        An entry has `id`, `name`, `uuid`, `memory` (bytes) and `driver_version`, each None if
        `nvidia-smi` does not report it. The list is empty if `nvidia-smi` is missing or fails.
        """
        gpus: list[dict[str, Any]] = self.info["gpus"]
        return gpus

    @property
    def gpu_count(self) -> int:
        """Return the number of visible GPUs."""
        return len(self._read_info().gpus)

    def print_info(self) -> None:
        """Print what is known of the host as a table; a MB has 2**20 bytes."""
        show(self._read_info().format())

    def echo(self, msg: str) -> str:
        """Return a text in which the host has expanded `$NAME` and `${NAME}`.

        Args:
            msg: The text; of another object `str()` makes one. `echo("${PWD}")` returns the working
                directory. Everything else is literal, `$(…)` and backticks too; use `run_command`
                for commands.

        Raises:
            ValueError: If the text holds a NUL character.
            LazyclusterError: If the host does not answer.
        """
        text = str(msg)
        check_text(text, "The text")
        return str(self._operate("expand_variables", text=text))

    def create_dir(self, path: str | PathLike[str]) -> None:
        """Make a directory on the host, with missing parents; an existing one is not an error.

        Args:
            path: The directory, relative to the working directory. A leading `~`, `$HOME/` or
                `${HOME}/` is the home directory; everything else is literal.

        Raises:
            ValueError: If the path is empty or invalid.
            TypeError: If the path is neither a string nor an `os.PathLike` of one.
            PathCreationError: If the directory cannot be made; the message has the reason.
        """
        path = checked_path(path, "The path")
        make_directory(self.host, self._find_target({}), "make_directory", path=path)

    def create_tempdir(self) -> str:
        """Make a private directory, which goes with the connection, and return its path.

        Raises:
            PathCreationError: If the directory cannot be made; the message has the reason.
        """
        return make_directory(self.host, self._find_target({}), "make_private_directory")

    def delete_dir(self, path: str | PathLike[str]) -> bool:
        """Delete a directory on the host with its contents; links are deleted as links.

        Args:
            path: The directory, relative to the working directory. A leading `~`, `$HOME/` or
                `${HOME}/` is the home directory; everything else is literal.

        What cannot be deleted does not save the rest, and a WARNING says what stayed and why.

        Returns:
            True if the directory existed and is completely deleted.

        Raises:
            ValueError: If the path is empty, is the root or the home directory, however it is
                written, or ends with `.` or `..`.
            TypeError: If the path is neither a string nor an `os.PathLike` of one.
        """
        path = checked_path(path, "The path")
        deleted = self._operate("delete_directory", path=path)
        if deleted is None:
            raise ValueError(
                f"{path!r} on {self.host} is not deleted: it is the root or the home directory, or "
                "it ends with '.' or '..'; name the directory itself."
            )
        if isinstance(deleted, list):
            self._warn_of(path, deleted)
            return False
        return bool(deleted)

    def _warn_of(self, path: str, stayed: list[list[str]]) -> None:
        """Log what could not be deleted; the names come from the host."""
        shown = "; ".join(f"{name}: {reason}" for name, reason in stayed[:SHOWN])
        more = f"; and {len(stayed) - SHOWN} more" if len(stayed) > SHOWN else ""
        self.log.warning("%r was not deleted on %s: %s", path, self.host, escaped(shown) + more)

    def has_free_port(self, port: int) -> bool:
        """Return True if the port is free on all IPv4 and IPv6 addresses of the host.

        Args:
            port: The port, 1 to 65535.

        Raises:
            ValueError: If the port is invalid.
        """
        return bool(self._operate("port_is_free", port=checked_port(port)))

    def get_free_port(self, ports: list[int]) -> int:
        """Return the first of several ports that is free on the host; one round trip.

        Args:
            ports: The ports, in the order of preference.

        Raises:
            ValueError: If a port is invalid.
            NoPortsLeftError: If none of them is free.
        """
        found = self._operate("first_free_port", ports=[checked_port(port) for port in ports])
        if found is None:
            raise NoPortsLeftError(f"None of the {len(ports)} ports is free on {self.host}.")
        return int(found)

    def _find_target(self, own: Mapping[str, str], closed: threading.Event | None = None) -> Target:
        """Return where steps with a task's own variables run now, after a login if needed.

        `closed` is the event of the close that ends them, see `Login._start`.
        """
        return self._target(*self._working_dir.find(closed), own)

    def _find_open_target(self, own: Mapping[str, str]) -> Target | None:
        """Return what `_find_target` returns; None if that would take a login."""
        found = self._working_dir.find_open()
        return None if found is None else self._target(*found, own)

    def _target(self, conversation: Conversation, path: str, own: Mapping[str, str]) -> Target:
        common = self._env_variables.snapshot()
        common[self.WORKING_DIR_ENV_VAR_NAME] = path
        preload = Preload(self._preload.names, self._preload.modules, common)
        variables = {**common, **own} if own else common
        return Target(conversation, path, variables, None, preload, self._shares)

    def _operate(self, operation: str, **arguments: Any) -> Any:
        """Run an operation on the host, in the working directory; see `Target.operate`."""
        return self._find_target({}).operate(operation, **arguments)
