"""Translate the `connection_kwargs` of paramiko and fabric."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from lazycluster._checks import check_seconds
from lazycluster._fabric.connection import given_kwargs, is_fabric_connection
from lazycluster._ssh.settings import Settings

_PARAMETERS = {parameter.name for parameter in fields(Settings) if parameter.init} - {"host"}
# The names that paramiko and fabric use.
_OTHER_SPELLINGS = {
    "username": "user",
    "key_filename": "identity_file",
    "timeout": "connect_timeout",
}
# What paramiko and fabric switch on or off, and the ssh_config option that does it.
_SWITCHES = {
    "allow_agent": ("IdentityAgent", {False: "none"}),
    "compress": ("Compression", {True: "yes", False: "no"}),
    "forward_agent": ("ForwardAgent", {True: "yes", False: "no"}),
    # The keys of ~/.ssh that ssh tries by default. It tries none of them if it gets a key.
    "look_for_keys": ("IdentityFile", {False: "none"}),
}
# Phases of a login that paramiko limits one by one.
_PHASES = ("banner_timeout", "auth_timeout", "channel_timeout")
# Variables always arrive, and gss_auth and gss_kex, without which the others do nothing, cannot be.
_WITHOUT_EFFECT = {"inline_ssh_env", "gss_deleg_creds", "gss_host", "gss_trust_dns"}
_CURES = {
    "auth_strategy": "ssh logs in with keys, an agent or a password; give those by name",
    "config": "give the values of the fabric Config by their names",
    "disabled_algorithms": "use options, for example {'KexAlgorithms': '-NAME'}",
    "gss_auth": "use options={'GSSAPIAuthentication': 'yes'}",
    "gss_kex": "use options={'GSSAPIKeyExchange': 'yes'} if `ssh` knows it",
    "pkey": "name the file of the key with identity_file, or load it with `ssh-add`",
    "sock": "use jump_host, or options={'ProxyCommand': …}",
    "transport_factory": "leave it out; ssh makes the connection",
}
_KNOWN = (
    _PARAMETERS
    | _OTHER_SPELLINGS.keys()
    | _SWITCHES.keys()
    | {*_PHASES, "gateway", "connect_kwargs"}
)


def translate_connection_kwargs(
    kwargs: Mapping[str, Any], parameters: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Translate the `connection_kwargs` of a Runtime to the parameters of a Connection.

    These are parameters of Connection, names of paramiko and fabric that have a meaning in OpenSSH,
    and `connect_kwargs` with a mapping of such names. None means not given. `parameters` are
    parameters of Connection that were given beside them.

    Raises:
        ValueError: If a name is unknown (the message lists the known names) or has no meaning for
            ssh (the message has the cure), or two spellings of one parameter have different values.
    """
    translated: dict[str, Any] = {}
    options: dict[str, Any] = {}
    typed = [(name, value) for name, value in parameters.items() if value is not None]
    given = [*_flattened(kwargs), *typed]
    for name, value in given:
        if name == "options":
            if not isinstance(value, Mapping):
                raise ValueError("Invalid options: they must map names of ssh_config to values.")
            for option, option_value in value.items():
                _put(options, option, option_value, "options")
        elif name == "gateway":
            for parameter, parameter_value in _way_through(value).items():
                target = options if parameter == "ProxyCommand" else translated
                _put(target, parameter, parameter_value, name)
        elif name == "key_filename":
            _put(translated, "identity_file", _key_files(value), name)
        elif name not in _SWITCHES and name not in _PHASES:
            _put(translated, _OTHER_SPELLINGS.get(name, name), value, name)
    _add_switches(options, given, has_key="identity_file" in translated)
    _add_phases(translated, given)
    # paramiko decrypts a key with the password, too.
    if "password" in translated and any(name == "key_filename" for name, _ in given):
        translated.setdefault("passphrase", translated["password"])
    if options:
        translated["options"] = options
    return translated


