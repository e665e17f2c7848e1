"""How far a copy is: a callable is told, or a terminal."""

from __future__ import annotations

import copy
import io
import os
import sys
import threading

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import FileTransferError
from support.hosts import run

SIZE = 50_000_000


class Told:
    """What a copy has told, and in which thread."""

    def __init__(self):
        self.calls = []
        self.threads = set()

    def __call__(self, done, total):
        self.calls.append((done, total))
        self.threads.add(threading.get_ident())

    def note(self, done, total):
        self(done, total)


@pytest.fixture
def files(tmp_path):
    """A large file, and a folder with some bytes in several files."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(SIZE)
    for name, size in {"a": 10, "below/b": 0, "below/deep/c": 100_000}.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "folder" / "link").symlink_to("a")
    (tmp_path / "empty").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "size"), [("large", SIZE), ("folder", 100_010), ("empty", 0)], ids=str
)
def test_progress_ends_with_all_the_bytes(own_runtime, files, name, size):
    """It only grows, the total is known from the first call on, and each state is told once."""
    told = Told()
    own_runtime.send_file(str(files / name), progress=told)
    (files / "back").mkdir()
    sent, told.calls = told.calls, []
    own_runtime.get_file(name, str(files / "back"), progress=told)
    for calls in (sent, told.calls):
        assert calls[-1] == (size, size)
        assert {total for _, total in calls} == {size}
        assert calls == sorted(set(calls))
    assert told.threads == {threading.get_ident()}


def test_progress_of_a_file_without_a_size(own_runtime, tmp_path):
    """As those of /proc are: the total is what has come."""
    told = Told()
    own_runtime.get_file("/proc/self/status", str(tmp_path / "copy"), progress=told)
    size = (tmp_path / "copy").stat().st_size
    assert size > 0
    assert told.calls[-1] == (size, size)


@pytest.mark.parametrize("way", ["send", "get"])
def test_progress_that_raises_stops_the_copy(own_runtime, files, stays_good, way):
    """While it is under way: nothing is left on either side."""
    with open(files / "large", "wb") as file:
        file.truncate(40 * SIZE)

    def stop(done, total):
        raise RuntimeError("enough")

    move = own_runtime.send_file if way == "send" else own_runtime.get_file
    with pytest.raises(FileTransferError, match="`progress` raised RuntimeError") as caught:
        move(str(files / "large"), str(files / "copy"), progress=stop)
    assert repr(caught.value.__cause__) == "RuntimeError('enough')"
    assert sorted(os.listdir(files)) == ["empty", "folder", "large"]
    assert run(own_runtime, "ls -A") == [""]


def test_progress_is_the_users_own_object_also_in_copies(own_runtime, files):
    """A deep copy of a task tells the object that was named, and not a copy of it."""
    told = Told()
    task = RuntimeTask().send_file(str(files / "folder"), progress=told.note)
    own_runtime.execute_task(copy.deepcopy(task), execute_async=False)
    assert told.calls[-1] == (100_010, 100_010)


class Terminal(io.StringIO):
    """Takes what is written for a person."""

    def isatty(self):
        return True


@pytest.mark.parametrize("has_tqdm", [True, False], ids=["tqdm", "without"])
@pytest.mark.parametrize("way", ["send", "get"])
def test_progress_on_a_terminal(own_runtime, files, monkeypatch, has_tqdm, way):
    """One line that ends at 100 %, with a name in which a terminal obeys nothing."""
    if has_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    name = "odd\x1b]0;ü\n"
    os.rename(files / "large", files / name)
    if way == "send":
        own_runtime.send_file(str(files / name), "copy", progress=True)
    else:
        own_runtime.get_file(str(files / name), str(files / "copy"), progress=True)
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert "100%" in shown.replace(" ", "")
    assert "\x1b]" not in shown
    assert "odd\\x1b]0;" in shown


def test_progress_where_there_is_no_terminal(own_runtime, files, capfd):
    """A log file is not filled with it."""
    own_runtime.send_file(str(files / "large"), progress=True)
    assert capfd.readouterr().err == ""
    own_runtime.get_file("large", str(files / "back"), progress=False)


def test_progress_of_a_link_to_a_folder(own_runtime, files):
    """The link is followed, and so its bytes are counted."""
    (files / "linked").symlink_to("folder")
    told = Told()
    own_runtime.send_file(str(files / "linked"), progress=told)
    assert told.calls[-1] == (100_010, 100_010)
    assert {total for _, total in told.calls} == {100_010}
