"""Walk a folder by descriptor, never through a link, and remove folders.

Every connection has this module from its login on, since its end removes temporary folders.
"""

import contextlib
import errno
import os
import posix
import stat
import sys

from . import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Optional

    Attributes = tuple[int, int]  # mode, nanoseconds of the mtime
    Changes = tuple[Optional[int], int]  # the same, and None for a mode that stays
    Stayed = list[tuple[str, str]]  # path, reason
    Choose = Callable[["Folder"], list[tuple[int, bytes]]]

# What `walk` yields in place of a type; no file type of `stat` has such a value.
LEAVE = 3  # behind a folder
UNREADABLE = 5  # a folder that cannot be read

MOST_STAYED = 1000  # entries that stayed, in an answer
TEMPORARY_PREFIX = b".lazycluster-"
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# A file system without modes or times (FAT, some FUSE ones) answers with one of these errors, and
# so does a folder that another account owns or that cannot be read. What the library creates has
# 0600 or 0700 until it is complete.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Folder:
    """An open folder that can go down by name and up again.

    It holds one descriptor at any depth and never follows a link. Paths would fail beyond 4096
    bytes, and one descriptor per level would fail at `ulimit -n`.
    """

    def __init__(self, fd: "int") -> "None":
        self.fd = fd  # of the current folder
        self.names = []  # type: list[bytes]  # of the folders entered
        self.entry = b""  # the name of the current entry; empty for the folder itself
        self._above = []  # type: list[tuple[int, int]]  # device and inode of each parent

    def enter(self, name: "bytes") -> "None":
        """Go down into a folder; an OSError if the entry is not one or cannot be opened."""
        below = os.open(name, OPEN_FOLDER, dir_fd=self.fd)
        status = os.fstat(self.fd)
        posix.close(self.fd)
        self.fd = below
        self.names.append(name)
        self.entry = b""
        self._above.append((status.st_dev, status.st_ino))

    def leave(self, attributes: "Changes | None" = None) -> "bytes":
        """Set the folder's attributes, if given, and go up; return the name of the folder.

        Raises:
            OSError: ESTALE if another process has moved the folder.
        """
        above = os.open("..", OPEN_FOLDER, dir_fd=self.fd)
        try:
            status = os.fstat(above)
            if self._above.pop() != (status.st_dev, status.st_ino):
                raise system_error(errno.ESTALE)
            if attributes is not None:
                set_attributes(self.fd, attributes)
        except OSError:
            posix.close(above)
            raise
        posix.close(self.fd)
        self.fd = above
        return self.names.pop()

    def path(self, root: "bytes") -> "str":
        """Return the path of the current entry, for messages; it may be too long to be used."""
        names = [*self.names, self.entry] if self.entry else self.names
        return os.fsdecode(os.path.join(root, *names))

    def close(self) -> "None":
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            posix.close(fd)


def walk(
    folder: "Folder",
    removing: "bool" = False,
    choose: "Choose | None" = None,
    on_error: "Callable[[OSError], object] | None" = None,
) -> "Iterator[tuple[int, bytes]]":
    """Yield everything in a folder as (type, name), the type being S_IFREG or another of `stat`.

    `folder` moves along with the walk. A folder comes twice: as S_IFDIR once `folder` has entered
    it, and as LEAVE once `folder` has left it. The type 0 stands for a FIFO, socket or device, for
    an entry that has vanished, and for a temporary of the library.

    With `removing` a folder that cannot be entered is made readable, temporaries are included, and
    a folder that cannot be entered even so has the type 0. `choose` returns the entries of the
    current folder to yield. `on_error` is called before a folder that cannot be read comes as
    UNREADABLE; without it that is an OSError.
    """
    waiting = []  # type: list[list[bytes]]  # per level, the folders still to enter
    while True:
        waiting.append([])
        try:
            found = entries(folder.fd) if choose is None else choose(folder)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            folder.entry = b""
            yield UNREADABLE, b""
            found = []
        for kind, name in found:
            if not removing and is_temporary_name(name):
                kind = 0
            if kind == stat.S_IFDIR:
                waiting[-1].append(name)
            else:
                folder.entry = name
                yield kind, name
        while True:
            while not waiting[-1]:
                waiting.pop()
                if not waiting:
                    return
                yield LEAVE, folder.leave()
            folder.entry = name = waiting[-1].pop()
            try:
                try:
                    folder.enter(name)
                except PermissionError:
                    if not removing:
                        raise
                    _unlock(name, folder.fd)
                    folder.enter(name)
            except OSError as error:
                if removing or isinstance(error, FileNotFoundError):
                    if removing and on_error is not None:
                        on_error(error)
                    yield 0, name
                elif on_error is None:
                    raise
                else:
                    on_error(error)
                    yield UNREADABLE, name
            else:
                yield stat.S_IFDIR, name
                break


