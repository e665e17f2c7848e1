"""Write a file or folder from its stream; see `tree_stream`."""

import contextlib
import errno
import os

from . import folders, paths
from . import tree_stream as stream
from .deletion import Deletion
from .tree_writer import TreeWriter, TwiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator

    from .folders import Attributes

# Limits on what the sender may ask for.
LONGEST_NAME = 4096  # bytes, also of a link's target; the file system refuses shorter names itself
MOST_LEVELS = 100000
MOST_SKIPPED = 1 << 24  # bytes of paths

SAME_NAME = "its name and another one are equal to this file system"
NOT_DELETED = "nothing was deleted in it, as something was skipped"
# Errors that are not about one entry.
_NOT_SKIPPED = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE)


class Unpacker:
    """Write a stream to its destination.

    A file, or a folder that does not exist, is there when `finish` returns, complete or not at all.
    A folder that exists is written into as the stream comes; each file in it is complete. If the
    stream ends early, reports an error, is malformed or cannot be written, the files that are in
    place stay there, and nothing else does. Missing folders above the target are created at the
    first record, and stay. See `TreeWriter`.

    A file is on disk when `finish` returns. The files of a folder are not synced (measured: 2000
    small ones take 1.13 s instead of 0.32 s), so they survive the death of processes and
    connections, but not a power failure in the seconds after.

    For `target`, which `paths.expand` makes absolute, for `name` and for ValueErrors see
    `paths.destination`.
    `on_data` is called with the number of bytes of each chunk of a file, and `on_temporary` with
    the path of each temporary before it is made. The constructor creates nothing. `path` is the
    destination.

    `mode` is that of all files in place of their own. With `skip_errors` an entry that the file
    system of the destination refuses is skipped, as a link where there are none, or a second name
    that means the same there; a full disk is an error nevertheless. With `delete` what the source
    does not have is removed at the end, see `Deletion`. For `in_place` see `TreeWriter`; `writer`
    takes its place.
    """

    def __init__(
        self,
        target: "str",
        name: "str | None",
        on_data: "Callable[[int], object] | None" = None,
        on_temporary: "Callable[[str], object] | None" = None,
        *,
        mode: "int | None" = None,
        in_place: "bool" = False,
        delete: "bool" = False,
        exclude: "Iterable[str]" = (),
        skip_errors: "bool" = False,
        writer: "Any" = None,
    ) -> "None":
        self.path = paths.copy_path(target, name)
        self.is_complete = False  # whether the stream has come to its end
        self.failed_there = False  # whether the OSError raised is the sender's, with a path there
        self.measure = None  # type: int | None  # approximate bytes of all files, if it says so
        follows = name is None
        self._writer = writer or TreeWriter(self.path, on_temporary, follows, in_place)
        self._mode = mode
        self._skip_errors = skip_errors
        self._deletion = Deletion(self.path, exclude) if delete else None
        self._skipped_levels = 0  # folders of the stream that could not be made, and are passed by
        self._on_data = on_data
        self._rest = b""  # an incomplete record
        self._over = False
        self._begun = False
        self._in_file = False
        self._discards = False  # the data of the file
        self._is_kept = False  # the file itself is there already
        self._is_broken = False  # the file itself, which only an ERROR can follow
        self._file_attributes = (0, 0)  # type: Attributes
        self._left = 0  # bytes of the current chunk of data
        self._skipped = []  # type: list[tuple[str, str]]
        self._skipped_size = 0

    def feed(self, data: "bytes | memoryview") -> "None":
        """Take the next bytes of the stream, cut anywhere; they are not kept.

        Raises:
            OSError: If the data cannot be written (with the path of the destination), or the
                sender could not read its source (`failed_there`). The copy is over.
            FormatError: If the stream is malformed. The copy is over.
        """
        with self._abort_on_error():
            self._parse(data)

    def finish(self) -> "list[tuple[str, str]]":
        """Move it to its destination; return what was skipped, as (path there, what it is).

        Raises:
            OSError: As for `feed`, or the stream is not complete, or something cannot be deleted.
        """
        with self._abort_on_error():
            if not self.is_complete:
                raise OSError(errno.EIO, "The copy ended before it was complete")
            self._writer.finish()
        self.abort()
        self._delete()
        return self._skipped

    def _delete(self) -> "None":
        """Remove what the source does not have, unless it is not known as a whole."""
        if self._deletion is None:
            return
        if any(reason != stream.SKIPS[stream.CHANGED] for _, reason in self._skipped):
            self._skipped.append((self.path, NOT_DELETED))
        else:
            self._deletion.remove()

    def abort(self) -> "None":
        """Remove what is incomplete; after `finish` nothing is."""
        self._over = True
        self._writer.abort()

    @contextlib.contextmanager
    def _abort_on_error(self) -> "Iterator[None]":
        if self._over:
            raise ValueError("this copy is over")
        with contextlib.ExitStack() as stack:
            stack.callback(self.abort)
            try:
                yield
            except OSError as error:
                raise self._writer.explain(error, self.failed_there) from error
            except TwiceError as error:
                raise stream.FormatError(str(error)) from None
            stack.pop_all()

    def _parse(self, data: "bytes | memoryview") -> "None":
        view = memoryview(self._rest + bytes(data) if self._rest else data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                chunk = view[at : at + self._left]
                self._write(chunk)
                self._left -= len(chunk)
                at += len(chunk)
            elif self._in_file:
                if end - at < stream.LENGTH.size:
                    break
                (self._left,) = stream.LENGTH.unpack_from(view, at)
                at += stream.LENGTH.size
                if self._left == stream.BROKEN:
                    self._left = 0
                    self._is_broken = not self._writer.depth
                    self._end_file(broken=True)
                elif self._left > stream.CHUNK:
                    raise stream.FormatError("a chunk of {} bytes".format(self._left))
                elif not self._left:
                    self._end_file(broken=False)
            else:
                if self.is_complete:
                    raise stream.FormatError("something behind the end")
                if end - at < stream.HEAD.size:
                    break
                kind, mode, length, seconds, nanoseconds = stream.HEAD.unpack_from(view, at)
                if not stream.FILE <= kind <= stream.KEPT or nanoseconds >= 10**9:
                    raise stream.FormatError("a record of unknown kind {}".format(kind))
                stop = at + stream.HEAD.size + length
                if stop > end:
                    break
                text = bytes(view[at + stream.HEAD.size : stop])
                self._handle_record(kind, text, (mode, seconds * 10**9 + nanoseconds))
                at = stop
        self._rest = bytes(view[at:])

    def _handle_record(self, kind: "int", text: "bytes", attributes: "Attributes") -> "None":
        if kind in (stream.FILE, stream.FOLDER, stream.LINK):
            self._make(kind, text, attributes)
        elif kind == stream.KEPT:
            if not text and self._begun:
                raise stream.FormatError("a file that is kept, in a folder")
            self._is_kept |= not text
            if self._deletion is not None:
                self._deletion.note(*text.split(b"\0"))
        elif kind == stream.LEAVE:
            self._leave()
        elif kind == stream.MEASURE:
            if self._begun or self.measure is not None or attributes[1] < 0:
                raise stream.FormatError("an invalid measure, or one that comes too late")
            self.measure = attributes[1] // 10**9
        elif kind == stream.SKIPPED:
            self._skipped_size += len(text) + 1
            if attributes[0] >= len(stream.SKIPS) or self._skipped_size > MOST_SKIPPED:
                raise stream.FormatError("something skipped for no known reason, or too much of it")
            path, _, symbol = text.partition(b"\0")
            reason = stream.SKIPS[attributes[0]]
            if symbol:
                reason = os.strerror(_number(symbol))
            self._skipped.append((os.fsdecode(path), reason))
        elif kind == stream.ERROR:
            path, _, said = text.partition(b"\0")
            symbol, _, said = said.partition(b"\0")
            number = _number(symbol)
            message = said.decode("ascii", "replace") or os.strerror(number)
            self.failed_there = True
            raise OSError(number, message, os.fsdecode(path))
        else:
            is_begun = self._begun or self._is_kept
            if not is_begun or self._writer.depth or self._is_broken:
                raise stream.FormatError("an end before the end")
            self.is_complete = True

    def _make(self, kind: "int", text: "bytes", attributes: "Attributes") -> "None":
        """Make the file or folder itself, or an entry of the current folder."""
        name, _, link = text.partition(b"\0") if kind == stream.LINK else (text, b"", b"")
        if self._is_kept:
            raise stream.FormatError("something behind a file that is kept")
        if not self._begun:
            if kind == stream.LINK or (name and kind == stream.FILE):
                raise stream.FormatError("a stream that begins with an entry of a folder")
            if name and folders.is_below(self.path, name):
                raise OSError(errno.EINVAL, "It is below its own source, so the copy would not end")
            self._begun = True
            name = b""
            if self._deletion is not None:
                self._deletion.check(kind == stream.FOLDER)
        elif not self._writer.depth:
            raise stream.FormatError("an entry outside of the folder")
        elif not _is_allowed(name):
            raise stream.FormatError("an entry of the name {!r}".format(name[:100]))
        if kind == stream.FILE:
            self._in_file, self._file_attributes = True, attributes
            self._discards = not self._try(self._writer.start_file, name)
        elif kind == stream.FOLDER:
            if self._writer.depth + self._skipped_levels >= MOST_LEVELS:
                raise stream.FormatError("folders in folders without end")
            if not self._try(self._writer.enter, name, attributes):
                self._skipped_levels += 1
        else:
            if not link or b"\0" in link or len(link) > LONGEST_NAME:
                raise stream.FormatError("a link to {!r}".format(link[:100]))
            self._try(self._writer.link, name, link, attributes)
        if self._deletion is not None:
            (self._deletion.enter if kind == stream.FOLDER else self._deletion.note)(name)

    def _leave(self) -> "None":
        if not self._writer.depth:
            raise stream.FormatError("a way out of the folder")
        if self._skipped_levels:
            self._skipped_levels -= 1
            return
        if self._deletion is not None:
            self._deletion.leave(self._writer.folder)
        self._writer.leave()

    def _try(self, make: "Callable[..., object]", *arguments: "object") -> "bool":
        """Make an entry; return False if it is skipped."""
        if self._skipped_levels:
            return False
        try:
            make(*arguments)
        except (OSError, TwiceError) as error:
            number = error.errno if isinstance(error, OSError) else None
            if not self._skip_errors or not self._writer.depth or number in _NOT_SKIPPED:
                raise
            reason = SAME_NAME if number is None else os.strerror(number)
            self._skipped.append((self._writer.drop_entry(), reason))
            return False
        return True

    def _write(self, data: "memoryview") -> "None":
        if not self._discards:
            self._discards = not self._try(self._writer.write, data)
        if self._on_data is not None:
            self._on_data(len(data))

    def _end_file(self, broken: "bool") -> "None":
        self._in_file = False
        if self._discards:
            return
        if broken:
            self._writer.drop_entry()
            return
        mode, time = self._file_attributes
        if mode == stream.USUAL_MODE:
            mode, time = self._writer.usual_attributes()
        if self._mode is not None:
            mode = self._mode
        keeps_mode = self._mode is None  # if it is overwritten
        self._try(self._writer.end_file, (mode, time), keeps_mode)


def _is_allowed(name: "bytes") -> "bool":
    is_safe = paths.is_entry_name(name) and not folders.is_temporary_name(name)
    return is_safe and len(name) <= LONGEST_NAME


def _number(symbol: "bytes") -> "int":
    """Return the errno of a name, since numbers differ between systems."""
    number = getattr(errno, symbol.decode("ascii", "replace"), None)
    return number if isinstance(number, int) else errno.EIO
