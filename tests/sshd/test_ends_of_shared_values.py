"""What ends a shared value: close(), the garbage collector, kill -9 on either side, a lost link."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lazycluster.exceptions import (
    ConnectionLostError,
    LazyclusterError,
    RemoteFunctionError,
    StepTimeoutError,
)
from support.hosts import supervisor
from support.processes import await_gone, is_alive, parent, parents, read_pid
from support.waiting import TIMEOUT, wait_until

pytestmark = [
    pytest.mark.separate_host,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc"),
]

MIB = 1 << 20


def branch_of(*_):
    return os.getppid()


def identity(x):
    return x


def sleep_and_say(path, *_):
    Path(path).write_text(str(os.getpid()))
    time.sleep(1000)


def resident(pid):
    """Return the bytes of memory that a process has, also those that it shares with its forks."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) << 10


def await_freed(pid, most):
    wait_until(lambda: resident(pid) <= most, lambda: f"{resident(pid)} bytes are in use")


# --- Memory ---


@pytest.mark.parametrize("by", ["close", "reference", "cycle"])
def test_memory_is_free_after_the_last_value(own_runtime, by):
    table = own_runtime.share(bytes(50 * MIB))
    branch = own_runtime.call(branch_of, table)
    assert resident(branch) > 50 * MIB
    if by == "close":
        table.close()
    elif by == "reference":
        del table
    else:
        cycle = [table]
        cycle.append(cycle)
        del table, cycle
        gc.collect()
    await_gone([branch])
    assert own_runtime.call(identity, own_runtime.share("x")) == "x"


def test_memory_is_free_while_other_values_stay(own_runtime):
    kept = own_runtime.share("kept")
    branch = own_runtime.call(branch_of, kept)
    before = resident(branch)
    with own_runtime.share(bytearray(50 * MIB)) as table:
        assert own_runtime.call(len, table) == 50 * MIB
        assert own_runtime.call(branch_of, table) == branch
        assert before + 45 * MIB < resident(branch) < before + 75 * MIB  # the pickle has gone
    await_freed(branch, before + 10 * MIB)
    assert own_runtime.call(identity, kept) == "kept"


def test_a_cycle_is_freed_too(own_runtime):
    kept = own_runtime.share("kept")
    branch = own_runtime.call(branch_of, kept)
    before = resident(branch)
    cycle = [bytearray(50 * MIB)]
    cycle.append(cycle)
    own_runtime.share(cycle).close()
    await_freed(branch, before + 10 * MIB)


def test_a_hundred_values_leave_nothing(own_runtime):
    view = own_runtime.with_options(preload=["wave"])  # that branch stays
    files = len(os.listdir("/proc/self/fd"))
    with view.share(bytearray(MIB)) as table:
        branch = view.call(branch_of, table)
    before, descriptors = resident(branch), len(os.listdir(f"/proc/{branch}/fd"))
    for _ in range(100):
        with view.share([bytearray(2 * MIB), list(range(1000))]) as table:
            assert view.call(len, table) == 2
    await_freed(branch, before + 20 * MIB)
    wait_until(lambda: len(os.listdir(f"/proc/{branch}/fd")) <= descriptors + 8)  # of a fork
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files + 1)  # that of the spools


def test_unused_branches_end_but_those_with_values_stay(own_runtime):
    table = own_runtime.share("x")
    branch = own_runtime.call(branch_of, table)
    for name in ["wave", "mailbox", "calendar", "sched", "cmd", "code"]:
        own_runtime.with_options(preload=[name]).call(branch_of)
    assert own_runtime.call(branch_of, table) == branch


