"""Files and folders, both ways, over a real sshd: what comes, and what was there before."""

from __future__ import annotations

import errno
import filecmp
import os
import socket
import stat
from pathlib import Path

import pytest

from lazycluster.exceptions import FileTransferError
from support.machine import file_names, longest_name
from support.transfers import both_ways, copy_of, look_at, make_tree, picture, unfinished

# --- What comes ---


@both_ways
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o444, 0o755, 0o000, 0o777])
@pytest.mark.parametrize("mtime", [1_234_567_890_123_456_789, 0, -1, 2**33 * 10**9])
def test_mode_and_time_of_a_file(runtime, way, base, elsewhere, mode, mtime):
    """To the bit and to the nanosecond."""
    if mode == 0 and os.geteuid():
        pytest.skip("only root can read it")
    (elsewhere / "name").write_text("hello")
    (elsewhere / "name").chmod(mode)
    os.utime(elsewhere / "name", ns=(0, mtime))
    copy_of(elsewhere / "name", runtime, way, None)
    assert look_at(base / "name") == look_at(elsewhere / "name")


@both_ways
def test_setuid_does_not_travel(runtime, way, base, elsewhere):
    """Nor setgid: the copy may be of another account."""
    (elsewhere / "name").write_text("hello")
    (elsewhere / "name").chmod(0o6755)
    copy_of(elsewhere / "name", runtime, way, None)
    assert stat.S_IMODE((base / "name").stat().st_mode) == 0o755


@both_ways
@pytest.mark.parametrize("size", [0, 1, 65_527, 65_528, 65_529, 1 << 20, (1 << 23) + 1])
def test_data_of_a_file(runtime, way, base, elsewhere, size):
    """Every byte, whatever there is and however much."""
    (elsewhere / "name").write_bytes(os.urandom(size))
    copy_of(elsewhere / "name", runtime, way, None)
    assert filecmp.cmp(elsewhere / "name", base / "name", shallow=False)


@both_ways
def test_empty_folder(runtime, way, base, elsewhere):
    """It is there."""
    (elsewhere / "folder").mkdir(mode=0o700)
    copy_of(elsewhere / "folder", runtime, way, None)
    assert picture(base / "folder") == picture(elsewhere / "folder")


@both_ways
def test_link_that_is_named_is_followed(runtime, way, base, elsewhere):
    """Its name goes with what it points to."""
    (elsewhere / "target").write_text("hello")
    (elsewhere / "link").symlink_to("target")
    copy_of(elsewhere / "link", runtime, way, None)
    assert not (base / "link").is_symlink()
    assert (base / "link").read_text() == "hello"


@both_ways
def test_link_in_a_folder_is_not_followed(runtime, way, base, elsewhere):
    """Neither on the way out nor on the way in: what is written through it stays as it was."""
    (elsewhere / "secret").write_text("hello")
    (elsewhere / "source").mkdir()
    (elsewhere / "source" / "x").write_text("new")
    (base / "source").mkdir()
    (base / "source" / "x").symlink_to(elsewhere / "secret")
    copy_of(elsewhere / "source", runtime, way, None)
    assert (elsewhere / "secret").read_text() == "hello"
    assert (base / "source" / "x").read_text() == "new"
    assert not (base / "source" / "x").is_symlink()


ODD_NAMES = [
    b"a b",
    b" ",
    b"'",
    b'"',
    b"$(touch owned)",
    b"`touch owned`",
    b"a;b&c|d>e",
    b"a\nb",
    b"\n",
    b"*?[",
    b"[a]",
    b"a\\b",
    b"\\",
    b"%h",
    b"-rf",
    b"--",
    b"~",
    b"~root",
    b"~a",
    b"...",
    b".hidden",
    b"#",
    b"a:b",
    b"{a,b}",
    b"\x1b[31m",
    b"\xff\xfe",
    b"a\x80",
    "ü日本".encode(),
    "u\u0308".encode(),
    b"x" * 255,
    "ü".encode() * 127,
]


