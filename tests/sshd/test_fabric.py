"""RuntimeTask.execute with a real `fabric.Connection`; ssh logs in, not paramiko."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import AuthenticationError, ConnectError, TaskExecutionError
from loopback_sshd import LoopbackSshd
from support.hosts import commands, run
from support.managers import await_nothing_on_manager, logins, on_manager

fabric = pytest.importorskip("fabric", reason="fabric is not installed")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def host(own_sshd: LoopbackSshd) -> Any:
    """Return a function that makes fabric Connections to `own_sshd`, which knows their logins."""

    def make(host: str = own_sshd.alias, **arguments: Any) -> Any:
        config = fabric.Config(
            runtime_ssh_path=str(arguments.pop("config_file", own_sshd.config_file)),
            overrides=arguments.pop("overrides", None),
        )
        return fabric.Connection(host, config=config, **arguments)

    return make


def log(connection: Any, *lines: str) -> list[str]:
    """Execute commands, and return their log."""
    return commands(*lines).execute(connection).execution_log


def without(sshd: LoopbackSshd, folder: Path, *keywords: str, more: str = "") -> Path:
    """Write an ssh_config for the alias of an sshd that lacks some keywords, and return it."""
    lines = sshd.config_file.read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if line.split()[0] not in keywords)
    (folder / "config").write_text(more + kept)
    return folder / "config"


EXAMPLE = """
# 1. Define a function that should be executed remotely via a RuntimeTask
def hello():
     print('Hello World!')

# 2. Create & compose the RuntimeTask by using the elementary operations
my_task = RuntimeTask('my-task').run_command('echo Hello World!').run_function(hello)

# 3. Execute the RuntimeTask standalone w/o Runtime by handing over a fabric ssh connection
from fabric import Connection
task = my_task.execute(Connection('host'))

# 4. Check the logs of the RuntimeTask execution
task.print_log()
log = task.execution_log
"""
"""The documentation's example, except that its function `print` called itself."""


