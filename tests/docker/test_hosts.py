"""A Runtime on each kind of host: Debian 11, 12 and 13, no Python, odd shells, a jump host."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import (
    CommandError,
    ConnectionLostError,
    ForwardError,
    InvalidRuntimeError,
    PortInUseError,
    PythonNotFoundError,
    PythonVersionError,
    SshError,
    TaskExecutionError,
)
from support.containers import REACHABLE, USER, DockerHosts
from support.hosts import run
from support.interpreters import OWN_VERSION
from support.programs import killed_manager
from support.waiting import TIMEOUT, wait_until

MakeRuntime = Callable[..., Runtime]

SHELLS = ("dash", "ash", "zsh", "tcsh", "fish")


@pytest.fixture(params=["bullseye", "bookworm", "trixie"])
def alias(request: pytest.FixtureRequest) -> str:
    """Each host with a Python that can be reached without a jump host."""
    return request.param


@pytest.fixture
def runtime(alias: str, make_runtime: MakeRuntime) -> Runtime:
    return make_runtime(alias)


def host_version(hosts: DockerHosts, alias: str) -> str:
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    return hosts.exec(alias, ["python3", "-c", show]).stdout.strip()


# ── commands ──────────────────────────────────────────────────────────────────────────────────────


def test_a_command_runs_as_the_account(runtime: Runtime) -> None:
    """Its output is in the log, and it runs as the user of the ssh_config."""
    assert run(runtime, "id -un; echo out; echo err >&2") == [f"{USER}\nout\nerr\n"]
    assert runtime.is_valid_runtime()


def test_an_exit_status_arrives(runtime: Runtime) -> None:
    """255 too, which is ssh's own word for a lost connection, with the output until then."""
    with pytest.raises(TaskExecutionError) as caught:
        run(runtime, "echo before; exit 255", "echo never")
    cause = caught.value.__cause__
    assert isinstance(cause, CommandError)
    assert cause.exit_status == 255
    assert cause.signal is None
    assert cause.output == "before\n"


def test_a_signal_arrives(runtime: Runtime) -> None:
    """What a signal ended has no exit status."""
    with pytest.raises(TaskExecutionError) as caught:
        run(runtime, "kill -KILL $$")
    cause = caught.value.__cause__
    assert isinstance(cause, CommandError)
    assert cause.signal == signal.SIGKILL
    assert cause.exit_status is None


def test_the_environment_arrives_exactly(runtime: Runtime) -> None:
    """Quotes, newlines and what is not ASCII."""
    value = " a 'b' \"c\" $HOME `d`\n\\ ü "
    runtime.add_env_variables({"LC_TEST": value})
    assert run(runtime, 'printf "%s|" "$LC_TEST"') == [f"{value}|"]


def test_the_working_directory_is_there(
    alias: str, make_runtime: MakeRuntime, docker_hosts: DockerHosts
) -> None:
    """One that is given is made and stays; a temporary one goes with the Runtime."""
    given = make_runtime(alias, "~/some/where")
    assert run(given, 'pwd; echo "$WORKING_DIR"') == [f"/home/{USER}/some/where\n" * 2]
    given.cleanup()
    docker_hosts.exec(alias, ["rmdir", f"/home/{USER}/some/where", f"/home/{USER}/some"])

    temporary = make_runtime(alias)
    path = temporary.working_dir
    assert run(temporary, "pwd; stat -c %a-%U .") == [f"{path}\n700-{USER}\n"]
    temporary.cleanup()
    assert docker_hosts.exec(alias, ["test", "-e", path], check=False).returncode == 1


def test_two_tasks_run_at_once_in_one_session(runtime: Runtime) -> None:
    """Each waits for the other, and sshd allows one session a connection."""
    first, second = "mkfifo fifo; echo a >fifo", "until [ -p fifo ]; do sleep 0.01; done; cat fifo"
    tasks = [runtime.execute_task(RuntimeTask().run_command(line)) for line in (first, second)]
    runtime.join()
    assert [task.error for task in tasks] == [None, None]
    assert [task.execution_log for task in tasks] == [[""], ["a\n"]]


# ── functions ─────────────────────────────────────────────────────────────────────────────────────


def who(x: int) -> tuple[int, str, str]:
    import getpass
    import platform

    return x + 1, getpass.getuser(), platform.python_version()


def test_a_function_needs_the_managers_minor_version(
    alias: str, runtime: Runtime, docker_hosts: DockerHosts
) -> None:
    """With it, it returns its value; without, the error names both, and commands work on."""
    there = host_version(docker_hosts, alias)
    if there == OWN_VERSION:
        value = next(runtime.execute_function(who, x=1).function_returns)
        assert value[:2] == (2, USER)
        assert value[2].startswith(f"{there}.")
        return
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(who, x=1)
    cause = caught.value.__cause__
    assert isinstance(cause, PythonVersionError)
    assert there in str(caught.value)
    assert OWN_VERSION in str(caught.value)
    assert cause.host_version.startswith(f"{there}.")
    assert cause.manager_version.startswith(f"{OWN_VERSION}.")
    assert run(runtime, "echo on") == ["on\n"]


