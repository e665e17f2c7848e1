"""Actors: objects in a process that stays on the host."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import ClassVar

import cloudpickle
import pytest

import lazycluster
from lazycluster.exceptions import (
    ActorLostError,
    RemoteFunctionError,
    RemoteTraceback,
    SerializationError,
)
from support.waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]


class Counter:
    """Counts, and does what methods do."""

    def __init__(self, start=0, *, step=1):
        self.value = start
        self.step = step

    def add(self, count=1):
        self.value += self.step * count
        return self.value

    def call(self):
        return "the user's call"

    def run(self):
        return "the user's run"

    def name(self):
        return "the user's name"

    def close(self):
        return "the user's close"

    def divide(self, by):
        return self.value // by

    def echo(self, *args, **kwargs):
        return args, kwargs

    def own_type(self, other):
        return type(other) is Counter, type(other) is type(self)

    def same(self):
        return self

    def numbers(self):
        yield 1

    def lazy_numbers(self):
        return (number for number in range(3))

    def lock(self):
        return threading.Lock()

    async def loop(self):
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())

    def pid(self):
        return os.getpid()

    def say(self, text, end="\n", errors=False):
        print(text, end=end, file=sys.stderr if errors else sys.stdout)

    def log(self, text):
        logging.getLogger("of.an.actor").warning("%s", text)

    def where(self):
        return os.getcwd(), os.environ.get("ACTOR_VARIABLE")

    def exit(self, code):
        sys.exit(code)

    def fork_and_return(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return "parent" if pid else "child"

    def wait_for(self, path):
        wait_until_exists(path)
        return path


def wait_until_exists(path):
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


class Broken:
    def __init__(self, reason):
        raise KeyError(reason)


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.two = two


class Odd:
    def fail(self):
        raise OddError(1, 2)

    @property
    def bad(self):
        raise OddError(3, 4)

    def __getattr__(self, name):
        if name == "made_up":
            return lambda: "made up"
        raise AttributeError(name)


@pytest.fixture
def counter(runtime):
    with runtime.actor(Counter, 10, step=2) as actor:
        yield actor


def test_methods_see_what_others_have_set(runtime, counter):
    assert [counter.add(), counter.add(count=3), counter.add(-1)] == [12, 18, 16]
    assert counter.pid() == counter.pid()
    with runtime.actor(Counter) as other:
        assert other.add() == 1
        assert other.pid() != counter.pid()


def test_every_other_public_name_is_a_method_of_the_class(counter):
    assert (counter.call(), counter.run(), counter.name()) == (
        "the user's call",
        "the user's run",
        "the user's name",
    )
    assert counter.submit("close").result(TIMEOUT) == "the user's close"
    assert {name for name in vars(lazycluster.Actor) if not name.startswith("_")} == {
        "submit",
        "close",
    }


def test_names_with_an_underscore_are_not_called(counter):
    for name in ("_private", "__len__"):
        with pytest.raises(AttributeError, match=name):
            getattr(counter, name)
        with pytest.raises(AttributeError, match=name):
            counter.submit(name)
    with pytest.raises(TypeError, match="must be a name"):
        counter.submit(Counter.add)


def test_a_name_that_the_class_does_not_have_is_an_attribute_error_of_the_host(counter):
    with pytest.raises(AttributeError, match="'Counter' object has no attribute 'nothing'"):
        counter.nothing()
    with pytest.raises(TypeError, match=r"Counter.value is not a method, but an object of 'int'"):
        counter.value()
    assert counter.add(0) == 10


def test_names_that_only_the_object_knows(runtime):
    with runtime.actor(Odd) as odd:
        assert odd.made_up() == "made up"
        with pytest.raises(AttributeError, match="nothing"):
            odd.nothing()
        with pytest.raises(OddError, match="3 and 4"):
            odd.bad()


def test_an_exception_of_a_method_is_raised_as_call_raises_it(runtime, counter):
    with pytest.raises(ZeroDivisionError) as raised:
        counter.divide(0)
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    text = str(raised.value.__cause__)
    assert text.startswith(f"Counter.divide raised ZeroDivisionError on {runtime.host}")
    assert "return self.value // by" in text
    assert __file__ in text
    assert "<lazycluster>" not in text
    with pytest.raises(TypeError, match="positional argument"):
        counter.divide()
    assert counter.divide(5) == 2
    with runtime.actor(Odd) as odd, pytest.raises(OddError, match="1 and 2") as raised:
        odd.fail()
    assert raised.value.two == 2


def test_an_exception_of_the_constructor_is_raised_and_nothing_stays(runtime, nothing_left):
    with pytest.raises(KeyError, match="mine") as raised:
        runtime.actor(Broken, "mine")
    assert "Broken raised KeyError" in str(raised.value.__cause__)
    nothing_left()


def test_what_is_no_class_or_does_not_fit_it_is_an_error_at_once(runtime):
    with pytest.raises(TypeError, match="takes a class"):
        runtime.actor(Counter())
    with pytest.raises(TypeError, match="unexpected keyword"):
        runtime.actor(Counter, steps=1)


def test_what_cannot_be_pickled_is_named_with_its_way_on_both_sides(counter):
    with pytest.raises(SerializationError, match=r"argument `value` of `Counter.echo`.*lock"):
        counter.echo(value=threading.Lock())
    with pytest.raises(SerializationError, match=r"positional argument 2 of `Counter.echo`"):
        counter.submit("echo", 1, threading.Lock())
    with pytest.raises(SerializationError, match=r"Counter.lock has run to its end.*lock"):
        counter.lock()
    assert counter.add(0) == 10


def test_generators_are_refused_with_the_cure(counter):
    with pytest.raises(SerializationError, match=r"`Counter.numbers` is a generator.*list"):
        counter.numbers()
    with pytest.raises(SerializationError, match=r"Counter.lazy_numbers .*generator.*list"):
        counter.lazy_numbers()


def test_coroutine_methods_run_in_one_loop(counter):
    assert counter.loop() == counter.loop()


def test_classes_by_value_arrive_once(counter):
    """An instance that comes later is one of the class that the actor has."""
    own = type("Own", (), {"__module__": "__main__", "twice": lambda self: 2})
    assert counter.own_type(Counter()) == (True, True)
    assert counter.echo(own, own) == ((own, own), {})
    assert isinstance(counter.same(), Counter)


COUNTING = """
calls = 0

