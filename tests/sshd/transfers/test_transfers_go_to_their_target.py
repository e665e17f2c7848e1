"""Files and folders, both ways, over a real sshd: where they go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import FileTransferError, TaskExecutionError
from support.hosts import ended
from support.transfers import both_ways, copy_of, make_tree, picture

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
@pytest.mark.parametrize(("target", "path"), TARGETS_OF_A_FOLDER)
def test_target_of_a_folder(runtime, way, base, elsewhere, target, path):
    """The same rules."""
    (base / "folder").mkdir()
    (base / "link").symlink_to("folder")
    make_tree(elsewhere / "source")
    copy_of(elsewhere / "source", runtime, way, target)
    assert picture(base / path) == picture(elsewhere / "source")


TARGETS_OF_CONTENTS = [
    (None, "."),
    (".", "."),
    ("new", "new"),
    ("new/", "new"),
    ("a/b/new/.", "a/b/new"),
    ("folder", "folder"),
    ("folder/", "folder"),
    ("link", "folder"),
]


@both_ways
@pytest.mark.parametrize("end", ["/", "/.", "/sub/.."])
@pytest.mark.parametrize(("target", "path"), TARGETS_OF_CONTENTS)
def test_target_of_the_contents_of_a_folder(runtime, way, base, elsewhere, target, path, end):
    """As for rsync: a slash, or a dot, at the end of the source; and twice is as once."""
    for folder in (base, base / "folder"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    make_tree(elsewhere / "source")
    if path == "folder":
        (base / "link").symlink_to("folder")
    else:
        (base / "folder").rmdir()
    for _ in range(2):
        copy_of(f"{elsewhere}/source{end}", runtime, way, target)
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


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
def test_home_directory_has_no_name_for_a_copy(runtime, there, here, home):
    """It is not called `$HOME` here."""
    with pytest.raises(TaskExecutionError, match=r"no name for its copy.*with a slash at the end"):
        runtime.get_file(home)
    assert not any(here.iterdir())


@pytest.mark.parametrize("home", ["~/", "$HOME/.", "${HOME}/"])
def test_contents_of_the_home_directory(runtime, sshd, there, here, home):
    """They need no name."""
    name = f"in-home-{os.urandom(4).hex()}"
    (sshd.home / name).write_text("hello")
    runtime.get_file(home, "home")
    assert (here / "home" / name).read_text() == "hello"


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
    """`.` means what is in it, as for rsync."""
    (here / "file").write_text("hello")
    runtime.send_file(".")
    assert os.listdir(there) == ["file"]


def test_working_directory(runtime, here, there):
    """The same in the other direction, and again."""
    (there / "file").write_text("hello")
    for _ in range(2):
        runtime.get_file(".", "copy")
        assert os.listdir(here / "copy") == ["file"]
    runtime.get_file(".")
    assert sorted(os.listdir(here)) == ["copy", "file"]


@both_ways
@pytest.mark.parametrize("end", ["/", "/."])
def test_contents_of_a_file(runtime, way, base, elsewhere, end):
    """It has none."""
    (elsewhere / "file").write_text("hello")
    with pytest.raises(FileTransferError) as caught:
        copy_of(f"{elsewhere}/file{end}", runtime, way, "new")
    assert caught.value.errno == errno.ENOTDIR
    assert os.listdir(base) == []


def test_empty_target_is_the_default(runtime, here, there):
    """As in 0.2."""
    (here / "a").write_text("a")
    runtime.send_file("a", "")
    assert (there / "a").read_text() == "a"
    (here / "a").unlink()
    runtime.get_file("a", "")
    assert (here / "a").read_text() == "a"


@pytest.mark.parametrize("path", ["", "a\0b", "a\ud800"])
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
