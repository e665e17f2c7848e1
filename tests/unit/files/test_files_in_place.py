"""Files that can be written but not replaced, and files that are written in place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lazycluster._shared import tree_stream
from lazycluster._shared.unpacker import Unpacker
from support.trees import (
    NOBODY,
    as_nobody,
    file,
    folder,
    link,
    look,
    make,
    names,
    needs_root,
    open_files,
)

ONLY_IN_PLACE = "can be written in place only: in_place=True"


def copy(source: Path, target: Path, name: str | None = None, **options: object) -> None:
    unpacker = Unpacker(str(target), name, **options)
    for piece in tree_stream.pack(str(source)):
        unpacker.feed(piece)
    unpacker.finish()


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """A file that is mounted, as a container has its /etc/hosts."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    if subprocess.run(["mount", "--bind", source, target], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("it cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def test_file_that_is_mounted(place):
    """The error says how it can be written, and then all who have it see it."""
    make(place / "source", file(b"new"))
    make(place / "outside", file(b"old", mode=0o640))
    make(place / "hosts", file())
    with bound(place / "outside", place / "hosts"):
        with pytest.raises(OSError, match=ONLY_IN_PLACE) as caught:
            copy(place / "source", place / "hosts")
        assert caught.value.errno == errno.EBUSY
        assert caught.value.filename == str(place / "hosts")
        assert names(place) == ["hosts", "outside", "source"]
        copy(place / "source", place / "hosts", in_place=True)
    assert look(place / "outside") == file(b"new", mode=0o640)
    assert look(place / "hosts") == file()


def test_file_that_is_mounted_in_a_folder(place):
    """The same in a folder that is there."""
    make(place / "source", folder({b"a": file(b"new"), b"hosts": file(b"new")}))
    make(place / "outside", file(b"old"))
    make(place / "etc", folder({b"hosts": file()}))
    with bound(place / "outside", place / "etc/hosts"):
        with pytest.raises(OSError, match=ONLY_IN_PLACE) as caught:
            copy(place / "source", place / "etc")
        assert caught.value.filename == str(place / "etc/hosts")
        copy(place / "source", place / "etc", in_place=True)
    assert look(place / "outside") == file(b"new")
    assert names(place / "etc") == ["a", "hosts"]


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_own_file_in_a_folder_of_another_account(place, mode):
    """Nothing can be made in it, or, in a sticky one, nothing can be replaced."""
    make(place / "source", file(b"new", mode=0o600))
    make(place / "etc", folder({b"own": file(b"old"), b"other": file(b"old")}))
    os.chown(place / "etc/own", NOBODY if mode == 0o755 else 4242, NOBODY)
    os.chmod(place / "etc/own", 0o666)
    os.chmod(place / "etc", mode)
    before = os.stat(place / "etc/own")
    with as_nobody():
        with pytest.raises(PermissionError, match=ONLY_IN_PLACE) as caught:
            copy_bytes(b"new", place / "etc/own")
        assert caught.value.filename == str(place / "etc/own")
        with pytest.raises(PermissionError) as caught:
            copy_bytes(b"new", place / "etc/other")
        assert ONLY_IN_PLACE not in str(caught.value)
        copy_bytes(b"new", place / "etc/own", in_place=True)
    after = os.stat(place / "etc/own")
    assert (place / "etc/own").read_bytes() == b"new"
    assert (after.st_ino, after.st_mode, after.st_uid) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
    )
    assert names(place / "etc") == ["other", "own"]


def copy_bytes(data: bytes, target: Path, **options: object) -> None:
    head = tree_stream.HEAD.pack(tree_stream.FILE, 0o600, 0, 1, 0)
    length = tree_stream.LENGTH.pack(len(data))
    end = tree_stream.NO_MORE_DATA + tree_stream.HEAD.pack(tree_stream.END, 0, 0, 0, 0)
    unpacker = Unpacker(str(target), None, **options)
    unpacker.feed(head + length + data + end)
    unpacker.finish()


@pytest.mark.parametrize("source", [file(b"new"), folder({b"a": file(b"new")})])
@pytest.mark.parametrize("there", [True, False])
def test_file_system_that_cannot_rename(place, monkeypatch, source, there):
    """Some FUSE ones; nothing stays of what could not be moved."""
    make(place / "source", source)
    if there:
        make(place / "target", source)

    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "rename", refuse)
    before = names(place)
    with pytest.raises(OSError, match=ONLY_IN_PLACE):
        copy(place / "source", place / "target")
    assert names(place) == before
    assert look(place / "target") == (source if there else None)
    copy(place / "source", place / "target", in_place=True)
    assert look(place / "target") == source


