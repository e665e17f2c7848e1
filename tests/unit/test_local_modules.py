"""Which local modules a function's body imports, found without importing any of them."""

from __future__ import annotations

import importlib
import marshal
import os
import sys
import textwrap
import types
import zlib

import pytest

from lazycluster._functions.selection import NONE_NAMED
from lazycluster._functions.sources import Sources, imported
from support.local_modules import write_modules

pytestmark = pytest.mark.every_python


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes local modules, named by their paths; none is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield lambda **sources: write_modules(tmp_path, sources)
    imported = set(sys.modules) - before
    assert not [name for name in imported if "4711" in name]


def function_of(body, package=""):
    """Return a function with this body, as if a module of a package defined it."""
    text = "def function():\n" + textwrap.indent(textwrap.dedent(body), "    ")
    namespace = {"__name__": f"{package}.module" if package else "module", "__package__": package}
    exec(compile(text, "<test>", "exec"), namespace)
    return namespace["function"]


def sent_modules(body, package=""):
    """Return the modules that travel because a function with this body imports them."""
    names = imported(function_of(body, package).__code__, package)
    found = {}
    for content in Sources(NONE_NAMED).contents(names).values():
        kind, modules, _ = marshal.loads(zlib.decompress(content))
        assert kind == "modules"
        found.update(modules)
    return found


def found(body, package=""):
    """Return their names."""
    return set(sent_modules(body, package))


def test_import_in_a_body_is_found(write):
    """The source has the text, the path, and whether it is a package."""
    write(**{"one_4711": "X = 1\n", "two_4711/__init__": "", "three_4711/inner": ""})
    modules = sent_modules("import one_4711, two_4711, three_4711.inner")
    code, text, path, is_package = modules["one_4711"]
    assert (text, is_package) == ("X = 1\n", False)
    assert path.endswith("/one_4711.py")
    assert marshal.loads(code).co_filename == path
    assert modules["two_4711"][3]
    assert modules["three_4711"] == (None, "", None, True)  # a folder without __init__.py
    assert not modules["three_4711.inner"][3]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("import pack_4711", {"pack_4711", "pack_4711.sub"}),
        ("import pack_4711.sub", {"pack_4711", "pack_4711.sub"}),
        ("import pack_4711.sub as other", {"pack_4711", "pack_4711.sub"}),
        ("from pack_4711 import sub", {"pack_4711", "pack_4711.sub"}),
        ("from pack_4711 import value", {"pack_4711", "pack_4711.sub"}),
        ("from pack_4711.sub import value", {"pack_4711", "pack_4711.sub"}),
        ("if package:\n    import pack_4711", {"pack_4711", "pack_4711.sub"}),
        ("def inner():\n    import pack_4711", {"pack_4711", "pack_4711.sub"}),
        ("class Inner:\n    import pack_4711", {"pack_4711", "pack_4711.sub"}),
        ("return lambda: __import__('pack_4711')", set()),
        ("import json, pytest, sys, no_such_4711, lazycluster.runtimes", set()),
    ],
)
def test_each_way_to_import(write, body, names):
    """Modules that are not installed, with their whole package; no name made at run time."""
    write(**{"pack_4711/__init__": "", "pack_4711/sub": ""})
    assert found(body) == names


@pytest.mark.parametrize("body", ["from . import sub", "from .sub import x", "from .. import q"])
def test_relative_imports_are_of_the_package(write, body):
    """Imports that leave the top package are ignored."""
    write(**{"pack_4711/__init__": "", "pack_4711/sub": ""})
    expected = set() if ".. " in body else {"pack_4711", "pack_4711.sub"}
    assert found(body, "pack_4711") == expected
    assert found(body) == set()


def test_what_local_modules_import_is_found_too(write):
    """They are followed at any depth, also in a circle."""
    write(
        one_4711="import two_4711, json\n",
        two_4711="def f():\n    from three_4711 import x\n",
        three_4711="import one_4711\n",
    )
    assert found("import one_4711") == {"one_4711", "two_4711", "three_4711"}


def test_many_names_in_one_function(write):
    """Bytecode has a prefix for numbers above 255."""
    write(one_4711="")
    names = "\n".join(f"n{number} = {number + 1000}" for number in range(300))
    assert found(f"global {', '.join(f'n{n}' for n in range(300))}\n{names}\nimport one_4711") == {
        "one_4711"
    }


def test_changed_source_is_read_anew(write, tmp_path):
    """The user edits it while the manager runs."""
    for text in ("X = 1\n", "X = 22\n"):
        write(one_4711=text)
        assert sent_modules("import one_4711")["one_4711"][1] == text


@pytest.mark.parametrize("text", ["no python here", "\0", "# coding: no-such\n"])
def test_source_that_is_no_python_is_left_out(write, text):
    """The import fails on the host as it would here."""
    write(one_4711=text)
    assert found("import one_4711") == set()


def test_finder_that_raises_is_no_failure(monkeypatch):
    """A user's finder may raise anything."""
    finder = types.SimpleNamespace(find_spec=lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert found("import no_such_4711") == set()


def test_extension_module_does_not_travel(write, tmp_path):
    """It has no Python source."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f"one_4711{suffix}").write_bytes(b"")
    os.utime(tmp_path)
    importlib.invalidate_caches()
    assert found("import one_4711") == set()


def test_a_module_that_does_not_exist_is_looked_for_once(write, tmp_path, monkeypatch):
    """Until one may be there: packages import many that they can do without."""
    write(one_4711="try:\n    import json, later_4711, never_4711.part\nexcept ImportError: ...\n")
    sources = Sources(NONE_NAMED)
    assert len(sources.contents({"one_4711"})) == 1
    looked = []

    class Finder:
        @staticmethod
        def find_spec(name, *_):
            looked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    sources.contents({"one_4711"})
    assert "never_4711" in looked
    looked.clear()
    assert len(sources.contents({"one_4711"})) == 1
    assert looked == ["one_4711"]
    write(later_4711="X = 1\n")
    os.utime(tmp_path, ns=(1, 1))
    assert len(sources.contents({"one_4711"})) == 2


def test_folders_without_init_in_one_another(write):
    """None of them is loaded."""
    write(**{"one_4711/two/three/mod": "X = 1\n", "one_4711/two/pack/__init__": ""})
    assert found("import one_4711.two.three.mod, one_4711.two.pack") == {
        "one_4711",
        "one_4711.two",
        "one_4711.two.three",
        "one_4711.two.three.mod",
        "one_4711.two.pack",
    }