def test_share_does_not_disturb_a_running_call(own_runtime, both_sides):
    table = own_runtime.share("first")
    path = both_sides / "go"

    def wait_for(value, path):
        while not os.path.exists(path):
            time.sleep(0.01)
        return value

    future = own_runtime.submit(wait_for, table, str(path))
    others = [own_runtime.share(bytes(MIB)) for _ in range(3)]
    assert own_runtime.call(len, others[0]) == MIB
    others[0].close()
    path.touch()
    assert future.result(TIMEOUT) == "first"
    assert own_runtime.call(identity, table) == "first"


# --- The end of a process ---


@pytest.mark.parametrize("is_running", [True, False])
def test_a_branch_that_is_killed_gets_the_value_again(own_runtime, both_sides, is_running):
    table = own_runtime.share("x")
    branch = own_runtime.call(branch_of, table)
    path = both_sides / "pid"
    future = own_runtime.submit(sleep_and_say, str(path), table) if is_running else None
    running = [read_pid(path)] if is_running else []
    os.kill(branch, signal.SIGKILL)
    if future is not None:
        with pytest.raises(RemoteFunctionError, match="signal 9"):
            future.result(TIMEOUT)
    await_gone([branch, *running])
    try:
        assert own_runtime.call(identity, table) == "x"
    except RemoteFunctionError:  # it was sent before the supervisor knew
        assert own_runtime.call(identity, table) == "x"
    assert own_runtime.call(branch_of, table) != branch


def test_after_a_lost_connection_the_value_is_sent_again(own_runtime):
    table = own_runtime.share({"a": bytes(2 * MIB)})
    branch = own_runtime.call(branch_of, table)
    os.kill(supervisor(own_runtime), signal.SIGKILL)
    await_gone([branch])
    wait_until(lambda: own_runtime._find_open_target({}) is None)
    assert own_runtime.call(len, table) == 1
    assert own_runtime.submit(len, table).result(TIMEOUT) == 1
    assert list(own_runtime.execute_function(len_of, value=table).function_returns) == [1]


def len_of(value):
    return len(value)


@pytest.mark.parametrize("use", ["submit", "task"])
def test_each_way_to_call_sends_it_again(own_runtime, use):
    table = own_runtime.share([1])
    os.kill(supervisor(own_runtime), signal.SIGKILL)
    wait_until(lambda: own_runtime._find_open_target({}) is None)
    if use == "submit":
        futures = [own_runtime.submit(len, table) for _ in range(5)]
        assert [future.result(TIMEOUT) for future in futures] == [1] * 5
    else:
        assert list(own_runtime.execute_function(len_of, value=table).function_returns) == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_supervisor_ends_all_that_hold_values(
    own_runtime, both_sides, number, nothing_left
):
    table = own_runtime.share("x")
    branch, path = own_runtime.call(branch_of, table), both_sides / "pid"
    future = own_runtime.submit(sleep_and_say, str(path), table)
    pid = read_pid(path)
    os.kill(parent(branch), number)
    with pytest.raises(ConnectionLostError):
        future.result(TIMEOUT)
    await_gone([branch, pid])
    own_runtime.cleanup()
    nothing_left()


def test_the_end_of_the_connection_ends_all_that_hold_values(make_runtime, nothing_left):
    runtime = make_runtime()
    branch = runtime.call(branch_of, runtime.share("x"))
    runtime.cleanup()
    assert not is_alive(branch)
    nothing_left()


PROGRAM = """
import sys, os, time
from lazycluster import Runtime
alias, config, path = sys.argv[1:]
def sleep(path, table):
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {os.getppid()}")
    time.sleep(1000)
runtime = Runtime(alias, config_file=config)
table = runtime.share(bytes(5 << 20))
runtime.call(sleep, path, table)
"""


def test_nothing_stays_when_the_manager_is_killed(host_sshd, both_sides):
    path = both_sides / "pids"
    argv = [sys.executable, "-c", PROGRAM, host_sshd.alias, host_sshd.config_file, path]
    manager = subprocess.Popen(list(map(str, argv)))
    try:
        pids = wait_until(lambda: path.exists() and path.read_text().split())
        wait_until(lambda: len(path.read_text().split()) == 2)
        pids = [int(pid) for pid in path.read_text().split()]
        above = parents()
    finally:
        manager.kill()
        manager.wait()
    await_gone([*pids, above[pids[1]]])


