"""Files and folders, both ways, over a real sshd: where they go, and that they come whole."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import logging
import os
import pwd
import resource
import shlex
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import (
    ConnectionLostError,
    FileTransferError,
    StepTimeoutError,
    TaskExecutionError,
)
from support.hosts import call, ended, run
from support.interpreters import OWN_PYTHON
from support.machine import file_names, longest_name
from support.waiting import wait_until

PARTIAL = ".lazycluster-"
HUGE = 8 << 30
"""Bytes of a file without data that is copied until something stops it; seconds away from all."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the manager is in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def there(runtime, tmp_path):
    """The working directory of `runtime` for one test."""
    runtime.working_dir = str(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is neither."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def huge(elsewhere):
    """A file that takes many seconds to copy."""
    path = elsewhere / "huge"
    path.touch()
    os.truncate(path, HUGE)
    return path


@pytest.fixture
def account_file():
    """An unused name of a file in the home directory of the account; removed afterwards."""
    path = Path(pwd.getpwuid(os.getuid()).pw_dir, f"lctest-{os.urandom(4).hex()}")
    yield path
    path.unlink(missing_ok=True)


def picture(path):
    """All that is to be the same in a copy: names, kinds, modes, times, data and where links go."""
    root = os.fsencode(path)
    paths = [root]
    for folder, folders, files in os.walk(root):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]
    return {entry[len(root) :]: look_at(entry) for entry in paths}


def look_at(path):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content = None
    if kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = file.read()
    return kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns, content


def unfinished(*folders):
    """Paths of what was not yet, or will never be, put where it belongs."""
    found = []
    for folder in folders:
        for parent, names, files in os.walk(folder):  # unlike rglob, it bears what goes meanwhile
            found += [Path(parent, name) for name in names + files if name.startswith(PARTIAL)]
    return found


def under_way(*folders):
    """Whether much of the data has come to a copy in one of the folders."""
    try:
        found = [below for path in unfinished(*folders) for below in (path, *path.rglob("huge"))]
        return any(path.is_file() and path.stat().st_size for path in found)
    except FileNotFoundError:  # it was put where it belongs meanwhile
        return False


