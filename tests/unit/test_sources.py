"""Local modules are imported on the host under their own names, as the manager has loaded them."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import subprocess
import sys

import cloudpickle
import pytest

from lazycluster._functions import sources as _sources
from lazycluster._functions.payload import dump_by_value, dump_call
from lazycluster._functions.selection import NONE_NAMED
from lazycluster._functions.sources import Sources
from lazycluster.exceptions import SerializationError
from support.bare_python import call_there

pytestmark = pytest.mark.every_python


ORDINARY = """
    from __future__ import annotations
    import abc, contextlib, dataclasses, enum, functools, threading, typing, weakref

    class Planet(enum.Enum):
        EARTH = (5.9, 6.3)
        def __init__(self, mass, radius):
            self.mass = mass
            self.radius = radius

    class Registry:
        known = []
        def __init_subclass__(cls, /, name, **kwargs):
            super().__init_subclass__(**kwargs)
            Registry.known.append(name)

    class First(Registry, name="first"):
        lock = threading.Lock()

    class Meta(type):
        def __new__(mcs, name, bases, namespace, *, tag=None):
            made = super().__new__(mcs, name, bases, namespace)
            made.tag = tag
            return made
        def __init__(cls, name, bases, namespace, *, tag=None):
            super().__init__(name, bases, namespace)

    class Tagged(metaclass=Meta, tag="a tag"):
        pass

    @functools.singledispatch
    def kind(value):
        return "object"

    @kind.register
    def _(value: int):
        return "int"

    @dataclasses.dataclass
    class Point:
        x: int
        next: typing.Optional[Point] = None

    LIVING = weakref.WeakSet()
    LOCK = threading.RLock()
    LOCAL = threading.local()

    @functools.lru_cache(maxsize=None)
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    @contextlib.contextmanager
    def locked():
        with LOCK:
            yield "locked"

    def hints():
        return typing.get_type_hints(Point)["next"]
