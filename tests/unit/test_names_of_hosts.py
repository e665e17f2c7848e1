"""What RuntimeManager checks and finds out before it logs in."""

from __future__ import annotations

import pytest

from lazycluster import NoRuntimesDetectedError, RuntimeManager
from lazycluster._group.detection import CONNECT_TIMEOUT, checked_parameters, sorted_names


def test_the_timeout_is_short_by_default_and_can_be_given_under_each_name():
    assert checked_parameters(None, {})["connect_timeout"] == CONNECT_TIMEOUT == 10
    assert checked_parameters({"timeout": 3}, {})["connect_timeout"] == 3
    assert checked_parameters(None, {"connect_timeout": 4})["connect_timeout"] == 4


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"connection_kwargs": {"interactive": True}}, ValueError),
        ({"connection_kwargs": {"colour": "blue"}}, ValueError),
        ({"connection_kwargs": {"port": 0}}, ValueError),
        ({"connect_timeout": 0}, ValueError),
        ({"connect_timeout": 3, "connection_kwargs": {"timeout": 4}}, ValueError),
        ({"config_file": "/no/such/file"}, ValueError),
        ({"config_file": 3}, TypeError),
    ],
)
def test_bad_input_is_an_error_before_any_process_starts(keywords, error, no_process):
    with pytest.raises(error):
        RuntimeManager(**keywords)


def test_without_hosts_there_is_a_manager_but_no_group():
    with RuntimeManager("none") as manager:
        assert (manager.hosts, manager.inactive_hosts, manager.errors) == ([], [], {})
        assert repr(manager) == "<RuntimeManager of no hosts>"
        assert str(manager) == "RuntimeManager: no hosts"
        with pytest.raises(NoRuntimesDetectedError, match="names no host"):
            manager.create_group()


SAME_ADDRESS = """
Host a
  HostName 10.0.0.1
Host b
  HostName 10.0.0.1
  Port 22
Host {other}
  HostName 10.0.0.1
  {difference}
Host *
  User joe
"""


def sorted_in(tmp_path, text, *names):
    path = tmp_path / "ssh_config"
    path.write_text(text)
    return sorted_names(names, {"config_file": str(path)})


@pytest.mark.parametrize(
    "difference",
    [
        "Port 23",
        "User jane",
        "HostName 10.0.0.2",
        "ProxyJump gate",
        "ProxyCommand nc gate 22",
    ],
)
def test_two_names_of_one_account_count_once_but_not_behind_another_way(tmp_path, difference):
    text = f"Host c\n  {difference}\n" + SAME_ADDRESS.format(other="c", difference="")
    found = sorted_in(tmp_path, text, "a", "b", "c")
    assert (found.hosts, found.others, found.errors) == (["a", "c"], {"b": "a"}, {})


def test_a_command_that_gets_the_name_leads_elsewhere_for_each(tmp_path):
    text = "Host *\n  HostName 10.0.0.1\n  ProxyCommand connect %n\n"
    assert sorted_in(tmp_path, text, "a", "b").hosts == ["a", "b"]


def test_localhost_is_one_host_under_its_name_and_its_address(tmp_path):
    found = sorted_in(tmp_path, "", "127.0.0.1", "localhost")
    assert (found.hosts, found.others) == (["127.0.0.1"], {"localhost": "127.0.0.1"})


def test_names_that_ssh_cannot_resolve_stay_and_invalid_ones_have_errors(tmp_path):
    """The login says why: nothing here knows."""
    found = sorted_in(tmp_path, "Match garbage\n", "a", "-v", "b;c", "d")
    assert (found.hosts, list(found.errors)) == (["a", "d"], ["-v", "b;c"])
