"""A pickle of a function is used again only while the function would be pickled in the same way."""

from __future__ import annotations

import gc
import io
import linecache
import pickle
import sys
import types
import weakref

import cloudpickle
import pytest

from lazycluster._functions import known_functions
from lazycluster._functions.payload import dump_call
from lazycluster._functions.pickler import CallPickler
from lazycluster._functions.selection import NONE_NAMED, Modules

pytestmark = pytest.mark.every_python

TEXT = """
import math

LIMIT = 5
TABLE = [1, 2]

def helper(x):
    return x + LIMIT

def function(x=1, y="a"):
    return helper(x) * LIMIT * math.pi

def other(x):
    return -x

def recursive(x):
    return recursive(x - 1) if x else both(x)

def both(x):
    return recursive(x)

def annotated(x: int) -> "LIMIT":
    return x

def with_data():
    return TABLE

def make():
    def inner():
        return x
    x = 1
    return inner

with_closure = make()
"""


@pytest.fixture
def script(monkeypatch):
    """A module that travels by value, as `__main__` does."""
    module = types.ModuleType("script_of_known_functions")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    lines = TEXT.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, "script.py", (len(TEXT), None, lines, "script.py"))
    exec(compile(TEXT, "script.py", "exec"), vars(module))
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)


def payload_of(function, *args, modules=NONE_NAMED):
    call = dump_call(function, args, {}, modules=modules)
    return call.payload.read_at(0, len(call.payload)), call


def fresh_payload(function, *args):
    file = io.BytesIO()
    CallPickler(file, NONE_NAMED).dump_call(function, args, {})
    return file.getvalue()


def known(function):
    entry = known_functions._entries.get(id(function))
    return None if entry is None else entry.known


def learn(function):
    """Call a function until its pickle is known."""
    payload_of(function)
    payload_of(function)
    assert known(function) is not None


def assert_current(function):
    """The call has what a pickler makes of the function now."""
    payload, _ = payload_of(function)
    fresh = fresh_payload(function)
    end_of_known = len(b")}\x87.")  # of no arguments
    assert payload == fresh or fresh.startswith(payload[11:-end_of_known], 11)


def replace_helper(script):
    exec("def helper(x): return -x", vars(script))


def change_text(script):
    lines = ["# another\n", *linecache.cache["script.py"][2]]
    linecache.cache["script.py"] = (1, None, lines, "script.py")


