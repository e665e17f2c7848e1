"""The tables of docs/guide.md about attributes, and about what differs from `rsync -rlt`."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from pathlib import Path

import pytest

from lazycluster._shared import tree_stream
from lazycluster.exceptions import FileTransferError
from support.machine import folders_inherit_setgid
from support.rsync import OLD, differences, rsync, rsync_from, set_times, table
from support.transfers import both_ways, copy_of
from support.trees import NOBODY, as_nobody, unpack

pytestmark = both_ways


def status(path):
    return os.stat(path, follow_symlinks=False)


def mode(path):
    return stat.S_IMODE(status(path).st_mode)


def fails(runtime, way, source, target, number):
    """Try a copy that fails, and return its error."""
    with pytest.raises(FileTransferError) as caught:
        copy_of(source, runtime, way, target)
    assert caught.value.errno == number
    return caught.value


# --- What differs ---


def a_file_or_link_where_a_folder_is(runtime, way, source, ours, theirs):
    (source / "dist").mkdir()
    (source / "dist" / "file").write_text("new")
    (source / "dist" / "link").symlink_to("file")
    for folder in (ours, theirs):
        (folder / "file").mkdir(parents=True)
        (folder / "link").mkdir()
    rsync_from(source, theirs, "dist/ .")
    assert (theirs / "file").read_text() == "new"
    assert (theirs / "link").is_symlink()
    fails(runtime, way, "dist/", ".", errno.EISDIR)
    fails(runtime, way, "dist/file", ".", errno.EISDIR)
    assert (ours / "file").is_dir()
    assert (ours / "link").is_dir()


def a_folder_where_a_file_or_link_is(runtime, way, source, ours, theirs):
    (source / "dist" / "sub").mkdir(parents=True)
    (source / "dist" / "sub" / "file").write_text("new")
    for old in ("file", "link to a folder", "dangling link"):
        for folder in (ours / old, theirs / old):
            (folder / "real").mkdir(parents=True)
            if old == "file":
                (folder / "sub").touch()
            else:
                (folder / "sub").symlink_to("real" if old == "link to a folder" else "nowhere")
        rsync_from(source, theirs / old, "dist/ .")
        assert (theirs / old / "sub" / "file").read_text() == "new"
        for what in ("dist/", "dist/sub"):
            fails(runtime, way, what, old, errno.ENOTDIR)
        assert os.listdir(ours / old / "real") == []
        assert (ours / old / "sub").is_symlink() or (ours / old / "sub").is_file()


def a_fifo_socket_or_device_where_the_copy_goes(runtime, way, source, ours, theirs):
    (source / "dist").mkdir()
    (source / "dist" / "x").write_text("new")
    for folder in (ours, theirs):
        folder.mkdir(exist_ok=True)
        os.mkfifo(folder / "x")
    rsync_from(source, theirs, "dist/x x")
    assert (theirs / "x").read_text() == "new"
    for what, target in (("dist/x", "x"), ("dist/x", "."), ("dist/", "."), ("dist/x", "/dev/null")):
        fails(runtime, way, what, target, errno.EEXIST)
    assert stat.S_ISFIFO(status(ours / "x").st_mode)
    assert stat.S_ISCHR(status("/dev/null").st_mode)


def a_file_of_the_same_size_and_time(runtime, way, source, ours, theirs):
    theirs.mkdir()
    for folder, text in ((source, "new"), (ours, "old"), (theirs, "old")):
        (folder / "file").write_text(text)
        os.utime(folder / "file", ns=(OLD, OLD))
    rsync_from(source, theirs, "file .")
    assert (theirs / "file").read_text() == "old"
    copy_of("file", runtime, way, ".")
    assert (ours / "file").read_text() == "new"


def permission_bits_of_a_file(runtime, way, source, ours, theirs):
    """As with `rsync -p`."""
    theirs.mkdir()
    for name, bits in (("new", 0o666), ("old", 0o640)):
        (source / name).write_text("new")
        (source / name).chmod(bits)
    for folder in (ours, theirs):
        (folder / "old").write_text("old")
        (folder / "old").chmod(0o600)
    umask = os.umask(0o077)
    try:
        rsync_from(source, theirs, "new .")
        rsync_from(source, theirs, "old .")
        for name in ("new", "old"):
            copy_of(name, runtime, way, ".")
    finally:
        os.umask(umask)
    assert (mode(theirs / "new"), mode(theirs / "old")) == (0o600, 0o600)
    assert (mode(ours / "new"), mode(ours / "old")) == (0o666, 0o640)


def a_copy_that_fails_half_way(runtime, way, source, ours, theirs):
    """A folder in the way is found when it comes to it."""
    (source / "dist" / "sub").mkdir(parents=True)
    (source / "dist" / "first").write_text("new")
    (source / "dist" / "sub" / "last").write_text("new")
    for folder in (ours, theirs):
        (folder / "sub" / "last" / "kept").mkdir(parents=True)
    rsync_from(source, theirs, "dist/ .", status=23)
    assert (theirs / "first").read_text() == "new"
    error = fails(runtime, way, "dist/", ".", errno.EISDIR)
    assert error.filename == str(ours / "sub" / "last")
    assert "in place already" in str(error)
    assert differences(ours, theirs) == {}
    os.truncate(source / "dist" / "first", 0)
    fails(runtime, way, "/proc/self/mem", "new", errno.EIO)
    assert not (ours / "new").exists()


def as_root_a_file_that_replaces_one(runtime, way, source, ours, theirs):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    theirs.mkdir()
    (source / "file").write_text("newer")
    for folder in (ours, theirs):
        (folder / "file").write_text("old")
        os.chown(folder / "file", NOBODY, NOBODY)
    rsync_from(source, theirs, "file .")
    copy_of("file", runtime, way, ".")
    owners = [(status(f / "file").st_uid, status(f / "file").st_gid) for f in (ours, theirs)]
    assert owners == [(NOBODY, NOBODY), (0, 0)]


def something_that_cannot_be_read(runtime, way, source, ours, theirs):
    """Without ssh, since root could read it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o777)
        for path in ("dist/first", "dist/sub/secret", "dist/closed/below", "dist/sub/last"):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(path)
        (place / "dist/sub/secret").chmod(0)
        (place / "dist/closed").chmod(0)
        with as_nobody():
            rsync_from(place, place, "dist/ rsync's", status=23)
            with pytest.raises(PermissionError):
                unpack(tree_stream.pack(f"{place}/dist"), place / "ours")
            assert not (place / "ours").exists()
            unpack(tree_stream.pack(f"{place}/dist", skip_errors=True), place / "ours")
            names = {str(path.relative_to(place / "ours")) for path in (place / "ours").rglob("*")}
            assert names >= {"first", "sub", "sub/last"}
            assert names.isdisjoint({"sub/secret", "closed/below"})
            for path in ("first", "sub/last"):
                assert (place / "rsync's" / path).exists()
        (place / "dist/closed").chmod(0o700)


