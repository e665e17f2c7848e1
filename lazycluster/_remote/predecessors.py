"""End the supervisors of connections that this one replaces.

The manager finds out sooner than the host that a link has gone silent. Until `orphan_timeout` has
passed, the lost supervisor and its steps live on, and a step that the manager repeats would run
beside the first one. So a new login names the tokens of the lost ones.

A lost connection's sshd lives on as well, until TCP gives up, and goes on listening on the ports
that were forwarded. It serves that connection alone, so it is ended with its supervisor.
"""

import _signal as signal  # see `child`
import os
import time

END_TIMEOUT = 6.0  # seconds for a supervisor to end what it started; it needs at most 5
POLL_INTERVAL = 0.02  # seconds
SHELLS = 3  # processes between sshd and the supervisor, at most: the login shell and the like
SESSION_SERVERS = (b"sshd", b"sshd-session")  # give themselves the title `sshd: USER@notty`


def end_predecessors(tokens: "list[str]") -> "None":
    """End each supervisor with one of the tokens, and wait until its processes have gone.

    A token is in the argv of the supervisor and of all processes forked from it. Without /proc no
    process can be verified, and none is signalled.
    """
    servers = set()  # type: set[int]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for token in tokens:
            carriers = _carriers(token.encode("ascii"))
            if carriers:
                supervisor = min(carriers, key=carriers.__getitem__)
                servers.update(_session_servers(supervisor))
                _signal(supervisor, number)
                _signal(supervisor, signal.SIGCONT)  # it may be stopped
        until = time.monotonic() + END_TIMEOUT
        while any(_carriers(token.encode("ascii")) for token in tokens):
            if time.monotonic() > until:
                break
            time.sleep(POLL_INTERVAL)
        else:
            break
    for server in servers:
        if _is_session_server(server):
            _signal(server, signal.SIGTERM)
            _signal(server, signal.SIGCONT)
    until = time.monotonic() + END_TIMEOUT
    while any(_is_session_server(server) for server in servers) and time.monotonic() < until:
        time.sleep(POLL_INTERVAL)


def _signal(pid: "int", number: "int") -> "None":
    try:
        os.kill(pid, number)
    except OSError:  # it has just ended
        return


def _session_servers(pid: "int") -> "list[int]":
    """Return the sshd of this account that serves the connection of a process, or nothing.

    It is looked for among the parents. Its title says that it serves one user without a terminal;
    the sshd that listens for connections has another one.
    """
    for _ in range(SHELLS + 1):
        try:
            with open("/proc/{}/stat".format(pid), "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # it ended just now
            break
        if pid <= 1:
            break
        if _is_session_server(pid):
            return [pid]
    return []


def serves_one_user(title: "bytes") -> "bool":
    """Return True for the title of an sshd that serves one user without a terminal."""
    program, _, rest = title.partition(b": ")
    user, is_server, _ = rest.partition(b"@notty")
    return program in SESSION_SERVERS and bool(user and is_server) and b"/" not in user


def _is_session_server(pid: "int") -> "bool":
    try:
        if os.stat("/proc/{}".format(pid)).st_uid != os.geteuid():
            return False
        with open("/proc/{}/cmdline".format(pid), "rb") as file:
            return serves_one_user(file.read())
    except OSError:
        return False


def _carriers(token: "bytes") -> "dict[int, int]":
    """Return the start times of this account's processes with the token in their argv, by pid."""
    found = {}  # type: dict[int, int]
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return found
    for name in names:
        try:
            if os.stat("/proc/" + name).st_uid != os.geteuid():
                continue
            with open("/proc/{}/cmdline".format(name), "rb") as file:
                if token not in file.read().split(b"\0"):
                    continue
            with open("/proc/{}/stat".format(name), "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it ended just now
            continue
        if fields[0] not in (b"Z", b"X"):
            found[int(name)] = int(fields[19])
    return found
