"""Read the sources of the modules that run on the host, and pack them for their way there."""

from __future__ import annotations

import importlib.util
from functools import cache

from lazycluster._shared import archive
from lazycluster._shared.operations import (
    BOOTSTRAP_MODULES,
    IMPORTED_MODULES,
    SELDOM_IMPORTED_MODULES,
    STEP_MODULES,
)
from lazycluster._ssh.scripts import read_file
from lazycluster.exceptions import SerializationError

HOST_PACKAGE = "_lazycluster"  # the package's name on the host, see `_remote/loader.py`


def read_source(name: str) -> bytes:
    """Return the text of a module, named relative to the package: `_remote.loader`."""
    return read_file(name.replace(".", "/") + ".py")


@cache
def bootstrap_archive() -> bytes:
    """Return the archive of the modules that every connection needs."""
    return archive.pack({name: read_source(name).decode() for name in BOOTSTRAP_MODULES})


@cache
def cloudpickle_sources() -> dict[str, str]:
    """Return the source of each module of cloudpickle by its name, the package first.

    Raises:
        SerializationError: If cloudpickle was installed without its source.
    """
    sources = {}
    # cloudpickle_fast exists only for old pickles, and not in every version.
    for name in ("cloudpickle", "cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        get_source = getattr(spec.loader, "get_source", None)  # also from within a zip
        source = get_source(name) if get_source is not None else None
        if source is None:
            raise SerializationError(
                f"the source of {name} cannot be read, so functions cannot be sent to a host. "
                "Install cloudpickle with its .py files."
            )
        sources[name] = source
    return sources


@cache
def module_archive(name: str) -> bytes:
    """Return the archive of a module that is sent at its first use, with what it imports."""
    seldom = SELDOM_IMPORTED_MODULES.get(name, ())
    names = (*IMPORTED_MODULES.get(name, ()), *seldom, name)
    sources = {f"{HOST_PACKAGE}.{name}": read_source(name).decode() for name in names}
    if name == STEP_MODULES["function"]:
        sources.update(cloudpickle_sources())
    return archive.pack(sources, {f"{HOST_PACKAGE}.{name}" for name in seldom})
