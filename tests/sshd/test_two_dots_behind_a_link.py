"""`current -> releases/5`: `current/../shared` is `releases/shared`, in every operation.

As text it would be the folder `shared` beside the link, which each test has, too.
"""

from __future__ import annotations

import os

import pytest

from lazycluster import Connection, Environment, RuntimeTask
from lazycluster.exceptions import FileTransferError
from support.hosts import commands, run
from support.transfers import both_ways, copy_of

RIGHT = "releases/shared"
WRONG = "shared"


def make_releases(folder):
    """What a deployment has; each file says in which folder it is."""
    (folder / "releases" / "5").mkdir(parents=True)
    (folder / "current").symlink_to("releases/5")
    for name in (RIGHT, WRONG):
        (folder / name / "sub").mkdir(parents=True)
        (folder / name / "file").write_text(name)
        (folder / name / "sub" / "file").write_text(name)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the manager is in."""
    make_releases(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def there(runtime, tmp_path):
    """The working directory of `runtime`."""
    make_releases(tmp_path / "there")
    runtime.working_dir = str(tmp_path / "there")
    return tmp_path / "there"


@both_ways
def test_source_of_a_copy(runtime, way, here, there):
    """A file, and a folder, which has its own name in the target."""
    base = there if way == "send" else here
    copy_of("current/../shared/file", runtime, way, "new")
    copy_of("current/../shared/sub", runtime, way, "releases/5")
    assert (base / "new").read_text() == RIGHT
    assert (base / "releases/5/sub/file").read_text() == RIGHT


@both_ways
@pytest.mark.parametrize("target", ["current/../shared/new", "current/../shared"])
def test_target_of_a_copy(runtime, way, here, there, target, tmp_path):
    """A name in that folder, and the folder."""
    base = there if way == "send" else here
    (tmp_path / "new").write_text("new")
    copy_of(tmp_path / "new", runtime, way, target)
    assert (base / RIGHT / "new").read_text() == "new"
    assert not (base / WRONG / "new").exists()


@both_ways
@pytest.mark.parametrize("path", ["missing/../shared/file", "shared/file/../file"])
def test_two_dots_behind_what_is_no_folder(runtime, way, here, there, path):
    """An error with the system's reason, as for each command."""
    with pytest.raises(FileTransferError, match=r"does not exist|Not a directory"):
        copy_of(path, runtime, way, "new")


def test_source_is_looked_for_when_the_task_is_executed(runtime, here, there):
    """A definition takes the folder that the manager is in, but no link on the way."""
    task = RuntimeTask("send").send_file("current/../shared/file", "new")
    (here / "current").unlink()
    (here / "current").symlink_to("releases")
    runtime.execute_task(task, execute_async=False)
    assert (there / "new").read_text() == WRONG


def test_delete_dir(runtime, there):
    """What `rm -r` would delete is gone, and nothing else."""
    assert runtime.delete_dir("current/../shared") is True
    assert not (there / RIGHT).exists()
    assert (there / WRONG / "sub" / "file").read_text() == WRONG


@pytest.mark.parametrize("path", ["missing/../shared", "shared/file/../sub"])
def test_delete_dir_behind_what_is_no_folder(runtime, there, path):
    """There is no such folder, as for `rm -r`."""
    assert runtime.delete_dir(path) is False
    assert (there / WRONG / "sub" / "file").exists()


@pytest.mark.parametrize("path", [".", "./", "sub/.", "sub/..", "current/..", "../here/.//"])
def test_delete_dir_refuses_what_rm_refuses(runtime, there, path):
    """The name of a directory is needed: whose contents these are is easily mistaken."""
    (there / "sub").mkdir()
    with pytest.raises(ValueError, match=r"ends with '\.' or '\.\.'"):
        runtime.delete_dir(path)
    assert (there / RIGHT / "file").exists()
    assert (there / WRONG / "file").exists()


