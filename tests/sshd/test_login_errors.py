"""Logins that do not come about, against real sshds: each its own error, in time, nothing left."""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import Connection, Runtime
from lazycluster._ssh.master import Master
from lazycluster.exceptions import (
    AuthenticationError,
    ConnectError,
    HostKeyError,
    InvalidRuntimeError,
)
from support.hosts import commands
from support.managers import logins
from support.waiting import wait_until


@pytest.fixture
def masters(monkeypatch):
    """The hosts of the logins that are tried from now on."""
    made = []
    original = Master.__init__

    def init(self, settings, *arguments):
        made.append(settings.host)
        original(self, settings, *arguments)

    monkeypatch.setattr(Master, "__init__", init)
    return made


@pytest.fixture
def refused(request, masters):
    """Makes a Runtime that cannot be, and gives the error, whose cause has the kind.

    It was tried once, and nothing is left.
    """

    def make(host, *, kind=ConnectError, tries=1, connect_timeout=30.0, **keywords):
        nothing_left = request.getfixturevalue("nothing_left")  # since now
        with pytest.raises(InvalidRuntimeError) as caught:
            Runtime(host, connection_kwargs={**keywords, "connect_timeout": connect_timeout})
        assert len(masters) == tries
        nothing_left()
        cause = caught.value.__cause__
        assert type(cause) is kind
        assert caught.value.host == cause.host == host
        assert "\n" not in str(caught.value)
        return caught.value

    return make


def make_key(path, passphrase=""):
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f", path]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def listen():
    """Listens on a port and does something with each connection; gives the port."""
    with contextlib.ExitStack() as stack:

        def listen(serve):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def accept():
                with contextlib.suppress(OSError):  # the test is over
                    while True:
                        with listener.accept()[0] as connection, contextlib.suppress(OSError):
                            serve(connection)

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            stack.callback(thread.join, 20)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return listener.getsockname()[1]

        yield listen


# ── F1: no way to the host ────────────────────────────────────────────────────────────────────────


def test_f1_refused_port(refused, sshd):
    """ssh's own words, and what to look at."""
    port = closed_port()
    error = refused(sshd.alias, config_file=sshd.config_file, port=port)
    assert f"port {port}: Connection refused" in str(error)
    assert "that sshd runs there" in str(error)


def test_f1_unknown_name(refused):
    """The name as it is, and what to look at."""
    error = refused("no-such-host.invalid", config_file="none")
    assert "no-such-host.invalid" in str(error)
    assert "Check the spelling" in str(error)


def no_route():
    """An address that leads nowhere, and what the system says of it."""
    for address in ("240.0.0.1", "100::1", "ff02::1"):  # reserved; to be dropped; of no interface
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.settimeout(1)
                probe.connect((address, 22))
        except TimeoutError:
            continue  # sent, and lost
        except OSError as error:
            if error.errno is None:
                continue  # a socket.timeout, which is no TimeoutError before Python 3.10
            return address, os.strerror(error.errno)
    return pytest.skip("this computer sends packets to any address")


def test_f1_no_route(refused):
    """What the system says of an address that leads nowhere."""
    address, words = no_route()
    error = refused(address, config_file="none")
    assert words in str(error)
    assert "Check the network" in str(error)


def test_f1_connections_that_nobody_answers(refused, sshd):
    """A full backlog takes no packet: the connect itself runs into connect_timeout."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        error = refused(sshd.alias, config_file=sshd.config_file, port=port, connect_timeout=1)
    assert "timed out" in str(error) or "did not answer within" in str(error)
    assert "connect_timeout" in str(error)


def test_f1_silent_port(refused, sshd):
    """What accepts connections and says nothing is given up after connect_timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        error = refused(sshd.alias, config_file=sshd.config_file, port=port, connect_timeout=0.5)
    assert "timed out" in str(error) or "did not answer within" in str(error)
    assert "connect_timeout" in str(error)


@pytest.mark.parametrize("words", [b"\0\1\2\xff" * 5000, b"SSH-1.5-old\r\n", b"x" * 70_000])
def test_f1_port_of_something_else(refused, sshd, listen, words):
    """It is told that this is no sshd, at once."""

    def serve(connection):
        connection.sendall(words)
        while connection.recv(1 << 16):  # so that ssh sees all of it, and no reset
            pass

    error = refused(sshd.alias, config_file=sshd.config_file, port=listen(serve))
    assert "not sshd" in str(error)


def test_f1_connection_raises_the_cause_itself(sshd, nothing_left):
    """Without a Runtime there is no InvalidRuntimeError around it."""
    connection = Connection(sshd.alias, config_file=sshd.config_file, port=closed_port())
    with pytest.raises(ConnectError, match="Connection refused"):
        connection.open()
    connection.close()
    nothing_left()