def test_the_example_of_the_documentation_runs_as_it_stands(
    make_sshd: Callable[..., LoopbackSshd],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And leaves nothing, although it closes nothing."""
    sshd = make_sshd(alias="host")
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{sshd.config_file}" "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = types.ModuleType("__main__")
    script.__dict__["RuntimeTask"] = RuntimeTask
    monkeypatch.setitem(sys.modules, "__main__", script)
    exec(EXAMPLE, script.__dict__)
    assert script.__dict__["log"] == ["Hello World!\n", "Hello World!\n"]
    assert capsys.readouterr().out.splitlines().count("   Hello World!") == 2
    gc.collect()
    await_nothing_on_manager(sshd)


# ── the way to the host ───────────────────────────────────────────────────────────────────────────


def test_user_port_and_keys_are_those_that_were_given(
    own_sshd: LoopbackSshd, host: Any, tmp_path: Path
) -> None:
    """The first of two keys is refused; ssh_config has no key, port or user."""
    config = without(own_sshd, tmp_path, "IdentityFile", "Port", "User", "IdentitiesOnly")
    wrong = make_key(tmp_path / "wrong")
    connection = host(
        f"{own_sshd.user}@{own_sshd.alias}:{own_sshd.port}",
        config_file=config,
        connect_kwargs={
            "key_filename": [str(wrong), str(own_sshd.user_key)],
            "allow_agent": False,
            "look_for_keys": False,
            "banner_timeout": 60,
            "compress": True,
        },
    )
    assert log(connection, "echo hi") == ["hi\n"]
    connection.connect_kwargs["key_filename"] = str(wrong)
    with pytest.raises(AuthenticationError):
        log(connection, "true")
    connection.close()


def test_a_passphrase_opens_the_key(own_sshd: LoopbackSshd, host: Any, tmp_path: Path) -> None:
    """It may be called password, as in paramiko."""
    config = without(own_sshd, tmp_path, "IdentityFile")
    key = tmp_path / "locked"
    key.write_bytes(own_sshd.user_key.read_bytes())
    key.chmod(0o600)
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    for name in ("passphrase", "password"):
        kwargs = {"key_filename": str(key), name: "open sesame"}
        with host(config_file=config, connect_kwargs=kwargs) as connection:
            assert log(connection, "echo hi") == ["hi\n"]
    kwargs = {"key_filename": str(key), "passphrase": "open barley"}
    with pytest.raises(AuthenticationError) as caught:
        log(host(config_file=config, connect_kwargs=kwargs), "true")
    assert "barley" not in str(caught.value)


@pytest.mark.parametrize("levels", [1, 2])
def test_gateways_are_jump_hosts(
    levels: int, own_sshd: LoopbackSshd, host: Any, tmp_path: Path
) -> None:
    """Each with its own user and port; the host itself is reached from the last one."""
    more = f"Host target\nPort {own_sshd.port}\nHost *\n"
    more += f"Port 1\nHostKeyAlias [127.0.0.1]:{own_sshd.port}\n"
    config = without(own_sshd, tmp_path, "Host", "Port", "User", more=more)
    gateway = None
    for name in ("first", "second")[:levels]:
        given = f"{own_sshd.user}@{name}:{own_sshd.port}"
        gateway = host(given, config_file=config, gateway=gateway)
    with host("target", config_file=config, gateway=gateway) as connection:
        assert log(connection, "echo hi") == ["hi\n"]
    assert logins(own_sshd) == levels + 1
    keywords = {"config_file": config, "gateway": gateway}
    runtime = Runtime("target", connection_kwargs=keywords)
    assert run(runtime, "echo hi") == ["hi\n"]
    runtime.cleanup()
    assert logins(own_sshd) == 2 * (levels + 1)


def test_a_gateway_that_is_text_is_a_proxy_command(own_sshd: LoopbackSshd, host: Any) -> None:
    """As fabric has it: a shell command, not a host."""
    command = f"ssh -F {own_sshd.config_file} -W %h:%p {own_sshd.alias}"
    with host(gateway=command) as connection:
        assert log(connection, "echo hi") == ["hi\n"]
    assert logins(own_sshd) == 2


def test_a_broken_connection_is_a_value_error(own_sshd: LoopbackSshd, host: Any) -> None:
    """As documented; it is a ConnectError, too, and nothing is left."""
    with pytest.raises(ValueError, match="port 1: Connection refused") as caught:
        log(host(port=1), "true")
    assert isinstance(caught.value, ConnectError)
    await_nothing_on_manager(own_sshd)


# ── where and how the steps run ───────────────────────────────────────────────────────────────────


def test_steps_start_in_the_directory_of_cd(host: Any, tmp_path: Path) -> None:
    """Each of them; a change of directory ends with its step."""
    (tmp_path / "a b" / "c").mkdir(parents=True)
    (tmp_path / "sent").write_text("x")
    connection = host()
    task = RuntimeTask()
    task.run_command("pwd; cd /").run_command("pwd").run_function(os.getcwd)
    task.send_file(str(tmp_path / "sent"))
    with connection.cd(tmp_path), connection.cd("a b"), connection.cd("c"):
        task.execute(connection)
    there = str(tmp_path / "a b" / "c")
    assert task.execution_log[:2] == [f"{there}\n"] * 2
    assert list(task.function_returns) == [there]
    assert (tmp_path / "a b" / "c" / "sent").read_text() == "x"
    home = log(connection, "pwd")
    with connection.cd("."):
        assert log(connection, "pwd") == home  # a relative path is relative to it
    connection.close()


def test_directories_of_cd_may_begin_with_the_home_directory(
    own_sshd: LoopbackSshd, host: Any
) -> None:
    """HOME is what the shell of the account calls so."""
    (own_sshd.home / "x" / "y").mkdir(parents=True)
    connection = host()
    with connection.cd("~/x"), connection.cd("y"):
        assert log(connection, "pwd") == [f"{own_sshd.home}/x/y\n"]
        assert list(RuntimeTask().run_function(os.getcwd).execute(connection).function_returns) == [
            f"{own_sshd.home}/x/y"
        ]
    connection.close()


def test_a_directory_that_is_missing_is_an_error_of_the_step(host: Any) -> None:
    """Which names it."""
    missing = pytest.raises(TaskExecutionError, match="/no/such folder")
    with host() as connection, connection.cd("/no/such folder"), missing:
        log(connection, "true")


def test_variables_of_fabric_reach_the_steps(host: Any) -> None:
    """Any value; those of the task count more."""
    overrides = {"run": {"env": {"A": "of fabric", "B": "$(x) 'y'"}}}
    task = RuntimeTask().run_command('echo "$A $B"')
    task.env_variables = {"A": "of the task"}
    with host(overrides=overrides) as connection:
        assert task.execute(connection).execution_log == ["of the task $(x) 'y'\n"]


# ── one login ─────────────────────────────────────────────────────────────────────────────────────


def test_one_object_logs_in_once_until_it_is_closed(own_sshd: LoopbackSshd, host: Any) -> None:
    """Then it can be used again."""
    connection = host()
    for _ in range(3):
        log(connection, "true")
    assert logins(own_sshd) == 1
    connection.close()
    await_nothing_on_manager(own_sshd)
    connection.close()
    log(connection, "true")
    assert logins(own_sshd) == 2
    connection.close()
    await_nothing_on_manager(own_sshd)


def test_the_end_of_a_with_block_and_of_the_object_end_the_login(
    own_sshd: LoopbackSshd, host: Any
) -> None:
    """A script of fabric often closes nothing."""
    with host() as connection:
        log(connection, "true")
        assert on_manager(own_sshd)
    await_nothing_on_manager(own_sshd)
    connection = host()
    log(connection, "true")
    assert on_manager(own_sshd)
    del connection
    gc.collect()
    await_nothing_on_manager(own_sshd)


def test_the_end_of_the_program_ends_the_login(own_sshd: LoopbackSshd) -> None:
    """Without a word."""
    program = f"""
import fabric
from lazycluster import RuntimeTask
config = fabric.Config(runtime_ssh_path={str(own_sshd.config_file)!r})
connection = fabric.Connection({own_sshd.alias!r}, config=config)
print(RuntimeTask().run_command("echo hi").execute(connection).execution_log)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("['hi\\n']\n", "", 0)
    await_nothing_on_manager(own_sshd)


def test_threads_that_use_one_object_share_its_login(own_sshd: LoopbackSshd, host: Any) -> None:
    """Also if they come at once."""
    connection, logs = host(), []
    threads = [
        threading.Thread(target=lambda: logs.append(log(connection, "echo hi"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logs == [["hi\n"]] * 4
    assert logins(own_sshd) == 1
    connection.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork beside threads
def test_a_forked_child_logs_in_by_itself(own_sshd: LoopbackSshd, host: Any) -> None:
    """And leaves the login of its parent alone."""
    connection = host()
    log(connection, "true")
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if log(connection, "echo hi") == ["hi\n"] else 2
            connection.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log(connection, "true")
    assert logins(own_sshd) == 2
    connection.close()
    await_nothing_on_manager(own_sshd)


def test_fabric_itself_goes_on_beside_it(own_sshd: LoopbackSshd, host: Any) -> None:
    """Its own login and ours know nothing of each other, and one `close` ends both."""
    connection = host(connect_kwargs={"allow_agent": False, "look_for_keys": False})
    assert connection.run("echo of fabric", hide=True, in_stream=False).stdout == "of fabric\n"
    assert log(connection, "echo ours") == ["ours\n"]
    assert connection.run("echo of fabric", hide=True, in_stream=False).stdout == "of fabric\n"
    connection.close()
    assert not connection.is_connected
    await_nothing_on_manager(own_sshd)


def make_key(file: Path) -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return file


def test_a_connection_of_ours_is_taken_as_before(connection: Connection) -> None:
    """It stays open."""
    assert log(connection, "echo hi") == log(connection, "echo hi") == ["hi\n"]
