"""Links and programs that are slow, stopped or away for a while: what is not dead is not lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lazycluster import Connection
from lazycluster.exceptions import (
    ConnectError,
    ConnectionLostError,
    InvalidRuntimeError,
    LazyclusterError,
)
from support.hosts import await_step, commands, ended, open_runtime, run, supervisor
from support.machine import needs_mounts
from support.managers import await_nothing_on_manager, sshs
from support.processes import await_gone
from support.waiting import TIMEOUT, wait_until

KEEPALIVE = 0.2  # seconds; silence of four times that is a loss

STOPPED = """
import sys
from lazycluster import Runtime, RuntimeTask
config, alias, folder, orphan_timeout = sys.argv[1:]
keywords = dict(config_file=config, keepalive=0.2, orphan_timeout=float(orphan_timeout))
runtime = Runtime(alias, connection_kwargs=keywords)
command = f"touch {folder}/started; until [ -e {folder}/go ]; do sleep 0.01; done; echo done"
task = runtime.execute_task(RuntimeTask("long").run_command(command))
task.join()
print(task.execution_log, repr(task.error and str(task.error)))
"""


@pytest.fixture
def stopped(own_sshd, tmp_path):
    """Return a function that starts a manager and stops it in the middle of a step."""
    started = []

    def start(orphan_timeout):
        argv = [sys.executable, "-c", STOPPED, str(own_sshd.config_file), own_sshd.alias]
        process = subprocess.Popen(
            [*argv, str(tmp_path), str(orphan_timeout)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        wait_until((tmp_path / "started").exists, "the step has not started")
        process.send_signal(signal.SIGSTOP)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    await_nothing_on_manager(own_sshd)


def heartbeats(sshd, count):
    """Wait for `count` heartbeats of the host: its ssh reads that often from the network."""
    (ssh,) = sshs(sshd)

    def reads():
        text = Path(f"/proc/{ssh}/io").read_text()
        return int(text.split("syscr: ")[1].split()[0])

    before = reads()
    wait_until(lambda: reads() > before + count, "no heartbeat comes")


def test_a_manager_that_was_stopped_loses_nothing(own_sshd, stopped, tmp_path):
    """Ctrl-Z, a debugger, or C code that holds the GIL, for longer than four silent periods."""
    process = stopped(orphan_timeout=600)
    heartbeats(own_sshd, 12)  # at most two reads each
    process.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    output, _ = process.communicate(timeout=TIMEOUT)
    assert output == "['done\\n'] None\n"


def test_a_manager_that_was_stopped_for_too_long_says_so(own_sshd, stopped):
    """The host has ended what it started; the reason is in the error."""
    process = stopped(orphan_timeout=2.5)
    (ssh,) = sshs(own_sshd)
    await_gone([ssh])  # it ends with its session
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert "was lost" in output
    assert "This program did not run for" in output


PROXY = """
import os, socket, sys, threading, time
port, gate, rate = sys.argv[1:]
if not os.path.exists(gate):
    sys.exit("the host is away")
host = socket.create_connection(("127.0.0.1", int(port)))
def up():
    while True:
        data = os.read(0, 256)
        if not data:
            os._exit(0)
        host.sendall(data)
        time.sleep(len(data) / float(rate))
threading.Thread(target=up, daemon=True).start()
while True:
    data = host.recv(65536)
    if not data:
        os._exit(0)
    os.write(1, data)
