"""Translate the `connection_kwargs` of paramiko and fabric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lazycluster._ssh.settings import Settings

_PARAMETERS = {parameter.name for parameter in fields(Settings) if parameter.init} - {"host"}
# The names that paramiko and fabric use.
_OTHER_SPELLINGS = {
    "username": "user",
    "key_filename": "identity_file",
    "timeout": "connect_timeout",
    "gateway": "jump_host",
}
# What paramiko and fabric can switch off, and the ssh_config option that does it.
_SWITCHES = {
    "allow_agent": ("IdentityAgent", "none"),
    "look_for_keys": ("IdentitiesOnly", "yes"),
}


def translate_connection_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the `connection_kwargs` of a Runtime to the parameters of a Connection.

    These are parameters of Connection, names of paramiko and fabric that have a meaning in OpenSSH,
    and `connect_kwargs` with a mapping of such names. None means not given.

    Raises:
        ValueError: If a name is unknown (the message lists the known names), or two spellings of
            one parameter have different values.
    """
    translated: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in _flattened(kwargs):
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise ValueError(f"Invalid {name} {value!r}: it must be True or False.")
            if not value:
                option, off = _SWITCHES[name]
                _put(options, option, off, name)
        elif name == "options":
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"Invalid options {value!r}: they must map names of ssh_config to values."
                )
            for option, option_value in value.items():
                _put(options, option, option_value, "options")
        else:
            parameter = _OTHER_SPELLINGS.get(name, name)
            _put(translated, parameter, _openssh_value(name, value), name)
    if options:
        translated["options"] = options
    return translated


def _flattened(kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the given names and values, with `connect_kwargs` spread out, all names known."""
    items: list[tuple[str, Any]] = []
    for name, value in kwargs.items():
        if name != "connect_kwargs":
            items.append((name, value))
        elif isinstance(value, Mapping):
            items += value.items()
        elif value is not None:
            raise ValueError(f"Invalid connect_kwargs {value!r}: it must be a mapping.")
    known = _PARAMETERS | _OTHER_SPELLINGS.keys() | _SWITCHES.keys()
    unknown = [str(name) for name, _ in items if name not in known]
    if unknown:
        raise ValueError(
            f"Unknown in connection_kwargs: {', '.join(unknown)}; known are "
            f"{', '.join(sorted(known | {'connect_kwargs'}))}."
        )
    return [(name, value) for name, value in items if value is not None]


def _openssh_value(name: str, value: Any) -> Any:
    """Return the value as Connection takes it; fabric's gateway may be an object, keys a list."""
    if name == "gateway" and not isinstance(value, str):
        raise ValueError(f"Invalid gateway {value!r}: it must be a host as `ssh -J` takes it.")
    if name == "key_filename" and isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError(
                f"Invalid key_filename {value!r}: it must be one file; name others in ssh_config."
            )
        return value[0]
    return value


def _put(target: dict[str, Any], name: str, value: Any, spelling: str) -> None:
    """Set `name` in `target`; refuse another value under a name that differs only in case."""
    for other, there in target.items():
        if str(other).lower() == str(name).lower():
            if there != value:
                # No value in the message: it may be a secret.
                raise ValueError(
                    f"{spelling} gives {name} a second value, which differs; leave one out."
                )
            return
    target[name] = value
