"""Files and folders to a stream and back: what arrives, where, and whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import posix
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazycluster._shared import folders, paths, tree_stream
from lazycluster._shared import unpacker as unpacker_module
from lazycluster._shared.unpacker import Unpacker
from support.machine import longest_name, needs_deep_folders, needs_link_counts

NOBODY = 65534
TIME = 1_600_000_000_123_456_789  # ns
LINK_TIMES = os.utime in os.supports_follow_symlinks


# --- Trees as values ------------------------------------------------------------------------------
#
# ("file", mode, mtime, data), ("link", mtime, target) or ("folder", mode, mtime, {name: entry})


def file(data: bytes = b"", mode: int = 0o644, time: int = TIME) -> tuple[Any, ...]:
    return ("file", mode, time, data)


def link(target: bytes, time: int = TIME) -> tuple[Any, ...]:
    return ("link", time, target)


def folder(
    entries: dict[bytes, Any] | None = None, mode: int = 0o755, time: int = TIME
) -> tuple[Any, ...]:
    return ("folder", mode, time, entries or {})


def make(path: bytes | str | Path, entry: tuple[Any, ...]) -> None:
    """Make what the value describes."""
    path = os.fsencode(path)
    if entry[0] == "link":
        os.symlink(entry[2], path)
        if LINK_TIMES:
            os.utime(path, ns=(entry[1], entry[1]), follow_symlinks=False)
        return
    if entry[0] == "file":
        Path(os.fsdecode(path)).write_bytes(entry[3])
    else:
        os.mkdir(path)
        for name, below in entry[3].items():
            make(os.path.join(path, name), below)
    os.chmod(path, entry[1])
    os.utime(path, ns=(entry[2], entry[2]))


def look(path: bytes | str | Path) -> tuple[Any, ...] | None:
    """The value that describes what is there."""
    path = os.fsencode(path)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    mode, time = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    if stat.S_ISLNK(status.st_mode):
        return link(os.readlink(path), time if LINK_TIMES else TIME)
    if stat.S_ISREG(status.st_mode):
        return file(Path(os.fsdecode(path)).read_bytes(), mode, time)
    entries = {name: look(os.path.join(path, name)) for name in os.listdir(path)}
    return folder(entries, mode, time)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


# --- Copies ---------------------------------------------------------------------------------------


def unpack(
    pieces: Iterable[bytes], target: str | Path, name: str | None = "name"
) -> list[tuple[str, str]]:
    unpacker = Unpacker(str(target), name)
    for piece in pieces:
        unpacker.feed(piece)
    return unpacker.finish()


def copy(source: Path, target: str | Path, name: str | None = "name") -> list[tuple[str, str]]:
    return unpack(tree_stream.pack(str(source)), target, name)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a user other than root may use, too."""
    path = tempfile.mkdtemp(prefix="lctest-", dir="/tmp")  # TMPDIR may be in a folder of root's
    os.chmod(path, 0o777)
    yield Path(os.path.realpath(path))
    assert folders.remove_tree(path)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, which no mode holds up."""
    if os.getuid() != 0:
        yield
        return
    if not hasattr(os, "setresuid"):
        pytest.skip("root cannot be another for a while here")
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@pytest.fixture
def nobody(place: Path) -> Iterator[None]:
    """Run the test as an account that is not root."""
    with as_nobody():
        yield


@pytest.fixture(params=["as it is", "as nobody"])
def anybody(request: pytest.FixtureRequest, place: Path) -> Iterator[None]:
    """Run the test twice: with the account of the tests, and with one that is not root."""
    if request.param == "as it is":
        yield
    elif os.getuid() != 0:
        pytest.skip("the tests are not run by root anyway")
    else:
        with as_nobody():
            yield


# --- What arrives ---

NASTY_NAMES = [
    b" ",
    b"a b",
    b"'\"",
    b"$(id)",
    b"`id`",
    b"line\nbreak",
    b"tab\t",
    b"*?[]{}",
    b"back\\slash",
    b"-rf",
    b"~",
    b"~root",
    b"host:path",
    b"...",
    b"..a",
    b"\xff\xfe",
    "é".encode(),
    "e\u0301".encode(),
    b"\xf0\x9f\x98\x80",
    b"x" * longest_name(),
    b"\x01\x7f",
]
NAMES = st.one_of(
    st.sampled_from(NASTY_NAMES),
    st.binary(min_size=1, max_size=longest_name())
    .map(lambda name: name.replace(b"/", b"|").replace(b"\0", b"0"))
    .filter(lambda name: name not in (b".", b"..") and not name.startswith(b".lazycluster-")),
)
TIMES = st.integers(-(2**31) * 10**9, (2**33) * 10**9)
FILES = st.builds(file, st.binary(max_size=200), st.integers(0, 0o777), TIMES)
LINKS = st.builds(
    link, st.binary(min_size=1, max_size=200).map(lambda to: to.replace(b"\0", b"0")), TIMES
)
TREES = st.recursive(
    st.one_of(FILES, LINKS),
    lambda below: st.builds(
        folder,
        st.dictionaries(NAMES, below, max_size=5),
        st.integers(0, 0o777).map(lambda mode: mode | 0o500),
        TIMES,
    ),
    max_leaves=12,
)
ROOTS = TREES.filter(lambda entry: entry[0] != "link")


@contextmanager
def hypothesis_place() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="lctest-")
    try:
        yield Path(path)
    finally:
        assert folders.remove_tree(path)


needs_any_name = pytest.mark.skipif(
    sys.platform == "darwin", reason="its file system takes no name that is not UTF-8"
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can do this")
drawn = settings(deadline=None, suppress_health_check=list(HealthCheck))


@needs_any_name
@drawn
@given(ROOTS.filter(lambda entry: entry[1] & 0o400))
def test_f30_every_tree_arrives_as_it_is(entry):
    """Names, data, links, modes and mtimes, whatever they are."""
    with hypothesis_place() as place:
        make(place / "source", entry)
        with unreadable_allowed(entry):
            before = look(place / "source")
            assert copy(place / "source", place / "target") == []
            assert look(place / "target") == before


@contextmanager
def unreadable_allowed(entry: tuple[Any, ...]) -> Iterator[None]:
    """Who is not root cannot read everything that was drawn."""
    try:
        yield
    except PermissionError:
        if os.getuid() == 0:
            raise


@drawn
@given(ROOTS, st.lists(st.integers(0, 3000), max_size=20))
def test_stream_can_be_cut_anywhere(entry, cuts):
    """The pieces that arrive need not be those that were sent."""
    with hypothesis_place() as place, unreadable_allowed(entry):
        make(place / "source", entry)
        stream = b"".join(tree_stream.pack(str(place / "source")))
        bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
        pieces = [stream[start:end] for start, end in zip(bounds, bounds[1:])]
        unpack(pieces, place / "target")
        assert look(place / "target") == look(place / "source")


def test_stream_can_come_byte_by_byte(place):
    """Even so small are pieces taken."""
    make(place / "source", folder({b"a": file(b"data"), b"b": folder({b"c": link(b"x")})}))
    stream = b"".join(tree_stream.pack(str(place / "source")))
    unpack((bytes([byte]) for byte in stream), place / "target")
    assert look(place / "target") == look(place / "source")


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        tree_stream.SMALL,
        tree_stream.SMALL + 1,
        tree_stream.READ,
        tree_stream.READ + 1,
        tree_stream.CHUNK,
        10 * tree_stream.CHUNK + 1,
        unpacker_module.FLUSH_SIZE + 5,
    ],
)
def test_files_of_every_size_arrive(place, size):
    """Those of one record, of one piece, and of many."""
    data = os.urandom(size)
    make(place / "source", file(data))
    copy(place / "source", place / "target")
    assert (place / "target").read_bytes() == data


def test_pieces_are_neither_empty_nor_large(place):
    """They fit into frames, and many small files share one."""
    entries = {b"%d" % number: file(bytes(500)) for number in range(1000)}
    make(place / "source", folder({**entries, b"big": file(bytes(16 * tree_stream.CHUNK))}))
    sizes = [len(piece) for piece in tree_stream.pack(str(place / "source"))]
    assert all(1 <= size <= tree_stream.CHUNK for size in sizes)
    assert sum(sizes) / len(sizes) > 0.7 * tree_stream.CHUNK


def test_empty_folder_arrives(anybody, place):
    """A folder need not have anything in it."""
    make(place / "source", folder())
    copy(place / "source", place / "target")
    assert look(place / "target") == folder()


@needs_link_counts
def test_f31_hard_links_become_files_of_their_own(place):
    """That two names are one file is not told."""
    make(place / "source", folder({b"a": file(b"data")}))
    os.link(place / "source/a", place / "source/b")
    copy(place / "source", place / "target")
    assert look(place / "target/b") == file(b"data")
    assert (place / "target/a").stat().st_nlink == 1


def test_f31_sparse_file_arrives_with_its_zeros(place):
    """Its holes are sent as what they read as."""
    with open(place / "source", "wb") as sparse:
        sparse.truncate(1 << 20)
    copy(place / "source", place / "target")
    assert (place / "target").read_bytes() == bytes(1 << 20)


def test_f31_links_in_a_folder_stay_links(place):
    """To a file, a folder, nothing, itself, or out: the text is what counts."""
    links = {b"a": b"file", b"b": b".", b"c": b"nothing", b"d": b"d", b"e": b"/etc/passwd"}
    entries = {name: link(target) for name, target in links.items()}
    make(place / "source", folder({**entries, b"file": file()}))
    assert copy(place / "source", place / "target") == []
    assert look(place / "target") == look(place / "source")


@pytest.mark.parametrize("entry", [file(b"data"), folder({b"a": file()})])
def test_link_named_as_the_source_is_followed(place, entry):
    """What the user names is what is meant, as with scp."""
    make(place / "real", entry)
    make(place / "source", link(b"real"))
    copy(place / "source", place / "target")
    assert look(place / "target") == entry


def test_dangling_link_as_the_source_is_an_error(place):
    """It is followed to nothing."""
    make(place / "source", link(b"nothing"))
    with pytest.raises(FileNotFoundError, match="source"):
        next(tree_stream.pack(str(place / "source")))


def test_file_of_proc_arrives_though_it_says_it_is_empty(place):
    """A size of 0 is not believed."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc")
    copy(Path("/proc/version"), place / "target")
    assert (place / "target").read_bytes() == Path("/proc/version").read_bytes()


