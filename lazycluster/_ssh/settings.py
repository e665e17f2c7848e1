"""Check what the user asks of ssh, before any process starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from lazycluster._checks import check_seconds, checked_port, path_text
from lazycluster._shared.paths import absolute
from lazycluster._ssh.options import RESERVED_OPTIONS

# The ssh_config option that sets what the parameter sets.
_OPTION_OF_PARAMETER = {
    "user": "User",
    "port": "Port",
    "identity_file": "IdentityFile",
    "jump_host": "ProxyJump",
}

# ssh itself refuses these: they would reach a shell as %h or %r of a ProxyCommand or Match exec
# (CVE-2023-51385).
_BAD_IN_HOST = frozenset("'`\"$\\;&<>|(){},")
# A backslash is allowed inside (DOMAIN\user), but not at the end.
_BAD_IN_USER = frozenset("'`\";&<>|(){}$")

_LONGEST_SECRET = 1000  # bytes; ssh reads at most 1023 from SSH_ASKPASS

PathLike = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Settings:
    """What the user asks of ssh, checked; the arguments are documented at `Connection`.

    Raises:
        ValueError: If an argument is invalid; the message names it and the cure.
        TypeError: If a path is neither a string nor an `os.PathLike` of one.
    """

    host: str
    user: str | None = None
    port: int | None = None
    config_file: PathLike | None = None
    identity_file: PathLike | Sequence[PathLike] | None = None  # checked, it is a tuple
    jump_host: str | None = None
    connect_timeout: float = 30.0
    keepalive: float = 15.0
    orphan_timeout: float = 600.0
    password: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    password_prompt: str | None = None
    interactive: bool = False
    python: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # checked, of strings
    destination: str = field(init=False, compare=False)  # the host alone, for ssh's command line

    def __post_init__(self) -> None:
        user, destination, port = _split_host(self.host)
        checked = {
            "destination": destination,
            "user": _agreed("user", self.user, user, self.host),
            "port": _agreed("port", self.port, port, self.host),
            "config_file": _checked_file("config_file", self.config_file, none_allowed=True),
            "identity_file": _checked_keys(self.identity_file),
            "options": _checked_options(self.options),
        }
        if checked["user"] is not None:
            _check_user("user", checked["user"])
        if checked["port"] is not None:
            checked_port(checked["port"])
        _check_jump_host(self.jump_host)
        check_seconds(self.connect_timeout, "connect_timeout")
        check_seconds(self.keepalive, "keepalive")
        check_seconds(self.orphan_timeout, "orphan_timeout")
        _check_secret("password", self.password)
        _check_secret("passphrase", self.passphrase)
        _check_pattern("password_prompt", self.password_prompt)
        if not isinstance(self.interactive, bool):
            raise ValueError(f"Invalid interactive {self.interactive!r}: use True or False.")
        if self.python is not None:
            _check_python(self.python)
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen
        names = {name.lower() for name in self.options}
        for parameter, option in _OPTION_OF_PARAMETER.items():
            if getattr(self, parameter) is not None and option.lower() in names:
                raise ValueError(
                    f"{parameter} is given twice, also as {option} in options; leave one out."
                )

    @property
    def identity_files(self) -> tuple[PathLike, ...]:
        """Return the private keys to offer, in their order."""
        return self.identity_file if isinstance(self.identity_file, tuple) else ()

    @property
    def may_be_asked(self) -> bool:
        """Return True if a person or a secret can answer a question at the login."""
        return self.interactive or self.password is not None or self.passphrase is not None


def _split_host(host: str) -> tuple[str | None, str, int | None]:
    """Split what the user typed into user, host and port, and check each.

    ssh takes `h:22` and `[::1]:22` for names and refuses `ssh://[::1]:22`, so it gets the parts.
    """
    if not isinstance(host, str) or not host:
        raise ValueError(f"Invalid host {host!r}: it must be what `ssh` takes, like 'user@host'.")
    uri = host.lower().startswith("ssh://")
    rest = host[len("ssh://") :].rstrip("/") if uri else host
    user, at, rest = rest.rpartition("@")  # the last one, as in ssh: a user may have an @
    if at and not user:
        raise ValueError(f"Invalid host {host!r}: there is no user before the @; leave out the @.")
    if uri:
        from urllib.parse import unquote

        user = unquote(user)
    port: str | None = None
    # A name with two or more colons is an IPv6 literal.
    parts = re.fullmatch(r"\[([^\[\]]*)\](?::([0-9]+))?", rest) or re.fullmatch(
        r"([^:]*):([0-9]+)", rest
    )
    if parts:
        rest, port = parts[1], parts[2]
    if not rest:
        raise ValueError(f"Invalid host {host!r}: the name is missing; write it like 'user@host'.")
    if rest.startswith("-") or host.startswith("-"):
        raise ValueError(
            f"Invalid host {host!r}: it begins with '-', which ssh takes for an option."
        )
    _check_characters("host", host, rest, _BAD_IN_HOST)
    if user:
        _check_user("user in host", user)
    return user or None, rest, None if port is None else checked_port(int(port), "port in host")


def _check_user(what: str, user: Any) -> None:
    if not isinstance(user, str) or not user:
        raise ValueError(f"Invalid {what} {user!r}: it must be the name of a user.")
    if user.startswith("-"):
        raise ValueError(f"Invalid {what} {user!r}: it begins with '-', which ssh refuses.")
    if user.endswith("\\"):
        raise ValueError(f"Invalid {what} {user!r}: it ends with a backslash, which ssh refuses.")
    _check_characters(what, user, user, _BAD_IN_USER)


def _check_characters(what: str, value: str, part: str, bad: frozenset[str]) -> None:
    """Check a part of the value: no blanks, no control characters, and none of `bad`."""
    for character in part:
        if character == " ":
            found = "a blank"
        elif character.isspace() or not character.isprintable():
            found = f"the control character {character!r}"
        elif character in bad:
            found = f"{character}, which ssh refuses"
        else:
            continue
        raise ValueError(f"Invalid {what} {value!r}: it contains {found}.")


def _agreed(name: str, parameter: Any, in_host: Any, host: str) -> Any:
    """Return the value from the parameter or from the host; refuse two different values."""
    if parameter is None:
        return in_host
    if in_host is not None and parameter != in_host:
        raise ValueError(
            f"{name} is {parameter!r}, but host {host!r} has {in_host!r}; leave one out."
        )
    return parameter


def _check_jump_host(jump_host: Any) -> None:
    if jump_host is None:
        return
    if not isinstance(jump_host, str) or not jump_host:
        raise ValueError(f"Invalid jump_host {jump_host!r}: it must be what `ssh -J` takes.")
    if jump_host.lower() == "none":
        return
    for hop in jump_host.split(","):
        try:
            _split_host(hop)
        except ValueError as error:
            raise ValueError(f"Invalid jump_host {jump_host!r}: {error}") from error


def _checked_file(name: str, path: Any, *, none_allowed: bool = False) -> str | None:
    """Return the absolute path of a readable file, or "none" if that is allowed."""
    if path is None:
        return None
    text = path_text(path, name)
    if none_allowed and text.lower() == "none":
        return "none"
    if not text or "\0" in text or "\n" in text:
        raise ValueError(f"Invalid {name} {text!r}: it must be the path of a file.")
    text = absolute(os.path.expanduser(text))
    # A folder is not an error for ssh: it reads nothing from it.
    if os.path.isdir(text) or not os.access(text, os.R_OK):
        raise ValueError(f"Invalid {name} {text!r}: there is no file that you can read.")
    return text


def _checked_keys(keys: Any) -> tuple[str, ...] | None:
    """Return the absolute paths of one key file or of several, in their order."""
    if keys is None:
        return None
    several = isinstance(keys, Sequence) and not isinstance(keys, (str, bytes))
    checked = tuple(
        _checked_file("identity_file", key) or "" for key in (keys if several else [keys])
    )
    if not checked or not all(checked):
        raise ValueError("Invalid identity_file: it must be a path, or one or more paths.")
    for text in checked:
        if "%" in text or "${" in text:
            raise ValueError(
                f"Invalid identity_file {text!r}: it contains '%' or '${{', which ssh expands; "
                "make a link with another name."
            )
    return checked


def _check_secret(name: str, secret: Any) -> None:
    """Check a secret; no message contains its value."""
    if secret is None:
        return
    if not isinstance(secret, str) or not secret:
        raise ValueError(f"Invalid {name}: it must be a string that is not empty.")
    if re.search("[\0\r\n]", secret):
        raise ValueError(f"Invalid {name}: it contains a line break or NUL, where ssh ends it.")
    if len(os.fsencode(secret)) > _LONGEST_SECRET:
        raise ValueError(f"Invalid {name}: it is longer than {_LONGEST_SECRET} bytes.")


def _check_pattern(name: str, pattern: Any) -> None:
    try:
        re.compile("" if pattern is None else pattern)
        valid = pattern is None or (isinstance(pattern, str) and pattern != "")
    except (re.error, TypeError):
        valid = False
    if not valid:
        raise ValueError(f"Invalid {name} {pattern!r}: it must be a regular expression.")


def _check_python(python: Any) -> None:
    if not isinstance(python, str) or not python.strip() or re.search("[\0\r\n]", python):
        raise ValueError(
            f"Invalid python {python!r}: it must be the command line of a Python on the host, "
            "without a line break or NUL; leave it out to look for one."
        )


def _checked_options(options: Any) -> dict[str, str]:
    """Return a copy of the options, with numbers and booleans as ssh_config writes them."""
    if not isinstance(options, Mapping):
        raise ValueError(
            f"Invalid options {options!r}: they must map names of ssh_config to values."
        )
    checked: dict[str, str] = {}
    for name, value in options.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name):
            raise ValueError(
                f"Invalid name {name!r} in options: it must be a name of ssh_config, like "
                "'Compression'."
            )
        if name.lower() in RESERVED_OPTIONS:
            raise ValueError(f"{name} in options is set by lazycluster itself; leave it out.")
        text = _option_value(name, value)
        given = {name.lower(): text for name, text in checked.items()}.get(name.lower())
        if given is None:
            checked[name] = text
        elif given != text:
            raise ValueError(f"{name} is given twice in options, with two values; leave one out.")
    return checked


def _option_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, os.PathLike):
        value = path_text(value, f"The value of {name} in options")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"Invalid value {value!r} of {name} in options: it must not be empty.")
    if not all(character.isprintable() or character == "\t" for character in value):
        raise ValueError(
            f"Invalid value {value!r} of {name} in options: it contains a line break or control "
            "character."
        )
    return value
