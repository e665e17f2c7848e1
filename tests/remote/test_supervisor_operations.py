"""Operations: folders made and removed on the host, by names that are taken literally."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import tempfile

import pytest

from support.pipe_host import operation
from support.waiting import wait_until


@pytest.fixture
def operate(host):
    """Does one operation; how it ended."""

    def operate(name, **arguments):
        return host.run(operation(name, **arguments)).ended[0]

    return operate


NAMES = ["plain", "with blank", "Zoë ☃", "not utf-8 \udcff", "$HOME `x` *", "-rf", "a\nb"]


# --- make_directory ---


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_directory_is_made(name, operate, tmp_path):
    """With those above it; its absolute path is the result."""
    path = str(tmp_path / "above" / name)
    assert operate("make_directory", path=path) == {"step": 0, "result": path, "exit_status": 0}
    assert os.path.isdir(path)


def test_names_need_no_locale(make_host, host_python, tmp_path):
    """On a host where no locale is set they are bytes all the same."""
    host = make_host(host_python, environment={"LANG": None})
    path = str(tmp_path / "Zoë ☃")
    assert host.run(operation("make_directory", path=path)).ended[0].get("result") == path
    assert os.path.isdir(path)
    assert host.run(operation("remove_tree", path=path)).ended[0].get("result") is True
    assert not os.path.exists(path)


def test_errors_need_no_locale(make_host, host_python, tmp_path):
    """The path that is told is the one that was meant."""
    host = make_host(host_python, environment={"LANG": None})
    path = str(tmp_path / "Zoë ☃")
    ended = host.run_command("echo started", working_dir=path).ended[0]
    assert (ended["failure"], ended["path"]) == ("os", path)
    ended = host.run(operation("make_directory", path="x"), working_dir=path).ended[0]
    assert (ended["failure"], ended["path"]) == ("os", path)


def test_a_directory_that_is_there_is_fine(operate, tmp_path):
    """It is left as it is."""
    (tmp_path / "file").write_text("kept")
    assert operate("make_directory", path=str(tmp_path))["result"] == str(tmp_path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_tilde_is_the_home_directory(make_host, host_python, tmp_path):
    """As the first character, and only there."""
    host = make_host(host_python)
    ended = host.run(operation("make_directory", path="~/new/~")).ended[0]
    assert ended["result"] == str(tmp_path / "new" / "~")
    assert (tmp_path / "new" / "~").is_dir()


def test_a_relative_directory_is_made_in_the_working_directory(host, tmp_path):
    """As a command would make it."""
    path = os.path.realpath(tmp_path)
    asked = host.run(operation("make_directory", path="new"), working_dir=path)
    assert asked.ended[0]["result"] == os.path.join(path, "new")


def test_a_relative_directory_below_a_link_keeps_the_link_in_its_path(host, tmp_path):
    """The working directory is taken as it was written."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    path = str(tmp_path / "link")
    asked = host.run(operation("make_directory", path="new"), working_dir=path)
    assert asked.ended[0]["result"] == os.path.join(path, "new")
    asked = host.run(operation("expand_variables", text="$PWD"), working_dir=path)
    assert asked.ended[0]["result"] == path


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
def test_the_home_directory_may_be_a_variable(home, make_host, host_python, tmp_path):
    """At the start of a path, alone or before a slash."""
    host = make_host(host_python)
    ended = host.run(operation("make_directory", path=f"{home}/new")).ended[0]
    assert ended["result"] == str(tmp_path / "new")
    ended = host.run(operation("delete_directory", path=home)).ended[0]
    assert ended["result"] is None
    ended = host.run(operation("delete_directory", path=f"{home}/new")).ended[0]
    assert ended["result"] is True


def test_what_is_in_the_way_is_named(operate, tmp_path):
    """A file of that name, with its path and errno."""
    (tmp_path / "file").touch()
    ended = operate("make_directory", path=str(tmp_path / "file"))
    assert (ended["failure"], ended["errno"]) == ("os", errno.EEXIST)
    assert ended["path"] == str(tmp_path / "file")
    assert ended["message"] == os.strerror(errno.EEXIST)
    ended = operate("make_directory", path=str(tmp_path / "file" / "below"))
    assert (ended["failure"], ended["errno"]) == ("os", errno.ENOTDIR)


# --- make_private_directory ---


def test_a_private_directory_is_new_and_private(make_host, host_python, temporary):
    """Only the account can enter it, and no two are the same."""
    host = make_host(host_python)
    paths = [host.run(operation("make_private_directory")).ended[0]["result"] for _ in range(2)]
    assert len(set(paths)) == 2
    for path in paths:
        assert os.path.dirname(path) == str(temporary)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_a_private_directory_goes_with_the_connection(new_host):
    """With all that is in it."""
    path = new_host.run(operation("make_private_directory")).ended[0]["result"]
    new_host.run_command("mkdir -p a/b; touch a/b/c; chmod 500 a/b", working_dir=path)
    new_host.close_stdin()
    new_host.wait_for_end()
    assert not os.path.exists(path)