@needs_deep_folders
def test_deep_tree_arrives(place):
    """10000 levels are neither too many Python frames, nor too long a path, nor too many files."""
    make_deep(place / "source", 10000)
    before = open_files()
    during = before
    unpacker = Unpacker(str(place / "target"), None)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
        during = max(during, open_files())
    unpacker.finish()
    assert depth(place / "target") == 10000
    assert during - before < 5
    assert open_files() == before


def make_deep(path: Path, levels: int) -> None:
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def depth(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    for level in itertools.count():
        try:
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
        except FileNotFoundError:
            return level
        finally:
            os.close(fd)
        fd = below
    raise AssertionError


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@needs_deep_folders
def test_deep_tree_is_removed(place):
    """Where shutil.rmtree cannot."""
    make_deep(place / "deep", 10000)
    assert folders.remove_tree(str(place / "deep"))
    assert names(place) == []


@needs_deep_folders
def test_deep_tree_is_put_into_another(place):
    """Nor is putting one into another held up by depth."""
    make_deep(place / "source", 3000)
    make_deep(place / "target", 2000)
    copy(place / "source", str(place), "target")
    assert depth(place / "target") == 3000


# --- Modes and mtimes ---


@pytest.mark.parametrize("mode", [0o400, 0o444, 0o600, 0o640, 0o755, 0o777])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_f32_mode_of_a_file_is_kept(anybody, place, mode, umask):
    """Whatever the umask says."""
    make(place / "source", file(mode=mode))
    before = os.umask(umask)
    try:
        copy(place / "source", place / "target")
    finally:
        os.umask(before)
    assert look(place / "target") == file(mode=mode)


def test_f32_read_only_folders_arrive_with_what_is_in_them(anybody, place):
    """Their own mode comes last, and so does their mtime."""
    inner = folder({b"file": file(mode=0o444)}, mode=0o500, time=TIME + 1)
    entry = folder({b"inner": inner, b"file": file()}, mode=0o555)
    make(place / "source", entry)
    copy(place / "source", place / "target")
    assert look(place / "target") == entry


@pytest.mark.parametrize("time", [0, -1, -(10**18), 2**31 * 10**9, 10**19])
def test_f32_times_of_other_centuries_are_kept(place, time):
    """As far as the file system keeps them at all."""
    make(place / "source", file(time=time))
    before = look(place / "source")
    copy(place / "source", place / "target")
    assert look(place / "target") == before


def test_setuid_setgid_and_sticky_bits_are_dropped(place):
    """A program never gets rights by being copied."""
    make(place / "source", folder({b"program": file(mode=0o6755)}, mode=0o1755))
    copy(place / "source", place / "target")
    assert look(place / "target") == folder({b"program": file(mode=0o755)}, mode=0o755)


def test_folder_keeps_the_setgid_bit_of_the_folder_above(place):
    """So a folder in a folder of a group is the group's, too."""
    (place / "shared").mkdir()
    os.chmod(place / "shared", 0o2755)
    os.mkdir(place / "shared/probe")
    if not os.stat(place / "shared/probe").st_mode & stat.S_ISGID:
        pytest.skip("folders here do not inherit it")
    make(place / "source", folder({b"a": folder()}))
    copy(place / "source", place / "shared/target")
    assert look(place / "shared/target") == folder({b"a": folder(mode=0o2755)}, mode=0o2755)


def test_what_is_being_written_is_for_its_owner_only(place):
    """The real mode comes when the data are there."""
    make(place / "source", file(bytes(1 << 20), mode=0o777))
    unpacker = Unpacker(str(place / "target"), None)
    unpacker.feed(next(tree_stream.pack(str(place / "source"))))
    assert stat.S_IMODE(os.stat(unpacker.temporary).st_mode) == 0o600
    unpacker.abort()


# --- What is skipped, and what is not there ---


def test_f31_fifo_and_socket_are_named_and_not_waited_for(place):
    """They are no data."""
    make(place / "source", folder({b"file": file()}))
    os.mkfifo(place / "source/fifo")
    os.mknod(place / "source/socket", stat.S_IFSOCK | 0o600)
    skipped = copy(place / "source", place / "target")
    root = str(place / "source")
    assert sorted(skipped) == [(f"{root}/fifo", "FIFO"), (f"{root}/socket", "socket")]
    assert names(place / "target") == ["file"]


@needs_root
def test_f31_device_is_named_and_not_opened(place):
    """It has no end."""
    (place / "source/sub").mkdir(parents=True)
    os.mknod(place / "source/sub/zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    skipped = copy(place / "source", place / "target")
    assert skipped == [(f"{place}/source/sub/zero", "device")]


def test_f31_file_that_becomes_a_fifo_is_not_waited_for(place, monkeypatch):
    """What was a file when the folder was read may be something else when it is opened."""
    (place / "source").mkdir()
    os.mkfifo(place / "source/fifo")
    monkeypatch.setattr(folders, "_entries", lambda fd: [(stat.S_IFREG, b"fifo")])
    assert copy(place / "source", place / "target") == [(f"{place}/source/fifo", "FIFO")]


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_f31_source_that_is_no_file_is_an_error(place, kind):
    """Nothing is sent of what was asked for by its name."""
    os.mkfifo(place / "fifo")
    path = {"fifo": str(place / "fifo"), "device": "/dev/zero"}[kind]
    with pytest.raises(OSError, match="Neither a file nor a folder") as caught:
        next(tree_stream.pack(path))
    assert caught.value.filename == path


@pytest.mark.parametrize("path", ["nothing", "file/", "file/below"])
def test_source_that_is_not_there_is_an_error(place, path):
    """It is raised before anything is sent."""
    make(place / "file", file())
    with pytest.raises(OSError, match=r"file|nothing") as caught:
        next(tree_stream.pack(str(place / path).rstrip("/") + "/" * path.endswith("/")))
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)


def test_source_that_cannot_be_read_is_an_error(nobody, place):
    """Nothing was yielded."""
    for name, entry in {"file": file(mode=0), "folder": folder(mode=0o300)}.items():
        make(place / name, entry)
        with pytest.raises(PermissionError) as caught:
            next(tree_stream.pack(str(place / name)))
        assert caught.value.filename == str(place / name)


@pytest.mark.parametrize("entry", [file(mode=0), folder(mode=0)])
def test_f31_what_cannot_be_read_in_a_folder_fails_the_copy_with_its_path(nobody, place, entry):
    """The receiver raises what the sender met, with the sender's path."""
    make(place / "source", folder({b"sub": folder({b"secret": entry})}))
    unpacker = Unpacker(str(place / "target"), None)
    stream = b"".join(tree_stream.pack(str(place / "source")))
    with pytest.raises(PermissionError) as caught:
        unpacker.feed(stream)
    assert caught.value.filename == str(place / "source/sub/secret")
    assert unpacker.failed_there
    assert names(place) == ["source"]
    os.chmod(place / "source/sub/secret", 0o700)


def test_f31_files_that_vanish_are_named(place):
    """What was there when the folder was read may be gone when its turn comes."""
    make(
        place / "source",
        folder({b"%d" % number: file(bytes(2 * tree_stream.CHUNK)) for number in range(3)}),
    )
    stream = tree_stream.pack(str(place / "source"))
    first = next(stream)
    shutil.rmtree(place / "source")
    skipped = unpack(itertools.chain([first], stream), place / "target")
    assert [what for _, what in skipped] == ["vanished while the folder was read"] * 2
    assert len(names(place / "target")) == 1


def test_f31_folder_that_vanishes_is_named(place):
    """As for files; and one that vanishes around the reader ends early."""
    make(
        place / "source",
        folder({b"a": folder({b"big": file(bytes(2 * tree_stream.CHUNK))}), b"b": folder()}),
    )
    stream = tree_stream.pack(str(place / "source"))
    first = next(stream)
    shutil.rmtree(place / "source")
    skipped = unpack(itertools.chain([first], stream), place / "target")
    assert [what for _, what in skipped] in ([], ["vanished while the folder was read"])
    assert look(place / "target/a/big")[3] == bytes(2 * tree_stream.CHUNK)


def test_folder_that_is_moved_under_the_reader_fails_the_copy(place):
    """From a folder that was moved, no path leads back to the others."""
    make(place / "source", folder({b"sub": folder({b"big": file(bytes(2 * tree_stream.CHUNK))})}))
    (place / "elsewhere").mkdir()
    stream = tree_stream.pack(str(place / "source"))
    first = next(stream)
    os.rename(place / "source/sub", place / "elsewhere/sub")
    with pytest.raises(OSError, match="sub") as caught:
        unpack(itertools.chain([first], stream), place / "target")
    assert caught.value.errno == errno.ESTALE


def test_f31_file_that_grows_arrives_as_it_was_when_opened(place):
    """So a log that is written faster than it is sent comes to an end."""
    make(place / "source", file(b"x" * (3 * tree_stream.CHUNK)))
    stream = tree_stream.pack(str(place / "source"))
    first = next(stream)
    with open(place / "source", "ab") as growing:
        growing.write(b"y" * tree_stream.CHUNK)
    unpack(itertools.chain([first], stream), place / "target")
    assert (place / "target").read_bytes() == b"x" * (3 * tree_stream.CHUNK)


def test_f31_file_that_shrinks_arrives_as_far_as_it_goes(place):
    """No size was promised."""
    make(place / "source", file(b"x" * (3 * tree_stream.CHUNK)))
    stream = tree_stream.pack(str(place / "source"))
    first = next(stream)
    os.truncate(place / "source", (2 * tree_stream.CHUNK))
    unpack(itertools.chain([first], stream), place / "target")
    assert (place / "target").read_bytes() == b"x" * (2 * tree_stream.CHUNK)


def test_error_while_reading_fails_the_copy(place, monkeypatch):
    """A disk that gives up in the middle of a file, with some of it sent."""
    make(place / "source", file(bytes(5 * tree_stream.CHUNK)))
    read, calls = os.read, itertools.count()

    def failing(fd: int, size: int) -> bytes:
        if next(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size)

    monkeypatch.setattr(os, "read", failing)
    with pytest.raises(OSError, match="source") as caught:
        copy(place / "source", place / "target")
    assert caught.value.errno == errno.EIO
    assert names(place) == ["source"]


def test_f44_folder_can_be_sent_into_itself(place):
    """What is being written there is not sent again; else it would have no end."""
    make(place / "source", folder({b"file": file(bytes(300000)), b"sub": folder()}))
    skipped = copy(place / "source", f"{place}/source/sub/", "copy")
    assert [what for _, what in skipped] == ["unfinished copy"]
    assert names(place / "source/sub") == ["copy"]
    assert names(place / "source/sub/copy") == ["file", "sub"]


# --- Where it goes ---


def test_absent_target_is_the_copy(place):
    """A new name for it."""
    make(place / "source", file(b"new"))
    copy(place / "source", place / "target", "source")
    assert look(place / "target") == file(b"new")


def test_existing_folder_gets_the_copy_under_its_own_name(place):
    """As cp and scp have it."""
    make(place / "source", file(b"new"))
    make(place / "target", folder())
    copy(place / "source", place / "target", "own")
    assert look(place / "target/own") == file(b"new")


def test_link_to_a_folder_is_an_existing_folder(place):
    """It is the user who named it."""
    make(place / "source", file(b"new"))
    make(place / "real", folder())
    make(place / "target", link(b"real"))
    copy(place / "source", place / "target", "own")
    assert look(place / "real/own") == file(b"new")


@pytest.mark.parametrize("end", ["/", "/.", "//"])
def test_trailing_slash_makes_a_folder_for_the_copy(place, end):
    """Whether it is there or not."""
    make(place / "source", file(b"new"))
    copy(place / "source", f"{place}/a/b{end}", "own")
    assert look(place / "a/b/own") == file(b"new")


def test_trailing_slash_behind_a_file_is_an_error(place):
    """A file cannot become a folder."""
    make(place / "source", file(b"new"))
    make(place / "target", file(b"old"))
    with pytest.raises(NotADirectoryError):
        copy(place / "source", f"{place}/target/", "own")
    assert look(place / "target") == file(b"old")


def test_missing_folders_are_made(place):
    """All the way down."""
    make(place / "source", folder({b"file": file()}))
    copy(place / "source", place / "a/b/c")
    assert look(place / "a/b/c") == folder({b"file": file()})


def test_relative_target_begins_at_the_current_folder(place, monkeypatch):
    """Of the time when the copy begins."""
    monkeypatch.chdir(place)
    unpacker = Unpacker("a/b", None)
    monkeypatch.chdir("/")
    assert unpacker.path == f"{place}/a/b"


def test_tilde_is_the_home_directory_only_as_the_first_character(place, monkeypatch):
    """Anywhere else, and in the source's name, it is a letter."""
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place)
    assert Unpacker("~/file", None).path == f"{place}/file"
    assert Unpacker("~", "~").path == f"{place}/~"
    assert Unpacker("a~", None).path == f"{place}/a~"
    assert Unpacker("./~", None).path == f"{place}/~"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b", None])
