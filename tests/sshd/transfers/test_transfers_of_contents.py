"""Bytes and file objects in place of a local path."""

from __future__ import annotations

import io
import os
import stat
import threading

import pytest

from lazycluster import FileTransferError, RuntimeTask

BIG = os.urandom(3_000_000)


@pytest.mark.parametrize("content", [b"", b"data", BIG], ids=["empty", "small", "big"])
@pytest.mark.parametrize(
    "make", [bytes, bytearray, memoryview, io.BytesIO], ids=lambda m: m.__name__
)
def test_contents_arrive_and_come_back(runtime, there, content, make):
    runtime.send_file(make(content), "new/file")
    assert (there / "new/file").read_bytes() == content
    target = io.BytesIO(b"12345678")
    target.seek(4)
    runtime.get_file("new/file", target)
    assert target.getvalue() == b"1234" + (content or b"5678")[: len(content)] + (
        b"5678"[len(content) :] if len(content) < 4 else b""
    )
    assert not target.closed


def test_a_file_object_is_used_from_its_position_and_stays_open(runtime, there, here):
    (here / "file").write_bytes(b"0123456789")
    with open(here / "file", "rb") as file:
        file.seek(4)
        runtime.send_file(file, "a")
        assert file.tell() == 10
        runtime.send_file(file, "b")
    assert ((there / "a").read_bytes(), (there / "b").read_bytes()) == (b"456789", b"")
    with open(here / "copy", "wb") as file:
        runtime.get_file("a", file)
        runtime.get_file("a", file)
    assert (here / "copy").read_bytes() == b"456789" * 2


def test_a_pipe_is_read_to_its_end(runtime, there):
    """Meanwhile others use the connection."""
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        task = runtime.send_file(file, "new", execute_async=True)
        assert runtime.run("echo here").stdout == "here\n"
        with open(writer, "wb") as end:
            end.write(b"late")
        task.join()
    assert task.error is None
    assert (there / "new").read_bytes() == b"late"


def test_the_mode_is_that_of_a_new_or_of_the_replaced_file(runtime, there):
    runtime.send_file(b"1", "new")
    expected = 0o666 & ~int(runtime.run("umask").stdout, 8)
    assert stat.S_IMODE((there / "new").stat().st_mode) == expected
    (there / "new").chmod(0o640)
    runtime.send_file(b"2", "new")
    assert stat.S_IMODE((there / "new").stat().st_mode) == 0o640
    assert (there / "new").read_bytes() == b"2"


@pytest.mark.parametrize("target", [None, "", "folder/", "folder/.", "..", ".", "~"])
def test_contents_have_no_name(runtime, there, target):
    """A ValueError at once: the target must be the path of a file."""
    task = RuntimeTask()
    for send in (task.send_file, runtime.send_file):
        with pytest.raises(ValueError, match="remote path"):
            send(b"data", target)
    assert task.steps == ()


def test_a_folder_is_not_replaced_by_contents(runtime, there):
    (there / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        runtime.send_file(b"data", "folder")
    assert os.listdir(there / "folder") == []


def test_a_folder_does_not_go_into_a_file_object(runtime, there):
    (there / "folder").mkdir()
    target = io.BytesIO()
    with pytest.raises(IsADirectoryError) as caught:
        runtime.get_file("folder", target)
    assert isinstance(caught.value, FileTransferError)
    assert caught.value.local_path is None
    assert target.getvalue() == b""


def test_a_file_object_gets_all_or_nothing(runtime, there):
    target = io.BytesIO()
    with pytest.raises(FileNotFoundError):
        runtime.get_file("nothing", target)
    assert target.getvalue() == b""


def test_a_file_object_that_fails_is_an_error(runtime, there):
    """Its own exception; nothing is sent."""

    class Failing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "no luck")

    with pytest.raises(FileTransferError, match=r"no luck \(on the manager\)"):
        runtime.send_file(Failing(), "new")
    assert os.listdir(there) == []
    runtime.send_file(b"data", "new")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(FileTransferError):
        runtime.get_file("new", full)


def test_a_raw_file_may_take_a_part(runtime, there):
    class Slow(io.RawIOBase):
        taken = b""

        def writable(self):
            return True

        def write(self, data):
            self.taken += bytes(data[:3])
            return len(data[:3])

    runtime.send_file(b"0123456789", "new")
    target = Slow()
    runtime.get_file("new", target)
    assert target.taken == b"0123456789"


def test_progress_of_contents(runtime, there):
    reports = []
    runtime.send_file(BIG, "new", progress=lambda *state: reports.append(state))
    assert reports[-1] == (len(BIG), len(BIG))
    runtime.get_file("new", io.BytesIO(), progress=lambda *state: reports.append(state))
    assert reports[-1] == (len(BIG), len(BIG))


def test_steps_with_contents_have_names(runtime, there, here):
    (here / "file").write_bytes(b"1")
    with open(here / "file", "rb") as file:
        task = (
            RuntimeTask().send_file(b"data", "a").send_file(file, "b").get_file("a", io.BytesIO())
        )
        assert [step.name for step in task.steps] == [
            "send 4 bytes to a",
            f"send the file object {here / 'file'} to b",
            "get a",
        ]
        assert "data" not in repr(task.steps)
        runtime.execute_task(task, execute_async=False)
    assert runtime.send_file(b"data", "a").name == f"send-file-4 bytes-to-{runtime.host}"


def test_only_changed_is_about_files(runtime, there):
    with pytest.raises(ValueError, match="only_changed"):
        runtime.send_file(b"data", "new", only_changed=True)
    with pytest.raises(ValueError, match="only_changed"):
        runtime.get_file("new", io.BytesIO(), only_changed=True)


def test_a_file_object_is_written_by_the_thread_of_the_task(runtime, there):
    """And not by the one that reads what the host sends, which serves others."""
    threads = []

    class Target:
        def write(self, data):
            threads.append(threading.get_ident())

    runtime.send_file(b"data", "new")
    runtime.get_file("new", Target())
    assert threads == [threading.get_ident()]
