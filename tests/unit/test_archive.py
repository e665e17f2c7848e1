"""Modules on their way to a host: what comes out of an archive is what went in."""

from __future__ import annotations

import importlib.util
import types
from importlib.machinery import SourceFileLoader

import pytest

from lazycluster._conversation import host_sources
from lazycluster._shared import archive

pytestmark = pytest.mark.every_python

SOURCES = {
    "first": "def fail():\n    'ä'\n    raise KeyError(1)\n",
    "first.second": "VALUE = [n * n for n in range(3)]\n",
}


@pytest.fixture(params=["this Python", "seldom", "another"])
def data(request, monkeypatch):
    if request.param == "this Python":
        return archive.pack(SOURCES)
    if request.param == "seldom":
        return archive.pack(SOURCES, {"first"})
    with monkeypatch.context() as patch:
        patch.setattr(archive._frozen_importlib_external, "MAGIC_NUMBER", b"\0\1\r\n")
        return archive.pack(SOURCES)


def test_modules_can_be_executed(data):
    """In the order in which they were given, and their lines are known."""
    contents = archive.unpack(data)
    assert list(contents) == list(SOURCES)
    modules = {name: types.ModuleType(name) for name in contents}
    for name, content in contents.items():
        archive.execute(content, modules[name])
    assert modules["first.second"].VALUE == [0, 1, 4]
    with pytest.raises(KeyError) as raised:
        modules["first"].fail()
    line = raised.traceback[-1]
    assert (str(line.path), line.lineno) == ("<lazycluster>/first", 2)


def test_bytecode_is_for_the_python_that_made_it(data, request):
    """But not of modules that are seldom imported."""
    kinds = [type(content) for content in archive.unpack(data).values()]
    code = types.CodeType
    expected = {"this Python": [code, code], "seldom": [str, code], "another": [str, str]}
    assert kinds == expected[request.node.callspec.params["data"]]


@pytest.mark.parametrize("cut", [0, 1, 7, 30, 80, -200])
def test_half_an_archive_is_none(data, cut):
    with pytest.raises(ValueError):  # noqa: PT011 - whichever
        archive.unpack(data[:cut])


def code_of(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_of(constant)


def test_bytecode_comes_from_a_plain_loader_and_has_our_file_name():
    """The file names of the manager mean nothing on a host, and are hidden in tracebacks."""
    code = host_sources._read_code("_remote.call")
    assert {each.co_filename for each in code_of(code)} == {"<lazycluster>/_remote.call"}
    code = host_sources._read_code("_lazycluster._remote.call")
    assert {each.co_filename for each in code_of(code)} == {
        "<lazycluster>/_lazycluster._remote.call"
    }
    assert host_sources._read_code("cloudpickle.cloudpickle") is not None


def test_bytecode_of_a_tool_is_not_sent(monkeypatch):
    class Rewriting(SourceFileLoader):
        """As those of beartype, typeguard and pytest."""

    spec = importlib.util.find_spec("lazycluster._remote.call")
    spec.loader = Rewriting(spec.loader.name, spec.loader.path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    assert host_sources._read_code("_remote.call") is None