def make_tree(root):
    """A folder with one of each that can travel."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "empty file").touch()
    (root / "text").write_text("hello\n")
    (root / "sub" / "data").write_bytes(os.urandom(200_000))
    (root / "sub" / "deep" / "program").write_text("#!/bin/sh\n")
    (root / "sub" / "deep" / "program").chmod(0o755)
    (root / "text").chmod(0o640)
    (root / "link").symlink_to("text")
    (root / "link to folder").symlink_to("sub")
    (root / "dangling").symlink_to("/no/such/file")
    (root / "sub" / "loop").symlink_to("..")
    os.utime(root / "text", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "link", ns=(1, 1_000_000_000_000_000_001), follow_symlinks=False)
    os.utime(root / "empty folder", ns=(1, 1_000_000_000_000_000_003))
    (root / "sub" / "deep").chmod(0o555)
    os.utime(root, ns=(1, 1_100_000_000_000_000_007))
    return root


def copy_of(source, runtime, way, target):
    """Sends or gets it; the task."""
    method = runtime.send_file if way == "send" else runtime.get_file
    return method(str(source), target)


both_ways = pytest.mark.parametrize("way", ["send", "get"])


@pytest.fixture
def base(way, here, there):
    """The folder that a relative target is relative to."""
    return there if way == "send" else here


def failure_of(runtime, task):
    """How a task fails."""
    with pytest.raises(FileTransferError) as caught:
        runtime.execute_task(task, execute_async=False)
    return caught.value


# --- Where it goes ---

TARGETS_OF_A_FILE = [
    (None, "name.txt"),
    (".", "name.txt"),
    ("./", "name.txt"),
    ("new.txt", "new.txt"),
    ("folder", "folder/name.txt"),
    ("folder/", "folder/name.txt"),
    ("folder/.", "folder/name.txt"),
    ("link", "folder/name.txt"),
    ("link/", "folder/name.txt"),
    ("new/", "new/name.txt"),
    ("a/b/new.txt", "a/b/new.txt"),
    ("a/b/", "a/b/name.txt"),
    ("folder/../new.txt", "new.txt"),
    ("folder/~", "folder/~"),
    ("./~", "~"),
    ("a~", "a~"),
    ("./$HOME", "$HOME"),
    ("$HOMES", "$HOMES"),
    ("a$HOME", "a$HOME"),
    ("*", "*"),
]


@both_ways
@pytest.mark.parametrize(("target", "path"), TARGETS_OF_A_FILE)
def test_target_of_a_file(runtime, way, base, elsewhere, target, path):
    """The path of the copy, or a folder to put it into."""
    (base / "folder").mkdir()
    (base / "link").symlink_to("folder")
    (elsewhere / "name.txt").write_text("hello")
    copy_of(elsewhere / "name.txt", runtime, way, target)
    assert (base / path).read_text() == "hello"
    copies = [found for found in base.rglob("*") if found.is_file()]
    assert len({found.resolve() for found in copies}) == 1


TARGETS_OF_A_FOLDER = [
    (None, "source"),
    (".", "source"),
    ("new", "new"),
    ("new/", "new/source"),
    ("a/b/new", "a/b/new"),
    ("folder", "folder/source"),
    ("folder/", "folder/source"),
    ("link", "folder/source"),
]


@both_ways
@pytest.mark.parametrize("slash", ["", "/", "/."])
@pytest.mark.parametrize(("target", "path"), TARGETS_OF_A_FOLDER)
def test_target_of_a_folder(runtime, way, base, elsewhere, target, path, slash):
    """The same rules; how the source is written changes nothing."""
    (base / "folder").mkdir()
    (base / "link").symlink_to("folder")
    make_tree(elsewhere / "source")
    copy_of(f"{elsewhere}/source{slash}", runtime, way, target)
    assert picture(base / path) == picture(elsewhere / "source")


@both_ways
def test_absolute_target(runtime, way, base, elsewhere, tmp_path):
    """It is taken as it is, and folders that are missing are made."""
    (elsewhere / "name.txt").write_text("hello")
    copy_of(elsewhere / "name.txt", runtime, way, str(tmp_path / "x" / "y" / "new.txt"))
    assert (tmp_path / "x" / "y" / "new.txt").read_text() == "hello"
    assert not any(base.iterdir())


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
@pytest.mark.parametrize(("target", "path"), [("sent/new", "sent/new"), ("sent/", "sent/name")])
def test_home_directory_on_the_host(runtime, sshd, there, here, home, target, path):
    """At the start of a path there."""
    (here / "name").write_text(target)
    runtime.send_file("name", f"{home}/{target}")
    assert (sshd.home / path).read_text() == target
    runtime.get_file(f"{home}/{path}", "back")
    assert (here / "back").read_text() == target


def test_variable_of_the_home_directory_is_literal_on_the_manager(runtime, there, here):
    """Where the script can expand it."""
    (here / "$HOME").mkdir()
    (here / "$HOME" / "name").write_text("hello")
    runtime.send_file("$HOME/name")
    assert (there / "name").read_text() == "hello"
    runtime.get_file("name", "$HOME/back")
    assert (here / "$HOME" / "back").read_text() == "hello"


@pytest.mark.parametrize(("target", "path"), [("~/got/new", "got/new"), ("~/got/", "got/name")])
def test_tilde_on_the_manager(runtime, there, target, path):
    """As the first character it is the home directory here."""
    (there / "name").write_text(target)
    runtime.get_file("name", target)
    assert Path(os.environ["HOME"], path).read_text() == target
    runtime.send_file(f"~/{path}", "back")
    assert (there / "back").read_text() == target


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
def test_home_directory_is_a_folder_to_put_it_into(runtime, sshd, there, here, home):
    """Alone."""
    name = f"in-home-{os.urandom(4).hex()}"
    (here / name).write_text("hello")
    runtime.send_file(name, home)
    assert (sshd.home / name).read_text() == "hello"


@pytest.mark.parametrize("home", ["~", "$HOME/", "${HOME}"])
def test_home_directory_has_no_name_for_a_copy(runtime, there, here, home):
    """It is not called `$HOME` here."""
    with pytest.raises(TaskExecutionError, match="name"):
        runtime.get_file(home)
    assert not any(here.iterdir())


def test_file_below_a_folder_is_the_one_that_is_got(runtime, here, there):
    """Not one of that name in the working directory."""
    (there / "a").mkdir()
    (there / "a" / "b.txt").write_text("right")
    (there / "b.txt").write_text("wrong")
    runtime.get_file("a/b.txt")
    assert (here / "b.txt").read_text() == "right"
    assert os.listdir(here) == ["b.txt"]


@pytest.mark.parametrize("execute_async", [False, True])
def test_local_path_is_relative_to_the_folder_at_the_execution(
    runtime, here, there, monkeypatch, gate, execute_async
):
    """As in 0.2; where the manager goes after that does not matter."""
    (there / "one").write_text("one")
    (there / "two").write_text("two")
    (here / "three").write_text("three")
    monkeypatch.chdir("/")
    task = RuntimeTask().get_file("one").get_file("two", "new").send_file("three")
    monkeypatch.chdir(here)
    if execute_async:
        task = RuntimeTask().run_command(gate.wait).get_file("one").get_file("two", "new")
        runtime.execute_task(task.send_file("three"))
        monkeypatch.chdir("/")
        gate.open()
        assert ended(task).error is None
    else:
        runtime.execute_task(task, execute_async=False)
    assert sorted(os.listdir(here)) == ["new", "one", "three"]
    assert (there / "three").read_text() == "three"


def test_a_task_copies_to_the_folder_of_each_execution(runtime, here, there, monkeypatch):
    """Its definition has no folder."""
    (there / "one").write_text("one")
    task = RuntimeTask().get_file("one")
    for name in ("a", "b"):
        (here / name).mkdir()
        monkeypatch.chdir(here / name)
        runtime.execute_task(task, execute_async=False)
    assert sorted(map(str, here.rglob("one"))) == [str(here / "a/one"), str(here / "b/one")]


def test_folder_that_the_manager_is_in(runtime, here, there):
    """`.` goes under the folder's own name."""
    (here / "file").write_text("hello")
    runtime.send_file(".")
    assert (there / "here" / "file").read_text() == "hello"


