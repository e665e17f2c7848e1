"""Commands, Python functions, files and ports on any host that you can `ssh` to."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes longer than the rest of this module
if TYPE_CHECKING:
    from lazycluster.connection import Connection
    from lazycluster.exceptions import LazyclusterError
    from lazycluster.runtimes import Runtime, RuntimeTask

__all__ = ["Connection", "LazyclusterError", "Runtime", "RuntimeTask", "__version__"]

__version__ = "0.3.0"

_PUBLIC_MODULES = (
    "connection",
    "exceptions",
    "forwards",
    "futures",
    "processes",
    "runtimes",
    "tasks",
)

_MODULE_OF_NAME = {
    "Connection": "connection",
    "LazyclusterError": "exceptions",
    "Runtime": "runtimes",
    "RuntimeTask": "tasks",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562): `import lazycluster` takes a few ms."""
    import importlib

    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"lazycluster.{name}")
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'lazycluster' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lazycluster.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted([*__all__, *_PUBLIC_MODULES])
