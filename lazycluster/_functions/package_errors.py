"""Say which package an error of loading is about: missing, or of another version than there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Optional

from lazycluster._shared.versions import find_versions

Versions = Iterable[tuple[str, Optional[str]]]


def explain_on_host(versions: Versions, host: str) -> str:
    """Return what is wrong with the packages of a host; "" if nothing is known to be.

    Args:
        versions: The packages that the host's error is about, with their versions there.
        host: The host.
    """
    for name, there in versions:
        ((_, here),) = find_versions([name])
        if there is None and here is None:
            return f"{name} is neither installed on {host} nor here."
        if there is None:
            return (
                f"{name} is not installed on {host}. Install it there, or name an interpreter that "
                "has it with python=…."
            )
        if there and here and there != here:
            return _different(name, there, here, host, "pass")
    return ""


def explain_here(names: list[str], find_there: Callable[[list[str]], Versions], text: str) -> str:
    """Return why a value cannot be unpickled here.

    Args:
        names: The packages that the error here is about.
        find_there: Returns the versions of packages on the host, as far as it can.
        text: The error.
    """
    here_all = find_versions(names)
    for name, here in here_all:
        if here is None:
            return f"{name} is not installed here. Install it here, or return plain data."
    known = dict(find_there(names)) if names else {}
    for name, here in here_all:
        there = known.get(name)
        if there and here and there != here:
            return _different(name, there, here, "the host", "return")
    for name, here in here_all:
        if here and not known:  # the connection has ended, for example
            return f"{text}. {name} is {here} here, and perhaps another version on the host."
    return text


def _different(name: str, there: str, here: str, host: str, verb: str) -> str:
    return (
        f"{name} is {there} on {host} and {here} here; such values do not travel between them. "
        f"Install the same version on both sides, or {verb} plain data."
    )
