"""Read the files of a package that is sent as a whole, also those that are not Python."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

Listing = tuple[tuple[str, int, int], ...]


def list_files(spec: ModuleSpec) -> Listing:
    """Return the paths of a package's files, each with its time and size; none for a module."""
    found: set[tuple[str, int, int]] = set()
    for folder in spec.submodule_search_locations or []:
        if os.path.isdir(folder):
            found.update(_list_folder(folder))
        else:
            found.update(_list_archive(getattr(spec.loader, "archive", None), folder))
    return tuple(sorted(found))


def _list_folder(folder: str) -> Iterator[tuple[str, int, int]]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = os.path.join(root, name)
            try:
                status = os.stat(path)
            except OSError:  # a link to nowhere, as editors leave it
                continue
            if stat.S_ISREG(status.st_mode) and not name.endswith(".pyc"):
                yield path, status.st_mtime_ns, status.st_size


def _list_archive(archive: str | None, folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield the files below a folder in a zip file."""
    if archive is None:
        return
    import zipfile

    time = os.stat(archive).st_mtime_ns
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            path = os.path.join(archive, entry.filename)
            if path.startswith(os.path.join(folder, "")) and not path.endswith(("/", ".pyc")):
                yield path, time, entry.file_size


def read_files(spec: ModuleSpec, listing: Listing) -> dict[str, bytes]:
    """Return the contents of files by their paths.

    Raises:
        OSError: If a file cannot be read.
    """
    get_data = getattr(spec.loader, "get_data", None) or _read  # zipimport has it
    return {os.path.normpath(path): get_data(path) for path, *_ in listing}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
