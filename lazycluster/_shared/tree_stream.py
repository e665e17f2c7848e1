"""The stream of bytes that a file or a folder travels as, and how it is packed.

The stream is a sequence of records: a head (kind, mode, mtime, length of the text) and the text,
which is a name, a path, or a link's name and target with a NUL between. FILE is followed by chunks
of its data, each with its length before it, the last one empty. No size is promised, so a file may
change while it is read; BROKEN in place of a length says that it cannot be read to its end. FOLDER
goes down into a new folder and LEAVE goes up again, so every name is a single one and the stream
cannot name any other place. The first FOLDER has the `identity` of the source in place of a name,
so that no folder is copied into itself. END is the last record. If progress is wanted, MEASURE is
the first record, with the number of bytes to come. KEPT names what the receiver has already.

What travels: files, folders and links, with the permission bits (not setuid, setgid or the sticky
bit) and the mtimes; not owners, access lists or extended attributes. Hard links become separate
files, sparse files dense ones.
"""

import errno
import os
import posix
import stat
import struct
import sys

from . import folders, listing, patterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Optional

    OnError = Optional[Callable[[OSError], object]]
    OnData = Optional[Callable[[int], object]]  # called with the bytes of each chunk of a file

HEAD = struct.Struct(">BHHqI")  # kind, mode, length of the text, mtime: seconds, nanoseconds
LENGTH = struct.Struct(">I")
NO_MORE_DATA = LENGTH.pack(0)
BROKEN = 0xFFFFFFFF  # in place of a length: the file cannot be read to its end, SKIPPED follows
CHUNK = 1 << 18  # bytes; the maximum of a chunk of the stream, and of a file's data at once
READ = CHUNK - 2 * LENGTH.size  # bytes; so that a chunk of data fits into a chunk of the stream
SMALL = 1 << 15  # bytes; up to this size a file is one record

FILE = 1
FOLDER = 2
LEAVE = folders.LEAVE
LINK = 4
SKIPPED = 5  # text: a path, behind a NUL the name of an errno; mode: the index in SKIPS
ERROR = 6  # text: a path, the name of an errno and what to say of it, if anything; nothing follows
END = 7
MEASURE = 8  # in place of the mtime's seconds: the approximate bytes of all files
USUAL_MODE = 0o10000  # in place of a mode: that of a replaced or a new file, and its own time
KEPT = 9  # text: names in the current folder, with NULs between; empty for the file itself

SKIPS = (
    "vanished while the folder was read",
    "FIFO",
    "socket",
    "device",
    "unfinished copy",
    "changed while it was read",  # and was not skipped
    "cannot be read",  # if the errno has no other text
    "became shorter while it was read",
)
VANISHED, FIFO, SOCKET, DEVICE, UNFINISHED, CHANGED, UNREADABLE, SHORTER = range(8)
_SKIPS_BY_TYPE = {
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFCHR: DEVICE,
    stat.S_IFBLK: DEVICE,
}
MOST_NAMES = 15  # in one record, whose text is shorter than 64 KiB
LONGEST_PATH = 65000  # bytes; a longer path is sent without its beginning
_OPEN_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW  # it may have become a FIFO meanwhile


class FormatError(ValueError):
    """A stream that `pack` never makes."""


class ShorterError(OSError):
    """A file became shorter while it was read."""

    def __init__(self) -> "None":
        super().__init__(errno.EIO, SKIPS[SHORTER])


def pack(
    path: "str",
    on_data: "OnData" = None,
    measured: "bool" = False,
    *,
    exclude: "Iterable[str]" = (),
    skip_errors: "bool" = False,
) -> "Iterator[bytes]":
    """Yield the stream of a file or a folder; see `Packer`."""
    return Packer(path, on_data, exclude=exclude, skip_errors=skip_errors).stream(measured)