def test_working_directory_has_no_name_of_its_own(runtime, here, there):
    """It can be got as something, and into nothing."""
    (there / "file").write_text("hello")
    runtime.get_file(".", "copy")
    assert (here / "copy" / "file").read_text() == "hello"
    with pytest.raises(FileTransferError, match="name"):
        runtime.get_file(".")
    assert os.listdir(here) == ["copy"]


def test_empty_target_is_the_default(runtime, here, there):
    """As in 0.2."""
    (here / "a").write_text("a")
    runtime.send_file("a", "")
    assert (there / "a").read_text() == "a"
    (here / "a").unlink()
    runtime.get_file("a", "")
    assert (here / "a").read_text() == "a"


@pytest.mark.parametrize("path", ["", None, 5, "a\0b", "a\ud800"])
def test_path_that_is_none(runtime, path):
    """A ValueError at the call, and no step."""
    task = RuntimeTask()
    for method in (task.send_file, task.get_file, runtime.send_file, runtime.get_file):
        with pytest.raises(ValueError, match="path"):
            method(path)
        if path:
            with pytest.raises(ValueError, match="path"):
                method("good", path)
    assert task.steps == ()


# --- What comes ---


@both_ways
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o444, 0o755, 0o000, 0o777])
@pytest.mark.parametrize("mtime", [1_234_567_890_123_456_789, 0, -1, 2**33 * 10**9])
def test_mode_and_time_of_a_file(runtime, way, base, elsewhere, mode, mtime):
    """To the bit and to the nanosecond."""
    if mode == 0 and os.geteuid():
        pytest.skip("only root can read it")
    (elsewhere / "name").write_text("hello")
    (elsewhere / "name").chmod(mode)
    os.utime(elsewhere / "name", ns=(0, mtime))
    copy_of(elsewhere / "name", runtime, way, None)
    assert look_at(base / "name") == look_at(elsewhere / "name")