def _flattened(kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the given names and values, with `connect_kwargs` spread out, all names known."""
    if not isinstance(kwargs, Mapping):
        raise ValueError("Invalid connection_kwargs: they must map names to values.")
    items: list[tuple[str, Any]] = []
    for name, value in kwargs.items():
        if name != "connect_kwargs":
            items.append((name, value))
        elif isinstance(value, Mapping):
            items += value.items()
        elif value is not None:
            raise ValueError("Invalid connect_kwargs: it must be a mapping.")
    # Some of the values that paramiko has by default, False and {}, may stand here.
    items = [(name, value) for name, value in items if value is not None and value != []]
    for name, value in items:
        if name in _CURES and value:
            raise ValueError(f"{name} in connection_kwargs cannot be: {_CURES[name]}.")
    ignored = _CURES.keys() | _WITHOUT_EFFECT
    unknown = [str(name) for name, _ in items if name not in _KNOWN | ignored]
    if unknown:
        raise ValueError(
            f"Unknown in connection_kwargs: {', '.join(unknown)}; known are "
            f"{', '.join(sorted(_KNOWN))}."
        )
    return [(name, value) for name, value in items if name not in ignored]


def _key_files(keys: Any) -> Any:
    """Return the private keys that `key_filename` means; it may name their certificates."""
    suffix = "-cert.pub"
    if isinstance(keys, os.PathLike):
        keys = os.fspath(keys)
    if isinstance(keys, str):
        return keys[: -len(suffix)] if keys.endswith(suffix) else keys
    return [_key_files(key) for key in keys] if isinstance(keys, (list, tuple)) else keys


def _way_through(gateway: Any) -> dict[str, str]:
    """Return the jump host, or the ProxyCommand, that a gateway of fabric means."""
    if gateway is False:
        return {"jump_host": "none"}
    if is_fabric_connection(gateway):
        return {"jump_host": _jump_host(gateway)}
    if not isinstance(gateway, str):
        raise ValueError(
            "Invalid gateway: it must be a host as `ssh -J` takes it, a ProxyCommand or a fabric "
            f"Connection, not {type(gateway).__name__}."
        )
    # A jump host contains no blank, and a command without a blank leads nowhere.
    return {"ProxyCommand" if " " in gateway.strip() else "jump_host": gateway}


def _jump_host(gateway: Any) -> str:
    """Return a fabric Connection as `ssh -J` takes it, behind its own gateways.

    Raises:
        ValueError: If it has what ssh takes for a jump host from ssh_config only.
    """
    hop = translate_connection_kwargs(given_kwargs(gateway))
    host = gateway.original_host
    before, user, port = (hop.pop(name, None) for name in ("jump_host", "user", "port"))
    options = hop.pop("options", {})
    names = [
        *(hop.keys() - {"connect_timeout", "config_file"}),
        *(options.keys() - {"ForwardAgent"}),
    ]
    if before == "none":
        names.append("gateway=False")
    if names:
        raise ValueError(
            f"Invalid gateway {host!r} with {', '.join(sorted(names))}: ssh takes that for a jump "
            f"host from ssh_config only. Write it there for `Host {host}`, or load the key with "
            "`ssh-add`."
        )
    text = f"[{host}]" if ":" in host else host
    text = text if user is None else f"{user}@{text}"
    text = text if port is None else f"{text}:{port}"
    return text if before is None else f"{before},{text}"


def _add_switches(options: dict[str, Any], given: list[tuple[str, Any]], *, has_key: bool) -> None:
    for name, value in given:
        if name not in _SWITCHES:
            continue
        if not isinstance(value, bool):
            raise ValueError(f"Invalid {name}: it must be True or False.")
        option, values = _SWITCHES[name]
        if value in values and not (has_key and option == "IdentityFile"):
            _put(options, option, values[value], name)


def _add_phases(translated: dict[str, Any], given: list[tuple[str, Any]]) -> None:
    """Add the times for phases of the login to the time for the whole login.

    ssh has one limit. The sum is the longest that paramiko waits, so that no login ends too early.
    """
    phases = [(name, value) for name, value in given if name in _PHASES]
    for name, value in phases:
        check_seconds(value, name)
    if phases:
        whole = translated.get("connect_timeout", Settings.connect_timeout)
        check_seconds(whole, "connect_timeout")
        translated["connect_timeout"] = whole + sum(dict(phases).values())


def _put(target: dict[str, Any], name: str, value: Any, spelling: str) -> None:
    """Set `name` in `target`; refuse another value under a name that differs only in case."""
    for other, there in target.items():
        if str(other).lower() == str(name).lower():
            if there != value:
                # No value in the message: it may be a secret.
                raise ValueError(
                    f"{name} is given twice, the second time as {spelling}, with different values; "
                    "leave one out."
                )
            return
    target[name] = value
