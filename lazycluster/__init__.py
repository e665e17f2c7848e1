"""Commands, Python functions, files and ports on any host that you can `ssh` to."""

from __future__ import annotations

TYPE_CHECKING = False  # typing alone takes longer than all of this
if TYPE_CHECKING:
    from lazycluster.connection import Connection
    from lazycluster.exceptions import LazyclusterError
    from lazycluster.runtimes import Runtime, RuntimeTask

__all__ = ["Connection", "LazyclusterError", "Runtime", "RuntimeTask", "__version__"]

__version__ = "0.3.0"

_ROOMS = {
    "Connection": "connection",
    "LazyclusterError": "exceptions",
    "Runtime": "runtimes",
    "RuntimeTask": "runtimes",
}


def __getattr__(name: str) -> object:
    """Import a name at its first use (PEP 562): who imports us need not use us."""
    import importlib

    if name in ("connection", "exceptions", "runtimes", "tasks"):
        return importlib.import_module(f"lazycluster.{name}")
    if name not in _ROOMS:
        raise AttributeError(f"module 'lazycluster' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lazycluster.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, those that have not been used yet among them."""
    return sorted({*globals(), *__all__})
