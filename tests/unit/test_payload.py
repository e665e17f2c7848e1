"""Calls become bytes, and bytes become values, with another Python as the host.

That Python is isolated: it has the standard library and the cloudpickle of `cloudpickle_sources`,
and no file of the manager where a mount namespace can be made.
"""

from __future__ import annotations

import dataclasses
import datetime
import dis
import enum
import functools
import importlib
import inspect
import json
import math
import pickle
import subprocess
import sys
import threading
import types

import pytest

from lazycluster._conversation.host_sources import cloudpickle_sources
from lazycluster._functions import local_modules as _local_modules
from lazycluster._functions.payload import (
    check_call,
    describe,
    dump_call,
    load_value,
)
from lazycluster._spool import Spool
from lazycluster.exceptions import SerializationError
from support.bare_python import call_there

pytestmark = pytest.mark.every_python


def test_function_of_the_standard_library_travels_by_name():
    """The host has it, so it is not sent."""
    spool = dump_call(json.dumps, (), {"obj": [1]}).payload
    assert len(spool) < 100
    assert call_there(json.dumps, obj=[1]) == "[1]"


def test_closure_and_lambda_travel():
    """Captured variables travel with the function."""
    caught = [1, 2]
    assert call_there(lambda x: [*caught, x], x=3) == [1, 2, 3]


def test_positional_arguments_travel():
    """A function written in C may take no others."""
    assert call_there(pow, 2, 3, mod=5) == 3
    assert call_there(divmod, 7, 2) == (3, 1)


def test_function_of_a_local_module_travels_with_what_it_uses(local):
    """Globals of its module, functions among them, and modules it imports from."""
    module = local(
        lc_uses="""
        from lc_used import double
        import math
        OFFSET = 1
        def shift(x):
            return x + OFFSET
        def run(x):
            return math.floor(shift(double(x)))
        """,
        lc_used="def double(x):\n    return 2 * x\n",
    )
    assert call_there(module.run, x=5) == 11


def test_local_module_used_as_a_whole_travels(local):
    """`import module` in a script is as good as `from module import name`."""
    module = local(
        lc_whole="import lc_part\ndef run():\n    return lc_part.name() + lc_part.SUFFIX\n",
        lc_part="SUFFIX = '!'\ndef name():\n    return __name__\n",
    )
    assert call_there(module.run) == "lc_part!"


def test_submodule_of_a_local_package_travels(local):
    """`package.sub.name` in a function works on the host."""
    module = local(
        lc_imports_sub="import lc_pkg.sub\ndef run():\n    return lc_pkg.sub.value()\n",
        **{
            "lc_pkg/__init__": "",
            "lc_pkg/sub": "from . import other\ndef value():\n    return other.VALUE\n",
            "lc_pkg/other": "VALUE = 7\n",
        },
    )
    assert call_there(module.run) == 7


def test_folder_without_init_is_a_local_package(local):
    """It is a namespace package."""
    module = local(
        lc_imports_space="import lc_space.sub\ndef run():\n    return lc_space.sub.VALUE\n",
        **{"lc_space/sub": "VALUE = 8\n"},
    )
    assert call_there(module.run) == 8


def test_modules_that_import_each_other_travel(local):
    """A circle of imports does not make pickling recurse."""
    module = local(
        lc_circle_a="""
        import lc_circle_b
        def run(n):
            return n if n <= 0 else lc_circle_b.down(n)
        """,
        lc_circle_b="""
        import lc_circle_a
        def down(n):
            return lc_circle_a.run(n - 1)
        """,
    )
    assert call_there(module.run, n=4) == 0


def test_functions_that_call_each_other_travel(local):
    """Recursion, direct and indirect."""
    module = local(
        lc_recursion="""
        def even(n):
            return True if n == 0 else odd(n - 1)
        def odd(n):
            return False if n == 0 else even(n - 1)
        """
    )
    assert call_there(module.even, n=10) is True


def test_functions_of_a_module_share_its_globals_on_the_host(local):
    """All functions and the module object see a `global` that one function sets."""
    module = local(
        lc_shares="""
        import lc_state
        from lc_state import increase
        def run():
            increase()
            increase()
            return lc_state.count, lc_state.get()
        """,
        lc_state="""
        count = 0
        def increase():
            global count
            count += 1
        def get():
            return count
        """,
    )
    assert call_there(module.run) == (2, 2)


