"""Ports in use, by real sockets."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from lazycluster._shared import ports
from support.machine import may_bind as may_bind_address
from support.machine import needs_ipv6
from support.waiting import wait_until

ADDRESSES = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"]
NOBODY = 65534


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bind(stack):
    """Return a function that binds sockets, to an unused port unless one is given."""

    def bind(address, port=0, *, reuse=False, dual=False):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual))
            bound.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                pytest.skip(f"this host does not have {address}")
            raise
        return bound

    return bind


@pytest.fixture
def listen(bind):
    """Like bind, and listens."""

    def listen(*arguments, **options):
        bound = bind(*arguments, **options)
        bound.listen(1)
        return bound

    return listen


@pytest.fixture
def free_port(bind):
    """A port that was free a moment ago."""
    bound = bind("127.0.0.1")
    port = port_of(bound)
    bound.close()
    return port


@pytest.fixture
def connect(stack):
    """Both ends of a connection to a listening socket: the client's and the server's."""

    def connect(listener):
        client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        server, _ = listener.accept()
        return client, stack.enter_context(server)

    return connect


def port_of(bound):
    return bound.getsockname()[1]


def may_bind(port, *, reuse):
    """Whether a server could, as the system has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


# --- Ports in use ---


def test_a_port_of_nobody_is_free(free_port):
    """Nothing is bound, and nothing answers."""
    assert ports.port_is_free(free_port)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("address", ADDRESSES)
def test_f39_a_port_that_is_listened_on_is_not_free(listen, address, reuse):
    """Whatever the address."""
    assert not ports.port_is_free(port_of(listen(address, reuse=reuse)))


def test_a_port_that_is_listened_on_for_both_families_is_not_free(listen):
    """One socket may serve IPv4 and IPv6."""
    assert not ports.port_is_free(port_of(listen("::", dual=True)))


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_port_that_is_only_bound_is_not_free(bind, address, reuse):
    """Its owner is about to listen. (With SO_REUSEADDR the system would let two bind it.)"""
    if reuse and not os.path.exists("/proc/net/tcp"):
        pytest.skip("this cannot be seen without /proc")
    # Closed connections of another test may be left on the port: then nothing tells the two apart.
    port = wait_until(lambda: unused(port_of(bind(address, reuse=reuse))))
    assert not ports.port_is_free(port)


def unused(port):
    """Return the port if no connection has it, else None."""
    return None if ports._sockets(port) else port


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_a_port_that_its_listener_shares_is_not_free(stack):
    """SO_REUSEPORT lets in those who ask for it."""
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    assert not ports.port_is_free(port_of(listener))


def test_a_port_with_a_full_queue_is_not_free(stack, listen):
    """Its listener accepts nothing, and the check does not wait for it."""
    listener = listen("127.0.0.1")
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    assert not ports.port_is_free(port_of(listener))


def test_a_listener_is_not_connected_to(listen):
    """Binding has told enough; a service sees nothing of it."""
    listener = listen("127.0.0.1")
    ports.port_is_free(port_of(listener))
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_the_question_leaves_the_port_free(free_port):
    """It can be asked again."""
    assert [ports.port_is_free(free_port) for _ in range(3)] == [True] * 3


ASK_OFTEN = """
import sys
from lazycluster._shared import ports
sys.exit(sum(not ports.port_is_free(int(sys.argv[1])) for _ in range(300)) > 0)
"""


def test_several_may_ask_at_the_same_time(free_port):
    """A group asks all names of one machine at once; the question binds the port."""
    argv = [sys.executable, "-c", ASK_OFTEN, str(free_port)]
    asking = [subprocess.Popen(argv) for _ in range(3)]
    assert [process.wait() for process in asking] == [0] * 3


def test_the_port_can_be_used_after_the_question(free_port, listen):
    """By a server without SO_REUSEADDR."""
    ports.port_is_free(free_port)
    assert port_of(listen("127.0.0.1", free_port)) == free_port


def test_a_port_is_free_again_when_its_listener_has_gone(listen):
    """At once."""
    listener = listen("0.0.0.0")
    port = port_of(listener)
    listener.close()
    assert ports.port_is_free(port)


# --- Left over from connections ---


def test_f39_time_wait_is_free(listen, connect):
    """The server closed first; the next can listen, as servers have SO_REUSEADDR."""
    listener = listen("127.0.0.1", reuse=True)
    port = port_of(listener)
    client, server = connect(listener)
    server.close()
    assert client.recv(1) == b""
    client.close()
    listener.close()
    assert not may_bind(port, reuse=False)
    assert ports.port_is_free(port)


