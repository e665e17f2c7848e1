"""The message names the way to what cannot be pickled, and the cure.

Each test is one place where an object may hide, or one kind of object that cannot travel.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import ctypes
import dataclasses
import functools
import importlib
import itertools
import logging
import mmap
import multiprocessing
import pickle
import queue
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref

import cloudpickle
import pytest

from lazycluster import RuntimeTask
from lazycluster._functions.payload import dump_call
from lazycluster._shared import unpicklable
from lazycluster._shared.unpicklable import explain
from lazycluster.exceptions import SerializationError

pytestmark = pytest.mark.every_python


@pytest.fixture(scope="module", autouse=True)
def _by_value():
    """Let the functions and classes of this module travel as those of a script do."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


LAYOUT = struct.Struct("i")
CONNECTION = sqlite3.connect(":memory:")
NESTED = {"db": {"main": [1, LAYOUT]}}


@pytest.fixture(scope="module", autouse=True)
def _close_the_connection():
    yield
    CONNECTION.close()


def message_of(function, *args, **kwargs):
    """Return what the error says of a call, without its beginning."""
    with pytest.raises(SerializationError) as caught:
        dump_call(function, args, kwargs)
    beginning = "The call cannot be pickled: "
    assert str(caught.value).startswith(beginning)
    return str(caught.value)[len(beginning) :]


def message_of_value(value):
    """Return the explanation for a value of a function."""
    with pytest.raises(TypeError) as caught:
        cloudpickle.dumps(value)
    return explain([("value", value)], caught.value, cloudpickle.Pickler)


def line_of(function):
    return f"{__file__.rpartition('/')[2]}:{function.__code__.co_firstlineno}"


# --- Where the object is, in what a function refers to ---


def _global():
    return LAYOUT


def _nested():
    return NESTED


def _helped():
    return _global()


def _closure():
    layout = struct.Struct("i")

    def inner():
        return layout

    return inner


def _default(a, b=LAYOUT):
    return a, b


def _keyword_default(a, *, b=LAYOUT):
    return a, b


def _decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@_decorate
def _decorated():
    return LAYOUT


def _with_attribute():
    pass


_with_attribute.layout = LAYOUT


def _plain(*args, **kwargs):
    return args, kwargs


class WithLayout:
    def __init__(self):
        self.layout = struct.Struct("i")

    def method(self):
        return self


class Child(WithLayout):
    pass


class Slotted:
    __slots__ = ("a", "layout")

    def __init__(self):
        self.layout = struct.Struct("i")


class UsesGlobal:
    def method(self):
        return LAYOUT

    @classmethod
    def of_class(cls):
        return LAYOUT

    @staticmethod
    def static():
        return LAYOUT

    @property
    def prop(self):
        return LAYOUT


class HoldsLayout:
    HELD = struct.Struct("i")


class ChildOfHolder(HoldsLayout):
    pass


class WithProperty:
    @property
    def prop(self):
        return LAYOUT


@dataclasses.dataclass
class Record:
    number: int
    held: object


class Reduced:
    def __reduce__(self):
        return _plain, (1, [struct.Struct("i")])


class Stateful:
    def __getstate__(self):
        return {"kept": struct.Struct("i")}


class StatefulWithAttribute:
    def __init__(self):
        self.held = struct.Struct("i")

    def __reduce__(self):
        return _plain, (self.held,)


class Pairs(dict):
    pass


class Row(list):
    pass


Point = collections.namedtuple("Point", "x y")

_LAYOUT_IS = " (_struct.Struct)"

