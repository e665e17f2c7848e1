"""The process that a function is called in: it is the function's own, whatever that does to it."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import TaskExecutionError
from support.hosts import call, cause
from support.processes import await_gone, is_alive
from support.waiting import wait_until

pytestmark = [pytest.mark.separate_host, pytest.mark.usefixtures("stays_good")]

GLOBAL = {"count": 0}


def add(a, b=1):
    return a + b


# --- In which process ---


def test_each_call_has_a_process_of_its_own(runtime):
    """Neither the supervisor's nor that of another call."""
    pids = [call(runtime, os.getpid) for _ in range(3)]
    assert len({*pids, os.getpid(), call(runtime, os.getppid)}) == 5


def test_pid_of_the_process_handle(runtime):
    """It is what the function sees as its own."""
    task = runtime.execute_function(print_pid_and_sleep, execute_async=True)
    wait_until(lambda: task.execution_log not in ([], [""]))
    assert task.execution_log == [f"{task.process.pid}\n"]
    task.process.kill()


def print_pid_and_sleep():
    import time

    print(os.getpid())
    time.sleep(600)


def test_terminated_function_is_gone(runtime):
    """terminate() returns when its process has ended."""
    task = runtime.execute_function(print_pid_and_sleep, execute_async=True)
    pid = wait_until(lambda: task.process.pid)
    task.process.terminate()
    assert not is_alive(pid)
    assert task.process.exitcode == -15


def test_f25_globals_do_not_leak_between_calls(runtime):
    """What a call changes is gone in the next."""

    def count():
        GLOBAL["count"] += 1
        os.environ["LEFT"] = "yes"
        os.chdir("/")
        sys.modules["left_4711"] = sys
        return GLOBAL["count"]

    def look():
        return GLOBAL["count"], os.environ.get("LEFT"), os.getcwd(), "left_4711" in sys.modules

    assert call(runtime, count) == 1
    assert call(runtime, count) == 1
    assert call(runtime, look) == (0, None, runtime.working_dir, False)


def test_random_numbers_differ_between_calls(runtime):
    """Forked processes would all draw the same."""
    assert len({call(runtime, lambda: random.random()) for _ in range(4)}) == 4


def test_environment_of_a_function(runtime):
    """Its own variables, the Runtime's, and the working directory."""
    task = RuntimeTask().run_function(lambda: (os.environ["A"], os.environ["WORKING_DIR"]))
    task.env_variables = {"A": "1"}
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [("1", runtime.working_dir)]


def test_working_directory_of_a_function(runtime):
    """That of the Runtime."""
    assert call(runtime, os.getcwd) == runtime.working_dir


def test_f15_standard_input_of_a_function_is_empty(runtime):
    """input() does not wait for anybody."""
    assert call(runtime, lambda: sys.stdin.read()) == ""


def test_f25_function_may_start_processes(runtime):
    """subprocess and multiprocessing work, and what they print is logged."""

    def start():
        import multiprocessing
        import subprocess

        subprocess.run(["echo", "from a child"], check=True)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2])

    task = runtime.execute_function(start)
    assert list(task.function_returns) == [[1, 2]]
    assert task.execution_log == ["from a child\n"]


def test_f25_function_may_use_threads(runtime):
    """The process is an ordinary one."""

    def use():
        found = []
        thread = threading.Thread(target=found.append, args=[1])
        thread.start()
        thread.join()
        return found

    assert call(runtime, use) == [1]


def test_many_threads_call_at_once(runtime):
    """Each gets its own value."""
    with ThreadPoolExecutor(20) as pool:
        values = list(pool.map(lambda number: call(runtime, add, a=number), range(60)))
    assert values == [number + 1 for number in range(60)]


# --- What it starts and leaves ---


def test_f25_function_that_comes_back_in_both_processes_of_a_fork(runtime):
    """The value is that of the process that was called; the other one ends."""

    def fork():
        child = os.fork()
        if child == 0:
            print("child")
        else:
            os.waitpid(child, 0)
        return (child, b"x" * 2**20)

    task = runtime.execute_function(fork)
    ((child, filling),) = task.function_returns
    assert len(filling) == 2**20
    assert child > 0
    assert task.execution_log == ["child\n"]


@pytest.mark.parametrize("how", ["raise", "exit", "return"])
def test_f25_forked_child_that_outlives_its_parent(runtime, how, both_sides):
    """However it comes back, it is no ending of the function, which has returned."""

    def fork(gate):
        child = os.fork()
        if child:
            return child
        while not os.path.exists(gate):
            time.sleep(0.01)
        if how == "raise":
            raise ValueError("in the child")
        if how == "exit":
            sys.exit(3)
        return 0

    child = call(runtime, fork, gate=str(both_sides / "gate"))
    assert is_alive(child)
    (both_sides / "gate").touch()
    wait_until(lambda: not is_alive(child))


def test_f25_forked_child_that_raises_is_seen_in_the_log(runtime):
    """As it is on a terminal; it ends with status 1."""

    def fork():
        child = os.fork()
        if child == 0:
            raise ValueError("in the child")
        return os.WEXITSTATUS(os.waitpid(child, 0)[1])

    task = runtime.execute_function(fork)
    assert list(task.function_returns) == [1]
    assert "ValueError: in the child" in task.execution_log[0]


