"""Where a copy goes, and a folder into a folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from lazycluster._shared import folders, paths
from lazycluster._shared.unpacker import Unpacker
from support.trees import copy, file, folder, link, look, make, names

KERNEL_IS_KNOWN = bool(folders.boot_id())
only_linux = pytest.mark.skipif(not KERNEL_IS_KNOWN, reason="a folder has no identity here")

KERNEL_IS_KNOWN = bool(folders.boot_id())
only_linux = pytest.mark.skipif(not KERNEL_IS_KNOWN, reason="a folder has no identity here")

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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
@pytest.mark.parametrize("target", ["", "/"])
def test_f30_name_that_is_no_name_is_refused(place, name, target):
    """It is needed for a target that is a folder."""
    with pytest.raises(ValueError, match=r"cannot be the name of an entry|has no name"):
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


@pytest.mark.parametrize("target", ["a", "a/", "a/.", ".", "/", "a/.."])
@pytest.mark.parametrize("is_folder", [True, False])
def test_contents_go_into_the_target_itself(target, is_folder):
    """They have no name."""
    assert paths.destination(target, None, is_folder) == target


@pytest.mark.parametrize("end", ["", "/", "/."])
@pytest.mark.parametrize("old", [None, folder({b"kept": file()})])
def test_contents_go_into_a_folder_that_is_there_or_not(place, old, end):
    """Twice is the same as once."""
    make(place / "source", folder({b"a": file(b"new"), b"sub": folder({b"b": file()})}))
    if old is not None:
        make(place / "target", old)
    expected = {b"a": file(b"new"), b"sub": folder({b"b": file()}), **(old[3] if old else {})}
    for _ in range(2):
        copy(place / "source", f"{place}/target{end}", None)
        assert look(place / "target") == folder(expected)
        assert names(place) == ["source", "target"]


def test_contents_go_into_the_folder_that_a_link_leads_to(place):
    """It is the user who named it."""
    make(place / "source", folder({b"a": file(b"new")}))
    make(place / "real", folder())
    make(place / "target", link(b"real"))
    copy(place / "source", place / "target", None)
    assert look(place / "target") == link(b"real")
    assert look(place / "real") == folder({b"a": file(b"new")})


def test_contents_do_not_go_into_a_link_to_nothing(place):
    """It stays."""
    make(place / "source", folder({b"a": file(b"new")}))
    make(place / "target", link(b"nothing"))
    with pytest.raises(NotADirectoryError):
        copy(place / "source", place / "target", None)
    assert names(place) == ["source", "target"]


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


# --- A folder into itself ---


@pytest.mark.parametrize(
    "target",
    [
        "source/new",
        "source/sub",
        "source/sub/a/b/c",
        "source/new/",
        "link/new",
        "away/../new",
        "link",
    ],
)
@pytest.mark.parametrize("name", ["source", None])
@only_linux
def test_folder_does_not_go_below_itself(place, target, name):
    """Else the copy would copy itself; nothing is made, and `..` and links lead where they do."""
    make(place / "source", folder({b"sub": folder(), b"a": file(b"x" * 300_000), b"b": folder()}))
    make(place / "link", link(b"source/sub"))
    make(place / "away", link(b"source/b"))
    before = look(place)
    with pytest.raises(OSError, match="below its own source") as caught:
        copy(place / "source", f"{place}/{target}", name)
    assert caught.value.errno == errno.EINVAL
    assert look(place) == before


@pytest.mark.parametrize("target", ["source 2", "beside/source", "source/..", "own"])
@only_linux
def test_folder_may_go_beside_itself_and_to_itself(place, target):
    """A name that begins with its name is not below it."""
    make(place / "source", folder({b"a": file(b"x")}))
    make(place / "own", link(b"source"))
    for _ in range(2):
        copy(place / "source", f"{place}/{target}", None)
    assert look(place / "source/a") == file(b"x")


def test_folder_of_another_computer_with_the_same_numbers_is_another_one(place):
    """Device and inode are equal where computers were installed from one image."""
    make(place / "source", folder())
    status = os.stat(place / "source")
    assert folders.is_below(f"{place}/source/new", folders.identity(status)) is KERNEL_IS_KNOWN
    assert not folders.is_below(f"{place}/source/new", folders.identity(status, b"another"))
    assert not folders.is_below(f"{place}/source/new", b"")
