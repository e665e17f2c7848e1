"""A copy is whole or not at all, and what is removed has gone."""

from __future__ import annotations

import errno
import os
import posix
import resource
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lazycluster._shared import folders, tree_stream
from lazycluster._shared.unpacker import Unpacker
from support.trees import copy, file, folder, link, look, make, names, open_files, record, unpack

# --- Whole or not at all ---


@pytest.mark.parametrize(
    ("entry", "old"),
    [
        (file(b"data" * 5), None),
        (file(b"data" * 5), file(b"old")),
        (folder({b"a": file(b"x"), b"l": link(b"y"), b"b": folder()}), None),
    ],
)
def test_f33_stream_cut_at_any_byte_changes_nothing(place, entry, old):
    """The target is what it was, and no temporary stays."""
    make(place / "source", entry)
    stream = b"".join(tree_stream.pack(str(place / "source")))
    if old is not None:
        make(place / "target", old)
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


@pytest.mark.parametrize("kind", [tree_stream.FILE, tree_stream.FOLDER])
def test_f33_temporary_is_known_before_it_is_made(place, kind):
    """So that another process can remove it; it lies beside the target."""
    noted: list[str] = []

    def note(path: str) -> None:
        assert not os.path.lexists(path)
        noted.append(path)

    unpacker = Unpacker(str(place / "a/target"), None, on_temporary=note)
    assert names(place) == []
    unpacker.feed(record(kind))
    (temporary,) = noted
    assert os.path.dirname(temporary) == str(place / "a")
    assert names(place / "a") == [os.path.basename(temporary)]
    assert folders.is_temporary_name(os.fsencode(os.path.basename(temporary)))
    unpacker.abort()
    assert names(place / "a") == []


def test_f33_abort_removes_everything_and_can_be_repeated(nobody, place):
    """Read-only folders, too."""
    make(place / "source", folder({b"a": folder({b"b": file(bytes(9))}, mode=0o500)}, mode=0o500))
    noted: list[str] = []
    unpacker = Unpacker(str(place / "target"), None, on_temporary=noted.append)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
    assert names(place) == [*map(os.path.basename, noted), "source"]
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
    noted: list[str] = []

    def take(path: str) -> None:
        noted.append(path)
        make(path, file(b"another's"))

    for kind in (tree_stream.FILE, tree_stream.FOLDER):
        unpacker = Unpacker(str(place / "target"), None, on_temporary=take)
        with pytest.raises(FileExistsError):
            unpacker.feed(record(kind))
        assert look(noted[-1]) == file(b"another's")


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