@both_ways
def test_setuid_does_not_travel(runtime, way, base, elsewhere):
    """Nor setgid: the copy may be of another account."""
    (elsewhere / "name").write_text("hello")
    (elsewhere / "name").chmod(0o6755)
    copy_of(elsewhere / "name", runtime, way, None)
    assert stat.S_IMODE((base / "name").stat().st_mode) == 0o755


@both_ways
@pytest.mark.parametrize("size", [0, 1, 65_527, 65_528, 65_529, 1 << 20, (1 << 23) + 1])
def test_data_of_a_file(runtime, way, base, elsewhere, size):
    """Every byte, whatever there is and however much."""
    (elsewhere / "name").write_bytes(os.urandom(size))
    copy_of(elsewhere / "name", runtime, way, None)
    assert filecmp.cmp(elsewhere / "name", base / "name", shallow=False)


@both_ways
def test_empty_folder(runtime, way, base, elsewhere):
    """It is there."""
    (elsewhere / "folder").mkdir(mode=0o700)
    copy_of(elsewhere / "folder", runtime, way, None)
    assert picture(base / "folder") == picture(elsewhere / "folder")


@both_ways
def test_link_that_is_named_is_followed(runtime, way, base, elsewhere):
    """Its name goes with what it points to."""
    (elsewhere / "target").write_text("hello")
    (elsewhere / "link").symlink_to("target")
    copy_of(elsewhere / "link", runtime, way, None)
    assert not (base / "link").is_symlink()
    assert (base / "link").read_text() == "hello"


@both_ways
def test_link_in_a_folder_is_not_followed(runtime, way, base, elsewhere):
    """Neither on the way out nor on the way in: what is written through it stays as it was."""
    (elsewhere / "secret").write_text("hello")
    (elsewhere / "source").mkdir()
    (elsewhere / "source" / "x").write_text("new")
    (base / "source").mkdir()
    (base / "source" / "x").symlink_to(elsewhere / "secret")
    copy_of(elsewhere / "source", runtime, way, None)
    assert (elsewhere / "secret").read_text() == "hello"
    assert (base / "source" / "x").read_text() == "new"
    assert not (base / "source" / "x").is_symlink()


ODD_NAMES = [
    b"a b",
    b" ",
    b"'",
    b'"',
    b"$(touch owned)",
    b"`touch owned`",
    b"a;b&c|d>e",
    b"a\nb",
    b"\n",
    b"*?[",
    b"[a]",
    b"a\\b",
    b"\\",
    b"%h",
    b"-rf",
    b"--",
    b"~",
    b"~root",
    b"~a",
    b"...",
    b".hidden",
    b"#",
    b"a:b",
    b"{a,b}",
    b"\x1b[31m",
    b"\xff\xfe",
    b"a\x80",
    "ü日本".encode(),
    "u\u0308".encode(),
    b"x" * 255,
    "ü".encode() * 127,
]


@pytest.mark.parametrize("name", file_names(ODD_NAMES))
def test_odd_name_of_a_file(runtime, here, there, elsewhere, name):
    """It is taken literally, both ways, and nothing else is made."""
    text = os.fsdecode(name)
    data = os.urandom(10)
    (elsewhere / text).write_bytes(data)
    runtime.send_file(str(elsewhere / text))
    assert os.listdir(os.fsencode(there)) == [name]
    runtime.get_file(f"./{text}")
    assert os.listdir(os.fsencode(here)) == [name]
    assert (here / text).read_bytes() == data


