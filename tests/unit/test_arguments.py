"""What a connection and a Runtime cannot be made with is refused before any process starts."""

from __future__ import annotations

import math
import traceback

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from support.hosts import commands

BAD_HOSTS = {
    "empty": "",
    "not-a-string": None,
    "option": "-oProxyCommand=touch",
    "option-after-user": "user@-h",
    "blank": "a b",
    "newline": "a\nb",
    "control-character": "a\x1bb",
    "nul": "a\0b",
    "no-user": "@host",
    "no-host": "user@",
    "quote": "a'b",
    "port-0": "host:0",
    "port-too-high": "host:65536",
}


@pytest.mark.parametrize("host", BAD_HOSTS.values(), ids=BAD_HOSTS)
def test_bad_host_is_refused_by_a_connection(host, no_process):
    """A ValueError before any process starts."""
    with pytest.raises(ValueError, match="host"):
        Connection(host)


@pytest.mark.parametrize("host", BAD_HOSTS.values(), ids=BAD_HOSTS)
def test_bad_host_is_refused_by_a_runtime(host, no_process):
    """A ValueError before any process starts, and not an InvalidRuntimeError."""
    with pytest.raises(ValueError, match="host"):
        Runtime(host)


@pytest.mark.parametrize("host", [host for host in BAD_HOSTS.values() if host is not None])
def test_bad_host_is_refused_by_execute(host, no_process):
    """A host string given to a task is checked in the same way."""
    with pytest.raises(ValueError, match="host"):
        commands("true").execute(host)


def test_unknown_connection_kwargs_are_refused(no_process):
    """The error names the unknown and lists the known."""
    with pytest.raises(ValueError, match="pasword") as caught:
        Runtime("host", connection_kwargs={"pasword": "secret"})
    for known in ("user", "port", "identity_file", "jump_host", "key_filename", "gateway"):
        assert known in str(caught.value)


def test_value_of_an_unknown_connection_kwarg_stays_secret(no_process):
    """The user may have mistyped the name of a password."""
    with pytest.raises(ValueError, match="pasword") as caught:
        Runtime("host", connection_kwargs={"pasword": "my-secret"})
    assert "my-secret" not in "".join(traceback.format_exception_only(caught.type, caught.value))


@pytest.mark.parametrize("name", ["password", "passphrase"])
@pytest.mark.parametrize("bad", ["", "two\nlines", "n\0l", "x" * 1001, b"bytes", 5])
def test_a_secret_that_ssh_cannot_read_is_a_value_error(name, bad):
    """Which does not say it."""
    with pytest.raises(ValueError, match=name) as caught:
        Connection("host", **{name: bad})
    assert "two" not in str(caught.value)
    assert "xx" not in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 5, 0, False, b"a"])
def test_bad_working_directory_is_refused(path, no_process):
    """A ValueError or TypeError before any process starts."""
    with pytest.raises((ValueError, TypeError), match="working directory"):
        Runtime("host", working_dir=path)


BAD_PARAMETERS = {
    "user": "",
    "port": 65536,
    "config_file": "/no/such/file",
    "identity_file": "/no/such/key",
    "jump_host": "a b",
    "connect_timeout": -1,
    "keepalive": float("nan"),
    "orphan_timeout": 0,
    "password": "",
    "passphrase": "a\nb",
    "password_prompt": "(",
    "interactive": "yes",
    "python": " ",
    "options": {"Host Name": "x"},
}


@pytest.mark.parametrize(("name", "value"), BAD_PARAMETERS.items(), ids=BAD_PARAMETERS)
def test_bad_parameter_of_the_connection_is_refused_by_a_runtime(name, value, no_process):
    """A ValueError that names it, before any process starts."""
    with pytest.raises(ValueError, match=name):
        Runtime("host", **{name: value})


@pytest.mark.parametrize("name", ["user", "USER"])
def test_a_parameter_that_no_connection_has_is_a_type_error(name, no_process):
    """As in every call."""
    with pytest.raises(TypeError, match=f"{name}name"):
        Runtime("host", **{f"{name}name": "joe"})


@pytest.mark.parametrize(
    ("kwargs", "parameters"),
    [
        ({"user": "joe"}, {"user": "ann"}),
        ({"username": "joe"}, {"user": "ann"}),
        ({"connect_kwargs": {"key_filename": __file__}}, {"identity_file": "/etc/passwd"}),
        ({"timeout": 5}, {"connect_timeout": 6}),
        ({"password": "my-secret"}, {"password": "your-secret"}),
        ({"options": {"Compression": "yes"}}, {"options": {"compression": "no"}}),
        ({"interactive": True}, {"interactive": False}),
    ],
)
def test_parameter_given_twice_with_two_values_is_refused(kwargs, parameters, no_process):
    """A ValueError that names it and shows no value."""
    (name,) = parameters
    with pytest.raises(ValueError, match=name) as caught:
        Runtime("host", connection_kwargs=kwargs, **parameters)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kwargs", ["user=joe", ["user"], 5])
def test_connection_kwargs_that_are_no_mapping_are_refused(kwargs, no_process):
    """A ValueError."""
    with pytest.raises(ValueError, match="connection_kwargs"):
        Runtime("host", connection_kwargs=kwargs)


TIMEOUTS = {
    "of a step": lambda timeout: RuntimeTask().run_command("true", timeout=timeout),
    "of an execution": lambda timeout: commands("true").execute("host", timeout=timeout),
    "of a command": lambda timeout: Connection("host").run("true", timeout=timeout),
    "of a reboot": lambda timeout: Connection("host").wait_until_back(timeout),
    "of a login": lambda timeout: Connection("host", connect_timeout=timeout),
    "of the manager": lambda timeout: Connection("host", orphan_timeout=timeout),
    "of a Runtime's login": lambda timeout: Runtime("host", connect_timeout=timeout),
    "of fabric": lambda timeout: Runtime("host", connection_kwargs={"timeout": timeout}),
    "of paramiko": lambda timeout: Runtime("host", connection_kwargs={"banner_timeout": timeout}),
}


@pytest.mark.parametrize("timeout", [-1, -0.5, 0, math.nan, math.inf, True, False, "5"])
@pytest.mark.parametrize("check", TIMEOUTS.values(), ids=TIMEOUTS)
def test_every_timeout_is_checked_before_anything_starts(check, timeout, no_process):
    with pytest.raises((ValueError, TypeError), match="timeout"):
        check(timeout)
