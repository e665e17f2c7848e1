"""Say what the signal that ended a function means, and where the function was."""

from __future__ import annotations

import itertools
import re

from lazycluster._conversation.outcome import Outcome
from lazycluster._text import signal_name

_STACK = re.compile(r"^Current thread .*:\n(?:  .*(?:\n|\Z))+", re.MULTILINE)
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP"})
_LIMITS = {"SIGXCPU": "of processor time (ulimit -t)", "SIGXFSZ": "of file sizes (ulimit -f)"}


def likely_reason(outcome: Outcome) -> str | None:
    """Return what the signal that ended a function most likely means, if anything."""
    if outcome.killer == "manager":
        return "it was stopped from here"
    name = signal_name(outcome.signal or 0).partition("(")[2].rstrip(")")
    if name == "SIGKILL":
        if outcome.killer == "memory":
            return "the host's kernel has just ended a process because it was out of memory"
        if outcome.killer == "other":
            return "another process has ended it; the host's kernel reports no lack of memory"
        return "probably the host's out-of-memory killer or an administrator has ended it"
    if name == "SIGABRT":
        return "a compiled module has called abort()"
    if name in _CRASHES:
        return "a compiled module has crashed"
    if name in _LIMITS:
        return f"it has reached the limit {_LIMITS[name]}"
    if name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"):
        return "another process has ended it"
    return None


def crash_stack(output: str) -> str | None:
    """Return what faulthandler has printed of the thread that crashed, without our own frames."""
    start = output.rfind("Fatal Python error: ")
    found = _STACK.search(output, start) if start >= 0 else None
    if found is None:
        return None
    lines = found[0].splitlines()
    lines = list(itertools.takewhile(lambda line: '"<lazycluster>/' not in line, lines))
    return "\n".join(lines) if len(lines) > 1 else None
