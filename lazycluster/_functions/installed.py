"""Decide which modules are installed: the host must have those, and the others are sent to it.

A module is installed if it belongs to the standard library, or to a distribution whose metadata is
in the folder that it is imported from and names it. So a `pip --target` folder on PYTHONPATH has
installed modules. What lies beside the script, or belongs to an editable installation, is local.

importlib.metadata is not used: its import takes 20 ms (measured), and before Python 3.10 it does
not say which distribution has a module. The metadata of a folder is read at the first module that
comes from it; for 500 distributions that takes some 20 ms (measured).
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable

# Where a system's own package manager installs; some of its modules have no metadata (`debconf` of
# Debian). By the Filesystem Hierarchy Standard pip and users have /usr/local and their homes.
# Nothing but Nix and Guix writes into their stores.
_SYSTEM_FOLDER = re.compile(
    r"/usr/lib(64)?/python3[^/]*/(site|dist)-packages(/|\Z)|/(nix|gnu)/store/"
)

# An .egg-info without a version is what setuptools leaves beside sources, for an editable
# installation or a build; then only a list of files shows that something was installed.
_VERSIONED = re.compile(r"([^-]+)-[^-].*\.(dist|egg)-info\Z")
_EDITABLE = re.compile(rb'"editable"\s*:\s*true')

_METADATA = (".dist-info", ".egg-info")
_NAME = re.compile(r"-|\.(?:dist|egg)-info\Z")  # ends the name of a distribution
_DESCRIPTIONS = ("METADATA", "PKG-INFO", "entry_points.txt", "top_level.txt")
_FILES = {"RECORD", "direct_url.json", "installed-files.txt", "top_level.txt"}


def is_installed(name: str, path: str) -> bool:
    """Return True if a module belongs to the standard library or to an installed distribution.

    Args:
        name: The full name of the module.
        path: Its file, or a folder of a package without a file.
    """
    path = os.path.abspath(path)
    if is_of_standard_library(path):
        return True
    location = _find_location(name, path)
    if _has_distribution(location, path):
        return True
    # A .pth file or a package that has others within may put a folder of an installed distribution
    # on sys.path: `win32/lib` of pywin32, `_vendor` of setuptools.
    above = {os.path.abspath(entry) for entry in list(sys.path) if isinstance(entry, str)}
    return any(
        location.startswith(os.path.join(folder, "")) and _has_distribution(folder, path)
        for folder in above - {location}
    )


@functools.cache
def _standard_library() -> tuple[str, ...]:
    """Return the folders of the standard library, with a trailing slash."""
    import sysconfig

    folders = {os.path.dirname(os.__file__)}
    folders |= {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib")}
    version = f"python{sys.version_info[0]}{sys.version_info[1]}"
    folders.add(os.path.join(sys.base_prefix, "lib", f"{version}.zip"))
    folders |= {os.path.realpath(folder) for folder in folders}
    return tuple(os.path.join(os.path.abspath(folder), "") for folder in sorted(folders))


def is_of_standard_library(path: str) -> bool:
    for folder in _standard_library():
        if path.startswith(folder):
            first = path[len(folder) :].partition(os.sep)[0]
            return first not in ("site-packages", "dist-packages")
    return False


def _find_location(name: str, path: str) -> str:
    """Return the folder from which a module with this file or folder is imported."""
    base = os.path.dirname(path) if os.path.basename(path).startswith("__init__.") else path
    for part in reversed(name.split(".")):
        if os.path.basename(base).partition(".")[0] != part:
            return os.path.dirname(path)  # a file that was loaded under another name than its own
        base = os.path.dirname(base)
    return base


def _has_distribution(folder: str, path: str) -> bool:
    """Return True if a distribution has installed what is on the way from the folder to the path.

    A change of the folder, as by `pip install` in a notebook, is seen.
    """
    if _SYSTEM_FOLDER.match(folder):
        return True
    top = os.path.relpath(path, folder).partition(os.sep)[0].partition(".")[0]
    outermost = folder
    while not os.path.exists(outermost) and outermost != os.path.dirname(outermost):
        outermost = os.path.dirname(outermost)  # the zip file, if the folder is in one
    try:
        version = os.stat(outermost).st_mtime_ns
    except OSError:
        return False
    archive = outermost if os.path.isfile(outermost) else None
    return _has_installed(folder, top, archive, version) or _is_of_conda(folder, top)


@functools.lru_cache(maxsize=4096)
def _has_installed(folder: str, top: str, archive: str | None, version: int) -> bool:
    """Return True if a distribution has installed a module with this top-level name."""
    read: Callable[[str], bytes | None]
    try:
        if archive is None:
            entries, read = os.listdir(folder), functools.partial(_read_file, folder)
        else:
            inside = folder[len(archive) + 1 :].replace(os.sep, "/")
            contents = _read_archive(archive, inside, version)
            entries, read = [name.partition("/")[0] for name in contents], contents.get
    except Exception:  # it cannot be read or is not a zip file, so Python imports nothing from it
        return False
    found = {entry for entry in entries if entry.endswith(("-info", "-INFO"))}
    # Most distributions have the name of their module: they come first.
    like = top.lower()
    ordered = sorted(found, key=lambda entry: not entry.lower().startswith(like))
    return any(_names(entry, read, top.encode()) for entry in ordered)


def _read_file(folder: str, name: str) -> bytes | None:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()
    except OSError:
        return None


@functools.lru_cache(maxsize=8)
def _read_archive(archive: str, inside: str, _version: int) -> dict[str, bytes]:
    """Return the files with metadata in a folder of a zip file, by their paths in the folder."""
    import zipfile

    contents = {}
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            path = name[len(inside) + 1 :] if inside else name
            parts = path.split("/")
            if name.startswith(inside) and len(parts) == 2 and parts[1] in _FILES:
                contents[path] = opened.read(name)
    return contents


def _names(entry: str, read: Callable[[str], bytes | None], top: bytes) -> bool:
    """Return True if a distribution has installed this top-level name, by its metadata."""
    record = read(f"{entry}/RECORD")
    if record is not None:
        record = b"\n" + record
        if b"\n" + top + b"/" not in record and b"\n" + top + b"." not in record:
            return False  # an editable installation has recorded a .pth file or a finder
        # flit's editable installation has recorded links.
        origin = read(f"{entry}/direct_url.json")
        return origin is None or _EDITABLE.search(origin) is None
    installed = read(f"{entry}/installed-files.txt")
    if installed is not None:
        return b"../" + top + b"/" in installed or b"../" + top + b"." in installed
    versioned = _VERSIONED.match(entry)
    if versioned is None and entry != "EGG-INFO":
        return False
    top_level = read(f"{entry}/top_level.txt")
    if top_level is not None:
        return top in top_level.split()
    # distutils leaves a file without a list: the name of the distribution is all there is.
    return versioned is not None and versioned[1].lower().encode() == top.lower()


def _is_of_conda(folder: str, top: str) -> bool:
    """Return True if a package of conda has this name; some have no metadata of Python."""
    prefix = os.path.abspath(os.path.join(folder, os.pardir, os.pardir, os.pardir))
    records = os.path.join(prefix, "conda-meta")
    inside = f'"{os.path.relpath(folder, prefix)}/{top}'.encode()
    try:
        names = [name for name in os.listdir(records) if name.endswith(".json")]
    except OSError:
        return False
    for name in names:
        record = _read_file(records, name) or b""
        if inside + b"/" in record or inside + b"." in record:
            return True
    return False


def find_metadata(name: str, *, by_contents: bool) -> dict[str, bytes]:
    """Return the metadata of the distribution that a top-level module belongs to.

    Also of an editable one: a package may ask for its own version when it is imported.

    Args:
        name: The name of the module.
        by_contents: If True, a distribution with another name is looked for as well.

    Returns:
        The contents of files by their names, such as `METADATA`; empty if there is none.
    """
    folders = [entry for entry in list(sys.path) if isinstance(entry, str)]
    for has_name in (True, False) if by_contents else (True,):
        for folder in dict.fromkeys(folders):
            read = functools.partial(_read_file, folder)
            for entry in _list_metadata(folder):
                if (
                    _normalized(_NAME.split(entry)[0]) == _normalized(name)
                    if has_name
                    else _names(entry, read, name.encode())
                ):
                    found = {file: read(f"{entry}/{file}") for file in _DESCRIPTIONS}
                    if found["METADATA"] or found["PKG-INFO"]:
                        return {file: text for file, text in found.items() if text is not None}
    return {}


def _list_metadata(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder or ".") if name.endswith(_METADATA)]
    except OSError:
        return []


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
