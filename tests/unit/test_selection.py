"""The modules that users name: `modules=` are sent although installed, `installed=` are left."""

from __future__ import annotations

import copy
import importlib
import importlib.machinery
import importlib.util
import json
import math
import pickle
import sys
import types

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster._functions.missing_modules import explain_missing
from lazycluster._functions.payload import dump_call
from lazycluster._functions.selection import NONE_NAMED, Modules
from lazycluster._runtime.calls import Options
from lazycluster.exceptions import SerializationError

pytestmark = pytest.mark.every_python

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on sys.path whose modules are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("lc_"):
            del sys.modules[name]


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    importlib.invalidate_caches()


# ── what a selection says ─────────────────────────────────────────────────────────────────────────


def test_what_is_named_goes_before_the_metadata(folder):
    write(folder, "lc_own/__init__.py")
    importlib.import_module("lc_own")
    chosen = Modules(sent=frozenset({"pytest"}), left=frozenset({"lc_own"}))
    names = ["pytest", "pytest.x", "lc_own", "lc_own.sub", "json", "__main__", "pytest_not", None]
    assert [chosen.is_local(name) for name in names] == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert NONE_NAMED.is_local("lc_own")


def test_what_is_named_last_counts():
    chosen = NONE_NAMED.replaced(["pytest"], ["numpy"])
    assert chosen == Modules(frozenset({"pytest"}), frozenset({"numpy"}))
    assert chosen.replaced(None, None) == chosen
    assert chosen.replaced(["pluggy"], ["pytest"]) == Modules(
        frozenset({"pluggy"}), frozenset({"numpy", "pytest"})
    )
    assert hash(chosen) == hash(chosen.replaced([], ()))


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_names_are_in_a_list_a_tuple_or_a_set(kind):
    assert NONE_NAMED.replaced(kind(["pytest"]), kind(["a_b"])).sent == {"pytest"}


# ── checks ────────────────────────────────────────────────────────────────────────────────────────


def replace_in_selection(**options):
    NONE_NAMED.replaced(options.get("modules"), options.get("installed"))


def make_task(**options):
    RuntimeTask(**options)


def make_runtime(**options):
    Runtime("no-such-host.invalid", **options)


def make_options(**options):
    Options().replaced(**options)


EACH_PLACE = [replace_in_selection, make_task, make_runtime, make_options]


@pytest.mark.parametrize("option", ["modules", "installed"])
@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("pytest", TypeError, "{0} must be a list of names, not a string: {0}=['pytest']."),
        (b"pytest", TypeError, "{} must be a list of names, not bytes."),
        (5, TypeError, "{} must be a list of names, not int."),
        ({"pytest": 1}, TypeError, "{} must be a list of names, not dict."),
        (pytest, TypeError, "{} must be a list of names, not module."),
        ([json], TypeError, "{0} must have names, not modules: {0}=['json']."),
        (["pytest", 5], TypeError, "{} must have names, not int."),
        ([None], TypeError, "{} must have names, not NoneType."),
        ([""], ValueError, "{} must have names of modules, not ''."),
        (["a-b"], ValueError, "{} must have names of modules, not 'a-b'."),
        ([".a"], ValueError, "{} must have names of modules, not '.a'."),
        (["a.b"], ValueError, "{0} must name top-level modules, not 'a.b': {0}=['a']."),
        (["__main__"], ValueError, "{} cannot name '__main__', which always travels."),
    ],
)
@pytest.mark.parametrize("place", EACH_PLACE)
def test_wrong_names_are_refused_before_anything_starts(
    no_process, place, option, names, error, message
):
    with pytest.raises(error) as caught:
        place(**{option: names})
    assert str(caught.value) == message.format(option)


@pytest.mark.parametrize("place", EACH_PLACE)
def test_a_name_in_both_is_refused(no_process, place):
    with pytest.raises(ValueError, match=r"'pytest' is both in modules and in installed"):
        place(modules=["pytest"], installed=("pytest", "numpy"))


@pytest.mark.parametrize("name", ["json", "sys", "_json", "xml", "builtins", "this"])
def test_the_standard_library_is_not_sent(name):
    with pytest.raises(ValueError, match="is in the standard library of each host"):
        NONE_NAMED.replaced([name], None)


@pytest.mark.parametrize("name", ["lazycluster", "cloudpickle"])
def test_what_lazycluster_brings_along_is_not_sent(name):
    with pytest.raises(ValueError, match="which lazycluster brings along itself"):
        NONE_NAMED.replaced([name], None)


def test_what_is_not_there_is_not_sent_but_may_be_left():
    """A script that runs in several places names what the host has."""
    with pytest.raises(ValueError, match="'lc_none', but there is no module of that name here"):
        NONE_NAMED.replaced(["lc_none"], None)
    assert NONE_NAMED.replaced(None, ["lc_none"]).left == {"lc_none"}


@pytest.mark.parametrize(
    "names",
    [
        [f"lc_fast{SUFFIX}"],
        ["lc_fast/__init__.py", f"lc_fast/_speed{SUFFIX}"],
        ["lc_fast/__init__.py", "lc_fast/a/__init__.py", f"lc_fast/a/_speed{SUFFIX}"],
        ["lc_fast/a/__init__.py", f"lc_fast/a/_speed{SUFFIX}"],
        [f"lc_fast/_speed{SUFFIX}"],
    ],
)
def test_what_is_compiled_is_not_sent(folder, names):
    """Also in a folder without an `__init__.py`."""
    write(folder, *names)
    with pytest.raises(ValueError, match=r"is compiled and cannot travel\. Install lc_fast"):
        NONE_NAMED.replaced(["lc_fast"], None)