def test_a_connection_that_outlives_its_listener_is_free(listen, connect):
    listener = listen("127.0.0.1", reuse=True)
    port = port_of(listener)
    connect(listener)
    listener.close()
    assert not may_bind(port, reuse=False)
    assert ports.port_is_free(port)


def test_a_listener_among_connections_is_not_free(listen, connect):
    """What is left over does not hide it."""
    listener = listen("127.0.0.1", reuse=True)
    connect(listener)
    assert not ports.port_is_free(port_of(listener))


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="so it is on Linux")
def test_leftovers_that_nobody_can_bind_over_are_not_free(listen, connect):
    """The server had no SO_REUSEADDR: for a minute Linux refuses the port."""
    listener = listen("127.0.0.1", reuse=False)
    port = port_of(listener)
    client, server = connect(listener)
    server.close()
    assert client.recv(1) == b""
    client.close()
    listener.close()
    assert not may_bind(port, reuse=True)
    assert not ports.port_is_free(port)


# --- Where binding tells nothing ---


@pytest.fixture
def not_allowed(monkeypatch):
    """Every port is as those below 1024 are."""
    monkeypatch.setattr(ports, "_bind", lambda address, port, reuse: errno.EACCES)


@pytest.fixture
def without_proc(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(ports, "SOCKET_TABLES", ("/nonexistent/tcp",))


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="needs /proc/net/tcp")
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_listener_on_a_port_that_may_not_be_bound_is_seen(not_allowed, listen, address):
    """In the system's tables, also where loopback does not reach it."""
    assert not ports.port_is_free(port_of(listen(address)))


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", pytest.param("::", marks=needs_ipv6), "::1"]
)
def test_a_listener_that_answers_is_seen(not_allowed, without_proc, listen, address):
    """By connecting."""
    assert not ports.port_is_free(port_of(listen(address)))


def test_a_port_that_may_not_be_bound_can_be_free(not_allowed, free_port):
    """A connection is refused."""
    assert ports.port_is_free(free_port)


def as_nobody(port):
    """Whether the port is free, asked by an account that may not bind it."""
    code = (
        "import ports, errno, os, socket\n"
        f"if os.getuid() == 0: os.setuid({NOBODY})\n"
        f"may_not = ports._bind('0.0.0.0', {port}, False) == errno.EACCES\n"
        f"print(may_not, ports.port_is_free({port}))"
    )
    may_not, free = python_prints(sys.executable, code).split()
    if may_not == b"False":
        pytest.skip("here everybody may bind every port")
    return free == b"True"


def test_a_low_port_is_free_for_others_than_root():
    """They may not bind it, but no process has it."""
    assert as_nobody(7)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to listen on a low port")
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_listener_on_a_low_port_is_seen_by_others_than_root(listen, address):
    """On all addresses."""
    port = next(port for port in range(1023, 600, -1) if ports.port_is_free(port))
    listen(address, port)
    assert not as_nobody(port)


def test_silence_is_somebody(monkeypatch, stack, listen):
    """A full queue, or a rule that drops packets; it takes half a second at most."""
    listener = listen("127.0.0.1")
    listener.listen(0)
    for _ in range(3):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    monkeypatch.setattr(ports, "CONNECT_TIMEOUT", 0.05)
    assert ports._answers("127.0.0.1", port_of(listener))


def test_a_socket_connected_to_itself_is_nobody(monkeypatch, free_port):
    """The system may pick the very port as the source, and TCP allows it."""
    with_source(monkeypatch, free_port)
    assert not ports._answers("127.0.0.1", free_port)


def test_a_socket_connected_to_itself_leaves_nothing(monkeypatch, free_port):
    """Or the port would not be free next time."""
    with_source(monkeypatch, free_port)
    ports._answers("127.0.0.1", free_port)
    assert may_bind(free_port, reuse=False)


def with_source(monkeypatch, port):
    """Make every socket connect from a certain port."""
    connect_ex = socket.socket.connect_ex

    def connect_from_port(self, address):
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(("127.0.0.1", port))
        error = connect_ex(self, address)
        assert error == 0
        monkeypatch.undo()
        return error

    monkeypatch.setattr(socket.socket, "connect_ex", connect_from_port)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_host_without_ipv6(monkeypatch, free_port, number):
    """IPv4 decides."""
    without_ipv6(monkeypatch, number)
    assert ports.port_is_free(free_port)


def test_a_listener_on_a_host_without_ipv6(monkeypatch, listen):
    """IPv4 decides."""
    port = port_of(listen("127.0.0.1"))
    without_ipv6(monkeypatch, errno.EAFNOSUPPORT)
    assert not ports.port_is_free(port)