@pytest.mark.parametrize("target", ["", "/"])
def test_f30_name_that_is_no_name_is_refused(place, name, target):
    """It is needed for a target that is a folder."""
    with pytest.raises(ValueError, match="cannot be the name of an entry"):
        Unpacker(f"{place}{target}", name)


def test_empty_target_is_refused():
    """No path is not the current folder."""
    with pytest.raises(ValueError, match="empty"):
        Unpacker("", "name")


@pytest.mark.parametrize(
    ("target", "is_folder", "expected"),
    [
        ("a", False, "a"),
        ("a", True, "a/name"),
        ("a/", False, "a/name"),
        ("a/.", False, "a/./name"),
        ("a/..", False, "a/../name"),
        (".", True, "./name"),
        ("/", True, "/name"),
        ("~", True, "~/name"),
        ("a/~", False, "a/~"),
        ("a\n", False, "a\n"),
        ("a/...", False, "a/..."),
    ],
)
def test_destination_is_what_the_table_says(target, is_folder, expected):
    """It asks no question."""
    assert paths.destination(target, "name", is_folder) == expected


def test_file_replaces_a_file(place):
    """As a new one: who has the old one open keeps it."""
    make(place / "source", file(b"new"))
    make(place / "target", file(b"old", mode=0o600, time=0))
    os.link(place / "target", place / "other")
    copy(place / "source", place / "target")
    assert look(place / "target") == file(b"new")
    assert (place / "other").read_bytes() == b"old"


