"""Say at the interpreter's exit what still runs, and is stopped by it."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lazycluster._text import one_line

NAMES_SHOWN = 5
HOSTS_SHOWN = 3

TASK = "task"
CALL = "submitted call"

_CURES = {TASK: "join()", CALL: "result()"}

_logger = logging.getLogger("lazycluster")


class _Entry(NamedTuple):
    kind: str
    name: str
    host: Callable[[], str]
    runs: Callable[[], bool]


_entries: dict[object, _Entry] = {}  # in the order of their starts; what runs lives until its end
_registration = threading.RLock()  # reentrant for a signal handler
_registered = False


def add(
    one: object, kind: str, name: str, host: Callable[[], str], runs: Callable[[], bool]
) -> None:
    """Add what is about to run in the background; see `discard`.

    Args:
        one: An object that stands for it.
        kind: `TASK` or `CALL`.
        name: Its name.
        host: Called at the exit; it returns the host, or "" while a call of a Pool waits for one.
        runs: Called at the exit; it returns False if the user has stopped it.
    """
    global _registered
    with _registration:
        if not _registered:
            _registered = True
            # The last one runs first, so the connections of what is added are open when it does.
            atexit.register(_warn)
            os.register_at_fork(after_in_child=_entries.clear)
    _entries[one] = _Entry(kind, name, host, runs)


def come_first() -> None:
    """Warn before the exit handlers that are there now, which close connections."""
    with _registration:
        if _registered:
            atexit.unregister(_warn)
            atexit.register(_warn)


def discard(one: object) -> None:
    """Remove what has ended."""
    _entries.pop(one, None)


def _warn() -> None:
    """Log one WARNING, unless a traceback has said why the program ends."""
    entries = [entry for entry in list(_entries.values()) if entry.runs()]
    if entries and getattr(sys, "last_value", None) is None:
        _logger.warning("%s", _message(entries))


def _message(entries: list[_Entry]) -> str:
    kinds = [entry.kind for entry in entries]
    found = [kind for kind in (TASK, CALL) if kind in kinds]
    counts = [f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) > 1)}" for kind in found]
    was = "was" if len(entries) == 1 else "were"
    them = "it" if len(entries) == 1 else "them"
    by_host = {entry.host() for entry in entries}
    hosts = sorted(by_host - {""})
    states = [f"still running on {_some(hosts, HOSTS_SHOWN)}"] if hosts else []
    states += ["still waiting for a host"] if "" in by_host else []
    names = _some({entry.name: None for entry in entries}, NAMES_SHOWN)
    return (
        f"{' and '.join(counts)} {was} {' or '.join(states)} when the program ended, and {was} "
        f"stopped: {names}. "
        f"Call {' and '.join(_CURES[kind] for kind in found)} to wait for {them}, or cleanup() of "
        f"the Runtime to stop {them}."
    )


def _some(texts: Iterable[str], most: int) -> str:
    """Return the first texts, and how many there are more."""
    texts = [one_line(text, 60) for text in texts]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")
