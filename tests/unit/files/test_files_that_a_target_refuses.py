"""What the file system of a target cannot take, with `skip_errors`."""

from __future__ import annotations

import errno
import os

import pytest

from lazycluster._shared import tree_stream, tree_writer
from lazycluster._shared.unpacker import SAME_NAME, Unpacker
from support.trees import file, folder, link, look, make, names

TREE = folder(
    {
        b"a": file(b"a"),
        b"bad": folder({b"b": file(b"b" * 400_000), b"c": folder({b"d": link(b"x")})}),
        b"link": link(b"a"),
        b"z": file(b"z"),
    }
)


def copied(place, **options):
    unpacker = Unpacker(str(place), "target", **options)
    for piece in tree_stream.pack(str(place / "source")):
        unpacker.feed(piece)
    return unpacker.finish()


def refusing(monkeypatch, call, number, *bad):
    """Makes a call of the system fail for some names."""
    true = getattr(os, call)

    def refuse(*arguments, **keywords):
        if any(argument in bad for argument in arguments):
            raise OSError(number, os.strerror(number))
        return true(*arguments, **keywords)

    monkeypatch.setattr(tree_writer.os, call, refuse)


@pytest.fixture(params=["new", "there"])
def tree(request, place):
    """The source, and a target that is there or not."""
    make(place / "source", TREE)
    if request.param == "there":
        make(place / "target", folder({b"old": file(b"old")}))
    return place


def test_a_link_where_there_are_none_is_skipped(tree, monkeypatch):
    refusing(monkeypatch, "symlink", errno.EPERM, b"a", b"x")
    with pytest.raises(PermissionError):
        copied(tree)
    skipped = copied(tree, skip_errors=True)
    reason = os.strerror(errno.EPERM)
    assert sorted(skipped) == [(f"{tree}/target/{name}", reason) for name in ("bad/c/d", "link")]
    assert [name for name in names(tree / "target") if name != "old"] == ["a", "bad", "z"]
    assert (tree / "target/bad/b").stat().st_size == 400_000


def test_a_folder_that_cannot_be_made_is_skipped_with_all_in_it(tree, monkeypatch):
    refusing(monkeypatch, "mkdir", errno.EINVAL, b"bad")
    skipped = copied(tree, skip_errors=True)
    assert skipped == [(f"{tree}/target/bad", os.strerror(errno.EINVAL))]
    assert [name for name in names(tree / "target") if name != "old"] == ["a", "link", "z"]
    assert look(tree / "target/z") == file(b"z")


def test_a_file_that_is_too_large_is_skipped(tree, monkeypatch):
    """As on FAT beyond 4 GiB: a part of it is written already."""
    write, calls = os.write, []

    def limited(fd, data):
        calls.append(len(data))
        if sum(calls) > 100_000:
            calls.clear()
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return write(fd, data)

    monkeypatch.setattr(tree_writer.os, "write", limited)
    skipped = copied(tree, skip_errors=True)
    assert skipped == [(f"{tree}/target/bad/b", os.strerror(errno.EFBIG))]
    assert names(tree / "target/bad") == ["c"]
    assert look(tree / "target/z") == file(b"z")


def test_two_names_that_are_equal_are_skipped(place):
    """The first one arrives."""
    make(place / "source", folder({b"A": file(b"1"), b"b": file(b"2")}))
    stream = b"".join(tree_stream.pack(str(place / "source")))
    for name, twice in ((b"A", b"b"), (b"b", b"A")):
        records = stream.replace(name, twice)
        unpacker = Unpacker(str(place), "t-" + name.decode(), skip_errors=True)
        unpacker.feed(records)
        path = f"{place}/t-{name.decode()}/{twice.decode()}"
        assert unpacker.finish() == [(path, SAME_NAME)]
        assert names(place / f"t-{name.decode()}") == [twice.decode()]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_an_error_nevertheless(tree, monkeypatch, number):
    refusing(monkeypatch, "symlink", number, b"a")
    with pytest.raises(OSError, match=os.strerror(number)):
        copied(tree, skip_errors=True)


def test_the_target_itself_is_never_skipped(place):
    make(place / "source", TREE)
    make(place / "target", file(b"in the way"))
    with pytest.raises(NotADirectoryError):
        copied(place, skip_errors=True)


def test_what_is_in_the_way_is_skipped(place):
    make(place / "source", folder({b"a": file(b"a"), b"z": file(b"z")}))
    make(place / "target", folder({b"a": folder({b"x": file(b"x")})}))
    ((path, _),) = copied(place, skip_errors=True)
    assert path == f"{place}/target/a"
    assert look(place / "target/z") == file(b"z")
    assert names(place / "target/a") == ["x"]


@pytest.mark.parametrize("target", [None, file(b"old", mode=0o600)])
def test_a_mode_can_be_given(place, target):
    """It is that of files; folders keep theirs."""
    make(place / "source", folder({b"a": file(b"a", mode=0o644)}, mode=0o755))
    if target is not None:
        make(place / "target", folder({b"a": target}, mode=0o755))
    copied(place, mode=0o640)
    assert look(place / "target") == folder({b"a": file(b"a", mode=0o640)}, mode=0o755)
