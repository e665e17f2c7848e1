"""A copy with `delete`: what is removed, and what never is."""

from __future__ import annotations

import contextlib
import os

import pytest

from lazycluster._shared import deletion, listing, tree_stream
from lazycluster._shared.unpacker import NOT_DELETED, Unpacker
from support.trees import as_nobody, file, folder, link, look, make, names, needs_root

SOURCE = folder({b"a": file(b"a"), b"sub": folder({b"b": file(b"b")})})
SURPLUS = folder(
    {
        b"a": file(b"old"),
        b"x": file(b"x"),
        b"link": link(b"a"),
        b"sub": folder({b"y": file(b"y"), b"deep": folder({b"z": file(b"z")}, mode=0o755)}),
        b"old": folder({b"w": folder({b"v": file(b"v")})}),
    }
)


def copied(place, *, only_changed=False, exclude=(), source="source", skip_errors=False, **options):
    """Copies the folder, as both sides together would; what was skipped."""
    packer = tree_stream.Packer(
        str(place / source), exclude=exclude, skip_errors=skip_errors, keeps_names=True
    )
    if only_changed:
        packer.scan()
        packer.compare(b"".join(listing.make_list(str(place / "target"))))
    unpacker = Unpacker(
        *(str(place), "target"), exclude=exclude, delete=True, skip_errors=skip_errors, **options
    )
    for piece in packer.stream():
        unpacker.feed(piece)
    return unpacker.finish()


@pytest.mark.parametrize("only_changed", [False, True])
@pytest.mark.parametrize("target", [None, folder(), SURPLUS, SOURCE])
def test_only_what_the_source_has_is_left(place, only_changed, target, anybody):
    make(place / "source", SOURCE)
    if target is not None:
        make(place / "target", target)
    for _ in range(2):
        assert copied(place, only_changed=only_changed) == []
        assert look(place / "target") == SOURCE


@pytest.mark.parametrize("only_changed", [False, True])
def test_what_is_excluded_stays(place, only_changed):
    """With the folders that it is in, also in one that the source does not have."""
    make(place / "source", folder({**SOURCE[3], b"x": file(b"not sent")}))
    make(place / "target", SURPLUS)
    copied(place, only_changed=only_changed, exclude=["x", "/sub/deep/", "v"])
    deep = SURPLUS[3][b"sub"][3][b"deep"]
    assert names(place / "target") == ["a", "old", "sub", "x"]
    assert look(place / "target/x") == file(b"x")
    assert look(place / "target/sub")[3] == {b"b": file(b"b"), b"deep": deep}
    assert (place / "target/old/w/v").read_bytes() == b"v"


def test_a_link_is_removed_and_not_followed(place):
    make(place / "source", SOURCE)
    make(place / "elsewhere", folder({b"precious": file(b"data")}))
    make(place / "target", folder({b"l": link(os.fsencode(place / "elsewhere"))}))
    make(place / "target/old", folder({b"l": link(os.fsencode(place / "elsewhere"))}))
    copied(place)
    assert look(place / "target") == SOURCE
    assert (place / "elsewhere/precious").read_bytes() == b"data"


def test_temporaries_of_other_copies_stay(place):
    """Each of them is removed by the copy that it belongs to."""
    temporary = ".lazycluster-0123456789abcdef"
    make(place / "source", SOURCE)
    make(place / "target", folder({temporary.encode(): file(), b"old": folder()}))
    make(place / "target/old" / temporary, file())
    copied(place)
    assert names(place / "target") == [temporary, "a", "old", "sub"]


def test_nothing_is_removed_if_something_was_skipped(place):
    """The source may have more than was seen."""
    make(place / "source", SOURCE)
    os.mkfifo(place / "source/fifo")
    make(place / "target", folder({b"x": file(b"x")}))
    skipped = copied(place)
    assert skipped == [
        (str(place / "source/fifo"), "FIFO"),
        (str(place / "target"), NOT_DELETED),
    ]
    assert names(place / "target") == ["a", "sub", "x"]


def test_nothing_is_removed_if_something_cannot_be_read(place, nobody):
    make(place / "source", folder({**SOURCE[3], b"x": file(b"secret", mode=0)}))
    make(place / "target", folder({b"x": file(b"x")}))
    assert copied(place, skip_errors=True)[-1] == (str(place / "target"), NOT_DELETED)
    assert look(place / "target/x") == file(b"x")


