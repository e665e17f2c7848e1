"""What the user asked of ssh: checked before any process starts, in whatever words it was said."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from lazycluster._ssh.argv import RESERVED_OPTIONS

# The option that says the same as the parameter.
_OPTION_OF_PARAMETER = {
    "user": "User",
    "port": "Port",
    "identity_file": "IdentityFile",
    "jump_host": "ProxyJump",
}

# ssh refuses these itself: they would reach a shell as %h or %r of a ProxyCommand or Match exec
# (CVE-2023-51385).
_BAD_IN_HOST = frozenset("'`\"$\\;&<>|(){},")
# A backslash is fine inside (DOMAIN\user), but not at the end.
_BAD_IN_USER = frozenset("'`\";&<>|(){}$")

_LONGEST_SECRET = 1000  # bytes; ssh reads at most 1023 from SSH_ASKPASS

PathLike = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Settings:
    """What the user asked of ssh; a mistake is a ValueError before any process starts.

    Args:
        host: What `ssh` takes: an alias, `user@host`, `ssh://…`, an IPv6 literal; `user@host:port`
            and `[ipv6]:port` too.
        user: The user to log in as (`-l`). None: as the host says, else as ssh_config says.
        port: The port to connect to (`-p`). None: as the host says, else as ssh_config says.
        config_file: The ssh_config to read instead of the usual ones (`-F`); "none" for none.
        identity_file: The private key to offer (`-i`).
        jump_host: The jump host, or several with commas between (`-J`), or "none".
        connect_timeout: How long the login may take, in seconds. Default: 30.
        keepalive: How often either side must say something, in seconds. Default: 15.
        password: What to say if the host asks for a password.
        passphrase: What to say if ssh asks for the passphrase of a key.
        interactive: Whether a person may be asked at the terminal.
        python: The command line of the Python on the host. None: look for one there.
        options: Names of ssh_config and their values (`-o`), written and quoted as there.

    Attributes:
        destination: The host alone, as it stands on the command line of ssh.

    Raises:
        ValueError: If one of them cannot be; the message says which, and the cure.
    """

    host: str
    user: str | None = None
    port: int | None = None
    config_file: PathLike | None = None
    identity_file: PathLike | None = None
    jump_host: str | None = None
    connect_timeout: float = 30.0
    keepalive: float = 15.0
    password: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    interactive: bool = False
    python: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    destination: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        user, destination, port = _split_host(self.host)
        given = {
            "destination": destination,
            "user": _agreed("user", self.user, user, self.host),
            "port": _agreed("port", self.port, port, self.host),
            "config_file": _checked_file("config_file", self.config_file, none_allowed=True),
            "identity_file": _checked_file("identity_file", self.identity_file),
            "options": _checked_options(self.options),
        }
        if given["user"] is not None:
            _check_user("user", given["user"])
        if given["port"] is not None:
            _check_port("port", given["port"])
        _check_jump_host(self.jump_host)
        _check_seconds("connect_timeout", self.connect_timeout)
        _check_seconds("keepalive", self.keepalive)
        _check_secret("password", self.password)
        _check_secret("passphrase", self.passphrase)
        if not isinstance(self.interactive, bool):
            raise ValueError(f"interactive must be True or False, not {self.interactive!r}.")
        _check_python(self.python)
        for name, value in given.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else
        names = {name.lower() for name in self.options}
        for parameter, option in _OPTION_OF_PARAMETER.items():
            if getattr(self, parameter) is not None and option.lower() in names:
                raise ValueError(
                    f"{parameter} is given twice, also as {option} in options; leave one out."
                )

    @property
    def may_be_asked(self) -> bool:
        """Whether a question at the login can be answered."""
        return self.interactive or self.password is not None or self.passphrase is not None


# --- connection_kwargs ---

_PARAMETERS = (
    "user",
    "port",
    "config_file",
    "identity_file",
    "jump_host",
    "connect_timeout",
    "keepalive",
    "password",
    "passphrase",
    "interactive",
    "python",
    "options",
)
# What paramiko and fabric call them.
_OTHER_SPELLINGS = {
    "username": "user",
    "key_filename": "identity_file",
    "timeout": "connect_timeout",
    "gateway": "jump_host",
}
# What paramiko and fabric can switch off, and the option of ssh_config that does.
_SWITCHES = {
    "allow_agent": ("IdentityAgent", "none"),
    "look_for_keys": ("IdentitiesOnly", "yes"),
}


def translate_connection_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the `connection_kwargs` of a Runtime to the parameters of a Connection.

    Args:
        kwargs: Names of Connection's parameters, or of paramiko's and fabric's where OpenSSH means
            the same: `username`, `key_filename`, `timeout`, `gateway`, `allow_agent`,
            `look_for_keys`, and `connect_kwargs` with a mapping of those. None means not given.

    Returns:
        The parameters; what was not given is not in it.

    Raises:
        ValueError: If a name is unknown (all known ones are listed), or two spellings of one say
            different things.
    """
    translated: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in _flattened(kwargs):
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}.")
            if not value:
                option, off = _SWITCHES[name]
                _put(options, option, off, name)
            continue
        if name == "options":
            if not isinstance(value, Mapping):
                raise ValueError(f"options must map names of ssh_config to values, not {value!r}.")
            for option, option_value in value.items():
                _put(options, option, option_value, "options")
            continue
        if name == "gateway" and not isinstance(value, str):
            raise ValueError(f"gateway must be a host as `ssh -J` takes it, not {value!r}.")
        if name == "key_filename" and isinstance(value, (list, tuple)):
            if len(value) != 1:
                raise ValueError("key_filename must be one file; name others in ssh_config.")
            value = value[0]
        _put(translated, _OTHER_SPELLINGS.get(name, name), value, name)
    if options:
        translated["options"] = options
    return translated


