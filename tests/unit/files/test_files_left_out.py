"""What a copy leaves out: what patterns exclude, and what cannot be read."""

from __future__ import annotations

import os
import stat

import pytest

from lazycluster._shared import folders, tree_stream
from support.trees import TIME, file, folder, link, look, make, unpack

TREE = folder(
    {
        b"a.py": file(b"a"),
        b"a.pyc": file(b"ac"),
        b"build": folder({b"x": file(b"x")}),
        b"link": link(b"a.py"),
        b"sub": folder({b"b.pyc": file(b"bc"), b"build": file(b"no folder"), b"deep": folder()}),
    }
)


def packed(place, **options):
    return list(tree_stream.pack(str(place / "source"), **options))


def test_what_patterns_exclude_is_not_sent(place):
    """And is not named: it was asked for."""
    make(place / "source", TREE)
    pieces = packed(place, exclude=["*.pyc", "build/", "link", "!b.pyc"])
    assert unpack(pieces, place / "target") == []
    left = {b"b.pyc": file(b"bc"), b"build": file(b"no folder"), b"deep": folder()}
    assert look(place / "target") == folder({b"a.py": file(b"a"), b"sub": folder(left)})


def test_what_is_excluded_is_not_measured(place):
    make(place / "source", TREE)
    assert tree_stream.measure(str(place / "source"), ["*.pyc", "/build"]) == len(b"ano folder")


def test_the_source_itself_is_not_excluded(place):
    """It was asked for by its name."""
    make(place / "source", file(b"data"))
    unpack(packed(place, exclude=["source", "*"]), place / "target")
    assert look(place / "target") == file(b"data")


def test_what_is_excluded_need_not_be_readable(place, nobody):
    make(place / "source", TREE)
    os.chmod(place / "source/build", 0)
    unpack(packed(place, exclude=["build/"]), place / "target")
    os.chmod(place / "source/build", 0o700)
    assert not (place / "target/build").exists()


@pytest.mark.parametrize("what", ["a.py", "build", "sub/deep"])
def test_what_cannot_be_read_is_skipped_and_named(place, nobody, what):
    """All else arrives, in its place."""
    make(place / "source", TREE)
    os.chmod(place / "source" / what, 0)
    with pytest.raises(OSError, match="Permission denied"):
        unpack(packed(place), place / "target")
    assert not (place / "target").exists()
    skipped = unpack(packed(place, skip_errors=True), place / "target")
    assert skipped == [(str(place / "source" / what), "Permission denied")]
    os.chmod(place / "source" / what, 0o700)
    folders.remove_tree(str(place / "source" / what))
    os.utime(place / "source" / what.rpartition("/")[0], ns=(TIME, TIME))
    assert look(place / "target") == look(place / "source")


def test_the_source_itself_is_never_skipped(place, nobody):
    """Then there is nothing to copy."""
    make(place / "source", TREE)
    os.chmod(place / "source", 0)
    with pytest.raises(PermissionError):
        packed(place, skip_errors=True)
    os.chmod(place / "source", 0o700)


def change_while_read(monkeypatch, change):
    """Calls `change` once, at the second look at the data."""
    read, calls = os.read, []

    def changing(fd, count):
        if stat.S_ISREG(os.fstat(fd).st_mode):
            calls.append(fd)
            if len(calls) == 2:
                change()
        return read(fd, count)

    monkeypatch.setattr(tree_stream.os, "read", changing)


BIG = 3 * tree_stream.READ


def test_a_file_that_changes_while_it_is_read_is_named(place, monkeypatch):
    """It arrives, with a part of its old data and a part of the new."""
    make(place / "source", folder({b"data": file(b"a" * BIG)}))
    path = place / "source/data"
    change_while_read(monkeypatch, lambda: path.write_bytes(b"b" * BIG))
    assert unpack(packed(place), place / "target") == [(str(path), "changed while it was read")]
    data = (place / "target/data").read_bytes()
    assert data == b"a" * tree_stream.READ + b"b" * (BIG - tree_stream.READ)


def test_a_file_that_grows_while_it_is_read_is_named(place, monkeypatch):
    """It has the size that it had at first."""
    make(place / "source", file(b"a" * BIG))
    path = place / "source"
    change_while_read(monkeypatch, lambda: path.write_bytes(b"a" * (BIG + 1)))
    assert unpack(packed(place), place / "target") == [(str(path), "changed while it was read")]
    assert (place / "target").stat().st_size == BIG


@pytest.mark.parametrize("below", [True, False])
def test_a_file_that_becomes_shorter_is_an_error(place, monkeypatch, below):
    """Nothing is left of the copy."""
    data = file(b"a" * BIG)
    make(place / "source", folder({b"data": data}) if below else data)
    path = place / "source/data" if below else place / "source"
    change_while_read(monkeypatch, lambda: os.truncate(path, 10))
    with pytest.raises(OSError, match="became shorter while it was read") as caught:
        unpack(packed(place), place / "target")
    assert caught.value.filename == str(path)
    assert os.listdir(place) == ["source"]


def test_a_file_that_becomes_shorter_can_be_skipped(place, monkeypatch):
    """No part of it arrives."""
    make(place / "source", folder({b"data": file(b"a" * BIG), b"other": file(b"b")}))
    path = place / "source/data"
    change_while_read(monkeypatch, lambda: os.truncate(path, 10))
    skipped = unpack(packed(place, skip_errors=True), place / "target")
    assert skipped == [(str(path), "became shorter while it was read")]
    assert os.listdir(place / "target") == ["other"]


def test_a_file_that_says_a_wrong_size_arrives():
    """Files of sysfs say 4096 bytes and have fewer; nothing changes there."""
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(path):
        pytest.skip("there is no such file here")
    with open(path, "rb") as enabled:
        assert enabled.read() in b"".join(tree_stream.pack(path))
