"""Copies that fail, are stopped or lose their connection: whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import resource
import shlex
import signal
import socket
from pathlib import Path

import pytest

from lazycluster import RuntimeTask
from lazycluster._shared.folders import boot_id
from lazycluster.exceptions import ConnectionLostError, FileTransferError, StepTimeoutError
from support.hosts import ended, run
from support.interpreters import OWN_PYTHON
from support.transfers import (
    both_ways,
    copy_of,
    failure_of,
    make_tree,
    picture,
    under_way,
    unfinished,
)
from support.waiting import wait_until


@pytest.fixture
def source(request, huge):
    """A file, or a folder with others, that takes long to copy."""
    if request.param == "file":
        return huge
    folder = huge.parent / "large"
    make_tree(folder)
    huge.rename(folder / "sub" / "huge")
    return folder


large = pytest.mark.parametrize("source", ["file", "folder"], indirect=True)


def start(runtime, way, source, *folders):
    """A copy under way: its process is known, and data has come."""
    method = runtime.send_file if way == "send" else runtime.get_file
    task = method(str(source), "target", execute_async=True)
    wait_until(lambda: task.process.pid and under_way(*folders))
    return task


def nothing_is_left(*folders):
    """Whether neither a copy nor a part of one is there."""
    return not unfinished(*folders) and not any((Path(f) / "target").exists() for f in folders)


@both_ways
@large
def test_terminate_during_a_copy(runtime, way, source, here, there):
    """Nothing stays on either side when it returns, and the Runtime can be used."""
    task = start(runtime, way, source, here, there)
    task.process.terminate()
    assert nothing_is_left(here, there)
    assert task.process.exitcode == -signal.SIGTERM
    assert isinstance(task.error, FileTransferError)
    assert run(runtime, "echo hi") == ["hi\n"]


@both_ways
@large
def test_kill_during_a_copy(runtime, way, source, here, there):
    """The same, without a grace."""
    task = start(runtime, way, source, here, there)
    task.process.kill()
    assert nothing_is_left(here, there)
    assert task.process.exitcode == -signal.SIGKILL
    assert run(runtime, "echo hi") == ["hi\n"]


@both_ways
@large
def test_timeout_of_a_copy(runtime, way, source, here, there):
    """StepTimeoutError is the cause, and nothing stays."""
    task = RuntimeTask()
    (task.send_file if way == "send" else task.get_file)(str(source), "target")
    with pytest.raises(FileTransferError) as caught:
        runtime.execute_task(task, execute_async=False, timeout=0.5)
    assert isinstance(caught.value.__cause__, StepTimeoutError)
    assert f"`{way} {source}` was stopped" in str(caught.value.__cause__)
    assert caught.value.errno is None
    assert nothing_is_left(here, there)
    assert run(runtime, "echo hi") == ["hi\n"]


@both_ways
@large
def test_cleanup_during_a_copy(own_runtime, way, source, here, tmp_path):
    """Nothing stays on either side."""
    own_runtime.working_dir = str(tmp_path / "there")
    task = start(own_runtime, way, source, here, tmp_path / "there")
    own_runtime.cleanup()
    assert nothing_is_left(here)
    wait_until(lambda: nothing_is_left(tmp_path / "there"))
    assert task.process.exitcode == -signal.SIGTERM


@both_ways
@large
def test_connection_lost_during_a_copy(make_sshd, make_runtime, way, source, here, tmp_path):
    """ConnectionLostError is the cause, nothing stays, and the next use logs in again."""
    sshd = make_sshd()
    there = tmp_path / "there"
    runtime = make_runtime(str(there), on=sshd)
    task = start(runtime, way, source, here, there)
    sshd.kill_connections()
    ended(task)
    assert isinstance(task.error, FileTransferError)
    assert isinstance(task.error.__cause__, ConnectionLostError)
    assert task.error.__cause__.started is True
    assert nothing_is_left(here)
    wait_until(lambda: nothing_is_left(there))
    (here / "name").write_text("hello")
    runtime.send_file("name")
    assert (there / "name").read_text() == "hello"


def test_read_only_folders_of_a_lost_copy(make_sshd, make_runtime, huge, here, tmp_path):
    """They go, too: those that were complete have their modes already."""
    source = huge.parent / "large"
    for number in range(10):
        (source / str(number)).mkdir(parents=True)
        (source / str(number) / "file").touch()
        (source / str(number)).chmod(0o555)
    (source / "last").mkdir()
    huge.rename(source / "last" / "huge")
    sshd = make_sshd()
    there = tmp_path / "there"
    start(make_runtime(str(there), on=sshd), "send", source, here, there)
    sshd.kill_connections()
    wait_until(lambda: nothing_is_left(there))


@both_ways
@large
def test_killed_process_that_copies(runtime, way, source, here, there):
    """A process of the host kills it, when memory is short: an error that names the signal."""
    task = start(runtime, way, source, here, there)
    os.kill(task.process.pid, signal.SIGKILL)
    ended(task)
    assert isinstance(task.error, FileTransferError)
    assert "signal 9" in str(task.error)
    assert nothing_is_left(here, there)
    assert run(runtime, "echo hi") == ["hi\n"]


@both_ways
def test_other_copy_is_left_alone(runtime, way, huge, here, there, elsewhere):
    """When one is stopped."""
    task = start(runtime, way, huge, here, there)
    (elsewhere / "name").write_bytes(os.urandom(5 << 20))
    copy_of(elsewhere / "name", runtime, way, "other")
    task.process.kill()
    base = there if way == "send" else here
    assert filecmp.cmp(elsewhere / "name", base / "other", shallow=False)


@both_ways
def test_file_that_is_there_stays_when_a_copy_is_stopped(runtime, way, base, huge, here, there):
    """With what it held."""
    (base / "target").write_text("old")
    task = start(runtime, way, huge, base)
    task.process.kill()
    assert (base / "target").read_text() == "old"
    assert not unfinished(here, there)


@pytest.fixture
def small_files_only():
    """No file of this process can grow beyond 1 MB; Python ignores the signal."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@large
