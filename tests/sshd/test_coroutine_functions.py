"""Functions that are coroutine functions, generator functions, or whose value is such an object."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import types

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import RemoteFunctionError, SerializationError, StepTimeoutError
from support.hosts import call, cause
from support.processes import await_gone
from support.waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.usefixtures("stays_good"), pytest.mark.every_python]


# ── coroutine functions ───────────────────────────────────────────────────────────────────────────


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


class Doubler:
    async def method(self, number):
        return await double(number)

    @classmethod
    async def of_class(cls, number):
        return await double(number)

    @staticmethod
    async def static(number):
        return await double(number)

    async def __call__(self, number):
        return await double(number)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@types.coroutine
def by_generator(number):
    yield from asyncio.sleep(0).__await__()
    return 2 * number


class Awaitable:
    def __init__(self, number):
        self.number = number

    def __await__(self):
        return double(self.number).__await__()


@pytest.mark.parametrize(
    "function",
    [
        double,
        functools.partial(double),
        functools.partial(functools.partial(Doubler().method)),
        Doubler().method,
        Doubler.of_class,
        Doubler.static,
        Doubler(),
        decorated(double),
        decorated(decorated(double)),
        lambda number: double(number),
        by_generator,
        Awaitable,
        lambda number: Awaitable(number),
    ],
    ids=[
        "function",
        "partial",
        "partials",
        "method",
        "classmethod",
        "staticmethod",
        "object",
        "decorated",
        "decorated twice",
        "lambda",
        "types.coroutine",
        "class",
        "awaitable",
    ],
)
def test_what_can_be_awaited_is_run(runtime, function):
    """However a coroutine function comes, its value is what it returns."""
    assert runtime.call(function, 21) == 42


def test_every_way_to_call_runs_a_coroutine_function(runtime):
    """A call, a future and both kinds of tasks."""
    assert runtime.submit(double, 1).result(TIMEOUT) == 2
    assert call(runtime, double, number=2) == 4
    task = RuntimeTask().run_function(double, number=3).run_function(pow, base=2, exp=3)
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [6, 8]


def test_its_exception_is_its_own(runtime):
    """The traceback begins in the coroutine, and has nothing of the event loop."""

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing") as caught:
        runtime.call(fail)
    text = str(caught.value.__cause__)
    assert set(re.findall(r'File "(.+?)"', text)) == {__file__}
    assert "in fail" in text


def test_exceptions_that_end_an_event_loop(runtime):
    """A CancelledError, a SystemExit and a KeyboardInterrupt are reported as such."""

    async def cancel():
        raise asyncio.CancelledError

    async def leave():
        raise SystemExit(3)

    async def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(TIMEOUT)

    assert cause(runtime, cancel).exception_type.endswith("CancelledError")
    assert cause(runtime, leave).exit_status == 3
    assert cause(runtime, interrupt).exception_type == "KeyboardInterrupt"


def test_what_is_left_in_the_event_loop_ends_as_with_asyncio_run(runtime):
    """Tasks are cancelled, and asynchronous generators are closed."""
    lines = []

    async def leave():
        async def wait():
            try:
                await asyncio.Event().wait()
            finally:
                print("cancelled")

        async def generate():
            try:
                yield 1
            finally:
                print("closed")

        task = asyncio.get_running_loop().create_task(wait())
        generator = generate()
        await generator.__anext__()
        await asyncio.sleep(0)
        return task.done()

    assert runtime.with_options(on_output=lines.append).call(leave) is False
    assert sorted(lines) == ["cancelled\n", "closed\n"]


def test_a_function_may_have_an_event_loop_of_its_own(runtime):
    """What it returns has been awaited already, or is awaited in a second loop."""
    assert runtime.call(lambda: asyncio.run(double(1))) == 2

    def both():
        asyncio.run(double(1))
        return double(2)

    assert runtime.call(both) == 4


def test_a_coroutine_function_ends_at_its_timeout(runtime):
    async def wait():
        print(os.getpid(), flush=True)
        await asyncio.sleep(TIMEOUT)

    lines = []
    with pytest.raises(StepTimeoutError):
        runtime.with_options(timeout=1, on_output=lines.append).call(wait)
    await_gone([int(line) for line in lines])


def test_a_cancelled_future_ends_its_coroutine(runtime):
    async def wait():
        print(os.getpid(), flush=True)
        await asyncio.sleep(TIMEOUT)

    lines = []
    future = runtime.with_options(on_output=lines.append).submit(wait)
    wait_until(lambda: lines)
    assert future.cancel()
    await_gone([int(lines[0])])


# ── generators ────────────────────────────────────────────────────────────────────────────────────


def count(path="", stop=3):
    open(path, "w").close()
    yield from range(stop)


async def count_slowly(path="", stop=3):
    open(path, "w").close()
    for number in range(stop):
        yield number


class Counter:
    def method(self, path):
        yield from count(path)

    def __call__(self, path):
        yield from count(path)


@pytest.mark.parametrize(
    "function",
    [
        count,
        count_slowly,
        functools.partial(count, stop=2),
        Counter().method,
        Counter(),
        functools.partial(Counter()),
        functools.lru_cache(count),
    ],
    ids=["function", "async", "partial", "method", "object", "partial object", "lru_cache"],
)
def test_a_generator_function_is_refused_before_it_runs(runtime, function, tmp_path):
    """The error has the cure, in every way to call."""
    path = tmp_path / "made"
    for refused in (
        lambda: runtime.call(function, path=str(path)),
        lambda: runtime.submit(function, path=str(path)),
        lambda: runtime.execute_function(function, path=str(path)),
        lambda: RuntimeTask().run_function(function, path=str(path)),
    ):
        with pytest.raises(SerializationError, match=r"generator.*not called.*[Rr]eturn a list"):
            refused()
    assert not path.exists()


def test_a_function_that_makes_a_list_of_a_generator_is_none(runtime):
    """A decorator may do that, and its wrapper is what is called."""

    def listed(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return list(function(*args, **kwargs))

        return wrapper

    assert runtime.call(listed(lambda stop: (yield from range(stop))), 3) == [0, 1, 2]
    assert runtime.call(list, range(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda: (number for number in range(3)),
        lambda: map(str, (number for number in range(3))),
        lambda: {"numbers": (number for number in range(3))},
        lambda: zip("ab", (number for number in range(3))),
        lambda: (lambda: (yield))(),
        decorated(lambda: (yield)),
    ],
    ids=["generator", "map", "in a dict", "zip", "called", "decorated"],
)
def test_a_value_with_a_generator_is_refused_after_the_function_has_run(runtime, function):
    """The error says that, and has the cure."""
    with pytest.raises(SerializationError, match=r"has run to its end.*Return a list instead"):
        runtime.call(function)


def test_an_iterator_that_can_be_pickled_comes_back(runtime):
    """As from a process pool."""
    assert list(runtime.call(lambda: map(str, [1, 2]))) == ["1", "2"]
    assert list(runtime.call(lambda: iter([1, 2]))) == [1, 2]


def test_a_coroutine_function_that_returns_a_generator_is_refused_too(runtime):
    async def fail():
        return (number for number in range(3))

    with pytest.raises(SerializationError, match="Return a list instead"):
        runtime.call(fail)


def test_a_coroutine_within_a_value_is_not_run(runtime):
    """Only the value itself is awaited; the error is that of pickling."""
    with pytest.raises(SerializationError, match="coroutine"):
        runtime.call(lambda: [double(1)])


def test_a_function_that_fails_before_its_first_await(runtime):
    async def fail(number):
        return 1 // number

    error = cause(runtime, fail, number=0)
    assert isinstance(error, RemoteFunctionError)
    assert error.exception_type == "ZeroDivisionError"
