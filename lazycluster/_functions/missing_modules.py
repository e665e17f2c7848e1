"""Say why a host does not have a module that a function imports there, and what to do."""

from __future__ import annotations

import re

from lazycluster._functions.installed import is_of_standard_library
from lazycluster._functions.local_modules import (
    OWN_PACKAGES,
    compiled_member,
    find_local,
    find_spec,
    refusal,
)

_MISSING = re.compile(r"No module named '(\w+)'\Z")


def explain_missing(exception_type: str, message: str) -> str | None:
    """Return why a module is missing on a host, with the cure; None if this does not know it.

    Args:
        exception_type: The name of the class of what was raised there.
        message: Its text.
    """
    match = _MISSING.match(message)
    if exception_type != "ModuleNotFoundError" or match is None or match[1] in OWN_PACKAGES:
        return None
    try:
        return _explain(match[1])
    except Exception:  # a user's finder may raise anything, here in the thread of the connection
        return None


def _explain(name: str) -> str | None:
    spec = find_spec(name)
    if spec is None or spec.origin in ("built-in", "frozen"):
        return None
    if find_local(name) is not None:
        reason = refusal(name)
        return reason or f'{name} is local here. To send it, say modules=["{name}"].'
    if spec.has_location and is_of_standard_library(str(spec.origin)):
        return None
    if compiled_member(name) is not None:
        return f"{name} is installed here and not there. Install it on the host."
    return (
        f"{name} is installed here and not there. "
        f'Install it on the host, or say modules=["{name}"] to send it.'
    )
