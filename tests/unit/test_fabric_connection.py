"""What is read of a real `fabric.Connection`; no test here logs in."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest

from lazycluster import RuntimeTask
from lazycluster._fabric.connection import (
    given_kwargs,
    is_fabric_connection,
    run_environment,
    start_directory,
)
from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster._fabric.login import login_of

fabric = pytest.importorskip("fabric", reason="fabric is not installed")
paramiko_config = pytest.importorskip("paramiko.config")


def translated(connection: Any) -> dict[str, Any]:
    """Return the parameters of our Connection that a fabric Connection means."""
    return translate_connection_kwargs(given_kwargs(connection))


@pytest.fixture
def ssh_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that writes the user's ssh_config, where fabric finds it."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def write(text: str) -> Path:
        file = tmp_path / ".ssh" / "config"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


# ── what was given counts, what fabric found in ssh_config is left to ssh ─────────────────────────


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"host": "web"}, {}),
        ({"host": "ann@web:2222"}, {"user": "ann", "port": 2222}),
        ({"host": "web", "user": "ann", "port": 2222}, {"user": "ann", "port": 2222}),
        ({"host": "web", "connect_timeout": 5}, {"connect_timeout": 5}),
        ({"host": "web", "connect_timeout": 0}, {}),
        ({"host": "web", "forward_agent": True}, {"options": {"ForwardAgent": "yes"}}),
        ({"host": "web", "forward_agent": False}, {}),
        ({"host": "web", "gateway": False}, {"jump_host": "none"}),
        ({"host": "web", "gateway": "nc"}, {"options": {"ProxyCommand": "nc"}}),
        ({"host": "web", "inline_ssh_env": False}, {}),
        ({"host": "web", "connect_kwargs": {"key_filename": "k"}}, {"identity_file": ["k"]}),
        (
            {"host": "web", "connect_kwargs": {"key_filename": ["b", "a"], "passphrase": "x"}},
            {"identity_file": ["b", "a"], "passphrase": "x"},
        ),
        (
            {"host": "web", "connect_kwargs": {"allow_agent": False, "timeout": 3}},
            {"connect_timeout": 3, "options": {"IdentityAgent": "none"}},
        ),
    ],
)
def test_what_was_given_is_translated(arguments, expected, ssh_config):
    """Without an ssh_config; an argument may also stand in fabric's own configuration."""
    connection = fabric.Connection(**arguments)
    assert connection.original_host == "web"
    assert translated(connection) == expected


def test_fabric_configuration_counts_as_given(ssh_config):
    """As from /etc/fabric.yml or the variables FABRIC_…"""
    overrides = {
        "user": "ann",
        "port": 2222,
        "timeouts": {"connect": 7},
        "connect_kwargs": {"key_filename": "k", "compress": True},
        "run": {"env": {"A": "1"}},
    }
    connection = fabric.Connection("web", config=fabric.Config(overrides=overrides))
    assert translated(connection) == {
        "user": "ann",
        "port": 2222,
        "connect_timeout": 7,
        "identity_file": ["k"],
        "options": {"Compression": "yes"},
    }
    assert run_environment(connection) == {"A": "1"}


SSH_CONFIG = """
Host web
    HostName 192.0.2.1
    User bob
    Port 2200
    ConnectTimeout 9
    ForwardAgent yes
    IdentityFile /keys/of config
    ProxyJump first,ann@second:2222
Host second
    User carol
"""


def test_what_fabric_found_in_ssh_config_is_left_to_ssh(ssh_config):
    """ssh reads it itself, and better."""
    ssh_config(SSH_CONFIG)
    connection = fabric.Connection("web")
    assert (connection.host, connection.user, connection.port) == ("192.0.2.1", "bob", 2200)
    assert connection.gateway is not None
    assert translated(connection) == {}


def test_what_was_given_wins_over_ssh_config(ssh_config):
    """And only that."""
    ssh_config(SSH_CONFIG)
    connection = fabric.Connection(
        "web",
        user="ann",
        port=22,
        connect_timeout=1,
        forward_agent=False,
        gateway=fabric.Connection("other"),
        connect_kwargs={"key_filename": "k"},
    )
    assert translated(connection) == {
        "user": "ann",
        "port": 22,
        "connect_timeout": 1,
        "identity_file": ["k"],
        "jump_host": "other",
        "options": {"ForwardAgent": "no"},
    }


def test_proxy_command_of_ssh_config_is_left_to_ssh(ssh_config):
    """Another one was given."""
    ssh_config("Host web\n  ProxyCommand nc %h %p\n")
    assert translated(fabric.Connection("web")) == {}
    connection = fabric.Connection("web", gateway="nc -x proxy %h %p")
    assert translated(connection) == {"options": {"ProxyCommand": "nc -x proxy %h %p"}}


def test_an_ssh_config_that_fabric_was_given_is_used(ssh_config, tmp_path):
    """By its path, or none at all."""
    ssh_config(SSH_CONFIG)
    file = tmp_path / "other"
    file.write_text("Host web\n  User dave\n")
    for config in (
        fabric.Config(runtime_ssh_path=str(file)),
        fabric.Config(overrides={"ssh_config_path": str(file)}),
        fabric.Config(user_ssh_path=str(file)),
    ):
        assert translated(fabric.Connection("web", config=config)) == {"config_file": str(file)}
    config = fabric.Config(overrides={"load_ssh_configs": False})
    assert translated(fabric.Connection("web", config=config)) == {"config_file": "none"}


