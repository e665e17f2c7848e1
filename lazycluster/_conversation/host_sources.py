"""Read the sources of the modules that run on the host, and pack them for their way there."""

from __future__ import annotations

import importlib.util
import types
import zipimport
from functools import cache
from importlib.machinery import SourceFileLoader

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
    sources = {name: read_source(name).decode() for name in BOOTSTRAP_MODULES}
    return archive.pack(sources, find_code=_read_code)


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
    return archive.pack(sources, {f"{HOST_PACKAGE}.{name}" for name in seldom}, _read_code)


def _read_code(name: str) -> types.CodeType | None:
    """Return the bytecode of a module from its .pyc, which takes a tenth of the time to compile it.

    Only a plain loader's: one of a tool may change the code, and the host lacks the tool.
    """
    is_own = not name.startswith("cloudpickle")
    full = f"lazycluster.{name.removeprefix(f'{HOST_PACKAGE}.')}" if is_own else name
    spec = importlib.util.find_spec(full)
    loader = None if spec is None else spec.loader
    if type(loader) not in (SourceFileLoader, zipimport.zipimporter):
        return None
    assert isinstance(loader, (SourceFileLoader, zipimport.zipimporter))
    code = loader.get_code(full)
    return None if code is None else _renamed(code, archive.file_name(name))


def _renamed(code: types.CodeType, file_name: str) -> types.CodeType:
    constants = (
        _renamed(constant, file_name) if isinstance(constant, types.CodeType) else constant
        for constant in code.co_consts
    )
    return code.replace(co_filename=file_name, co_consts=tuple(constants))