@pytest.mark.parametrize("name", file_names(ODD_NAMES))
def test_odd_name_of_a_file(runtime, here, there, elsewhere, name):
    """It is taken literally, both ways, and nothing else is made."""
    text = os.fsdecode(name)
    data = os.urandom(10)
    (elsewhere / text).write_bytes(data)
    runtime.send_file(str(elsewhere / text))
    assert os.listdir(os.fsencode(there)) == [name]
    runtime.get_file(f"./{text}")
    assert os.listdir(os.fsencode(here)) == [name]
    assert (here / text).read_bytes() == data


@pytest.mark.parametrize("name", file_names(ODD_NAMES))
def test_odd_name_as_a_target(runtime, here, there, elsewhere, name):
    """It is taken literally, both ways, and nothing else is made."""
    text = os.fsdecode(name)
    (elsewhere / "name").write_bytes(name)
    runtime.send_file(str(elsewhere / "name"), f"./{text}")
    assert os.listdir(os.fsencode(there)) == [name]
    runtime.get_file(str(elsewhere / "name"), f"./{text}")
    assert os.listdir(os.fsencode(here)) == [name]
    assert (here / text).read_bytes() == (there / text).read_bytes() == name


def test_odd_names_in_a_folder(runtime, here, there, elsewhere):
    """Of files, of folders, and where links go."""
    for name in (name for name in ODD_NAMES if len(name) <= longest_name()):
        folder = elsewhere / "odd" / os.fsdecode(name)
        folder.mkdir(parents=True)
        (folder / os.fsdecode(name)).write_bytes(name)
        (folder / "link").symlink_to(os.fsdecode(name))
    runtime.send_file(str(elsewhere / "odd"))
    assert picture(there / "odd") == picture(elsewhere / "odd")
    runtime.get_file("odd")
    assert picture(here / "odd") == picture(elsewhere / "odd")


def test_odd_name_of_the_working_directory(make_runtime, here, tmp_path):
    """And of the folder that the manager is in."""
    name = os.fsdecode(b"a \n'\xff$(x)")
    runtime = make_runtime(str(tmp_path / "host" / name))
    (here / name).mkdir()
    os.chdir(here / name)
    Path("file").write_text("hello")
    runtime.send_file("file", "copy")
    runtime.get_file("copy")
    assert (here / name / "copy").read_text() == "hello"


@both_ways
def test_what_is_no_file_is_skipped_and_named(runtime, way, base, elsewhere):
    """In the execution log, and it holds nothing up."""
    source = elsewhere / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("hello")
    os.mkfifo(source / "sub" / "my fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(source)  # the path of a socket is short
        listener.bind("my socket")
        os.chdir(base)
    (log,) = copy_of(source, runtime, way, None).execution_log
    assert sorted(line.partition(":")[2].strip() for line in log.splitlines()) == ["FIFO", "socket"]
    assert str(source / "sub" / "my fifo") in log
    assert str(source / "my socket") in log
    assert sorted(os.listdir(base / "source")) == ["file", "sub"]
    assert os.listdir(base / "source" / "sub") == []


@both_ways
def test_fifo_is_an_error_if_it_is_named(runtime, way, base, elsewhere):
    """It does not wait for a writer."""
    os.mkfifo(elsewhere / "fifo")
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "fifo", runtime, way, None)
    assert caught.value.errno == errno.EINVAL
    assert os.listdir(base) == []


@both_ways
def test_copy_of_what_the_system_makes_up(runtime, way, base):
    """A file of /proc says that it has no bytes, and has some."""
    copy_of("/proc/version", runtime, way, None)
    assert (base / "version").read_text() == Path("/proc/version").read_text()


# --- What was there ---


@both_ways
def test_file_that_is_there_is_replaced(runtime, way, base, elsewhere):
    """Not written to: who has it open has the old one still, whole."""
    (base / "name").write_text("old")
    (elsewhere / "name").write_text("new")
    with open(base / "name") as old:
        copy_of(elsewhere / "name", runtime, way, None)
        assert old.read() == "old"
    assert (base / "name").read_text() == "new"


