"""RuntimeManager on loopback: which hosts there are, and groups of those that fit."""

from __future__ import annotations

import pickle
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lazycluster import (
    InvalidRuntimeError,
    NoRuntimesDetectedError,
    Runtime,
    RuntimeGroup,
    RuntimeManager,
    exceptions,
)
from lazycluster._ssh import config_hosts
from loopback_sshd import LoopbackSshd

REFUSED = "Host refused\n  HostName 127.0.0.1\n  Port 1\n"


def block(names: str, sshd: LoopbackSshd) -> str:
    """Return the part of an ssh_config that has names of an sshd."""
    return sshd.config_file.read_text().replace(f"Host {sshd.alias}\n", f"Host {names}\n")


@pytest.fixture(scope="module")
def config(sshd, make_separate_sshd, tmp_path_factory) -> str:
    """Return an ssh_config: web1, also called again; an odd name; refused; gpu1."""
    folder = tmp_path_factory.mktemp("manager")
    (folder / "more").write_text(block("gpu1", make_separate_sshd()))
    path = folder / "ssh_config"
    path.write_text(
        "".join(
            [
                block("web1 again", sshd),
                "Host -oProxyCommand=x web* !no\n",
                REFUSED,
                f"Match all\nInclude {folder / 'more'}\n",
            ]
        )
    )
    return str(path)


@pytest.fixture(scope="module")
def manager(config) -> Iterator[RuntimeManager]:
    """Return the manager of all tests that leave it as it is."""
    with RuntimeManager(config, connect_timeout=150) as manager:
        yield manager


@pytest.fixture
def make_manager(tmp_path) -> Iterator:
    """Return a function that makes a manager for a ssh_config with a text."""
    with ExitStack() as stack:

        def make(text: str, **keywords) -> RuntimeManager:
            path = tmp_path / "ssh_config"
            path.write_text(text)
            keywords.setdefault("connect_timeout", 150)
            return stack.enter_context(RuntimeManager(path, **keywords))

        yield make


def test_names_that_can_be_used_are_hosts_and_each_machine_is_one(manager):
    assert manager.hosts == [runtime.host for runtime in manager.runtimes] == ["web1", "gpu1"]
    assert str(manager) == (
        "RuntimeManager: Runtime: web1, Runtime: gpu1; inactive: -oProxyCommand=x, refused"
    )
    assert repr(manager) == "<RuntimeManager of web1,gpu1, 2 inactive>"


def test_a_name_that_is_refused_hides_no_other_name_of_its_host(sshd, make_manager, tmp_path):
    """The key may be that of another name, and so may the file with the host's key."""
    (tmp_path / "empty").touch()
    keyless = block("keyless", sshd).replace(str(sshd.user_key), str(tmp_path / "none"))
    unknown = block("unknown", sshd).replace(str(sshd.known_hosts), str(tmp_path / "empty"))
    manager = make_manager(keyless + unknown + block("good", sshd) + block("again", sshd))
    assert manager.hosts == ["good"]
    assert manager.inactive_hosts == ["keyless", "unknown"]
    assert manager.create_group(include_hosts="good").hosts == ["good"]
    with pytest.raises(ValueError, match="'again' is called 'good'"):
        manager.create_group(include_hosts="again")


def test_an_odd_name_and_a_host_that_refuses_are_inactive_with_their_reasons(manager):
    assert manager.inactive_hosts == list(manager.errors) == ["-oProxyCommand=x", "refused"]
    assert "begins with '-'" in str(manager.errors["-oProxyCommand=x"])
    assert isinstance(manager.errors["refused"], InvalidRuntimeError)
    assert "refused" in str(manager.errors["refused"])


def test_a_group_shares_the_runtimes_and_leaves_them_open(manager):
    with manager.create_group() as group:
        assert isinstance(group, RuntimeGroup)
        assert group.runtimes == manager.runtimes
    assert [runtime.run("echo on").stdout for runtime in manager.runtimes] == ["on\n", "on\n"]


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ({"include_hosts": "gpu1"}, ["gpu1"]),
        ({"include_hosts": ["gpu1", "web1"]}, ["web1", "gpu1"]),
        ({"exclude_hosts": "gpu1"}, ["web1"]),
        ({"exclude_hosts": ["gpu1", "unknown"]}, ["web1"]),
        ({"min_cpu_cores": 1, "min_memory": 1, "installed_executables": "sh"}, ["web1", "gpu1"]),
        ({"filter_commands": ["true", "echo true"]}, None),
        ({"filter_commands": "echo true", "include_hosts": ("web1",)}, ["web1"]),
    ],
)
def test_filters_choose(manager, arguments, hosts):
    if hosts is None:  # `true` prints nothing
        with pytest.raises(NoRuntimesDetectedError):
            manager.create_group(**arguments)
    else:
        assert manager.create_group(**arguments).hosts == hosts