@pytest.mark.parametrize("target", [b"real", b"nothing"])
def test_file_replaces_a_link_and_not_what_it_points_to(place, target):
    """Whether it points to anything or not."""
    make(place / "source", file(b"new"))
    make(place / "real", file(b"old"))
    make(place / "target", link(target))
    copy(place / "source", place / "target")
    assert look(place / "target") == file(b"new")
    assert look(place / "real") == file(b"old")
    assert not (place / "nothing").exists()


def test_file_replaces_a_link_to_a_folder_in_a_folder(place):
    """Only the target as the user named it is followed."""
    make(place / "source", file(b"new"))
    make(place / "real", folder())
    make(place / "target", folder({b"own": link(b"../real")}))
    copy(place / "source", place / "target", "own")
    assert look(place / "target/own") == file(b"new")
    assert names(place / "real") == []


def test_file_does_not_replace_a_folder(place):
    """That is said before the data come."""
    make(place / "source", file(b"new"))
    make(place / "target", folder({b"own": folder({b"kept": file()})}))
    with pytest.raises(IsADirectoryError) as caught:
        copy(place / "source", place / "target", "own")
    assert caught.value.filename == str(place / "target/own")
    assert look(place / "target") == folder({b"own": folder({b"kept": file()})}, time=mtime(place))


