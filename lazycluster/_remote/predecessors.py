"""End the supervisors of connections that this one replaces.

The manager finds out sooner than the host that a link has gone silent. Until `orphan_timeout` has
passed, the lost supervisor and its steps live on, and a step that the manager repeats would run
beside the first one. So a new login names the tokens of the lost ones.
"""

import os
import signal
import time

END_TIMEOUT = 6.0  # seconds for a supervisor to end what it started; it needs at most 5
POLL_INTERVAL = 0.02  # seconds


def end_predecessors(tokens: "list[str]") -> "None":
    """End each supervisor with one of the tokens, and wait until its processes have gone.

    A token is in the argv of the supervisor and of all processes forked from it. Without /proc no
    process can be verified, and none is signalled.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for token in tokens:
            carriers = _carriers(token.encode("ascii"))
            if carriers:
                supervisor = min(carriers, key=carriers.__getitem__)
                _signal(supervisor, number)
                _signal(supervisor, signal.SIGCONT)  # it may be stopped
        until = time.monotonic() + END_TIMEOUT
        while any(_carriers(token.encode("ascii")) for token in tokens):
            if time.monotonic() > until:
                break
            time.sleep(POLL_INTERVAL)
        else:
            return


def _signal(pid: "int", number: "int") -> "None":
    try:
        os.kill(pid, number)
    except OSError:  # it has just ended
        return


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