def _flattened(kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what was given, with `connect_kwargs` spread out; unknown names are a ValueError."""
    items: list[tuple[str, Any]] = []
    for name, value in kwargs.items():
        if name == "connect_kwargs" and value is not None:
            if not isinstance(value, Mapping):
                raise ValueError(f"connect_kwargs must be a mapping, not {value!r}.")
            items += value.items()
        elif name != "connect_kwargs":
            items.append((name, value))
    known = {*_PARAMETERS, *_OTHER_SPELLINGS, *_SWITCHES}
    unknown = [str(name) for name, _ in items if name not in known]
    if unknown:
        raise ValueError(
            f"Unknown in connection_kwargs: {', '.join(unknown)}; known are "
            f"{', '.join(sorted(known | {'connect_kwargs'}))}."
        )
    return [(name, value) for name, value in items if value is not None]


def _put(target: dict[str, Any], name: str, value: Any, spelling: str) -> None:
    """Set `name` in `target`, unless it says something else there, in any case of letters."""
    for other, there in target.items():
        if str(other).lower() == str(name).lower():
            if there != value:
                raise ValueError(
                    f"{spelling} says {value!r} for {name}, which is {there!r} already; "
                    "leave one out."
                )
            return
    target[name] = value


# --- checks, one for each input ---


def _split_host(host: str) -> tuple[str | None, str, int | None]:
    """Split what the user typed into user, host and port, and check the host.

    ssh takes `h:22` and `[::1]:22` for names and refuses `ssh://[::1]:22`, so it gets the parts.
    """
    if not isinstance(host, str) or not host:
        raise ValueError(f"host must be what `ssh` takes, as 'user@host', not {host!r}.")
    uri = host.lower().startswith("ssh://")
    rest = host[len("ssh://") :].rstrip("/") if uri else host
    user, at, rest = rest.rpartition("@")  # the last one, as in ssh: a user may have an @
    if at and not user:
        raise ValueError(f"host {host!r} has no user before the @; leave out the @.")
    if uri:
        from urllib.parse import unquote

        user = unquote(user)
    port: str | None = None
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::([0-9]+))?", rest)
    if bracketed:
        rest, port = bracketed[1], bracketed[2]
    else:
        # Two colons and more are an IPv6 literal.
        with_port = re.fullmatch(r"([^:]*):([0-9]+)", rest)
        if with_port:
            rest, port = with_port[1], with_port[2]
    _check_host_name(host, rest)
    if user:
        _check_user("The user in host", user)
    if port is not None:
        _check_port(f"The port in host {host!r}", int(port))
    return user or None, rest, None if port is None else int(port)


def _check_host_name(host: str, name: str) -> None:
    if not name:
        raise ValueError(f"host {host!r} names no host; write it as in 'user@host'.")
    if name.startswith("-") or host.startswith("-"):
        raise ValueError(
            f"host {host!r} begins with '-', which ssh takes for an option; leave it out."
        )
    _check_characters(f"host {host!r}", name, _BAD_IN_HOST)


def _check_user(what: str, user: Any) -> None:
    if not isinstance(user, str) or not user:
        raise ValueError(f"{what} must be the name of a user, not {user!r}; leave it out.")
    if user.startswith("-"):
        raise ValueError(f"{what} {user!r} begins with '-', which ssh refuses; leave it out.")
    if user.endswith("\\"):
        raise ValueError(f"{what} {user!r} ends with a backslash, which ssh refuses; leave it out.")
    _check_characters(f"{what} {user!r}", user, _BAD_IN_USER)


def _check_characters(what: str, text: str, bad: frozenset[str]) -> None:
    for character in text:
        if character.isspace() or not character.isprintable():
            raise ValueError(
                f"{what} holds a blank or control character, {character!r}; leave it out."
            )
        if character in bad:
            raise ValueError(f"{what} holds {character!r}, which ssh refuses; leave it out.")


def _check_port(what: str, port: Any) -> None:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError(f"{what} must be a whole number from 1 to 65535, not {port!r}.")


def _agreed(name: str, parameter: Any, in_host: Any, host: str) -> Any:
    """Return the one value that the parameter and the host give."""
    if parameter is None:
        return in_host
    if in_host is not None and parameter != in_host:
        raise ValueError(
            f"{name} is {parameter!r}, but host {host!r} says {in_host!r}; leave one out."
        )
    return parameter


def _check_jump_host(jump_host: Any) -> None:
    if jump_host is None:
        return
    if not isinstance(jump_host, str) or not jump_host:
        raise ValueError(f"jump_host must be what `ssh -J` takes, not {jump_host!r}.")
    if jump_host.lower() == "none":
        return
    for hop in jump_host.split(","):
        try:
            _split_host(hop)
        except ValueError as error:
            raise ValueError(f"jump_host {jump_host!r} cannot be: {error}") from error


def _checked_file(name: str, path: Any, *, none_allowed: bool = False) -> str | None:
    """Return the absolute path of a file that can be read, or "none" if that is allowed."""
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise ValueError(f"{name} must be a path, not {path!r}.")
    text = os.fspath(path)
    if none_allowed and text.lower() == "none":
        return "none"
    if not text or "\0" in text or "\n" in text:
        raise ValueError(f"{name} must be the path of a file, not {text!r}.")
    text = os.path.abspath(os.path.expanduser(text))
    # A folder is no error for ssh: it reads nothing from it.
    if os.path.isdir(text) or not os.access(text, os.R_OK):
        raise ValueError(f"{name} {text!r} is not a file that can be read; check the path.")
    if name == "identity_file" and ("%" in text or "${" in text):
        raise ValueError(
            f"identity_file {text!r} holds '%' or '${{', which ssh expands; make a link "
            "with another name."
        )
    return text


def _check_seconds(name: str, seconds: Any) -> None:
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}.")


def _check_secret(name: str, secret: Any) -> None:
    """Check a secret, whose value no message may hold."""
    if secret is None:
        return
    if not isinstance(secret, str) or not secret:
        raise ValueError(f"{name} must be a string that is not empty.")
    if any(character in secret for character in "\0\r\n"):
        raise ValueError(f"{name} holds a line break or NUL, which ssh takes for its end.")
    if len(os.fsencode(secret)) > _LONGEST_SECRET:
        raise ValueError(f"{name} is longer than the {_LONGEST_SECRET} bytes that ssh reads.")


def _check_python(python: Any) -> None:
    if python is None:
        return
    if not isinstance(python, str) or not python.strip():
        raise ValueError(
            f"python must be the command line of a Python on the host, not {python!r}; "
            "leave it out to look for one."
        )
    if any(character in python for character in "\0\r\n"):
        raise ValueError(
            f"python {python!r} holds a line break or NUL, but must be one command line."
        )


def _checked_options(options: Any) -> dict[str, str]:
    """Return a copy of the options; numbers and booleans as ssh_config writes them."""
    if not isinstance(options, Mapping):
        raise ValueError(f"options must map names of ssh_config to values, not {options!r}.")
    checked: dict[str, str] = {}
    for name, value in options.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name):
            raise ValueError(f"{name!r} in options is no name of ssh_config, as 'Compression' is.")
        if name.lower() in RESERVED_OPTIONS:
            cure = "use connect_timeout" if name.lower() == "connecttimeout" else "leave it out"
            raise ValueError(f"{name} in options is set by lazycluster itself; {cure}.")
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, int):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} in options must have a value, not {value!r}.")
        if not all(character.isprintable() or character == "\t" for character in value):
            raise ValueError(
                f"{name} in options holds a line break or control character, {value!r}; "
                "leave it out."
            )
        _put(checked, name, value, "options")
    return checked