def test_local_module_named_like_an_installed_one_is_local(local, monkeypatch):
    """The path decides, not the name."""
    monkeypatch.delitem(sys.modules, "this", raising=False)
    module = local(this="def run():\n    return 'mine'\n")
    assert call_there(module.run) == "mine"


def test_decorated_and_cached_functions_travel(local):
    """With functools.wraps, and with lru_cache around a recursion."""
    module = local(
        lc_decorated="""
        import functools
        def shout(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs).upper()
            return wrapper
        @shout
        def name():
            return "a"
        @functools.lru_cache(maxsize=None)
        def fibonacci(n):
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
        def run(n):
            return name(), fibonacci(n)
        """
    )
    assert call_there(module.run, n=30) == ("A", 832040)
    assert call_there(module.fibonacci, n=30) == 832040


def test_partials_and_bound_methods_of_local_classes_travel(local):
    """Methods, class methods, static methods and partials."""
    module = local(
        lc_methods="""
        class Base:
            def __init__(self, start):
                self.start = start
            def add(self, x):
                return self.start + x
        class Child(Base):
            def add(self, x):
                return super().add(x) * 10
            @classmethod
            def make(cls, start):
                return cls(start).add(0)
            @staticmethod
            def plain(x):
                return x
            def __call__(self, x):
                return self.add(x)
        """
    )
    child = module.Child(1)
    assert call_there(child.add, x=2) == 30
    assert call_there(functools.partial(module.Child.add, child), x=2) == 30
    assert call_there(module.Child.make, start=2) == 20
    assert call_there(module.Child.plain, x=2) == 2
    assert call_there(child, x=3) == 40


def test_typed_code_travels(local):
    """Annotations hold objects that pickle by name only."""
    module = local(
        lc_typed="""
        import dataclasses
        import functools
        import typing
        T = typing.TypeVar("T")
        Number = typing.NewType("Number", int)
        if hasattr(typing, "ParamSpec"):
            P = typing.ParamSpec("P")
        else:
            P = ...
        class Box(typing.Generic[T]):
            def __init__(self, content: T) -> None:
                self.content = content
            @functools.cached_property
            def text(self) -> str:
                return str(self.content)
        class Pair(typing.NamedTuple):
            a: Number
            b: str = ""
        class Readable(typing.Protocol):
            def read(self) -> str: ...
        def typed(x: T, number: Number, call: typing.Callable[P, T]) -> Box[T]:
            return Box(x)
        def run(number: Number):
            return typed([number], number, str).text, Pair(number).a
        """
    )
    assert call_there(module.run, number=3) == ("[3]", 3)


def test_dataclass_keeps_its_missing_defaults(local):
    """`dataclasses.MISSING` is compared with `is`."""
    module = local(
        lc_dataclass="""
        import dataclasses
        @dataclasses.dataclass
        class Point:
            x: int
            y: list = dataclasses.field(default_factory=list)
        def run():
            defaults = [f.default is dataclasses.MISSING for f in dataclasses.fields(Point)]
            return defaults, dataclasses.asdict(dataclasses.replace(Point(1), x=2))
        """
    )
    assert call_there(module.run) == ([True, True], {"x": 2, "y": []})


def test_argument_of_a_local_class_travels(local):
    """The class travels with its instance, also if the function is not local."""
    module = local(
        lc_argument="class Named:\n    def __str__(self):\n        return 'named'\n",
    )
    assert call_there(str, object=module.Named()) == "named"


def test_registry_of_cloudpickle_is_left_alone(local):
    """Other pickles of this process stay as they are."""
    module = local(lc_registry="def run():\n    return 1\n")
    dump_call(module.run, (), {})
    cloudpickle = importlib.import_module("cloudpickle")
    assert cloudpickle.list_registry_pickle_by_value() == set()
    assert pickle.loads(cloudpickle.dumps(module.run)) is module.run


def test_lazycluster_never_travels_by_value():
    """The host does not get the manager's code."""
    assert not _local_modules.is_local("lazycluster._functions.payload")


@pytest.mark.parametrize("name", ["json", "builtins", "pytest", "_json", "no.such.module"])
def test_installed_module_is_not_local(name):
    """The standard library, site-packages, compiled modules and missing modules."""
    assert not _local_modules.is_local(name)


