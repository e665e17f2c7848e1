"""What a group is asked about its hosts, and groups of the hosts of ssh_config."""

from __future__ import annotations

import threading

import pytest

from lazycluster import GroupError, InvalidRuntimeError, LazyclusterError, Runtime, RuntimeGroup

HOSTS = ["web1", "web2", "web3"]


def test_runtimes_are_found_by_host(group):
    assert list(group.get_runtimes()) == HOSTS
    assert list(group.get_runtimes("web2")) == ["web2"]
    assert list(group.get_runtimes(include_hosts=["web3", "web1"])) == ["web1", "web3"]
    assert list(group.get_runtimes(exclude_hosts="web2")) == ["web1", "web3"]
    assert list(group.get_runtimes(exclude_hosts=["web2", "web3", "elsewhere"])) == ["web1"]
    assert list(group.get_runtimes([], "")) == HOSTS
    with pytest.raises(ValueError, match="not both"):
        group.get_runtimes("web1", "web2")
    with pytest.raises(ValueError, match=r"'web9' is not in the group, which has web\[1-3\]"):
        group.get_runtimes(["web1", "web9"])
    with pytest.raises(ValueError, match="not in the group"):
        group.get_runtime("web9")
    assert group.get_runtime("web2").host == "web2"
    group.get_runtimes().clear()
    assert len(group) == 3


def test_hosts_are_printed(group, capsys, make_group):
    group.print_hosts()
    assert capsys.readouterr().out == "web1\nweb2\nweb3\n"
    empty = make_group(hosts=["web1"])
    empty.remove_runtime("web1")
    empty.print_hosts()
    assert capsys.readouterr().out == "The group is empty!\n"
    assert repr(empty) == "<RuntimeGroup of no hosts>"
    with pytest.raises(ValueError, match="empty"):
        empty.get_runtime()
    assert empty.run("true").check().folded() == ""
    assert empty.submit(pow, 2, 2) == {}
    empty.fill_runtime_info_buffers_async()


def test_what_hosts_have_is_asked_at_the_same_time_and_once(make_group, monkeypatch, capsys):
    """One after the other, the first would wait for ever."""
    group = make_group(hosts=HOSTS)
    barrier = threading.Barrier(3)
    original = Runtime._operate

    def operate(self, operation, **arguments):
        assert operation == "read_host_info"
        barrier.wait(60)
        return original(self, operation, **arguments)

    monkeypatch.setattr(Runtime, "_operate", operate)
    group.fill_runtime_info_buffers_async()
    monkeypatch.setattr(Runtime, "_operate", None)
    group.fill_runtime_info_buffers_async()
    group.print_runtime_info()
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("host")] == HOSTS


def test_a_host_that_does_not_answer_does_not_hide_the_others(make_group, monkeypatch, capsys):
    group = make_group(hosts=["web1", "web2"])
    original = Runtime._operate

    def operate(self, operation, **arguments):
        if self.host == "web1":
            raise LazyclusterError("no answer.")
        return original(self, operation, **arguments)

    monkeypatch.setattr(Runtime, "_operate", operate)
    with pytest.raises(GroupError, match="web1: no answer"):
        group.fill_runtime_info_buffers_async()
    group.print_runtime_info()
    printed = capsys.readouterr().out
    assert printed.startswith("web1: no answer\n\nhost")
    assert "web2" in printed


def test_a_group_of_the_hosts_of_ssh_config(config):
    with RuntimeGroup.from_ssh_config("web?", "local*", config_file=config) as group:
        assert group.hosts == [*HOSTS, "localhost"]
    with RuntimeGroup.from_ssh_config("web3", "web*", config_file=config) as group:
        assert group.hosts == ["web3", "web1", "web2"]
    with pytest.raises(InvalidRuntimeError):
        RuntimeGroup.from_ssh_config("*", config_file=config, connect_timeout=30)
    with RuntimeGroup.from_ssh_config("*", config_file=config, on_error="skip") as group:
        assert list(group.errors) == ["refused"]


def test_a_group_of_the_hosts_of_the_users_ssh_config(user_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(f"Include {user_config.config_file}")
    with RuntimeGroup.from_ssh_config(user_config.alias) as group:
        assert group.hosts == [user_config.alias]


@pytest.mark.parametrize("patterns", [(), ("web9",), ("web1", "db*"), ("web[12]",), ("",)])
def test_a_pattern_that_matches_nothing_is_an_error_before_any_login(config, patterns, no_process):
    with pytest.raises(ValueError, match=r"matches no name|at least one"):
        RuntimeGroup.from_ssh_config(*patterns, config_file=config)


def test_a_file_that_is_missing_and_a_pattern_that_is_none_are_errors(config, no_process, tmp_path):
    with pytest.raises(FileNotFoundError):
        RuntimeGroup.from_ssh_config("web1", config_file=tmp_path / "missing")
    with pytest.raises(TypeError, match="string"):
        RuntimeGroup.from_ssh_config(["web1"], config_file=config)