def test_f1_task_on_an_unusable_host_raises_connect_error(sshd):
    """execute() raises a ConnectError, which is a ValueError as in the reference."""
    connection = Connection(sshd.alias, config_file=sshd.config_file, port=closed_port())
    with pytest.raises(ValueError, match="Connection refused"):
        commands("true").execute(connection)


def test_f1_connection_may_be_tried_again(sshd, tmp_path):
    """A failure to open is not kept: the host may have come up meanwhile."""
    connection = Connection(
        sshd.alias,
        config_file=sshd.config_file,
        options={"UserKnownHostsFile": str(tmp_path / "known_hosts")},
    )
    with pytest.raises(HostKeyError):
        connection.open()
    (tmp_path / "known_hosts").write_text(sshd.known_hosts.read_text())
    with connection:
        assert commands("echo hi").execute(connection).execution_log == ["hi\n"]


def test_f1_failed_logins_do_not_disturb_others(sshd):
    """Of many Connections at once each has its own ending."""
    good = {"config_file": sshd.config_file}
    bad = {**good, "port": closed_port()}

    def log_in(number):
        with pytest.raises(ConnectError, match="Connection refused"):
            Connection(sshd.alias, **bad).open()
        with Connection(sshd.alias, **good) as connection:
            return commands(f"echo {number}").execute(connection).execution_log

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(log_in, range(8))) == [[f"{number}\n"] for number in range(8)]


def test_f1_the_cure_is_a_command_that_can_be_run(refused, sshd):
    """It has the port, the config file and what else was asked for."""
    error = refused(
        sshd.alias,
        kind=HostKeyError,
        config_file=sshd.config_file,
        options={"UserKnownHostsFile": os.devnull},
    )
    assert f"`ssh -F {sshd.config_file} -o UserKnownHostsFile={os.devnull} {sshd.alias}`" in str(
        error
    )


# ── F2, F4: no way to authenticate ────────────────────────────────────────────────────────────────


def test_f2_no_accepted_key(refused, sshd, tmp_path):
    """The methods that the host has, and the cure."""
    error = refused(
        "127.0.0.1",
        kind=AuthenticationError,
        config_file="none",
        user=sshd.user,
        port=sshd.port,
        identity_file=make_key(tmp_path / "key"),
        options={
            "UserKnownHostsFile": str(sshd.known_hosts),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
        },
    )
    assert "Permission denied (publickey" in str(error)
    assert "identity_file" in str(error)


def test_f2_host_that_wants_a_password(refused, make_sshd):
    """It is told what to give."""
    sshd = make_sshd(sshd_config=["PasswordAuthentication yes", "PubkeyAuthentication no"])
    error = refused(sshd.alias, kind=AuthenticationError, config_file=sshd.config_file)
    assert "Permission denied (password" in str(error)
    assert "password=" in str(error)


def test_f4_host_that_wants_a_second_factor(refused, make_sshd):
    """A key alone is not enough, and no question is asked."""
    lines = ["PasswordAuthentication yes", "AuthenticationMethods publickey,password"]
    sshd = make_sshd(sshd_config=lines)
    error = refused(sshd.alias, kind=AuthenticationError, config_file=sshd.config_file)
    assert "Permission denied (password" in str(error)
    assert "interactive=True" in str(error)


@pytest.mark.parametrize("name", ["key", "a key"])
def test_f4_key_with_a_passphrase(refused, make_sshd, tmp_path, name):
    """It is named with the cure, though ssh passes over it in silence."""
    sshd = make_sshd()
    key = make_key(tmp_path / name, "secret")
    with open(sshd.folder / "authorized_keys", "a") as file:
        file.write((tmp_path / f"{name}.pub").read_text())
    error = refused(
        "127.0.0.1",
        kind=AuthenticationError,
        config_file="none",
        user=sshd.user,
        port=sshd.port,
        identity_file=key,
        options={"UserKnownHostsFile": str(sshd.known_hosts), "IdentityAgent": "none"},
    )
    assert f"{shlex.quote(str(key))} has a passphrase" in str(error)
    assert "ssh-add" in str(error)
    assert "interactive=True" in str(error)
    assert logins(sshd) == 0


def test_f4_security_key_that_is_not_plugged_in(refused, make_sshd, tmp_path):
    """ssh's own reason, and what to do."""
    sshd = make_sshd()
    public = write_security_key(tmp_path / "key")
    with open(sshd.folder / "authorized_keys", "w") as file:
        file.write(public)
    error = refused(
        "127.0.0.1",
        kind=AuthenticationError,
        config_file="none",
        user=sshd.user,
        port=sshd.port,
        identity_file=tmp_path / "key",
        options={
            "UserKnownHostsFile": str(sshd.known_hosts),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
        },
    )
    assert "sign_and_send_pubkey" in str(error)
    assert "security key" in str(error)
    assert logins(sshd) == 0