def mtime(place: Path) -> int:
    """That of the target as it is; a folder that a temporary was in for a while has a new one."""
    return os.stat(place / "target").st_mtime_ns


@pytest.mark.parametrize("entry", [file(b"old"), link(b"nothing"), link(b"file")])
def test_folder_does_not_replace_a_file_or_link(place, entry):
    """Nothing is followed either."""
    make(place / "source", folder({b"a": file()}))
    make(place / "file", file())
    make(place / "target", entry)
    with pytest.raises(NotADirectoryError) as caught:
        copy(place / "source", place / "target")
    assert caught.value.filename == str(place / "target")
    assert look(place / "target") == entry
    assert names(place) == ["file", "source", "target"]


@pytest.mark.parametrize("target", [b"real", b"nothing"])
def test_folder_does_not_go_into_a_link_below_the_target(place, target):
    """Only the target as the user named it is followed."""
    make(place / "source", folder({b"a": file()}))
    make(place / "target", folder({b"own": link(target), b"real": folder()}))
    with pytest.raises(NotADirectoryError):
        copy(place / "source", place / "target", "own")
    assert look(place / "target/own") == link(target)
    assert names(place / "target/real") == []


def test_fifo_or_device_is_not_replaced(place):
    """Not even by root: /dev/null must stay what it is."""
    make(place / "source", file(b"new"))
    os.mkfifo(place / "target")
    with pytest.raises(FileExistsError):
        copy(place / "source", place / "target")
    assert stat.S_ISFIFO(os.stat(place / "target").st_mode)


# --- A folder into a folder ---

OLD = folder(
    {
        b"kept": file(b"kept"),
        b"replaced": file(b"old"),
        b"link": link(b"kept"),
        b"sub": folder({b"kept": file(), b"replaced": file(b"old")}, mode=0o700, time=0),
    },
    mode=0o700,
    time=0,
)
ADDED = folder({b"file": file(), b"deeper": folder({b"deepest": folder()})}, mode=0o500)
NEW = folder(
    {
        b"replaced": file(b"new", mode=0o600),
        b"link": file(b"no link"),
        b"sub": folder({b"replaced": link(b"x"), b"added": ADDED}),
        b"added": file(),
    },
    mode=0o750,
)
BOTH = folder(
    {
        b"kept": file(b"kept"),
        b"replaced": file(b"new", mode=0o600),
        b"link": file(b"no link"),
        b"sub": folder(
            {
                b"kept": file(),
                b"replaced": link(b"x"),
                b"added": ADDED,
            }
        ),
        b"added": file(),
    },
    mode=0o750,
)


def test_folder_goes_into_the_folder_of_its_name(anybody, place):
    """What is in both is replaced, what is in one is there, modes and mtimes are the new ones."""
    make(place / "source", NEW)
    make(place / "own", OLD)
    copy(place / "source", place, "own")
    assert look(place / "own") == BOTH
    assert names(place) == ["own", "source"]


def test_copying_again_changes_nothing(anybody, place):
    """A folder that is there already is put into itself."""
    read_only = folder({b"c": file(), b"d": folder(mode=0o500)}, mode=0o500)
    make(place / "source", folder({b"a": file(b"x"), b"b": read_only}, mode=0o555))
    for _ in range(2):
        copy(place / "source", place, "own")
        assert look(place / "own") == look(place / "source")


CONFLICTS = {
    "file for folder": (folder({b"x": folder()}), folder({b"x": file(b"old")}), errno.ENOTDIR),
    "link for folder": (
        folder({b"x": folder({b"escaped": file()})}),
        folder({b"x": link(b"../outside")}),
        errno.ENOTDIR,
    ),
    "folder for file": (folder({b"x": file()}), folder({b"x": folder()}), errno.EISDIR),
    "folder for link": (folder({b"x": link(b"y")}), folder({b"x": folder()}), errno.EISDIR),
}