def code_of(function):
    """Return (name, file, line numbers) of a function's code and of all code within."""
    found, waiting = [], [function.__code__]
    while waiting:
        code = waiting.pop()
        lines = [line for _, line in dis.findlinestarts(code)]
        found.append((code.co_name, code.co_filename, code.co_firstlineno, lines))
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def test_code_keeps_its_file_and_line_numbers(local):
    """In code within code as well."""
    module = local(
        lc_lines="""
        def run():
            def inner():
                class Deep:
                    def method(self):
                        return [x for x in range(3)]
                return Deep
            return inner
        """
    )
    reader = dump_call(module.run, (), {}).payload.open()
    arrived, _, _ = pickle.load(reader)
    assert code_of(arrived) == code_of(module.run)
    assert {file for _, file, *_ in code_of(arrived)} == {module.__file__}


def test_code_names_its_file_on_the_host():
    """A traceback, a warning and a log line on the host name the user's file."""

    def where():
        import sys

        return sys._getframe().f_code.co_filename, sys._getframe().f_lineno

    assert call_there(where) == (__file__, where.__code__.co_firstlineno + 3)


def test_code_with_a_constant_of_any_type_travels():
    """A tool that rewrites code may put constants there that marshal cannot write."""
    day = datetime.date(2020, 1, 2)
    code = (lambda: "the constant").__code__
    constants = tuple(day if value == "the constant" else value for value in code.co_consts)
    function = types.FunctionType(code.replace(co_consts=constants), {})
    assert call_there(function) == function() == day


@dataclasses.dataclass
class Result:
    number: int

    made = 0

    def doubled(self):
        return self.number * factor


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    def other(self):
        return Color.BLUE if self is Color.RED else Color.RED


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


factor = 2


def make_result(number):
    Result.made += 1
    return Result(number)


def test_value_of_a_local_class_is_an_instance_of_it():
    """`isinstance` and `==` hold."""
    value = call_there(make_result, number=3)
    assert isinstance(value, Result)
    assert value == Result(3)


def test_argument_and_value_of_a_local_class_are_of_one_class():
    """An instance that travels both ways keeps its class."""
    value = call_there(lambda given: given, given=Result(4))
    assert type(value) is Result


def test_member_of_a_local_enum_comes_back_as_itself():
    """`is` holds for members."""
    assert call_there(lambda color: color.other(), color=Color.RED) is Color.BLUE


def test_class_with_slots_has_them_on_the_host():
    """Its instances cannot get other attributes there, so they can come back."""

    def run(given):
        return given, Slotted(given.a + 1), hasattr(given, "__dict__")

    given, made, has_dict = call_there(run, given=Slotted(1))
    assert (type(given), given.a) == (Slotted, 1)
    assert (type(made), made.a) == (Slotted, 2)
    assert not has_dict


def test_class_of_this_process_is_not_changed_by_a_value(monkeypatch):
    """Its attributes and methods stay the manager's."""
    method = Result.__dict__["doubled"]
    value = call_there(make_result, number=3)
    assert Result.made == 0
    assert Result.__dict__["doubled"] is method
    monkeypatch.setattr(sys.modules[__name__], "factor", 100)
    assert value.doubled() == 300


def test_class_made_on_the_host_arrives_whole():
    """It has its methods, and two values have one class."""

    def make():
        class OnlyThere:
            def name(self):
                return "there"

        return OnlyThere(), OnlyThere()

    first, second = call_there(make)
    assert first.name() == "there"
    assert type(first) is type(second)


def test_unpicklable_value_is_a_serialization_error_with_the_reason():
    """Bytes that are not a pickle, and a module that is not installed."""
    with pytest.raises(SerializationError, match="cannot be unpickled here: UnpicklingError"):
        load_value(Spool(b"nonsense").open())
    with pytest.raises(SerializationError, match="lc_nowhere is not installed here") as raised:
        load_value(Spool(b"clc_nowhere\nname\n.").open())
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


class Stubborn:
    def __reduce__(self):
        raise TypeError("no way")


def returns_nothing(a=None, b=None):
    pass


