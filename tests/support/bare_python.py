"""Another Python as a host: with the standard library and cloudpickle, without the tests' files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from lazycluster._conversation.host_sources import cloudpickle_sources
from lazycluster._functions.payload import dump_call, load_value
from lazycluster._spool import Spool

_HOST = """
import json, sys, types
sys.path += json.loads(sys.stdin.buffer.readline())
sources = json.loads(sys.stdin.buffer.readline())
for name in sources:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__package__ = "cloudpickle"
sys.modules["cloudpickle"].__path__ = []
sys.modules["cloudpickle"].cloudpickle = sys.modules["cloudpickle.cloudpickle"]
for name in reversed(list(sources)):
    exec(compile(sources[name], name, "exec"), sys.modules[name].__dict__)
import pickle
assert pickle.load(sys.stdin.buffer) == {}
function, args, kwargs = pickle.load(sys.stdin.buffer)
sys.modules["cloudpickle"].dump(function(*args, **kwargs), sys.stdout.buffer)
"""


def call_there(function: Callable[..., Any], *args: Any, path: Any = (), **kwargs: Any) -> Any:
    """Call a function in another interpreter and return its value.

    `path` are folders that the host's `sys.path` has besides its own.
    """
    spool = dump_call(function, args, kwargs)
    head = [json.dumps([os.fspath(folder) for folder in path]), json.dumps(cloudpickle_sources())]
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _HOST],
        input="\n".join([*head, ""]).encode() + spool.read_at(0, len(spool)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return load_value(Spool(result.stdout).open())
