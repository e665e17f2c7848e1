"""List what a folder holds, and find what has changed against such a list.

A copy with `only_changed` sends what the other side does not have. The receiving side makes a list
of what is at the destination, and the sending side compares: names, sizes and times of files,
targets and times of links. So no entry of the destination is opened, and only one list travels.

The list is text. A section for each folder, with two NULs behind it, begins with a slash and the
folder's path below the destination; a line for each file or link follows, each with a NUL before
it: `f<time> <size>/<name>` or `l<time> <target>/<name>`. A destination that is a file is one line
without a folder. Equal lines mean an equal entry, so that sets do most of the work.
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

    Entry = tuple[int, str, str]  # the type as of `stat`, the name, the line

_TYPE = 0o170000  # the bits of a mode that are the type, see inode(7)
_LENGTH = struct.Struct(">I")
FRAME = (1 << 16) - _LENGTH.size  # bytes
PIECE = 20  # folders; so that the other side can begin to read
MOST_BYTES = 1 << 30  # of a list; some ten million entries

# What file systems keep of times, in nanoseconds: ext3 and HFS+, SMB, NFS and FUSE, NTFS.
_RESOLUTIONS = (10**9, 10**6, 10**3, 100)


def make_list(path: "str") -> "Iterator[bytes]":
    """Yield the list of a folder or a file in pieces; nothing if it does not exist.

    What cannot be read is left out: the copy will say why.
    """
    pieces = []  # type: list[bytes]
    folder = folders.Folder(-1)

    def choose(folder: "folders.Folder") -> "list[tuple[int, bytes]]":
        found = scan(folder.fd)
        lines = [line for _, _, line in found if line]
        pieces.append(os.fsencode("\0".join([section(folder), *lines, "", ""])))
        return [(kind, os.fsencode(name)) for kind, name, _ in found if kind == stat.S_IFDIR]

    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            yield os.fsencode(line_of(status, "", None))
            return
        folder.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for _ in folders.walk(folder, choose=choose, on_error=lambda _: None):
            if len(pieces) >= PIECE:
                yield b"".join(pieces)
                pieces.clear()
    except OSError:  # it has gone, or was moved
        pass
    finally:
        folder.close()
    yield b"".join(pieces)


def frame(listing: "Iterator[bytes]") -> "Iterator[bytes]":
    """Yield a list in pieces of at most 64 KiB, so that its end can be seen."""
    for piece in listing:
        for start in range(0, len(piece), FRAME):
            part = piece[start : start + FRAME]
            yield _LENGTH.pack(len(part)) + part
    yield _LENGTH.pack(0)


def read_framed(read: "Callable[[int], bytes]") -> "bytes":
    """Return the list of which `read` returns the next bytes, up to as many as are asked for.

    Raises:
        OSError: If it ends before its end.
    """
    pieces = []  # type: list[bytes]
    while True:
        (length,) = _LENGTH.unpack(_read_exactly(read, _LENGTH.size))
        if not length:
            return b"".join(pieces)
        pieces.append(_read_exactly(read, length))


def _read_exactly(read: "Callable[[int], bytes]", count: "int") -> "bytes":
    data = b""
    while len(data) < count:
        more = read(count - len(data))
        if not more:
            raise OSError(errno.EIO, "The list of the destination ended before it was complete")
        data += more
    return data


def section(folder: "folders.Folder") -> "str":
    """Return what the section of the current folder begins with."""
    return "/" + os.fsdecode(b"/".join(folder.names))


def scan(fd: "int") -> "list[Entry]":
    """Return the entries of a folder; what is neither a file nor a link has no line."""
    found = []
    if sys.version_info < (3, 7):  # its scandir takes no descriptor
        for name in os.listdir(fd):
            status = folders.entry_status(name, fd)
            if status is not None:
                found.append(_entry(status, name, fd))
        return found
    # Two thirds of the time of a copy with few changes are spent here, most of it in the system.
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            name = entry.name
            if status.st_mode & _TYPE == stat.S_IFREG and name[:1] != ".":
                line = "f%d %d/%s" % (status.st_mtime_ns, status.st_size, name)
                found.append((stat.S_IFREG, name, line))
            else:
                found.append(_entry(status, name, fd))
    return found


def _entry(status: "os.stat_result", name: "str", fd: "int") -> "Entry":
    kind = stat.S_IFMT(status.st_mode)
    if folders.is_temporary_name(os.fsencode(name)):
        return 0, name, ""
    return kind, name, line_of(status, name, fd)


def line_of(status: "os.stat_result", name: "str", fd: "int | None") -> "str":
    """Return the line of an entry; an empty one of what is neither a file nor a link."""
    if stat.S_ISREG(status.st_mode):
        return "f%d %d/%s" % (status.st_mtime_ns, status.st_size, name)
    if stat.S_ISLNK(status.st_mode):
        try:
            return "l%d %s/%s" % (status.st_mtime_ns, os.readlink(name, dir_fd=fd), name)
        except OSError:  # it has gone
            pass
    return ""


def parse(listing: "bytes") -> "dict[str, list[str]]":
    """Return the lines of each section, by what the section begins with; "" of a file."""
    found = {}
    for part in os.fsdecode(listing).split("\0\0"):
        if part[:1] == "/":
            head, *lines = part.split("\0")
            found[head] = lines
        elif part:
            found[""] = [part]
    return found


def split(
    entries: "list[Entry]", lines: "list[str]"
) -> "tuple[list[tuple[int, bytes]], list[str]]":
    """Return what differs from the lines of the same folder, as (type, name), and other names."""
    different = []
    equal = []
    known = set(lines)
    by_name = None  # type: dict[str, str] | None
    for kind, name, line in entries:
        if line in known:
            equal.append(name)
            continue
        if line:
            if by_name is None:
                by_name = {other.rpartition("/")[2]: other for other in lines}
            if _is_equal(line, by_name.get(name, "")):
                equal.append(name)
                continue
        different.append((kind, os.fsencode(name)))
    return different, equal


def _is_equal(line: "str", other: "str") -> "bool":
    """Return True for lines of one name that differ only in what a file system keeps of a time."""
    if line[:1] != other[:1]:
        return False
    time, _, rest = line[1:].partition(" ")
    other_time, _, other_rest = other[1:].partition(" ")
    return rest == other_rest and is_same_time(int(time), int(other_time))


def is_same_time(one: "int", other: "int") -> "bool":
    """Compare two times in nanoseconds in the coarser one's resolution."""
    for step in _RESOLUTIONS:
        if not one % step or not other % step:
            return one // step == other // step
    return one == other