def entries(fd: "int") -> "list[tuple[int, bytes]]":
    """Return type and name of each entry; a list, since the walk may change the folder."""
    found = []
    if sys.version_info < (3, 7):  # its scandir takes no descriptor
        for name in os.listdir(fd):
            status = entry_status(name, fd)
            found.append((stat.S_IFMT(status.st_mode) if status else 0, os.fsencode(name)))
        return found
    with os.scandir(fd) as scanned:
        for entry in scanned:
            if entry.is_file(follow_symlinks=False):
                kind = stat.S_IFREG
            elif entry.is_dir(follow_symlinks=False):
                kind = stat.S_IFDIR
            else:
                kind = stat.S_IFLNK if entry.is_symlink() else 0
            found.append((kind, os.fsencode(entry.name)))
    return found


def remove_tree(path: "str", stayed: "Stayed | None" = None) -> "bool":
    """Remove a file, a link (not its target) or a folder; return True if nothing is left.

    A folder is made writable only where it refuses. An entry that cannot be removed does not save
    the others; `stayed` gets its path and the reason. shutil.rmtree would need a descriptor and a
    Python frame per level, leave read-only folders, and cost 5 ms for its import.
    """
    root = os.fsencode(path)
    notes = [] if stayed is None else stayed
    folder = Folder(-1)
    try:
        if not _remove_entry(root, None):
            try:
                folder.fd = os.open(root, OPEN_FOLDER)
            except PermissionError:
                _unlock(root, None)
                folder.fd = os.open(root, OPEN_FOLDER)
            _empty(folder, root, notes)
            os.rmdir(root)
    except FileNotFoundError:
        pass
    except OSError as error:
        if not notes:  # else it is not empty, which has been said
            notes.append((path, error.strerror or str(error)))
    finally:
        folder.close()
    return not os.path.lexists(path)


def _empty(folder: "Folder", root: "bytes", notes: "Stayed") -> "None":
    def note(error: "OSError") -> "None":
        gone_or_not_empty = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
        if error.errno not in gone_or_not_empty:
            notes.append((folder.path(root), error.strerror or str(error)))

    for kind, name in walk(folder, removing=True, on_error=note):
        if kind in (stat.S_IFDIR, UNREADABLE):
            continue
        folder.entry = name
        try:
            try:
                _remove(kind, name, folder.fd)
            except PermissionError:
                _unlock(b".", folder.fd)
                _remove(kind, name, folder.fd)
        except OSError as error:  # then its folder stays, too
            note(error)


def _remove_entry(name: "bytes", folder: "int | None") -> "bool":
    """Remove what is not a folder; return False for a folder."""
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    os.unlink(name, dir_fd=folder)
    return True


def _remove(kind: "int", name: "bytes", folder: "int") -> "None":
    if kind == LEAVE or (not kind and not _remove_entry(name, folder)):
        os.rmdir(name, dir_fd=folder)
    elif kind:
        os.unlink(name, dir_fd=folder)


def _unlock(name: "bytes", folder: "int | None") -> "None":
    """Let the account read and change a folder; where that is refused, the next call says why."""
    with contextlib.suppress(OSError):
        mode = os.stat(name, dir_fd=folder).st_mode
        if stat.S_IMODE(mode) & 0o700 != 0o700:
            os.chmod(name, stat.S_IMODE(mode) | 0o700, dir_fd=folder)