def end_a_thread() -> bool:
    import os
    import resource
    import threading
    import time

    ids = []
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    thread = threading.Thread(target=lambda: ids.append(threading.get_native_id()))
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{ids[0]}"):
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_NOFILE, most)
    return True


def test_a_thread_of_a_function_ends_although_no_file_can_be_opened(
    alias: str, runtime: Runtime, docker_hosts: DockerHosts
) -> None:
    """As at the end of a call, which closes all descriptors while a thread ends."""
    if host_version(docker_hosts, alias) != OWN_VERSION:
        pytest.skip(f"{alias} has no Python {OWN_VERSION}, which functions need")
    assert runtime.call(end_a_thread)
    assert runtime.with_options(env={"PYTHONHASHSEED": "1"}).call(end_a_thread)  # a new Python


# ── endings ───────────────────────────────────────────────────────────────────────────────────────


def test_cleanup_leaves_no_process(alias: str, runtime: Runtime, docker_hosts: DockerHosts) -> None:
    """Neither those of a task that runs, nor a zombie, nor the login."""
    runtime.execute_task(RuntimeTask().run_command("sleep 1001 & sleep 1002"))
    run(runtime, "sleep 1003 >/dev/null 2>&1 &")
    await_commands(docker_hosts, alias, {"sleep 1001", "sleep 1002", "sleep 1003"})
    runtime.cleanup()
    docker_hosts.await_no_process(alias)