def test_manager_cannot_write_all_of_it(runtime, source, here, there, small_files_only):
    """The errno and the path here, and nothing stays."""
    error = failure_of(runtime, RuntimeTask().get_file(str(source), "target"))
    assert error.errno == errno.EFBIG
    assert str(here / "target") in str(error)
    assert nothing_is_left(here)
    assert run(runtime, "echo hi") == ["hi\n"]


def test_error_says_which_side_it_was(runtime, huge, here, there, small_files_only):
    """A path alone could be either's."""
    (here / "name").touch()
    (there / "file").touch()
    task = RuntimeTask
    host, manager = f"on {runtime.host}", "on the manager"
    cases = {
        "missing here": (task().send_file("no-such-file"), manager),
        "missing there": (task().get_file("no-such-file"), host),
        "cannot be written here": (task().get_file(str(huge)), manager),
        "cannot be written there": (task().send_file("name", "file/below"), host),
    }
    causes = {name: (str(failure_of(runtime, t).__cause__), s) for name, (t, s) in cases.items()}
    assert {name: cause for name, (cause, side) in causes.items() if side not in cause} == {}


@large
def test_host_cannot_write_all_of_it(make_runtime, source, here, tmp_path):
    """Nothing stays there."""
    python = tmp_path / "small files only"
    python.write_text(f'#!/bin/sh\nulimit -f 100\nexec {shlex.quote(OWN_PYTHON)} "$@"\n')
    python.chmod(0o755)
    there = tmp_path / "there"
    runtime = make_runtime(str(there), python=shlex.quote(str(python)))
    error = failure_of(runtime, RuntimeTask().send_file(str(source), "target"))
    assert error.errno == errno.EFBIG or "signal" in str(error)
    assert nothing_is_left(there)
    assert run(runtime, "echo hi") == ["hi\n"]


