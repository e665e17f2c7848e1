"""A function that starts processes of its own, with each start method of multiprocessing."""

from __future__ import annotations

import dataclasses
import enum
import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from lazycluster.exceptions import RemoteFunctionError, StepTimeoutError
from support.processes import await_gone
from support.programs import multiprocessing_functions
from support.waiting import TIMEOUT

METHODS = ["fork", "spawn", "forkserver"]
NEW_PYTHON = ["spawn", "forkserver"]

pytestmark = [
    pytest.mark.every_python,
    pytest.mark.separate_host,
    pytest.mark.usefixtures("stays_good"),
]

OFFSET = 100


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int


class OwnError(Exception):
    pass


def square(x):
    return x * x


def shifted(x):
    return square(x) + OFFSET


def mirrored(point):
    return Point(point.y, point.x), Colour.BLUE


def fail(x):
    raise OwnError(x)


@functools.lru_cache
def cached(x):
    return x + 1


def put(queue, value):
    queue.put((value, square(value)))


def set_offset(value):
    global OFFSET
    OFFSET = value


def pool_map(method, function, data, **options):
    with multiprocessing.get_context(method).Pool(2, **options) as pool:
        return pool.map(function, data)


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_maps_own_functions(runtime, method):
    """With their globals, own classes, enums and cached functions, both ways."""
    assert runtime.call(pool_map, method, shifted, [1, 2, 3]) == [101, 104, 109]
    assert runtime.call(pool_map, method, cached, [1, 2]) == [2, 3]
    points = runtime.call(pool_map, method, mirrored, [Point(1, 2), Point(3, 4)])
    assert points == [(Point(2, 1), Colour.BLUE), (Point(4, 3), Colour.BLUE)]
    big = bytes(17 << 20)
    assert runtime.call(pool_map, method, len, [big]) == [17 << 20]


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_sets_a_global(runtime, method):
    """In each process of the pool."""
    options = {"initializer": set_offset, "initargs": (7,)}
    assert runtime.call(pool_map, method, shifted, [1, 2], **options) == [8, 11]


@pytest.mark.parametrize("method", METHODS)
def test_own_exceptions(runtime, method):
    """They reach the function, and its caller."""
    with pytest.raises(OwnError) as caught:
        runtime.call(pool_map, method, fail, [5])
    assert caught.value.args == (5,)


