"""Write a file, or a folder with what is in it, to its destination; see `TreeWriter`."""

import contextlib
import errno
import os
import posix
import stat

from . import folders
from .folders import call_if_supported, entry_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .folders import Attributes, Changes

FLUSH_SIZE = 1 << 23  # bytes of a file after which the system begins to write them to the disk

# Why a file that may be written may not be replaced: its folder is read-only or another account's,
# it is a mount point, or the file system cannot rename.
_NOT_REPLACED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ENOSYS),
    *(errno.ENOTSUP, errno.EOPNOTSUPP),
)
_OPEN_IN_PLACE = os.O_WRONLY | os.O_NOFOLLOW  # not O_TRUNC: the file may be its own source
_OPEN_TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_ADVISE = getattr(os, "posix_fadvise", None)  # macOS has none
_NOT_NEEDED = getattr(os, "POSIX_FADV_DONTNEED", 0)


class TwiceError(ValueError):
    """An entry that comes twice, or two names that are equal to the file system."""


class TreeWriter:
    """Write one file, or one folder and what is in it, each file completely or not at all.

    A file or folder that does not exist is written to a temporary beside its destination, which
    `finish` moves there. A folder that exists is written into, entry by entry: each file and link
    is written to a temporary in the folder where it will live, and moved when it is complete. So it
    gets the group and the access list that this folder gives, it cannot meet a mount on its way,
    and the folders above need not be writable. New folders are made there. Folders that exist keep
    their modes and get the new mtimes, as with `rsync -rlt`.

    At any time there is at most one temporary, and always under the same name. `on_temporary` gets
    its path before it is made: once for each folder in which anything is written.

    With `in_place` there are no temporaries: a file that exists is overwritten, and keeps its mode,
    owner, access list and other names; all else is made under its own name. What was being written
    when the copy ends early has the beginning of the new file then, and the rest of the old one.

    As root, a file that replaces a file gets the owner and group of the old one. What a file system
    cannot keep, modes on FAT for example, is not an error.
    """

    def __init__(
        self,
        path: "str",
        on_temporary: "Callable[[str], object] | None" = None,
        follows: "bool" = False,
        in_place: "bool" = False,
    ) -> "None":
        """Create nothing yet; with `follows` the path may be a link to a folder to write into."""
        self._path = os.fsencode(path)
        self._on_temporary = on_temporary
        self._follows = follows
        self._in_place = in_place
        self._temporary = folders.TEMPORARY_PREFIX + os.urandom(8).hex().encode()
        self._is_noted = False  # `on_temporary` has been called for the current folder
        # What is incomplete, in the current folder or for the path itself: the temporary, or with
        # `in_place` a new file.
        self._made = b""
        self._is_new = False  # the temporary is a folder, and everything is written into it
        self._folder = folders.Folder(-1)  # the current one
        self._levels = []  # type: list[Changes]  # for the current folder and its parents
        # The inodes of what was written to a folder that exists, for each level.
        self._written = []  # type: list[set[int]]
        self._device = 0
        self._file = -1  # the current one
        self._replaced = None  # type: os.stat_result | None  # what it replaces
        self._overwrites = False  # the current file is the old one
        self._size = self._flushed = 0  # bytes of the file written, and of those on their way
        self._last = []  # type: list[bytes]  # the names of the last entry that reached its place
        self._placed = 0  # entries that have
        self._keeps_owners = os.geteuid() == 0

    @property
    def depth(self) -> "int":
        """Return how many folders have been entered and not left."""
        return len(self._levels)

    @property
    def folder(self) -> "folders.Folder":
        """Return the current folder."""
        return self._folder

    def start_file(self, name: "bytes") -> "None":
        """Begin a new file in the current folder; the name is empty for the path itself."""
        path, folder = self._prepare(name, for_file=True)
        flags = _OPEN_IN_PLACE if self._overwrites else _OPEN_TO_WRITE
        try:
            self._file = os.open(path, flags, 0o600, dir_fd=folder)
        except FileExistsError:
            if not self._is_new:
                raise
            raise self._twice() from None
        if not self._is_new and not self._overwrites:
            self._made = path
        self._size = self._flushed = 0

    def write(self, data: "memoryview") -> "None":
        """Write the next bytes of the current file."""
        written = os.write(self._file, data)
        while written < len(data):
            written += os.write(self._file, data[written:])
        self._size += written
        if self._size - self._flushed >= FLUSH_SIZE and not self._levels and _ADVISE:
            # Linux begins to write this part to the disk, so that the end need not wait for all of
            # it: 0.1 of 0.7 s for 256 MB that come in 0.6 s.
            _ADVISE(self._file, self._flushed, self._size - self._flushed, _NOT_NEEDED)
            self._flushed = self._size

    def end_file(self, attributes: "Attributes", keeps_mode: "bool" = True) -> "None":
        """Complete the current file; one that was overwritten keeps its mode, or gets the new one.

        Only such a file can keep a mode.
        """
        status, old = None, self._replaced
        if not self._is_new:  # in a new folder each system call for a file counts
            status = os.fstat(self._file)
        if self._overwrites and status is not None:
            if status.st_size > self._size:
                os.ftruncate(self._file, self._size)
            mode = None if keeps_mode else attributes[0]
            folders.set_attributes(self._file, (mode, attributes[1]))
        else:
            if old is not None and self._keeps_owners and stat.S_ISREG(old.st_mode):
                call_if_supported(os.fchown, self._file, old.st_uid, old.st_gid)
            folders.set_attributes_of_new_file(self._file, attributes)
        if not self._levels:
            call_if_supported(os.fsync, self._file)
        fd, self._file = self._file, -1
        posix.close(fd)  # NFS may report here that its disk is full
        self._place(status)

    def drop_entry(self) -> "str":
        """Give up the current entry, and remove what there is of it; return its path."""
        path = self._folder.path(self._path)
        fd, self._file = self._file, -1
        made, self._made = (self._made, b"") if not self._is_new else (b"", self._made)
        folder = self._folder.fd if self._levels else None
        if fd >= 0:
            with contextlib.suppress(OSError):  # NFS reports failed writes here
                posix.close(fd)
            made = self._folder.entry if self._is_new else made
        if made:
            os.unlink(made, dir_fd=folder)
        self._replaced = None
        self._folder.entry = b""
        return path

    def usual_attributes(self) -> "Attributes":
        """Return the mode of the file that is replaced or of a new one, and the time of now."""
        old, time = self._replaced, os.fstat(self._file).st_mtime_ns
        if old is not None and stat.S_ISREG(old.st_mode):
            return stat.S_IMODE(old.st_mode), time
        return 0o666 & ~_umask(), time

    def link(self, name: "bytes", target: "bytes", attributes: "Attributes") -> "None":
        """Make a link in the current folder."""
        path, folder = self._prepare(name, for_file=False)
        try:
            os.symlink(target, path, dir_fd=folder)
        except FileExistsError:
            if not self._is_new:
                raise
            raise self._twice() from None
        if not self._is_new:
            self._made = path
        folders.set_link_time(path, folder, attributes)
        self._place(None if self._is_new else entry_status(path, folder))

    def enter(self, name: "bytes", attributes: "Attributes") -> "None":
        """Go down into a folder, which is made if it does not exist; `name` as for a file."""
        path, above = self._locate(name)
        there = None if self._is_new else self._check(path, above, for_folder=True)
        if there is None:
            path = self._make_folder(path, above, attributes[0])
        if above is None:
            flags = os.O_RDONLY | os.O_DIRECTORY if self._follows else folders.OPEN_FOLDER
            self._folder.fd = os.open(path, flags)
        else:
            self._folder.enter(name)
        self._levels.append(attributes if there is None else self._unlock(attributes))
        self._written.append(set())
        self._is_noted = False

    def leave(self) -> "None":
        """Complete the current folder and go up."""
        attributes = self._levels.pop()
        self._written.pop()
        self._is_noted = False
        if self._levels:
            self._folder.leave(attributes)
        else:
            folders.set_attributes(self._folder.fd, attributes)

    def finish(self) -> "None":
        """Move what was new to its destination."""
        if self._made:
            try:
                os.rename(self._made, self._path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                text = "Another process has made it meanwhile; copy again to write into it"
                raise OSError(error.errno, text) from error
            self._made, self._replaced = b"", None
            if not self._is_new:
                call_if_supported(_sync_folder, os.path.dirname(self._path))

    def abort(self) -> "None":
        """Remove the temporary, if there is one, and let go of everything."""
        fd, self._file = self._file, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # NFS reports failed writes here
                posix.close(fd)
        made, self._made = self._made, b""
        if made and (self._is_new or not self._levels):
            folders.remove_tree(os.fsdecode(made))
        elif made:
            with contextlib.suppress(OSError):
                os.unlink(made, dir_fd=self._folder.fd)
        # The folders that exist get their modes again.
        with contextlib.suppress(OSError):  # another process may have moved one
            while self._levels and not self._is_new:
                self.leave()
        self._folder.close()

    def explain(self, error: "OSError", of_sender: "bool") -> "OSError":
        """Return the error with what has reached its place, and with the path that it is about.

        An error of the sender has a path already.
        """
        text = error.strerror or str(error)
        if not of_sender and self._needs_in_place(error.errno):
            text += "; it can be written in place only: in_place=True"
        if self._placed:
            last = os.fsdecode(os.path.join(self._path, *self._last))
            text += "; {} {} in place already, the last one is {!r}".format(
                self._placed, "entry is" if self._placed == 1 else "entries are", last
            )
        path = error.filename if of_sender else self._folder.path(self._path)
        return OSError(error.errno, text, path)

    def _locate(self, name: "bytes") -> "tuple[bytes, int | None]":
        """Make an entry the current one; return its path, and the folder that it begins at."""
        self._folder.entry = name
        return (name, self._folder.fd) if self._levels else (self._path, None)

    def _check(
        self, path: "bytes", folder: "int | None", for_folder: "bool"
    ) -> "os.stat_result | None":
        """Return the status of what will be replaced or written into; None if there is nothing."""
        if folder is None:
            # If it exists and is not a folder, creating the temporary in it reports that.
            with contextlib.suppress(FileExistsError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
        there = entry_status(path, folder)
        if there is None:
            return None
        if for_folder and folder is None and self._follows and stat.S_ISLNK(there.st_mode):
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(path)
        _check_replaceable(there.st_mode, for_folder)
        if self._written and there.st_ino in self._written[-1] and there.st_dev == self._device:
            self._check_name(path)
        return there

    def _needs_in_place(self, number: "int | None") -> "bool":
        """Return True after the error of an entry that can be written, but not moved to its place.

        So it is with a file that exists, and with all on a file system that cannot rename.
        """
        if self._in_place or number not in _NOT_REPLACED:
            return False
        if number == errno.ENOSYS:
            return True
        old = self._replaced
        if old is None or not stat.S_ISREG(old.st_mode):
            return False
        path, folder = self._locate(self._folder.entry)
        return os.access(path, os.W_OK, dir_fd=folder)

    def _prepare(self, name: "bytes", for_file: "bool") -> "tuple[bytes, int | None]":
        """Return the path where a file or link is written, and the folder that it begins at."""
        path, folder = self._locate(name)
        if self._is_new:
            return path, folder
        old = self._replaced = self._check(path, folder, for_folder=False)
        if not self._in_place:
            return self._prepare_temporary(), folder
        self._overwrites = old is not None and for_file and stat.S_ISREG(old.st_mode)
        if old is not None and not self._overwrites:  # a link is replaced, and not its target
            os.unlink(path, dir_fd=folder)
            self._replaced = None
        return path, folder

    def _prepare_temporary(self) -> "bytes":
        """Return the path of a temporary in the current folder, which is known from now on."""
        above = self._path if self._levels else os.path.dirname(self._path)
        path = os.path.join(above, *self._folder.names, self._temporary)
        if self._on_temporary is not None and not self._is_noted:
            self._on_temporary(os.fsdecode(path))
            self._is_noted = True
        return self._temporary if self._levels else path

    def _make_folder(self, path: "bytes", above: "int | None", mode: "int") -> "bytes":
        """Make a folder, a temporary if it is the path itself; return the path of it."""
        if above is None and not self._in_place:
            path = self._prepare_temporary()
            os.mkdir(path, 0o700)
            self._made, self._is_new = path, True
            return path
        try:
            # The final mode at once: nothing would mend it after a `kill -9`, since the next copy
            # finds a folder that exists.
            os.mkdir(path, mode & 0o1777 | 0o700, dir_fd=above)
        except FileExistsError:  # another process has made it meanwhile
            if self._is_new:
                raise self._twice() from None
        return path

    def _unlock(self, attributes: "Attributes") -> "Changes":
        """Return the changes that a folder that existed gets in the end.

        It keeps its mode. If it is read-only, and the folder to be written into it is, too, most
        likely it is a copy of this very folder; then it is writable until then.
        """
        fd = self._folder.fd
        mode = None  # type: int | None
        if not attributes[0] & stat.S_IWUSR and not os.access(".", os.W_OK, dir_fd=fd):
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            call_if_supported(os.fchmod, fd, mode | 0o700)
        return mode, attributes[1]

    def _place(self, status: "os.stat_result | None") -> "None":
        """Move a complete entry to its place, unless `finish` does."""
        folder = self._folder
        if self._in_place:
            self._made, self._replaced = b"", None
        elif self._levels and not self._is_new:
            os.rename(self._made, folder.entry, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            self._made, self._replaced = b"", None
        if self._levels and not self._is_new:
            self._placed += 1
            self._last = [*folder.names, folder.entry]
            if status is not None:
                self._written[-1].add(status.st_ino)
                self._device = status.st_dev
        folder.entry = b""

    def _check_name(self, name: "bytes") -> "None":
        """Raise an error if an entry that exists has another name, one of other case for example.

        It has an inode that was written here. That alone proves nothing: another process may have
        replaced that file, and the inode is one of its files now.
        """
        if os.fsdecode(name) not in os.listdir(self._folder.fd):
            raise self._twice()

    def _twice(self) -> "TwiceError":
        path = self._folder.path(self._path)
        return TwiceError(
            "{!r} comes twice (or two names are equal to this file system)".format(path)
        )


def _check_replaceable(mode: "int", for_folder: "bool") -> "None":
    """Raise an OSError if what exists may be neither replaced nor written into."""
    if for_folder:
        if stat.S_ISLNK(mode):
            raise OSError(
                errno.ENOTDIR,
                "It is a link, and a folder does not replace it; to write into the folder that it "
                "leads to, copy the contents: put a slash at the end of the source",
            )
        if not stat.S_ISDIR(mode):
            raise OSError(errno.ENOTDIR, "It is not a folder, and a folder does not replace it")
    elif stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "It is a folder, and a file or link does not replace it")
    elif not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OSError(errno.EEXIST, "It exists and is neither a file nor a link")  # /dev/null


def _sync_folder(path: "bytes") -> "None":
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        posix.close(fd)


def _umask() -> "int":
    """Return the umask. To ask the system is to set it, and threads make files meanwhile."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):  # from Linux 4.7 on
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