@pytest.mark.parametrize("name", file_names(ODD_NAMES))
def test_odd_name_as_a_target(runtime, here, there, elsewhere, name):
    """It is taken literally, both ways, and nothing else is made."""
    text = os.fsdecode(name)
    (elsewhere / "name").write_bytes(name)
    runtime.send_file(str(elsewhere / "name"), f"./{text}")
    assert os.listdir(os.fsencode(there)) == [name]
    runtime.get_file(str(elsewhere / "name"), f"./{text}")
    assert os.listdir(os.fsencode(here)) == [name]
    assert (here / text).read_bytes() == (there / text).read_bytes() == name


def test_odd_names_in_a_folder(runtime, here, there, elsewhere):
    """Of files, of folders, and where links go."""
    for name in (name for name in ODD_NAMES if len(name) <= longest_name()):
        folder = elsewhere / "odd" / os.fsdecode(name)
        folder.mkdir(parents=True)
        (folder / os.fsdecode(name)).write_bytes(name)
        (folder / "link").symlink_to(os.fsdecode(name))
    runtime.send_file(str(elsewhere / "odd"))
    assert picture(there / "odd") == picture(elsewhere / "odd")
    runtime.get_file("odd")
    assert picture(here / "odd") == picture(elsewhere / "odd")


def test_odd_name_of_the_working_directory(make_runtime, here, tmp_path):
    """And of the folder that the manager is in."""
    name = os.fsdecode(b"a \n'\xff$(x)")
    runtime = make_runtime(str(tmp_path / "host" / name))
    (here / name).mkdir()
    os.chdir(here / name)
    Path("file").write_text("hello")
    runtime.send_file("file", "copy")
    runtime.get_file("copy")
    assert (here / name / "copy").read_text() == "hello"


@both_ways
def test_what_is_no_file_is_skipped_and_named(runtime, way, base, elsewhere):
    """In the execution log, and it holds nothing up."""
    source = elsewhere / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("hello")
    os.mkfifo(source / "sub" / "my fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(source)  # the path of a socket is short
        listener.bind("my socket")
        os.chdir(base)
    (log,) = copy_of(source, runtime, way, None).execution_log
    assert sorted(line.partition(":")[2].strip() for line in log.splitlines()) == ["FIFO", "socket"]
    assert str(source / "sub" / "my fifo") in log
    assert str(source / "my socket") in log
    assert sorted(os.listdir(base / "source")) == ["file", "sub"]
    assert os.listdir(base / "source" / "sub") == []


@both_ways
def test_fifo_is_an_error_if_it_is_named(runtime, way, base, elsewhere):
    """It does not wait for a writer."""
    os.mkfifo(elsewhere / "fifo")
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "fifo", runtime, way, None)
    assert caught.value.errno == errno.EINVAL
    assert os.listdir(base) == []


@both_ways
def test_copy_of_what_the_system_makes_up(runtime, way, base):
    """A file of /proc says that it has no bytes, and has some."""
    copy_of("/proc/version", runtime, way, None)
    assert (base / "version").read_text() == Path("/proc/version").read_text()


# --- What was there ---


@both_ways
def test_file_that_is_there_is_replaced(runtime, way, base, elsewhere):
    """Not written to: who has it open has the old one still, whole."""
    (base / "name").write_text("old")
    (elsewhere / "name").write_text("new")
    with open(base / "name") as old:
        copy_of(elsewhere / "name", runtime, way, None)
        assert old.read() == "old"
    assert (base / "name").read_text() == "new"


@both_ways
def test_link_that_is_there_is_replaced(runtime, way, base, elsewhere):
    """What it points to stays as it was."""
    (base / "target").write_text("old")
    (base / "name").symlink_to("target")
    (elsewhere / "name").write_text("new")
    copy_of(elsewhere / "name", runtime, way, None)
    assert (base / "target").read_text() == "old"
    assert not (base / "name").is_symlink()
    assert (base / "name").read_text() == "new"