@pytest.mark.parametrize("method", METHODS)
def test_processes_queues_and_managers(runtime, method):
    """A process gets a queue, a dictionary of a manager, an event and a daemon."""

    def use():
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        processes = [context.Process(target=put, args=(queue, n), daemon=n == 2) for n in (1, 2)]
        for process in processes:
            process.start()
        found = sorted(queue.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        with context.Manager() as manager:
            shared = manager.dict()
            process = context.Process(target=shared.update, kwargs={"a": 1})
            process.start()
            process.join()
            found.append(dict(shared))
        return found, [process.exitcode for process in processes]

    assert runtime.call(use) == ([(1, 1), (2, 4), {"a": 1}], [0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_an_executor(runtime, method):
    """With a context, and with the one that a function has made the default."""

    def use():
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            found = list(executor.map(shifted, [1, 2]))
        multiprocessing.set_start_method(method, force=True)
        with ProcessPoolExecutor(2) as executor, multiprocessing.Pool(1) as pool:
            return found, executor.submit(square, 3).result(), pool.apply(square, (4,))

    assert runtime.call(use) == ([101, 104], 9, 16)


def inner(queue, method):
    queue.put(pool_map(method, shifted, [2]))


@pytest.mark.parametrize("method", METHODS)
def test_a_process_starts_a_pool(runtime, method):
    """What it starts has the same."""

    def use():
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=inner, args=(queue, method))
        process.start()
        found = queue.get(timeout=60)
        process.join()
        return found

    assert runtime.call(use) == [104]


def surroundings(_):
    return os.getcwd(), sys.path, sys.flags.hash_randomization, os.environ.get("OWN")


@pytest.mark.parametrize("method", NEW_PYTHON)
@pytest.mark.parametrize("more", [{}, {"PYTHONHASHSEED": "1"}], ids=["fork", "new Python"])
def test_a_process_has_the_surroundings_of_the_function(runtime, both_sides, method, more):
    """Its working directory, its path, its variables and those of Python's start."""
    env = {"OWN": "value", "PYTHONPATH": "/nowhere", **more}
    view = runtime.with_options(env=env, cwd=str(both_sides))
    expected = view.call(surroundings, None)
    assert view.call(pool_map, method, surroundings, [1, 2]) == [expected, expected]


@pytest.mark.parametrize("method", NEW_PYTHON)
def test_what_cannot_be_pickled_fails_as_usual(runtime, method):
    """At once, and in the function."""

    def use():
        return pool_map(method, lambda x: x, [1])

    with pytest.raises((pickle.PicklingError, AttributeError)):
        runtime.call(use)


def test_a_script(runtime, host_sshd):
    """Its functions and classes travel by value, and `__main__` has them in each process."""
    program = multiprocessing_functions.__file__
    done = subprocess.run(
        [sys.executable, program, str(host_sshd.config_file), host_sshd.alias],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    values = "[[101, 104, 109], [2], [0, 1, 4, 9, 16, 25, 36, 49, 64]] [(5,), [116]]"
    expected = [f"{method} {values}" for method in METHODS]
    *lines, last = done.stdout.splitlines()
    assert (lines, done.stderr, done.returncode) == (expected, "", 0)
    assert "this call of more than 16 MiB" in last


def family():
    """Return the pids of the processes of this one's session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(name)) == os.getsid(0):
                found.append(int(name))
        except OSError:
            continue
    return found


def start_and(method, then):
    """Leave a pool behind, with the processes that multiprocessing needs for it."""
    pool = multiprocessing.get_context(method).Pool(2)
    pool.map(square, [1, 2])
    globals()["kept"] = pool, multiprocessing.get_context(method).Lock()
    print(*family(), flush=True)
    return then()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize("method", NEW_PYTHON)
@pytest.mark.parametrize(
    ("then", "ending"),
    [
        (int, None),
        (lambda: os._exit(3), RemoteFunctionError),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), RemoteFunctionError),
        (lambda: time.sleep(600), StepTimeoutError),
    ],
    ids=["returns", "exits", "is killed", "takes too long"],
)
def test_nothing_stays_behind(runtime, method, then, ending):
    """Neither a process of the pool, nor the resource tracker, nor the fork server."""
    lines = []
    view = runtime.with_options(on_output=lines.append, timeout=5 if ending else None)
    if ending is None:
        assert view.call(start_and, method, then) == 0
    else:
        with pytest.raises(ending):
            view.call(start_and, method, then)
    pids = [int(pid) for pid in lines[0].split()]
    assert len(pids) >= 4  # the function, two of the pool and the tracker
    await_gone(pids, "on the host")


@pytest.mark.parametrize("method", METHODS)
def test_a_daemon_ends_with_the_function(runtime, method):
    """As with Python's own end."""

    def use():
        context = multiprocessing.get_context(method)
        process = context.Process(target=time.sleep, args=(600,), daemon=True)
        process.start()
        return process.pid

    await_gone([runtime.call(use)], "on the host")


def look_at_a_fork():
    """Return whether the modules for threads know the process, here and in a fork of it."""
    import logging
    import threading

    main = threading.main_thread()
    knows_itself = threading.enumerate() == [main] and main.native_id == os.getpid()
    held, done = threading.Event(), threading.Event()

    def hold():
        with logging._lock:
            held.set()
            done.wait(0.2)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    pid = os.fork()  # logging waits for the thread, so that its lock is free in the new process
    if pid == 0:
        signal.alarm(10)
        logging.getLogger("new").setLevel(logging.DEBUG)
        os._exit(0 if threading.enumerate() == [main] else 1)
    return knows_itself, os.waitpid(pid, 0)[1]


def test_threading_and_logging_follow_a_fork(runtime):
    """The supervisor imports them without their fork hooks, which a function needs."""
    assert runtime.call(look_at_a_fork) == (True, 0)


@pytest.mark.skipif(
    sys.version_info < (3, 9, 3), reason="there, threads cannot import multiprocessing.pool at once"
)
def test_threads_start_processes_at_once(runtime):
    """multiprocessing is imported in several threads."""

    def use():
        with ThreadPoolExecutor(3) as threads:  # it passes on what a thread raises
            return list(threads.map(lambda _: pool_map("spawn", square, [2]), range(3)))

    assert runtime.call(use) == [[4]] * 3