def delete_directory(path: "str") -> "bool | Stayed | None":
    """Remove a folder, or a link, that a user named.

    Returns None if it is refused: the root and the home directory, whatever the path looks like,
    and a path that ends with `.` or `..`, as for `rm -r`. False: it does not exist. A list has the
    path and the reason of each entry that stayed.
    """
    if os.path.basename(path.rstrip("/")) in (".", ".."):
        return None
    path = paths.expand(path).rstrip("/") or "/"
    if any(_is_same(path, kept) for kept in ("/", os.path.expanduser("~"))):
        return None
    stayed = []  # type: Stayed
    if not os.path.lexists(path):
        return False
    if not os.path.isdir(path) and not os.path.islink(path):
        stayed.append((path, os.strerror(errno.ENOTDIR)))
    elif remove_tree(path, stayed):
        return True
    stayed = stayed or [(path, os.strerror(errno.ENOTEMPTY))]
    # As JSON has them, see `_remote.files`.
    encode = "utf-8", "surrogateescape"
    return [(os.fsencode(name).decode(*encode), reason) for name, reason in stayed[:MOST_STAYED]]


def _is_same(path: "str", other: "str") -> "bool":
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them does not exist
        return False


def contains(folder: "str", path: "str") -> "bool":
    """Return True if a directory that exists is `folder` or below it, through links, too."""
    return (os.path.realpath(path) + "/").startswith(os.path.realpath(folder) + "/")


def identity(status: "os.stat_result", boot: "bytes | None" = None) -> "bytes":
    """Return what no other file or folder has on any computer; empty if that is unknown.

    `boot` is the `boot_id`, if the caller has it. Device and inode alone are equal on computers
    that were installed alike.
    """
    boot = boot_id() if boot is None else boot
    return b"%s %d %d" % (boot, status.st_dev, status.st_ino) if boot else b""


def boot_id() -> "bytes":
    """Return what tells this run of the kernel from all others; empty if that is unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(64).strip()
    except OSError:  # it is not Linux
        return b""


def is_below(path: "str", wanted: "bytes") -> "bool":
    """Return True if a path, which need not exist, is below the folder of an `identity`."""
    boot = boot_id()
    if not wanted.startswith(boot + b" "):
        return False
    here = path + "/.."
    while not os.path.isdir(here) and path != "/":
        here = path = os.path.dirname(path)
    try:
        status = os.stat(here)
        while identity(status, boot) != wanted:
            here += "/.."
            below, status = status, os.stat(here)
            if os.path.samestat(below, status):  # it is the root
                return False
    except OSError:  # a path that is too long, or a folder that may not be entered
        return False
    return True


def entry_status(path: "str | bytes", folder: "int | None" = None) -> "os.stat_result | None":
    """Return the status of an entry, not of a link's target; None if it does not exist."""
    try:
        return os.stat(path, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def set_attributes(fd: "int", attributes: "Changes") -> "None":
    """Set mode and mtime; a setgid bit that a folder inherited from its parent stays.

    A folder may get the sticky bit, too.
    """
    mode = attributes[0]
    if mode is not None:
        now = os.fstat(fd).st_mode
        mode &= 0o1777 if stat.S_ISDIR(now) else 0o777
        call_if_supported(os.fchmod, fd, mode | now & stat.S_ISGID)
    call_if_supported(os.utime, fd, ns=(attributes[1], attributes[1]))


def set_attributes_of_new_file(fd: "int", attributes: "Attributes") -> "None":
    """Set mode and mtime of a file that was just made, which inherits no setgid bit to be kept."""
    call_if_supported(os.fchmod, fd, attributes[0] & 0o777)
    call_if_supported(os.utime, fd, ns=(attributes[1], attributes[1]))


def set_link_time(name: "bytes", folder: "int | None", attributes: "Attributes") -> "None":
    """Set the mtime of a link where the system can."""
    if os.utime in os.supports_follow_symlinks:
        ns = (attributes[1], attributes[1])
        call_if_supported(os.utime, name, ns=ns, dir_fd=folder, follow_symlinks=False)


def call_if_supported(
    call: "Callable[..., object]", *arguments: "object", **keywords: "object"
) -> "None":
    """Call a function that some file systems refuse: to set modes or times, to sync."""
    try:
        call(*arguments, **keywords)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


def is_temporary_name(name: "bytes") -> "bool":
    """Return True for the name of an `Unpacker`'s temporary."""
    return name.startswith(TEMPORARY_PREFIX) and len(name) == len(TEMPORARY_PREFIX) + 16


def system_error(number: "int") -> "OSError":
    """Return an OSError with the system's message."""
    return OSError(number, os.strerror(number))