def test_a_module_of_the_user_with_the_name_of_another_may_be_named(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    write(folder, "this.py")
    assert NONE_NAMED.replaced(["this"], None).sent == {"this"}


# ── who has it ────────────────────────────────────────────────────────────────────────────────────


def test_a_task_keeps_its_selection():
    """Its copies too, and a pickle of it."""
    task = RuntimeTask("x", modules=["pytest"], installed=["numpy"])
    expected = Modules(frozenset({"pytest"}), frozenset({"numpy"}))
    for each in (task, copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert each._modules == expected


def test_options_add_to_each_other():
    """As the views of a Runtime do."""
    options = Options().replaced(modules=["pytest"]).replaced(timeout=5, modules=["pluggy"])
    assert options.modules.sent == {"pytest", "pluggy"}
    assert options.replaced(installed=["pytest"]).modules == Modules(
        frozenset({"pluggy"}), frozenset({"pytest"})
    )


def test_what_is_left_is_pickled_by_name(folder):
    (folder / "lc_left.py").write_text("def f():\n    return 1\n")
    module = importlib.import_module("lc_left")
    spool = dump_call(module.f, (), {}, modules=Modules(left=frozenset({"lc_left"}))).payload
    assert b"lc_left" in spool.read_at(0, len(spool))
    assert len(spool) < 100


def test_a_compiled_package_is_refused_with_the_cure_and_left_if_it_is_named(folder):
    write(folder, "lc_speedy/__init__.py", f"lc_speedy/_fast{SUFFIX}")
    (folder / "lc_speedy" / "__init__.py").write_text("class C: pass\ndef f(): return 1\n")
    module = importlib.import_module("lc_speedy")
    for function, args in [(module.f, ()), (str, (module.C(),)), (lambda: module.f, ())]:
        with pytest.raises(SerializationError) as caught:
            dump_call(function, args, {})
        assert (
            f"lc_speedy has the compiled module lc_speedy/_fast{SUFFIX}, which cannot travel. "
            'Install lc_speedy on the host, and say installed=["lc_speedy"].'
        ) in str(caught.value)
        dump_call(function, args, {}, modules=Modules(left=frozenset({"lc_speedy"})))


def test_the_message_has_the_way_to_a_compiled_module_and_one_cure(folder):
    write(folder, "lc_speedy/__init__.py", f"lc_speedy/_fast{SUFFIX}")
    module = importlib.import_module("lc_speedy")

    def use():
        return module.x

    with pytest.raises(SerializationError) as caught:
        dump_call(use, (), {})
    way, _, rest = str(caught.value).partition(": lc_speedy has ")
    assert "function `use` → closure variable `module` (module lc_speedy)" in way
    assert rest == (
        f"the compiled module lc_speedy/_fast{SUFFIX}, which cannot travel. "
        'Install lc_speedy on the host, and say installed=["lc_speedy"].'
    )


def test_a_function_written_in_c_of_a_local_module_is_refused(folder, monkeypatch):
    """It is pickled by name, and the host does not have the module."""
    write(folder, f"lc_c{SUFFIX}")
    module = types.ModuleType("lc_c")
    module.__spec__ = importlib.util.find_spec("lc_c")
    module.__file__, module.erf = module.__spec__.origin, math.erf
    monkeypatch.setitem(sys.modules, "lc_c", module)
    monkeypatch.setattr(math.erf, "__module__", "lc_c")
    with pytest.raises(SerializationError, match="lc_c is the compiled module"):
        dump_call(math.erf, (1,), {})
    chosen = Modules(left=frozenset({"lc_c"}))
    assert b"lc_c" in dump_call(math.erf, (1,), {}, modules=chosen).payload.read_at(0, 100)


# ── the error of a module that the host lacks ─────────────────────────────────────────────────────


def missing(name, error="ModuleNotFoundError"):
    return explain_missing(error, f"No module named {name!r}")


def test_a_module_that_is_installed_here_only_is_explained():
    """With the cure: a compiled one cannot be sent."""
    assert missing("iniconfig") == (
        "iniconfig is installed here and not there. "
        'Install it on the host, or say modules=["iniconfig"] to send it.'
    )
    assert (
        missing("coverage") == "coverage is installed here and not there. Install it on the host."
    )


def test_a_local_module_that_was_not_found_is_explained(folder):
    """Its name was made at run time, or it is compiled, or `installed=` leaves it."""
    write(folder, "lc_dynamic.py", f"lc_quick{SUFFIX}")
    assert (
        missing("lc_dynamic") == 'lc_dynamic is local here. To send it, say modules=["lc_dynamic"].'
    )
    assert missing("lc_quick").endswith('and say installed=["lc_quick"].')


@pytest.mark.parametrize("name", ["lc_none", "tkinter", "sys", "lazycluster", "cloudpickle", "a.b"])
def test_other_modules_are_not_explained(name):
    """Nothing is known, or the host's Python is not complete."""
    assert missing(name) is None


def test_a_finder_that_raises_explains_nothing(monkeypatch):
    """Also what is no error of Python's own."""

    class OddError(Exception):
        pass

    class Finder:
        @staticmethod
        def find_spec(*_):
            raise OddError

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert missing("lc_none") is None


def test_other_errors_are_not_explained():
    assert missing("iniconfig", "ImportError") is None
    assert explain_missing("ModuleNotFoundError", "my own text 'iniconfig'") is None
