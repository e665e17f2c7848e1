"""What an installed module has under a name travels as that name, not as a copy."""

from __future__ import annotations

import calendar
import contextlib
import dataclasses
import datetime
import functools
import importlib
import io
import keyword
import operator
import os
import pickle
import random
import secrets
import sys
import textwrap
import threading
import types

import pytest

from lazycluster._functions.payload import dump_call
from support.bare_python import call_there

pytestmark = pytest.mark.every_python

INSTALLED = """
import contextvars, functools, random, struct, threading

class _Service:
    def __init__(self):
        self.lock = threading.Lock()
    def name(self):
        return self is service and "service"
    def __call__(self):
        return self.name()

class Config(dict):
    pass

service = _Service()
bound_name = service.name
name = _Service().name
LOCK = threading.Lock()
RLOCK = threading.RLock()
CONDITION = threading.Condition()
LOCAL = threading.local()
CONTEXT = contextvars.ContextVar("CONTEXT", default="its default")
MISSING = object()
HEADER = struct.Struct("<I")
config = Config(level=1)
unpack = HEADER.unpack
_generator = random.Random(7)
draw = _generator.random
_service = None

def get_service():
    global _service
    if _service is None:
        _service = _Service()
    return _service

@functools.singledispatch
def kind(value):
    return "object"

@kind.register(int)
def _(value):
    return "int"

@functools.lru_cache(maxsize=None)
def cached(value):
    return value

def is_missing(value):
    return value is MISSING

def owned(value, name):
    return value is globals()[name]
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Give an installed package that both sides have, and the folder that it is in."""
    folder = tmp_path / "site-packages"
    package = folder / "lc_installed"
    (folder / "lc_installed-1.dist-info").mkdir(parents=True)
    package.mkdir()
    metadata = folder / "lc_installed-1.dist-info"
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lc_installed\nVersion: 1\n")
    (metadata / "RECORD").write_text("lc_installed/__init__.py,,\nlc_installed/_parts.py,,\n")
    (metadata / "INSTALLER").write_text("pip\n")
    (package / "__init__.py").write_text("from ._parts import service, name, cached, kind\n")
    (package / "_parts.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    importlib.import_module("lc_installed")
    yield types.SimpleNamespace(parts=sys.modules["lc_installed._parts"], path=[folder])
    for name in ("lc_installed", "lc_installed._parts"):
        sys.modules.pop(name, None)


def size(function, *args):
    return len(dump_call(function, args, {}).payload)


@pytest.mark.parametrize(
    "function",
    [random.randint, random.random, random.gauss, random.choice, random.seed, random.getrandbits],
    ids=lambda function: function.__name__,
)
def test_function_that_is_a_method_of_a_hidden_generator_travels_without_its_state(function):
    """Else each call would draw the same numbers."""
    assert size(function) < 200
    assert size(functools.partial(function, 1)) < 300


def test_hidden_generator_is_the_one_of_the_host():
    """In all ways in which code can hold it."""
    generator = random._inst

    def run(draw, given):
        import random

        random.seed(5)
        first = random.random()
        random.seed(5)
        second = draw()
        return first == second, given is random._inst, draw.__self__ is given

    assert call_there(run, random.random, generator) == (True, True, True)

    def closure():
        import random

        return generator is random._inst

    assert call_there(closure) is True


def test_generator_of_the_user_travels_with_its_state():
    """It is the user's data; a call that draws from it draws the same number each time."""
    generator = random.Random(3)
    expected = random.Random(3).random()
    assert call_there(generator.random) == expected
    assert call_there(lambda: generator.random()) == expected


def test_methods_of_hidden_instances_of_other_modules_travel():
    """The instance is beside the method, or nowhere."""
    assert call_there(secrets.choice, "a") == "a"
    assert call_there(calendar.month, 2024, 2) == calendar.month(2024, 2)
    assert call_there(keyword.iskeyword, "if") is True
    assert size(secrets.choice) < 200


def test_numpy_functions_travel_without_the_state_of_the_generator():
    """numpy's generator is an instance of a class written in C."""
    np = pytest.importorskip("numpy")
    for function in (np.random.rand, np.random.randint, np.random.mtrand._rand.normal):
        assert size(function) < 300
    assert size(lambda: np.random.mtrand._rand) < 2000
    mine = np.random.RandomState(1)
    assert size(mine.rand) > 2500  # its state
    for function in (np.add, np.vectorize(len), np.array, np.concatenate, np.random.default_rng):
        assert size(function) < 1000


def test_singletons_of_an_installed_package_are_those_of_the_host(installed):
    """Also those that pickle refuses, and those of which only a private module has a name."""
    parts = installed.parts
    names = ["service", "LOCK", "RLOCK", "CONDITION", "LOCAL", "CONTEXT", "MISSING", "HEADER"]
    names += ["_generator", "kind", "cached"]
    for name in names:
        assert call_there(parts.owned, getattr(parts, name), name, path=installed.path), name


def test_callables_of_an_installed_package_travel(installed):
    """Methods, also of an instance without a name, and callable instances."""
    parts = installed.parts
    assert call_there(parts.bound_name, path=installed.path) == "service"
    assert call_there(parts.service, path=installed.path) == "service"
    assert call_there(parts.name, path=installed.path) is False
    assert call_there(parts.kind, 3, path=installed.path) == "int"
    assert call_there(parts.cached, 3, path=installed.path) == 3
    assert call_there(parts.unpack, b"\1\0\0\0", path=installed.path) == (1,)
    assert size(parts.draw) < 200


def test_instance_that_the_host_has_not_made_yet_is_got_by_its_function(installed):
    """A module keeps it in `_service`, which is None until `get_service` is called."""
    service = installed.parts.get_service()

    def run(given):
        import lc_installed._parts

        return given is lc_installed._parts.get_service()

    assert call_there(run, service, path=installed.path) is True


def test_package_that_the_host_lacks_is_missed_only_where_it_is_used(installed):
    """Whatever of it a function holds: instances, methods, what a function has made."""
    parts = installed.parts
    held = [parts.service, parts.bound_name, parts.name, parts.draw, parts.get_service()]

    def run(default=parts.service):
        return 1 if default is not None else held

    assert call_there(run) == 1


def test_data_of_an_installed_package_travels_by_value(installed):
    """A program may have changed it."""
    config = installed.parts.config
    config["level"] = 2
    assert call_there(dict, config, path=installed.path) == {"level": 2}


def test_default_argument_that_is_a_sentinel_is_the_one_of_the_module(installed):
    """Code compares it with `is`."""
    missing, is_missing = installed.parts.MISSING, installed.parts.is_missing

    def run(value=missing):
        return is_missing(value), value is missing

    assert call_there(run, path=installed.path) == (True, True)
    assert call_there(lambda x: x is dataclasses.MISSING, dataclasses.MISSING) is True


def test_function_that_the_user_has_put_into_an_installed_module_is_the_users(monkeypatch):
    """The host does not have it under that name, whatever it is called."""
    original = textwrap.dedent

    @functools.wraps(original)
    def wrapped(value):
        return f"wrapped {value}"

    def plain(value):
        return f"plain {value}"

    for mine in (wrapped, plain):
        monkeypatch.setattr(textwrap, "dedent", mine)
        assert call_there(textwrap.dedent, 1) == mine(1)


generator_of_the_test = random.Random(11)


def test_method_that_the_user_has_put_into_an_installed_module_is_the_users(monkeypatch):
    """The generator is the user's, with its state."""
    monkeypatch.setattr(random, "random", generator_of_the_test.random)
    assert call_there(random.random) == random.Random(11).random()


def test_module_made_at_run_time_is_not_installed(monkeypatch):
    """The host cannot import it."""
    module = types.ModuleType("lc_made")
    module.generator = random.Random(5)
    monkeypatch.setitem(sys.modules, "lc_made", module)
    assert call_there(module.generator.random) == random.Random(5).random()


def test_object_that_claims_to_be_a_module_does_no_harm(monkeypatch):
    """Some libraries put such objects into `sys.modules`."""

    class Claims:
        __slots__ = ()
        __class__ = types.ModuleType

    monkeypatch.setitem(sys.modules, "lc_claims", Claims())
    assert call_there(secrets.choice, "a") == "a"
    assert call_there(lambda missing: missing is not None, object()) is True


def test_standard_streams_are_those_of_the_host(monkeypatch):
    """A default argument often holds one, whatever has replaced it here."""

    class Tee(io.TextIOBase):
        def write(self, text):
            return len(text)

    def run(stream=None):
        import sys

        return stream is sys.stdout

    assert call_there(run, sys.__stdout__) is True
    monkeypatch.setattr(sys, "stdout", Tee())
    assert call_there(run, sys.stdout) is True
    assert call_there(lambda stream: stream is sys.stdin, sys.__stdin__) is True


def test_buffer_is_data_also_while_it_takes_the_output():
    """It travels with its contents."""
    with contextlib.redirect_stdout(io.StringIO()) as buffer:
        print("printed")
        data = dump_call(io.StringIO.getvalue, (buffer,), {}).payload
    assert b"printed" in data.read_at(0, len(data))


def test_environment_variables_are_those_of_the_host(monkeypatch):
    """Those of the manager may hold secrets."""
    monkeypatch.setenv("LC_SECRET", "hidden value")
    environ = os.environ

    def run():
        import os

        return environ is os.environ, environ.get("LC_SECRET")

    data = dump_call(run, (), {}).payload
    assert b"hidden value" not in data.read_at(0, len(data))
    assert call_there(run)[0] is True


@pytest.mark.parametrize(
    "value",
    [
        datetime.timezone.utc,
        datetime.date.min,
        os.curdir,
        sys.maxsize,
        operator.itemgetter(1),
        functools.partial(pow, 2),
        "a".join,
        [1].count,
        dict.fromkeys,
        datetime.datetime.now,
        threading.get_ident,
        object.__str__,
        (1).__add__,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_travel_as_before(value):
    """Data, methods of data and of classes, functions written in C."""
    _, (arrived,), _ = pickle.load(dump_call(repr, (value,), {}).payload.open())
    assert type(arrived) is type(value)