def test_a_killed_manager_leaves_no_process(docker_hosts: DockerHosts) -> None:
    """No orphan on the host after kill -9 of the manager, whatever ran there."""
    argv = [sys.executable, killed_manager.__file__, "trixie", str(docker_hosts.config_file)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as manager:
        try:
            sleeps = {"sleep 1001", "sleep 1002", "sleep 1003"}
            await_commands(docker_hosts, "trixie", sleeps)
            assert manager.poll() is None
        finally:
            manager.kill()
        manager.wait(TIMEOUT)
    docker_hosts.await_no_process("trixie")


@pytest.mark.parametrize("fault", ["disconnected", "paused"])
def test_f8_a_silent_link_ends_both_sides(
    fault: str, make_runtime: MakeRuntime, docker_hosts: DockerHosts
) -> None:
    """No packet says that the link has gone: the task fails by name, and the host tidies up."""
    runtime = make_runtime("inner1", keepalive=0.5)
    lost = runtime.working_dir
    task = runtime.execute_task(RuntimeTask().run_command("sleep 1001"))
    await_commands(docker_hosts, "inner1", {"sleep 1001"})
    with getattr(docker_hosts, fault)("inner1"):
        task.process.join(TIMEOUT)
        assert not task.process.is_alive()
        assert isinstance(task.error.__cause__, ConnectionLostError)
        assert task.error.__cause__.started is True
    for alias in ("inner1", "jump"):
        docker_hosts.await_no_process(alias)
    assert docker_hosts.exec("inner1", ["test", "-e", lost], check=False).returncode == 1
    assert run(runtime, "pwd") == [f"{runtime.working_dir}\n"]
    assert runtime.working_dir != lost


def await_commands(hosts: DockerHosts, alias: str, commands: set[str], *, user: str = USER) -> None:
    """Wait until the account has processes of all these command lines."""

    def missing() -> set[str]:
        return commands - {process.command for process in hosts.processes(alias, user=user)}

    wait_until(lambda: not missing(), lambda: f"not on {alias}: {missing()}")


# ── odd hosts ─────────────────────────────────────────────────────────────────────────────────────


def test_f20_a_host_without_python_says_so(
    make_runtime: MakeRuntime, docker_hosts: DockerHosts
) -> None:
    """InvalidRuntimeError from a PythonNotFoundError with the names that were looked for."""
    with pytest.raises(InvalidRuntimeError) as caught:
        make_runtime("nopython")
    cause = caught.value.__cause__
    assert isinstance(cause, PythonNotFoundError)
    assert cause.host == "nopython"
    for name in (f"python{OWN_VERSION}", "python3"):
        assert name in str(caught.value)
    docker_hosts.await_no_process("nopython")


def test_a_host_without_python_has_a_connection(docker_hosts: DockerHosts) -> None:
    """Forwards work there, and at its MaxSessions 1 a command is refused, which is said."""
    connection = Connection("nopython", config_file=docker_hosts.config_file)
    with connection:
        forward = connection.forward_local(0, 22)
        with socket.create_connection(("127.0.0.1", forward.port), TIMEOUT) as client:
            assert client.recv(4) == b"SSH-"
        with pytest.raises(ForwardError, match="1024"):
            connection.forward_remote(22, 22)
        with pytest.raises(SshError, match="MaxSessions"):
            connection.run("echo hi")
    docker_hosts.await_no_process("nopython")


def test_f38_a_port_of_a_host_is_exposed_both_ways(
    runtime: Runtime, alias: str, docker_hosts: DockerHosts
) -> None:
    """Each release of OpenSSH listens, is looked at, and stops."""
    with Connection(alias, config_file=docker_hosts.config_file) as connection:
        with (
            connection.forward_local(0, 22) as here,
            connection.forward_remote(0, here.port) as there,
        ):
            with pytest.raises(PortInUseError):
                connection.forward_remote(there.port, 22)
            fetch = f"exec 3<>/dev/tcp/127.0.0.1/{there.port}; head -c 4 <&3"
            assert run(runtime, fetch) == ["SSH-"]
        with pytest.raises(PortInUseError):
            connection.forward_remote(22, 22)


def test_a_host_behind_a_jump_host_works(
    make_runtime: MakeRuntime, docker_hosts: DockerHosts
) -> None:
    """ProxyJump of the ssh_config is followed; afterwards nothing is left on either."""
    runtime = make_runtime("inner1")
    inner = docker_hosts.exec("inner1", ["hostname"]).stdout
    assert run(runtime, "hostname", "exit 0") == [inner, ""]
    runtime.cleanup()
    for alias in ("inner1", "jump"):
        docker_hosts.await_no_process(alias)


def test_two_hosts_behind_one_jump_host_are_two(make_runtime: MakeRuntime) -> None:
    """Both at once, and each is itself."""
    runtimes = [make_runtime(alias) for alias in ("inner1", "inner2")]
    names = [run(runtime, "hostname")[0] for runtime in runtimes]
    assert names[0] != names[1]


@pytest.mark.parametrize("shell", SHELLS)
def test_f17_each_login_shell_will_do(
    shell: str, make_runtime: MakeRuntime, docker_hosts: DockerHosts
) -> None:
    """The account has its name; commands run in it, with their directory and environment."""
    runtime = make_runtime(f"{shell}@bookworm")
    runtime.add_env_variables({"A": "a 'b'"})
    assert run(runtime, "echo $SHELL; pwd", 'echo "$A"') == [
        f"/bin/{shell}\n{runtime.working_dir}\n",
        "a 'b'\n",
    ]
    waiting = runtime.execute_task(RuntimeTask().run_command("sleep 1001; true"))
    await_commands(docker_hosts, "bookworm", {"sleep 1001"}, user=shell)
    processes = {process.pid: process for process in docker_hosts.processes("bookworm", user=shell)}
    (sleep,) = (process for process in processes.values() if process.command == "sleep 1001")
    assert processes[sleep.parent].command.split()[0].endswith(shell)
    waiting.process.terminate()
    runtime.cleanup()
    docker_hosts.await_no_process("bookworm", user=shell)


# ── the containers themselves ─────────────────────────────────────────────────────────────────────


def test_an_inner_host_is_reached_through_the_jump_host_alone(docker_hosts: DockerHosts) -> None:
    """From the other network it is not there, though it is on the private one."""
    shown = docker_hosts.exec("inner1", ["hostname", "-i"]).stdout
    for address in ("inner1", shown.split()[0]):
        say = ["timeout", "1", "bash", "-c", f"read -r line </dev/tcp/{address}/22; echo $line"]
        assert "SSH-2.0-" in docker_hosts.exec("jump", say).stdout
        assert "SSH-2.0-" not in docker_hosts.exec("bookworm", say, check=False).stdout


def test_a_host_that_was_paused_or_cut_off_comes_back(
    make_runtime: MakeRuntime, docker_hosts: DockerHosts
) -> None:
    """With the same key, and for the jump host with both networks, perhaps on another port."""
    with docker_hosts.paused("bookworm"):
        pass
    with docker_hosts.disconnected("jump"), pytest.raises(InvalidRuntimeError):
        make_runtime("inner1")
    with docker_hosts.disconnected("inner1"), pytest.raises(InvalidRuntimeError):
        make_runtime("inner1")
    for alias in ("bookworm", "inner1"):
        assert make_runtime(alias).is_valid_runtime()


def test_each_sshd_has_a_key_of_its_own(docker_hosts: DockerHosts) -> None:
    """So a wrong host is noticed."""
    keys = [line.split()[2] for line in docker_hosts.known_hosts.read_text().splitlines()]
    assert len(keys) == len(docker_hosts.aliases) == len(set(keys))
    assert set(REACHABLE) < set(docker_hosts.aliases)
