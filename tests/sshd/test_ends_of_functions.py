"""What a function leaves ends as at the end of a program: threads, exit functions, open files."""

from __future__ import annotations

import asyncio
import atexit
import gc
import gzip
import multiprocessing
import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import RemoteFunctionError, StepTimeoutError, TaskExecutionError
from support.processes import await_gone, is_alive
from support.waiting import TIMEOUT

pytestmark = [pytest.mark.usefixtures("stays_good"), pytest.mark.every_python]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


class Node:
    pass


def write_in_a_cycle(path):
    node = Node()
    node.self = node
    node.file = open(path, "w")
    node.file.write("data")


def write_in_a_method(path):
    class Writer:
        def __init__(self):
            self.file = open(path, "w")
            self.write = self.really_write  # a cycle

        def really_write(self):
            self.file.write("data")

    Writer().write()


def write_and_raise(path):
    file = open(path, "w")
    file.write("data")
    try:
        raise ValueError(file)
    except ValueError as error:
        kept = error
    raise kept


def write_to_a_global(path):
    global held
    held = open(path, "w")
    held.write("data")


def write_to_an_attribute_of_a_class(path):
    class Log:
        file = open(path, "wb")

    Log.file.write(b"data")
    sys.modules["held_4711"] = Log


def write_in_a_daemon_thread(path):
    written = threading.Event()

    def write():
        file = open(path, "w")
        file.write("data")
        written.set()
        time.sleep(TIMEOUT)

    threading.Thread(target=write, daemon=True).start()
    written.wait()


def write_compressed(path):
    global held
    held = gzip.open(path, "wt")
    held.write("data")


def write_compressed_in_a_cycle(path):
    node = Node()
    node.self = node
    node.file = gzip.open(path, "wb")
    node.file.write(b"data")


def write_without_collections(path):
    gc.disable()
    write_in_a_cycle(path)


async def write_in_a_coroutine(path):
    write_in_a_cycle(path)
    await asyncio.sleep(0)


def write_in_a_thread(path):
    threading.Thread(target=write_in_a_cycle, args=[path]).start()


def write_at_exit(path):
    atexit.register(write_in_a_cycle, path)


def write_in_a_finalizer(path):
    node = Node()
    node.self = node
    weakref.finalize(node, write_in_a_cycle, path)
    return weakref.finalize is not None


@pytest.mark.parametrize(
    "write",
    [
        write_in_a_cycle,
        write_in_a_method,
        write_and_raise,
        write_to_a_global,
        write_to_an_attribute_of_a_class,
        write_in_a_daemon_thread,
        write_compressed,
        write_compressed_in_a_cycle,
        write_without_collections,
        write_in_a_coroutine,
        write_in_a_thread,
        write_at_exit,
        write_in_a_finalizer,
    ],
)
def test_what_was_written_to_a_file_is_there(runtime, write, tmp_path):
    """Also if the file is in a reference cycle or a global variable, and was not closed."""
    path = tmp_path / "file"
    try:
        runtime.call(write, str(path))
    except (ValueError, RemoteFunctionError):
        assert write is write_and_raise
    data = path.read_bytes()
    if "compressed" in write.__name__:
        data = gzip.decompress(data)
    assert data == b"data"


# ── threads ───────────────────────────────────────────────────────────────────────────────────────


def test_the_work_of_threads_is_waited_for(runtime):
    """Also that of a pool which was not shut down; their output comes with the function's."""

    def work(number):
        time.sleep(0.1)
        print(number)

    def start():
        threading.Thread(target=work, args=["thread"]).start()
        ThreadPoolExecutor(1).submit(work, "pool")
        return "value"

    lines = []
    assert runtime.with_options(on_output=lines.append).call(start) == "value"
    assert sorted(lines) == ["pool\n", "thread\n"]


def test_a_function_that_raises_waits_for_its_threads_too(runtime):
    def start():
        threading.Thread(target=lambda: (time.sleep(0.1), print("worked"))).start()
        raise KeyError("raised")

    lines = []
    with pytest.raises(KeyError):
        runtime.with_options(on_output=lines.append).call(start)
    assert lines == ["worked\n"]


def test_a_thread_that_does_not_end_is_ended_by_the_timeout(runtime):
    def start():
        print(os.getpid(), flush=True)
        threading.Thread(target=time.sleep, args=[TIMEOUT]).start()

    lines = []
    with pytest.raises(StepTimeoutError):
        runtime.with_options(timeout=1, on_output=lines.append).call(start)
    await_gone([int(line) for line in lines])


# ── exit functions and processes ──────────────────────────────────────────────────────────────────


def test_exit_functions_are_called_after_threads(runtime):
    """The last one first, once, and not in a process that the function has forked."""

    def leave():
        atexit.register(print, "first")
        atexit.register(print, "second")
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        if os.fork() == 0:
            os._exit(0)

    lines = []
    runtime.with_options(on_output=lines.append).call(leave)
    assert lines == ["thread\n", "second\n", "first\n"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_exit_function_that_raises_costs_nothing(runtime, error):
    def leave():
        def fail():
            raise error

        atexit.register(print, "called")
        atexit.register(fail)
        return "value"

    lines = []
    assert runtime.with_options(on_output=lines.append).call(leave) == "value"
    assert lines[-1] == "called\n"


def test_a_process_that_ends_in_an_exit_function_is_an_error(runtime):
    """The error says that the function had returned."""

    def leave():
        atexit.register(os._exit, 0)
        return "value"

    with pytest.raises(RemoteFunctionError, match="after the function had returned") as caught:
        runtime.call(leave)
    assert caught.value.exit_status == 0
    task = RuntimeTask().run_function(leave).run_command("echo next")
    with pytest.raises(TaskExecutionError, match="after the function had returned"):
        runtime.execute_task(task, execute_async=False)
    assert "next\n" not in task.execution_log


def test_processes_of_multiprocessing_end_as_at_the_end_of_a_program(runtime):
    """Daemonic ones are ended, the others are waited for."""

    def start():
        context = multiprocessing.get_context("fork")
        daemon = context.Process(target=time.sleep, args=[TIMEOUT], daemon=True)
        other = context.Process(target=lambda: (time.sleep(0.1), print("worked", flush=True)))
        daemon.start()
        other.start()
        return [daemon.pid, other.pid]

    lines = []
    pids = runtime.with_options(on_output=lines.append).call(start)
    assert lines == ["worked\n"]
    assert not any(is_alive(pid) for pid in pids)


def test_a_file_that_cannot_be_written_holds_nothing_up(runtime):
    """A daemon thread waits in a write to a full pipe, and holds the lock of the file."""

    def start():
        reader, writer = os.pipe()
        file = os.fdopen(writer, "wb")
        written = threading.Event()

        def write():
            while True:
                file.write(bytes(2**12))
                written.set()

        threading.Thread(target=write, daemon=True).start()
        written.wait()
        globals()["held"] = reader, file
        return "value"

    assert runtime.call(start) == "value"