@both_ways
def test_folder_goes_into_one_of_its_name(runtime, way, base, elsewhere):
    """File by file: what the new one does not have stays."""
    make_tree(elsewhere / "source")
    (base / "source" / "sub").mkdir(parents=True)
    (base / "source" / "text").write_text("old")
    (base / "source" / "keep").write_text("kept")
    (base / "source" / "sub" / "keep").write_text("kept, too")
    copy_of(elsewhere / "source", runtime, way, None)
    assert (base / "source" / "keep").read_text() == "kept"
    assert (base / "source" / "sub" / "keep").read_text() == "kept, too"
    wanted, found = picture(elsewhere / "source"), picture(base / "source")
    assert {path: found.get(path) for path in wanted} == wanted
    assert set(found) - set(wanted) == {b"/keep", b"/sub/keep"}
    assert not unfinished(base)


@both_ways
def test_folder_again(runtime, way, base, elsewhere):
    """The second time changes nothing, with folders that are read-only, too."""
    make_tree(elsewhere / "source")
    copy_of(elsewhere / "source", runtime, way, None)
    copy_of(elsewhere / "source", runtime, way, None)
    assert picture(base / "source") == picture(elsewhere / "source")


@both_ways
def test_file_does_not_take_the_place_of_a_folder(runtime, way, base, elsewhere):
    """EISDIR, and the folder is as it was."""
    (base / "name").mkdir()
    (base / "name" / "keep").write_text("kept")
    (elsewhere / "name").write_text("new")
    with pytest.raises(FileTransferError) as caught:
        copy_of(elsewhere / "name", runtime, way, None)
    assert caught.value.errno == errno.EISDIR
    assert str(base / "name") in str(caught.value)
    assert [path.name for path in base.rglob("*")] == ["name", "keep"]


@both_ways
def test_folder_does_not_take_the_place_of_a_file(runtime, way, base, elsewhere):
    """ENOTDIR, and the file is as it was; also when the end comes before who waits has looked."""
    (base / "source").write_text("old")
    make_tree(elsewhere / "source")
    for _ in range(50):
        with pytest.raises(FileTransferError) as caught:
            copy_of(elsewhere / "source", runtime, way, None)
        assert caught.value.errno == errno.ENOTDIR
    assert (base / "source").read_text() == "old"
    assert os.listdir(base) == ["source"]


@both_ways
def test_folder_that_does_not_fit_changes_nothing(runtime, way, base, elsewhere):
    """It is looked at before the first file is moved."""
    make_tree(elsewhere / "source")
    (base / "source" / "sub" / "data").mkdir(parents=True)
    (base / "source" / "text").write_text("old")
    before = picture(base)
    with pytest.raises(FileTransferError):
        copy_of(elsewhere / "source", runtime, way, None)
    after = picture(base)
    assert set(after) == set(before)
    assert (base / "source" / "text").read_text() == "old"


# --- Among other steps ---


def text(value):
    return value


def test_file_steps_between_others(runtime, here, there):
    """Logs and values are where they belong, and the steps run in order."""
    (here / "sent").write_text("hello")
    task = RuntimeTask().run_command("echo zero").run_function(text, value="one")
    task.send_file("sent").run_command("cat sent; echo more >> sent")
    task.get_file("sent", "got").run_function(text, value="five").run_command("echo six")
    task.run_command(f"cat {here}/got")
    runtime.execute_task(task, execute_async=False)
    log = ["zero\n", "", "", "hello", "", "", "six\n", "hellomore\n"]
    assert task.execution_log == log
    assert list(task.function_returns) == ["one", "five"]
    assert task.error is None


def test_skipped_files_are_in_the_log_of_their_step(runtime, here, there):
    """And in no other."""
    (here / "folder").mkdir()
    os.mkfifo(here / "folder" / "fifo")
    task = RuntimeTask().run_command("echo zero").send_file("folder").run_command("echo two")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log[::2] == ["zero\n", "two\n"]
    assert "fifo" in task.execution_log[1]


def test_step_before_may_make_the_local_file(runtime, here, there):
    """It is looked for when its step is reached. The host is this computer."""
    path = shlex.quote(str(here / "made"))
    task = RuntimeTask().run_command(f"echo hello > {path}").send_file("made").run_command("cat m*")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["", "", "hello\n"]