"""


def proxy_command(sshd, folder, rate=1e9):
    """Return a ProxyCommand that sends so many bytes a second, while the file `gate` exists."""
    program, gate = folder / "proxy.py", folder / "gate"
    program.write_text(PROXY)
    gate.touch()
    return f"{sys.executable} {program} {sshd.port} {gate} {rate}"


def test_a_slow_link_that_moves_is_not_a_dead_one(own_sshd, tmp_path):
    """The login takes longer than connect_timeout, and the program arrives all the time.

    On a busy computer the program may start too late to say in time that it arrives. Then a longer
    connect_timeout is tried on a slower link, so that none is enough for the whole program.
    """

    def log_in(connect_timeout):
        rate = 63_000 / connect_timeout  # bytes a second; the program has 80 kB
        options = {"ProxyCommand": proxy_command(own_sshd, tmp_path, rate)}
        return open_runtime(own_sshd, connect_timeout=connect_timeout, options=options)

    def log_in_on_busy_computer():
        for connect_timeout in (7, 28):
            try:
                return log_in(connect_timeout)
            except InvalidRuntimeError as error:
                assert re.search("did not answer within|timed out", str(error))  # noqa: PT017
        return log_in(84)

    runtime = log_in_on_busy_computer()
    try:
        assert run(runtime, "echo hi") == ["hi\n"]
    finally:
        runtime.cleanup()


def test_what_a_silent_link_left_behind_ends_before_the_next_step(own_sshd, tmp_path):
    """A step that is repeated must not run beside its first run."""
    runtime = open_runtime(own_sshd, keepalive=KEEPALIVE, orphan_timeout=600)
    try:
        first = tmp_path / "first"
        command = f"trap 'echo ended >> {first}; exit' TERM; echo started >> {first}; "
        task = runtime.execute_task(commands(command + "while :; do sleep 0.05; done"))
        step = await_step(task)
        old = supervisor(runtime)
        own_sshd.pause()
        assert isinstance(ended(task).error.__cause__, ConnectionLostError)
        os.kill(old, signal.SIGSTOP)  # so that the end of its input does not end it
        own_sshd.resume()
        assert run(runtime, f"cat {first}") == ["started\nended\n"]
        await_gone([step, old])
    finally:
        own_sshd.resume()
        runtime.cleanup()


def test_a_signal_handler_can_close_during_a_login(own_sshd):
    """With a password the calling thread answers ssh; a lock held meanwhile would be a deadlock."""
    connection = Connection(
        own_sshd.alias,
        config_file=own_sshd.config_file,
        password="x",
        connect_timeout=TIMEOUT,
        options={"ProxyCommand": "sleep 1000"},
    )
    before = signal.signal(signal.SIGUSR1, lambda *_: connection.close())
    main = threading.get_ident()

    def interrupt():
        wait_until(lambda: connection._current and sshs(own_sshd), "ssh has not started")
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises((ConnectError, ConnectionLostError)):
            connection.open()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        connection.close()
    await_nothing_on_manager(own_sshd)


def test_wait_until_back_waits_for_the_end_and_logs_in_again(own_sshd, tmp_path):
    """The host is away for a while, as in a reboot."""
    command = proxy_command(own_sshd, tmp_path)
    runtime = open_runtime(own_sshd, options={"ProxyCommand": command})
    try:
        old = supervisor(runtime)
        waiting = threading.Thread(target=runtime.wait_until_back, args=(TIMEOUT,))
        waiting.start()
        os.unlink(tmp_path / "gate")
        own_sshd.kill_connections()
        await_gone([old])
        assert waiting.is_alive()
        (tmp_path / "gate").touch()
        waiting.join(TIMEOUT)
        assert not waiting.is_alive()
        assert supervisor(runtime) != old
    finally:
        runtime.cleanup()


def test_wait_until_back_gives_up(own_sshd, tmp_path):
    """With the last login's reason; or because the connection has not ended."""
    command = proxy_command(own_sshd, tmp_path)
    runtime = open_runtime(own_sshd, options={"ProxyCommand": command})
    try:
        with pytest.raises(LazyclusterError, match=r"still connected after 0\.05 s"):
            runtime.wait_until_back(0.05)
        os.unlink(tmp_path / "gate")
        own_sshd.kill_connections()
        with pytest.raises(ConnectError, match="Connection closed"):
            runtime.wait_until_back(1)
        for timeout in (0, -1, float("nan"), "1"):
            with pytest.raises(ValueError, match="timeout"):
                runtime.wait_until_back(timeout)
    finally:
        runtime.cleanup()


ADDRESSES = """
import socket, sys, time
from lazycluster import Connection
dead = socket.socket()
dead.bind(("127.0.0.77", {port}))
dead.listen(0)
OPTIONS = {{"HostName": "two-addresses", "HostKeyAlias": "[127.0.0.1]:{port}"}}
full = [socket.socket() for _ in range(4)]
for client in full:
    client.setblocking(False)
    client.connect_ex(("127.0.0.77", {port}))
with Connection({alias!r}, config_file={config!r}, options=OPTIONS) as c:
    print(c.run("echo in").stdout)
"""


@needs_mounts
def test_a_dead_first_address_costs_what_it_costs_ssh(own_sshd, tmp_path):
    """ssh_config's ConnectTimeout counts for each address; ours is for the whole login."""
    hosts, program, config = tmp_path / "hosts", tmp_path / "program.py", tmp_path / "config"
    # The resolver may sort, so each address comes first once.
    hosts.write_text("127.0.0.77 two-addresses\n127.0.0.1 two-addresses\n")
    config.write_text(f"ConnectTimeout 1\n{own_sshd.config_file.read_text()}")
    text = ADDRESSES.format(port=own_sshd.port, alias=own_sshd.alias, config=str(config))
    program.write_text(text)
    script = f"mount --bind {hosts} /etc/hosts && exec {sys.executable} {program}"
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", script], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.stdout == "in\n\n", done.stderr


def test_the_error_of_a_lost_link_names_no_channel(own_sshd):
    """A probe that sshd refused is not the reason; ssh's own last words are, if there are any."""
    connection = Connection(own_sshd.alias, config_file=own_sshd.config_file)
    with connection, connection.forward_local(0, 1):  # the probe finds a closed port
        transport = connection._open().transport
        assert "channel" in transport.master.log()
        own_sshd.kill_connections()
        assert transport.wait_until_ended(TIMEOUT)
        error = transport.end_error(None)
    assert "channel" not in str(error)
    # ssh prints its reason at about the moment at which its output ends.
    assert "ssh printed" not in str(error) or "closed by remote host" in str(error)
