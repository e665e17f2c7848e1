"""Commands, Python functions, files and ports on any host that you can `ssh` to."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes longer than the rest of this module
if TYPE_CHECKING:
    from lazycluster.actors import Actor
    from lazycluster.connection import Connection
    from lazycluster.exceptions import (
        ActorLostError,
        AuthenticationError,
        CommandError,
        ConnectError,
        ConnectionLostError,
        FileAccessError,
        FileTransferError,
        ForwardError,
        GroupError,
        HostKeyError,
        InvalidRuntimeError,
        IsAFolderError,
        LazyclusterError,
        MissingFileError,
        NoPortsLeftError,
        NoRuntimesDetectedError,
        NotAFolderError,
        PathCreationError,
        PortInUseError,
        ProtocolError,
        PythonNotFoundError,
        PythonVersionError,
        RemoteFunctionError,
        SerializationError,
        SshError,
        StepTimeoutError,
        TargetExistsError,
        TaskExecutionError,
        UnsuitableFileError,
    )
    from lazycluster.groups import RuntimeGroup
    from lazycluster.manager import RuntimeManager
    from lazycluster.pool import Pool
    from lazycluster.runtimes import Runtime, RuntimeTask
    from lazycluster.shared_values import SharedValue
    from lazycluster.utils import Environment

__all__ = [
    "Actor",
    "ActorLostError",
    "AuthenticationError",
    "CommandError",
    "ConnectError",
    "Connection",
    "ConnectionLostError",
    "Environment",
    "FileAccessError",
    "FileTransferError",
    "ForwardError",
    "GroupError",
    "HostKeyError",
    "InvalidRuntimeError",
    "IsAFolderError",
    "LazyclusterError",
    "MissingFileError",
    "NoPortsLeftError",
    "NoRuntimesDetectedError",
    "NotAFolderError",
    "PathCreationError",
    "Pool",
    "PortInUseError",
    "ProtocolError",
    "PythonNotFoundError",
    "PythonVersionError",
    "RemoteFunctionError",
    "Runtime",
    "RuntimeGroup",
    "RuntimeManager",
    "RuntimeTask",
    "SerializationError",
    "SharedValue",
    "SshError",
    "StepTimeoutError",
    "TargetExistsError",
    "TaskExecutionError",
    "UnsuitableFileError",
    "__version__",
]

__version__ = "0.3.0"

_PUBLIC_MODULES = (
    "actors",
    "connection",
    "exceptions",
    "forwards",
    "futures",
    "groups",
    "manager",
    "pool",
    "processes",
    "runtime_mgmt",
    "runtimes",
    "shared_values",
    "tasks",
    "utils",
)

_MODULE_OF_NAME = {
    "Actor": "actors",
    "Connection": "connection",
    "Environment": "utils",
    "Pool": "pool",
    "Runtime": "runtimes",
    "RuntimeGroup": "groups",
    "RuntimeManager": "manager",
    "RuntimeTask": "tasks",
    "SharedValue": "shared_values",
}  # of all other names it is `exceptions`


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562): `import lazycluster` takes a few ms."""
    import importlib

    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"lazycluster.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'lazycluster' has no attribute {name!r}")
    module = importlib.import_module(f"lazycluster.{_MODULE_OF_NAME.get(name, 'exceptions')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted([*__all__, *_PUBLIC_MODULES])