"""


def test_ordinary_code_of_a_local_module_works(local):
    """Enums, registries, metaclasses, locks, caches: the module is imported, not copied."""
    module = local(lc_ordinary=ORDINARY)

    def run():
        import pickle

        point = module.Point(1, module.Point(2))
        with module.locked() as word:
            return (
                (module.Planet.EARTH.mass, module.Planet((5.9, 6.3)) is module.Planet.EARTH),
                (module.Registry.known, module.First.lock.acquire(blocking=False)),
                (module.Tagged.tag, type(module.Tagged) is module.Meta),
                (module.kind(1), module.kind("a")),
                pickle.loads(pickle.dumps(point)) == point,
                (module.fib(30), word),
                module.hints() == __import__("typing").Optional[module.Point],
            )

    assert call_there(run) == (
        (5.9, True),
        (["first"], True),
        ("a tag", True),
        ("int", "object"),
        True,
        (832040, "locked"),
        True,
    )


@pytest.mark.parametrize(
    "name", ["Planet", "First", "Tagged", "Meta", "kind", "Point", "fib", "locked"]
)
def test_what_a_local_module_defines_comes_back_as_itself(local, name):
    """Classes, functions, and what only wraps one."""
    module = local(lc_returned=ORDINARY)
    thing = getattr(module, name)
    assert call_there(lambda: thing) is thing
    assert call_there(lambda value: [value], thing)[0] is thing


def test_instances_come_back_as_instances_of_the_managers_class(local):
    module = local(lc_instances=ORDINARY)
    point = call_there(module.Point, 3)
    assert type(point) is module.Point
    assert call_there(lambda: module.Planet.EARTH) is module.Planet.EARTH


def test_modules_that_import_each_other_and_relative_imports(local):
    """The package is imported on the host as here."""
    module = local(
        **{
            "lc_circle/a": "from . import b\ndef run():\n    return b.back(), __package__\n",
            "lc_circle/__init__": "NAME = __name__\n",
            "lc_circle/b": "from lc_circle import a, NAME\ndef back():\n    return a.run, NAME\n",
        }
    )
    (function, name), package = call_there(module.run)
    assert function is module.run
    assert (name, package) == ("lc_circle", "lc_circle")


def test_whole_package_travels(local):
    """A name that is made at run time is found as well."""
    module = local(
        **{
            "lc_whole/core": """
                import importlib
                def load(name):
                    return importlib.import_module("lc_whole.plugins." + name).VALUE
            """,
            "lc_whole/__init__": "",
            "lc_whole/plugins/__init__": "",
            "lc_whole/plugins/one": "VALUE = 1\n",
        }
    )
    assert "lc_whole.plugins.one" not in sys.modules
    assert call_there(module.load, "one") == 1


def test_module_that_is_named_in_a_string_travels(local):
    """If the manager has loaded it."""
    module = local(
        lc_by_string="def run():\n    return __import__('lc_named_there').VALUE\n",
        lc_named_there="VALUE = 5\n",
    )
    importlib.import_module("lc_named_there")
    assert call_there(module.run) == 5


def test_what_is_loaded_runs_although_the_file_has_changed(local, caplog):
    """A function, its helper, and a constant are those that the manager has imported."""
    module = local(
        lc_edited="LIMIT = 10\ndef helper():\n    return 'old'\n"
        "def run():\n    return helper(), LIMIT\n"
    )
    local(lc_edited="LIMIT = 20\ndef helper():\n    return 'new'\ndef run():\n    return 'no'\n")
    with caplog.at_level(logging.WARNING, "lazycluster"):
        assert call_there(module.run) == ("old", 10)
    assert "has changed since lc_edited was imported" in caplog.text


def test_constant_that_has_changed_in_the_file_is_seen(local):
    """No function is another then."""
    module = local(lc_constant="LIMIT = 10\ndef run():\n    return LIMIT\n")
    local(lc_constant="LIMIT = 99\ndef run():\n    return LIMIT\n")
    assert call_there(module.run) == 10


def test_module_that_is_loaded_again_is_the_new_one(local):
    """importlib.reload makes what is loaded and the text the same."""
    module = local(lc_again="def run():\n    return 1\n")
    assert call_there(module.run) == 1
    local(lc_again="def run():\n    return 22\n")
    assert call_there(importlib.reload(module).run) == 22


def test_text_that_changes_after_the_first_call_is_not_read_again(local):
    """The module is what it was, and the next call is as fast."""
    module = local(lc_later="def run():\n    return 1\n")
    first = dump_call(module.run, (), {})
    local(lc_later="def run():\n    return 2\n")
    assert dump_call(module.run, (), {}).contents.keys() == first.contents.keys()


def test_globals_that_were_set_at_run_time_do_not_travel(local):
    """As with the start method `spawn` of multiprocessing."""
    module = local(lc_set="VALUE = 1\ndef run():\n    return VALUE\n")
    os.utime(module.__file__, (1, 1))  # the file is older than this process
    module.VALUE = 2
    assert call_there(module.run) == 1


def test_module_registered_by_value_travels_by_value(local):
    """cloudpickle's own way to say so is obeyed."""
    module = local(lc_registered="VALUE = 1\ndef run():\n    return VALUE\n")
    module.VALUE = 2
    cloudpickle.register_pickle_by_value(module)
    try:
        assert call_there(module.run) == 2
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_call_by_value_is_made_of_the_one_by_name(local):
    """For a module that a host cannot import; its functions are still those that were sent."""
    module = local(lc_unimportable="class C: pass\ndef run(made=[1]):\n    return C, made\n")
    call = dump_call(lambda: module.run, (), {})
    assert call.required == {"lc_unimportable"}
    again = dump_by_value(call, "lc_unimportable")
    assert again is not None
    assert not again.required
    assert dump_by_value(again, "lc_unimportable") is None
    assert Sources.of(NONE_NAMED).has("lc_unimportable") is False
    class_, made = call_there(module.run)
    assert class_ is module.C
    assert made == [1]


MISSING = """
    import nosuch_lib
    import nosuch_lib.sub as sub
    from nosuch_lib import Base, decorate, CONSTANT
    from nosuch_lib.deep import thing
    try:
        import nosuch_other
    except ImportError:
        nosuch_other = None

    @decorate
    def decorated(x):
        return x + 1

    @nosuch_lib.mark.parametrize("a", [1])
    @nosuch_lib.fixture
    def marked(x: nosuch_lib.Hint) -> sub.Other:
        return x + 2

    class Child(Base):
        def method(self):
            return sub.call(1)

    class WithOptions(Base, table=True):
        pass

    class Plain:
        attribute = CONSTANT * 2
        def unused(self):
            return thing()

    def run():
        return decorated(1), marked(1), nosuch_other is None, Plain().__class__.__name__

    def use():
        return nosuch_lib.value

    def call():
        return thing(1)

    data = sub.make()

    def text():
        return str(data)

    def truth():
        return "yes" if data else "no"

    def equal():
        return data == 1

    def catch():
        try:
            raise KeyError(1)
        except thing:
            return "the wrong one"
        except KeyError:
            return "the right one"
"""


