"""A folder goes into a folder that is there: entry by entry, each of them whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lazycluster._shared import folders, tree_stream, tree_writer
from lazycluster._shared.unpacker import Unpacker
from support.machine import needs_inherited_setgid
from support.trees import (
    NOBODY,
    as_nobody,
    copy,
    file,
    folder,
    link,
    look,
    make,
    names,
    needs_root,
    record,
    unpack,
)

OLD = folder(
    {
        b"kept": file(b"kept"),
        b"replaced": file(b"old"),
        b"link": link(b"kept"),
        b"sub": folder({b"kept": file(), b"replaced": file(b"old")}, mode=0o700, time=0),
    },
    mode=0o1770,
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
    mode=0o755,
)
BOTH = folder(
    {
        b"kept": file(b"kept"),
        b"replaced": file(b"new", mode=0o600),
        b"link": file(b"no link"),
        b"sub": folder({b"kept": file(), b"replaced": link(b"x"), b"added": ADDED}, mode=0o700),
        b"added": file(),
    },
    mode=0o1770,
)


def test_folder_goes_into_the_folder_of_its_name(anybody, place):
    """What is in both is replaced, and what is in one is there.

    Folders that were there keep their modes, the sticky bit too, and get the new mtimes.
    """
    make(place / "source", NEW)
    make(place / "own", OLD)
    copy(place / "source", place, "own")
    assert look(place / "own") == BOTH
    assert names(place) == ["own", "source"]


@pytest.mark.parametrize("name", ["own", None])
def test_copying_again_changes_nothing(anybody, place, name):
    """A folder that is there already is put into itself, read-only ones too."""
    read_only = folder({b"c": file(), b"d": folder(mode=0o500)}, mode=0o500)
    make(place / "source", folder({b"a": file(b"x"), b"b": read_only}, mode=0o555))
    for _ in range(2):
        copy(place / "source", place if name else place / "own", name)
        assert look(place / "own") == look(place / "source")


# --- What is in the way ---


CONFLICTS = {
    "folder for file": (folder({b"x": folder()}), folder({b"x": file(b"old")}), errno.ENOTDIR),
    "folder for link": (
        folder({b"x": folder({b"escaped": file()})}),
        folder({b"x": link(b"../../outside")}),
        errno.ENOTDIR,
    ),
    "file for folder": (folder({b"x": file()}), folder({b"x": folder()}), errno.EISDIR),
    "link for folder": (folder({b"x": link(b"y")}), folder({b"x": folder()}), errno.EISDIR),
}


@pytest.mark.parametrize(("new", "old", "number"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_what_does_not_go_into_a_folder_is_an_error(place, new, old, number):
    """Its path and what has arrived are named, nothing is followed, and what was there stays."""
    make(place / "source", folder({b"deep": new, **{b"%d" % n: file(b"new") for n in range(9)}}))
    make(place / "own", folder({b"deep": old, b"1": file(b"old")}))
    make(place / "outside", folder())
    with pytest.raises(OSError, match="deep") as caught:
        copy(place / "source", place, "own")
    assert caught.value.errno == number
    assert caught.value.filename == str(place / "own/deep/x")
    assert "9 entries are in place already, the last one is" in caught.value.strerror
    assert look(place / "own/deep/x") == old[3][b"x"]
    assert look(place / "own/1") == file(b"new")
    assert names(place / "own") == [*map(str, range(9)), "deep"]
    assert names(place) == ["outside", "own", "source"]
    assert names(place / "outside") == []


def test_link_put_in_place_of_a_folder_meanwhile_is_not_followed(place, monkeypatch):
    """The check before is not what this rests on."""
    make(place / "source", folder({b"sub": folder({b"escaped": file()})}))
    make(place / "own", folder({b"sub": link(b"../outside")}))
    make(place / "outside", folder())
    monkeypatch.setattr(tree_writer, "_check_replaceable", lambda *arguments: None)
    with pytest.raises(NotADirectoryError):
        copy(place / "source", place, "own")
    assert names(place / "outside") == []


@pytest.mark.parametrize("new", [file(), folder()])
def test_read_only_folder_is_an_error(nobody, place, new):
    """Its path is in the error, and it stays read-only."""
    make(place / "source", folder({b"b": folder({b"c": new}, mode=0o700)}))
    make(place / "own", folder({b"b": folder(mode=0o555)}))
    with pytest.raises(PermissionError) as caught:
        copy(place / "source", place, "own")
    assert caught.value.filename == str(place / "own/b/c")
    assert look(place / "own/b")[1] == 0o555


def test_read_only_folder_of_a_copy_that_fails_is_read_only_again(nobody, place):
    """It was writable for a while."""
    make(place / "source", folder({b"a": folder({b"b": file()}, mode=0o555)}))
    copy(place / "source", place, "own")
    stream = b"".join(tree_stream.pack(str(place / "source")))
    with pytest.raises(OSError, match="ended before"):
        unpack([stream[: stream.index(b"b\0")]], place, "own")
    assert look(place / "own/a")[1] == 0o555


@pytest.mark.parametrize("old", [{}, {b"a": file(b"old")}])
def test_two_names_that_are_one_to_the_file_system_are_an_error(place, monkeypatch, old):
    """The second does not replace the first."""
    make(place / "source", folder({b"a": file(b"new")}))
    make(place / "other", folder({b"A": file(b"other")}))
    make(place / "own", folder(old))
    status = tree_writer.entry_status
    monkeypatch.setattr(
        tree_writer, "entry_status", lambda path, folder=None: status(path.lower(), folder)
    )
    first, second = (b"".join(tree_stream.pack(str(place / name))) for name in ("source", "other"))
    head = len(record(tree_stream.FOLDER, folders.identity(os.stat(place / "other"))))
    tail = len(record(tree_stream.LEAVE) + record(tree_stream.END))
    with pytest.raises(tree_stream.FormatError, match="/A' comes twice"):
        unpack([first[:-tail] + second[head:]], place / "own", None)
    assert look(place / "own/a") == file(b"new")
    assert names(place / "own") == ["a"]


# --- What ends in the middle ---


def test_f33_stream_cut_at_any_byte_leaves_whole_files(place):
    """Old ones, new ones, and no temporary."""
    new = {b"a": file(b"new"), b"b": folder({b"a": file(b"new")}), b"c": link(b"new")}
    old = {b"a": file(b"old"), b"b": folder({b"a": file(b"old")}), b"c": link(b"old")}
    make(place / "source", folder(new))
    stream = b"".join(tree_stream.pack(str(place / "source")))
    for length in range(len(stream)):
        make(place / "own", folder(old))
        with pytest.raises(OSError, match="ended before it was complete"):
            unpack([stream[:length]], place, "own")
        there = look(place / "own")[3]
        assert sorted(there) == sorted(new)
        assert there[b"a"] in (new[b"a"], old[b"a"])
        assert there[b"b"][3] in (new[b"b"][3], old[b"b"][3])
        assert there[b"c"] in (new[b"c"], old[b"c"])
        shutil.rmtree(place / "own")


def test_f33_each_temporary_is_known_before_it_is_made(place):
    """There is never one in another folder, so whoever ends a dead copy removes one path."""
    new = {b"%d" % n: folder({b"a": file(b"new"), b"b": link(b"x")}) for n in range(3)}
    make(place / "source", folder({**new, b"a": file(b"new"), b"b": file()}))
    make(place / "own", folder({b"1": folder()}))
    noted: list[str] = []

    def note(path: str) -> None:
        assert not os.path.lexists(path)
        assert not any(os.path.lexists(before) for before in noted)
        noted.append(path)

    unpacker = Unpacker(str(place / "own"), None, on_temporary=note)
    for piece in b"".join(tree_stream.pack(str(place / "source"))):
        unpacker.feed(bytes([piece]))
        left = [path for path in place.rglob(".lazycluster-*") if str(path) not in noted[-1:]]
        assert left == []
    unpacker.finish()
    folders = [str(place / "own" / below) for below in ("", "0", "1", "2")]
    assert sorted(map(os.path.dirname, noted)) == [path.rstrip("/") for path in folders]


def test_error_of_the_sender_says_what_is_in_place(place):
    """Its path is the source's."""
    make(place / "source", folder({b"a": file(b"new")}))
    make(place / "own", folder())
    stream = b"".join(tree_stream.pack(str(place / "source")))
    tail = len(record(tree_stream.LEAVE) + record(tree_stream.END))
    unpacker = Unpacker(str(place / "own"), None)
    with pytest.raises(PermissionError, match="; 1 entry is in place already") as caught:
        unpacker.feed(stream[:-tail] + record(tree_stream.ERROR, b"/there/b\0EACCES"))
    assert unpacker.failed_there
    assert caught.value.filename == "/there/b"
    assert names(place / "own") == ["a"]