def test_file_that_was_got_can_be_sent(runtime, here, there):
    """In one task."""
    (there / "one").write_text("hello")
    task = RuntimeTask().get_file("one").send_file("one", "two").run_command("cat two")
    assert runtime.execute_task(task, execute_async=False).execution_log[2] == "hello"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_missing_local_file(runtime, here, there, index):
    """The error says which step, which paths and why; the steps after it do not run."""
    task = RuntimeTask("my-task")
    for number in range(index):
        task.run_command(f"echo {number}")
    task.send_file("no-such-file", "target").run_command("touch after")
    error = failure_of(runtime, task)
    assert isinstance(error, TaskExecutionError)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert error.local_path == str(here / "no-such-file")
    assert error.remote_path == "target"
    assert error.task_step_index == index
    assert error.task is task
    assert error.host == runtime.host
    assert isinstance(error.__cause__, FileNotFoundError)
    assert str(here / "no-such-file") in str(error)
    assert task.execution_log[:index] == [f"{number}\n" for number in range(index)]
    assert os.listdir(there) == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_missing_remote_file(runtime, here, there, index):
    """The same from the other side."""
    task = RuntimeTask("my-task")
    for number in range(index):
        task.run_command(f"echo {number}")
    task.get_file("no-such-file", "target").run_command("touch after")
    error = failure_of(runtime, task)
    assert isinstance(error, TaskExecutionError)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert error.local_path == str(here / "target")
    assert error.remote_path == "no-such-file"
    assert error.task_step_index == index
    assert isinstance(error.__cause__, FileNotFoundError)
    assert str(there / "no-such-file") in str(error)
    assert runtime.host in str(error)
    assert task.execution_log[:index] == [f"{number}\n" for number in range(index)]
    assert os.listdir(there) == os.listdir(here) == []


def test_missing_file_of_an_asynchronous_execution(runtime, here, there, caplog):
    """It is the task's error, logged, and the process says so."""
    with caplog.at_level(logging.ERROR, "lazycluster"):
        task = ended(runtime.send_file("no-such-file", execute_async=True))
    assert isinstance(task.error, FileTransferError)
    assert task.process.exitcode == 1
    assert "no-such-file" in caplog.text
    with pytest.raises(FileTransferError):
        list(task.function_returns)


@both_ways
def test_asynchronous_copy(runtime, way, base, elsewhere):
    """It goes on by itself, and its process ends well."""
    (elsewhere / "name").write_bytes(os.urandom(1 << 20))
    method = runtime.send_file if way == "send" else runtime.get_file
    task = method(str(elsewhere / "name"), None, True)
    task.join()
    assert task.process.exitcode == 0
    assert filecmp.cmp(elsewhere / "name", base / "name", shallow=False)


def test_task_of_files_can_be_executed_again(runtime, here, there):
    """With what the files hold then."""
    task = RuntimeTask().send_file("name").run_command("cat name")
    for content in ("one", "two"):
        (here / "name").write_text(content)
        assert runtime.execute_task(task, execute_async=False).execution_log[1] == content


def test_variables_do_not_lead_a_copy_astray(own_runtime, here):
    """Neither PATH nor what Python reads counts."""
    own_runtime.env_variables = {"PATH": "/nowhere", "PYTHONPATH": "/nowhere", "LANG": "C"}
    (here / "ü").write_text("hello")
    own_runtime.send_file("ü", "ä")
    own_runtime.get_file("ä")
    assert (here / "ä").read_text() == "hello"


def test_copy_over_a_connection(connection, here, account_file):
    """A task that a Connection executes starts in the account's home directory."""
    (here / "name").write_text("hello")
    name = account_file.name
    task = RuntimeTask().send_file("name", name).get_file(name).run_command(f"cat {name}")
    assert task.execute(connection).execution_log == ["", "", "hello"]
    assert account_file.read_text() == (here / name).read_text() == "hello"