@pytest.fixture
def with_missing(local, tmp_path):
    """Give a module whose library only the manager has."""
    library = tmp_path / "lib" / "nosuch_lib"
    library.mkdir(parents=True)
    text = "class Base:\n    def __init_subclass__(cls, table=False): pass\n"
    text += "def decorate(f): return f\nCONSTANT = 3\nvalue = 4\n"
    text += "class mark:\n    parametrize = staticmethod(lambda *a: decorate)\nfixture = decorate\n"
    text += "class Hint: pass\n"
    (library / "__init__.py").write_text(text)
    (library / "sub.py").write_text(
        "class Other: pass\ndef call(x): return x\ndef make(): return 1\n"
    )
    (library / "deep.py").write_text("class thing(Exception): pass\n")
    info = tmp_path / "lib" / "nosuch_lib-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nosuch_lib\nVersion: 1\n")
    (info / "top_level.txt").write_text("nosuch_lib\n")
    (info / "RECORD").write_text("nosuch_lib/__init__.py,,\n")
    (info / "INSTALLER").write_text("pip\n")
    sys.path.insert(0, str(tmp_path / "lib"))
    yield local(lc_missing=MISSING)
    sys.path.remove(str(tmp_path / "lib"))


def test_what_is_missing_and_not_used_does_no_harm(with_missing):
    """Decorators, bases, annotations, constants and other methods."""
    assert call_there(with_missing.run) == (2, 3, True, "Plain")
    assert call_there(with_missing.catch) == "the right one"


@pytest.mark.parametrize("name", ["use", "call", "text", "truth", "equal"])
def test_what_is_missing_raises_where_it_is_used(with_missing, name):
    """At the user's line, with the error that an import would raise."""
    function = getattr(with_missing, name)

    def run():
        try:
            function()
        except ModuleNotFoundError as error:
            frames = [frame.name for frame in traceback_of(error)]
            return error.name, str(error), frames[1]

    def traceback_of(error):
        import traceback

        return traceback.extract_tb(error.__traceback__)

    assert call_there(run) == ("nosuch_lib", "No module named 'nosuch_lib'", name)


@pytest.mark.parametrize("before", [["appears_later"], ["never_there", "appears_later"], ["os"]])
def test_a_module_that_appears_later_is_found(tmp_path, monkeypatch, before):
    """Which modules are not there is remembered, as long as no folder has changed."""
    monkeypatch.syspath_prepend(tmp_path)
    os.utime(tmp_path, ns=(1, 1))
    sources = Sources(NONE_NAMED)
    assert sources.contents(before) == {}
    (tmp_path / "appears_later.py").write_text("x = 1")
    importlib.invalidate_caches()
    assert len(sources.contents(["appears_later"])) == 1


def test_traceback_and_source_are_the_managers(local):
    """Also where the host has another file of that name."""
    module = local(
        lc_shown="import inspect, traceback\n\n"
        "def fail():\n    raise ValueError('shown')  # here\n\n"
        "def run():\n    try:\n        fail()\n    except ValueError:\n"
        "        return traceback.format_exc(), inspect.getsource(fail), __file__\n"
    )
    text, source, path = call_there(module.run)
    assert "raise ValueError('shown')  # here" in text
    assert f'File "{module.__file__}", line 4, in fail' in text
    assert source == inspect.getsource(module.fail)
    assert path == module.__file__


