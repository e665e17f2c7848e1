"""Send what a function logs to the manager, whose loggers of the same names handle it.

The root logger of the manager stands for the one of this process, as long as that has no handlers.
"""

import functools
import os
import sys

from . import import_hooks, plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Callable

TEXT_LIMIT = 1 << 14  # characters of a message or a traceback
FIELD_LIMIT = 500  # characters of another field
MOST_FIELDS = 60

_REPLACED = frozenset(["msg", "args", "message", "asctime", "exc_info", "exc_text", "stack_info"])

_logging = None  # type: Any  # the module, when it has been imported, which takes 4 ms
_levels = {}  # type: dict[str, int]
_call_handlers = None  # type: Any  # those of the module
_basic_config = None  # type: Any
_write = None  # type: Callable[[bytes], object] | None
_process = 0  # children of a function share its pipe, in which lines of two processes would mix


def start(levels: "dict[str, int]", write: "Callable[[bytes], object]") -> "None":
    """Send the records of this process from now on; `levels` are those of the manager's loggers."""
    global _write, _process, _levels
    _write, _process, _levels = write, os.getpid(), levels
    if _logging is not None:
        _set_levels()


def stop() -> "None":
    """Send no records any more: they take the usual way again."""
    global _write, _process
    _write, _process = None, 0


def _set_levels() -> "None":
    for name, level in _levels.items():
        # Not setLevel, which empties a cache of each logger. These are empty.
        (_logging.getLogger(name) if name else _logging.root).level = level


def _change(logging: "Any") -> "None":
    global _logging, _call_handlers, _basic_config
    _logging = logging
    _call_handlers, _basic_config = logging.Logger.callHandlers, logging.basicConfig
    logging.Logger.callHandlers = _call_handlers_or_send
    logging.basicConfig = functools.wraps(_basic_config)(_configure)
    _set_levels()


def _call_handlers_or_send(logger: "logging.Logger", record: "logging.LogRecord") -> "None":
    last = logger
    has_handlers = bool(logger.handlers)
    while last.propagate and last.parent is not None:
        last = last.parent
        has_handlers = has_handlers or bool(last.handlers)
    is_sent = last is _logging.root and not last.handlers and os.getpid() == _process
    if has_handlers or not is_sent:  # otherwise it would go to `logging.lastResort`
        _call_handlers(logger, record)
    if is_sent:
        _send(record)


def _configure(**options: "Any") -> "None":
    # `logging.warning` and the like configure the root logger before they log.
    is_implicit = not options and sys._getframe(1).f_globals is vars(_logging)
    if not (is_implicit and os.getpid() == _process):
        _basic_config(**options)


import_hooks.change("logging", _change)


def _send(record: "logging.LogRecord") -> "None":
    try:
        line = _encode(record)
    except Exception:  # the arguments do not fit the format, for example
        _logging.Handler.handleError(None, record)
        return
    if _write is not None:
        _write(line)


def _encode(record: "logging.LogRecord") -> "bytes":
    """Return a record as a line of JSON, without any object of the user."""
    fields = {}  # type: dict[str, Any]
    for name, value in list(record.__dict__.items())[:MOST_FIELDS]:
        if name not in _REPLACED:
            is_plain = value is None or type(value) in (bool, int, float)
            fields[str(name)[:FIELD_LIMIT]] = value if is_plain else str(value)[:FIELD_LIMIT]
    fields["msg"] = record.getMessage()[:TEXT_LIMIT]
    text = record.exc_text
    if record.exc_info and not text:
        text = _logging.Formatter().formatException(record.exc_info)
    fields["exc_text"] = None if text is None else text[-TEXT_LIMIT:]
    fields["stack_info"] = None if record.stack_info is None else record.stack_info[-TEXT_LIMIT:]
    return plain_json.dumps(fields).encode("ascii") + b"\n"