class Packer:
    """Make the stream of a file or a folder, in chunks of 1 byte to 256 KiB.

    A link given as `path` is followed, as scp does; a link below it travels as a link. An entry
    that is not a file, folder or link is named in the stream and not opened, and so is an entry
    that vanishes meanwhile or that an `Unpacker` is just writing. A file that grows is sent up to
    the size that it had when it was opened, and named. An entry that cannot be read, or a file that
    becomes shorter meanwhile, ends the stream with its path and errno; with `skip_errors` it is
    only named. What the patterns `exclude` is not in the stream. `~` is not expanded.

    To send only what has changed, call `scan` and then `compare`, before `measure` and `stream`.
    What is equal is then not opened. With `keeps_names` the stream names it. With `only_file` a
    folder is an error.
    """

    def __init__(
        self,
        path: "str",
        on_data: "OnData" = None,
        *,
        exclude: "Iterable[str]" = (),
        skip_errors: "bool" = False,
        keeps_names: "bool" = False,
        only_file: "bool" = False,
    ) -> "None":
        """Read nothing yet; a ValueError if a pattern is invalid."""
        self._path = path
        self._root = os.fsencode(path)
        self._on_data = on_data
        self._excludes = patterns.compile_patterns(exclude)
        self._skip_errors = skip_errors
        self._keeps_names = keeps_names
        self._only_file = only_file
        self._folder = folders.Folder(-1)
        self._error = None  # type: OSError | None  # of the last folder that cannot be read
        self._found = {}  # type: dict[str, listing.Scan]  # by section of a list
        # By section: what has changed, and the lines of the rest.
        self._changes = {}  # type: dict[str, tuple[list[tuple[int, bytes]], list[str]]]
        self._kept = []  # type: list[str]  # lines of the current folder to be sent as KEPT

    def scan(self) -> "None":
        """Read all folders, to be compared later; what cannot be read `stream` reports."""

        def choose(folder: "folders.Folder") -> "list[tuple[int, bytes]]":
            lines, others = listing.scan(folder.fd)
            if self._excludes is not None:
                entry_of, chosen = listing.entry_of, self._is_chosen
                lines = [line for line in lines if chosen(folder, *entry_of(line))]
                others = [other for other in others if chosen(folder, *other)]
            self._found[listing.section(folder)] = lines, others
            return [other for other in others if other[0] == stat.S_IFDIR]

        try:
            status = self._open_folder()
            if status is not None:
                self._found[""] = [listing.line_of(status, "", None)], []
                return
            for _ in folders.walk(self._folder, choose=choose, on_error=self._note_error):
                pass
        except OSError:
            pass
        finally:
            self._folder.close()

    def compare(self, found_there: "bytes") -> "None":
        """Find what differs from the list of the destination, see `listing`."""
        known = listing.parse(found_there)
        for section, (lines, others) in self._found.items():
            different, equal = listing.split(lines, known.get(section, []))
            self._changes[section] = [*map(listing.entry_of, different), *others], equal
        self._found.clear()

    def measure(self) -> "int":
        """Return the bytes of a file, or of all files in a folder that can be read now."""
        size = 0
        try:
            status = self._open_folder()
            if status is not None:
                return 0 if self._is_kept() else status.st_size
            for kind, name in self._walk(self._note_error):
                if kind == stat.S_IFREG:
                    found = folders.entry_status(name, self._folder.fd)
                    size += found.st_size if found is not None else 0
        except OSError:
            pass  # `stream` reports it
        finally:
            self._folder.close()
        return size

    def stream(self, measured: "bool" = False) -> "Iterator[bytes]":
        """Yield the stream; with `measured` it begins with a MEASURE.

        Raises:
            OSError: If the file or folder itself cannot be read. Nothing was yielded then.
        """
        chunks = []  # type: list[bytes]
        size = 0
        begun = False
        try:
            if measured:
                chunks.append(HEAD.pack(MEASURE, 0, 0, self.measure(), 0))
                size += HEAD.size
            for record in self._records():
                if size + len(record) > CHUNK:
                    yield b"".join(chunks)
                    begun = True
                    chunks = []
                    size = 0
                chunks.append(record)
                size += len(record)
        except OSError as error:
            if error.filename == self._path and not begun:
                raise
            if chunks:
                yield b"".join(chunks)
            text = os.fsencode(error.filename)[-LONGEST_PATH:] + b"\0" + _symbol(error)
            if isinstance(error.__cause__, ShorterError):
                text += b"\0" + SKIPS[SHORTER].encode("ascii")
            chunks = [_record(ERROR, text)]
        yield b"".join(chunks)

    def _open_folder(self) -> "os.stat_result | None":
        """Open a folder, to be walked; return the status of anything else."""
        status = os.stat(self._path)
        if not stat.S_ISDIR(status.st_mode):
            return status
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)  # follows a link, as a copy does
        self._folder = folders.Folder(fd)
        return None

    def _records(self) -> "Iterator[bytes]":
        """Yield the stream in records of at most CHUNK bytes; its OSErrors have whole paths."""
        folder = self._folder
        try:
            mode = os.stat(self._root).st_mode  # first, as opening a device may have an effect
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "Neither a file nor a folder")
            if self._only_file and stat.S_ISDIR(mode):
                raise OSError(errno.EISDIR, "It is a folder, and a file object takes a file")
            fd = os.open(self._root, os.O_RDONLY | os.O_NONBLOCK)
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                folder.fd = fd
                yield _record(FOLDER, folders.identity(status), status)
                for kind, name in self._walk(self._note_error if self._skip_errors else None):
                    if self._kept:
                        yield from self._take_kept()
                    if kind == stat.S_IFDIR:
                        yield _record(FOLDER, name, os.fstat(folder.fd))
                    elif kind == LEAVE:
                        yield _record(LEAVE)
                    elif kind == folders.UNREADABLE:
                        yield self._skipped(UNREADABLE, self._error)
                    else:
                        yield from self._entry(kind, name)
                yield from self._take_kept()
                yield _record(LEAVE)
            elif self._is_kept():
                posix.close(fd)
                yield _record(KEPT)
            else:
                yield from self._file(fd, b"", status)
            yield _record(END)
        except OSError as error:
            raise OSError(error.errno, error.strerror, folder.path(self._root)) from error
        finally:
            folder.close()

    def _walk(self, on_error: "OnError") -> "Iterator[tuple[int, bytes]]":
        """Walk the folder without what is excluded or equal."""
        plain = self._excludes is None and not self._changes
        return folders.walk(self._folder, False, None if plain else self._choose, on_error)

    def _choose(self, folder: "folders.Folder") -> "list[tuple[int, bytes]]":
        changes = self._changes.get(listing.section(folder)) if self._changes else None
        if changes is not None:  # else it is new since the scan
            self._kept = changes[1]
            return changes[0]
        entries = folders.entries(folder.fd)
        return [entry for entry in entries if self._is_chosen(folder, *entry)]

    def _is_chosen(self, folder: "folders.Folder", kind: "int", name: "bytes") -> "bool":
        if self._excludes is None:
            return True
        path = b"/".join([*folder.names, name])
        return not self._excludes(path, kind == stat.S_IFDIR)

    def _is_kept(self) -> "bool":
        """Return True for a file that the receiver has already."""
        return bool(self._changes.get("", ([], []))[1])

    def _take_kept(self) -> "Iterator[bytes]":
        """Yield the names in the current folder that the receiver has already."""
        lines, self._kept = self._kept, []
        if self._keeps_names:
            for start in range(0, len(lines), MOST_NAMES):
                some = map(listing.entry_of, lines[start : start + MOST_NAMES])
                yield _record(KEPT, b"\0".join(name for _, name in some))

    def _note_error(self, error: "OSError") -> "None":
        self._error = error

    def _entry(self, kind: "int", name: "bytes") -> "Iterator[bytes]":
        """Yield the records of an entry that is not a folder, or why it was skipped."""
        folder = self._folder
        try:
            if kind == stat.S_IFREG:
                fd = os.open(name, _OPEN_TO_READ, dir_fd=folder.fd)
                status = os.fstat(fd)
                if stat.S_ISREG(status.st_mode):
                    yield from self._file(fd, name, status)
                    return
                posix.close(fd)
            elif folders.is_temporary_name(name):  # `walk` has given it no type
                yield self._skipped(UNFINISHED)
                return
            else:
                status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    target = os.readlink(name, dir_fd=folder.fd)
                    yield _record(LINK, name + b"\0" + target, status)
                    return
            skip = _SKIPS_BY_TYPE.get(stat.S_IFMT(status.st_mode), VANISHED)
        except FileNotFoundError:
            skip = VANISHED
        except ShorterError as error:
            if not self._skip_errors:
                raise
            yield self._skipped(SHORTER, error)
            return
        except OSError as error:
            if not self._skip_errors:
                raise
            yield self._skipped(UNREADABLE, error)
            return
        yield self._skipped(skip)

    def _skipped(self, skip: "int", error: "OSError | None" = None) -> "bytes":
        path = os.fsencode(self._folder.path(self._root))[-LONGEST_PATH:]
        text = path + b"\0" + _symbol(error) if error is not None and skip == UNREADABLE else path
        return HEAD.pack(SKIPPED, skip, len(text), 0, 0) + text

    def _file(self, fd: "int", name: "bytes", status: "os.stat_result") -> "Iterator[bytes]":
        """Yield the records of an open file and close it."""
        try:
            # A file of /proc has the size 0 whatever it holds, so 0 says nothing.
            left = status.st_size or sys.maxsize
            data = os.read(fd, min(READ, left))
            if self._on_data is not None:
                self._on_data(len(data))
            head = _record(FILE, name, status)
            if len(data) == left <= SMALL:  # a sixth faster than three records
                yield b"".join((head, LENGTH.pack(left), data, NO_MORE_DATA))
            else:
                yield head
                try:
                    while data:
                        left -= len(data)
                        yield LENGTH.pack(len(data)) + data
                        data = os.read(fd, min(READ, left)) if left else b""
                        if self._on_data is not None:
                            self._on_data(len(data))
                    if left and _has_changed(fd, status) and status.st_size:
                        raise ShorterError
                except OSError:
                    yield LENGTH.pack(BROKEN)
                    raise
                yield NO_MORE_DATA
            if _has_changed(fd, status):
                yield self._skipped(CHANGED)
        finally:
            posix.close(fd)