def test_other_names_of_a_file_and_its_mode_stay(anybody, place):
    """It is the old file, also if the new one is shorter."""
    make(place / "source", file(b"new", mode=0o600))
    make(place / "target", file(b"much longer", mode=0o644))
    os.link(place / "target", place / "other")
    copy(place / "source", place / "target", in_place=True)
    assert look(place / "target") == look(place / "other") == file(b"new", mode=0o644)


def test_mode_that_is_given(place):
    """Also for a file that keeps its own otherwise."""
    make(place / "source", file(b"new"))
    make(place / "target", file(b"old", mode=0o600))
    copy(place / "source", place / "target", in_place=True, mode=0o640)
    assert look(place / "target") == file(b"new", mode=0o640)


def test_what_is_not_there_is_made_in_place(anybody, place):
    """Without a temporary, with its modes and times; links are replaced and never followed."""
    new = {
        b"a": file(b"new", mode=0o600),
        b"l": link(b"y"),
        b"link": file(b"new"),
        b"x": link(b"y"),
    }
    sub = folder({b"b": file(b"new"), b"deep": folder(mode=0o500)})
    make(place / "source", folder({**new, b"sub": sub}))
    old = {b"l": file(b"old"), b"link": link(b"../outside"), b"x": link(b"z")}
    make(place / "target", folder(old))
    make(place / "outside", file(b"kept"))
    noted: list[str] = []
    for name in ("target", "absent"):
        for _ in range(2):
            copy(place / "source", place / name, in_place=True, on_temporary=noted.append)
            assert look(place / name) == look(place / "source")
    assert look(place / "outside") == file(b"kept")
    assert noted == []


def test_single_file_that_is_not_there(place):
    """And one in the place of a link."""
    make(place / "source", file(b"new", mode=0o640))
    make(place / "link", link(b"source"))
    for name in ("target", "link"):
        copy(place / "source", place / name, in_place=True)
        assert look(place / name) == file(b"new", mode=0o640)


def test_f33_stream_cut_at_any_byte(place):
    """A new file is removed, an old one has the beginning of the new one and its own rest."""
    make(place / "source", folder({b"a": file(b"new"), b"b": file(b"new")}))
    stream = b"".join(tree_stream.pack(str(place / "source")))
    for length in range(len(stream)):
        make(place / "own", folder({b"a": file(b"old")}))
        files = open_files()
        unpacker = Unpacker(str(place / "own"), None, in_place=True)
        unpacker.feed(stream[:length])
        with pytest.raises(OSError, match="ended before it was complete"):
            unpacker.finish()
        data = (place / "own/a").read_bytes()
        assert data in [b"new"[:count] + b"old"[count:] for count in range(4)]
        if (place / "own/b").exists():
            assert (place / "own/b").read_bytes() == b"new"
        assert open_files() == files
        shutil.rmtree(place / "own")


def test_folder_is_not_overwritten(place):
    """What cannot be replaced otherwise cannot be in place."""
    make(place / "source", file(b"new"))
    make(place / "target", folder({b"x": folder()}))
    with pytest.raises(IsADirectoryError):
        copy(place / "source", place / "target", "x", in_place=True)
    os.mkfifo(place / "fifo")
    with pytest.raises(FileExistsError):
        copy(place / "source", place / "fifo", in_place=True)


@pytest.mark.parametrize("kind", ["itself", "another name", "a mount", "its folder"])
def test_file_that_is_its_own_source_keeps_its_data(place, kind):
    """It is read while it is written, so it must not be empty first."""
    data = os.urandom(3_000_000)
    make(place / "dist", folder({b"a": file(data), b"b": file(b"small")}))
    source = target = place / "dist/a"
    with contextlib.ExitStack() as stack:
        if kind == "another name":
            target = place / "link"
            os.link(source, target)
        elif kind == "a mount":
            target = place / "mounted"
            make(target, file())
            stack.enter_context(bound(source, target))
        elif kind == "its folder":
            source = target = place / "dist"
        copy(source, target, in_place=True)
    assert look(place / "dist/a") == file(data)
    assert look(place / "dist/b") == file(b"small")


@pytest.mark.parametrize("data", [b"", b"short", b"x" * 100_000])
def test_file_that_is_written_in_place_gets_the_size_of_the_source(place, data):
    """What was behind it is cut off."""
    make(place / "source", file(data))
    make(place / "target", file(b"old" * 30_000))
    copy(place / "source", place / "target", in_place=True)
    assert look(place / "target") == file(data)