@both_ways
def test_link_that_is_there_is_replaced(runtime, way, base, elsewhere):
    """What it points to stays as it was."""
    (base / "target").write_text("old")
    (base / "name").symlink_to("target")
    (elsewhere / "name").write_text("new")
    copy_of(elsewhere / "name", runtime, way, None)
    assert (base / "target").read_text() == "old"
    assert not (base / "name").is_symlink()
    assert (base / "name").read_text() == "new"


@both_ways
def test_folder_goes_into_one_of_its_name(runtime, way, base, elsewhere):
    """File by file: what the new one does not have stays."""
    make_tree(elsewhere / "source")
    (base / "source" / "sub").mkdir(parents=True)
    (base / "source" / "text").write_text("old")
    (base / "source" / "keep").write_text("kept")
    (base / "source" / "sub" / "keep").write_text("kept, too")
    copy_of(elsewhere / "source", runtime, way, None)
    assert (base / "source" / "keep").read_text() == "kept"
    assert (base / "source" / "sub" / "keep").read_text() == "kept, too"
    wanted, found = picture(elsewhere / "source"), picture(base / "source")
    assert {path: found.get(path) for path in wanted} == wanted
    assert set(found) - set(wanted) == {b"/keep", b"/sub/keep"}
    assert not unfinished(base)


@both_ways
def test_folder_again(runtime, way, base, elsewhere):
    """The second time changes nothing, with folders that are read-only, too."""
    make_tree(elsewhere / "source")
    copy_of(elsewhere / "source", runtime, way, None)
    copy_of(elsewhere / "source", runtime, way, None)
    assert picture(base / "source") == picture(elsewhere / "source")


@both_ways
def test_file_does_not_take_the_place_of_a_folder(runtime, way, base, elsewhere):
    """EISDIR, and the folder is as it was."""
    (base / "name").mkdir()
    (base / "name" / "keep").write_text("kept")
    (elsewhere / "name").write_text("new")
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "name", runtime, way, None)
    assert caught.value.errno == errno.EISDIR
    assert str(base / "name") in str(caught.value)
    assert [path.name for path in base.rglob("*")] == ["name", "keep"]


@both_ways
def test_folder_does_not_take_the_place_of_a_file(runtime, way, base, elsewhere):
    """ENOTDIR, and the file is as it was; also when the end comes before who waits has looked."""
    (base / "source").write_text("old")
    make_tree(elsewhere / "source")
    for _ in range(50):
        with pytest.raises(FileTransferError) as caught:
            copy_of(elsewhere / "source", runtime, way, None)
        assert caught.value.errno == errno.ENOTDIR
    assert (base / "source").read_text() == "old"
    assert os.listdir(base) == ["source"]


@both_ways
def test_folder_that_does_not_fit(runtime, way, base, elsewhere):
    """The error says why, and what is in its place; nothing else is there."""
    make_tree(elsewhere / "source")
    (base / "source" / "sub" / "data").mkdir(parents=True)
    (base / "source" / "text").write_text("old")
    with pytest.raises(FileTransferError, match="It is a folder, and a file or link") as caught:
        copy_of(elsewhere / "source", runtime, way, None)
    assert caught.value.errno == errno.EISDIR
    assert caught.value.filename == str(base / "source" / "sub" / "data")
    assert "entries are in place already, the last one is" in str(caught.value)
    assert picture(base / "source" / "text") == picture(elsewhere / "source" / "text")
    assert os.listdir(base / "source" / "sub" / "data") == []
    assert not unfinished(base)


@both_ways
def test_contents_of_a_folder_twice(runtime, way, base, elsewhere):
    """As once, and what was in the target stays."""
    make_tree(elsewhere / "source")
    (base / "target" / "sub").mkdir(parents=True, mode=0o700)
    (base / "target" / "sub" / "kept").write_text("kept")
    expected = picture(elsewhere / "source")
    kind, _, mtime, content = expected[b"/sub"]
    expected[b"/sub"] = (kind, 0o700, mtime, content)
    expected[b"/sub/kept"] = look_at(base / "target" / "sub" / "kept")
    for _ in range(2):
        copy_of(f"{elsewhere}/source/", runtime, way, "target")
        assert picture(base / "target") == expected
