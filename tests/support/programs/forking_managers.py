"""Managers that fork, forget or are interrupted: programs for test_forks_and_interrupts.

    python forking_managers.py <which> <config file> <folder>

Each prints nothing and ends with status 0 if all is as it should be.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import ConnectionLostError, LazyclusterError, TaskExecutionError

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run as a file
from support.processes import all_pids, is_alive, words
from support.waiting import TIMEOUT, wait_until


def open_runtime(config_file, **connection_kwargs):
    return Runtime("loopback", connection_kwargs={"config_file": config_file, **connection_kwargs})


def run(runtime, *lines, **arguments):
    task = RuntimeTask()
    for line in lines:
        task.run_command(line)
    return runtime.execute_task(task, execute_async=False, **arguments).execution_log


def run_again(runtime, *lines):
    """Run commands, once more if they were on the connection that has just ended."""
    try:
        return run(runtime, *lines)
    except TaskExecutionError as error:
        if not isinstance(error.__cause__, ConnectionLostError):
            raise
        return run(runtime, *lines)


def start(runtime, *lines):
    task = RuntimeTask()
    for line in lines:
        task.run_command(line)
    return runtime.execute_task(task)


def in_fork(function, *arguments):
    """Call a function in a forked child, which then leaves by sys.exit; return its exit status."""
    pid = os.fork()
    if pid == 0:
        function(*arguments)
        sys.exit(7)
    ended = []

    def has_ended():
        ended[:] = os.waitpid(pid, os.WNOHANG)
        return ended[0]

    try:
        wait_until(has_ended, "the forked child hangs")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(ended[1])


def is_refused(action):
    """Return True if a child's use fails with an error that says what to do."""
    try:
        action()
    except LazyclusterError as error:
        return "new Runtime" in str(error)
    return False


def ssh_below(config_file):
    found = {pid: words(pid) for pid in all_pids()}
    return [
        pid
        for pid, argv in found.items()
        if argv[:1] == [b"ssh"] and os.fsencode(config_file) in argv
    ]


# ── forks ─────────────────────────────────────────────────────────────────────────────────────────


def fork_then_exit(config_file, folder):
    """The child's exit handlers touch nothing of the parent's."""
    runtime = open_runtime(config_file)
    task = start(runtime, "until test -e go; do sleep 0.05; done; echo done")
    assert in_fork(lambda: None) == 7
    assert in_fork(gc.collect) == 7
    run(runtime, "touch go")
    task.join()
    assert task.execution_log == ["done\n"], task.error
    assert Path(runtime.working_dir).is_dir()


def fork_then_use(config_file, folder):
    """Whatever the child tries is refused at once."""
    runtime = open_runtime(config_file)
    connection = Connection("loopback", config_file=config_file)
    connection.open()

    def use():
        assert is_refused(lambda: run(runtime, "true"))
        assert is_refused(lambda: runtime.execute_function(os.getpid))
        assert is_refused(lambda: runtime.echo("hi"))
        assert is_refused(connection.open)
        assert not runtime.is_valid_runtime()

    assert in_fork(use) == 7
    assert run(runtime, "echo hi") == ["hi\n"]
    connection.close()


def fork_then_cleanup(config_file, folder):
    """cleanup(), close() and garbage collection in the child end nothing of the parent's."""
    runtime = open_runtime(config_file)
    task = start(runtime, "until test -e go; do sleep 0.05; done; echo done")

    def tidy():
        runtime.cleanup()
        runtime._connection.close()

    assert in_fork(tidy) == 7
    run(runtime, "touch go")
    task.join()
    assert task.execution_log == ["done\n"], task.error


def fork_then_terminate(config_file, folder):
    """A child that stops its parent's task is refused, and writes into no file of its own."""
    runtime = open_runtime(config_file)
    task = start(runtime, "until test -e go; do sleep 0.05; done; echo done")
    wait_until(lambda: task.process.pid, "not started")

    def stop():
        # The numbers of the parent's descriptors are free in the child.
        files = [os.open(f"{folder}/{i}", os.O_CREAT | os.O_WRONLY) for i in range(30)]
        refused = is_refused(task.process.terminate)
        for number in range(len(files)):
            assert os.path.getsize(f"{folder}/{number}") == 0, "a frame went into another file"
        assert refused, "terminate() in a forked child says nothing"

    assert in_fork(stop) == 7
    assert task.process.is_alive()
    run(runtime, "touch go")
    task.join()
    assert task.execution_log == ["done\n"], task.error