def test_folder_that_another_process_makes_meanwhile(place):
    """What the other has made stays, and the error says what to do."""
    make(place / "source", folder({b"a": file(b"new")}))
    unpacker = Unpacker(str(place / "own"), None)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
    make(place / "own", folder({b"b": file(b"other")}))
    with pytest.raises(OSError, match="meanwhile; copy again") as caught:
        unpacker.finish()
    assert caught.value.filename == str(place / "own")
    assert names(place) == ["own", "source"]
    assert names(place / "own") == ["b"]


def test_f28_full_disk(place):
    """Old files stay, and no temporary is left."""
    make(place / "source", folder({b"big": file(bytes(500000)), b"small": file(b"new")}))
    make(place / "disk", folder())
    with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", place / "disk"):
        make(place / "disk/own", folder({b"big": file(b"old"), b"small": file(b"old")}))
        with pytest.raises(OSError, match="big") as caught:
            copy(place / "source", place / "disk/own", None)
        assert caught.value.errno == errno.ENOSPC
        assert look(place / "disk/own/big") == file(b"old")
        assert names(place / "disk/own") == ["big", "small"]


def test_two_copies_into_one_folder_at_once(place):
    """Both find what the other has made."""
    entries = {b"%d" % n: folder({b"%d" % k: file(b"x") for k in range(5)}) for n in range(20)}
    make(place / "source", folder(entries))
    make(place / "own", folder())
    errors: list[Exception] = []

    def run() -> None:
        try:
            copy(place / "source", place / "own", None)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert look(place / "own") == folder(entries)