def write_security_key(path):
    """Write a private key whose secret is in a device that does not exist; the public one."""

    def string(data):
        return struct.pack(">I", len(data)) + data

    # Any point of the curve will do; this one is of RFC 8032, 7.1.
    point = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    public = string(b"sk-ssh-ed25519@openssh.com") + string(bytes.fromhex(point)) + string(b"ssh:")
    private = b"same" * 2 + public + b"\1" + string(b"h" * 64) + string(b"") * 2
    private += bytes(range(1, 1 + -len(private) % 8))
    header = b"openssh-key-v1\0" + string(b"none") * 2 + string(b"") + struct.pack(">I", 1)
    blob = base64.encodebytes(header + string(public) + string(private)).decode()
    name = "OPENSSH PRIVATE KEY-----"  # in two parts, so that no scanner takes this file for a key
    path.touch(0o600)
    path.write_text(f"-----BEGIN {name}\n{blob}-----END {name}\n")
    line = f"sk-ssh-ed25519@openssh.com {base64.b64encode(public).decode()}\n"
    path.with_suffix(".pub").write_text(line)
    return line


# ── a dead jump host ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def through(tmp_path):
    """Gives the config file of a host that is behind `my-jump`.

    What it says of the host it says of the jump host, too, save for the lines that are given.
    """

    def write(sshd, *lines):
        first, rest = sshd.config_file.read_text().split("\n", 1)
        text = ["Host my-jump", *lines, first, "ProxyJump my-jump", f"{first} my-jump", rest]
        (tmp_path / "config").write_text("\n".join(text))
        return {"config_file": str(tmp_path / "config")}

    return write


def test_f1_jump_host_that_works(sshd, through):
    """So that what follows fails for its own reason."""
    with Connection(sshd.alias, **through(sshd)) as connection:
        assert connection.run("echo hi").stdout == "hi\n"


def test_f1_jump_host_refuses(refused, sshd, through):
    """Its name and address, and ssh's words."""
    port = closed_port()
    error = refused(sshd.alias, **through(sshd, f"Port {port}"))
    assert "behind the jump host my-jump" in str(error)
    assert f"port {port}: Connection refused" in str(error)


def test_f1_jump_host_with_an_unknown_name(refused, sshd, through):
    """Its name and ssh's words."""
    error = refused(sshd.alias, **through(sshd, "Hostname no-such-host.invalid"))
    assert "behind the jump host my-jump" in str(error)
    assert "Could not resolve hostname no-such-host.invalid" in str(error)