def pack_contents(pieces: "Iterable[bytes]") -> "Iterator[bytes]":
    """Yield the stream of a file that does not exist, from pieces of at most READ bytes.

    Its mode is that of the file that it replaces, or that of a new file.
    """
    yield HEAD.pack(FILE, USUAL_MODE, 0, 0, 0)
    for piece in pieces:
        if piece:
            yield LENGTH.pack(len(piece)) + piece
    yield NO_MORE_DATA + _record(END)


def _record(kind: "int", text: "bytes" = b"", status: "os.stat_result | None" = None) -> "bytes":
    if status is None:
        return HEAD.pack(kind, 0, len(text), 0, 0) + text
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    return HEAD.pack(kind, status.st_mode & 0o7777, len(text), seconds, nanoseconds) + text


def measure(path: "str", exclude: "Iterable[str]" = ()) -> "int":
    """Return the bytes of a file, or of all files in a folder that can be read now."""
    return Packer(path, exclude=exclude).measure()


def _symbol(error: "OSError") -> "bytes":
    """Return the name of an errno, as numbers differ between systems."""
    return errno.errorcode.get(error.errno or 0, "").encode("ascii")


def _has_changed(fd: "int", before: "os.stat_result") -> "bool":
    now = os.fstat(fd)
    return now.st_mtime_ns != before.st_mtime_ns or now.st_size != before.st_size