# --- What a folder has that its parent or the copy does not have ---

SOURCE = folder({b"a": file(b"new"), b"sub": folder({b"b": file(b"new")}), b"new": folder()})


def test_folder_whose_parent_cannot_be_written_or_read(place):
    """Only the folder itself must be writable: a web root of a deploy account."""
    make(place / "source", SOURCE)
    make(place / "above", folder({b"html": folder({b"sub": folder()}, mode=0o777)}))
    os.chmod(place / "above/html/sub", 0o777)
    os.chmod(place / "above", 0o711)
    with as_nobody():
        copy(place / "source", place / "above/html", None)
        copy(place / "source", place / "above", "html")
        copy(place / "source", place / "above/html", "dist")
    assert look(place / "above/html/a") == file(b"new")
    assert look(place / "above/html/dist") == SOURCE
    assert names(place / "above") == ["html"]
    if os.getuid() == 0:
        assert os.stat(place / "above/html/sub/b").st_uid == NOBODY


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access list as the system keeps it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
TEAM_ACL = acl(
    (USER_OBJ, 7, 0xFFFFFFFF),
    (USER, 7, 4242),
    (GROUP_OBJ, 7, 0xFFFFFFFF),
    (MASK, 7, 0xFFFFFFFF),
    (OTHER, 0, 0xFFFFFFFF),
)


def named_users(path: Path) -> list[int]:
    data = os.getxattr(path, "system.posix_acl_access")[4:]
    entries = [struct.unpack_from("<HHI", data, at) for at in range(0, len(data), 8)]
    return [identity for tag, _, identity in entries if tag == USER]