def test_copy_to_a_host(user_config, here, account_file):
    """A name that ssh knows is enough."""
    (here / account_file.name).write_text("hello")
    RuntimeTask().send_file(account_file.name).execute(user_config.alias)
    assert account_file.read_text() == "hello"


# --- Many and large ---


def test_many_copies_and_commands_at_once(own_runtime, here):
    """Over one connection, and each gets its own."""
    (here / "big").write_bytes(os.urandom(3 << 20))
    digest = hashlib.sha256((here / "big").read_bytes()).hexdigest()

    def use(number):
        own_runtime.send_file("big", f"big-{number}")
        (printed,) = run(own_runtime, f"sha256sum big-{number}")
        own_runtime.get_file(f"big-{number}")
        got = hashlib.sha256((here / f"big-{number}").read_bytes()).hexdigest()
        return printed.split()[0], got, call(own_runtime, text, value=number)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(use, range(20))) == [(digest, digest, n) for n in range(20)]
    assert not unfinished(here, own_runtime.working_dir)


def test_many_copies_to_one_target(runtime, there, elsewhere):
    """One of them is there in the end, whole."""
    for number in range(10):
        (elsewhere / str(number)).write_bytes(bytes([number]) * (1 << 20))
    tasks = [
        runtime.send_file(str(elsewhere / str(number)), "target", execute_async=True)
        for number in range(10)
    ]
    assert [ended(task).error for task in tasks] == [None] * 10
    data = (there / "target").read_bytes()
    assert len(data) == 1 << 20
    assert len(set(data)) == 1
    assert os.listdir(there) == ["target"]


def test_folder_of_2000_files(runtime, here, there, elsewhere):
    """All of them, both ways."""
    for number in range(2000):
        folder = elsewhere / "many" / str(number % 20)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_text(f"{number}\n" * (number % 50))
    runtime.send_file(str(elsewhere / "many"))
    assert picture(there / "many") == picture(elsewhere / "many")
    runtime.get_file("many")
    assert picture(here / "many") == picture(elsewhere / "many")


def test_deep_folder(runtime, here, there, elsewhere):
    """Deeper than a path can be."""
    source = elsewhere / "deep"
    source.mkdir()
    fd = os.open(source, os.O_RDONLY)
    for _ in range(100):
        try:
            os.mkdir("x" * 100, dir_fd=fd)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            pytest.skip("the file system opens folders by paths of bounded length")
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    runtime.send_file(str(source))
    runtime.get_file("deep")
    assert runtime.delete_dir("deep") is True
    count = 0
    fd = os.open(here / "deep", os.O_RDONLY)
    while (names := os.listdir(fd)) == ["x" * 100]:
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, count = below, count + 1
    os.close(fd)
    assert (count, names) == (100, ["file"])
    for folder in (source, here / "deep"):  # pytest could not
        assert runtime.delete_dir(str(folder)) is True


MANAGER = """
import re, sys
from lazycluster import Runtime

def most_memory():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) >> 10

alias, config_file, source, there, small, back = sys.argv[1:]
runtime = Runtime(alias, there, {"config_file": config_file})
runtime.send_file(small)
runtime.get_file("small", back + "-small")
before = most_memory()
runtime.send_file(source, "big")
sent = most_memory()
runtime.get_file("big", back)
print(before, sent, most_memory())
runtime.cleanup()
"""


def test_memory_stays_flat(sshd, tmp_path):
    """A file of 100 MB takes no more of the manager's than a small one, save for some buffers."""
    piece = os.urandom(1 << 20)
    with open(tmp_path / "source", "wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4, "big") + piece[4:])
    (tmp_path / "small").write_text("hello")
    argv = [sys.executable, "-c", MANAGER, sshd.alias, str(sshd.config_file)]
    paths = [str(tmp_path / name) for name in ("source", "there", "small", "back")]
    process = subprocess.run([*argv, *paths], capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr
    before, sent, got = (int(word) for word in process.stdout.split())
    assert sent < before + 30
    assert got < before + 30
    assert filecmp.cmp(tmp_path / "source", tmp_path / "back", shallow=False)


# --- Bad endings ---


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