CHANGES = {
    "a number that it uses": lambda script: setattr(script, "LIMIT", 6),
    "a number that a function uses which it calls": lambda script: setattr(script, "LIMIT", 7.0),
    "what it uses is gone": lambda script: delattr(script, "LIMIT"),
    "a function that it calls": replace_helper,
    "the code of a function that it calls": lambda script: setattr(
        script.helper, "__code__", script.other.__code__
    ),
    "its code": lambda script: setattr(script.function, "__code__", script.other.__code__),
    "its defaults": lambda script: setattr(script.function, "__defaults__", (2, "b")),
    "keyword defaults": lambda script: setattr(script.function, "__kwdefaults__", {"z": 1}),
    "an attribute": lambda script: setattr(script.function, "limit", 1),
    "an annotation": lambda script: script.function.__annotations__.update(x=int),
    "its name": lambda script: setattr(script.function, "__qualname__", "another"),
    "its docstring": lambda script: setattr(script.function, "__doc__", "Do."),
    "another one has its name": lambda script: setattr(script, "function", script.other),
    "the docstring of its module": lambda script: setattr(script, "__doc__", "A script."),
    "a module that it uses": lambda script: setattr(script, "math", sys),
    "a list in place of a number": lambda script: setattr(script, "LIMIT", [1]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_a_change_a_function_is_pickled_anew(script, change):
    function = script.function
    learn(function)
    assert_current(function)
    change(script)
    before = known(function)
    assert_current(function)
    assert known(function) is not before


def test_after_a_change_of_the_text_the_new_text_travels(script):
    learn(script.function)
    change_text(script)
    _, call = payload_of(script.function)
    fresh = CallPickler(io.BytesIO(), NONE_NAMED)
    fresh.dump_call(script.function, (), {})
    assert call.contents == fresh.texts


def test_a_name_in_an_annotation_is_a_part_of_a_function(script):
    learn(script.annotated)
    script.LIMIT = 6
    assert_current(script.annotated)
    assert known(script.annotated) is None


def test_what_is_pickled_by_value_decides(script):
    learn(script.function)
    cloudpickle.register_pickle_by_value(sys.modules["json"])
    try:
        assert_current(script.function)
        assert known(script.function) is None
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules["json"])


def test_a_module_that_is_imported_later_may_be_a_part(script, monkeypatch):
    learn(script.function)
    monkeypatch.setitem(sys.modules, "math.more", types.ModuleType("math.more"))
    payload_of(script.function)
    assert known(script.function) is None


def test_another_selection_of_modules_is_another_pickle(script):
    learn(script.function)
    payload_of(script.function, modules=Modules(left=frozenset(["math"])))
    assert known(script.function) is None


@pytest.mark.parametrize("name", ["with_data", "with_closure"])
def test_a_function_with_what_may_change_is_never_known(script, name):
    function = getattr(script, name)
    for _ in range(10):
        assert payload_of(function)[0] == fresh_payload(function)
        assert known(function) is None


def test_a_function_whose_surroundings_change_all_the_time_is_not_known(script):
    """To learn it again and again would cost more than it saves."""
    for number in range(100, 120):
        script.LIMIT = float(number)
        payload_of(script.function)
        payload_of(script.function)
        assert_current(script.function)
    assert known(script.function) is None


def test_a_function_of_an_installed_module_is_known_by_its_name():
    learn(linecache.getline)
    assert_current(linecache.getline)


def test_an_installed_function_that_was_replaced_is_not_the_one_that_is_known(monkeypatch):
    """It is the user's then, and travels by value."""
    original = linecache.getline
    learn(original)
    monkeypatch.setattr(linecache, "getline", lambda *_: "")
    assert_current(original)


@pytest.mark.parametrize(
    "args",
    [
        (),
        (1,),
        ("a", "a"),
        (None, True, 1.5, b"x"),
        (10**40,),
        ("\xe4" * 10_000,),
        ("x" * 100_000,),
        ([1],),
        (len,),
    ],
    ids=lambda args: repr(args)[:30],
)
def test_arguments_arrive_with_a_known_function(script, args):
    """What can refer to something needs the pickler, and the function goes through it as well."""
    learn(script.other)
    payload, _ = payload_of(script.other, *args)
    loaded = pickle.loads(payload)
    assert loaded[1:] == (args, {})
    call = dump_call(script.other, (), {"x": args}, modules=NONE_NAMED)
    assert pickle.loads(call.payload.read_at(0, len(call.payload)))[2] == {"x": args}


@pytest.mark.parametrize("name", ["function", "recursive"])
def test_a_function_is_not_kept_alive(script, name):
    """Not by what it uses either: itself, or a function that calls it."""
    function = getattr(script, name)
    learn(function)
    assert_current(function)
    reference, number = weakref.ref(function), id(function)
    delattr(script, name)
    del function
    gc.collect()
    assert reference() is None
    assert number not in known_functions._entries


def test_the_modules_of_the_first_calls_are_not_changes(script, monkeypatch):
    """A program imports some of them, and is as fast as others then."""
    for number in range(10):
        monkeypatch.setitem(sys.modules, f"module_{number}", types.ModuleType(f"module_{number}"))
        payload_of(script.function)
        payload_of(script.function)
    learn(script.function)


def test_no_code_of_an_object_runs_for_a_pickle_that_is_not_sent(script):
    """What it reduces to may change, and to make that may take long."""
    calls = []

    class Model:
        def __reduce__(self):
            calls.append(1)
            return int, ()

    script.LIMIT = Model()
    for _ in range(10):
        payload_of(script.function)
    assert len(calls) == 10


def test_an_exception_of_a_signal_handler_passes(script, monkeypatch):
    class TooLongError(Exception):
        pass

    def interrupted(self, obj):
        raise TooLongError

    payload_of(script.function)
    monkeypatch.setattr(known_functions._Tracer, "reducer_override", interrupted)
    with pytest.raises(TooLongError):
        payload_of(script.function)


def test_only_some_functions_are_known(script):
    functions = []
    for number in range(known_functions.MOST + 10):
        exec(f"def number_{number}(): return {number}", vars(script))
        functions.append(getattr(script, f"number_{number}"))
        payload_of(functions[-1])
    assert len(known_functions._entries) <= known_functions.MOST


@pytest.mark.parametrize(
    ("args", "names"),
    [((1,), ["f"]), (("a", "a"), []), ((), ["f", "g"]), (([1],), []), ((len,), [])],
    ids=["a keyword", "a position", "two functions", "a list", "a built-in function"],
)
@pytest.mark.parametrize("name", ["function", "recursive"])
def test_a_method_gets_a_known_function_with_other_arguments(script, name, args, names):
    """Two functions go through the pickler, since one may refer to the other."""
    function = getattr(script, name)
    learn(function)
    positional = args if names else (function, *args)
    keywords = dict.fromkeys(names, function)
    call = dump_call("call", positional, keywords, modules=NONE_NAMED, name="Model.call")
    method, loaded, loaded_keywords = pickle.loads(call.payload.read_at(0, len(call.payload)))
    found = [*loaded, *loaded_keywords.values()]
    assert (method, call.name, list(loaded_keywords)) == ("call", "Model.call", names)
    assert loaded[-len(args) :] == args or not args
    functions = [value for value in found if isinstance(value, types.FunctionType)]
    assert len(functions) == max(1, len(names))
    assert all(each.__code__ == function.__code__ for each in functions)
    assert call.contents.keys() == payload_of(function)[1].contents.keys()


def test_a_function_that_a_method_gets_is_known_from_its_third_call_on(script, monkeypatch):
    def call():
        return dump_call("call", (script.function, 1), {"y": "\xe4" * 100}, modules=NONE_NAMED)

    call()
    call()
    monkeypatch.setattr(CallPickler, "dump_call", None)
    call()


class Name(str):
    """A name of a keyword argument whose class travels."""


@pytest.mark.parametrize("function", ["other", "a method"])
def test_a_keyword_of_a_derived_class_goes_through_the_pickler(script, monkeypatch, function):
    called = getattr(script, function, function)
    if called is not function:
        learn(called)
    seen = []
    monkeypatch.setattr(CallPickler, "dump_call", lambda *_: seen.append(1))
    for values in ({"x": 1}, {"x": script.function}):
        dump_call(called, (), {Name(key): value for key, value in values.items()})
    assert len(seen) == 2
