"""A large call is a WARNING that names what makes it large, once for each function."""

from __future__ import annotations

import functools
import logging
import sys
import threading

import cloudpickle
import pytest

from lazycluster._functions import payload, sizes
from lazycluster._functions.payload import dump_call

pytestmark = pytest.mark.every_python


@pytest.fixture(scope="module", autouse=True)
def _by_value():
    """Let the functions and classes of this module travel as those of a script do."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


TABLE = [1.5 * number for number in range(300_000)]  # 2.7 MB
CONFIG = {"small": 1, "tables": {"first": TABLE}}
NAMES = [f"the name {number}" for number in range(100_000)]  # 1.9 MB


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    monkeypatch.setattr(payload, "LARGE", 1_000_000)
    monkeypatch.setattr(sizes, "_warned", set())
    monkeypatch.setattr(sizes, "_SECONDS", 60)


@pytest.fixture
def warning_of(caplog):
    """Return what is logged of a call."""

    def pack(function, *args, **kwargs):
        caplog.clear()
        with caplog.at_level(logging.INFO, "lazycluster"):
            dump_call(function, args, kwargs)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        return record.getMessage()

    return pack


def _uses_table():
    return TABLE


def _uses_two():
    return TABLE, NAMES


def _helped():
    return _uses_table()


def _of_config():
    return CONFIG


def _with_default(table=TABLE):
    return table


def _plain(*args, **kwargs):
    return args, kwargs


def _closure():
    table = list(TABLE)

    def inner():
        return table

    return inner


class Model:
    def __init__(self):
        self.weights = TABLE
        self.names = NAMES

    def fit(self):
        return self


FUNCTIONS = {
    "global": (_uses_table, "`_uses_table` is 3 MB: global `TABLE` 3 MB (tests"),
    "two globals": (_uses_two, "is 4 MB: global `TABLE` 3 MB ("),
    "the smaller one, too": (_uses_two, ", global `NAMES` 2 MB ("),
    "global of a global": (_helped, ": global `_uses_table` → global `TABLE` 3 MB ("),
    "key": (_of_config, ": global `CONFIG` → key 'tables' → key 'first' 3 MB ("),
    "default": (_with_default, ": default of `table` 3 MB ("),
    "closure": (_closure(), ": closure variable `table` 3 MB ("),
    "partial": (functools.partial(_plain, TABLE), ": positional argument 1 of the partial 3 MB"),
    "method": (Model().fit, ": `__self__` → attribute `weights` 3 MB, `__self__` → attribute `na"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_largest_parts_of_a_function_are_named(warning_of, name, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    function, text = FUNCTIONS[name]
    message = warning_of(function)
    assert text in message
    assert "send it once with share or send_file, or make it in the function." in message


def test_the_largest_arguments_are_named(warning_of):
    message = warning_of(_plain, TABLE, 1, names=NAMES)
    assert "positional argument 1 of `_plain` 3 MB, argument `names` of `_plain` 2 MB." in message


class Locked:
    def __init__(self):
        self.lock, self.table = threading.Lock(), TABLE


LOCKED = Locked()


def test_parts_that_hold_locks_are_named(warning_of):
    """What a module holds has new locks on the host, so it can be measured."""
    message = warning_of(lambda: (LOCKED, NAMES))
    assert "global `LOCKED` → attribute `table` 3 MB" in message
    assert "global `NAMES` 2 MB" in message


def test_a_function_has_one_warning(warning_of, caplog):
    warning_of(_plain, TABLE)
    caplog.clear()
    dump_call(_plain, (TABLE,), {})
    assert not caplog.records


def test_a_small_call_is_not_measured(caplog, monkeypatch):
    monkeypatch.delattr(sizes, "warn_of_size")
    dump_call(_plain, (1,), {})
    assert not caplog.records


def test_the_warning_comes_in_time(warning_of, monkeypatch):
    """Then without the parts."""
    monkeypatch.setattr(sizes, "_SECONDS", 0)
    assert "`_plain` is 3 MB. It is sent with each call" in warning_of(_plain, TABLE)