DIFFERENCES = {
    "a file or link where a folder is": a_file_or_link_where_a_folder_is,
    "a folder where a file or link is": a_folder_where_a_file_or_link_is,
    "a FIFO, socket or device where the copy goes": a_fifo_socket_or_device_where_the_copy_goes,
    "a file of the same size and time": a_file_of_the_same_size_and_time,
    "something that cannot be read": something_that_cannot_be_read,
    "permission bits of a file": permission_bits_of_a_file,
    "a copy that fails half way": a_copy_that_fails_half_way,
    "as root, a file that replaces one": as_root_a_file_that_replaces_one,
}


@pytest.mark.parametrize("case", [row[0] for row in table("case | `rsync -rlt` | lazycluster")])
def test_what_differs_is_as_the_table_says(runtime, way, sides, case):
    """On both sides: what the guide says about rsync is tried, too."""
    DIFFERENCES[case](runtime, way, *sides)


# --- Attributes ---

GROUP = 4711
"""A group that nothing else has."""


def access_list(kind, path):
    """Return the bytes of an access list, or None; `kind` is access or default."""
    try:
        return os.getxattr(path, f"system.posix_acl_{kind}")
    except OSError:  # it has none
        return None


def set_default_list(folder):
    """Let another account write what is made in a folder."""
    entries = ((1, 7, -1), (2, 7, NOBODY), (4, 5, -1), (16, 7, -1), (32, 5, -1))
    packed = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(folder, "system.posix_acl_default", struct.pack("<I", 2) + packed)
    except OSError as error:
        pytest.skip(f"the temporary folder has no access lists: {error}")
    probe = folder / "probe"
    probe.touch()
    is_inherited = access_list("access", probe) is not None
    probe.unlink()
    if not is_inherited:  # as in a container on overlayfs
        pytest.skip("the temporary folder takes access lists, and nothing in it gets them")