def count():
    global calls
    calls += 1
    return calls
"""


class Applier:
    def __init__(self):
        self.kept = []

    def apply(self, function, *args):
        return function(*args)

    def keep(self, *objects):
        self.kept += objects

    def apply_kept(self, index, *args):
        return self.kept[index](*args)

    def known(self):
        gc.collect()  # a class refers to itself
        return len(sys.modules["_lazycluster._remote.rebuild"]._keys)


@pytest.fixture
def applier(runtime):
    with runtime.actor(Applier) as actor:
        yield actor


def test_functions_that_arrive_again_are_what_they_are_now(applier):
    """As in `call`: closure variables, defaults, attributes and code."""

    def scale(x):
        return x * factor

    def with_default(x, y=1):
        return x + y

    def with_attribute(x):
        return x + with_attribute.more

    def other(x, y):
        return x * y

    for factor in (1, 2, 3):
        with_default.__defaults__ = (factor,)
        with_attribute.more = factor
        assert applier.apply(scale, 10) == 10 * factor
        assert applier.apply(with_default, 10) == 10 + factor
        assert applier.apply(with_attribute, 10) == 10 + factor
    with_default.__code__ = other.__code__
    assert applier.apply(with_default, 10) == 30


def test_a_class_that_arrives_again_has_what_it_has_now(applier):
    """An object that the actor holds is of the same class, so it changes as here."""

    class Label:
        text = "a"

    def text_of(label):
        return label.text

    def shout(label):
        return label.shout()

    applier.keep(text_of, Label())
    assert applier.apply(text_of, Label()) == "a"
    Label.text = "b"
    Label.shout = lambda self: self.text.upper()
    assert applier.apply(text_of, Label()) == "b"
    assert applier.apply(shout, Label()) == "B"
    assert applier.apply(type, Label()) is Label


def test_what_the_actor_has_changed_stays_if_nothing_has_changed_here(applier):
    """State in a class, in a closure and in a function, as of a registry or a cache."""

    class Store:
        cache: ClassVar = {}
        count = 0

    def use(store, key):
        Store.count += 1
        Store.cache[key] = None
        return Store.count, len(Store.cache)

    def memoized():
        known = set()

        def is_new(x):
            found = x not in known
            known.add(x)
            return found

        return is_new

    def remember(x):
        remember.calls.append(x)
        return len(remember.calls)

    remember.calls = []
    is_new = memoized()
    applier.keep(Store, is_new, remember)  # else they are freed
    for number in (1, 2, 3):
        assert applier.apply(use, Store(), number) == (number, number)
        assert applier.apply(is_new, 5) is (number == 1)
        assert applier.apply(remember, number) == number
    Store.count = 10
    del Store.cache
    assert applier.apply(lambda store: store.count, Store()) == 10
    assert not applier.apply(lambda store: hasattr(store, "cache"), Store())


class Runner:
    """Calls a function in a thread, again and again."""

    def start(self, function):
        self.failures = []
        self.is_over = False
        sys.setswitchinterval(1e-5)
        self.thread = threading.Thread(target=self.run, args=[function])
        self.thread.start()

    def run(self, function):
        while not self.is_over:
            try:
                function()
            except Exception as error:
                self.failures.append(repr(error))

    def take(self, function):
        pass

    def stop(self):
        self.is_over = True
        self.thread.join()
        return self.failures


def test_a_function_that_arrives_again_is_whole_for_other_threads(runtime):
    def function():
        return function.more

    function.more = 1
    with runtime.actor(Runner) as runner:
        runner.start(function)
        for number in range(200):
            function.more = number
            runner.take(function)
        assert runner.stop() == []


def test_what_a_module_holds_in_the_actor_stays(applier, monkeypatch):
    """Functions of one that travels by value see what the actor has set in it."""
    module = types.ModuleType("module_of_an_actor")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(COUNTING, vars(module))
    cloudpickle.register_pickle_by_value(module)
    try:
        assert [applier.apply(module.count) for _ in range(3)] == [1, 2, 3]
        module.calls = 10
        assert applier.apply(module.count) == 4
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_an_actor_lets_functions_and_classes_go(applier):
    """Those that nothing there holds: a program may pass many over the time."""
    applier.apply(len, "")
    before = applier.known()
    for number in range(20):
        applier.apply(lambda number=number: number)
        applier.apply(type("Local", (), {"__module__": __name__}))
    assert applier.known() <= before + 4
    applier.keep(lambda: 5)
    assert applier.apply_kept(0) == 5


def test_futures_run_in_order_one_at_a_time(counter, both_sides):
    gate = str(both_sides / "gate")
    waits = counter.submit("wait_for", gate)
    adds = [counter.submit("add") for _ in range(5)]
    wait_until(waits.running)
    assert not any(future.running() or future.done() for future in adds)
    assert adds[1].cancel()
    assert adds[1].cancelled()
    assert not waits.cancel()
    Path(gate).touch()
    assert waits.result(TIMEOUT) == gate
    assert not waits.cancel()
    assert [adds[number].result(TIMEOUT) for number in (0, 2, 3, 4)] == [12, 14, 16, 18]


def test_many_threads_may_call_it(counter):
    values = []
    threads = [
        threading.Thread(target=lambda: values.extend(counter.add() for _ in range(20)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(values) == [10 + 2 * number for number in range(1, 101)]


def test_a_future_of_asyncio(counter):
    async def wait():
        return await asyncio.wrap_future(counter.submit("add"))

    assert asyncio.run(wait()) == 12


def test_lines_are_live_and_all_there_when_a_call_returns(runtime):
    lines = []
    with runtime.with_options(on_output=lines.append).actor(Counter) as actor:
        actor.say("one")
        assert lines == ["one\n"]
        actor.say("a\nb", end="", errors=True)
        assert lines == ["one\n", "a\n", "b"]
        actor.submit("say", "two").result(TIMEOUT)
        assert lines[3:] == ["two\n"]


def test_what_it_logs_comes_to_loggers_of_the_manager(counter, caplog):
    counter.log("something")
    assert [record.getMessage() for record in caplog.records] == ["something"]


@pytest.mark.parametrize("size", [1 << 16, 20 << 20])
def test_large_arguments_and_values(counter, size):
    """Above and below the size that is read before it is unpickled."""
    data = os.urandom(size)
    assert counter.echo(data, [data]) == ((data, [data]), {})
    assert counter.add(0) == 10


def test_options_of_the_view_hold_for_the_process(runtime, both_sides):
    view = runtime.with_options(env={"ACTOR_VARIABLE": "yes"}, cwd=both_sides)
    with view.actor(Counter) as actor:
        assert actor.where() == (str(both_sides), "yes")
    with view.with_options(env={"PYTHONHASHSEED": "7"}).actor(Counter) as actor:
        assert actor.where() == (str(both_sides), "yes")
        assert actor.add() == 1


def test_an_actor_of_preloaded_modules(runtime):
    with runtime.with_options(preload=["wave"]).actor(Imports) as actor:
        assert actor.has("wave")
        assert not actor.has("mailbox")
        assert actor.has("wave")


class Imports:
    def has(self, name):
        return name in sys.modules

    def apply(self, function, *args):
        return function(*args)


def test_a_module_of_a_later_call_is_imported_once_and_stays(runtime, local):
    module = local(
        later_module="import os\nSEEN = []\ndef note(x):\n    SEEN.append(x)\n    return SEEN\n"
        "class Kind:\n    pass\ndef is_kind(x):\n    return type(x) is Kind\n"
    )
    with runtime.actor(Imports) as one, runtime.actor(Imports) as two:
        assert one.apply(module.note, 1) == [1]
        assert one.apply(module.note, 2) == [1, 2]
        assert one.apply(module.is_kind, module.Kind())
        assert two.apply(module.note, 3) == [3]


class Holder:
    def __init__(self, value):
        self.value = value

    def holds(self, value):
        return value is self.value, len(value)


def test_shared_values_that_the_class_has_got(runtime):
    table, other = runtime.share(list(range(1000))), runtime.share({})
    with runtime.actor(Holder, table) as holder:
        assert holder.holds(table) == (True, 1000)
        with pytest.raises(SerializationError, match=r"Holder.holds gets a shared value"):
            holder.holds(other)
        with pytest.raises(SerializationError, match=r"Holder.holds gets a shared value"):
            holder.submit("holds", [other])
        assert runtime.call(len, other) == 0
        table.close()
        with pytest.raises(ValueError, match="closed"):
            runtime.actor(Holder, table)


def test_a_shared_value_is_sent_again_for_a_class_after_a_login(own_runtime):
    table = own_runtime.share(list(range(1000)))
    own_runtime.close()
    with own_runtime.actor(Holder, table) as holder:
        assert holder.holds(table) == (True, 1000)


FAILS_THERE = """
import os
if "FAILS_THERE" in os.environ:
    raise OSError("not there")