@both_ways
def test_target_below_a_file(runtime, way, base, elsewhere):
    """The errno and the path, and nothing is made."""
    (base / "file").write_text("old")
    (elsewhere / "name").write_text("new")
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "name", runtime, way, "file/below")
    assert caught.value.errno == errno.ENOTDIR
    assert str(base / "file") in str(caught.value)
    assert os.listdir(base) == ["file"]


@both_ways
@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "link to a device"])
def test_source_that_is_neither_a_file_nor_a_folder(runtime, way, base, elsewhere, kind):
    """That is the reason, and a ValueError; nothing is opened and nothing is made."""
    path = elsewhere / "x"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))  # the whole path may be too long for a socket
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(FileTransferError, match="Neither a file nor a folder") as caught:
        copy_of(path, runtime, way, "target")
    assert isinstance(caught.value, ValueError)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == str(path)
    assert f"(on {'the manager' if way == 'send' else runtime.host})" in str(caught.value)
    assert os.listdir(base) == []


@both_ways
@pytest.mark.parametrize("target", ["/dev/null", "fifo", "link to a folder/fifo"])
def test_target_that_is_neither_a_file_nor_a_folder(runtime, way, base, elsewhere, target):
    """It stays what it is, also for root."""
    (base / "link to a folder").symlink_to(".")
    os.mkfifo(base / "fifo")
    (elsewhere / "name").write_text("hello")
    before = os.stat(base / target)
    with pytest.raises(FileTransferError, match="neither a file nor a link") as caught:
        copy_of(elsewhere / "name", runtime, way, target)
    assert isinstance(caught.value, FileExistsError)
    assert caught.value.filename == str(base / target)
    assert f"(on {runtime.host if way == 'send' else 'the manager'})" in str(caught.value)
    after = os.stat(base / target)
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert sorted(os.listdir(base)) == ["fifo", "link to a folder"]


@both_ways
@pytest.mark.parametrize("target", ["new", "sub", "sub/new/", "there"])
@pytest.mark.skipif(not boot_id(), reason="a folder has no identity here")
def test_folder_into_itself(runtime, way, here, there, elsewhere, target):
    """A ValueError, before anything is made."""
    make_tree(elsewhere / "source")
    (elsewhere / "source" / "there").symlink_to("sub")
    before = picture(elsewhere)
    for slash in ("", "/"):
        with pytest.raises(FileTransferError, match="below its own source") as caught:
            copy_of(f"{elsewhere}/source{slash}", runtime, way, f"{elsewhere}/source/{target}")
        assert isinstance(caught.value, ValueError)
        assert picture(elsewhere) == before


@both_ways
def test_file_that_cannot_be_read(runtime, way, base):
    """The errno and the path, and nothing is made."""
    with pytest.raises(FileTransferError) as caught:
        copy_of("/proc/self/mem", runtime, way, "target")
    assert caught.value.errno == errno.EIO
    assert "/proc/self/mem" in str(caught.value)
    assert os.listdir(base) == []


@both_ways
@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_folder_with_a_file_that_cannot_be_read(runtime, way, base, elsewhere):
    """The errno, the path and the side, and nothing stays."""
    make_tree(elsewhere / "source")
    (elsewhere / "source" / "sub" / "data").chmod(0)
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "source", runtime, way, None)
    assert caught.value.errno == errno.EACCES
    assert str(elsewhere / "source" / "sub" / "data") in str(caught.value)
    assert f"on {'the manager' if way == 'send' else runtime.host}" in str(caught.value.__cause__)
    assert os.listdir(base) == []


@both_ways
@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_folder_that_cannot_be_written(runtime, way, base, elsewhere):
    """The errno and the path."""
    (elsewhere / "name").write_text("hello")
    (base / "locked").mkdir(mode=0o500)
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "name", runtime, way, "locked")
    assert caught.value.errno == errno.EACCES
    assert os.listdir(base / "locked") == []