def make_both(source, ours, theirs):
    """A source with a file and a folder, and targets that have them already."""
    for folder in (source, ours / "old", theirs / "old"):
        (folder / "sub").mkdir(parents=True)
        (folder / "file").write_text(folder.name)
        (folder / "sub" / "file").write_text(folder.name)


def copy_both(runtime, way, source, theirs, *options):
    """Copy the contents of the source to a new folder and into the one that is there."""
    for target in ("new", "old"):
        rsync(*options, f"{source}/", theirs / target)
        copy_of(f"{source}/", runtime, way, target)


def all_below(folder):
    return [path for path in sorted(folder.rglob("*")) if not path.is_symlink()]


def permission_bits(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    for path, bits in (("file", 0o640), ("sub/file", 0o777), ("sub", 0o711)):
        (source / path).chmod(bits)
        (ours / "old" / path).chmod(0o700)
    umask = os.umask(0o027)
    try:
        copy_both(runtime, way, source, theirs)
    finally:
        os.umask(umask)
    for path in ("file", "sub/file"):
        assert mode(ours / "new" / path) == mode(ours / "old" / path) == mode(source / path)
    assert (mode(ours / "new" / "sub"), mode(ours / "old" / "sub")) == (0o711, 0o700)


def setuid_and_setgid_bit(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    for path in ("file", "sub"):
        (source / path).chmod(0o6755)
    (ours / "old" / "sub").chmod(0o2755)
    copy_both(runtime, way, source, theirs)
    for path in ("new/file", "new/sub", "old/file"):
        assert mode(ours / path) == 0o755
    assert mode(ours / "old" / "sub") == 0o2755
    copy_of(f"{source}/sub", runtime, way, "old/sub/inherits")
    inherited = 0o2755 if folders_inherit_setgid() else 0o755
    assert mode(ours / "old" / "sub" / "inherits") == inherited


def sticky_bit_of_a_folder(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    (source / "sub").chmod(0o1777)
    copy_both(runtime, way, source, theirs)
    assert (mode(ours / "new" / "sub"), mode(ours / "old" / "sub")) == (0o1777, 0o755)
    (source / "sub").chmod(0o755)
    (ours / "old" / "sub").chmod(0o1777)
    copy_both(runtime, way, source, theirs)
    assert mode(ours / "old" / "sub") == 0o1777


def time_of_modification(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    set_times(source)
    copy_both(runtime, way, source, theirs)
    assert differences(ours, theirs) == {}
    for target in ("new", "old"):
        for path in ("", "file", "sub", "sub/file"):
            assert status(ours / target / path).st_mtime_ns == status(source / path).st_mtime_ns


def owner_and_group(runtime, way, source, ours, theirs):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    make_both(source, ours, theirs)
    for path in all_below(source):
        os.chown(path, NOBODY, NOBODY)
    for folder in (ours, theirs):
        for path in all_below(folder / "old"):
            os.chown(path, 4000, 5000)
        (folder / "old" / "file").unlink()
        (folder / "old").chmod(0o2755)
        os.chown(folder / "old", 0, GROUP)
        os.chmod(folder / "old", 0o2755)
    copy_both(runtime, way, source, theirs)
    for path in all_below(theirs):
        same = ours / path.relative_to(theirs)
        if path != theirs / "old" / "sub" / "file":
            owners = [(status(one).st_uid, status(one).st_gid) for one in (same, path)]
            assert owners[0] == owners[1], path
    owners = {
        path: (status(ours / path).st_uid, status(ours / path).st_gid)
        for path in ("new/file", "old/file", "old/sub", "old/sub/file")
    }
    assert owners == {
        "new/file": (0, 0),
        "old/file": (0, GROUP),
        "old/sub": (4000, 5000),
        "old/sub/file": (4000, 5000),
    }


def access_list_of(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    (source / "added").mkdir()
    (source / "added" / "file").touch()
    for folder in (ours, theirs):
        set_default_list(folder)
        set_default_list(folder / "old")
    copy_both(runtime, way, source, theirs)
    for path in all_below(theirs):
        same = ours / path.relative_to(theirs)
        for kind in ("access", "default"):
            if path.is_dir() or kind == "access":
                assert access_list(kind, same) == access_list(kind, path), (path, kind)
    assert access_list("access", ours / "old" / "added" / "file") is not None
    assert access_list("default", ours / "new" / "sub") is not None
    assert access_list("access", ours / "old" / "sub") is None


def extended_attributes(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    try:
        for folder in (source, ours / "old"):
            for path in all_below(folder):
                os.setxattr(path, "user.of", os.fsencode(folder.name))
    except OSError as error:
        pytest.skip(f"the temporary folder has no extended attributes: {error}")
    copy_both(runtime, way, source, theirs)
    found = {
        str(path.relative_to(ours)): os.getxattr(path, "user.of")
        for path in all_below(ours)
        if "user.of" in os.listxattr(path)
    }
    assert found == {"old/sub": b"old"}


def other_names_of_the_file(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    os.link(source / "file", source / "other")
    for folder in (ours, theirs):
        os.link(folder / "old" / "file", folder / "kept")
    copy_both(runtime, way, source, theirs)
    assert status(ours / "new" / "file").st_ino != status(ours / "new" / "other").st_ino
    assert (ours / "kept").read_text() == "old"


def holes_of_a_sparse_file(runtime, way, source, ours, theirs):
    make_both(source, ours, theirs)
    os.truncate(source / "file", 1 << 20)
    copy_both(runtime, way, source, theirs)
    for path in ("new/file", "old/file"):
        assert (ours / path).read_bytes() == (source / "file").read_bytes()
        assert status(ours / path).st_blocks >= status(theirs / path).st_blocks


ATTRIBUTES = {
    "permission bits": permission_bits,
    "setuid and setgid bit": setuid_and_setgid_bit,
    "sticky bit of a folder": sticky_bit_of_a_folder,
    "time of modification": time_of_modification,
    "owner and group": owner_and_group,
    "access list (ACL)": access_list_of,
    "extended attributes": extended_attributes,
    "other names of the file (hard links)": other_names_of_the_file,
    "holes of a sparse file": holes_of_a_sparse_file,
}
HEADER = "attribute | something new | a file that is replaced | a folder that is there"


@pytest.mark.parametrize("attribute", [row[0] for row in table(HEADER)])
def test_what_becomes_of_an_attribute(runtime, way, sides, attribute):
    """As the table says; and as with rsync where the group, the access list or times go along."""
    ATTRIBUTES[attribute](runtime, way, *sides)


def test_what_a_file_that_is_written_in_place_keeps(runtime, way, sides):
    """All that the table says to be lost or new, as with `rsync --inplace`."""
    source, ours, theirs = sides
    make_both(source, ours, theirs)
    set_times(source)
    (source / "file").chmod(0o777)
    for folder in (ours, theirs):
        os.link(folder / "old" / "file", folder / "other name")
        (folder / "old" / "file").chmod(0o4640)
        if os.geteuid() == 0:
            os.chown(folder / "old" / "file", NOBODY, GROUP)
    before = status(ours / "old" / "file")
    rsync("--inplace", f"{source}/", theirs / "old")
    copy_of(f"{source}/", runtime, way, "old", in_place=True)
    for folder in (ours, theirs):
        after = status(folder / "old" / "file")
        assert after.st_ino == status(folder / "other name").st_ino
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
        assert stat.S_IMODE(after.st_mode) & 0o777 == 0o640
        assert after.st_mtime_ns == status(source / "file").st_mtime_ns
        assert (folder / "other name").read_text() == "source"
    assert differences(ours, theirs) == {}


def test_mode_of_files_that_is_given(runtime, way, sides):
    """New ones and old ones, but not their folders; as with `rsync --chmod`."""
    source, ours, theirs = sides
    make_both(source, ours, theirs)
    (source / "sub").chmod(0o711)
    for target in ("new", "old"):
        rsync("-p", "--chmod=F604", f"{source}/", theirs / target)
        copy_of(f"{source}/", runtime, way, target, mode=0o604)
        for path in ("file", "sub/file"):
            assert mode(ours / target / path) == mode(theirs / target / path) == 0o604
    assert (mode(ours / "new" / "sub"), mode(ours / "old" / "sub")) == (0o711, 0o755)
