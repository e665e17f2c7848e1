"""Facts about a host, its directories and its ports, over a real sshd."""

from __future__ import annotations

import errno
import logging
import os
import platform
import random
import shlex
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from lazycluster import Runtime
from lazycluster.exceptions import (
    ConnectionLostError,
    NoPortsLeftError,
    PathCreationError,
    TaskExecutionError,
)
from support.hosts import call, run
from support.interpreters import OWN_PYTHON
from support.machine import addresses, may_bind, needs_ipv6
from support.processes import await_gone
from support.waiting import wait_until

GPU = "GPU-4d0b1b5c-0000-0000-0000-00000000000"


@pytest.fixture
def there(runtime, tmp_path):
    """The working directory of `runtime` for one test."""
    runtime.working_dir = str(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def make_program(tmp_path):
    """Return a function that writes a program into a folder and returns the folder."""
    folder = tmp_path / "bin of the host"
    folder.mkdir()

    def make(name, *lines):
        (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (folder / name).chmod(0o755)
        return folder

    return make


@pytest.fixture
def with_program(make_sshd, make_runtime, make_program):
    """Return a function that makes a Runtime on a host with a program on its PATH."""

    def make(name, *lines):
        folder = make_program(name, *lines)
        return make_runtime(on=make_sshd(path=[folder, Path(sys.base_prefix) / "bin"]))

    return make


def test_info(runtime):
    """Its keys, and the types of their values."""
    kinds = {name: type(value) for name, value in runtime.info.items()}
    assert kinds == {
        "host": str,
        "os": str,
        "cpu_cores": int,
        "memory": int,
        "python_version": str,
        "gpus": list,
    }


def test_info_is_asked_for_once(own_runtime, requests):
    """One request, whatever is read and however often."""
    own_runtime.info  # noqa: B018 - it is the reading that counts
    own_runtime.print_info()
    own_runtime.check_filter(gpu_required=True, min_memory=1, min_cpu_cores=1)
    for name in ("os", "cpu_cores", "memory", "memory_in_mb", "python_version", "gpus"):
        getattr(own_runtime, name)
    assert own_runtime.gpu_count == len(own_runtime.gpus)
    assert requests == [["operation"]]


def test_info_is_not_asked_for_before(make_runtime, requests):
    """A Runtime sends no request before the first use."""
    run(make_runtime(), "true")
    assert requests == [["operation"], ["command"]]  # the working directory; the command


def test_info_is_a_copy(with_program):
    """Changes to it do not change the Runtime."""
    runtime = with_program("nvidia-smi", f"echo '0, A, {GPU}0, 1, 2'")
    info = runtime.info
    info["os"] = "mine"
    info["gpus"][0]["name"] = "mine"
    info["gpus"].clear()
    runtime.gpus.clear()
    assert runtime.os != "mine"
    assert runtime.info["gpus"][0]["name"] == "A"


def test_info_is_the_hosts(runtime):
    """The host is this computer, with another Python."""
    info = runtime.info
    assert info["host"] == runtime.host
    assert info["os"].startswith(f"{platform.system()}-{platform.release()}-{platform.machine()}")
    assert info["python_version"] == call(runtime, platform.python_version)
    assert 1 <= info["cpu_cores"] <= os.cpu_count()
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 24 < info["memory"] <= installed


def test_properties_are_the_info(runtime):
    """Each property has the entry of its name."""
    info = runtime.info
    for name in ("host", "os", "cpu_cores", "memory", "python_version", "gpus"):
        assert getattr(runtime, name) == info[name]
    assert runtime.gpu_count == len(info["gpus"])


def test_memory_in_mb(runtime):
    """A MB has 2**20 bytes; the number is rounded down."""
    assert runtime.memory_in_mb == runtime.memory // 2**20
    assert type(runtime.memory_in_mb) is int


def test_class_name(runtime, make_runtime, sshd):
    """A subclass has its own."""

    class MyRuntime(Runtime):
        pass

    assert runtime.class_name == "Runtime"
    mine = MyRuntime(sshd.alias, connection_kwargs={"config_file": sshd.config_file})
    assert mine.class_name == "MyRuntime"
    mine.cleanup()


def test_cores_are_those_that_may_be_used(with_program):
    """A process session bound to one core has one core."""
    cpu = min(os.sched_getaffinity(0))
    shell = f'exec taskset -c {cpu} {shlex.quote(OWN_PYTHON)} "$@"'
    runtime = with_program(f"python3.{sys.version_info[1]}", shell)
    assert runtime.cpu_cores == 1
    assert runtime.check_filter(min_cpu_cores=1) is True
    assert runtime.check_filter(min_cpu_cores=2) is False


def test_print_info(with_program, capsys):
    """A table with aligned values."""
    runtime = with_program("nvidia-smi", f"echo '0, My GPU, {GPU}0, 40960, 535.1'")
    runtime.print_info()
    lines = capsys.readouterr().out.splitlines()
    for value in (
        runtime.host,
        runtime.os,
        runtime.python_version,
        str(runtime.cpu_cores),
        f"{runtime.memory_in_mb} MB",
        "My GPU, 40960 MB",
    ):
        assert any(line.endswith(f"  {value}") for line in lines), value
    column = lines[0].index(runtime.host)
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)


def test_gpus(with_program):
    """They come from nvidia-smi on the host's PATH; a name may have commas, memory is in bytes."""
    runtime = with_program(
        "nvidia-smi",
        f"echo '0, NVIDIA A100-SXM4-40GB, {GPU}0, 40960, 535.104.05'",
        f"echo '1, One, or two, {GPU}1, [N/A], 535.104.05'",
    )
    assert runtime.gpus == [
        {
            "id": 0,
            "name": "NVIDIA A100-SXM4-40GB",
            "uuid": f"{GPU}0",
            "memory": 40960 << 20,
            "driver_version": "535.104.05",
        },
        {
            "id": 1,
            "name": "One, or two",
            "uuid": f"{GPU}1",
            "memory": None,
            "driver_version": "535.104.05",
        },
    ]
    assert runtime.gpu_count == 2
    assert runtime.check_filter(gpu_required=True) is True


def test_gpus_that_are_visible(with_program):
    """CUDA_VISIBLE_DEVICES of the Runtime counts."""
    lines = [f"echo '{number}, A, {GPU}{number}, 1, 2'" for number in range(3)]
    runtime = with_program("nvidia-smi", *lines)
    runtime.env_variables = {"CUDA_VISIBLE_DEVICES": "2,0"}
    assert [gpu["id"] for gpu in runtime.gpus] == [2, 0]


@pytest.mark.parametrize(
    "line",
    [
        "exit 9",
        "echo 'NVIDIA-SMI has failed because it could not communicate'",
        f"echo '0, A, {GPU}0, 1, 2'; exit 9",
        "kill -9 $$",
        r"printf '\377\376'",
    ],
)
def test_no_gpus(with_program, line):
    """An nvidia-smi that fails or prints something else means no GPU."""
    runtime = with_program("nvidia-smi", line)
    assert runtime.gpus == []
    assert runtime.gpu_count == 0
    assert runtime.check_filter(gpu_required=True) is False
    assert runtime.check_filter(gpu_required=False) is True


def test_no_filter(runtime):
    """Every host passes."""
    assert runtime.check_filter() is True
    assert runtime.check_filter(installed_executables=[], filter_commands=[]) is True


@pytest.mark.parametrize(("more", "whether"), [(-1, True), (0, True), (1, False)])
def test_least_memory_and_cores(runtime, more, whether):
    """A host with exactly the required amount passes."""
    assert runtime.check_filter(min_memory=runtime.memory_in_mb + more) is whether
    assert runtime.check_filter(min_cpu_cores=runtime.cpu_cores + more) is whether


def test_least_of_nothing(runtime):
    """0 requires nothing."""
    assert runtime.check_filter(min_memory=0, min_cpu_cores=0) is True


@pytest.mark.parametrize(
    ("names", "whether"),
    [
        ("sh", True),
        (["sh"], True),
        (("sh", "ls"), True),
        (["sh", "no-such-program"], False),
        (["no-such-program", "sh"], False),
        ("no-such-program", False),
        ("/bin/sh", True),
        ("/bin/no-such-program", False),
    ],
)
def test_installed_executables(runtime, names, whether):
    """All of them must be on the PATH."""
    assert runtime.check_filter(installed_executables=names) is whether


def test_executable_on_the_path_of_the_runtime(own_runtime, make_program):
    """The Runtime's PATH counts, and a name may have odd characters."""
    name = "-a 'b' $(x) *"
    folder = make_program(name, "true")
    assert own_runtime.check_filter(installed_executables=name) is False
    own_runtime.env_variables = {"PATH": f"{folder}:/usr/bin:/bin"}
    assert own_runtime.check_filter(installed_executables=name) is True


@pytest.mark.parametrize(
    "name",
    [
        "sh; touch owned",
        "$(touch owned)",
        "`touch owned`",
        "sh\ntouch owned",
        "sh || touch owned",
        "'; touch owned; '",
        '"; touch owned; "',
        "-v",
        "-p",
        "--",
        "sh ls",
        "s*",
        " ",
        "$SHELL",
    ],
)
def test_name_of_an_executable_is_only_a_name(runtime, there, name):
    """A shell does not read it."""
    assert runtime.check_filter(installed_executables=name) is False
    assert os.listdir(there) == []


@pytest.mark.parametrize("name", ["if", "export", "cd/", "/tmp", "/etc/passwd"])
def test_word_of_the_shell_is_no_executable(runtime, name):
    """Neither is a folder, nor a file without execute permission."""
    assert runtime.check_filter(installed_executables=name) is False


@pytest.mark.parametrize(
    ("commands", "whether"),
    [
        ("echo true", True),
        (["echo true"], True),
        (["echo true", "printf ' true \\n'"], True),
        (["echo true", "echo false"], False),
        (["exit 1", "echo true"], False),
        ("true", False),
        ("false", False),
        ("echo True", False),
        ("echo not true", False),
        ("echo untrue", False),
        ("echo noise; echo true", True),
        ("echo true; echo noise", False),
        ("echo noise >&2; echo true", True),
        ("echo true; exit 1", False),
        ("echo true; kill -9 $$", False),
        ("no-such-program", False),
        ("[ -d / ] && echo true", True),
        ("case x in", False),
        ("cat /dev/zero | head -c 3000000", False),
    ],
)
def test_filter_commands(runtime, commands, whether):
    """Each must succeed and print `true` last: start files may print before."""
    assert runtime.check_filter(filter_commands=commands) is whether


def test_filter_command_runs_in_the_working_directory(own_runtime):
    """It also has the Runtime's variables."""
    own_runtime.env_variables = {"WANTED": "true"}
    command = '[ "$PWD" = "$WORKING_DIR" ] && echo $WANTED'
    assert own_runtime.check_filter(filter_commands=command) is True


def test_a_filter_command_that_hangs_is_stopped_and_the_host_does_not_fit(
    runtime, tmp_path, caplog
):
    command = f"echo $$ > {tmp_path}/pid; sleep 600; echo true"
    assert runtime.check_filter(filter_commands=command, timeout=1) is False
    await_gone([int((tmp_path / "pid").read_text())])
    (message,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert message == f"{runtime.host} lacks what {command!r} looks for: timeout of 1 seconds."
    with pytest.raises(ValueError, match="Invalid timeout 0"):
        runtime.check_filter(timeout=0)


def test_all_filters_together(runtime):
    """One failing filter is enough."""
    good = {
        "min_memory": 1,
        "min_cpu_cores": 1,
        "installed_executables": "sh",
        "filter_commands": "echo true",
    }
    bad = {
        "min_memory": 1 << 40,
        "min_cpu_cores": 1 << 20,
        "installed_executables": "no-such-program",
        "filter_commands": "false",
    }
    assert runtime.check_filter(**good) is True
    assert [runtime.check_filter(**{**good, name: bad[name]}) for name in bad] == [False] * 4


def test_filter_that_is_an_empty_string(runtime):
    """It is none, as in lazycluster 0.2."""
    assert runtime.check_filter(installed_executables="", filter_commands="") is True


@pytest.mark.parametrize("empty", [[""], ["sh", ""]])
def test_empty_filter_in_a_list(runtime, empty):
    """It is a ValueError."""
    with pytest.raises(ValueError, match="empty"):
        runtime.check_filter(installed_executables=empty)
    with pytest.raises(ValueError, match="empty"):
        runtime.check_filter(filter_commands=empty)


def test_filters_are_none_of_the_tasks(own_runtime):
    """They leave no log and no process behind."""
    own_runtime.check_filter(installed_executables="sh", filter_commands="echo true")
    assert own_runtime.get_processes() == {}
    assert list(own_runtime._history) == []


def test_connection_lost_while_a_filter_runs(make_sshd, make_runtime):
    """Whether it passes is unknown, so it is an error and not False."""
    sshd = make_sshd()
    runtime = make_runtime(on=sshd)
    pids = " ".join(map(str, sshd.connection_pids()))
    with pytest.raises(TaskExecutionError) as caught:
        runtime.check_filter(filter_commands=f"kill -9 {pids}; sleep 600")
    assert isinstance(caught.value.__cause__, ConnectionLostError)


@pytest.mark.parametrize(
    "path", ["new", "new/", "./new", "new/../new", "./$HOME", "$HOMES", "a b", "-p", "ü", "*"]
)
def test_create_dir(runtime, there, path):
    """The path is relative to the working directory, and every name is literal."""
    runtime.create_dir(path)
    assert (there / os.path.normpath(path)).is_dir()
    assert len(os.listdir(there)) == 1


def test_create_dir_with_parents(runtime, there, tmp_path):
    """Missing parents are made."""
    runtime.create_dir("a/b/c")
    runtime.create_dir(f"{tmp_path}/x/y")
    assert (there / "a" / "b" / "c").is_dir()
    assert (tmp_path / "x" / "y").is_dir()


def test_create_dir_that_is_there(runtime, there):
    """It stays as it is."""
    (there / "old").mkdir()
    (there / "old" / "keep").touch()
    runtime.create_dir("old")
    assert os.listdir(there / "old") == ["keep"]


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
def test_create_dir_in_the_home_directory(runtime, there, sshd, home):
    """Only as the first characters, and as a whole name."""
    name = f"made-{os.urandom(4).hex()}"
    runtime.create_dir(f"{home}/{name}/{home}")
    assert (sshd.home / name / home).is_dir()
    assert os.listdir(there) == []


def test_path_of_a_dir_may_be_a_path_object(runtime, there):
    """As everywhere in Python."""
    runtime.create_dir(Path("a") / "b")
    assert (there / "a" / "b").is_dir()
    assert runtime.delete_dir(Path("a")) is True
    assert os.listdir(there) == []


def test_path_of_a_dir_is_not_bytes(runtime, no_process):
    """A TypeError that names the cure."""
    for method in (runtime.create_dir, runtime.delete_dir):
        with pytest.raises(TypeError, match="fsdecode"):
            method(b"new")


@pytest.mark.parametrize("path", ["file", "file/below", "file/a/b"])
def test_dir_that_cannot_be_created(runtime, there, path):
    """PathCreationError has the path, the host and the reason."""
    (there / "file").touch()
    with pytest.raises(PathCreationError, match=r"File exists|Not a directory") as caught:
        runtime.create_dir(path)
    assert caught.value.host == runtime.host
    assert caught.value.path.startswith(str(there / "file"))
    assert os.listdir(there) == ["file"]


def test_name_of_a_dir_that_is_too_long(runtime, there):
    """The error has the host's reason."""
    with pytest.raises(PathCreationError, match="too long"):
        runtime.create_dir("x" * 256)


@pytest.mark.parametrize("path", ["", "a\0b", "a\ud800"])
def test_path_that_is_none(runtime, path):
    """A ValueError."""
    with pytest.raises(ValueError, match="path"):
        runtime.create_dir(path)
    with pytest.raises(ValueError, match="path"):
        runtime.delete_dir(path)


def test_tempdir(own_runtime):
    """It is new, empty, private to the account, and removed with the Runtime."""
    paths = [own_runtime.create_tempdir() for _ in range(2)]
    assert len({*paths, own_runtime.working_dir}) == 3
    for path in paths:
        assert os.path.isabs(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert os.listdir(path) == []
    run(own_runtime, f"mkdir -p {paths[0]}/a/b; touch {paths[0]}/a/b/c; chmod 500 {paths[0]}/a/b")
    own_runtime.cleanup()
    assert not any(os.path.lexists(path) for path in paths)


def test_tempdir_goes_with_the_connection(make_sshd, make_runtime):
    """Also if the connection is lost."""
    sshd = make_sshd()
    path = make_runtime(on=sshd).create_tempdir()
    sshd.kill_connections()
    wait_until(lambda: not os.path.lexists(path))


def test_tempdir_can_be_deleted(own_runtime):
    """The user may delete it earlier."""
    assert own_runtime.delete_dir(own_runtime.create_tempdir()) is True
    own_runtime.cleanup()


@pytest.mark.parametrize("path", ["old", "./old/", "a/../old", "a/old"])
def test_delete_dir(runtime, there, path):
    """Its contents go too, also read-only folders; its siblings stay."""
    folder = there / path
    (there / "a").mkdir()
    (folder / "sub" / "locked").mkdir(parents=True)
    (folder / "sub" / "locked" / "file").touch()
    (folder / "sub" / "locked").chmod(0o500)
    (there / "beside").touch()
    assert runtime.delete_dir(path) is True
    assert not folder.exists()
    assert sorted(os.listdir(there)) == ["a", "beside"]
    assert runtime.delete_dir(path) is False


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
def test_delete_dir_in_the_home_directory(runtime, there, sshd, home):
    """As the first characters."""
    (sshd.home / "to be deleted").mkdir()
    assert runtime.delete_dir(f"{home}/to be deleted") is True
    assert not (sshd.home / "to be deleted").exists()


@pytest.mark.parametrize(
    "path", ["no-such-dir", "no/such/dir", "/no/such/dir", "~/no-such-dir", "*"]
)
def test_delete_dir_that_is_not_there(runtime, there, path):
    """It returns False, and nothing is deleted."""
    (there / "keep").mkdir()
    assert runtime.delete_dir(path) is False
    assert os.listdir(there) == ["keep"]


@pytest.mark.parametrize(
    "path", ["/", "//", "/.", "/..", "/tmp/..", "~", "~/", "~/.", "~/x/..", "$HOME", "${HOME}/"]
)
def test_f45_dir_that_is_never_deleted(runtime, there, sshd, path):
    """The root and the home directory are a ValueError."""
    (sshd.home / "keep").touch()
    with pytest.raises(ValueError, match="root or the home"):
        runtime.delete_dir(path)
    assert (sshd.home / "keep").exists()


def test_f45_home_directory_by_its_path_is_never_deleted(runtime, there, sshd):
    """Every spelling of its path is refused."""
    (sshd.home / "keep").touch()
    (there / "up").symlink_to(sshd.home.parent)
    for path in (str(sshd.home), f"{sshd.home}/", f"up/{sshd.home.name}"):
        with pytest.raises(ValueError, match="home"):
            runtime.delete_dir(path)
    assert (sshd.home / "keep").exists()


def test_f45_delete_dir_follows_no_link(runtime, there, tmp_path):
    """Links inside are deleted, their targets stay."""
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    (tmp_path / "outside" / "sub" / "keep").touch()
    (there / "old" / "sub").mkdir(parents=True)
    (there / "old" / "link").symlink_to(tmp_path / "outside")
    (there / "old" / "sub" / "link").symlink_to(tmp_path / "outside" / "sub")
    assert runtime.delete_dir("old") is True
    assert (tmp_path / "outside" / "sub" / "keep").exists()


@pytest.mark.parametrize("path", ["link", "link/"])
def test_delete_dir_of_a_link(runtime, there, path):
    """The link is deleted, its target stays."""
    (there / "outside").mkdir()
    (there / "outside" / "keep").touch()
    (there / "link").symlink_to("outside")
    assert runtime.delete_dir(path) is True
    assert not (there / "link").is_symlink()
    assert (there / "outside" / "keep").exists()


def test_delete_dir_says_what_stays_and_why(runtime, there, caplog):
    """One WARNING with the path and the reason; all else is deleted."""
    (there / "old" / "sub").mkdir(parents=True)
    (there / "file").touch()
    assert runtime.delete_dir("file") is False
    assert caplog.messages == [
        f"'file' was not deleted on {runtime.host}: {there}/file: {os.strerror(errno.ENOTDIR)}"
    ]
    caplog.clear()
    (there / "volume").mkdir()
    if subprocess.run(["mount", "--bind", there / "volume", there / "old" / "sub"]).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (there / "old" / "other").touch()
        assert runtime.delete_dir("old") is False
    finally:
        subprocess.run(["umount", there / "old" / "sub"], check=True)
    busy = f"{there}/old/sub: {os.strerror(errno.EBUSY)}"
    assert caplog.messages == [f"'old' was not deleted on {runtime.host}: {busy}"]
    assert os.listdir(there / "old") == ["sub"]


def test_delete_dir_of_a_link_to_nothing(runtime, there):
    """The link exists, so it is deleted."""
    (there / "link").symlink_to("/no/such/dir")
    assert runtime.delete_dir("link") is True
    assert os.listdir(there) == []


def free_port():
    """Return a free port outside the ephemeral range."""
    while True:
        port = random.randrange(20_000, 30_000)
        if may_bind("0.0.0.0", port) and (may_bind("::", port) or not may_bind("::")):
            return port


@pytest.fixture
def listen():
    """Return a function that listens on an address and a port until the test ends."""
    with ExitStack() as stack:

        def listen(port, address="127.0.0.1"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen()
            return listener

        yield listen


@pytest.mark.parametrize("address", addresses("127.0.0.1", "0.0.0.0", "::1", "::", "127.0.0.2"))
def test_f39_port_that_somebody_has(runtime, listen, address):
    """A listener on any address counts; the port is free before and after."""
    port = free_port()
    assert runtime.has_free_port(port) is True
    listener = listen(port, address)
    assert runtime.has_free_port(port) is False
    listener.close()
    assert runtime.has_free_port(port) is True


def test_f39_port_that_somebody_bound(runtime):
    """A bound port without a listener is not free."""
    port = free_port()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", port))
        assert runtime.has_free_port(port) is False


def test_question_for_a_port_leaves_it_free(runtime, listen):
    """A server can bind the port at once afterwards."""
    port = free_port()
    for _ in range(3):
        assert runtime.has_free_port(port) is True
    with socket.socket() as server:
        server.bind(("0.0.0.0", port))


def test_port_of_the_sshd_is_not_free(runtime, sshd):
    """The owner of the listener does not matter."""
    assert runtime.has_free_port(sshd.port) is False


@needs_ipv6
def test_free_port_is_the_first(runtime, listen, requests):
    """It is the first free one in the given order, found in one round trip."""
    ports = [free_port() for _ in range(4)]
    listen(ports[0])
    listen(ports[1], "::1")
    assert runtime.get_free_port(ports) == ports[2]
    assert requests == [["operation"]]
    assert runtime.get_free_port(ports[::-1]) == ports[3]


def test_free_port_of_a_range(runtime, listen):
    """Any iterable of numbers will do."""
    port = free_port()
    assert runtime.get_free_port(range(port, port + 1)) == port
    assert runtime.get_free_port((port,)) == port


def test_no_ports_left(runtime, listen):
    """The error names the host."""
    ports = [listen(free_port()).getsockname()[1] for _ in range(3)]
    with pytest.raises(NoPortsLeftError, match=runtime.host):
        runtime.get_free_port(ports)


def test_no_ports_at_all(runtime):
    """An empty list has no free port."""
    with pytest.raises(NoPortsLeftError):
        runtime.get_free_port([])


@pytest.mark.parametrize("port", [0, -1, 65_536, 1 << 70, "80", 80.0, None, True])
def test_bad_port(runtime, requests, port):
    """It is a ValueError that names the port, without a request."""
    with pytest.raises(ValueError, match="port"):
        runtime.has_free_port(port)
    with pytest.raises(ValueError, match="port"):
        runtime.get_free_port([free_port(), port])
    assert requests == []


@pytest.mark.parametrize("port", [1, 65_535])
def test_first_and_last_port(runtime, port):
    """1 and 65535 are valid."""
    assert runtime.has_free_port(port) in (True, False)


@pytest.mark.parametrize(
    ("required", "reason"),
    [
        ({"min_cpu_cores": 10**6}, "lacks 1000000 CPU cores, it has"),
        ({"min_memory": 10**9}, "lacks 1000000000 MB of memory, it has"),
        ({"installed_executables": "no-such-program"}, "lacks the program 'no-such-program'"),
        ({"filter_commands": "echo maybe"}, "its last line is 'maybe'"),
        ({"filter_commands": "exit 3"}, "exit status 3"),
    ],
)
def test_reason_of_a_refusal_is_logged(runtime, caplog, required, reason):
    """At INFO, since a filter is expected to refuse."""
    with caplog.at_level(logging.INFO, "lazycluster"):
        assert not runtime.check_filter(**required)
    assert reason in caplog.text