def test_f45_home_and_root_are_refused_behind_links_and_two_dots(runtime, there, sshd):
    """However they are written."""
    (sshd.home / "below" / "deep").mkdir(parents=True)
    (there / "deep").symlink_to(sshd.home / "below" / "deep")
    (there / "root").symlink_to("/")
    (there / "home").symlink_to(sshd.home)
    above = os.path.relpath(sshd.home.parent, sshd.home / "below" / "deep")
    ups = "/".join([".."] * 99)
    for path in (
        f"deep/{above}/{sshd.home.name}",
        f"~/../{sshd.home.name}/",
        f"deep/{ups}{sshd.home}",
        "home",
        "home/",
        "root",
        "root//",
    ):
        with pytest.raises(ValueError, match="root or the home"):
            runtime.delete_dir(path)
    assert (sshd.home / "below" / "deep").exists()


def test_create_dir(runtime, there):
    """Missing parents, too."""
    runtime.create_dir("current/../shared/a/b")
    assert (there / RIGHT / "a" / "b").is_dir()
    assert not (there / WRONG / "a").exists()


def test_working_directory_and_its_pwd(make_runtime, there):
    """Resolved, since no shell takes a PWD with two dots."""
    for runtime in (make_runtime(f"{there}/current/../shared"), make_runtime()):
        runtime.working_dir = f"{there}/current/../shared"
        assert runtime.working_dir == runtime.echo("$PWD") == str(there / RIGHT)
        assert run(runtime, "pwd; cat file") == [f"{there / RIGHT}\n{RIGHT}"]


def test_directory_of_one_command(runtime, there):
    """`cwd=` begins at the working directory."""
    assert runtime.run("cat file", cwd="current/../shared").stdout == RIGHT
    assert runtime.run("cat ../shared/file", cwd="current").stdout == RIGHT


def test_temporary_directory_stays_while_the_working_directory_is_in_it(own_runtime, tmp_path):
    """Also if the path leads into it by a link."""
    temporary = own_runtime.working_dir
    (tmp_path / "link").symlink_to(os.path.dirname(temporary))
    own_runtime.working_dir = f"{tmp_path}/link/{os.path.basename(temporary)}/sub"
    assert run(own_runtime, "echo kept > file; cat file") == ["kept\n"]
    own_runtime.working_dir = f"{tmp_path}/other"
    assert run(own_runtime, "pwd") == [f"{tmp_path}/other\n"]
    assert os.listdir(temporary) == []


def test_copies_with_scp(connection, here, there):
    """Both sides of both ways."""
    connection.send("current/../shared/file", f"{there}/current/../shared/new")
    assert (there / RIGHT / "new").read_text() == RIGHT
    connection.get(f"{there}/current/../shared/new", "current/../shared/back")
    assert (here / RIGHT / "back").read_text() == RIGHT
    assert not (there / WRONG / "new").exists()
    assert not (here / WRONG / "back").exists()


def test_files_of_a_login(sshd, here):
    """The config and the key are those that ssh itself would read."""
    for name, path in (("config", sshd.config_file), ("key", sshd.user_key)):
        os.symlink(path, here / RIGHT / name)
        (here / WRONG / name).write_text("Nothing of the kind\n")
    connection = Connection(
        sshd.alias,
        config_file="current/../shared/config",
        identity_file="current/../shared/key",
    )
    with connection:
        assert commands("echo hi").execute(connection).execution_log == ["hi\n"]


def test_folder_of_the_logs(runtime, here, monkeypatch):
    """The main directory, however it is set."""
    monkeypatch.setattr("lazycluster._tasks.log_files._chosen", None)
    monkeypatch.setenv("LAZYCLUSTER_HOME", "current/../shared/by variable")
    runtime.execute_task(commands("echo hi"), execute_async=False)
    Environment.main_directory = "current/../shared/chosen"
    runtime.execute_task(commands("echo hi"), execute_async=False)
    assert sorted(os.listdir(here / RIGHT)) == ["by variable", "chosen", "file", "sub"]
    assert sorted(os.listdir(here / WRONG)) == ["file", "sub"]
