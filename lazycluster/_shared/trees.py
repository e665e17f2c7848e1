"""A file or a folder to a stream of bytes and back, whole or not at all; both halves use it.

The stream is a row of records: a head (kind, mode, mtime, length of the text) and the text, which
is a name, a path, or a link's name and target with a NUL between. Behind FILE come pieces of its
data, each with its length before it, the last one empty; no size is promised, so a file may change
while it is read. FOLDER goes down into a new folder and LEAVE up again, so a name is always a
single one and nothing in the stream can speak of any other place. END is the last record. Where
somebody wants to know how far it is, MEASURE is the first, with what there is to come.

What travels: files, folders and links, with the permission bits (not setuid, setgid or the sticky
bit) and the times of modification; not owners, access lists or extended attributes. Hard links
become files of their own, sparse files dense ones.
"""

import errno
import os
import stat
import struct
import sys

from . import folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

    Attributes = tuple[int, int, int]  # mode, seconds and nanoseconds of the mtime

HEAD = struct.Struct(">BHHqI")  # kind, mode, length of the text, mtime: seconds, nanoseconds
LENGTH = struct.Struct(">I")
NO_MORE_DATA = LENGTH.pack(0)
CHUNK = 1 << 18  # the most bytes of a piece of the stream, and of a file's data at once
READ = CHUNK - 2 * LENGTH.size  # so that a piece of data fits into one of the stream
SMALL = 1 << 15  # bytes of a file that is one record
EARLY = 1 << 23  # bytes of a file that are told to go to the disk at once

FILE = 1
FOLDER = 2
LEAVE = 3
LINK = 4
SKIPPED = 5  # text: a path; mode: the index in SKIPS
ERROR = 6  # text: a path and the name of an errno; nothing follows
END = 7
MEASURE = 8  # in place of the mtime's seconds: how many bytes all files have, about

SKIPS = ("vanished while the folder was read", "FIFO", "socket", "device", "unfinished copy")
VANISHED, FIFO, SOCKET, DEVICE, UNFINISHED = range(5)
_SKIPS_BY_TYPE = {
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFCHR: DEVICE,
    stat.S_IFBLK: DEVICE,
}

# The bounds of what is believed.
LONGEST_NAME = 4096  # bytes, of a link's target too; what the file system refuses, it says itself
LONGEST_PATH = 65000  # bytes; a longer one is told without its beginning
MOST_LEVELS = 100000
MOST_SKIPPED = 1 << 24  # bytes of paths

_TEMPORARY = b".lazycluster-"
_IN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW  # it may have become a FIFO meanwhile
_TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_ADVISE = getattr(os, "posix_fadvise", None)  # macOS has none
_NOT_NEEDED = getattr(os, "POSIX_FADV_DONTNEED", 0)
# How a file system says that it has no modes or times (FAT, some of FUSE), or a folder that it is
# not ours or not to be read. What we make has 0600 or 0700 until then.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class FormatError(ValueError):
    """A stream that no `pack` makes."""


# --- Both ways ------------------------------------------------------------------------------------


def _error(number: "int") -> "OSError":
    return OSError(number, os.strerror(number))


def _record(kind: "int", text: "bytes" = b"", status: "os.stat_result | None" = None) -> "bytes":
    if status is None:
        return HEAD.pack(kind, 0, len(text), 0, 0) + text
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    return HEAD.pack(kind, status.st_mode & 0o7777, len(text), seconds, nanoseconds) + text


def _set_attributes(fd: "int", attributes: "Attributes", more: "int" = 0) -> "None":
    _try(os.fchmod, fd, attributes[0] & 0o777 | more)
    _try(os.utime, fd, ns=_times(attributes))


def _times(attributes: "Attributes") -> "tuple[int, int]":
    time = attributes[1] * 10**9 + attributes[2]
    return time, time


def _try(call: "Callable[..., object]", *arguments: "object", **keywords: "object") -> "None":
    """Do what some file systems refuse: modes, times, syncing."""
    try:
        call(*arguments, **keywords)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


def _is_temporary(name: "bytes") -> "bool":
    return name.startswith(_TEMPORARY) and len(name) == len(_TEMPORARY) + 16


