"""Where a copy goes, and a folder into a folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from lazycluster._shared import paths
from lazycluster._shared import unpacker as unpacker_module
from lazycluster._shared.unpacker import Unpacker
from support.trees import copy, file, folder, link, look, make, names

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