SCRIPT = """
import dataclasses, enum, functools, inspect, pickle, sys, typing, warnings
sys.path[:0] = sys.argv[1:]
from lazycluster.exceptions import SerializationError
from support.bare_python import call_there

class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2

class Shape:
    def __init__(self, side):
        self.side = side
    def area(self):
        return square(self.side)

def square(x):
    return x * x

@functools.lru_cache(maxsize=None)
def cached(x):
    return square(x)

T = typing.TypeVar("T")
UserId = typing.NewType("UserId", int)

def pool(values):
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return workers.map(square, values)

def registered():
    import __main__
    shape = pickle.loads(pickle.dumps(Shape(2)))
    return shape.area(), __main__.square is square, inspect.getsource(square)

def shown():
    import traceback
    try:
        raise KeyError("shown")  # the line
    except KeyError:
        return traceback.format_exc()

def make():
    return Shape, cached, T, UserId, [Shape(3)], Level.HIGH, square, lambda: cached(3)

def counted():
    global calls
    calls += 1
    return bump(), calls

def bump():
    return calls

calls = 0

if __name__ == "__main__":
    assert pool.__module__ == "__main__"
    assert call_there(pool, [1, 2, 3]) == [1, 4, 9]
    area, is_same, source = call_there(registered)
    assert (area, is_same) == (4, True)
    assert source == inspect.getsource(square)
    assert "raise KeyError(\\"shown\\")  # the line" in call_there(shown)
    assert __file__ in call_there(shown)
    made = call_there(make)
    assert made[:4] == (Shape, cached, T, UserId), made
    assert type(made[4][0]) is Shape and made[4][0].area() == 9
    assert made[5] is Level.HIGH and made[6] is square
    assert made[7]() == 9
    assert call_there(counted) == (1, 1)
    assert calls == 0
    print("all of it")
"""


def test_what_a_script_defines_is_found_there_under_its_name(tmp_path):
    """multiprocessing, pickle and inspect look for it in `__main__`; it comes back as itself."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folders = [folder for folder in sys.path if folder.rstrip("/").endswith(("scripts", "tests"))]
    done = subprocess.run(
        [sys.executable, str(script), *folders],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all of it\n", done.stderr


def test_traceback_of_code_without_a_file_shows_its_lines():
    """A notebook's cell is in linecache only."""
    import linecache

    text = "def fail():\n    raise ValueError('in a cell')  # cell line\n"
    name = "<ipython-input-1-4711>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    namespace = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), namespace)
    fail = namespace["fail"]

    def run():
        try:
            fail()
        except ValueError as error:
            import traceback

            return "".join(traceback.format_exception(type(error), error, error.__traceback__))

    assert "# cell line" in call_there(run)


def test_uncaught_error_of_a_thread_shows_the_managers_line(local):
    """Python's own hook would read the host's file of that name."""
    module = local(
        lc_thread="""
        import contextlib, io, threading

        def fail():
            raise ValueError("in a thread")  # the line

        def run():
            with contextlib.redirect_stderr(io.StringIO()) as printed:
                thread = threading.Thread(target=fail, name="worker")
                thread.start()
                thread.join()
            return printed.getvalue()
        """
    )
    printed = call_there(module.run)
    assert printed.startswith("Exception in thread worker")
    assert 'raise ValueError("in a thread")  # the line' in printed


def test_object_that_stays_on_the_manager_raises_where_it_is_used():
    """An attribute may hold one; a function that names one is refused before anything is sent."""

    class Stays:
        _stays_here = True

        def __reduce__(self):
            raise TypeError("It stays.")

    class Service:
        def __init__(self):
            self.runtime = Stays()

        def work(self):
            return "done"

        def use(self):
            return self.runtime.host

    assert call_there(Service().work) == "done"
    with pytest.raises(subprocess.CalledProcessError):
        call_there(Service().use)
    runtime = Stays()
    for function, args in [(lambda: runtime, ()), (repr, (runtime,))]:
        with pytest.raises(SerializationError, match="It stays"):
            dump_call(function, args, {})


def test_big_package_is_not_compiled(local, monkeypatch):
    """Of what nothing names only the text travels; the host compiles what it imports."""
    files = {f"lc_big/m{number}": f"VALUE = {number}\n" for number in range(300)}
    module = local(
        **{
            "lc_big/core": "def load(n):\n    return __import__(f'lc_big.m{n}').__name__\n",
            "lc_big/__init__": "",
            **files,
        }
    )
    read = []
    original = _sources._read_code
    monkeypatch.setattr(
        _sources, "_read_code", lambda name, *a, **k: read.append(name) or original(name, *a, **k)
    )
    assert call_there(module.load, 299) == "lc_big"
    assert sorted(read) == ["lc_big", "lc_big.core"]
