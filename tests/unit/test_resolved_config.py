"""ResolvedConfig: what ssh makes of the user's ssh_config, asked by `ssh -G`."""

from __future__ import annotations

import shutil

import pytest

from lazycluster._ssh.resolved import ResolvedConfig
from lazycluster._ssh.settings import Settings

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh")


def resolved(folder, text="", **settings):
    config = folder / "config"
    config.write_text(text)
    return ResolvedConfig(Settings("h", config_file=config, **settings))


@pytest.mark.parametrize(("seconds", "expected"), [(30, 10), (0.01, 1), (31, 11), (1e12, 2147483)])
def test_without_a_connect_timeout_ssh_gets_a_third_in_whole_seconds(tmp_path, seconds, expected):
    """0 would be no limit at all, and ssh keeps milliseconds in an int."""
    assert resolved(tmp_path, connect_timeout=seconds).connect_timeout() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ProxyJump gate\n", 30),
        ("ProxyCommand ssh -W %h:%p gate\n", 30),
        ("ProxyJump none\n", 10),
        ("ProxyCommand none\n", 10),
    ],
)
def test_behind_a_proxy_ssh_gets_all_of_the_connect_timeout(tmp_path, text, expected):
    """ssh counts until the host's banner, so the login to the jump host is part of it."""
    assert resolved(tmp_path, text, connect_timeout=30).connect_timeout() == expected


@pytest.mark.parametrize("name", ["ConnectTimeout", "connecttimeout"])
def test_a_connect_timeout_of_the_user_is_left_alone(tmp_path, name):
    assert resolved(tmp_path, f"{name} 3\n").connect_timeout() is None
    assert resolved(tmp_path, options={name: "3"}).connect_timeout() is None


def test_a_config_that_ssh_refuses_is_left_to_the_login(tmp_path):
    """The login fails with ssh's own words."""
    assert resolved(tmp_path, "NoSuchOption yes\n").connect_timeout() is None


def test_a_slow_match_exec_does_not_hold_up_the_login_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("lazycluster._ssh.resolved.TIMEOUT", 0.1)
    assert resolved(tmp_path, 'Match exec "sleep 1000"\n').connect_timeout() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "h:22"),
        ("HostName 10.0.0.1\nPort 2222\n", "10.0.0.1:2222"),
        ("ProxyJump joe@gate:2222,second\nHostName inner\n", "joe@gate:2222"),
        ("ProxyJump none\nProxyCommand none\n", "h:22"),
        ("ProxyCommand ssh -W %h:%p gate\n", "ssh -W %h:%p gate"),
        ("NoSuchOption yes\n", "h"),
    ],
)
def test_the_first_hop_is_what_all_logins_on_this_way_meet(tmp_path, text, expected):
    """Two hosts behind one jump host have the same; so have two names of one address."""
    assert resolved(tmp_path, text).first_hop() == expected


def test_ssh_is_asked_once(tmp_path):
    config = resolved(tmp_path, "ProxyJump a,b\n")
    assert config.values("proxyjump") == ["a,b"]
    (tmp_path / "config").write_text("ProxyJump c\n")
    assert config.values("proxyjump") == ["a,b"]