def test_a_private_directory_is_made_whatever_the_umask(make_host, own_python, temporary):
    """A umask may take rights away from the account itself."""
    host = make_host(own_python, under=["/bin/sh", "-c", 'umask 077; exec "$@"', "sh"])
    path = host.run(operation("make_private_directory")).ended[0]["result"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_a_tmpdir_that_is_missing_is_passed_over(make_host, host_python):
    """As Python's own tempfile does."""
    host = make_host(host_python, environment={"TMPDIR": "/nonexistent"})
    path = host.run(operation("make_private_directory")).ended[0]["result"]
    assert os.path.dirname(path) == "/tmp"


# --- remove_tree ---


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_tree_is_removed(name, operate, tmp_path):
    """With all that is in it."""
    path = tmp_path / name
    (path / name / "below").mkdir(parents=True)
    (path / name / "file").touch()
    assert operate("remove_tree", path=str(path))["result"] is True
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_tree_is_not_followed(operate, tmp_path):
    """It goes; where it led to stays."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "folder").symlink_to(tmp_path / "kept")
    (tmp_path / "tree" / "file").symlink_to(tmp_path / "kept" / "file")
    (tmp_path / "tree" / "broken").symlink_to("nowhere")
    assert operate("remove_tree", path=str(tmp_path / "tree"))["result"] is True
    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "kept" / "file").exists()


def test_a_link_to_a_tree_is_not_followed(operate, tmp_path):
    """Where it leads to stays."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    operate("remove_tree", path=str(tmp_path / "link"))
    assert (tmp_path / "kept" / "file").exists()


def test_what_stays_is_told(operate):
    """The result is False where something could not be removed."""
    assert operate("remove_tree", path="/proc/self/fdinfo")["result"] is False


def test_a_file_is_removed_too(operate, tmp_path):
    """A copy that is not whole yet may be one."""
    (tmp_path / "file").touch()
    assert operate("remove_tree", path=str(tmp_path / "file"))["result"] is True
    assert not (tmp_path / "file").exists()


def test_a_private_directory_that_was_removed_is_forgotten(new_host):
    """The connection does not remove a directory of this name that a user makes later."""
    path = new_host.run(operation("make_private_directory")).ended[0]["result"]
    assert new_host.run(operation("remove_tree", path=path)).ended[0]["result"] is True
    os.mkdir(path)
    new_host.close_stdin()
    new_host.wait_for_end()
    assert os.path.isdir(path)
    os.rmdir(path)


def test_operations_are_steps_like_others(host, tmp_path):
    """One that fails is the last."""
    (tmp_path / "file").touch()
    asked = host.run(
        operation("make_directory", path=str(tmp_path / "new")),
        operation("make_directory", path=str(tmp_path / "file")),
        operation("make_directory", path=str(tmp_path / "newer")),
    )
    assert [ended["exit_status"] for ended in asked.ended] == [0, 1]
    assert not (tmp_path / "newer").exists()


# --- expand_variables ---


def test_variables_are_those_of_the_step(host, tmp_path):
    """Of its environment and its directory; bytes that are not UTF-8 are kept."""
    path = os.path.realpath(tmp_path)
    step = operation("expand_variables", text="$NAME|${PWD}|$(id)|☃")
    asked = host.run(step, working_dir=path, environment={"NAME": "\udcff ☃"})
    assert asked.ended[0].get("result") == f"\udcff ☃|{path}|$(id)|☃"


# --- the sockets of forwards ---


@pytest.fixture
def make_socket(short_path):
    """Bind a socket as sshd does, and leave it."""

    def make_socket(name="Zoë"):
        path = os.path.join(short_path, name)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
        return path

    return make_socket


@pytest.fixture
def short_path():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lctest-") as folder:
        yield folder


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_the_socket_of_a_forward_goes_with_the_connection(
    new_host, make_socket, short_path, known, killed
):
    """Also if the supervisor is killed, or the socket has been made after its last news."""
    path = os.path.join(short_path, "Zoë")
    assert new_host.run(operation("expect_socket", path=path)).ended[0]["result"] is True
    make_socket()
    if known:
        found = new_host.run(operation("socket_identity", path=path)).ended[0]["result"]
        assert found[1] == os.lstat(path).st_ino
    if killed:
        os.kill(new_host.wait_for_hello()["pid"], signal.SIGKILL)
    else:
        new_host.close_stdin()
        new_host.wait_for_end()
    wait_until(lambda: not os.listdir(short_path))


@pytest.mark.parametrize("end", ["replaced", "forgotten", "removed", "taken"])
def test_a_socket_of_another_program_stays(new_host, make_socket, short_path, end):
    path = os.path.join(short_path, "Zoë")
    if end == "taken":
        make_socket()
    free = new_host.run(operation("expect_socket", path=path)).ended[0]["result"]
    assert free == (end != "taken")
    if end == "forgotten":
        new_host.run(operation("forget_socket", path=path))
    elif end != "taken":
        make_socket()
        identity = new_host.run(operation("socket_identity", path=path)).ended[0]["result"]
        if end == "removed":
            step = operation("remove_socket", path=path, identity=identity)
            assert new_host.run(step).ended[0]["result"] is True
            assert not os.path.exists(path)
        else:
            os.rename(make_socket("another"), path)
            os.utime(path, ns=(0, 0))
    if end in ("forgotten", "removed"):
        make_socket()
    new_host.close_stdin()
    new_host.wait_for_end()
    assert os.listdir(short_path) == ["Zoë"]
