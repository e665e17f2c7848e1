"""What RuntimeManager does to the names in ssh_config: which are hosts, and which one host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lazycluster._checks import checked_path, listed_words
from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster._group.folding import folded_texts
from lazycluster._group.parallel import in_parallel
from lazycluster._group.results import SHOWN, reason
from lazycluster._runtime.host_info import Lack
from lazycluster._ssh.resolved import ResolvedConfig
from lazycluster.connection import Connection
from lazycluster.exceptions import AuthenticationError, HostKeyError
from lazycluster.tasks import RuntimeTask

CONNECT_TIMEOUT = 10.0
"""Seconds for a login by default: many of the hosts that a ssh_config names may be gone."""

_REFUSALS = (AuthenticationError, HostKeyError)
_MOST_RESOLVED = 16  # processes of `ssh -G` at the same time


class Names(NamedTuple):
    """The names of hosts in ssh_config, in their order; each is in one of these."""

    hosts: list[str]
    others: dict[str, str]  # another name of a host → the host
    errors: dict[str, Exception]  # a name that ssh does not take → why


def checked_parameters(
    connection_kwargs: dict[str, Any] | None, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters of the Connections to all hosts.

    Args:
        connection_kwargs: Parameters as `Runtime` takes them.
        parameters: Parameters of Connection that were given beside them; None means not given.

    Raises:
        ValueError: If one is invalid, or a person may be asked.
    """
    checked = translate_connection_kwargs(connection_kwargs or {}, parameters)
    checked.setdefault("connect_timeout", CONNECT_TIMEOUT)
    if checked.get("interactive"):
        raise ValueError("interactive=True is not possible: the logins run at the same time.")
    Connection("host", **checked)
    return checked


def sorted_names(names: Iterable[str], parameters: Mapping[str, Any]) -> Names:
    """Find out which names are hosts, and which are other names of one machine and account."""
    connections: dict[str, Connection] = {}
    errors: dict[str, Exception] = {}
    for name in names:
        try:
            connections[name] = Connection(name, **parameters)
        except ValueError as error:
            errors[name] = error
    resolved = in_parallel(
        {
            name: ResolvedConfig(connection._settings).account
            for name, connection in connections.items()
        },
        most=_MOST_RESOLVED,
    )
    hosts: list[str] = []
    others: dict[str, str] = {}
    first: dict[tuple[str, ...], str] = {}
    for name in connections:
        account = resolved.results.get(name)
        # Of what ssh does not resolve, the login says why.
        host = first.setdefault(account, name) if account else name
        if host == name:
            hosts.append(name)
        else:
            others[name] = host
    return Names(hosts, others, errors)


def next_names(others: Mapping[str, str], errors: Mapping[str, Exception]) -> dict[str, str]:
    """Return the next name of each host that has refused the login, by the name before.

    Another name may have another key, or another file with the host's key.

    Args:
        others: Other names, and the host that each is a name of.
        errors: Why hosts cannot be used.
    """
    found: dict[str, str] = {}
    for name, host in others.items():
        if isinstance(getattr(errors.get(host), "__cause__", None), _REFUSALS):
            found.setdefault(host, name)
    return found


def check_filters(
    min_memory: object, min_cpu_cores: object, installed_executables: Any, filter_commands: Any
) -> None:
    """Check the filters of `create_group`, before a host is asked.

    Raises:
        ValueError, TypeError: If one is invalid.
    """
    for name, least in (("min_memory", min_memory), ("min_cpu_cores", min_cpu_cores)):
        if least is not None and (isinstance(least, bool) or not isinstance(least, (int, float))):
            raise TypeError(f"{name} must be a number or None, not {type(least).__name__}.")
    for name in listed_words(installed_executables):
        checked_path(name, "The name of an executable")
    for command in listed_words(filter_commands):
        RuntimeTask().run_command(command)


def nothing_left(lacks: Mapping[str, list[Lack]], errors: Mapping[str, Exception]) -> str:
    """Return the message that says which filter has refused how many hosts, and why.

    Args:
        lacks: What the hosts lack, by host.
        errors: Why the other hosts could not be asked, by host.
    """
    refused: dict[str, dict[str, str]] = {}
    for host, found in lacks.items():
        for lack in found:
            refused.setdefault(lack.filter, {}).setdefault(host, f"lacks {lack.what}")
    count = len(lacks) + len(errors)
    lines = [f"No host is left of {count}."]
    for name, texts in refused.items():
        lines += [f"  {name} leaves out {len(texts)} of {count}:", *_shown(texts)]
    if errors:
        texts = {host: reason(error) for host, error in errors.items()}
        lines += [f"  {len(errors)} of {count} did not answer:", *_shown(texts)]
    return "\n".join(lines)


def _shown(texts: Mapping[str, str]) -> list[str]:
    lines = folded_texts(texts).split("\n")
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} others"]
    return [f"    {line}" for line in lines]