FUNCTIONS = {
    "global": (_global, "function `_global` → global `LAYOUT`"),
    "nested": (_nested, "global `NESTED` → key 'db' → key 'main' → item 1"),
    "global of a global": (_helped, "function `_helped` → global `_global` → global `LAYOUT`"),
    "lambda": (lambda: LAYOUT, "function `<lambda>` → global `LAYOUT`"),
    "closure": (_closure(), "function `inner` → closure variable `layout`"),
    "default": (_default, "function `_default` → default of `b`"),
    "keyword default": (_keyword_default, "function `_keyword_default` → default of `b`"),
    "decorated": (_decorated, "function `_decorated` → "),
    "attribute of a function": (_with_attribute, "`_with_attribute` → attribute `layout`"),
    "partial": (
        functools.partial(_plain, 1, LAYOUT),
        "`_plain` → positional argument 2 of the partial",
    ),
    "partial, by name": (
        functools.partial(_plain, a=LAYOUT),
        "`_plain` → argument `a` of the partial",
    ),
    "partial of a function": (functools.partial(_global), "function `_global` → global `LAYOUT`"),
    "bound method": (WithLayout().method, "`WithLayout.method` → `__self__` → attribute `layout`"),
    "global of a method": (UsesGlobal().method, "`UsesGlobal.method` → global `LAYOUT`"),
    "class method": (UsesGlobal.of_class, "`UsesGlobal.of_class` → global `LAYOUT`"),
    "static method": (UsesGlobal.static, "`UsesGlobal.static` → global `LAYOUT`"),
    "method written in C": (LAYOUT.pack, "→ `__self__`"),
    "class": (HoldsLayout, "class attribute `HELD`"),
    "base class": (ChildOfHolder, "base class `HoldsLayout` → class attribute `HELD`"),
    "property": (WithProperty, "property `prop` → global `LAYOUT`"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_way_from_a_function_is_named(name):
    function, way = FUNCTIONS[name]
    text = message_of(function)
    assert way in text
    assert _LAYOUT_IS in text
    assert ". Create it in the function." in text


ARGUMENTS = {
    "itself": (LAYOUT, "argument `a` of `_plain`"),
    "attribute": (WithLayout(), "argument `a` of `_plain` → attribute `layout`"),
    "slot": (Slotted(), "→ attribute `layout`"),
    "field": (Record(1, LAYOUT), "→ attribute `held`"),
    "item": ([1, 2, LAYOUT], "→ item 2"),
    "item of a tuple": ((LAYOUT,), "→ item 0"),
    "field of a named tuple": (Point(1, LAYOUT), "→ field `y`"),
    "key": ({1: LAYOUT}, "→ key 1"),
    "tuple as key": ({(1, "a"): LAYOUT}, "→ key (1, 'a')"),
    "the key itself": ({LAYOUT: 1}, "→ a key"),
    "member": ({LAYOUT}, "→ a member"),
    "member of a frozen set": (frozenset([LAYOUT]), "→ a member"),
    "deque": (collections.deque([1, LAYOUT]), "→ item 1"),
    "ordered": (collections.OrderedDict(a=LAYOUT), "→ key 'a'"),
    "defaultdict": (collections.defaultdict(list, a=LAYOUT), "→ key 'a'"),
    "default factory": (
        collections.defaultdict(lambda: LAYOUT),
        "→ attribute `default_factory` → global",
    ),
    "counter": (collections.Counter({LAYOUT: 1}), "→ a key"),
    "chain map": (collections.ChainMap({"a": LAYOUT}), "→ attribute `maps` → item 0 → key 'a'"),
    "dict of a class": (Pairs(a=LAYOUT), "→ key 'a'"),
    "list of a class": (Row([LAYOUT]), "→ item 0"),
    "namespace": (types.SimpleNamespace(a=LAYOUT), "→ attribute `a`"),
    "read-only view of a dict": (types.MappingProxyType({"a": LAYOUT}), "→ key 'a'"),
    "view of values": ({"a": 1, "b": LAYOUT}.values(), "→ item 1 ("),
    "iterator": (iter([1, LAYOUT]), "→ item 1 ("),
    "exception": (KeyError("a", LAYOUT), "→ `args[1]`"),
    "function": (_global, "argument `a` of `_plain` → global `LAYOUT`"),
    "class by value": (HoldsLayout(), "→ class `HoldsLayout` → class attribute `HELD`"),
    "__reduce__": (Reduced(), "→ what `__reduce__` returns → item 1 → item 0"),
    "__getstate__": (Stateful(), "→ what `__getstate__` returns → key 'kept'"),
    "attribute that __reduce__ gives": (StatefulWithAttribute(), "→ attribute `held`"),
    "deep": ([{"a": ({"b": [WithLayout()]},)}], "→ item 0 → key 'a' → item 0 → key 'b' → item 0 →"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_way_from_an_argument_is_named(name):
    argument, way = ARGUMENTS[name]
    text = message_of(_plain, a=argument)
    assert text.startswith("argument `a` of `_plain`")
    assert way in text
    assert _LAYOUT_IS in text


def test_an_argument_is_named_by_its_position():
    assert message_of(_plain, 1, [LAYOUT]).startswith(
        "positional argument 2 of `_plain` → item 0 ("
    )


def test_an_array_of_objects_is_named_by_its_index():
    numpy = pytest.importorskip("numpy")
    array = numpy.array([[1, 2], [3, LAYOUT]], dtype=object)
    assert "→ item [1, 1] (_struct.Struct)" in message_of(_plain, array)
    assert "→ key 'b' (_struct.Struct)" in message_of(_plain, {"a": numpy.ones(3), "b": LAYOUT})


def test_a_table_is_named_by_its_column_and_row():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1, 2], "b": ["x", LAYOUT]})
    assert "`a` of `_plain` → column 'b', row 1 (_struct.Struct)" in message_of(_plain, a=table)
    assert "`a` of `_plain` → row 1 (_struct.Struct)" in message_of(_plain, a=table["b"])


class Hostile:
    """Raises when it is looked at."""

    def __getattribute__(self, name):
        if name in ("__dict__", "layout"):
            raise RuntimeError(name)
        return object.__getattribute__(self, name)

    def __reduce__(self):
        return _plain, (LAYOUT,)


def test_an_object_that_raises_when_it_is_looked_at_is_no_trap():
    assert "TypeError: cannot pickle '_struct.Struct' object" in message_of(_plain, [Hostile()])


def test_the_first_that_fails_is_named_in_the_order_of_pickling():
    assert "`a` of `_plain` → item 1 " in message_of(_plain, a=[1, LAYOUT, LAYOUT], b=LAYOUT)


def test_a_circle_is_no_trap():
    """An object that refers to itself, and a class that its methods refer to."""
    circle = WithLayout()
    circle.__dict__ = {"itself": circle, "list": [circle], "layout": LAYOUT}
    circle.list.append(circle.list)
    assert "argument `a` of `_plain` → attribute `layout`" in message_of(_plain, a=circle)


# --- Where it is in the files ---


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return the `__main__`-like module that a file makes, by its text."""
    monkeypatch.chdir(tmp_path)

    def make(text):
        path = tmp_path / "train.py"
        path.write_text(text)
        module = types.ModuleType("lc_train")
        module.__file__ = str(path)
        exec(compile(text, str(path), "exec"), module.__dict__)
        return module

    return make


def test_the_line_that_assigns_the_global_is_named(script):
    module = script(
        "import sqlite3\n\ndef fit():\n    DB = 1\n\n"
        "class DB:\n    pass\n\nif True:\n    DB = sqlite3.connect(':memory:')\n\n"
        "def fit():\n    return DB\n"
    )
    # A class of that name is bound first.
    assert message_of(module.fit) == (
        "function `fit` → global `DB` (sqlite3.Connection), train.py:6. Create it in the function."
    )
    module.DB.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DB: object = make()",
        "a, (DB, b) = 1, (make(), 2)",
        "with context() as DB: pass",
        "for DB in [make()]: pass",
        "(DB := make())",
        "if True:\n    DB = make()",
        "try: DB = make()\nfinally: pass",
    ],
)
def test_any_statement_that_binds_the_global_is_found(script, statement):
    module = script(
        "import contextlib, struct\n"
        "def make():\n    return struct.Struct('i')\n"
        "@contextlib.contextmanager\ndef context():\n    yield make()\n"
        f"{statement}\n"
        "def fit():\n    return DB\n"
    )
    assert "global `DB` (_struct.Struct), train.py:" in message_of(module.fit)
    assert f"train.py:{7 + statement.startswith('if')}." in message_of(module.fit)


def test_a_global_that_no_line_assigns_is_where_its_function_is(script):
    module = script("\n\ndef fit():\n    return DB\n")
    module.DB = CONNECTION
    assert "train.py:3." in message_of(module.fit)


def test_what_is_in_a_class_is_where_the_class_assigns_it(script, monkeypatch):
    module = script(
        "import struct\nLAYOUT = 1\nclass Model:\n    x = 1\n    LAYOUT = struct.Struct('i')\n"
    )
    monkeypatch.setitem(sys.modules, "lc_train", module)
    assert "class attribute `LAYOUT` (_struct.Struct), " in message_of(module.Model)
    assert "train.py:5." in message_of(module.Model)


def test_a_function_without_a_file_has_no_line():
    """As at a prompt."""
    namespace = {"LAYOUT": LAYOUT, "__name__": "__main__"}
    exec(compile("def fit():\n    return LAYOUT\n", "<stdin>", "exec"), namespace)
    assert message_of(namespace["fit"]) == (
        "function `fit` → global `LAYOUT` (_struct.Struct). Create it in the function."
    )


def test_the_line_of_a_closure_is_its_function():
    function = _closure()
    assert f", {line_of(function)}." in message_of(function).replace("tests/unit/", "")


def test_an_attribute_has_the_cure_of_its_class():
    text = message_of(_plain, WithLayout())
    assert text.endswith("Create it in the function. Or leave it out in `WithLayout.__getstate__`.")


# --- What it is ---


def _generator():
    yield 1


async def _coroutine():
    pass


async def _async_generator():
    yield 1


@pytest.fixture
def made():
    """Return a list; what is put there is closed at the end."""
    objects = []
    yield objects
    for thing in reversed(objects):
        thing.close()


def _pipe():
    return multiprocessing.get_context("spawn").Pipe()[0]


KINDS = {
    "generator": (_generator, "Pass a list."),
    "asynchronous generator": (_async_generator, "Pass a list."),
    "coroutine": (_coroutine, "Await it, and pass the result."),
    "lock": (threading.Lock, "Create it in the function."),
    "reentrant lock": (threading.RLock, "Create it in the function."),
    "condition": (threading.Condition, "Create it in the function."),
    "event": (threading.Event, "(threading.Event). Create it in the function."),
    "semaphore": (threading.Semaphore, "Create it in the function."),
    "local": (threading.local, "Create it in the function."),
    "queue": (queue.Queue, "(queue.Queue). Create it in the function."),
    "simple queue": (queue.SimpleQueue, "Create it in the function."),
    "thread": (threading.Thread, "Start it in the function."),
    "executor": (lambda: concurrent.futures.ThreadPoolExecutor(1), "Start it in the function."),
    "future": (concurrent.futures.Future, "Start it in the function."),
    "lock of multiprocessing": (
        lambda: multiprocessing.get_context("spawn").Lock(),
        "Create it in the function.",
    ),
    "file to write": (lambda: open("/dev/null", "w"), "Pass its path, and open it in the function"),
    "binary file": (lambda: open("/dev/null", "rb"), "Pass its path, and open it in the function"),
    "temporary file": (tempfile.TemporaryFile, "Pass its path, and open it in the function"),
    "named temporary file": (tempfile.NamedTemporaryFile, "Pass its path, and open it in"),
    "socket": (socket.socket, "Create it in the function."),
    "TLS": (ssl.create_default_context, "Create it in the function."),
    "connection": (lambda: CONNECTION, "Create it in the function."),
    "cursor": (lambda: CONNECTION.cursor(), "Create it in the function."),
    "map of memory": (lambda: mmap.mmap(-1, 4096), "Pass bytes."),
    "frame": (sys._getframe, "Keep its text"),
    "traceback": (lambda: _traceback(), "Keep its text"),
    "reference": (lambda: weakref.ref(_plain), "Pass the object itself."),
    "pointer": (lambda: ctypes.pointer(ctypes.c_int(1)), "Pass what it points to"),
    "void pointer": (lambda: ctypes.c_void_p(1), "Pass what it points to"),
    "library": (lambda: ctypes.CDLL(None).printf, "Pass what it points to"),
    "handler of logging": (logging.StreamHandler, "Create it in the function."),
    "task of lazycluster": (RuntimeTask, None),
}


def _traceback():
    try:
        raise ValueError
    except ValueError as error:
        return error.__traceback__


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_the_cure_fits_the_kind_of_the_object(name):
    make, cure = KINDS[name]
    thing = make()
    try:
        if cure is None:
            dump_call(_plain, (thing,), {})
            return
        text = message_of(_plain, [thing])
        assert text.startswith("positional argument 1 of `_plain` → item 0 (")
        assert cure in text
    finally:
        if hasattr(thing, "close") and thing is not CONNECTION:
            thing.close()
        elif hasattr(thing, "shutdown"):
            thing.shutdown()


def test_a_process_is_started_in_the_function():
    with subprocess.Popen(["true"]) as process:
        assert "(subprocess.Popen" in message_of(_plain, process)
        assert "Start it in the function." in message_of(_plain, process)


def test_an_event_loop_is_started_in_the_function():
    loop = asyncio.new_event_loop()
    try:
        assert "Start it in the function." in message_of(_plain, [loop])
    finally:
        loop.close()


VALUES = {
    "generator": (_generator, "value (generator). Return a list instead."),
    "lock": (threading.Lock, "value (_thread.lock). Return plain data."),
    "in a dict": (lambda: {"db": [LAYOUT]}, "value → key 'db' → item 0 (_struct.Struct)"),
    "attribute": (
        WithLayout,
        "value → attribute `layout` (_struct.Struct). Return plain data. Or leave",
    ),
    "closure": (_closure, "value → closure variable `layout` (_struct.Struct)"),
    "socket": (socket.socket, "value (socket.socket). Return plain data."),
    "binary file": (lambda: open("/dev/null", "rb"), "Return its contents, or its path"),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_way_to_a_value_has_the_cure_of_a_value(name):
    make, text = VALUES[name]
    value = make()
    assert text in message_of_value(value)
    if hasattr(value, "close"):
        value.close()


# --- Names ---


def test_an_object_that_is_not_found_by_its_name_is_named(monkeypatch):
    """Another object has taken its name."""
    module = types.ModuleType("lc_by_name")
    exec("class Thing:\n    pass\n", module.__dict__)
    thing = module.Thing()
    monkeypatch.setitem(sys.modules, "lc_by_name", module)
    del module.Thing

    class ByName(type(thing)):
        def __reduce__(self):
            return "nowhere"

    text = message_of(_plain, [ByName()])
    assert text.startswith("positional argument 1 of `_plain` → item 0 (")
    assert "nowhere" in text


class Refuses:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def test_the_reason_of_a_class_is_in_the_message():
    text = message_of(_plain, {"a": Refuses(TypeError("no way"))})
    assert "→ key 'a' (" in text
    assert "Refuses): TypeError: no way. " in text


class ReducesTo:
    def __init__(self, reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "reduced", [(1, ()), (print, 1), (print,), 7, "no_such_name", (None, None)]
)
def test_what_a_class_must_not_return_is_named_by_its_place(reduced):
    text = message_of(_plain, [ReducesTo((list, ())), ReducesTo(reduced)])
    assert text.startswith("positional argument 1 of `_plain` → item 1 (")


def test_a_reason_that_is_a_sentence_with_a_cure_stands_alone():
    """As that of a local package with a compiled module."""
    reason = "spam has the compiled module spam/_fast.so. Install spam on the host."
    text = message_of(_plain, {"a": Refuses(pickle.PicklingError(reason))})
    assert text.startswith("positional argument 1 of `_plain` → key 'a' (")
    assert text.endswith(f"Refuses): {reason}")


def test_an_error_of_a_class_of_another_kind_passes():
    """ValueError, though a pointer of ctypes raises it, too."""
    with pytest.raises(ValueError, match="odd"):
        dump_call(_plain, (Refuses(ValueError("odd")),), {})


# --- Too deep ---


class Node:
    def __init__(self, following):
        self.following = following


def _deep_list(levels):
    deep = []
    for _ in range(levels - 1):
        deep = [deep]
    return deep


def _linked(levels):
    node = None
    for _ in range(levels):
        node = Node(node)
    return node


def _unlink(node):
    while node is not None:  # else Python recurses when it frees them
        following, node.following = node.following, None
        node = following


def test_how_deep_data_is_nested_is_named(monkeypatch):
    monkeypatch.setattr(unpicklable, "SECONDS", 60)
    text = message_of(_plain, tree={"root": _deep_list(20_000)})
    assert text.startswith("argument `tree` of `_plain` → key 'root' (list) is nested too deeply: ")
    assert ": 20000 levels." in text


def test_how_long_a_chain_of_objects_is_is_named(monkeypatch):
    monkeypatch.setattr(unpicklable, "SECONDS", 60)
    first = _linked(20_000)
    text = message_of(_plain, [first])
    assert "→ item 0 (" in text
    assert "Node) is nested too deeply: 20000 levels." in text
    _unlink(first)


# --- It ends ---


def test_the_search_ends_in_time(monkeypatch):
    """Then the message has the reason, without the way."""
    monkeypatch.setattr(unpicklable, "SECONDS", 0)
    assert message_of(_plain, [[LAYOUT]]).startswith("`_plain`: TypeError: cannot pickle")


def test_a_user_s_code_runs_once_more():
    """What pickling has run, the search runs once."""
    runs = itertools.count()

    class Counted:
        def __reduce__(self):
            next(runs)
            return _plain, ()

    message_of(_plain, [Counted(), LAYOUT])
    assert next(runs) <= 2


def test_a_long_list_is_searched_up_to_the_first_failure():
    many = [*range(1_000_000), LAYOUT]
    many += many
    start = time.process_time()
    assert "→ item 1000000 (" in message_of(_plain, many)
    assert time.process_time() - start < 60


def test_what_is_pickled_with_another_pickler_is_found():
    """The standard library's, which has no rules of its own."""
    with pytest.raises(TypeError) as caught:
        pickle.dumps([LAYOUT])
    assert explain([("value", [LAYOUT])], caught.value, pickle.Pickler) == (
        "value → item 0 (_struct.Struct). Return plain data."
    )


def test_a_module_imports_its_helpers_on_the_host():
    """They have no other imports than the standard library."""
    for name in ("unpicklable", "referents", "cures"):
        assert importlib.import_module(f"lazycluster._shared.{name}")
