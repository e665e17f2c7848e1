"""A Pool is an executor of `concurrent.futures`, whose calls run on several hosts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import importlib.util
import operator
import os
import pickle
import signal
import threading
import time
import unittest
import weakref
from pathlib import Path

import pytest

from lazycluster import Pool, Runtime
from lazycluster._pool.call import PoolCall
from lazycluster.exceptions import (
    LazyclusterError,
    RemoteFunctionError,
    SerializationError,
    StepTimeoutError,
)
from support.hosts import double
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.every_python


@pytest.fixture
def pool(make_pool, sshd):
    return make_pool(a=sshd, b=sshd)


class Kept:
    """An object that can be referred to weakly."""

    def method(self):
        """Do nothing."""


def make_kept(_):
    return Kept()


def captured(*args, **kwargs):
    return args, kwargs


async def doubled_later(number):
    await asyncio.sleep(0)
    return 2 * number


def wait_for_file(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return path


def began(path):
    Path(path).touch()
    time.sleep(600)


def test_values_exceptions_and_arguments_are_those_of_the_function(pool):
    assert pool.submit(pow, 2, 8).result() == 256
    assert pool.submit(captured, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    error = pool.submit(divmod, 1, 0).exception()
    assert isinstance(error, ZeroDivisionError)
    assert pool.submit(doubled_later, 4).result() == 8


def test_all_hosts_get_calls(pool):
    futures = [pool.submit(time.sleep, 0.2) for _ in range(12)]
    concurrent.futures.wait(futures)
    assert {future.host for future in futures} == {"a", "b"}


def test_no_host_runs_more_calls_than_it_has_slots(make_pool, sshd):
    pool = make_pool(a=sshd, b=sshd, slots={"a": 1, "b": 3})
    pool.submit(double, 1).result()
    running = [pool.submit(time.sleep, 600) for _ in range(10)]
    wait_until(lambda: sum(future.host != "" for future in running) == 4)
    assert sorted(future.host for future in running) == [""] * 6 + ["a", "b", "b", "b"]
    assert {host: status.running for host, status in pool.status().items()} == {"a": 1, "b": 3}
    for future in running:
        assert future.cancel()


def test_slots_are_the_cores_of_a_host_by_default(make_pool, sshd):
    pool = make_pool(a=sshd, slots=None)
    pool.submit(double, 1).result()
    assert pool.status()["a"].slots == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("chunksize", "buffersize"), [(1, None), (3, None), (1, 1), (3, 2), (3, 7), (100, None)]
)
def test_map_yields_in_order(pool, chunksize, buffersize):
    values = pool.map(pow, range(10), [2] * 12, chunksize=chunksize, buffersize=buffersize)
    assert list(values) == [number**2 for number in range(10)]


def test_map_takes_coroutine_functions_in_chunks(pool):
    assert list(pool.map(doubled_later, range(5), chunksize=2)) == [0, 2, 4, 6, 8]


def test_map_raises_where_the_value_is_asked_for(pool):
    values = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(values) == (0, 1)
    assert next(values) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(values)


def test_map_raises_for_a_value_that_is_late(pool, tmp_path):
    values = pool.map(wait_for_file, [__file__, tmp_path / "never"], timeout=3)
    assert next(values) == __file__
    with pytest.raises(concurrent.futures.TimeoutError):
        next(values)


@pytest.mark.parametrize("asked_for", [0, 1])
@pytest.mark.parametrize("buffersize", [None, 4])
def test_closing_a_map_cancels_what_is_left(make_pool, sshd, tmp_path, asked_for, buffersize):
    """Also before its first value was asked for."""
    pool = make_pool(a=sshd, slots=1)
    inputs = [__file__, *[tmp_path / "never"] * 5]
    values = pool.map(wait_for_file, inputs, buffersize=buffersize)
    for _ in range(asked_for):
        assert next(values) == __file__
    values.close()
    assert list(values) == []
    assert pool.submit(double, 2).result(TIMEOUT) == 4  # the slot is free again


def test_a_map_whose_values_are_not_asked_for_makes_its_calls(make_pool, sshd, tmp_path):
    with make_pool(a=sshd) as pool:
        pool.map(Path.touch, [tmp_path / name for name in "abc"])
        gc.collect()
    assert sorted(path.name for path in tmp_path.iterdir() if len(path.name) == 1) == list("abc")


@pytest.mark.parametrize("buffersize", [None, 1])
def test_what_the_inputs_of_a_map_raise_is_raised(pool, buffersize):
    """Where they are read: at once, or with the values."""

    def inputs():
        yield 1
        yield 2
        raise LookupError

    with pytest.raises(LookupError):
        list(pool.map(double, inputs(), buffersize=buffersize))
    assert pool.submit(double, 2).result() == 4


def test_an_input_of_a_map_that_cannot_be_pickled_is_an_error_and_the_pool_goes_on(pool):
    with pytest.raises(SerializationError):
        list(pool.map(double, [1, threading.Lock()], chunksize=2))
    values = pool.map(double, [1, 2, threading.Lock()], buffersize=2)
    with pytest.raises(SerializationError):
        list(values)
    assert pool.submit(double, 2).result() == 4


def test_map_keeps_no_value(pool):
    for kept in pool.map(make_kept, range(10)):
        reference = weakref.ref(kept)
        del kept
        gc.collect()
        assert reference() is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"chunksize": 1.5}, TypeError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "4"}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, ValueError),
    ],
)
def test_map_refuses_numbers_that_are_none(pool, options, error):
    with pytest.raises(error):
        pool.map(double, [1], **options)


def test_arguments_that_do_not_fit_are_an_error_at_once(pool):
    with pytest.raises(TypeError):
        pool.submit(double, 1, 2)
    with pytest.raises(TypeError):
        pool.map(double, [1], [2])


def test_nothing_that_was_submitted_is_kept(pool):
    kept = Kept()
    reference = weakref.ref(kept)
    future = pool.submit(kept.method)
    del kept
    future.result()
    gc.collect()
    assert reference() is None


def test_as_completed_and_wait_take_its_futures(pool):
    futures = [pool.submit(double, number) for number in range(6)]
    values = [future.result() for future in concurrent.futures.as_completed(futures)]
    assert sorted(values) == [0, 2, 4, 6, 8, 10]
    done, pending = concurrent.futures.wait(futures)
    assert (len(done), len(pending)) == (6, 0)


def test_asyncio_runs_functions_in_it(pool):
    async def main():
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(pool, double, 1)
        second = asyncio.wrap_future(pool.submit(double, 2))
        return await asyncio.gather(first, second)

    assert asyncio.run(main()) == [2, 4]


def test_cancel_ends_a_call_that_runs_and_drops_one_that_waits(make_pool, sshd, tmp_path):
    pool = make_pool(a=sshd, slots=1)
    running = pool.submit(began, tmp_path / "began")
    waiting = pool.submit(began, tmp_path / "never")
    wait_until((tmp_path / "began").exists)
    assert waiting.cancel()
    assert running.cancel()
    assert running.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        running.result()
    assert pool.submit(double, 2).result() == 4  # the slot is free again
    assert not (tmp_path / "never").exists()


def test_calls_that_are_cancelled_in_any_order_are_dropped_without_a_search(
    make_pool, sshd, tmp_path, monkeypatch
):
    """And the others run in their order. A search for each of many calls took seconds."""
    compared = []

    def compare(one, other):
        compared.append(one)
        return one is other

    monkeypatch.setattr(PoolCall, "__eq__", compare)
    pool = make_pool(a=sshd, slots=1)
    first = pool.submit(wait_for_file, tmp_path / "go")
    wait_until(first.running)
    waiting = [pool.submit(appended, tmp_path / "ran", number) for number in range(20)]
    assert all(future.cancel() for future in reversed(waiting[1::2]))
    wait_until(lambda: sum(map(len, pool._scheduler._waiting.values())) == 10)
    (tmp_path / "go").touch()
    assert [future.result() for future in waiting[::2]] == list(range(0, 20, 2))
    assert (tmp_path / "ran").read_text().split() == [str(number) for number in range(0, 20, 2)]
    assert compared == []


def appended(path, number):
    with open(path, "a") as file:
        file.write(f"{number}\n")
    return number


def test_options_belong_to_the_calls_of_a_view(pool, tmp_path):
    lines = []
    view = pool.with_options(env={"NUMBER": 5}, cwd=str(tmp_path), on_output=lines.append)
    assert view.submit(os.getenv, "NUMBER").result() == "5"
    assert view.submit(os.getcwd).result() == str(tmp_path)
    view.submit(print, "hello").result()
    wait_until(lambda: lines == ["hello\n"])
    assert pool.submit(os.getenv, "NUMBER").result() is None
    with pytest.raises(StepTimeoutError):
        pool.with_options(timeout=0.2).submit(time.sleep, 600).result()


def test_a_shared_value_is_on_each_host_that_uses_it(pool):
    with pool.share(list(range(10_000))) as numbers:
        assert list(pool.map(operator.getitem, [numbers] * 8, range(8))) == list(range(8))
        assert pool.submit(len, numbers).result() == 10_000
        parts = [pool.submit(has_slept, numbers) for _ in range(8)]
        assert {future.host for future in parts if future.result() == 10_000} == {"a", "b"}
    with pytest.raises(ValueError, match="closed"):
        pool.submit(len, numbers)


def has_slept(numbers):
    time.sleep(0.2)
    return len(numbers)


class Unlucky:
    def __reduce__(self):
        return eval, ("1 / 0",)


def test_each_call_says_why_a_shared_value_cannot_be_unpickled(pool):
    """A Pool sends it with the first call that needs it."""
    with pool.share(Unlucky()) as unlucky:
        for _ in range(4):
            error = pool.submit(len, unlucky).exception()
            assert isinstance(error, RemoteFunctionError)
            assert "ZeroDivisionError" in str(error)


def test_a_shared_value_belongs_to_its_pool(pool, own_runtime):
    numbers = pool.share([1, 2])
    with pytest.raises(ValueError, match=r"[Ss]hare"):
        own_runtime.call(len, numbers)
    with pytest.raises(ValueError, match=r"[Ss]hare"):
        pool.submit(len, own_runtime.share([1])).result()


def killed():
    os._exit(7)  # not given as it is: coverage replaces it


def test_a_function_that_kills_its_process_fails_alone(pool):
    with pytest.raises(RemoteFunctionError, match="exit status 7"):
        pool.submit(killed).result()
    assert pool.submit(double, 2).result() == 4


def test_shutdown_waits_for_all_calls(make_pool, sshd):
    pool = make_pool(a=sshd, b=sshd)
    futures = [pool.submit(double, number) for number in range(8)]
    pool.shutdown()
    assert [future.done() for future in futures] == [True] * 8
    for method in (lambda: pool.submit(double, 1), lambda: pool.map(double, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            method()
    pool.shutdown()  # once more does nothing


def test_shutdown_without_waiting_lets_calls_end(make_pool, sshd, tmp_path):
    pool = make_pool(a=sshd, slots=1)
    futures = [pool.submit(wait_for_file, tmp_path / "go") for _ in range(3)]
    pool.shutdown(wait=False)
    (tmp_path / "go").touch()
    assert [future.result(TIMEOUT) for future in futures] == [tmp_path / "go"] * 3


def test_shutdown_can_cancel_what_waits(make_pool, sshd, tmp_path):
    pool = make_pool(a=sshd, slots=1)
    first = pool.submit(wait_for_file, tmp_path / "go")
    wait_until(first.running)
    others = [pool.submit(double, number) for number in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.cancelled() for future in others))
    (tmp_path / "go").touch()
    assert first.result(TIMEOUT) == tmp_path / "go"


class ShutsDown:
    """An argument that shuts the Pool down while it is pickled, as another thread may."""

    def __init__(self, pool):
        self.pool = pool

    def __reduce__(self):
        self.pool.shutdown()
        return int, ()


def test_a_call_that_comes_during_a_shutdown_is_refused(pool):
    """It does not wait for ever behind the last one."""
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(double, ShutsDown(pool))


def test_a_shutdown_in_the_middle_of_a_map_refuses_the_rest(make_pool, sshd, tmp_path):
    pool = make_pool(a=sshd, slots=1)
    values = pool.map(wait_for_file, [__file__] * 3 + [tmp_path / "never"] * 3, buffersize=3)
    assert next(values) == __file__
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises((RuntimeError, concurrent.futures.CancelledError)):
        list(values)
    pool.shutdown()


def test_an_interrupted_map_cancels_what_is_left(make_pool, sshd, tmp_path):
    pool = make_pool(a=sshd, slots=1)
    values = pool.map(began, [tmp_path / "began", tmp_path / "never"])
    main_thread = threading.get_ident()

    def interrupt():
        wait_until((tmp_path / "began").exists)
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)

    def wait_for_a_value():
        thread.start()
        next(values)

    with pytest.raises(KeyboardInterrupt):
        wait_for_a_value()
    thread.join()
    assert pool.submit(double, 2).result(TIMEOUT) == 4  # the slot is free again
    assert not (tmp_path / "never").exists()


def test_a_shutdown_ends_without_a_thread_to_close_a_host(
    make_pool, sshd, monkeypatch, nothing_left
):
    pool = make_pool(a=sshd, b=sshd)
    pool.submit(double, 1).result()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "lazycluster pool close":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.shutdown()
    nothing_left()


def test_nothing_is_left_after_a_with_block(make_pool, sshd, nothing_left):
    with make_pool(a=sshd, b=sshd) as pool:
        pool.submit(double, 1).result()
    nothing_left()


def test_nothing_is_left_of_a_pool_that_nobody_refers_to(make_pool, sshd, config_for, nothing_left):
    """At once, and not when Python looks for reference cycles, which may be never."""
    keywords = {"config_file": config_for(a=sshd)}
    gc.disable()
    try:
        future = Pool(["a"], connection_kwargs=keywords).submit(double, 2)
        assert future.result() == 4
        nothing_left()
        freed = weakref.ref(future)
        del future
        wait_until(lambda: freed() is None)
    finally:
        gc.enable()


def test_a_shutdown_during_the_logins_leaves_nothing(config_for, sshd, nothing_left):
    Pool(["a", "b"], connection_kwargs={"config_file": config_for(a=sshd, b=sshd)}).shutdown()
    nothing_left()


def test_runtimes_that_are_given_stay_open(own_runtime):
    with Pool([own_runtime], slots=1) as pool:
        assert pool.submit(os.getppid).result() == own_runtime.call(os.getppid)
    assert own_runtime.call(double, 2) == 4


def test_a_call_waits_for_a_runtime_that_logs_in_again(own_runtime):
    """The connection was lost while nothing ran."""
    with Pool([own_runtime], slots=1) as pool:
        assert pool.submit(double, 1).result() == 2
        own_runtime._connection.close()
        assert pool.submit(double, 2).result() == 4


def test_two_threads_may_submit_at_once(pool):
    values = []

    def submit():
        values.extend(pool.submit(double, number).result() for number in range(20))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(values) == sorted(2 * number for number in range(20) for _ in range(4))


def test_a_pool_stays_where_it_is(pool):
    with pytest.raises(TypeError, match="Pool"):
        pickle.dumps(pool)


def test_a_child_that_was_forked_needs_a_pool_of_its_own(make_pool, sshd, tmp_path):
    pool = make_pool(a=sshd, slots=1)
    running = pool.submit(wait_for_file, tmp_path / "go")
    wait_until(running.running)
    values = pool.map(double, [1, 2])
    wait_until(pool._scheduler._events.empty)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert_that_a_child_can_leave(pool, running, values)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / "go").touch()
    assert running.result(TIMEOUT) == tmp_path / "go"
    assert list(values) == [2, 4]


def assert_that_a_child_can_leave(pool, running, values):
    """It waits for nothing: it has neither the threads nor the connections."""
    for use in (
        lambda: pool.submit(double, 1),
        lambda: pool.map(double, [1]),
        running.result,
        running.cancel,
        lambda: next(values),
    ):
        with pytest.raises(LazyclusterError, match="forked"):
            use()
    pool.shutdown(cancel_futures=True)
    scheduler = pool._scheduler
    scheduler._exit()  # as at the exit of a child that runs the handlers of its parent
    scheduler.shut_down()  # as at the end of the last reference
    assert scheduler._takes_calls
    assert scheduler._events.empty()


@pytest.mark.parametrize(
    ("hosts", "options", "error", "words"),
    [
        ([], {}, ValueError, "at least one host"),
        ("host", {}, TypeError, r"\['host'\]"),
        (["a", "a"], {}, ValueError, "'a' is there twice"),
        (["-oProxyCommand=x"], {}, ValueError, "ProxyCommand"),
        ([""], {}, ValueError, "host"),
        ([5], {}, TypeError, "5"),
        (["a"], {"slots": 0}, ValueError, "slots must be at least 1"),
        (["a"], {"slots": 1.5}, TypeError, "slots"),
        (["a"], {"slots": {"b": 1}}, ValueError, "'b'"),
        (["a"], {"slots": {"a": 0}}, ValueError, "slots must be at least 1"),
        (["a"], {"retries": -1}, ValueError, "retries"),
        (["a"], {"preload": "numpy"}, TypeError, "preload"),
        (["a"], {"modules": ["no_such_module"]}, ValueError, "no_such_module"),
        (["a"], {"env": {"A=": "1"}}, ValueError, "A="),
        (["a"], {"connection_kwargs": {"no_such": 1}}, (TypeError, ValueError), "no_such"),
    ],
)
def test_bad_input_is_an_error_before_any_login(no_process, hosts, options, error, words):
    with pytest.raises(error, match=words):
        Pool(hosts, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gpus": -1}, ValueError),
        ({"gpus": True}, TypeError),
        ({"retries": 0.5}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"env": {"": "1"}}, ValueError),
    ],
)
def test_bad_options_are_an_error(pool, options, error):
    with pytest.raises(error):
        pool.with_options(**options)


def test_a_call_for_more_gpus_than_there_are_fails(pool):
    with pytest.raises(ValueError, match="needs 99 GPUs"):
        pool.with_options(gpus=99).submit(double, 1).result()
    assert pool.submit(double, 1).result() == 2


def test_calls_have_gpus_of_their_own(pool, monkeypatch, tmp_path):
    """And what needs one waits, while other calls go on."""
    read = Runtime._read_info

    def with_gpus(self, target=None):
        info = read(self, target)
        info.gpus[:] = [{"id": number, "name": "test", "memory": None} for number in range(2)]
        return info

    monkeypatch.setattr(Runtime, "_read_info", with_gpus)
    with _second(pool) as other:
        view = other.with_options(gpus=1)
        other.submit(double, 1).result()
        values = view.map(visible, [tmp_path / "go"] * 4)
        wait_until(lambda: _gpus(other) == [(2, 0), (2, 0)])  # both have logged in by then
        assert view.with_options(gpus=0).submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() is None
        (tmp_path / "go").touch()
        assert sorted(values) == ["0", "0", "1", "1"]
        assert other.with_options(gpus=2).submit(visible, __file__).result() == "0,1"


def _gpus(pool):
    return [(status.gpus, status.free_gpus) for status in pool.status().values()]


def visible(path):
    wait_for_file(path)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def _second(pool):
    """Return another Pool of the same hosts, with three slots for each."""
    workers = pool._scheduler._workers
    return Pool(
        [worker.host for worker in workers],
        slots=3,
        connection_kwargs=workers[0]._make.keywords["connection_kwargs"],
    )


def test_the_tests_of_the_standard_library_pass(pool):
    if importlib.util.find_spec("test.test_concurrent_futures") is None:
        pytest.skip("this Python has no tests of the standard library")
    try:
        from test.test_concurrent_futures.executor import ExecutorTest
    except ImportError:  # before Python 3.12
        from test.test_concurrent_futures import ExecutorTest

    class OfPool(ExecutorTest, unittest.TestCase):
        executor = pool
        worker_count = 2

    names = [
        "test_submit",
        "test_submit_keyword",
        "test_map",
        "test_map_exception",
        "test_no_stale_references",
        "test_free_reference",
        "test_shutdown_race_issue12456",  # it shuts the executor down
    ]
    result = unittest.TestResult()
    unittest.TestSuite(map(OfPool, names)).run(result)
    assert result.testsRun == len(names)
    assert not [*result.failures, *result.errors]