@needs_root
@needs_inherited_setgid
@pytest.mark.parametrize("name", [None, "dist"])
def test_group_and_access_list_of_the_folder(place, name):
    """A setgid folder with a default access list gives them to files and folders, as for cp."""
    make(place / "source", SOURCE)
    make(place / "team", folder({b"sub": folder()}))
    for path in (place / "team", place / "team/sub"):
        os.chown(path, 0, NOBODY)
        os.chmod(path, 0o2775)
        try:
            os.setxattr(path, "system.posix_acl_default", TEAM_ACL)
        except (AttributeError, OSError):
            pytest.skip("no access lists here")
    copy(place / "source", place / "team", name)
    root = place / "team" / (name or "")
    for path in (root / "a", root / "sub", root / "sub/b", root / "new"):
        assert os.stat(path).st_gid == NOBODY
    for path in (root / "a", root / "sub/b", root / "new"):
        assert named_users(path) == [4242]
    for path in (root / "new", root, place / "team/sub"):
        assert os.stat(path).st_mode & stat.S_ISGID


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    if subprocess.run(["mount", *map(str, arguments)], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("it cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


def test_mount_of_the_same_device_below_the_target(place):
    """A rename from one mount to the other would be refused, though the device is the same."""
    make(place / "source", SOURCE)
    make(place / "own", folder({b"sub": folder({b"kept": file()})}))
    make(place / "volume", folder())
    with mounted("--bind", place / "volume", place / "own/sub"):
        copy(place / "source", place / "own", None)
        assert look(place / "volume") == folder({b"b": file(b"new")})
    assert look(place / "own/a") == file(b"new")
    assert names(place / "own/sub") == ["kept"]


def test_other_file_system_below_the_target(place):
    """The same with one of another device, and the target itself."""
    make(place / "source", SOURCE)
    make(place / "own", folder({b"sub": folder()}))
    with mounted("-t", "tmpfs", "tmpfs", place / "own"):
        (place / "own/sub").mkdir()
        with mounted("-t", "tmpfs", "tmpfs", place / "own/sub"):
            for _ in range(2):
                copy(place / "source", place, "own")
            assert look(place / "own/sub/b") == file(b"new")
        assert names(place / "own") == ["a", "new", "sub"]


def test_volume_in_a_read_only_root(place):
    """A container's root is read-only, and the volume in it is not."""
    make(place / "source", SOURCE)
    make(place / "root", folder({b"data": folder()}))
    make(place / "volume", folder())
    root = place / "root"
    with mounted("--bind", root, root), mounted("--bind", place / "volume", root / "data"):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
        copy(place / "source", root / "data", None)
        copy(place / "source", root, "data")
        assert look(place / "volume") == SOURCE
        with pytest.raises(OSError, match="new") as caught:
            copy(place / "source", root / "new", None)
        assert caught.value.errno == errno.EROFS


def test_overlay(place):
    """Files and folders of the lower layer are copied up while they are written into."""
    make(place / "source", SOURCE)
    make(place / "base", folder())
    with mounted("-t", "tmpfs", "tmpfs", place / "base"):
        for name in ("lower", "upper", "work", "merged"):
            (place / "base" / name).mkdir()
        make(place / "base/lower/own", OLD)
        layers = ",".join(f"{name}dir={place}/base/{name}" for name in ("lower", "upper", "work"))
        with mounted("-t", "overlay", "-o", layers, "overlay", place / "base/merged"):
            for _ in range(2):
                copy(place / "source", place / "base/merged", "own")
            merged = look(place / "base/merged/own")[3]
            assert merged[b"a"] == file(b"new")
            assert sorted(merged[b"sub"][3]) == [b"b", b"kept", b"replaced"]
            assert sorted(merged) == [b"a", b"kept", b"link", b"new", b"replaced", b"sub"]


@needs_root
def test_file_that_root_replaces_keeps_its_owner(place):
    """A service reads its key again."""
    make(
        place / "source", folder({b"key": file(b"new", mode=0o600), b"link": file(), b"x": file()})
    )
    make(place / "own", folder({b"key": file(b"old"), b"link": link(b"key")}))
    os.chown(place / "own/key", 4242, 4343)
    os.chown(place / "own/link", 4242, 4343, follow_symlinks=False)
    for target, name in ((place / "own", None), (place / "own/key", None)):
        copy(place / "source" / ("key" if target.name == "key" else ""), target, name)
        status = os.stat(place / "own/key")
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (4242, 4343, 0o600)
    assert os.stat(place / "own/link").st_uid == os.stat(place / "own/x").st_uid == 0