def test_nothing_is_removed_if_the_copy_ends_early(place):
    make(place / "source", SOURCE)
    make(place / "target", SURPLUS)
    unpacker = Unpacker(str(place), "target", delete=True)
    stream = b"".join(tree_stream.pack(str(place / "source")))
    unpacker.feed(stream[:-1])
    with pytest.raises(OSError, match="before it was complete"):
        unpacker.finish()
    assert {"x", "old", "link"} <= set(names(place / "target"))


def test_a_changed_file_is_no_reason_to_keep_the_rest(place, monkeypatch):
    make(place / "source", SOURCE)
    make(place / "target", SURPLUS)
    monkeypatch.setattr(tree_stream, "_has_changed", lambda *_: True)
    assert {reason for _, reason in copied(place)} == {"changed while it was read"}
    assert names(place / "target") == ["a", "sub"]


def test_a_file_has_no_surplus(place):
    """Deleting beside it is not meant."""
    make(place / "source", file(b"a"))
    with pytest.raises(OSError, match="needs a folder"):
        copied(place)
    assert names(place) == ["source"]


@pytest.mark.parametrize("home", ["target", "target/deep", "link"])
def test_a_home_directory_is_not_emptied(place, monkeypatch, home):
    """Neither is the root, nor what the home directory is in."""
    make(place / "source", SOURCE)
    make(place / "target", folder({b"x": file(), b"deep": folder()}))
    os.symlink("target", place / "link")
    monkeypatch.setenv("HOME", str(place / home))
    with pytest.raises(OSError, match="home directory"):
        copied(place)
    assert names(place / "target") == ["deep", "x"]
    with pytest.raises(OSError, match="home directory"):
        deletion.Deletion("/", ()).check(is_folder=True)


def test_a_folder_in_the_home_directory_can_be_cleared(place, monkeypatch):
    make(place / "source", SOURCE)
    make(place / "target", SURPLUS)
    monkeypatch.setenv("HOME", str(place))
    copied(place)
    assert look(place / "target") == SOURCE


@needs_root
def test_what_cannot_be_removed_is_an_error(place):
    """It names the path; all that the source has is there."""
    make(place / "source", SOURCE)
    make(place / "target", folder({b"sub": folder({b"b": file(), b"y": file()})}))
    os.chmod(place / "target/sub", 0o1777)
    os.chmod(place / "target", 0o777)
    for name in ("source", "source/a", "source/sub", "source/sub/b", "target/sub/b"):
        os.chown(place / name, 65534, 65534)
    with as_nobody(), pytest.raises(PermissionError, match="all else is done") as caught:
        copied(place)
    assert caught.value.filename == str(place / "target/sub/y")
    assert (place / "target/sub/b").read_bytes() == b"b"


def test_another_spelling_of_a_name_is_not_surplus(place, monkeypatch):
    """A file system may list a name in another form than it was given."""
    make(place / "source", folder({b"\xc3\xa9tude": file(b"data")}))
    make(place / "target", folder({b"e\xcc\x81tude": file(b"old"), b"x": file(b"x")}))
    status = deletion.folders.entry_status

    def spelled(name, fd=None):
        return status(name.replace(b"\xc3\xa9", b"e\xcc\x81") if fd is not None else name, fd)

    monkeypatch.setattr(deletion.folders, "entry_status", spelled)
    found = deletion.Deletion(str(place / "target"), ())
    found.enter(b"")
    found.note(b"\xc3\xa9tude")
    descriptor = os.open(place / "target", os.O_RDONLY)
    with contextlib.closing(deletion.folders.Folder(descriptor)) as here:
        found.leave(here)
    found.remove()
    assert os.listdir(os.fsencode(place / "target")) == [b"e\xcc\x81tude"]


def test_what_is_mounted_is_not_emptied(place, monkeypatch):
    """It may be a volume with all the data; `exclude` is the cure."""
    make(place / "source", SOURCE)
    make(place / "target", SURPLUS)
    fstat, mounted = os.fstat, (place / "target/old/w").stat().st_ino

    def with_mount(fd):
        status = fstat(fd)
        if status.st_ino != mounted:
            return status
        return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]])

    monkeypatch.setattr(deletion.os, "fstat", with_mount)
    found = deletion.Deletion(str(place / "target"), ())
    with contextlib.closing(deletion.folders.Folder(-1)) as here:
        here.fd = os.open(place / "target", os.O_RDONLY)
        found.enter(b"")
        found.note(b"a", b"link", b"sub", b"x")
        found.leave(here)
    with pytest.raises(OSError, match="mounted on it"):
        found.remove()
    assert (place / "target/old/w/v").exists()