def test_unpicklable_argument_is_named():
    """The message has the function, and the cause is the original exception."""
    with pytest.raises(SerializationError) as raised:
        dump_call(returns_nothing, (), {"a": 1, "b": Stubborn()})
    assert str(raised.value) == (
        "The call cannot be pickled: argument `b` of `returns_nothing` "
        f"({Stubborn.__module__}.Stubborn): TypeError: no way. Create it in the function."
    )
    assert isinstance(raised.value.__cause__, TypeError)


def test_unpicklable_positional_argument_is_named():
    """By its place, counted from 1."""
    with pytest.raises(SerializationError, match=r": positional argument 2 of `returns_nothing` "):
        dump_call(returns_nothing, (1, Stubborn()), {})


class SoftTimeLimitError(Exception):
    """What a signal handler of a task queue raises."""


@pytest.mark.parametrize("error", [SoftTimeLimitError(), TimeoutError("late"), ValueError("odd")])
def test_exception_of_another_kind_passes_while_pickling(error):
    """A user's `__reduce__` raised it, or a signal handler while it ran."""

    class Raises:
        def __reduce__(self):
            raise error

    with pytest.raises(type(error)) as raised:
        dump_call(returns_nothing, (), {"a": Raises()})
    assert raised.value is error


def raise_soft_time_limit():
    raise SoftTimeLimitError


class RaisesWhenLoaded:
    def __reduce__(self):
        return raise_soft_time_limit, ()


def test_exception_of_a_users_class_passes_while_unpickling():
    """What Python itself raises means a value that cannot be unpickled; this may be a signal."""
    with pytest.raises(SoftTimeLimitError):
        load_value(Spool(pickle.dumps(RaisesWhenLoaded())).open())


def test_unpicklable_function_is_named():
    """It has captured an object that cannot travel."""
    lock = threading.Lock()

    def locked():
        return lock

    with pytest.raises(SerializationError, match=r"function `locked` → closure variable `lock` \("):
        dump_call(locked, (), {})


def test_exception_that_has_no_text_does_not_get_in_the_way():
    """Its `__str__` may raise."""

    class MuteError(TypeError):
        def __str__(self):
            raise RuntimeError

    class Raises:
        def __reduce__(self):
            raise MuteError

    with pytest.raises(SerializationError, match=r"Raises\): MuteError\. "):
        dump_call(returns_nothing, (), {"a": Raises()})


def test_module_that_holds_a_lock_travels_as_a_whole(local):
    """Its contents are made on the host by its own source."""
    module = local(
        lc_uses_locked="import lc_locked\ndef run():\n    return lc_locked.helper()\n",
        lc_locked="import threading\nLOCK = threading.Lock()\ndef helper():\n    return 1\n",
    )
    assert call_there(module.run) == 1


def test_function_of_a_module_that_holds_a_lock_travels(local):
    """The cure works: unused objects are not sent."""
    module = local(
        lc_uses_helper="from lc_locked2 import helper\ndef run():\n    return helper()\n",
        lc_locked2="import threading\nLOCK = threading.Lock()\ndef helper():\n    return 1\n",
    )
    assert call_there(module.run) == 1


def test_sources_are_those_of_the_installed_cloudpickle():
    """The package comes first, and each source is Python."""
    sources = cloudpickle_sources()
    assert list(sources)[:2] == ["cloudpickle", "cloudpickle.cloudpickle"]
    assert "class Pickler" in sources["cloudpickle.cloudpickle"]
    for name, source in sources.items():
        compile(source, name, "exec")


