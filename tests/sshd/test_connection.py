"""Connection on a real sshd: opening, closing, hosts that cannot be used, odd hosts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lazycluster import Connection, Runtime
from lazycluster.exceptions import (
    HostKeyError,
    InvalidRuntimeError,
    PythonNotFoundError,
)
from support.hosts import call, commands, run

# --- Opening and closing ---


def test_making_one_starts_no_process(sshd, no_process):
    """A Connection opens on first use and not before."""
    Connection(sshd.alias, config_file=sshd.config_file)


def test_first_use_opens_it(connection):
    """The caller does not have to call open()."""
    assert commands("echo hi").execute(connection).execution_log == ["hi\n"]


def test_opening_twice_logs_in_once(connection, sshd):
    """open() does nothing while it is open."""
    connection.open()
    serving = sshd.connection_pids()
    connection.open()
    assert sshd.connection_pids() == serving


def test_context_manager_opens_it(sshd):
    """Within the block it is open already."""
    before = sshd.connection_pids()
    with Connection(sshd.alias, config_file=sshd.config_file):
        assert set(sshd.connection_pids()) > set(before)


def test_context_manager_closes_it(sshd, nothing_left):
    """After the block no process and no folder is left."""
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        commands("true").execute(connection)
    nothing_left()


def test_closing_twice_is_fine(connection):
    """So is closing one that was never opened."""
    connection.close()
    connection.open()
    connection.close()
    connection.close()


def test_use_after_close_logs_in_again(connection):
    """close() ends the connection, not the Connection."""
    connection.open()
    connection.close()
    assert commands("echo again").execute(connection).execution_log == ["again\n"]


def test_repr_holds_nothing_but_the_host(sshd):
    """Neither options nor files nor the interpreter are in it."""
    connection = Connection(
        sshd.alias, config_file=sshd.config_file, python="secret", options={"SetEnv": "A=secret"}
    )
    assert repr(connection) == f"<Connection to {sshd.alias!r}>"


# --- Forms of a host ---


def test_users_own_configuration_counts(user_config):
    """An alias of the user's ssh_config is all that is needed."""
    with Connection(user_config.alias) as connection:
        assert commands("echo hi").execute(connection).execution_log == ["hi\n"]


# --- connection_kwargs ---


def test_names_of_paramiko(sshd):
    """`username`, `key_filename`, `timeout`, `look_for_keys` and `allow_agent` do what they say."""
    keywords = {
        "username": sshd.user,
        "key_filename": str(sshd.user_key),
        "timeout": 20,
        "look_for_keys": False,
        "allow_agent": False,
        "port": sshd.port,
        "config_file": "none",
        "options": {"UserKnownHostsFile": str(sshd.known_hosts)},
    }
    runtime = Runtime("127.0.0.1", connection_kwargs=keywords)
    try:
        assert runtime.echo("hi") == "hi"
    finally:
        runtime.cleanup()


def test_connection_kwargs_are_not_changed(sshd):
    """A script may use one dictionary for many Runtimes."""
    keywords = {"config_file": sshd.config_file, "timeout": 20}
    before = dict(keywords)
    Runtime(sshd.alias, connection_kwargs=keywords).cleanup()
    assert keywords == before


# --- Hosts that cannot be used ---


@pytest.fixture
def refused(nothing_left):
    """Makes a Runtime that cannot be, and gives its InvalidRuntimeError; nothing is left open."""

    def make(host, **keywords):
        with pytest.raises(InvalidRuntimeError) as caught:
            Runtime(host, connection_kwargs=keywords)
        nothing_left()
        assert caught.value.host == host
        return caught.value

    return make


def test_changed_host_key(refused, sshd, tmp_path):
    """HostKeyError that names the known_hosts file and the line."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    known_hosts = tmp_path / "known_hosts"
    public = key.with_suffix(".pub").read_text().split()[:2]
    known_hosts.write_text(f"# a comment\n[127.0.0.1]:{sshd.port} {' '.join(public)}\n")
    options = {"UserKnownHostsFile": str(known_hosts)}
    error = refused(sshd.alias, config_file=sshd.config_file, options=options)
    cause = error.__cause__
    assert type(cause) is HostKeyError
    assert (cause.known_hosts_file, cause.known_hosts_line) == (str(known_hosts), 2)


def test_unknown_host_key(refused, sshd, tmp_path):
    """HostKeyError, and the key is not accepted by us."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("")
    options = {"UserKnownHostsFile": str(known_hosts)}
    error = refused(sshd.alias, config_file=sshd.config_file, options=options)
    assert type(error.__cause__) is HostKeyError
    assert known_hosts.read_text() == ""


def test_f20_missing_interpreter(refused, sshd):
    """PythonNotFoundError that names what was looked for."""
    error = refused(sshd.alias, config_file=sshd.config_file, python="/no/such/python")
    assert type(error.__cause__) is PythonNotFoundError
    assert "/no/such/python" in str(error)


def test_f20_host_without_any_python(make_sshd, tmp_path):
    """PythonNotFoundError that lists the interpreters looked for."""
    sshd = make_sshd(path=[], environment={"PATH": str(tmp_path)})
    with pytest.raises(InvalidRuntimeError, match=r"python3\.\d+, python3\b") as caught:
        Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file})
    assert type(caught.value.__cause__) is PythonNotFoundError


# --- Odd hosts ---


def test_named_interpreter_runs_functions(make_runtime):
    """python= may be any command line, with arguments."""
    runtime = make_runtime(python=f"env MARK=here {os.path.realpath(sys.executable)}")

    def mark():
        return os.environ.get("MARK")

    assert call(runtime, mark) == "here"


def test_f18_start_files_may_print(make_sshd, make_runtime, tmp_path):
    """What a start file of the shell prints is not taken for an answer."""
    noise = tmp_path / "noise"
    noise.write_text("echo Welcome; echo to the host >&2; printf 'no newline'\n")
    sshd = make_sshd(environment={"BASH_ENV": str(noise), "ENV": str(noise)})
    (sshd.home / ".bashrc").write_text(noise.read_text())
    runtime = make_runtime(on=sshd)
    assert call(runtime, os.getcwd) == runtime.working_dir


def test_one_login_serves_everything(own_runtime, sshd):
    """Tasks, functions and settings of a Runtime make no further connection."""
    before = sshd.connection_pids()
    tasks = [own_runtime.execute_function(os.getpid, execute_async=True) for _ in range(5)]
    own_runtime.working_dir = own_runtime.working_dir
    run(own_runtime, "true", "true")
    for task in tasks:
        task.join()
    assert sshd.connection_pids() == before
