"""The options of copies, the same in both directions."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lazycluster import FileTransferError, RuntimeTask
from lazycluster._shared import tree_stream
from lazycluster._shared.unpacker import NOT_DELETED
from support.transfers import both_ways


def make(root):
    (root / "sub").mkdir(parents=True)
    for name in ("a.py", "a.pyc", "sub/b.pyc", "sub/c"):
        (root / name).write_text(name)
    os.mkfifo(root / "fifo")
    return root


def copy(way, of, source, target, **options):
    method = of.send_file if way == "send" else of.get_file
    return method(source, target, **options)


@both_ways
def test_patterns_leave_out(way, runtime, elsewhere, base):
    """By a Runtime and by a task."""
    source = make(elsewhere / "source")
    copy(way, runtime, source, "new", exclude=["*.pyc", "!b.pyc"])
    task = copy(way, RuntimeTask(), source, "other", exclude=["*.pyc", "!b.pyc"])
    runtime.execute_task(task, execute_async=False)
    for name in ("new", "other"):
        found = sorted(str(path.relative_to(base / name)) for path in (base / name).rglob("*"))
        assert found == ["a.py", "sub", "sub/b.pyc", "sub/c"]


@both_ways
def test_what_is_excluded_does_not_count_for_the_progress(way, runtime, elsewhere, base):
    (elsewhere / "source").mkdir()
    (elsewhere / "source/big").write_bytes(bytes(1_000_000))
    (elsewhere / "source/small").write_bytes(bytes(10))
    reports = []
    copy(
        *(way, runtime, elsewhere / "source", "new"),
        exclude=["big"],
        progress=lambda done, total: reports.append((done, total)),
    )
    assert reports[-1] == (10, 10)


@both_ways
def test_what_is_skipped_is_on_the_task(way, runtime, elsewhere, base):
    """With its reason, and in the execution log."""
    source = make(elsewhere / "source")
    task = RuntimeTask()
    assert task.skipped == []
    runtime.execute_task(copy(way, task, source, "new"), execute_async=False)
    assert task.skipped == [(str(source / "fifo"), "FIFO")]
    assert task.execution_log == [f"skipped {str(source / 'fifo')!r}: FIFO\n"]
    runtime.execute_task(RuntimeTask().run_command("true"), execute_async=False)
    assert task.skipped == [(str(source / "fifo"), "FIFO")]


@both_ways
def test_what_cannot_be_read_is_skipped(way, runtime, here, base):
    """Root can read all but what the system itself refuses."""
    source = Path(f"/proc/{os.getpid()}/attr")
    try:
        (source / "current").read_bytes()
        pytest.skip("this system lets read all that there is")
    except OSError as error:
        reason = error.strerror
    with pytest.raises(FileTransferError, match=reason):
        copy(way, runtime, source, "attr")
    assert list(base.iterdir()) == []
    task = copy(way, runtime, source, "attr", on_error="skip")
    assert (str(source / "current"), reason) in task.skipped
    assert f"skipped {str(source / 'current')!r}: {reason}\n" in task.execution_log[0]
    assert (base / "attr").is_dir()


@both_ways
def test_only_what_has_changed_is_copied(way, runtime, elsewhere, base):
    """A file of the same size and time is not looked into; twice is the same as once."""
    source = make(elsewhere / "source")
    (source / "fifo").unlink()
    reports = []

    def copy_it():
        copy(
            *(way, runtime, source, "./"),
            only_changed=True,
            progress=lambda done, total: reports.append((done, total)),
        )
        return reports[-1]

    size = len("a.pya.pycsub/b.pycsub/c")
    assert copy_it() == (size, size)
    assert copy_it() == (0, 0)
    status = (source / "a.py").stat()
    (source / "a.py").write_text("A.py")
    os.utime(source / "a.py", ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert copy_it() == (0, 0)
    (source / "sub/c").write_text("longer")
    (base / "source/sub/b.pyc").unlink()
    assert copy_it() == (15, 15)
    assert (base / "source/a.py").read_text() == "a.py"
    assert (base / "source/sub/c").read_text() == "longer"
    assert (base / "source/sub/b.pyc").read_text() == "sub/b.pyc"


@both_ways
def test_only_a_file_that_has_changed_is_copied(way, runtime, elsewhere, base):
    source = elsewhere / "file"
    source.write_text("data")
    for _ in range(2):
        copy(way, runtime, source, "new", only_changed=True)
        assert (base / "new").read_text() == "data"
    inode = (base / "new").stat().st_ino
    copy(way, runtime, source, "new", only_changed=True)
    assert (base / "new").stat().st_ino == inode
    source.write_text("other")
    copy(way, runtime, source, "new", only_changed=True)
    assert (base / "new").read_text() == "other"


@both_ways
def test_steps_around_a_copy_of_what_has_changed(way, runtime, elsewhere, base):
    """The list of the destination is neither a step nor output."""
    (elsewhere / "file").write_text("data")
    task = RuntimeTask().run_command("echo before")
    copy(way, task, elsewhere / "file", "new", only_changed=True)
    copy(way, task, elsewhere / "file", "new", only_changed=True)
    task.run_command("echo after")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["before\n", "", "", "after\n"]


@both_ways
def test_a_source_that_is_missing_is_an_error(way, runtime, elsewhere, base):
    with pytest.raises(FileNotFoundError):
        copy(way, runtime, elsewhere / "nothing", "new", only_changed=True)
    assert list(base.iterdir()) == []


@both_ways
def test_a_copy_of_what_has_changed_can_be_stopped(way, own_runtime, tmp_path, monkeypatch):
    """Also while the folders are compared."""
    scanning, go_on = threading.Event(), threading.Event()

    def scan(self):
        scanning.set()
        assert go_on.wait(60)

    if way == "get":
        pytest.skip("the host compares, which is a process that is killed")
    monkeypatch.setattr(tree_stream.Packer, "scan", scan)
    source = make(tmp_path / "source")
    task = copy(way, own_runtime, source, "new", only_changed=True, execute_async=True)
    assert scanning.wait(60)
    threading.Timer(0.1, go_on.set).start()
    task.stop()
    assert isinstance(task.error, FileTransferError)
    assert not os.path.exists(f"{own_runtime.working_dir}/new")


@both_ways
@pytest.mark.parametrize("only_changed", [False, True])
def test_what_the_source_does_not_have_is_deleted(way, runtime, elsewhere, base, only_changed):
    """Not what is excluded; twice is the same as once."""
    source = make(elsewhere / "source")
    (source / "fifo").unlink()
    (base / "new/old/deep").mkdir(parents=True)
    for name in ("new/x", "new/keep.log", "new/old/y"):
        (base / name).write_text(name)
    for _ in range(2):
        copy(
            *(way, runtime, f"{source}/", "new"),
            delete=True,
            only_changed=only_changed,
            exclude=["*.log"],
        )
        found = sorted(str(path.relative_to(base / "new")) for path in (base / "new").rglob("*"))
        assert found == ["a.py", "a.pyc", "keep.log", "sub", "sub/b.pyc", "sub/c"]


@both_ways
def test_nothing_is_deleted_if_something_was_skipped(way, runtime, elsewhere, base):
    """The task and its log say so."""
    source = make(elsewhere / "source")
    (base / "new").mkdir()
    (base / "new/x").write_text("x")
    task = copy(way, runtime, f"{source}/", "new", delete=True)
    assert task.skipped[-1] == (str(base / "new"), NOT_DELETED)
    assert f"{str(base / 'new')!r}: {NOT_DELETED}\n" in task.execution_log[0]
    assert (base / "new/x").read_text() == "x"


@both_ways
def test_deleting_needs_a_folder(way, runtime, elsewhere, base):
    """A ValueError, which is a FileTransferError too."""
    (elsewhere / "file").write_text("data")
    (base / "x").write_text("x")
    with pytest.raises(ValueError, match="delete=True needs a folder") as caught:
        copy(way, runtime, elsewhere / "file", "./", delete=True)
    assert isinstance(caught.value, FileTransferError)
    assert [path.name for path in base.iterdir()] == ["x"]


@both_ways
@pytest.mark.parametrize("target", ["/", "~"])
def test_the_home_directory_is_not_emptied(way, runtime, elsewhere, base, target):
    source = make(elsewhere / "source")
    with pytest.raises(ValueError, match="home directory"):
        copy(way, runtime, f"{source}/", target, delete=True)
    assert not os.path.exists("/a.pyc")


@both_ways
def test_a_mode_can_be_given(way, runtime, elsewhere, base):
    source = make(elsewhere / "source")
    copy(way, runtime, source, "new", mode=0o600)
    copy(way, runtime, source / "a.py", "other", mode=0o600)
    for name in ("new/a.py", "new/sub/c", "other"):
        assert (base / name).stat().st_mode & 0o777 == 0o600
    assert (base / "new/sub").stat().st_mode == (source / "sub").stat().st_mode
    runtime.send_file(b"data", str(elsewhere / "data"), mode=0o640)
    assert (elsewhere / "data").stat().st_mode & 0o777 == 0o640


@both_ways
def test_a_file_that_is_mounted_is_written_in_place(way, runtime, elsewhere, base):
    """Without the option the error names the file and the cure, and nothing is left."""
    (elsewhere / "source").write_text("new")
    (elsewhere / "outside").write_text("old")
    (elsewhere / "outside").chmod(0o600)
    (base / "hosts").touch()
    mount = ["mount", "--bind", elsewhere / "outside", base / "hosts"]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(FileTransferError, match="in place only: in_place=True") as caught:
            copy(way, runtime, elsewhere / "source", "hosts")
        assert caught.value.errno == errno.EBUSY
        assert caught.value.filename == str(base / "hosts")
        assert os.listdir(base) == ["hosts"]
        copy(way, runtime, elsewhere / "source", "hosts", in_place=True)
    finally:
        subprocess.run(["umount", base / "hosts"], check=True)
    assert (elsewhere / "outside").read_text() == "new"
    assert (elsewhere / "outside").stat().st_mode & 0o777 == 0o600
    assert (base / "hosts").read_text() == ""


@both_ways
def test_a_folder_in_place_with_a_mode(way, runtime, elsewhere, base):
    """Files that are there are the old ones, and get the mode that is given."""
    source = make(elsewhere / "source")
    copy(way, runtime, f"{source}/", "new", in_place=True)
    os.link(base / "new" / "a.py", base / "other")
    (source / "a.py").write_text("changed")
    copy(way, runtime, f"{source}/", "new", in_place=True, mode=0o640)
    assert (base / "other").read_text() == "changed"
    assert (base / "other").stat().st_mode & 0o777 == 0o640