@pytest.mark.parametrize(("new", "old", "number"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_what_does_not_go_into_a_folder_is_found_before_it_changes(place, new, old, number):
    """Nothing is followed, and what would have gone has not been put there either."""
    make(place / "source", folder({b"deep": new, **{b"%d" % n: file() for n in range(9)}}))
    make(place / "own", folder({b"deep": old, b"1": file(b"old")}))
    make(place / "outside", folder())
    before = look(place / "own")
    with pytest.raises(OSError, match="deep") as caught:
        copy(place / "source", place, "own")
    assert caught.value.errno == number
    assert caught.value.filename == str(place / "own/deep/x")
    assert look(place / "own") == before
    assert names(place) == ["outside", "own", "source"]
    assert names(place / "outside") == []


@pytest.mark.parametrize("new", [file(), folder(), folder(mode=0o500)])
def test_read_only_folder_in_the_target_is_found_before_it_changes(nobody, place, new):
    """Its path is in the error."""
    make(place / "source", folder({b"a": file(), b"b": folder({b"c": new}, mode=0o700)}))
    make(place / "own", folder({b"b": folder(mode=0o555)}))
    before = look(place / "own")
    with pytest.raises(PermissionError) as caught:
        copy(place / "source", place, "own")
    assert caught.value.filename == str(place / "own/b/c")
    assert look(place / "own") == before


def test_link_put_in_place_of_a_folder_meanwhile_is_not_followed(place, monkeypatch):
    """The check before is not what this rests on."""
    make(place / "source", folder({b"sub": folder({b"escaped": file()})}))
    make(place / "own", folder({b"sub": link(b"../outside")}))
    make(place / "outside", folder())
    monkeypatch.setattr(unpacker_module, "_check_merge", lambda *arguments: None)
    with pytest.raises(NotADirectoryError):
        copy(place / "source", place, "own")
    assert names(place / "outside") == []


# --- Whole or not at all ---


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(
    "entry", [file(b"data" * 5), folder({b"a": file(b"x"), b"l": link(b"y"), b"b": folder()})]
)
def test_f33_stream_cut_at_any_byte_changes_nothing(place, entry, old):
    """The target is what it was, and no temporary stays."""
    make(place / "source", entry)
    stream = b"".join(tree_stream.pack(str(place / "source")))
    if old is not None:
        make(place / "target", file(b"old") if entry[0] == "file" else folder({b"a": file(b"o")}))
    before, there = look(place / "target"), names(place)
    for length in range(len(stream)):
        with pytest.raises(OSError, match="ended before it was complete"):
            unpack([stream[:length]], place, "target")
        assert look(place / "target") == before
        assert names(place) == there


def test_f33_target_appears_only_when_finished(place):
    """Until then the old one is there."""
    make(place / "source", file(b"new"))
    make(place / "target", file(b"old"))
    unpacker = Unpacker(str(place / "target"), None)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
    assert look(place / "target") == file(b"old")
    unpacker.finish()
    assert look(place / "target") == file(b"new")


def test_f33_temporary_is_known_before_it_is_made(place):
    """So that a user can remove it; it lies beside the target."""
    unpacker = Unpacker(str(place / "a/target"), None)
    assert os.path.dirname(unpacker.temporary) == str(place / "a")
    name = os.path.basename(unpacker.temporary)
    assert name.startswith(".lazycluster-")
    assert len(bytes.fromhex(name[len(".lazycluster-") :])) == 8
    assert names(place) == []


def test_f33_abort_removes_everything_and_can_be_repeated(nobody, place):
    """Read-only folders, too."""
    make(place / "source", folder({b"a": folder({b"b": file(bytes(9))}, mode=0o500)}, mode=0o500))
    unpacker = Unpacker(str(place / "target"), None)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
    assert names(place) == [os.path.basename(unpacker.temporary), "source"]
    unpacker.abort()
    unpacker.abort()
    assert names(place) == ["source"]
    with pytest.raises(ValueError, match="over"):
        unpacker.feed(b"")


def test_abort_after_the_end_leaves_the_copy(place):
    """What is where it was to be is no temporary."""
    make(place / "source", file(b"new"))
    unpacker = Unpacker(str(place / "target"), None)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
    unpacker.finish()
    unpacker.abort()
    assert look(place / "target") == file(b"new")


def test_abort_removes_nothing_that_it_did_not_make(place):
    """Should the name be taken, by whatever chance."""
    unpacker = Unpacker(str(place / "target"), None)
    make(unpacker.temporary, file(b"another's"))
    with pytest.raises(FileExistsError):
        unpacker.feed(record(tree_stream.FILE))
    assert look(unpacker.temporary) == file(b"another's")


def test_interrupt_removes_what_was_written(place, monkeypatch):
    """Not only errors end a copy."""
    make(place / "source", file(b"new"))

    def interrupt(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        copy(place / "source", place / "target")
    assert names(place) == ["source"]


def test_no_descriptor_stays_open(place):
    """After a copy, a failure, and a stream that is not read to its end."""
    make(place / "source", folder({b"a": file(bytes(300000)), b"b": folder({b"c": file()})}))
    before = open_files()
    copy(place / "source", place / "target")
    stream = tree_stream.pack(str(place / "source"))
    unpacker = Unpacker(str(place / "other"), None)
    unpacker.feed(next(stream))
    stream.close()
    unpacker.abort()
    assert open_files() == before


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs."""
    disk = place / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("entry", [file(bytes(500000)), folder({b"big": file(bytes(500000))})])
def test_f28_full_disk_is_an_error_and_leaves_nothing(place, entry):
    """Its errno, and the path of what did not fit."""
    make(place / "source", entry)
    with small_disk(place, "size=64k") as disk:
        with pytest.raises(OSError, match="target") as caught:
            copy(place / "source", disk / "target")
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename.endswith("big" if entry[0] == "folder" else "target")
        assert names(disk) == []


def test_f28_full_disk_leaves_the_old_file(place):
    """Though there was room for part of the new one."""
    make(place / "source", file(bytes(500000)))
    with small_disk(place, "size=64k") as disk:
        make(disk / "target", file(b"old"))
        with pytest.raises(OSError, match="target"):
            copy(place / "source", disk / "target")
        assert look(disk / "target") == file(b"old")
        assert names(disk) == ["target"]


def test_f28_too_few_inodes_are_an_error_and_leave_nothing(place):
    """A disk can be full of names."""
    make(place / "source", folder({b"%d" % number: file() for number in range(20)}))
    with small_disk(place, "nr_inodes=10") as disk:
        with pytest.raises(OSError, match="target") as caught:
            copy(place / "source", disk / "target")
        assert caught.value.errno == errno.ENOSPC
        assert names(disk) == []


def test_f28_limit_of_a_file_is_an_error_and_leaves_nothing(place):
    """An account that cannot mount a small disk can set this limit, and quotas end writes alike."""
    make(place / "source", file(bytes(500000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, hard))
    try:
        with pytest.raises(OSError, match="target") as caught:
            copy(place / "source", place / "target")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert names(place) == ["source"]


def test_f29_read_only_folder_is_an_error(nobody, place):
    """With the path of the target, not of what it would have been called until then."""
    make(place / "source", file(b"new"))
    make(place / "folder", folder(mode=0o555))
    with pytest.raises(PermissionError) as caught:
        copy(place / "source", place / "folder", "own")
    assert caught.value.filename == str(place / "folder/own")


def test_f29_old_file_in_a_read_only_folder_stays(nobody, place):
    """Whole or not at all needs a place beside it."""
    make(place / "source", file(b"new"))
    make(place / "folder", folder({b"own": file(b"old", mode=0o666)}, mode=0o555))
    with pytest.raises(PermissionError):
        copy(place / "source", place / "folder/own")
    assert look(place / "folder/own") == file(b"old", mode=0o666)


def test_file_system_without_modes_is_no_error(place, monkeypatch):
    """FAT and some network file systems refuse to keep them."""
    make(place / "source", file(b"new", mode=0o640))

    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    copy(place / "source", place / "target")
    assert stat.S_IMODE((place / "target").stat().st_mode) == 0o600


def test_error_of_close_fails_the_copy(place, monkeypatch):
    """NFS says only there that its disk is full."""
    make(place / "source", file(bytes(12345)))
    stream = list(tree_stream.pack(str(place / "source")))
    close = posix.close

    def failing(fd: int) -> None:
        size = os.fstat(fd).st_size
        close(fd)
        if size == 12345:  # others may be closed meanwhile, by the garbage collector
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    unpacker = Unpacker(str(place / "target"), None)
    monkeypatch.setattr(posix, "close", failing)
    with pytest.raises(OSError, match="target") as caught:
        unpacker.feed(stream[0])
    monkeypatch.undo()
    assert caught.value.errno == errno.EDQUOT
    assert names(place) == ["source"]


def test_f34_two_copies_to_one_target_do_not_mix(place):
    """Each has a temporary of its own; the last one is there in the end."""
    stay = [os.urandom(300000) for _ in range(8)]

    def copy_one(number: int) -> None:
        make(place / f"source{number}", file(stay[number]))
        copy(place / f"source{number}", place / "target")

    threads = [threading.Thread(target=copy_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (place / "target").read_bytes() in stay


# --- Hostile streams ---


def record(
    kind: int, text: bytes = b"", mode: int = 0o755, seconds: int = 0, nanoseconds: int = 0
) -> bytes:
    return tree_stream.HEAD.pack(kind, mode, len(text), seconds, nanoseconds) + text


FILE, FOLDER, LEAVE, LINK, END = (
    tree_stream.FILE,
    tree_stream.FOLDER,
    tree_stream.LEAVE,
    tree_stream.LINK,
    tree_stream.END,
)
ROOT = record(FOLDER)
NO_DATA = tree_stream.NO_MORE_DATA
BAD_NAMES = [b"", b".", b"..", b"/", b"/etc/x", b"a/b", b"../x", b"a/", b"a\0b", b"\0", b"n" * 5000]
HOSTILE = {
    **{f"file {name[:9]!r}": ROOT + record(FILE, name) for name in BAD_NAMES},
    **{f"folder {name[:9]!r}": ROOT + record(FOLDER, name) for name in BAD_NAMES},
    **{
        f"link {name[:9]!r}": ROOT + record(LINK, name + b"\0target")
        for name in BAD_NAMES
        if b"\0" not in name
    },
    "name of a temporary": ROOT + record(FILE, b".lazycluster-0123456789abcdef"),
    "link without a target": ROOT + record(LINK, b"a"),
    "link to nothing": ROOT + record(LINK, b"a\0"),
    "link with a NUL": ROOT + record(LINK, b"a\0b\0c"),
    "link with a long target": ROOT + record(LINK, b"a\0" + b"t" * 5000),
    "file twice": ROOT + (record(FILE, b"a") + NO_DATA) * 2,
    "folder twice": ROOT + (record(FOLDER, b"a") + record(LEAVE)) * 2,
    "file through a link": ROOT + record(LINK, b"a\0../outside") + record(FILE, b"a"),
    "folder through a link": ROOT + record(LINK, b"a\0../outside") + record(FOLDER, b"a"),
    "folder through a file": ROOT + record(FILE, b"a") + NO_DATA + record(FOLDER, b"a"),
    "link in place of a folder": ROOT
    + record(FOLDER, b"a")
    + record(LEAVE)
    + record(LINK, b"a\0../outside"),
    "link as the root": record(LINK, b"\0../outside"),
    "link as the root with a name": record(LINK, b"a\0../outside"),
    "root with a name": record(FOLDER, b"a"),
    "file as the root with a name": record(FILE, b"a"),
    "out of the root": ROOT + record(LEAVE) + record(LEAVE),
    "out of nothing": record(LEAVE),
    "second root": ROOT + record(LEAVE) + ROOT,
    "entry behind the root": ROOT + record(LEAVE) + record(FILE, b"a"),
    "entry behind a file": record(FILE) + NO_DATA + record(FILE, b"a"),
    "end of nothing": record(END),
    "end within": ROOT + record(END),
    "data behind the end": record(FILE) + NO_DATA + record(END) + b"x",
    "record behind the end": ROOT + record(LEAVE) + record(END) + record(FILE, b"a"),
    "unknown kind": ROOT + record(8),
    "kind 0": record(0),
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "long piece": record(FILE) + tree_stream.LENGTH.pack(tree_stream.CHUNK + 1),
    "longest piece": ROOT + record(FILE, b"a") + tree_stream.LENGTH.pack(2**32 - 1),
    "too many nanoseconds": record(FILE, nanoseconds=10**9),
    "skipped for an unknown reason": ROOT + record(tree_stream.SKIPPED, b"a", mode=99),
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_stream_is_refused_and_leaves_nothing(place, stream):
    """Nothing is written but below the temporary, and that goes."""
    make(place / "outside", folder({b"kept": file()}))
    make(place / "folder", folder())
    with pytest.raises(tree_stream.FormatError):
        unpack([stream], place / "folder/target")
    assert look(place / "outside") == folder({b"kept": file()})
    assert names(place / "folder") == []
    assert names(place) == ["folder", "outside"]


def test_format_error_is_a_value_error():
    """So that who knows no more can catch it."""
    assert issubclass(tree_stream.FormatError, ValueError)


@drawn
@given(st.binary(max_size=300))
def test_garbage_writes_nothing_but_the_target(garbage):
    """Whatever comes, it is an error or a file or folder under that name."""
    with hypothesis_place() as place:
        try:
            unpack([garbage], place / "target")
        except (OSError, tree_stream.FormatError):
            assert names(place) == []
        else:
            assert names(place) == ["target"]


RECORDS = st.one_of(
    st.builds(
        record,
        st.integers(1, 7),
        st.sampled_from([b"", b"a", b"b", b"..", b"a\0..", b"b\0/tmp", b"c\0a", b"x\0ENOENT"]),
        st.sampled_from([0o755, 0o7777, 0, 3]),
    ),
    st.just(NO_DATA),
    st.just(tree_stream.LENGTH.pack(1) + b"x"),
)


@drawn
@given(st.lists(RECORDS, max_size=12))
def test_records_in_any_order_write_nothing_but_the_target(records):
    """As garbage does, but deeper in."""
    with hypothesis_place() as place:
        (place / "folder").mkdir()
        try:
            unpack([ROOT, *records], place / "folder/target")
        except (OSError, tree_stream.FormatError):
            assert names(place / "folder") == []
        else:
            assert names(place / "folder") == ["target"]
        assert names(place) == ["folder"]


def test_setuid_bits_of_a_stream_are_dropped(place):
    """Whether the manager or the host sends them."""
    stream = record(FOLDER, mode=0o7777) + record(FILE, b"a", mode=0o7755) + NO_DATA
    unpack([stream + record(LEAVE) + record(END)], place / "target")
    assert stat.S_IMODE(os.stat(place / "target/a").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(place / "target").st_mode) == 0o777


@pytest.mark.parametrize("seconds", [-(2**63), 2**63 - 1])
def test_time_of_a_stream_may_be_absurd(place, seconds):
    """The file system makes of it what it can."""
    stream = record(FILE, seconds=seconds, nanoseconds=999999999) + NO_DATA + record(END)
    try:
        unpack([stream], place / "target")
    except (OSError, tree_stream.FormatError):
        assert names(place) == []
    else:
        assert names(place) == ["target"]


def test_levels_without_end_are_refused(place, monkeypatch):
    """The memory for them is ours."""
    monkeypatch.setattr(unpacker_module, "MOST_LEVELS", 50)
    with pytest.raises(tree_stream.FormatError, match="without end"):
        unpack([ROOT, record(FOLDER, b"d") * 50], place / "target")
    assert names(place) == []


def test_skipped_names_without_end_are_refused(place):
    line = record(tree_stream.SKIPPED, b"x" * 60000, mode=0)
    with pytest.raises(tree_stream.FormatError, match="too much"):
        unpack(itertools.chain([ROOT], itertools.repeat(line)), place / "target")
    assert names(place) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"/there/x\0ENOENT", errno.ENOENT),
        (b"/there/x\0ENOSUCH", errno.EIO),
        (b"/there/x\0errorcode", errno.EIO),
        (b"/there/x\0", errno.EIO),
        (b"/there/x\0\xff", errno.EIO),
    ],
)
def test_error_of_the_sender_is_raised_with_its_path(place, text, number):
    """By the name of its number, which differs between systems."""
    unpacker = Unpacker(str(place / "target"), None)
    unpacker.feed(ROOT)
    with pytest.raises(OSError, match="/there/x") as caught:
        unpacker.feed(record(tree_stream.ERROR, text))
    assert (caught.value.errno, caught.value.filename) == (number, "/there/x")
    assert unpacker.failed_there
    assert names(place) == []


def test_name_longer_than_the_file_system_takes_is_an_error(place):
    """A host may have longer names than we can."""
    with pytest.raises(OSError, match="target") as caught:
        unpack([ROOT, record(FILE, b"n" * 300)], place / "target")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert names(place) == []


# --- Removing ---


def test_removing_does_not_follow_links(place):
    """What they point to is not ours."""
    make(place / "outside", folder({b"kept": file()}))
    make(place / "tree", folder({b"link": link(b"../outside"), b"sub": folder()}))
    assert folders.remove_tree(str(place / "tree"))
    make(place / "link", link(b"outside"))
    assert folders.remove_tree(str(place / "link"))
    assert look(place / "outside") == folder({b"kept": file()})
    assert names(place) == ["outside"]


def test_removing_what_is_not_there_is_done(place):
    """It need not be asked for first."""
    assert folders.remove_tree(str(place / "nothing"))


def test_removing_what_cannot_be_removed_says_so(nobody, place):
    """It raises nothing, as it is what is done after errors."""
    make(place / "folder", folder({b"file": file()}, mode=0o555))
    assert not folders.remove_tree(str(place / "folder/file"))


# --- Each Python ---

ROUND_TRIP = """
import os, sys
package = type(sys)("_shared")
package.__path__ = []
sys.modules["_shared"] = package
for path in sys.argv[3:]:
    name = os.path.basename(path)[:-3]
    module = type(sys)("_shared." + name)
    module.__package__ = "_shared"
    sys.modules[module.__name__] = module
    with open(path, "rb") as source:
        exec(compile(source.read(), path, "exec"), module.__dict__)
    setattr(package, name, module)
for _ in range(2):  # the second time into what is there
    unpacker = package.unpacker.Unpacker(sys.argv[2] + "/", "own")
    for piece in package.tree_stream.pack(sys.argv[1]):
        unpacker.feed(piece)
    assert unpacker.finish() == [(os.path.join(sys.argv[1], "fifo"), "FIFO")]
"""


@needs_any_name
def test_each_python_copies_alike(place, host_python):
    """Also where the locale says that all names are ASCII, and without what is installed."""
    entries = {name: file(name, mode=0o640) for name in NASTY_NAMES}
    sub = folder({b"a": folder({b"b": link(b"\xff")}, mode=0o500), b"big": file(bytes(300000))})
    make(place / "source", folder({**entries, b"sub": sub}, mode=0o750))
    os.mkfifo(place / "source/fifo")
    os.utime(place / "source", ns=(TIME, TIME))  # the FIFO has changed it
    sources = [module.__file__ for module in (paths, folders, tree_stream, unpacker_module)]
    command = [
        host_python,
        "-I",
        "-c",
        ROUND_TRIP,
        str(place / "source"),
        str(place / "a"),
        *sources,
    ]
    done = subprocess.run(command, env={"LC_ALL": "C"}, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert look(place / "a/own") == folder({**entries, b"sub": sub}, mode=0o750)