def test_a_closed_runtime_frees_nothing_twice(make_runtime):
    runtime = make_runtime()
    table = runtime.share("x")
    runtime.cleanup()
    table.close()
    with pytest.raises((ValueError, LazyclusterError)):
        runtime.call(identity, table)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return die, ()


def test_a_value_that_ends_the_process_is_an_error(own_runtime):
    good = own_runtime.share("good")
    with pytest.raises(LazyclusterError, match=r"Deadly cannot be shared.*signal 9"):
        own_runtime.share(Deadly())
    assert own_runtime.call(identity, good) == "good"


def test_a_function_that_goes_with_the_process_is_told_so(own_runtime, both_sides):
    table = own_runtime.share("x")
    running = own_runtime.submit(sleep_and_say, str(both_sides / "pid"), table)
    wait_until(lambda: (both_sides / "pid").exists())
    with pytest.raises(LazyclusterError, match="signal 9"):
        own_runtime.share(Deadly())
    with pytest.raises(RemoteFunctionError, match="signal 9, and the function with it"):
        running.result(TIMEOUT)


class Slow:
    """Takes without end to be unpickled."""

    def __reduce__(self):
        return time.sleep, (1000,)


class Holder:
    def __init__(self, value):
        self.value = value

    def length(self):
        return len(self.value)


def test_a_value_that_is_stopped_disturbs_no_user_of_another_one(own_runtime, both_sides):
    """Neither a running function nor an actor: the process that holds it goes on."""
    table = own_runtime.share([1, 2])
    running = own_runtime.submit(sleep_and_say, str(both_sides / "pid"), table)
    pid = read_pid(both_sides / "pid")
    branch = own_runtime.call(branch_of, table)
    with own_runtime.actor(Holder, table) as holder:
        for _ in range(2):
            with pytest.raises(StepTimeoutError):
                own_runtime.with_options(timeout=0.3).share(Slow())
            assert holder.length() == 2
        assert own_runtime.call(branch_of, table) == branch
        assert is_alive(pid)
        running.cancel()


class SlowToArrive:
    """Makes a file when it is unpickled, which takes three seconds more."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        wait = "[__import__('time').sleep(0.01) for _ in range(300)]"
        return eval, (f"(open({self.path!r}, 'w').close(), {wait})[1]",)


def test_to_stop_a_value_disturbs_no_other_one_on_its_way(own_runtime, both_sides):
    begun = both_sides / "begun"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        other = pool.submit(own_runtime.share, SlowToArrive(str(begun)))
        wait_until(begun.exists)
        with pytest.raises(StepTimeoutError):
            own_runtime.with_options(timeout=0.5).share("b")
        assert own_runtime.call(len, other.result(TIMEOUT)) == 300


class StartsThread:
    """Starts a thread, and takes without end then."""

    def __reduce__(self):
        start = "threading.Thread(target=time.sleep, args=[60], daemon=True).start()"
        return exec, (f"import threading, time\n{start}\ntime.sleep(1000)",)


def test_no_process_is_forked_beside_a_thread_of_a_value_that_was_stopped(own_runtime):
    """What such a thread holds, a lock for example, is never released there."""
    table = own_runtime.share("x")
    branch = own_runtime.call(branch_of, table)
    with pytest.raises(LazyclusterError):
        own_runtime.with_options(timeout=0.5).share(StartsThread())
    assert own_runtime.call(branch_of, table) != branch


def test_a_fork_of_the_manager_frees_nothing(own_runtime):
    table = own_runtime.share("x")
    child = os.fork()
    if child == 0:
        table.close()
        del table
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert own_runtime.call(identity, table) == "x"
