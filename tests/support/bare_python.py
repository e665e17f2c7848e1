"""Another Python as a host: with the standard library and what is sent, without our files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from lazycluster._conversation.host_sources import bootstrap_archive, module_archive, read_source
from lazycluster._functions.payload import dump_call, load_value
from lazycluster._spool import Spool
from support.interpreters import OWN_PYTHON
from support.separate_host import on_separate_host

_HOST = """
import sys, types
from importlib import import_module

sys.path += sys.argv[1:]

def read():
    return sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))

def new_module(name, **attributes):
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(attributes)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module

for name in ("_lazycluster", "_lazycluster._shared", "_lazycluster._remote"):
    new_module(name, __path__=[], __package__=name)
archive = new_module("_lazycluster._shared.archive")
exec(compile(read(), "archive", "exec"), vars(archive))
for name, content in archive.unpack(read()).items():
    name = "_lazycluster." + name
    archive.execute(content, new_module(name, __package__=name.rpartition(".")[0]))
modules = import_module("_lazycluster._remote.imports").SentModules()
modules.add(read())
modules.load_rest()
sys.modules["__main__"] = types.ModuleType("__main__")
contents = [read() for _ in range(int(sys.stdin.buffer.readline()))]
from _lazycluster._remote import unpickler
function, args, kwargs = unpickler.load_call(contents, sys.stdin.buffer)
unpickler.dump_value(function(*args, **kwargs), sys.stdout.buffer)
"""


def call_there(function: Callable[..., Any], *args: Any, path: Any = (), **kwargs: Any) -> Any:
    """Call a function in another interpreter and return its value.

    `path` are folders that both sides have, in the host's `sys.path` too.
    """
    spool, contents, *_ = dump_call(function, args, kwargs)
    pieces = [read_source("_shared.archive"), bootstrap_archive(), module_archive("_remote.call")]
    sent = [b"%d\n%s" % (len(piece), piece) for piece in (*pieces, *contents.values())]
    sent.insert(len(pieces), b"%d\n" % len(contents))
    folders = [os.fspath(folder) for folder in path]
    result = subprocess.run(
        [*on_separate_host(*folders), OWN_PYTHON, "-I", "-S", "-c", _HOST, *folders],
        input=b"".join(sent) + spool.read_at(0, len(spool)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return load_value(Spool(result.stdout).open())
