"""A function's step ends when its process has nothing left to do but to exit."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from lazycluster import RuntimeTask
from support.processes import await_gone, is_alive
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")

MOST_EXITING = 64  # of a connection


def hang_at_exit(path=None):
    """Return a value, and let this process wait where it exits, as for a dead device."""
    own = sys.modules["_lazycluster._remote.child"]
    own._exit = lambda _status: time.sleep(1000)
    Path(path or os.devnull).write_text(str(os.getpid()))
    return os.getpid()


def test_a_slow_exit_is_not_waited_for_and_then_killed(own_runtime):
    pid = own_runtime.call(hang_at_exit)
    assert is_alive(pid)
    assert own_runtime.call(divmod, 7, 2) == (3, 1)
    await_gone([pid])


def test_processes_that_exit_are_few_and_further_calls_wait(own_runtime):
    futures = [own_runtime.submit(hang_at_exit) for _ in range(MOST_EXITING + 3)]
    first = {future.result(TIMEOUT) for future in futures[:MOST_EXITING]}
    assert sum(map(is_alive, first)) == MOST_EXITING
    assert [future.result(TIMEOUT) for future in futures[MOST_EXITING:]]
    assert own_runtime.call(divmod, 7, 2) == (3, 1)


def test_the_end_of_the_connection_ends_them(own_runtime):
    pid = own_runtime.call(hang_at_exit)
    own_runtime.cleanup()
    assert not is_alive(pid)


def test_a_stop_of_the_task_ends_what_an_earlier_step_left(own_runtime, tmp_path):
    """Its process is killed with the rest of its session, although its step is over."""
    task = RuntimeTask("two steps").run_function(hang_at_exit, path=str(tmp_path / "pid"))
    task.run_command(f"touch {tmp_path}/began; exec sleep 1000")
    own_runtime.execute_task(task)
    wait_until((tmp_path / "began").exists)
    pid = int((tmp_path / "pid").read_text())
    task.stop()
    assert not is_alive(pid)


def listen(port):
    kept.append(socket.create_server(("127.0.0.1", port)))
    return kept[-1].getsockname()[1]


def lock(path):
    kept.append(os.open(path, os.O_RDWR | os.O_CREAT))
    fcntl.flock(kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)


kept = []  # until the process ends


def test_ports_and_locks_are_free_for_the_next_call(own_runtime, tmp_path):
    port = own_runtime.call(listen, 0)
    for _ in range(30):
        assert own_runtime.call(listen, port) == port
        own_runtime.call(lock, str(tmp_path / "lock"))


def print_much():
    for number in range(20000):
        print(number)
    return "end"


def test_nothing_that_it_prints_is_lost(own_runtime):
    lines = []
    view = own_runtime.with_options(on_output=lines.append)
    for _ in range(5):
        assert view.call(print_much) == "end"
        assert lines == [f"{number}\n" for number in range(20000)]
        lines.clear()


def fill(size):
    kept.append(b"x" * size)
    return os.getpid()


def test_a_large_process_is_waited_for(own_runtime):
    """The next call may need its memory."""
    pid = own_runtime.call(fill, 400 << 20)
    assert not is_alive(pid)


def open_device(path):
    import ctypes  # what may use a device without its descriptor

    kept.extend([ctypes, os.open(path, os.O_RDWR)])
    return os.getpid()


@pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="no device to open")
def test_a_process_with_a_device_is_waited_for(own_runtime):
    assert not is_alive(own_runtime.call(open_device, "/dev/net/tun"))


def kill_itself_at_exit():
    own = sys.modules["_lazycluster._remote.child"]
    own._exit = lambda _status: os.kill(os.getpid(), signal.SIGSEGV)
    return 5


def test_how_it_exits_says_nothing_about_a_value_that_has_come(own_runtime):
    assert own_runtime.call(kill_itself_at_exit) == 5
    assert own_runtime.call(divmod, 7, 2) == (3, 1)
