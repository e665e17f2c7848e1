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

    # Lines, and the types (as of `stat`) and names of what has none.
    Scan = tuple[list[str], list[tuple[int, bytes]]]

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
        lines, others = scan(folder.fd)
        pieces.append(os.fsencode("\0".join([section(folder), *lines, "", ""])))
        return [entry for entry in others if entry[0] == stat.S_IFDIR]

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


def scan(fd: "int") -> "Scan":
    """Return the lines of the files and links in a folder, and what else there is."""
    lines = []  # type: list[str]
    others = []  # type: list[tuple[int, bytes]]
    if sys.version_info < (3, 7):  # its scandir takes no descriptor
        for name in os.listdir(fd):
            status = folders.entry_status(name, fd)
            if status is not None:
                _add(status, name, fd, lines, others)
        return lines, others
    # Most of the time of a copy with few changes is spent here, and two thirds of it in the system.
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            name = entry.name
            if status.st_mode & _TYPE == stat.S_IFREG and name[:1] != ".":
                lines.append("f%d %d/%s" % (status.st_mtime_ns, status.st_size, name))
            else:
                _add(status, name, fd, lines, others)
    return lines, others


def _add(
    status: "os.stat_result",
    name: "str",
    fd: "int",
    lines: "list[str]",
    others: "list[tuple[int, bytes]]",
) -> "None":
    line = line_of(status, name, fd)
    if folders.is_temporary_name(os.fsencode(name)):
        others.append((0, os.fsencode(name)))
    elif line:
        lines.append(line)
    else:
        others.append((stat.S_IFMT(status.st_mode), os.fsencode(name)))


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


def entry_of(line: "str") -> "tuple[int, bytes]":
    """Return type and name of what has the line."""
    kind = stat.S_IFREG if line[:1] == "f" else stat.S_IFLNK
    return kind, os.fsencode(line.rpartition("/")[2])


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


def split(lines: "list[str]", others: "list[str]") -> "tuple[list[str], list[str]]":
    """Return the lines of a folder that differ from those of its copy, and those that do not."""
    known = set(others)
    different = {line for line in lines if line not in known}
    if different and others:
        by_name = {other.rpartition("/")[2]: other for other in others}
        for line in list(different):
            if _is_equal(line, by_name.get(line.rpartition("/")[2], "")):
                different.remove(line)
    equal = [line for line in lines if line not in different]
    return [line for line in lines if line in different], equal


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
