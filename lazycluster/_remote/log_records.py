"""Send what a function logs to the manager, whose loggers of the same names handle it.

The root logger of the manager stands for the one of this process, as long as that has no handlers.
"""

import functools
import json
import logging
import os
import sys

from . import streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

TEXT_LIMIT = 1 << 14  # characters of a message or a traceback
FIELD_LIMIT = 500  # characters of another field
MOST_FIELDS = 60

_REPLACED = frozenset(["msg", "args", "message", "asctime", "exc_info", "exc_text", "stack_info"])

_call_handlers = logging.Logger.callHandlers
_write = None  # type: Callable[[bytes], object] | None
_process = 0  # children of a function share its pipe, in which lines of two processes would mix


def start(levels: "dict[str, int]", write: "Callable[[bytes], object]") -> "None":
    """Send the records of this process from now on; `levels` are those of the manager's loggers."""
    global _write, _process
    _write, _process = write, os.getpid()
    for name, level in levels.items():
        # Not setLevel, which empties a cache of each logger. These are empty.
        (logging.getLogger(name) if name else logging.root).level = level


def stop() -> "None":
    """Drop what is logged from now on."""
    global _write
    with streams.report_lock:  # a thread may be in a write
        _write = None


def _call_handlers_or_send(logger: "logging.Logger", record: "logging.LogRecord") -> "None":
    last = logger
    has_handlers = bool(logger.handlers)
    while last.propagate and last.parent is not None:
        last = last.parent
        has_handlers = has_handlers or bool(last.handlers)
    is_sent = last is logging.root and not last.handlers and os.getpid() == _process
    if has_handlers or not is_sent:  # otherwise it would go to `logging.lastResort`
        _call_handlers(logger, record)
    if is_sent:
        _send(record)


@functools.wraps(logging.basicConfig)
def _configure(**options: "Any") -> "None":
    # `logging.warning` and the like configure the root logger before they log.
    is_implicit = not options and sys._getframe(1).f_globals is vars(logging)
    if not (is_implicit and os.getpid() == _process):
        _basic_config(**options)


_basic_config = logging.basicConfig
logging.basicConfig = _configure
logging.Logger.callHandlers = _call_handlers_or_send  # type: ignore[assignment, method-assign]


def _send(record: "logging.LogRecord") -> "None":
    try:
        line = _encode(record)
    except Exception:  # the arguments do not fit the format, for example
        logging.Handler.handleError(None, record)  # type: ignore[arg-type]
        return
    with streams.report_lock:
        if _write is not None:
            _write(line)


def _encode(record: "logging.LogRecord") -> "bytes":
    """Return a record as a line of the report pipe, without any object of the user."""
    fields = {}  # type: dict[str, Any]
    for name, value in list(record.__dict__.items())[:MOST_FIELDS]:
        if name not in _REPLACED:
            is_plain = value is None or type(value) in (bool, int, float)
            fields[str(name)[:FIELD_LIMIT]] = value if is_plain else str(value)[:FIELD_LIMIT]
    fields["msg"] = record.getMessage()[:TEXT_LIMIT]
    text = record.exc_text
    if record.exc_info and not text:
        text = logging.Formatter().formatException(record.exc_info)
    fields["exc_text"] = None if text is None else text[-TEXT_LIMIT:]
    fields["stack_info"] = None if record.stack_info is None else record.stack_info[-TEXT_LIMIT:]
    return streams.LOGGED + json.dumps(fields).encode("ascii") + b"\n"