def without_ipv6(monkeypatch, number):
    class Socket(socket.socket):
        def __init__(self, family=-1, *arguments, **options):
            if family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", Socket)


def test_what_cannot_be_found_out_is_an_error(monkeypatch, free_port):
    """Not a port in use: there are no descriptors left."""

    def fail(*arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        ports.port_is_free(free_port)


@pytest.mark.parametrize("content", [b"", b"\n", b"x\n\n  sl\n", b"\xff\0" * 99])
def test_broken_tables_do_not_matter(monkeypatch, tmp_path, free_port, content):
    """Nor do they raise."""
    table = tmp_path / "tcp"
    table.write_bytes(content)
    monkeypatch.setattr(ports, "SOCKET_TABLES", (str(table),))
    monkeypatch.setattr(ports, "_bind", lambda address, port, reuse: errno.EACCES)
    assert ports.port_is_free(free_port)


# --- The state of a port ---


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="needs /proc/net/tcp")
@pytest.mark.parametrize("address", ADDRESSES)
def test_the_state_of_a_port_has_the_addresses_of_its_listeners(listen, address):
    """In the form that users know."""
    state = ports.port_state(port_of(listen(address)))
    assert state == {"free": False, "listeners": [address]}


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="needs /proc/net/tcp")
def test_the_state_of_a_port_has_all_its_listeners(listen):
    """IPv4 first."""
    port = port_of(listen("127.0.0.1"))
    listen("::1", port)
    listen("127.0.0.2", port)
    state = ports.port_state(port)
    assert sorted(state["listeners"]) == ["127.0.0.1", "127.0.0.2", "::1"]


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="needs /proc/net/tcp")
def test_the_state_of_a_port_has_no_connections(listen, connect):
    """Only a socket that listens is a listener."""
    listener = listen("127.0.0.1", reuse=True)
    connect(listener)
    assert ports.port_state(port_of(listener))["listeners"] == ["127.0.0.1"]
    listener.close()
    assert ports.port_state(port_of(listen("127.0.0.1")))["listeners"] == ["127.0.0.1"]


def test_the_state_of_a_free_port(free_port):
    """It has no listeners, or they cannot be seen."""
    listeners = [] if os.path.exists("/proc/net/tcp") else None
    assert ports.port_state(free_port) == {"free": True, "listeners": listeners}


def test_the_state_of_a_port_without_tables(without_proc, listen):
    """Listeners cannot be seen, which is not the same as that there are none."""
    assert ports.port_state(port_of(listen("127.0.0.1"))) == {"free": False, "listeners": None}


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("7F000001", "127.0.0.1"),
        ("0" * 31 + "1", "::1"),
        ("0" * 20 + "FFFF" + "7F000001", "::ffff:127.0.0.1"),
    ],
)
def test_addresses_of_the_tables_are_read(address, text):
    """Each 32-bit word is printed in the byte order of the host."""
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    printed = b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)
    assert ports._address_text(printed) == text


# --- The first of several ---


def test_all_free_ports_are_given_in_order_with_the_network(listen, free_port):
    """A group takes one that is free on all hosts, and compares the networks."""
    taken = [port_of(listen(address)) for address in ("127.0.0.1", "0.0.0.0")]
    found = ports.free_ports([taken[0], free_port, taken[1], free_port])
    assert found == {"free": [free_port, free_port], "network": ports.network_id()}
    assert ports.free_ports([])["free"] == []


def test_the_first_free_port_is_given(listen, free_port):
    """In the order of the list."""
    taken = [port_of(listen(address)) for address in ("127.0.0.1", "127.0.0.1")]
    assert ports.first_free_port([*taken, free_port]) == free_port


def test_the_order_is_that_of_the_list(bind):
    """Not that of the numbers."""
    pair = [bind("127.0.0.1") for _ in range(2)]
    numbers = sorted((port_of(bound) for bound in pair), reverse=True)
    for bound in pair:
        bound.close()
    assert ports.first_free_port(numbers) == numbers[0]


def test_no_free_port_is_none(listen):
    """All are in use."""
    assert ports.first_free_port([port_of(listen("127.0.0.1"))]) is None


def test_no_port_at_all_is_none():
    """An empty list has no free one."""
    assert ports.first_free_port([]) is None


# --- Every Python that a host may have ---