def fork_while_a_thread_logs_in(config_file, folder):
    """The child does not wait for a lock that another thread held at the fork."""
    runtime = open_runtime(config_file)
    (ssh,) = ssh_below(config_file)
    sshd = int(Path(f"{folder}/sshd").read_text())
    os.kill(sshd, signal.SIGSTOP)  # the next login takes until SIGCONT
    try:
        os.kill(ssh, signal.SIGKILL)
        wait_until(lambda: not ssh_below(config_file), "ssh lives")
        thread = threading.Thread(target=run_again, args=[runtime, "true"])
        thread.start()
        wait_until(lambda: ssh_below(config_file), "no new login")

        def use():
            assert is_refused(lambda: run(runtime, "true"))

        assert in_fork(use) == 7
    finally:
        os.kill(sshd, signal.SIGCONT)
    thread.join()
    assert run(runtime, "echo hi") == ["hi\n"]


def fork_then_new_runtime(config_file, folder):
    """A child may have a Runtime of its own, which ends with it."""
    runtime = open_runtime(config_file)

    def use():
        own = open_runtime(config_file)
        assert run(own, "echo child") == ["child\n"]
        Path(f"{folder}/working_dir").write_text(own.working_dir)

    assert in_fork(use) == 7
    own = Path(f"{folder}/working_dir").read_text()
    wait_until(lambda: not os.path.exists(own), "the child's working directory is left")
    assert run(runtime, "echo hi") == ["hi\n"]
    assert len(ssh_below(config_file)) == 1


def in_child(config_file, inherited):
    """Use Runtimes in a child of multiprocessing."""
    if inherited:
        assert is_refused(lambda: run(INHERITED[0], "true"))
    assert run(open_runtime(config_file), "echo child") == ["child\n"]


INHERITED = []


def multiprocess(config_file, folder):
    """By fork, spawn and forkserver."""
    runtime = open_runtime(config_file)
    INHERITED.append(runtime)
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        child = context.Process(target=in_child, args=[config_file, method == "fork"])
        child.start()
        child.join(TIMEOUT)
        assert child.exitcode == 0, (method, child.exitcode)
        assert run(runtime, "echo hi") == ["hi\n"]
    wait_until(lambda: len(ssh_below(config_file)) == 1, "a child's ssh is left")


def fork_then_execute_async(config_file, folder):
    """An asynchronous execution in the child is refused now or by its error, and nothing hangs."""
    runtime = open_runtime(config_file)

    def use():
        def execute():
            task = start(runtime, "true")
            task.join()
            if task.error is not None:
                raise task.error

        assert is_refused(execute)

    assert in_fork(use) == 7
    assert run(runtime, "echo hi") == ["hi\n"]


# ── garbage ───────────────────────────────────────────────────────────────────────────────────────


def forget(config_file, folder):
    """Nothing is closed, and all ends when the last reference goes."""
    runtime = open_runtime(config_file)
    run(runtime, "sleep 1000 & echo $! > $WORKING_DIR/../pid-$$")
    working_dir = runtime.working_dir
    del runtime
    connection = Connection("loopback", config_file=config_file)
    connection.open()
    del connection
    gc.collect()
    wait_until(lambda: not ssh_below(config_file), "ssh is left")
    wait_until(lambda: not os.path.exists(working_dir), "the working directory is left")


def no_thread(config_file, folder):
    """An exception in __init__ after ssh has started."""

    def no_more(thread):
        raise RuntimeError("can't start new thread")

    original, threading.Thread.start = threading.Thread.start, no_more
    try:
        open_runtime(config_file)
    except RuntimeError:
        pass
    else:
        raise AssertionError("it started")
    finally:
        threading.Thread.start = original
    gc.collect()
    wait_until(lambda: not ssh_below(config_file), "ssh is left")
    wait_until(lambda: not os.listdir(os.environ["XDG_RUNTIME_DIR"]), "a folder is left")


def cleanup_at_once(config_file, folder):
    """Tasks that have just been executed log in no more after cleanup()."""
    for _ in range(5):
        runtime = open_runtime(config_file)
        tasks = [start(runtime, "sleep 1000") for _ in range(30)]
        runtime.cleanup()
        for task in tasks:
            task.join()
            assert task.process.exitcode == -15, task.process.exitcode
        assert not ssh_below(config_file), "it has logged in again"


# ── Ctrl-C ────────────────────────────────────────────────────────────────────────────────────────


def interrupted(action):
    """Return True if the action raises KeyboardInterrupt."""
    try:
        action()
    except KeyboardInterrupt:
        return True
    return False


def interrupt_when(condition):
    """Send SIGINT to this process when a condition holds."""

    def send():
        wait_until(condition, "nothing to interrupt")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def interrupt_command(config_file, folder):
    """Ctrl-C ends all of the step, also what ignores SIGINT, and the Runtime works on."""
    runtime = open_runtime(config_file)
    runtime.add_env_variables({"FOLDER": folder})
    other = start(runtime, "until test -e go; do sleep 0.05; done; echo done")
    command = "touch $FOLDER/$$; sh -c 'touch $FOLDER/$$; exec sleep 1000' & exec sleep 1000"
    thread = interrupt_when(lambda: len(os.listdir(folder)) == 2)
    task = RuntimeTask().run_command(command).run_command("touch $FOLDER/never")
    assert interrupted(lambda: runtime.execute_task(task, execute_async=False))
    thread.join()
    pids = [int(name) for name in os.listdir(folder)]
    assert len(pids) == 2
    for pid in pids:
        assert not is_alive(pid), "the step lives on"
    assert run(runtime, "touch go", "echo hi") == ["", "hi\n"]
    other.join()
    assert other.execution_log == ["done\n"]