class Maker:
    def make(self, function):
        return function(21)

def twice(number):
    return 2 * number
"""


def test_a_module_that_cannot_be_imported_there_travels_by_value(runtime, local):
    """With the class, with an argument of a method, and with that of a submitted one."""
    one, two, three = (
        local(**{name: FAILS_THERE}) for name in ("fails_one", "fails_two", "fails_three")
    )
    view = runtime.with_options(env={"FAILS_THERE": "yes"})
    with view.actor(one.Maker) as maker:
        assert maker.make(two.twice) == 42
        assert maker.submit("make", three.twice).result(TIMEOUT) == 42
        assert maker.make(two.twice) == 42


def test_what_it_prints_is_in_its_log(own_runtime):
    actor = own_runtime.actor(Counter)
    actor.say("in the log")
    actor.close()
    with pytest.raises(ActorLostError) as raised:
        actor.add()
    path = str(raised.value).partition("Log: ")[2]
    assert os.path.basename(path).startswith("actor-Counter_")
    assert Path(path).read_text() == "in the log\n"


def test_sys_exit_is_an_error_of_the_call_and_the_actor_stays(counter):
    with pytest.raises(RemoteFunctionError, match="SystemExit") as raised:
        counter.exit(3)
    assert raised.value.exit_status == 3
    assert counter.add(0) == 10


def test_a_child_that_returns_from_the_method_ends(counter):
    assert counter.fork_and_return() == "parent"
    assert counter.add(0) == 10


def test_it_cannot_be_pickled_or_copied(runtime, counter):
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="An Actor cannot be pickled"):
            copied(counter)
    with pytest.raises(SerializationError, match=r"lazycluster.actors.Actor\). Use it on the"):
        runtime.call(id, counter)


def test_its_text_names_class_and_host(runtime, counter):
    assert repr(counter) == f"<Actor Counter on {runtime.host!r}>"