def test_an_ssh_config_that_is_an_object_is_passed_on(ssh_config, tmp_path):
    """ssh cannot read it. A key of it that does not exist is left out, as ssh leaves it out."""
    key = tmp_path / "key"
    key.write_text("")
    text = f"{SSH_CONFIG}\nHost web\n  IdentityFile {key}\n"
    config = fabric.Config(ssh_config=paramiko_config.SSHConfig.from_text(text))
    connection = fabric.Connection("web", config=config)
    assert translated(connection) == {
        "user": "bob",
        "port": 2200,
        "connect_timeout": 9,
        "identity_file": [str(key)],
        "jump_host": "first,ann@second:2222",
        "options": {"ForwardAgent": "yes", "HostName": "192.0.2.1"},
    }


# ── gateways ──────────────────────────────────────────────────────────────────────────────────────


def test_gateways_become_jump_hosts_the_farthest_first(ssh_config):
    """As `ssh -J` takes them, with what was given for each."""
    first = fabric.Connection("ann@first:2222", connect_timeout=3, forward_agent=True)
    second = fabric.Connection("::1", port=2200, gateway=first)
    connection = fabric.Connection("web", gateway=second)
    assert translated(connection) == {"jump_host": "ann@first:2222,[::1]:2200"}
    assert translate_connection_kwargs({"gateway": second}) == {
        "jump_host": "ann@first:2222,[::1]:2200"
    }


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"connect_kwargs": {"key_filename": "k"}}, "identity_file"),
        ({"connect_kwargs": {"password": "sesame"}}, "password"),
        ({"connect_kwargs": {"allow_agent": False}}, "IdentityAgent"),
        ({"gateway": "nc x"}, "ProxyCommand"),
        ({"gateway": False}, "gateway=False"),
    ],
)
def test_what_a_jump_host_cannot_get_is_refused_with_the_cure(arguments, name, ssh_config):
    """ssh takes it from ssh_config only."""
    gateway = fabric.Connection("jump", **arguments)
    with pytest.raises(ValueError, match=rf"'jump' with {name}:.*`Host jump`") as caught:
        translated(fabric.Connection("web", gateway=gateway))
    assert "sesame" not in str(caught.value)


# ── what cannot be ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["pkey", "sock", "disabled_algorithms", "auth_strategy"])
def test_what_ssh_cannot_do_is_refused(name, no_process):
    """Before any process starts, by its name."""
    connection = fabric.Connection("web", connect_kwargs={name: {"sesame": 1}})
    with pytest.raises(ValueError, match=f"^{name} ") as caught:
        RuntimeTask().execute(connection)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"authentication": {"strategy_class": object}}, r"authentication\.strategy_class"),
        ({"timeouts": {"command": 5}}, r"timeouts\.command .*timeout="),
    ],
)
def test_a_configuration_that_ssh_cannot_follow_is_refused(overrides, name, no_process):
    """Silence would change what the script does."""
    connection = fabric.Connection("web", config=fabric.Config(overrides=overrides))
    with pytest.raises(ValueError, match=name):
        RuntimeTask().execute(connection)


def test_a_prefix_is_refused(no_process):
    """Functions and copies have none."""
    connection = fabric.Connection("web")
    with connection.prefix("source env"), pytest.raises(ValueError, match=r"prefix\(\).*&&"):
        RuntimeTask().execute(connection)


@pytest.mark.parametrize("wrong", [None, 5, b"host", ["host"], object(), {"password": "sesame"}])
def test_what_is_no_connection_is_a_type_error_that_says_what_is_taken(wrong, no_process):
    """Without its repr, which may contain a secret."""
    accepted = r"lazycluster\.Connection, a host as a string or a fabric\.Connection"
    with pytest.raises(TypeError, match=f"{accepted}, not {type(wrong).__name__}") as caught:
        RuntimeTask().execute(wrong)
    assert "sesame" not in str(caught.value)
    assert not is_fabric_connection(wrong)


# ── where it starts ───────────────────────────────────────────────────────────────────────────────


def test_directories_are_joined_as_fabric_joins_them():
    """Without the escapes for a shell, which fabric adds to blanks."""
    connection = fabric.Connection("web")
    assert start_directory(connection) is None
    with connection.cd("a b"):
        assert start_directory(connection) == "a b"
        with connection.cd("c"):
            assert start_directory(connection) == "a b/c"
        with connection.cd(Path("/d")), connection.cd("e"):
            assert start_directory(connection) == "/d/e"
        with connection.cd("~/f"), connection.cd("g"):
            assert start_directory(connection) == "~/f/g"
    assert start_directory(connection) is None


# ── the login is kept with the object ─────────────────────────────────────────────────────────────


def test_the_login_is_kept_with_the_object_until_it_changes():
    """Not with an equal one: fabric compares user, host and port only."""
    one, two = fabric.Connection("web"), fabric.Connection("web")
    login = login_of(one)
    assert login_of(one) is login
    assert one == two
    assert login_of(two) is not login
    one.connect_kwargs["compress"] = True
    assert login_of(one) is not login


def test_the_login_is_freed_with_the_object():
    """Nothing refers to either of them."""
    connection = fabric.Connection("web")
    freed = [weakref.ref(connection), weakref.ref(login_of(connection))]
    del connection
    gc.collect()
    assert [reference() for reference in freed] == [None, None]


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_the_object_stays_a_fabric_connection_and_its_copies_are_others(duplicate):
    """A copy has fabric's class, and its `close` ends nothing of the original."""
    connection = fabric.Connection("ann@web")
    before = repr(connection), hash(connection)
    login = login_of(connection)
    assert isinstance(connection, fabric.Connection)
    assert (repr(connection), hash(connection)) == before
    other = duplicate(connection)
    assert type(other) is fabric.Connection
    assert other == connection
    other.close()
    assert login_of(connection) is login
    assert login_of(other) is not login
    assert not fabric.Connection.__dict__.keys() & {"_lazycluster_closes_both"}