class _Folder:
    """A folder held open, from which one goes down by name and up again.

    It holds one descriptor however deep it is and never follows a link. Paths would end at 4096
    bytes, a descriptor for each level at `ulimit -n`.
    """

    def __init__(self, fd: "int") -> "None":
        self.fd = fd
        self.names = []  # type: list[bytes]  # of the folders entered
        self.entry = b""  # what is being dealt with in it; empty: the folder itself
        self._above = []  # type: list[tuple[int, int]]  # device and inode of those left for them

    def enter(self, name: "bytes") -> "None":
        below = os.open(name, _IN_FOLDER, dir_fd=self.fd)
        status = os.fstat(self.fd)
        os.close(self.fd)
        self.fd = below
        self.names.append(name)
        self.entry = b""
        self._above.append((status.st_dev, status.st_ino))

    def leave(self, attributes: "Attributes | None" = None) -> "bytes":
        """Go up; the name of what was left, which gets its attributes once nothing needs it."""
        above = os.open("..", _IN_FOLDER, dir_fd=self.fd)
        try:
            status = os.fstat(above)
            if self._above.pop() != (status.st_dev, status.st_ino):
                raise _error(errno.ESTALE)  # somebody has moved it
            if attributes is not None:
                self.set_attributes(attributes)
        except BaseException:
            os.close(above)
            raise
        os.close(self.fd)
        self.fd = above
        return self.names.pop()

    def set_attributes(self, attributes: "Attributes") -> "None":
        """Its own mode and mtime; a setgid bit that it has from the folder above stays."""
        _set_attributes(self.fd, attributes, os.fstat(self.fd).st_mode & stat.S_ISGID)

    def path(self, root: "bytes") -> "str":
        """The path of what is being dealt with, for messages; it may be too long to be used."""
        names = [*self.names, self.entry] if self.entry else self.names
        return os.fsdecode(os.path.join(root, *names))

    def close(self) -> "None":
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _walk(folder: "_Folder", removing: "bool" = False) -> "Iterator[tuple[int, bytes]]":
    """All that is in a folder, as (type, name), the type being S_IFREG or another of `stat`.

    A folder comes twice: as S_IFDIR, when `folder` stands in it, and as LEAVE, when `folder` is out
    of it again. The type 0 is for what is none of the three, vanished, or is a temporary of ours.

    Args:
        folder: Where to start, and where the walk stands.
        removing: Make each folder readable and writable, and leave no temporary out.
    """
    waiting = []  # type: list[list[bytes]]  # folders still to enter, in each that we are in
    while True:
        waiting.append([])
        for kind, name in _list(folder.fd):
            if not removing and _is_temporary(name):
                kind = 0
            if kind == stat.S_IFDIR:
                waiting[-1].append(name)
            else:
                folder.entry = name
                yield kind, name
        while True:
            if waiting[-1]:
                folder.entry = name = waiting[-1].pop()
                try:
                    if removing:
                        os.chmod(name, 0o700, dir_fd=folder.fd)
                    folder.enter(name)
                except FileNotFoundError:
                    yield 0, name
                else:
                    yield stat.S_IFDIR, name
                    break
            else:
                waiting.pop()
                if not waiting:
                    return
                yield LEAVE, folder.leave()


def _list(fd: "int") -> "list[tuple[int, bytes]]":
    """Types and names of what is in a folder; all at once, as it may be changed while one walks."""
    found = []
    if sys.version_info < (3, 7):  # its scandir takes no descriptor
        for name in os.listdir(fd):
            try:
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                mode = 0
            found.append((stat.S_IFMT(mode), os.fsencode(name)))
        return found
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                kind = stat.S_IFREG
            elif entry.is_dir(follow_symlinks=False):
                kind = stat.S_IFDIR
            elif entry.is_symlink():
                kind = stat.S_IFLNK
            else:
                kind = 0
            found.append((kind, os.fsencode(entry.name)))
    return found