def test_a_fork_of_a_function_knows_that_it_has_one_thread(runtime):
    """`threading` sees to that in each fork; ours leave it to those of users."""

    def fork():
        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        thread.start()
        child = os.fork()
        if child == 0:
            os._exit(10 + threading.active_count())
        status = os.waitpid(child, 0)[1]
        over.set()
        thread.join()
        return status

    assert os.WEXITSTATUS(call(runtime, fork)) == 11


@pytest.mark.skipif(not hasattr(threading, "get_native_id"), reason="Python 3.7 has none")
@pytest.mark.parametrize("preload", [[], ["json"]])
def test_the_main_thread_of_a_function_knows_its_number(make_runtime, preload):
    runtime = make_runtime(preload=preload)
    for _ in range(3):
        pid, number, main = call(runtime, _numbers)
        assert pid == number == main


def _numbers():
    return os.getpid(), threading.get_native_id(), threading.main_thread().native_id


def test_f25_daemon_threads_end_with_the_function(runtime):
    def start():
        thread = threading.Thread(target=time.sleep, args=[600], daemon=True)
        thread.start()
        return os.getpid()

    pid = call(runtime, start)
    await_gone([pid])  # it may be about to exit


def test_f25_thread_that_raises_or_exits_is_no_ending(runtime):
    """As in any Python the thread ends; what it raised is in the log."""

    def start():
        for target in (sys.exit, int.__new__):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        return "value"

    task = runtime.execute_function(start)
    assert list(task.function_returns) == ["value"]
    assert "TypeError" in task.execution_log[0]


def leave_children():
    import subprocess

    one = subprocess.Popen(["sleep", "600"])
    two = os.fork()
    if two == 0:
        time.sleep(600)
    print(one.pid, two)
    return [one.pid, two]


def test_f25_children_outlive_the_function_until_the_task_is_stopped(runtime):
    """They hold nothing up, and run on while the task goes on."""
    task = RuntimeTask().run_function(leave_children).run_command("sleep 600")
    runtime.execute_task(task)
    wait_until(lambda: len(task.execution_log) == 2)  # the second step has begun
    pids = task.execution_log[0].split()
    assert len(pids) == 2
    assert all(is_alive(int(pid)) for pid in pids)
    task.process.terminate()
    assert not any(is_alive(int(pid)) for pid in pids)


def test_f25_children_end_with_the_connection(own_runtime):
    """All that the function has started is gone when it is closed."""
    pids = call(own_runtime, leave_children)
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    own_runtime.cleanup()
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))


# --- What it changes ---


def test_f25_what_a_function_sets_the_next_does_not_have(runtime):
    """Mask, signals, limits, directory, locale, time zone, and the modules that are loaded."""

    def look():
        import locale
        import resource

        return (
            os.umask(0o777),
            [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)],
            sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            resource.getrlimit(resource.RLIMIT_NOFILE),
            os.getcwd(),
            os.getpriority(os.PRIO_PROCESS, 0),
            locale.setlocale(locale.LC_ALL),
            time.tzname,
            sys.getrecursionlimit(),
            sys.path,
        )

    def change():
        import locale
        import resource

        os.umask(0)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM])
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
        os.chdir("/")
        os.nice(5)
        locale.setlocale(locale.LC_ALL, "C")
        os.environ["TZ"] = "EST5"
        time.tzset()
        sys.setrecursionlimit(5000)
        sys.path.clear()

    before = call(runtime, look)
    assert call(runtime, change) is None
    assert call(runtime, look) == before


def break_modules():
    import builtins
    import io
    import json
    import pickle
    import traceback

    for module in (pickle, json, traceback, io):
        for name in list(vars(module)):
            if not name.startswith("_"):
                setattr(module, name, None)
    for name in ("write", "close", "fstat", "getpid", "_exit", "dup", "read"):
        setattr(os, name, None)
    builtins.open = builtins.print = None


def test_f25_function_that_breaks_modules_breaks_its_own(runtime):
    """Its value is lost, and nothing else is: the next call has modules of its own."""
    supervisor = call(runtime, os.getppid)
    with pytest.raises(TaskExecutionError):
        runtime.execute_function(break_modules)
    assert call(runtime, lambda: os.path.isdir(os.getcwd())) is True
    assert call(runtime, os.getppid) == supervisor


def test_f24_function_that_closes_all_descriptors_is_told(runtime):
    """Its value has nowhere to go; the log says why."""
    task = RuntimeTask().run_function(close_all)
    runtime.execute_task(task)
    task.join()
    assert task.error is not None
    assert "closed the pipes that its value goes through" in task.execution_log[0]


def close_all():
    os.closerange(3, 1000)
    return "value"


def test_f24_value_is_not_written_into_a_file_of_the_function(runtime, both_sides):
    """What it opens after it has closed what is not its own gets the numbers of that."""

    def work(path):
        os.closerange(3, 1000)
        for number in range(6):
            os.open(f"{path}/{number}", os.O_WRONLY | os.O_CREAT)
        return "value"

    error = cause(runtime, work, path=str(both_sides))
    assert error.exit_status == 1
    assert [file.stat().st_size for file in both_sides.iterdir()] == [0] * 6


def test_a_step_ends_when_its_process_has_let_go_of_all(own_runtime):
    """The next one finds the port free that a function listened on, however large that was."""

    def hold():
        global held
        server = socket.create_server(("127.0.0.1", 0))
        held = server, bytearray(b"x") * 200_000_000
        return server.getsockname()[1]

    def listen(port):
        socket.create_server(("127.0.0.1", port)).close()

    for _ in range(3):
        port = call(own_runtime, hold)
        call(own_runtime, listen, port=port)
