"""Files and folders to a stream and back: what arrives, with modes and mtimes, with each Python."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycluster._shared import (
    deletion,
    folders,
    listing,
    paths,
    patterns,
    tree_stream,
    tree_writer,
    unpacker,
)
from lazycluster._shared.unpacker import Unpacker
from support.machine import (
    longest_name,
    needs_deep_folders,
    needs_inherited_setgid,
    needs_link_counts,
)
from support.trees import (
    NASTY_NAMES,
    TIME,
    copy,
    drawn,
    file,
    folder,
    hypothesis_place,
    link,
    look,
    make,
    names,
    needs_any_name,
    open_files,
    unpack,
)

# --- What arrives ---


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
        tree_writer.FLUSH_SIZE + 5,
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


def test_setuid_and_setgid_bits_are_dropped_and_the_sticky_bit_of_folders_stays(place):
    """A program never gets rights by being copied; a folder for all stays one."""
    below = {b"program": file(mode=0o7755), b"tmp": folder(mode=0o1777)}
    make(place / "source", folder(below, mode=0o3755))
    copy(place / "source", place / "target")
    arrived = {b"program": file(mode=0o755), b"tmp": folder(mode=0o1777)}
    assert look(place / "target") == folder(arrived, mode=0o1755)


@needs_inherited_setgid
def test_folder_keeps_the_setgid_bit_of_the_folder_above(place):
    """So a folder in a folder of a group is the group's, too."""
    (place / "shared").mkdir()
    os.chmod(place / "shared", 0o2755)
    make(place / "source", folder({b"a": folder()}))
    copy(place / "source", place / "shared/target")
    assert look(place / "shared/target") == folder({b"a": folder(mode=0o2755)}, mode=0o2755)


def test_what_is_being_written_is_for_its_owner_only(place):
    """The real mode comes when the data are there."""
    make(place / "source", file(bytes(1 << 20), mode=0o777))
    temporaries: list[str] = []
    unpacker = Unpacker(str(place / "target"), None, on_temporary=temporaries.append)
    unpacker.feed(next(tree_stream.pack(str(place / "source"))))
    assert [stat.S_IMODE(os.stat(path).st_mode) for path in temporaries] == [0o600]
    unpacker.abort()


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
time = os.stat(sys.argv[1]).st_mtime_ns
os.unlink(os.path.join(sys.argv[1], "fifo"))
os.utime(sys.argv[1], ns=(time, time))
packer = package.tree_stream.Packer(sys.argv[1], exclude=["no*"], keeps_names=True)
packer.scan()
packer.compare(b"".join(package.listing.make_list(sys.argv[2] + "/own")))
assert packer.measure() == 0  # all is equal
unpacker = package.unpacker.Unpacker(sys.argv[2] + "/", "own", delete=True)
for piece in packer.stream():
    unpacker.feed(piece)
assert unpacker.finish() == []
"""


@needs_any_name
def test_each_python_copies_alike(place, host_python):
    """Also where the locale says that all names are ASCII, and without what is installed."""
    entries = {name: file(name, mode=0o640) for name in NASTY_NAMES}
    sub = folder({b"a": folder({b"b": link(b"\xff")}, mode=0o500), b"big": file(bytes(300000))})
    make(place / "source", folder({**entries, b"sub": sub}, mode=0o750))
    os.mkfifo(place / "source/fifo")
    os.utime(place / "source", ns=(TIME, TIME))  # the FIFO has changed it
    shared = (paths, folders, patterns, listing, deletion, tree_stream, tree_writer, unpacker)
    sources = [module.__file__ for module in shared]
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


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_the_umask_is_read_and_never_changed(monkeypatch, umask):
    """Threads make files meanwhile."""
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            if os.path.exists("/proc/self/status"):
                patch.setattr("os.umask", lambda _: pytest.fail("the umask was changed"))
            assert tree_writer._umask() == umask
    finally:
        os.umask(before)
