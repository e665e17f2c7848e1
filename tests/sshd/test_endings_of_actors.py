"""How actors end, and what their users see then."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lazycluster.exceptions import (
    ActorLostError,
    ConnectionLostError,
    LazyclusterError,
    RemoteFunctionError,
    StepTimeoutError,
)
from support.managers import sshs
from support.processes import await_gone, is_alive, parent, read_pid
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


class Worker:
    """Ends in many ways."""

    def __init__(self, ending=None):
        self.file = None
        self.count = 0
        if ending is not None:
            getattr(self, ending)()

    def pid(self):
        return os.getpid()

    def die(self):
        os._exit(7)

    def kill(self, number=signal.SIGKILL):
        os.kill(os.getpid(), number)

    def crash(self):
        import ctypes

        ctypes.string_at(0)

    def close_pipes(self):
        os.closerange(3, 256)

    def sleep(self, path=None):
        if path is not None:
            Path(path).write_text(str(os.getpid()))
        time.sleep(1000)

    def stubborn(self, path):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.sleep(path)

    def leave_child(self):
        return subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL).pid

    def leave_fork(self):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        process.daemon = True
        process.start()
        return process.pid

    def at_end(self, folder):
        self.file = open(os.path.join(folder, "buffer"), "w")
        self.file.write("written")
        self.folder = folder
        atexit.register(Path(folder, "atexit").touch)
        print("no newline", end="")

    def hang_at_end(self):
        atexit.register(time.sleep, 1000)

    def write_and_nap(self, path, seconds):
        Path(path).write_text(str(os.getpid()))
        self.nap(seconds)

    def naps(self):
        return self.count

    def nap(self, seconds):
        time.sleep(seconds)
        self.count += 1
        return seconds

    def alarm(self):
        def fail(*_):
            raise OSError("of the handler")

        signal.signal(signal.SIGUSR1, fail)
        return os.getpid()

    def __del__(self):
        if getattr(self, "folder", None) is not None:
            Path(self.folder, "deleted").touch()


def lost(actor, method="pid", *args):
    """Return the error of a call that loses its actor."""
    with pytest.raises(ActorLostError) as raised:
        getattr(actor, method)(*args)
    return raised.value


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("die", "exit status 7"),
        ("kill", "signal 9 (SIGKILL)"),
        ("crash", "signal 11 (SIGSEGV)"),
        ("close_pipes", "exit status 1"),
    ],
)
def test_the_end_of_the_process_is_the_end_of_the_actor(runtime, method, reason):
    actor = runtime.actor(Worker)
    error = lost(actor, method)
    assert (error.host, error.started) == (runtime.host, True)
    assert reason in error.reason
    assert reason in str(error)
    assert f"Worker.{method} had started" in str(error)
    for again in (lost(actor), lost(actor, "sleep")):
        assert (again.reason, again.started) == (error.reason, False)
    with pytest.raises(ActorLostError):
        actor.submit("pid")
    actor.close()


def test_a_crash_says_where_it_was(runtime):
    error = lost(runtime.actor(Worker), "crash")
    assert "in crash" in str(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_from_outside_ends_an_idle_actor(runtime, number):
    actor = runtime.actor(Worker)
    pid = actor.pid()
    os.kill(pid, number)
    await_gone([pid])
    wait_until(lambda: actor._process._end is not None)
    error = lost(actor)
    assert signal.Signals(number).name in error.reason
    assert error.started is False


def test_a_handler_that_raises_between_two_calls_ends_it(runtime):
    actor = runtime.actor(Worker)
    os.kill(actor.alarm(), signal.SIGUSR1)
    wait_until(lambda: actor._process._end is not None)
    assert "exit status 1" in lost(actor).reason


def test_calls_that_wait_have_not_started(runtime, tmp_path):
    actor = runtime.actor(Worker)
    runs = actor.submit("sleep", str(tmp_path / "pid"))
    waits = actor.submit("pid")
    os.kill(read_pid(tmp_path / "pid"), signal.SIGKILL)
    with pytest.raises(ActorLostError) as raised:
        runs.result(TIMEOUT)
    assert raised.value.started is True
    with pytest.raises(ActorLostError) as raised:
        waits.result(TIMEOUT)
    assert raised.value.started is False


def test_the_constructor_that_ends_its_process(runtime):
    with pytest.raises(RemoteFunctionError, match="exit status 7"):
        runtime.actor(Worker, "die")
    with pytest.raises(RemoteFunctionError, match="SIGKILL"):
        runtime.actor(Worker, "kill")
    with pytest.raises(StepTimeoutError, match="Worker"):
        runtime.with_options(timeout=0.2).actor(Worker, "sleep")


def test_a_timeout_ends_the_actor(runtime, tmp_path):
    actor = runtime.with_options(timeout=1).actor(Worker)
    late = actor.submit("sleep", str(tmp_path / "pid"))
    waits = actor.submit("pid")
    with pytest.raises(StepTimeoutError, match=r"Worker\.sleep"):
        late.result(TIMEOUT)
    with pytest.raises(ActorLostError, match=r"Worker.sleep took longer than 1 sec") as raised:
        waits.result(TIMEOUT)
    assert raised.value.started is False
    assert "longer than 1 seconds" in lost(actor).reason
    await_gone([int((tmp_path / "pid").read_text())])


def test_a_timeout_counts_from_when_a_call_is_sent(runtime):
    actor = runtime.with_options(timeout=3).actor(Worker)
    futures = [actor.submit("nap", 1) for _ in range(4)]
    assert [future.result(TIMEOUT) for future in futures] == [1] * 4


def test_close_does_what_python_does_at_its_end(runtime, tmp_path):
    lines = []
    with runtime.with_options(on_output=lines.append).actor(Worker) as actor:
        pid = actor.pid()
        actor.at_end(str(tmp_path))
    await_gone([pid])
    assert lines == ["no newline"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atexit", "buffer", "deleted"]
    assert (tmp_path / "buffer").read_text() == "written"
    assert lines == ["no newline"]
    error = lost(actor)
    assert (error.reason, error.started) == ("it was closed", False)
    actor.close()


@pytest.mark.parametrize("method", ["sleep", "stubborn"])
def test_close_ends_a_call_that_does_not_end(own_runtime, tmp_path, method):
    actor = own_runtime.actor(Worker)
    runs, waits = actor.submit(method, str(tmp_path / "pid")), actor.submit("pid")
    pid = read_pid(tmp_path / "pid")
    actor.close()
    await_gone([pid])
    with pytest.raises(ActorLostError, match="closed"):
        runs.result(TIMEOUT)
    with pytest.raises(ActorLostError, match="closed") as raised:
        waits.result(TIMEOUT)
    assert raised.value.started is False


def test_close_waits_for_a_call_that_ends(runtime):
    actor = runtime.actor(Worker)
    future = actor.submit("nap", 0.5)
    actor.close()
    assert future.result(TIMEOUT) == 0.5


@pytest.mark.parametrize("is_busy", [False, True])
def test_close_ends_what_hangs_at_the_end(runtime, is_busy):
    actor = runtime.actor(Worker)
    actor.hang_at_end()
    pid = actor.pid()
    future = actor.submit("nap", 0.3) if is_busy else None
    actor.close()
    await_gone([pid])
    assert future is None or future.result(TIMEOUT) == 0.3


def test_an_actor_that_is_freed_is_closed(runtime):
    actor = runtime.actor(Worker)
    pid = actor.pid()
    future = actor.submit("pid")
    del actor
    gc.collect()
    assert future.result(TIMEOUT) == pid
    del future
    gc.collect()
    await_gone([pid])


def test_an_actor_in_an_expression(runtime):
    pid = runtime.actor(Worker).pid()
    await_gone([pid])


@pytest.mark.parametrize("method", ["leave_child", "leave_fork"])
def test_children_of_an_actor_end_with_the_connection(own_runtime, method):
    actor = own_runtime.actor(Worker)
    child = getattr(actor, method)()
    assert is_alive(child)
    own_runtime.close()
    await_gone([child])


def test_the_end_of_the_runtime_ends_its_actors(make_runtime):
    runtime = make_runtime()
    actor = runtime.actor(Worker)
    pid, runs = actor.pid(), actor.submit("sleep")
    wait_until(runs.running)
    runtime.close()
    await_gone([pid])
    with pytest.raises(ActorLostError, match="was closed") as raised:
        runs.result(TIMEOUT)
    assert raised.value.started is None
    assert isinstance(raised.value.__cause__, ConnectionLostError)
    assert lost(actor).started is False


def test_the_end_of_the_supervisor_ends_it_and_a_login_does_not_bring_it_back(own_runtime):
    actor = own_runtime.actor(Worker)
    pid = actor.pid()
    os.kill(parent(pid), signal.SIGKILL)
    await_gone([pid])
    wait_until(lambda: actor._process._end is not None)
    assert own_runtime.call(divmod, 7, 2) == (3, 1)
    error = lost(actor)
    assert "connection" in error.reason
    assert isinstance(error.__cause__, ConnectionLostError)


def test_the_end_of_ssh_ends_it_with_what_ssh_has_said(own_sshd, make_runtime, nothing_left):
    runtime = make_runtime(on=own_sshd)
    actor = runtime.actor(Worker)
    pid, runs = actor.pid(), actor.submit("sleep")
    wait_until(runs.running)
    for ssh in sshs(own_sshd):
        os.kill(ssh, signal.SIGKILL)
    await_gone([pid])
    with pytest.raises(ActorLostError, match=r"connection to .* was lost") as raised:
        runs.result(TIMEOUT)
    assert raised.value.started is None
    assert isinstance(raised.value.__cause__, ConnectionLostError)
    runtime.close()
    nothing_left()


def test_an_interrupt_leaves_a_method_running_and_the_next_call_waits(runtime, tmp_path):
    """Nothing can interrupt a method safely."""
    actor = runtime.actor(Worker)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().ident
    thread = threading.Thread(target=interrupt_when_it_runs, args=(tmp_path / "pid", main))
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            actor.write_and_nap(str(tmp_path / "pid"), 1)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert actor.naps() == 1
    actor.close()


def interrupt_when_it_runs(path, thread):
    wait_until(path.exists)
    signal.pthread_kill(thread, signal.SIGUSR1)


def test_the_end_of_its_branch_ends_it(own_runtime):
    actor = own_runtime.with_options(preload=["wave"]).actor(Worker)
    pid = actor.pid()
    os.kill(parent(pid), signal.SIGKILL)
    wait_until(lambda: actor._process._end is not None)
    assert "wave" in lost(actor).reason


def test_a_forked_child_of_the_manager_does_not_use_it(runtime):
    actor = runtime.actor(Worker)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            actor.pid()
        except LazyclusterError as error:
            os.write(writing, str(error).encode())
        finally:
            actor.close()
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        assert "forked" in pipe.read()
    os.waitpid(pid, 0)
    assert is_alive(actor.pid())


PROGRAM = """
import os, sys
from lazycluster import Runtime

class Worker:
    def pid(self):
        return os.getpid()

    def sleep(self):
        import time
        time.sleep(1000)

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
actor = runtime.actor(Worker)
print(actor.pid(), flush=True)
if sys.argv[3] == "busy":
    actor.submit("sleep")
elif sys.argv[3] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["idle", "busy", "killed"])
def test_the_end_of_the_program_ends_it(sshd, how):
    argv = [sys.executable, "-c", PROGRAM, sshd.alias, str(sshd.config_file), how]
    ended = subprocess.run(argv, capture_output=True, timeout=TIMEOUT)
    await_gone([int(ended.stdout)])
    assert ended.returncode == (-signal.SIGKILL if how == "killed" else 0)
    assert ("1 submitted call was still running" in ended.stderr.decode()) is (how == "busy")