def test_all_logins_and_all_filters_run_at_the_same_time(config, monkeypatch):
    """Each waits for the other one: one after the other, none would come to its end."""
    barrier = threading.Barrier(2)

    class Waiting(Runtime):
        def is_valid_runtime(self):
            barrier.wait(60)
            return True

        def _find_lacks(self, **filters):
            barrier.wait(60)
            return super()._find_lacks(**filters)

    monkeypatch.setattr("lazycluster.manager.Runtime", Waiting)
    with RuntimeManager(config, connect_timeout=150) as manager:
        assert manager.create_group(installed_executables="sh").hosts == ["web1", "gpu1"]


def test_what_none_has_names_the_filters_and_how_many_each_left_out(manager):
    with pytest.raises(NoRuntimesDetectedError) as caught:
        manager.create_group(
            installed_executables=["sh", "no-such-program"],
            filter_commands='test "$NAME" = gpu && echo true',
        )
    assert str(caught.value).splitlines() == [
        "No host is left of 2.",
        "  installed_executables leaves out 2 of 2:",
        "    web1,gpu1: lacks the program 'no-such-program'",
        "  filter_commands leaves out 2 of 2:",
        """    web1,gpu1: lacks what 'test "$NAME" = gpu && echo true' looks for: exit status 1""",
    ]
    with pytest.raises(NoRuntimesDetectedError, match=r"min_cpu_cores leaves out 1 of 1"):
        manager.create_group("web1", min_cpu_cores=100_000)
    with pytest.raises(NoRuntimesDetectedError, match="exclude_hosts leaves out all hosts"):
        manager.create_group(exclude_hosts=["web1", "gpu1"])


def test_a_host_that_does_not_answer_is_left_out_and_the_reason_said(manager, monkeypatch, caplog):
    def fail(**_):
        raise exceptions.ConnectionLostError("The connection ended.", host="web1")

    monkeypatch.setattr(manager.runtimes[0], "_find_lacks", fail)
    assert manager.create_group().hosts == ["gpu1"]
    assert "web1 is left out of the group: The connection ended." in caplog.messages
    with pytest.raises(NoRuntimesDetectedError, match="1 of 1 did not answer:\n    web1: The conn"):
        manager.create_group("web1")


def test_a_host_on_which_a_filter_command_hangs_does_not_fit(manager, monkeypatch, caplog):
    """The other one may take as long as it needs here; by default each has a minute."""
    hangs, other = manager.runtimes
    given = []
    find_lacks = other._find_lacks

    def find_patiently(**filters):
        given.append(filters["timeout"])
        return find_lacks(**{**filters, "timeout": None})

    monkeypatch.setattr(other, "_find_lacks", find_patiently)
    monkeypatch.setitem(hangs.env_variables, "SECONDS_", "600")
    command = "sleep ${SECONDS_:-0}; echo true"
    assert manager.create_group(filter_commands=command, timeout=1).hosts == [other.host]
    reason = f"lacks what {command!r} looks for: timeout of 1 seconds"
    assert f"{hangs.host} {reason}." in caplog.messages
    with pytest.raises(NoRuntimesDetectedError, match="1 of 1") as caught:
        manager.create_group(hangs.host, filter_commands=command, timeout=1)
    assert reason in str(caught.value)
    assert manager.create_group(filter_commands="echo true").hosts == manager.hosts
    assert given == [1, 60]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"include_hosts": "web9"}, ValueError, "'web9' is not in ssh_config, which has web1,"),
        ({"include_hosts": ["web1", "again"]}, ValueError, "'again' is called 'web1' here"),
        ({"include_hosts": "refused"}, ValueError, "'refused' is inactive: .*refused"),
        ({"include_hosts": "web1", "exclude_hosts": "gpu1"}, ValueError, "not both"),
        ({"min_memory": "4"}, TypeError, "min_memory must be a number"),
        ({"min_cpu_cores": True}, TypeError, "min_cpu_cores must be a number"),
        ({"gpu_required": "yes"}, TypeError, "gpu_required must be"),
        ({"installed_executables": [""]}, ValueError, "name of an executable"),
        ({"filter_commands": ["true", " "]}, ValueError, "command"),
        ({"working_dir": "a\0b"}, ValueError, "working directory"),
        ({"timeout": 0}, ValueError, "Invalid timeout 0"),
    ],
)
def test_bad_input_is_an_error_before_a_host_is_asked(manager, arguments, error, text, no_process):
    with pytest.raises(error, match=text):
        manager.create_group(**arguments)


def test_the_working_directory_is_that_of_the_hosts_of_the_group(sshd, make_manager, tmp_path):
    manager = make_manager(block("web1", sshd))
    group = manager.create_group(working_dir=str(tmp_path / "there"))
    assert group.run("pwd")["web1"].stdout == f"{tmp_path}/there\n"
    assert manager.create_group().run("pwd").ok["web1"].stdout == f"{tmp_path}/there\n"


def test_hosts_and_tables_are_printed(manager, capsys):
    manager.print_hosts()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["2 Runtimes, 2 inactive", "web1", "gpu1"]
    assert lines[3].startswith("-oProxyCommand=x (inactive): ValueError: Invalid host")
    assert lines[4].startswith("refused (inactive): ")
    manager.print_inactive_hosts()
    assert capsys.readouterr().out.splitlines() == lines[3:]
    manager.print_runtime_info()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == lines[0]
    assert [line.split()[1] for line in printed if line.startswith("host ")] == ["web1", "gpu1"]
    assert printed[-2:] == lines[3:]