def interrupt_function(config_file, folder):
    """Ctrl-C ends a function and its child."""
    runtime = open_runtime(config_file)

    def sleep(folder):
        child = subprocess.Popen(["sleep", "1000"])
        for pid in (os.getpid(), child.pid):
            open(f"{folder}/{pid}", "w").close()
        time.sleep(1000)

    thread = interrupt_when(lambda: len(os.listdir(folder)) == 2)
    assert interrupted(lambda: runtime.execute_function(sleep, folder=folder))
    thread.join()
    for name in os.listdir(folder):
        assert not is_alive(int(name)), "the function lives on"
    assert run(runtime, "echo hi") == ["hi\n"]


def interrupt_join(config_file, folder):
    """Ctrl-C while waiting for an asynchronous task does not touch it."""
    runtime = open_runtime(config_file)
    task = start(runtime, "until test -e go; do sleep 0.05; done; echo done")
    joining = threading.Event()
    thread = interrupt_when(lambda: task.process.pid and joining.is_set())

    def join():
        joining.set()
        task.join()

    assert interrupted(join)
    thread.join()
    assert task.process.is_alive()
    run(runtime, "touch go")
    task.join()
    assert task.execution_log == ["done\n"]


def is_waiting(thread):
    """Return True if a thread waits for a request, so that an interrupt stops its step."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wait" and code.co_filename.endswith("request.py"):
            return True
        frame = frame.f_back
    return False


def interrupt_twice(config_file, folder):
    """A second Ctrl-C does not wait for a step that ignores SIGTERM; the step ends later."""
    runtime = open_runtime(config_file)
    runtime.add_env_variables({"FOLDER": folder})
    command = (
        "trap 'touch $FOLDER/terminated' TERM; echo $$ > $FOLDER/pid; while :; do sleep 0.1; done"
    )

    def send():
        wait_until(lambda: os.path.exists(f"{folder}/pid"), "not started")
        wait_until(lambda: is_waiting(threading.main_thread()), "the main thread does not wait")
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: os.path.exists(f"{folder}/terminated"), "no SIGTERM came")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    assert interrupted(lambda: run(runtime, command))
    thread.join()
    pid = int(Path(f"{folder}/pid").read_text())
    assert is_alive(pid), "the second did not come out at once"
    assert run(runtime, "echo hi") == ["hi\n"]
    wait_until(lambda: not is_alive(pid), "the step lives on")


def interrupt_upload(config_file, folder):
    """Ctrl-C in the middle of a frame does not spoil the frames after it."""
    runtime = open_runtime(config_file)
    (ssh,) = ssh_below(config_file)

    def length(data):
        return len(data)

    assert list(runtime.execute_function(length, data=b"1").function_returns) == [1]
    os.kill(ssh, signal.SIGSTOP)  # and so the pipe into it is soon full

    def send():
        wait_until(lambda: unread(ssh) > 1 << 12, "nothing is written")
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(ssh, signal.SIGCONT)

    thread = threading.Thread(target=send)
    thread.start()
    task = RuntimeTask().run_function(length, data=os.urandom(10_000_000))
    assert interrupted(lambda: runtime.execute_task(task, execute_async=False))
    thread.join()
    assert list(runtime.execute_function(length, data=b"12").function_returns) == [2]
    assert run(runtime, "echo hi", timeout=10) == ["hi\n"]
    assert ssh_below(config_file) == [ssh], "the connection was lost"


def unread(ssh):
    """Return the number of bytes in the pipe that is the standard input of ssh."""
    fd = os.open(f"/proc/{ssh}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(fd)


def interrupt_login(config_file, folder):
    """Ctrl-C while a host does not answer leaves no ssh."""
    sshd = int(Path(f"{folder}/sshd").read_text())
    os.kill(sshd, signal.SIGSTOP)
    try:
        thread = interrupt_when(lambda: ssh_below(config_file))
        assert interrupted(lambda: open_runtime(config_file))
        thread.join()
        wait_until(lambda: not ssh_below(config_file), "ssh is left")
    finally:
        os.kill(sshd, signal.SIGCONT)


if __name__ == "__main__":
    # The log would be printed, and the test looks at exceptions only.
    logging.getLogger("lazycluster").addHandler(logging.NullHandler())
    globals()[sys.argv[1]](*sys.argv[2:])