def remove(path: "str") -> "bool":
    """Remove a file, a link or a folder, however deep and whatever its modes; False if it stayed.

    shutil.rmtree needs a descriptor and a Python frame for each level, and leaves a folder of
    ours that is read-only.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return True
        os.chmod(path, 0o700)
        folder = _Folder(os.open(path, _IN_FOLDER))
        try:
            for kind, name in _walk(folder, removing=True):
                if kind == LEAVE:
                    os.rmdir(name, dir_fd=folder.fd)
                elif kind != stat.S_IFDIR:
                    os.unlink(name, dir_fd=folder.fd)
        finally:
            folder.close()
        os.rmdir(path)
    except OSError:
        return not os.path.lexists(path)
    return True


def delete_directory(path: "str") -> "bool | None":
    """Remove a folder, or a link, that a user named.

    False if there is none or something stayed, None if it is refused.
    """
    path = folders.expand(path)
    if os.path.realpath(path) in ("/", os.path.realpath(os.path.expanduser("~"))):
        return None
    if not os.path.isdir(path) and not os.path.islink(path):
        return False
    return remove(path)


# --- To a stream ----------------------------------------------------------------------------------


def pack(
    path: "str", on_data: "Callable[[int], object] | None" = None, measured: "bool" = False
) -> "Iterator[bytes]":
    """The stream of a file or a folder, in pieces of 1 byte to 256 KiB.

    A link given as `path` is followed, as scp does; a link below it travels as a link. What is no
    file, folder or link is named in the stream and neither opened nor waited for, and so is what
    vanishes meanwhile and what an `Unpacker` is just writing. A file that grows is sent up to the
    size that it had when it was opened, one that shrinks as far as it goes. What cannot be read
    ends the stream with its path and errno.

    Args:
        path: The file or folder. `~` is not expanded.
        on_data: Called with the number of bytes of each piece of a file.
        measured: Whether the stream begins with the bytes that there are.

    Raises:
        OSError: The file or folder itself cannot be read. Nothing was yielded then.
    """
    pieces = []  # type: list[bytes]
    size = 0
    begun = False
    try:
        if measured:
            pieces.append(HEAD.pack(MEASURE, 0, 0, measure(path), 0))
            size += HEAD.size
        for record in _records(os.fsencode(path), on_data):
            if size + len(record) > CHUNK:
                yield b"".join(pieces)
                begun = True
                pieces = []
                size = 0
            pieces.append(record)
            size += len(record)
    except OSError as error:
        if error.filename == path and not begun:
            raise
        if pieces:
            yield b"".join(pieces)
        name = errno.errorcode.get(error.errno or 0, "")
        text = os.fsencode(error.filename)[-LONGEST_PATH:] + b"\0" + name.encode("ascii")
        pieces = [_record(ERROR, text)]
    yield b"".join(pieces)


def measure(path: "str") -> "int":
    """The bytes of a file, or of all files in a folder, as far as they can be read now."""
    size = 0
    folder = _Folder(-1)
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size
        folder.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # of a link, too, as it is packed
        for kind, name in _walk(folder):
            found = _status(name, folder.fd) if kind == stat.S_IFREG else None  # it may vanish
            size += found.st_size if found is not None else 0
    except OSError:
        pass  # who packs it says so
    finally:
        folder.close()
    return size


def _records(root: "bytes", on_data: "Callable[[int], object] | None") -> "Iterator[bytes]":
    """The stream, cut where it is easy, into at most CHUNK bytes; its OSErrors have whole paths."""
    folder = _Folder(-1)
    try:
        mode = os.stat(root).st_mode  # first, as opening a device may already do something
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "Neither a file nor a folder")
        fd = os.open(root, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            folder.fd = fd
            yield _record(FOLDER, b"", status)
            for kind, name in _walk(folder):
                if kind == stat.S_IFDIR:
                    yield _record(FOLDER, name, os.fstat(folder.fd))
                elif kind == LEAVE:
                    yield _record(LEAVE)
                else:
                    yield from _entry(folder, kind, name, root, on_data)
            yield _record(LEAVE)
        else:
            yield from _file(fd, b"", status, on_data)
        yield _record(END)
    except OSError as error:
        raise OSError(error.errno, error.strerror, folder.path(root)) from error
    finally:
        folder.close()


def _entry(
    folder: "_Folder",
    kind: "int",
    name: "bytes",
    root: "bytes",
    on_data: "Callable[[int], object] | None",
) -> "Iterator[bytes]":
    """What is no folder; or that it was skipped, and why."""
    try:
        if _is_temporary(name):
            # One that is written below the folder that it comes from would have no end.
            yield _skipped(folder, root, UNFINISHED)
            return
        if kind == stat.S_IFREG:
            fd = os.open(name, _TO_READ, dir_fd=folder.fd)
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                yield from _file(fd, name, status, on_data)
                return
            os.close(fd)
        else:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(name, dir_fd=folder.fd)
                yield _record(LINK, name + b"\0" + target, status)
                return
        skip = _SKIPS_BY_TYPE.get(stat.S_IFMT(status.st_mode), VANISHED)
    except FileNotFoundError:
        skip = VANISHED
    yield _skipped(folder, root, skip)


def _skipped(folder: "_Folder", root: "bytes", skip: "int") -> "bytes":
    path = os.fsencode(folder.path(root))[-LONGEST_PATH:]
    return HEAD.pack(SKIPPED, skip, len(path), 0, 0) + path


def _file(
    fd: "int",
    name: "bytes",
    status: "os.stat_result",
    on_data: "Callable[[int], object] | None",
) -> "Iterator[bytes]":
    """A file, which is closed."""
    try:
        # A size of 0 tells nothing: a file of /proc has that.
        left = status.st_size or sys.maxsize
        data = os.read(fd, min(READ, left))
        if on_data is not None:
            on_data(len(data))
        head = _record(FILE, name, status)
        if len(data) == left <= SMALL:  # a sixth faster than three records
            yield b"".join((head, LENGTH.pack(left), data, NO_MORE_DATA))
            return
        yield head
        try:
            while data:
                left -= len(data)
                yield LENGTH.pack(len(data)) + data
                data = os.read(fd, min(READ, left)) if left else b""
                if on_data is not None:
                    on_data(len(data))
        except OSError:
            yield NO_MORE_DATA
            raise
        yield NO_MORE_DATA
    finally:
        os.close(fd)


# --- From a stream --------------------------------------------------------------------------------


def destination(target: "str", name: "str | None", is_folder: "bool") -> "str":
    """Where a file or folder goes; the same in both directions.

    | `target`                                    | goes to         |
    | ------------------------------------------- | --------------- |
    | a folder that is there, or a link to one    | `target`/`name` |
    | ends with `/`, or is or ends with `.`, `..` | `target`/`name` |
    | anything else, there or not                 | `target`        |

    What is there then: a file replaces a file, and a link (not what the link points to); a folder
    is put into a folder, file by file, but not into a link to one; anything else is an error. A
    read-only folder that is there is an error, unless the one to put into it is read-only, too.

    Args:
        target: What the user said.
        name: The source's own name; None if it has none, as `/`.
        is_folder: Whether `target` is a folder or a link to one.

    Raises:
        ValueError: The target is empty, or the name is needed and is not one safe name.
    """
    if not target:
        raise ValueError("the target is an empty path")
    if not is_folder and os.path.basename(target) not in ("", ".", ".."):
        return target
    if name is None or not _is_name(os.fsencode(name)):
        raise ValueError("{!r} is no name for something in the folder {!r}".format(name, target))
    return os.path.join(target, name)


def _is_name(name: "bytes") -> "bool":
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


class Unpacker:
    """Writes what a stream holds beside where it is to be, and puts it there once it is whole.

    If the stream breaks off, says that it failed, is none of `pack`, or cannot be written, all that
    was written is removed and what was there before stays as it was. A folder that goes into one
    that is there is checked before the first of its files is moved; if moving fails after that,
    those already moved stay, each of them whole. Missing folders above the target are made, at the
    first record, and stay.

    A file is on disk when `finish` returns. The files of a folder are not synced: with 2000 small
    ones that alone takes several times as long as all the rest. (Without it they are safe when
    processes or connections die, but not when the power fails in the seconds after.)

    What a file system cannot keep, modes on FAT for example, is no error.

    Args:
        target: What the user said; relative to the current folder, `~` expanded if it comes first.
        name: The source's own name, for a target that is a folder; see `destination`.
        on_data: Called with the number of bytes of each piece of a file.

    Attributes:
        path: Where it goes.
        temporary: Where it is until then, in the same folder; nothing is made by the constructor.
        failed_there: Whether the OSError that was raised is the sender's, with a path there.
        measure: The bytes of all files, about; None if the stream does not say it.

    Raises:
        ValueError: See `destination`.
    """

    def __init__(
        self,
        target: "str",
        name: "str | None",
        on_data: "Callable[[int], object] | None" = None,
    ) -> "None":
        is_folder = os.path.isdir(folders.expand(target))
        self.path = folders.expand(destination(target, name, is_folder))
        folder = os.path.dirname(self.path)
        self.temporary = os.path.join(folder, os.fsdecode(_TEMPORARY) + os.urandom(8).hex())
        self.failed_there = False
        self.measure = None  # type: int | None
        self._on_data = on_data
        self._rest = b""  # of a record
        self._begun = self._complete = self._over = False
        self._made = False  # the temporary
        self._folder = _Folder(-1)  # where the stream is
        self._attributes = []  # type: list[Attributes]  # of the folders it is in
        self._file = -1  # the file it is in
        self._file_attributes = (0, 0, 0)
        self._left = 0  # bytes of the piece of data it is in
        self._size = self._on_its_way = 0  # bytes of the file written, and of those told to go
        # Of each folder, by its inode, if they are to be put into one that is there: until then
        # they must stay writable.
        self._merging = None  # type: dict[int, Attributes] | None
        self._skipped = []  # type: list[tuple[str, str]]
        self._skipped_size = 0

    def feed(self, data: "bytes | memoryview") -> "None":
        """Take the next piece of the stream, however it was cut; it is not kept.

        Raises:
            OSError: It cannot be written (the path is that where it was to be), or the sender could
                not read it (`failed_there`). Everything was removed.
            FormatError: This is no such stream. Everything was removed.
        """
        self._guard(lambda: self._take(data))

    def finish(self) -> "list[tuple[str, str]]":
        """Put it where it is to be; what was skipped, as (path there, what it is).

        Raises:
            OSError: As for `feed`, or the stream is not complete. Everything was removed.
        """
        self._guard(self._put)
        self.abort()  # a folder put into another leaves its own behind
        return self._skipped

    @property
    def is_complete(self) -> "bool":
        """Whether the stream has come to its end."""
        return self._complete

    def abort(self) -> "None":
        """Remove what was written, unless it is already where it is to be."""
        self._over = True
        fd, self._file = self._file, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # NFS tells here what could not be written; it is to be removed anyway
        self._folder.close()
        if self._made:
            self._made = not remove(self.temporary)

    def _guard(self, do: "Callable[[], None]") -> "None":
        if self._over:
            raise ValueError("this copy is over")
        try:
            do()
        except OSError as error:
            path = self._folder.path(os.fsencode(self.path))
            self.abort()
            if self.failed_there:
                raise
            raise OSError(error.errno, error.strerror, path) from error
        except BaseException:
            self.abort()
            raise

    # What the stream says

    def _take(self, data: "bytes | memoryview") -> "None":
        view = memoryview(self._rest + bytes(data) if self._rest else data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                piece = view[at : at + self._left]
                self._write(piece)
                self._left -= len(piece)
                at += len(piece)
            elif self._file >= 0:
                if end - at < LENGTH.size:
                    break
                (self._left,) = LENGTH.unpack_from(view, at)
                at += LENGTH.size
                if self._left > CHUNK:
                    raise FormatError("a piece of {} bytes".format(self._left))
                if not self._left:
                    self._end_file()
            else:
                if self._complete:
                    raise FormatError("something behind the end")
                if end - at < HEAD.size:
                    break
                kind, mode, length, seconds, nanoseconds = HEAD.unpack_from(view, at)
                if not FILE <= kind <= MEASURE or nanoseconds >= 10**9:
                    raise FormatError("a record of unknown kind {}".format(kind))
                stop = at + HEAD.size + length
                if stop > end:
                    break
                text = bytes(view[at + HEAD.size : stop])
                self._record(kind, text, (mode, seconds, nanoseconds))
                at = stop
        self._rest = bytes(view[at:])

    def _record(self, kind: "int", text: "bytes", attributes: "Attributes") -> "None":
        if kind in (FILE, FOLDER, LINK):
            name, _, link = text.partition(b"\0") if kind == LINK else (text, b"", b"")
            if not self._begun:
                self._begin(kind, name)
            else:
                self._make(kind, name, link, attributes)
            if kind == FILE:
                self._file_attributes = attributes
            elif kind == FOLDER:
                self._attributes.append(attributes)
        elif kind == LEAVE:
            self._leave()
        elif kind == MEASURE:
            if self._begun or self.measure is not None or attributes[1] < 0:
                raise FormatError("a measure that is none, or too late")
            self.measure = attributes[1]
        elif kind == SKIPPED:
            self._skipped_size += len(text) + 1
            if attributes[0] >= len(SKIPS) or self._skipped_size > MOST_SKIPPED:
                raise FormatError("something skipped for no known reason, or too much of it")
            self._skipped.append((os.fsdecode(text), SKIPS[attributes[0]]))
        elif kind == ERROR:
            path, _, symbol = text.partition(b"\0")
            # By its name, as numbers differ between systems.
            number = getattr(errno, symbol.decode("ascii", "replace"), errno.EIO)
            number = number if isinstance(number, int) else errno.EIO
            self.failed_there = True
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        else:
            if not self._begun or self._attributes:
                raise FormatError("an end before the end")
            self._complete = True

    def _begin(self, kind: "int", name: "bytes") -> "None":
        """The first record: the file or folder itself."""
        if name or kind == LINK:
            raise FormatError("a stream that begins with an entry of a folder")
        _make_folders(os.path.dirname(self.path))
        there = _status(self.path)
        if there is not None:
            _check_place(there.st_mode, kind == FOLDER)  # said now, not after gigabytes
            if kind == FOLDER:
                self._merging = {}
        if kind == FILE:
            self._file = os.open(self.temporary, _TO_WRITE, 0o600)
            self._made = True
        else:
            os.mkdir(self.temporary, 0o700)
            self._made = True
            self._folder.fd = os.open(self.temporary, _IN_FOLDER)
        self._begun = True

    def _make(self, kind: "int", name: "bytes", link: "bytes", attributes: "Attributes") -> "None":
        """A new entry of the folder that the stream is in."""
        folder = self._folder
        if not self._attributes:
            raise FormatError("an entry outside of the folder")
        if not _is_name(name) or _is_temporary(name) or len(name) > LONGEST_NAME:
            raise FormatError("an entry of the name {!r}".format(name[:100]))
        folder.entry = name
        try:
            if kind == FILE:
                self._file = os.open(name, _TO_WRITE, 0o600, dir_fd=folder.fd)
            elif kind == FOLDER:
                if len(self._attributes) >= MOST_LEVELS:
                    raise FormatError("folders in folders without end")
                os.mkdir(name, 0o700, dir_fd=folder.fd)
                folder.enter(name)
            else:
                if not link or b"\0" in link or len(link) > LONGEST_NAME:
                    raise FormatError("a link to {!r}".format(link[:100]))
                os.symlink(link, name, dir_fd=folder.fd)
                if os.utime in os.supports_follow_symlinks:
                    times = _times(attributes)
                    _try(os.utime, name, ns=times, dir_fd=folder.fd, follow_symlinks=False)
        except FileExistsError:
            path = folder.path(os.fsencode(self.path))
            raise FormatError(
                "{!r} comes twice (or two names are one to this file system)".format(path)
            ) from None

    def _write(self, data: "memoryview") -> "None":
        written = os.write(self._file, data)
        while written < len(data):
            written += os.write(self._file, data[written:])
        self._size += written
        if self._on_data is not None:
            self._on_data(written)
        if self._size - self._on_its_way >= EARLY and not self._attributes and _ADVISE:
            # Linux begins to write this part to the disk, so that the end need not wait for all of
            # it: 0.1 of 0.7 s for 256 MB that come in 0.6 s.
            _ADVISE(self._file, self._on_its_way, self._size - self._on_its_way, _NOT_NEEDED)
            self._on_its_way = self._size

    def _end_file(self) -> "None":
        fd = self._file
        _set_attributes(fd, self._file_attributes)
        if not self._attributes:
            _try(os.fsync, fd)
        self._file = -1
        os.close(fd)  # NFS may say here that its disk is full
        self._folder.entry = b""

    def _leave(self) -> "None":
        if not self._attributes:
            raise FormatError("a way out of the folder")
        attributes = self._attributes.pop()  # type: Attributes | None
        if self._merging is not None and attributes is not None:
            self._merging[os.fstat(self._folder.fd).st_ino] = attributes
            attributes = None
        if self._attributes:
            self._folder.leave(attributes)
        elif attributes is not None:
            self._folder.set_attributes(attributes)

    # Where it is to be

    def _put(self) -> "None":
        if not self._complete:
            raise OSError(errno.EIO, "What was sent ended before its end")
        if self._merging is not None:
            there = _Folder(os.open(self.path, _IN_FOLDER))
            try:
                self._check_merge(there, self._merging)
                self._merge(there, self._merging)
            finally:
                there.close()
            return
        os.rename(self.temporary, self.path)
        self._made = False
        if self._folder.fd < 0:
            _try(_sync_folder, os.path.dirname(self.path))

    def _check_merge(self, there: "_Folder", attributes: "dict[int, Attributes]") -> "None":
        """Find what will not go, as far as can be told, before anything has changed."""
        here = self._folder
        device = os.fstat(here.fd).st_dev
        new = 0  # levels that we are in and that are not there
        for kind, name in _walk(here):
            if kind == LEAVE:
                if new:
                    new -= 1
                else:
                    there.leave()
                continue
            if new:
                new += kind == stat.S_IFDIR
                continue
            status = _status(name, there.fd)
            if status is not None:
                _check_place(status.st_mode, kind == stat.S_IFDIR)
            if status is not None and kind == stat.S_IFDIR:
                there.enter(name)
                if os.fstat(there.fd).st_dev != device:
                    raise _error(errno.EXDEV)
            else:
                new += kind == stat.S_IFDIR
                if not os.access(".", os.W_OK | os.X_OK, dir_fd=there.fd):
                    # Read-only on both sides: a copy of this very folder, most likely.
                    inode = os.stat(".." if new else ".", dir_fd=here.fd).st_ino
                    if attributes[inode][0] & stat.S_IWUSR:
                        raise _error(errno.EACCES)

    def _merge(self, there: "_Folder", attributes: "dict[int, Attributes]") -> "None":
        here = self._folder
        own = attributes[os.fstat(here.fd).st_ino]
        waiting = []  # type: list[Attributes]
        _unlock(there.fd, own)
        for kind, name in _walk(here):
            if kind == stat.S_IFDIR:
                try:
                    os.mkdir(name, 0o700, dir_fd=there.fd)
                except FileExistsError:
                    pass  # what is no folder cannot be entered
                there.enter(name)
                waiting.append(attributes[os.fstat(here.fd).st_ino])
                _unlock(there.fd, waiting[-1])
            elif kind == LEAVE:
                there.leave(waiting.pop())
            else:
                os.replace(name, name, src_dir_fd=here.fd, dst_dir_fd=there.fd)
        there.set_attributes(own)


def _unlock(fd: "int", attributes: "Attributes") -> "None":
    """Make a folder writable that will be read-only in the end and may be so already."""
    if not attributes[0] & stat.S_IWUSR:
        _try(os.fchmod, fd, 0o700)


def _check_place(mode: "int", for_folder: "bool") -> "None":
    """Whether what is there may be replaced, or, if it and the new are folders, put into."""
    if stat.S_ISDIR(mode) != for_folder:
        raise _error(errno.ENOTDIR if for_folder else errno.EISDIR)
    if not for_folder and not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OSError(errno.EEXIST, "Something that is no file is there")  # /dev/null, say


def _make_folders(path: "str") -> "None":
    """os.makedirs needs a Python frame for each level."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:
            pass  # another was quicker; or it is no folder, which the next step finds


def _status(path: "str | bytes", folder: "int | None" = None) -> "os.stat_result | None":
    try:
        return os.stat(path, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _sync_folder(path: "str") -> "None":
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
