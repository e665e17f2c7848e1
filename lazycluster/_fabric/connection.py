"""Read a `fabric.Connection` by its attributes; fabric itself is never imported."""

from __future__ import annotations

import getpass
import os
import posixpath
from collections.abc import Mapping
from typing import Any, Protocol

# Where fabric looks for the user's ssh_config, unless its Config says otherwise.
_USER_SSH_CONFIG = "~/.ssh/config"


class FabricConnection(Protocol):
    """What is read of a `fabric.Connection`."""

    original_host: Any
    user: Any
    port: Any
    ssh_config: Any
    gateway: Any
    forward_agent: Any
    connect_timeout: Any
    connect_kwargs: Any


def is_fabric_connection(value: object) -> bool:
    """Return True if the value has what is read of a `fabric.Connection`."""
    return isinstance(getattr(value, "original_host", None), str) and all(
        hasattr(value, name) for name in ("ssh_config", "connect_kwargs", "command_cwds")
    )


def given_kwargs(connection: Any) -> dict[str, Any]:
    """Return what was asked of fabric, in the names of fabric and of Connection.

    fabric fills in what it finds in ssh_config. That is left out, because ssh reads ssh_config
    itself, and better: fabric knows no Include, for example. A value that was given and is equal to
    the value of ssh_config, or to the default, cannot be told from it and makes no difference.

    Raises:
        ValueError: If it has something that ssh cannot do; the message names it and the cure.
    """
    _check(connection)
    config, found = connection.config, connection.ssh_config
    # What is in an SSHConfig object, ssh cannot read; so nothing of it may be left out.
    read_by_ssh = not getattr(config, "_given_explicit_object", False)
    implied: Mapping[str, Any] = found if read_by_ssh else {}
    timeout = connection.connect_timeout or None  # 0 is none, too
    if timeout is not None and str(timeout) == implied.get("connecttimeout"):
        timeout = None
    kwargs = {
        "config_file": _config_file(config),
        "user": _unless(implied.get("user", _local_user()), connection.user),
        "port": _unless(int(implied.get("port", 22)), connection.port),
        "connect_timeout": timeout,
        "forward_agent": _unless(implied.get("forwardagent") == "yes", connection.forward_agent),
        "connect_kwargs": _connect_kwargs(connection, implied),
        **_way(connection, read_by_ssh),
    }
    if not read_by_ssh and found.get("hostname", connection.original_host) != (
        connection.original_host
    ):
        kwargs["options"] = {**kwargs.get("options", {}), "HostName": found["hostname"]}
    return {name: value for name, value in kwargs.items() if value is not None}


def start_directory(connection: Any) -> str | None:
    """Return the directory of `with connection.cd(…)`, relative to the home directory, or None.

    It is joined as fabric joins it, but without fabric's escapes for a shell.
    """
    path = ""
    for part in connection.command_cwds:
        path = part if part.startswith("~") else posixpath.join(path, part)
    return path or None


def run_environment(connection: Any) -> dict[str, str]:
    """Return the variables that fabric gives to commands (`run.env` of its configuration)."""
    return dict(connection.config.run.env)


def _check(connection: Any) -> None:
    """Raise a ValueError for what fabric does to commands or at the login, but ssh cannot."""
    config = connection.config
    # fabric 2 has no `authentication`.
    authentication = config.get("authentication", {})
    refused = {
        "authentication.strategy_class": (
            authentication.get("strategy_class"),
            "ssh logs in with keys, an agent or a password; give those by connect_kwargs",
        ),
        "prefix()": (connection.command_prefixes, "write it into the command: 'PREFIX && COMMAND'"),
        "timeouts.command": (
            config.timeouts.get("command"),
            "give timeout= to run_command or to execute",
        ),
    }
    for name, (value, cure) in refused.items():
        if value:
            raise ValueError(f"A fabric Connection with {name} cannot be used: {cure}.")


def _unless(implied: Any, value: Any) -> Any:
    return None if value == implied else value


def _local_user() -> str | None:
    """Return the user that fabric takes by default."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name
        return None


def _config_file(config: Any) -> str | None:
    """Return the ssh_config that fabric was told to read; "none" for none at all."""
    path = getattr(config, "_runtime_ssh_path", None)
    if path is not None:
        return str(path)
    if not config.load_ssh_configs:
        return "none"
    path = getattr(config, "_user_ssh_path", _USER_SSH_CONFIG)
    return None if path == _USER_SSH_CONFIG else str(path)


def _connect_kwargs(connection: Any, implied: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters for paramiko, without the keys that fabric added from ssh_config."""
    kwargs = dict(connection.connect_kwargs)
    keys = kwargs.pop("key_filename", None) or []
    if isinstance(keys, (str, os.PathLike)):
        keys = [keys]
    # A key of ssh_config need not exist.
    found = connection.ssh_config.get("identityfile", [])
    given = [
        key
        for key in keys
        if key not in found or (key not in implied.get("identityfile", []) and os.path.isfile(key))
    ]
    return {**kwargs, "key_filename": given}


def _way(connection: Any, read_by_ssh: bool) -> dict[str, Any]:
    """Return the parameters for the way to the host: none, or one for the gateway."""
    gateway, found = connection.gateway, connection.ssh_config
    if gateway is None:
        return {}
    if not gateway:  # fabric's way to ignore ssh_config
        return {"jump_host": "none"}
    if isinstance(gateway, str):
        same = read_by_ssh and gateway == found.get("proxycommand")
        return {} if same else {"options": {"ProxyCommand": gateway}}
    hops = found.get("proxyjump", "")
    if hops and _is_made_from(connection, hops):
        # fabric goes through several hops in the wrong order.
        return {} if read_by_ssh else {"jump_host": hops}
    return {"gateway": gateway}


def _is_made_from(connection: Any, hops: str) -> bool:
    """Return True if fabric made the gateways from ProxyJump of ssh_config: each has a clone."""
    gateway = connection.gateway
    for hop in hops.split(","):
        if (
            not is_fabric_connection(gateway)
            or gateway.original_host != connection.derive_shorthand(hop)["host"]
            or not getattr(gateway.config, "_given_explicit_object", False)
        ):
            return False
        gateway = gateway.gateway
    return True
