"""What is skipped by a copy, and what is not there."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat

import pytest

from lazycluster._shared import folders, tree_stream
from lazycluster._shared.unpacker import Unpacker
from support.trees import copy, file, folder, look, make, names, needs_root, unpack


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
    monkeypatch.setattr(folders, "entries", lambda fd: [(stat.S_IFREG, b"fifo")])
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


def test_f44_copy_that_is_under_way_is_not_sent(place):
    """What is being written there is not complete, and may go at any time."""
    make(place / "source", folder({b"file": file(), b"sub": folder()}))
    writer = Unpacker(f"{place}/source/sub/new", None)
    with contextlib.closing(tree_stream.pack(str(place / "source/file"), measured=True)) as stream:
        writer.feed(next(stream)[:-1])
    skipped = copy(place / "source", place / "target")
    writer.abort()
    assert [what for _, what in skipped] == ["unfinished copy"]
    assert names(place / "target/sub") == []