def test_f1_jump_host_is_silent(refused, sshd, through):
    """connect_timeout reaches through it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        keywords = through(sshd, f"Port {silent.getsockname()[1]}")
        error = refused(sshd.alias, connect_timeout=0.5, **keywords)
    assert "jump host my-jump" in str(error)
    assert "connect_timeout" in str(error)


def test_f2_jump_host_accepts_no_key(refused, sshd, through):
    """An AuthenticationError that says where."""
    keywords = through(sshd, "User somebody-else")
    error = refused(sshd.alias, kind=AuthenticationError, **keywords)
    assert "behind the jump host my-jump" in str(error)
    assert "somebody-else@127.0.0.1: Permission denied" in str(error)
    assert "That is the jump host" in str(error)


def test_f3_jump_host_whose_key_is_unknown(refused, sshd, through, tmp_path):
    """A HostKeyError that says whose, and how to accept it."""
    keywords = through(sshd, f"UserKnownHostsFile {tmp_path}/none")
    error = refused(sshd.alias, kind=HostKeyError, **keywords)
    assert "behind the jump host my-jump" in str(error)
    assert f"Run `ssh -F {keywords['config_file']} {sshd.alias}` once" in str(error)


def test_f1_jump_host_cannot_reach_the_host(refused, sshd, through):
    """It is not the jump host itself that refuses."""
    error = refused(sshd.alias, port=closed_port(), **through(sshd))
    assert "behind the jump host my-jump" in str(error)
    assert "The jump host cannot reach the host" in str(error)


def test_f1_jump_host_that_lets_nobody_through(refused, make_sshd, through):
    """Its own sshd forbids it."""
    sshd = make_sshd(sshd_config=["AllowTcpForwarding no"])
    error = refused(sshd.alias, **through(sshd))
    assert "behind the jump host my-jump" in str(error)
    assert "AllowTcpForwarding" in str(error)


# ── F5: sshd drops logins ─────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def plugged(sshd, count):
    """Takes all the places that sshd has for logins (MaxStartups), by saying nothing."""
    with contextlib.ExitStack() as stack:

        def plug():
            place = stack.enter_context(socket.create_connection(("127.0.0.1", sshd.port), 20))
            with contextlib.suppress(ConnectionError):
                return place.recv(4) == b"SSH-"  # else a connection is still being closed

        for _ in range(count):
            wait_until(plug)
        yield


def test_f5_login_that_is_dropped_is_tried_again(make_sshd, make_runtime, masters):
    """Until there is a place; with one login in the end."""
    sshd = make_sshd(sshd_config=["MaxStartups 2"])
    with ThreadPoolExecutor(1) as pool:
        with plugged(sshd, 2):
            made = pool.submit(make_runtime, on=sshd, connect_timeout=100)
            wait_until(lambda: len(masters) > 1)
        assert made.result().echo("hi") == "hi"
    assert logins(sshd) == 1


def test_f5_login_after_a_loss_is_tried_again(make_sshd, make_runtime, masters):
    """All who lost their connections come again at once."""
    sshd = make_sshd(sshd_config=["MaxStartups 2"])
    runtime = make_runtime(on=sshd, connect_timeout=100)
    sshd.kill_connections()
    with ThreadPoolExecutor(1) as pool:
        with plugged(sshd, 2):
            said = pool.submit(runtime.echo, "hi")
            wait_until(lambda: len(masters) > 2)
        assert said.result() == "hi"
    assert logins(sshd) == 2


@pytest.mark.parametrize("jump_drops", [True, False], ids=["jump host", "host behind it"])
def test_f5_login_through_a_jump_host_is_tried_again(sshd, make_sshd, through, masters, jump_drops):
    """Whichever of the two drops it."""
    full = make_sshd(sshd_config=["MaxStartups 2"])
    host, jump = (sshd, full) if jump_drops else (full, sshd)
    lines = [f"Port {jump.port}", f"IdentityFile {jump.user_key}"]
    keywords = through(host, *lines, f"UserKnownHostsFile {jump.known_hosts}")
    with Connection(host.alias, **keywords, connect_timeout=100) as first:  # it can be done
        first.close()
        with ThreadPoolExecutor(1) as pool:
            with plugged(full, 2):
                opened = pool.submit(first.open)
                wait_until(lambda: len(masters) > 2)
            opened.result()
        assert first.run("echo hi").stdout == "hi\n"


def test_f5_many_logins_at_once_all_come_up(make_sshd, monkeypatch):
    """Against an sshd that drops a third of them from the third on, and all from the fifth on."""
    # As often as it takes where every login is slow.
    monkeypatch.setattr("lazycluster._conversation.login.BACK_OFF", (1.0,) * 100)
    sshd = make_sshd(sshd_config=["MaxStartups 2:30:4"])
    keywords = {"config_file": sshd.config_file, "connect_timeout": 100}

    def echo(number):
        runtime = Runtime(sshd.alias, connection_kwargs=keywords)
        try:
            return runtime.echo(str(number))
        finally:
            runtime.cleanup()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(echo, range(8))) == [str(number) for number in range(8)]
    assert logins(sshd) == 8


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_f5_door_that_stays_shut(refused, sshd, listen, reset, monkeypatch):
    """A few tries; the error names what may be the cause."""
    monkeypatch.setattr("lazycluster._conversation.login.BACK_OFF", (0.01,) * 2)

    def serve(connection):
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    keywords = {"config_file": sshd.config_file, "port": listen(serve)}
    error = refused(sshd.alias, tries=3, connect_timeout=90, **keywords)
    assert "MaxStartups" in str(error)
    assert "PerSourcePenalties" in str(error)


def test_f5_all_tries_are_within_connect_timeout(refused, sshd, listen, monkeypatch):
    """None is begun that could not be."""
    monkeypatch.setattr("lazycluster._conversation.login.BACK_OFF", (3600.0,) * 5)
    port = listen(lambda _: None)
    error = refused(sshd.alias, config_file=sshd.config_file, port=port)
    assert "MaxStartups" in str(error)


def test_f5_close_ends_the_tries(sshd, listen, monkeypatch):
    """The waiting thread gets the error at once, and no login follows."""
    monkeypatch.setattr("lazycluster._conversation.login.BACK_OFF", (3600.0,) * 5)
    came = threading.Event()
    port = listen(lambda _: came.set())
    connection = Connection(
        sshd.alias, config_file=sshd.config_file, port=port, connect_timeout=36_000
    )
    with ThreadPoolExecutor(1) as pool, contextlib.closing(connection):
        opened = pool.submit(connection.open)
        assert came.wait(100)
        wait_until(lambda: connection._current is not None and connection._current.transport.ended)
        connection.close()
        with pytest.raises(ConnectError, match="MaxStartups"):
            opened.result(60)
