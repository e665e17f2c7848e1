"""Remove at the destination of a copy what its source does not have."""

import contextlib
import errno
import os
import stat

from . import folders, patterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable


class Deletion:
    """Note what a copy brings to each folder, and remove the rest at its end.

    What the patterns `exclude` stays, with the folders above it, and so do the library's
    temporaries. Links are removed, never followed. What is on another file system is an error.
    """

    def __init__(self, path: "str", exclude: "Iterable[str]") -> "None":
        self._path = path
        self._excludes = patterns.compile_patterns(exclude)
        self._names = []  # type: list[set[bytes]]  # of the current folder, and of those above
        self._device = 0  # of the folder that something is removed from
        self._surplus = []  # type: list[tuple[list[bytes], bytes]]  # names of folders, and a name

    def check(self, is_folder: "bool") -> "None":
        """Check the source, which is a folder or not, and the destination, before anything is made.

        Raises:
            OSError: EINVAL if nothing may be deleted there: it holds all of the account.
        """
        if not is_folder:
            raise OSError(errno.EINVAL, "delete=True needs a folder as the source")
        home = os.path.realpath(os.path.expanduser("~"))
        if (home + "/").startswith(os.path.realpath(self._path).rstrip("/") + "/"):
            raise OSError(errno.EINVAL, "delete=True would delete what is in the home directory")

    def note(self, *names: "bytes") -> "None":
        """Note entries of the current folder that the source has."""
        if self._names:
            self._names[-1].update(names)

    def enter(self, name: "bytes") -> "None":
        """Note a folder that the source has, and go down into it."""
        self.note(name)
        self._names.append(set())

    def leave(self, folder: "folders.Folder") -> "None":
        """Find what is in the current folder, which is complete, and not in the source."""
        names = self._names.pop()
        there = folders.entries(folder.fd)
        surplus = [(kind, name) for kind, name in there if name not in names]
        if not surplus:
            return
        # A file system may have another spelling of a name than the source: ß and SS, é and é.
        absent = names.difference(name for _, name in there)
        same = {_inode(name, folder.fd) for name in absent}
        above = b"".join(name + b"/" for name in folder.names)
        for kind, name in surplus:
            if not self._stays(above + name, kind) and _inode(name, folder.fd) not in same:
                self._surplus.append((list(folder.names), name))

    def remove(self) -> "None":
        """Remove all that was found.

        Raises:
            OSError: If something cannot be removed, with its path.
        """
        for names, name in self._surplus:
            with contextlib.closing(folders.Folder(-1)) as folder:
                try:
                    folder.fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
                    for above in names:
                        folder.enter(above)
                    folder.entry = name
                    self._remove_entry(folder, name)
                except FileNotFoundError:  # another process has removed it
                    pass
                except OSError as error:
                    text = "{} (it is to be deleted; all else is done)".format(error.strerror)
                    raise OSError(
                        error.errno, text, folder.path(os.fsencode(self._path))
                    ) from error

    def _remove_entry(self, folder: "folders.Folder", name: "bytes") -> "None":
        status = os.fstat(folder.fd)
        self._device, time = status.st_dev, status.st_mtime_ns  # the source's time
        self._remove_tree(folder, name)
        folders.call_if_supported(os.utime, folder.fd, ns=(time, time))

    def _remove_tree(self, folder: "folders.Folder", name: "bytes") -> "None":
        status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=folder.fd)
            return
        folder.enter(name)
        for kind, entry in folders.walk(folder, choose=self._chosen):
            if kind == folders.LEAVE:
                _remove_folder(folder, entry)
            elif kind != stat.S_IFDIR:
                os.unlink(entry, dir_fd=folder.fd)
        folder.leave()
        _remove_folder(folder, name)

    def _chosen(self, folder: "folders.Folder") -> "list[tuple[int, bytes]]":
        if os.fstat(folder.fd).st_dev != self._device:
            raise OSError(errno.EBUSY, "Another file system is mounted on it; exclude it")
        above = b"".join(name + b"/" for name in folder.names)
        found = folders.entries(folder.fd)
        return [(kind, name) for kind, name in found if not self._stays(above + name, kind)]

    def _stays(self, path: "bytes", kind: "int") -> "bool":
        if folders.is_temporary_name(path.rpartition(b"/")[2]):
            return True
        return self._excludes is not None and self._excludes(path, kind == stat.S_IFDIR)


def _remove_folder(folder: "folders.Folder", name: "bytes") -> "None":
    """Remove a folder, unless something in it stays."""
    try:
        os.rmdir(name, dir_fd=folder.fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _inode(name: "bytes", folder: "int") -> "tuple[int, int] | None":
    status = folders.entry_status(name, folder)
    return None if status is None else (status.st_dev, status.st_ino)
