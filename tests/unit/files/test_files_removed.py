"""What is removed has gone, or it is said why not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lazycluster._shared import folders, tree_stream
from lazycluster._shared.unpacker import Unpacker
from support.trees import NOBODY, as_nobody, file, folder, link, look, make, names, needs_root


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


TREE = folder({b"a": file(), b"sub": folder({b"b": file(), b"link": link(b"x")}), b"e": folder()})


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP, errno.EROFS, errno.EIO])
def no_chmod(request, monkeypatch):
    """Modes cannot be changed: FUSE, SMB, a seccomp filter, a folder of another account."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)


def test_removing_does_not_need_modes(place, no_chmod):
    """They are changed only where something is refused."""
    make_without_modes(place / "tree")
    assert folders.remove_tree(str(place / "tree"))


def make_without_modes(path: Path) -> None:
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "sub" / "deep" / "file").touch()
    (path / "link").symlink_to("sub")


def test_copy_that_is_stopped_leaves_nothing_where_modes_cannot_be_changed(place, no_chmod):
    """What it had made is removed."""
    make_without_modes(place / "source")
    unpacker = Unpacker(str(place / "target"), None)
    for piece in tree_stream.pack(str(place / "source")):
        for start in range(0, len(piece) - 20, 10):
            try:
                unpacker.feed(piece[start : start + 10])
            except OSError:
                break
    unpacker.abort()
    assert names(place) == ["source"]


@needs_root
def test_folder_of_another_account_that_may_be_written(place):
    """As `rm -r` does it: a colleague's folder in the folder of a team."""
    make(place / "tree", TREE)
    for path in (place, place / "tree", place / "tree/sub", place / "tree/e"):
        os.chmod(path, 0o777)
    with as_nobody():
        assert folders.delete_directory(str(place / "tree")) is True
    assert names(place) == []


def test_read_only_folder_of_the_account_is_unlocked(nobody, place):
    """Only what refuses is."""
    make(place / "tree", TREE)
    os.chmod(place / "tree/sub", 0o500)
    assert folders.delete_directory(str(place / "tree")) is True


@needs_root
def test_what_belongs_to_another_account_stays_and_is_named(place):
    """All else is removed, and modes stay what they were."""
    make(place / "tree", TREE)
    for path in (place / "tree", place / "tree/e"):
        os.chmod(path, 0o777)
    os.mkdir(place / "tree/secret", 0o700)
    make(place / "tree/secret/x", file())
    with as_nobody():
        stayed = folders.delete_directory(str(place / "tree"))
        assert isinstance(stayed, list)
        denied = os.strerror(errno.EACCES)
        assert sorted(stayed) == [
            (str(place / "tree/secret"), denied),
            (str(place / "tree/sub/b"), denied),
            (str(place / "tree/sub/link"), denied),
        ]
    assert names(place / "tree") == ["secret", "sub"]
    assert look(place / "tree/sub")[1] == 0o755
    os.chown(place / "tree/sub", NOBODY, NOBODY)
    os.chmod(place / "tree/sub", 0o500)
    with as_nobody():
        assert folders.delete_directory(str(place / "tree/sub")) is True


@needs_root
def test_folder_in_a_folder_that_cannot_be_written_stays_and_is_named(place):
    """Its contents go, as for `rm -r`."""
    make(place / "above", folder({b"tree": TREE}))
    for path in ("tree", "tree/sub", "tree/e"):
        os.chmod(place / "above" / path, 0o777)
    with as_nobody():
        stayed = folders.delete_directory(str(place / "above/tree"))
    assert stayed == [(str(place / "above/tree"), os.strerror(errno.EACCES))]
    assert names(place / "above/tree") == []


def test_file_is_not_a_folder_to_delete(place):
    """It stays."""
    make(place / "file", file())
    stayed = folders.delete_directory(str(place / "file"))
    assert stayed == [(str(place / "file"), os.strerror(errno.ENOTDIR))]
    assert folders.delete_directory(str(place / "nothing")) is False


def test_unreadable_folder_that_is_empty_is_removed(nobody, place):
    """Also in others."""
    make(place / "tree", folder({b"a": folder(mode=0)}, mode=0o300))
    assert folders.remove_tree(str(place / "tree"))