def test_sources_are_found_in_a_zip(tmp_path):
    """An application may be one file."""
    import zipfile

    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, source in cloudpickle_sources().items():
            path = name.replace(".", "/") + ("/__init__" if name == "cloudpickle" else "")
            file.writestr(f"{path}.py", source)
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(archive)!r})\n"
        "from lazycluster._conversation.host_sources import cloudpickle_sources\n"
        "sources = cloudpickle_sources()\n"
        "import cloudpickle\n"
        "assert cloudpickle.__file__.startswith(sys.path[0])\n"
        "assert 'class Pickler' in sources['cloudpickle.cloudpickle']\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_importing_the_payload_does_not_import_cloudpickle():
    """A program that only runs commands does not pay for functions."""
    script = (
        "import sys\n"
        "import lazycluster._functions.payload\n"
        "sys.exit(any(name.partition('.')[0] == 'cloudpickle' for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_describe_names_what_will_be_called():
    """Without the functions that it was defined in."""

    def inner():
        pass

    class Callable:
        def __call__(self):
            pass

        def method(self):
            pass

    assert describe(inner) == "inner"
    assert describe(lambda: 0) == "<lambda>"
    assert describe(json.dumps) == "dumps"
    assert describe(Callable) == "Callable"
    assert describe(Callable().method) == "Callable.method"
    assert describe(Callable()) == "Callable object"
    assert describe(functools.partial(functools.partial(inner))) == "inner"
    assert describe(print) == "print"
    assert describe(json.JSONEncoder.encode) == "JSONEncoder.encode"


@pytest.mark.parametrize("function", [None, "echo", 3])
def test_function_that_is_none_is_refused(function):
    """It is a ValueError."""
    with pytest.raises(ValueError, match="function is empty"):
        check_call(function, {}, {})


@pytest.mark.parametrize("kwargs", [{}, {"x": 4}])
def test_a_function_with_positional_arguments_alone_is_for_call(kwargs):
    """Where arguments are keywords, the error says so."""
    with pytest.raises(TypeError, match=r"sqrt\(\).*Runtime\.call.*functools\.partial"):
        check_call(math.sqrt, kwargs, {"function": None})
    with pytest.raises(TypeError, match=r"sqrt\(\) [^.]*$"):
        check_call(math.sqrt, kwargs, {})
    check_call(math.sqrt, {}, {}, [4])


def test_arguments_that_do_not_fit_are_refused():
    """Before anything is sent, with the name of the function."""

    def needs(a, b=1):
        pass

    check_call(needs, {"a": 1}, {})
    with pytest.raises(TypeError, match=r"needs\(\) missing a required argument: 'a'"):
        check_call(needs, {}, {})
    with pytest.raises(TypeError, match=r"needs\(\) got an unexpected keyword argument 'c'"):
        check_call(needs, {"a": 1, "c": 1}, {})


def test_function_without_a_signature_is_not_judged():
    """Only the call on the host shows whether the arguments fit."""
    check_call(type("NoSignature", (), {"__signature__": 1, "__call__": print})(), {"a": 1}, {})
    check_call(dict, {"a": 1}, {})


def test_a_decorator_may_supply_an_argument_also_to_a_task():
    """What it says of its signature is that of the function inside."""

    def inject():
        return 1

    inject.__signature__ = inspect.signature(lambda x: x)
    for reserved in ({}, {"name": "n", "timeout": None}):
        check_call(inject, {}, reserved)


def test_decorator_may_supply_arguments():
    """The wrapper is called, so its signature counts."""

    def wrapped(injected, a):
        pass

    @functools.wraps(wrapped)
    def wrapper(**kwargs):
        pass

    check_call(wrapper, {"a": 1}, {})


def test_reserved_keyword_that_the_function_has_too_is_refused():
    """The message has the cure."""

    def function(x=1, debug=False):
        pass

    check_call(function, {"x": 1}, {"debug": False, "execute_async": False})
    with pytest.raises(ValueError, match=r"`debug`.*functools\.partial\(function, debug="):
        check_call(function, {"x": 1}, {"debug": True})


def test_reserved_keyword_that_the_function_needs_is_refused():
    """Only functools.partial can give it."""

    def function(function):
        pass

    with pytest.raises(ValueError, match=r"`function`.*functools\.partial"):
        check_call(function, {}, {"function": None, "debug": False})


def test_partial_settles_a_reserved_keyword():
    """The cure works, also if the method's own keyword is given."""

    def function(x, debug):
        pass

    check_call(functools.partial(function, debug=True), {"x": 1}, {"debug": True})


def test_reserved_keyword_of_the_method_only_is_fine():
    """Most functions have no parameter of that name."""
    check_call(lambda x: x, {"x": 1}, {"debug": True, "function": None})
    check_call(lambda **kwargs: kwargs, {"x": 1}, {"debug": True})


def test_module_object_is_not_needed_for_a_function_made_at_run_time():
    """cloudpickle handles a function whose module is not in `sys.modules`."""
    module = types.ModuleType("lc_dynamic")
    exec("def run():\n    return 5", module.__dict__)
    assert call_there(module.run) == 5
