"""Make a call in a process that waits for one: it copies each page that it touches, better before.

The call is like those of the manager. Once one of them has brought a local module, the call here
imports a module, too. What it leaves in this process is removed again.
"""

import contextlib
import marshal
import os
import pickle
import sys
import zlib

from . import call, child, files, local_modules, log_records, python_end, rebuild, streams
from .channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REBUILD = "lazycluster._functions.rebuild"
_CLOUDPICKLE = "cloudpickle.cloudpickle"
_MODULE = "_lazycluster_warm_up"
_TEXT_PATH = "_lazycluster_warm_up_text"
_SENT_MODULE = "_lazycluster_warm_up_sent"
_SENT_TEXT = "def sent():\n    pass\n"


def _warm(*args: "object") -> "int":
    return len(args)


def _global(module: "str", name: "str") -> "bytes":
    return pickle.GLOBAL + "{}\n{}\n".format(module, name).encode("ascii")


def _plain(value: "object") -> "bytes":
    """Return what puts a value on the stack: a pickle without its first and last opcode."""
    return pickle.dumps(value, 3)[2:-1]


def _tuple(*parts: "bytes") -> "bytes":
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def _called(module: "str", name: "str", *parts: "bytes") -> "bytes":
    return _global(module, name) + _tuple(*parts) + pickle.REDUCE


def _make_payload(*arguments: "bytes") -> "bytes":
    """Return the pickle of a call, as the manager's pickler writes that of a script's function.

    Args:
        *arguments: Each puts an argument on the stack.
    """
    code = _called("marshal", "loads", _plain(marshal.dumps(_warm.__code__)))
    namespace = _called(_REBUILD, "namespace", _plain(_MODULE), _plain({"__doc__": None}))
    maker = _global(_CLOUDPICKLE, "_make_function")
    nothing = _plain(None)
    made = _called(
        *(_REBUILD, "make", _plain(""), _plain((_MODULE, "warm")), maker, code, namespace),
        *(nothing, nothing, nothing),
    )
    names = {"__name__": "warm", "__qualname__": "warm", "__module__": _MODULE}
    slots = dict(names, __annotations__={}, __kwdefaults__=None)  # type: dict[str, object]
    slots.update(__defaults__=None, __doc__=None, __closure__=None, _cloudpickle_submodules=[])
    false = _called("builtins", "bool")
    setter = _global(_CLOUDPICKLE, "_function_setstate")
    content = _tuple(false, setter, _plain({}), _plain(slots), false, _plain({}), false)
    state = _tuple(_global("lazycluster._shared.by_value", "fill_function"), content)
    function = pickle.LONG_BINPUT + b"\xff\0\0\0", pickle.LONG_BINGET + b"\xff\0\0\0"
    filled = _called(_REBUILD, "fill", function[1], state) + pickle.POP
    passed = _tuple(*arguments) + _plain({})
    whole = pickle.MARK + made + function[0] + filled + passed + pickle.TUPLE
    return pickle.PROTO + b"\3" + whole + pickle.STOP


def _make_module() -> "bytes":
    """Return the content with the module of `_CALL_WITH_MODULE`."""
    code = marshal.dumps(compile(_SENT_TEXT, _SENT_MODULE, "exec", dont_inherit=True))
    modules = {_SENT_MODULE: (code, _SENT_TEXT, _SENT_MODULE, False)}
    return _pack("modules", modules, {})


def _pack(*content: "Any") -> "bytes":
    return zlib.compress(marshal.dumps(content))


# A call, and what it refers to: without a module, and with one.
_TEXT = {"text": _pack("text", _TEXT_PATH, "\n")}
_CALL = _make_payload(_plain(1)), _TEXT
_CALL_WITH_MODULE = (
    _make_payload(_global(_SENT_MODULE, "sent")),
    dict(_TEXT, module=_make_module()),
)


def warm_up() -> "None":
    """Make a call."""
    with contextlib.suppress(Exception):  # an incomplete Python: the call reports what it lacks
        folder, path, had = os.getcwd(), sys.path[:], os.environ.get("PWD")
        finders = sys.meta_path[:]
        try:
            _make_call(folder)
        finally:
            log_records.stop()
            sys.path[:], sys.meta_path[:] = path, finders
            sys.modules.pop(_SENT_MODULE, None)
            for text in (_TEXT_PATH, _SENT_MODULE):
                local_modules.hide(text)
            os.environ.pop("PWD", None)
            if had is not None:
                os.environ["PWD"] = had
            rebuild.forget(_MODULE)
    python_end.warm_up()


def _make_call(folder: "str") -> "None":
    pickled, contents = _CALL_WITH_MODULE if local_modules.have_come else _CALL
    step = {"python": list(sys.version_info[:2]), "input": len(pickled)}  # type: dict[str, object]
    step["contents"] = list(contents)
    payload, source = os.pipe()
    target, sink = os.pipe()
    working_dir, variables = files.to_settings(files.to_text(folder), {})
    data = child.encode_job({"step": step, "working_dir": working_dir, "variables": variables}, [])
    streams.write_all(source, data + pickled)
    job = child.read_job(payload)
    child.settle(job["working_dir"], job["variables"])
    child.add_working_dir()
    channel = Channel(sink)
    log_records.start({}, channel.log)
    outcome = call.call(job["step"], contents, payload, channel)
    rebuild.forget(_MODULE)  # else the next line would look at all modules
    outcome["over"] = streams.exits_quickly(streams.flush_streams())
    channel.send_outcome(outcome)
    for fd in (source, target, sink):
        os.close(fd)