def test_cleanup_closes_the_runtimes_of_all_groups_and_a_script_need_not_keep_the_manager(
    config, sshd, make_manager, nothing_left
):
    manager = make_manager(block("web1", sshd))
    group = manager.create_group()
    assert group.run("echo on").ok["web1"].stdout == "on\n"
    manager.cleanup()
    manager.cleanup()
    nothing_left()
    group = RuntimeManager(config, connect_timeout=150).create_group("web1")
    assert group.run("echo on").ok["web1"].stdout == "on\n"
    for runtime in group:
        runtime.cleanup()


def test_a_manager_stays_here(manager):
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(manager)


def test_without_a_host_that_can_be_used_create_group_says_why(make_manager):
    manager = make_manager(REFUSED + REFUSED.replace("refused", "closed").replace("t 1", "t 2"))
    assert manager.hosts == []
    assert manager.inactive_hosts == ["refused", "closed"]
    with pytest.raises(NoRuntimesDetectedError) as caught:
        manager.create_group()
    assert str(caught.value).startswith("ssh_config names 2 hosts, of which none can be used.\n  ")
    assert "refused" in str(caught.value)
    with pytest.raises(ValueError, match="'web9' is not in ssh_config"):
        manager.create_group("web9")


def test_what_ssh_refuses_is_an_inactive_host_and_the_others_go_on(sshd, make_manager):
    """Of an alias with a value that only ssh can judge, the login says why."""
    odd = "Host odd\n  HostName two..dots%q\n"
    manager = make_manager(odd + block("web1", sshd) + "Host unknown.invalid\n")
    assert manager.hosts == ["web1"]
    assert manager.inactive_hosts == ["odd", "unknown.invalid"]
    assert all(str(error) for error in manager.errors.values())


def test_a_file_that_ssh_refuses_makes_all_hosts_inactive(sshd, make_manager):
    manager = make_manager(block("web1", sshd) + "Match garbage\n")
    assert manager.inactive_hosts == ["web1"]
    assert "Match" in str(manager.errors["web1"])


def test_no_login_asks_for_anything(sshd, make_manager, tmp_path, monkeypatch):
    """Neither askpass nor the terminal: a key with a passphrase and an unknown host key fail."""
    asked = tmp_path / "asked"
    askpass = tmp_path / "askpass"
    askpass.write_text(f"#!/bin/sh\ntouch {asked}\necho yes\n")
    askpass.chmod(askpass.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SSH_ASKPASS", str(askpass))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("DISPLAY", ":0")
    unknown = f"Host unknown\n  UserKnownHostsFile {tmp_path}/none\n  StrictHostKeyChecking ask\n"
    manager = make_manager(unknown + block("unknown", sshd))
    assert manager.inactive_hosts == ["unknown"]
    assert isinstance(manager.errors["unknown"].__cause__, exceptions.HostKeyError)
    assert not asked.exists()


@pytest.fixture
def silent():
    """Return the part of an ssh_config that has a host which takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"Host silent\nHostName 127.0.0.1\nPort {server.getsockname()[1]}\n"


def test_a_silent_host_is_inactive_after_its_own_timeout_and_the_others_work(
    silent, sshd, make_manager
):
    """ssh's own ConnectTimeout ends it, and `connect_timeout` has not come."""
    manager = make_manager(silent + "ConnectTimeout 1\n" + block("web1", sshd))
    assert manager.inactive_hosts == ["silent"]
    assert isinstance(manager.errors["silent"].__cause__, exceptions.ConnectError)
    assert "timed out" in str(manager.errors["silent"])
    assert manager.create_group().run("echo on").ok["web1"].stdout == "on\n"


def test_a_silent_host_is_inactive_after_the_timeout_of_the_manager(silent, make_manager):
    manager = make_manager(silent, connect_timeout=1)
    assert manager.inactive_hosts == ["silent"]
    assert "raise connect_timeout" in str(manager.errors["silent"])


def test_a_manager_waits_ten_seconds_for_a_login_by_default(make_manager, monkeypatch):
    given = []

    def refuse(host, connection_kwargs):
        given.append(connection_kwargs["connect_timeout"])
        raise InvalidRuntimeError("It is not asked.", host=host)

    monkeypatch.setattr("lazycluster.manager.Runtime", refuse)
    make_manager(REFUSED, connect_timeout=None)
    make_manager(REFUSED, connect_timeout=None, connection_kwargs={"timeout": 3})
    assert given == [10, 3]


def test_the_hosts_are_those_of_the_users_file_and_of_the_systems(sshd, tmp_path, monkeypatch):
    """ssh itself reads the file of the account, so that here the names are compared alone."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host mine.invalid\n")
    (tmp_path / "system").write_text("Host theirs.invalid *.invalid\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(config_hosts, "SYSTEM_CONFIG", str(tmp_path / "system"))
    with RuntimeManager() as manager:
        assert manager.inactive_hosts == ["mine.invalid", "theirs.invalid"]