def python_prints(python, code, *arguments):
    argv = [python, "-B", "-s", "-W", "error", "-c", "import sys; sys.path.insert(0, sys.argv[1])"]
    argv[-1] += "\n" + code
    return subprocess.run(
        [*argv, os.path.dirname(ports.__file__), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=200,
        check=True,
    ).stdout


@pytest.mark.parametrize("address", ADDRESSES)
def test_each_python_sees_listeners(host_python, listen, address):
    """On all addresses."""
    code = "import ports; print(ports.port_is_free(int(sys.argv[2])))"
    assert python_prints(host_python, code, port_of(listen(address))) == b"False\n"


def test_each_python_finds_the_first_free(host_python, listen, free_port):
    """Behind one that is taken."""
    code = "import ports; print(ports.first_free_port([int(word) for word in sys.argv[2:]]))"
    taken = port_of(listen("127.0.0.1"))
    assert python_prints(host_python, code, taken, free_port) == b"%d\n" % free_port


# --- Whose ports they are ---

PRINT_ID = "from lazycluster._shared.ports import network_id; print(network_id())"


def printed_id(*prefix):
    done = subprocess.run([*prefix, sys.executable, "-c", PRINT_ID], stdout=subprocess.PIPE)
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def test_processes_of_one_system_share_their_ports():
    """A process and its child have the same ports."""
    assert printed_id() == str(ports.network_id()) != "None"


def test_a_network_namespace_has_ports_of_its_own():
    """As in a container."""
    other = printed_id("unshare", "--net") if shutil.which("unshare") else ""
    if not other:
        pytest.skip("this account cannot make a network namespace")
    assert other != str(ports.network_id())


@pytest.mark.parametrize(
    ("script", "found"),
    [("echo 5A0-4", ["5A0-4"]), ("echo", None), ("exit 1", None), (None, None)],
)
def test_without_proc_the_boot_session_counts(monkeypatch, tmp_path, script, found):
    """As on macOS."""
    monkeypatch.setattr(ports, "BOOT_ID", str(tmp_path / "missing"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "sysctl").write_text(
            f'#!/bin/sh\n[ "$*" = "-n kern.bootsessionuuid" ] || exit 2\n{script}\n'
        )
        (tmp_path / "sysctl").chmod(0o755)
    assert ports.network_id() == found


# --- Some addresses alone ---


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_port_is_taken_on_the_addresses_that_a_listener_covers(listen, address):
    """A wildcard covers all addresses of its family, an address itself."""
    port = port_of(listen(address))
    for asked in ("127.0.0.1", "127.0.0.2", "::1"):
        if not may_bind_address(asked):
            continue
        wildcard = "::" if ":" in asked else "0.0.0.0"
        assert ports.port_is_free(port, [asked]) == (address not in (asked, wildcard))
        assert ports.is_listened_on(asked, port) == (address in (asked, wildcard))


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="needs /proc/net/tcp")
@pytest.mark.parametrize(
    ("known", "listener", "expected"),
    [
        (["127.0.0.1"], "127.0.0.1", "localhost"),
        (["127.0.0.1"], "0.0.0.0", "localhost"),
        (["127.0.0.1"], None, "localhost"),
        (["127.0.0.1"], "::1", "::1"),
        (["127.0.0.1"], "127.0.0.2", "localhost"),
        (["::1"], "127.0.0.1", "127.0.0.1"),
        (["::1"], "0.0.0.0", "127.0.0.1"),
        (["::1", "127.0.0.1"], "::1", "localhost"),
        ([], "127.0.0.1", "127.0.0.1"),
        ([], "::1", "::1"),
        ([], None, "127.0.0.1"),
    ],
)
def test_a_service_is_reached_by_a_name_or_an_address(
    monkeypatch, listen, free_port, known, listener, expected
):
    """By localhost if that leads there; what is unknown there, or leads elsewhere, is no help."""
    if listener == "::1" and not may_bind_address("::1"):
        pytest.skip("needs ::1")

    def getaddrinfo(host, port, *arguments):
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in known]

    port = free_port if listener is None else port_of(listen(listener))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert ports.service_address(port) == expected


def test_the_socket_tables_are_not_read_where_localhost_has_both_addresses(monkeypatch):
    """Linux takes milliseconds to list them."""
    both = [(0, 0, 0, "", (address, 1)) for address in ports.LOOPBACK]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: both)
    monkeypatch.setattr(ports, "_sockets", None)
    assert ports.service_address(1) == "localhost"


def test_no_codec_is_imported_for_a_name():
    """Each forked process would import it anew, which takes milliseconds."""
    program = (
        "import sys; from lazycluster._shared import ports; ports.service_address(1); "
        "sys.exit('encodings.idna' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
