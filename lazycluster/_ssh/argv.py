"""Make the argv of each ssh and scp; pure functions.

What the user did not ask for is not passed, so that ssh_config decides. What would break binary
frames on stdin and stdout is neutralised; see `options.MASTER_OPTIONS`. No function here sets
StrictHostKeyChecking, because host key checking belongs to the user.
"""

from __future__ import annotations

import os
import re
import shlex

from lazycluster._shared.paths import absolute
from lazycluster._ssh.endpoints import Route, forward_text
from lazycluster._ssh.options import (
    EXPANDS_SOCKET_PATHS,
    MASTER_OPTIONS,
    PROMPTS_NAME_HOSTS,
    SCP_WITH_SFTP,
    Version,
)
from lazycluster._ssh.settings import Settings

# The destination of every mux client. Any name works: the control socket decides on the host.
_ON_THE_MASTER = "lazycluster"


def master_argv(
    settings: Settings,
    control_path: str,
    version: Version,
    remote_command: str,
    connect_timeout: int | None = None,
) -> list[str]:
    """Make the argv of the ssh that is the control master and runs one command.

    `connect_timeout` is in seconds, for each address; without it, that of ssh_config counts.
    """
    # -M once: twice means "ask".
    argv = ["ssh", "-M", "-S", control_path.replace("%", "%%"), "-T"]
    # ssh takes the first value of an option: lazycluster's, then the user's, then ssh_config's.
    for since, name, value in MASTER_OPTIONS:
        if version >= since:
            argv += ["-o", f"{name}={value}"]
    for name, value in _login_options(settings, version).items():
        argv += ["-o", f"{name}={value}"]
    if connect_timeout is not None:
        argv += ["-o", f"ConnectTimeout={connect_timeout}"]
    return [*argv, *_user_arguments(settings), "--", settings.destination, remote_command]


def _login_options(settings: Settings, version: Version) -> dict[str, str]:
    """Return the options that limit what ssh may ask at the login."""
    if not settings.may_be_asked:
        # Without a person or a secret, a question becomes an error instead of a wait.
        return {"BatchMode": "yes"}
    options = {"BatchMode": "no"}
    if settings.interactive:
        return options
    # The host would refuse the password again, and may lock the account.
    options["NumberOfPasswordPrompts"] = "1"
    if settings.password is None:
        options["PasswordAuthentication"] = "no"
    if settings.password is None or (settings.passphrase and version < PROMPTS_NAME_HOSTS):
        options["KbdInteractiveAuthentication"] = "no"
    return options


def resolve_argv(settings: Settings) -> list[str]:
    """Make the argv of the ssh that prints what ssh_config says about a host, without a login."""
    return ["ssh", "-G", *_user_arguments(settings), "--", settings.destination]


def login_command(settings: Settings) -> str:
    """Return the shell command with which a person logs in to the host, for messages.

    That ssh can ask what lazycluster cannot: to accept a host key, a password, a passphrase.
    """
    return shlex.join(["ssh", *_user_arguments(settings), settings.destination])


def _user_arguments(settings: Settings) -> list[str]:
    argv: list[str] = []
    if settings.config_file is not None:
        argv += ["-F", os.fspath(settings.config_file)]
    if settings.user is not None:
        argv += ["-l", settings.user]
    if settings.port is not None:
        argv += ["-p", str(settings.port)]
    for key in settings.identity_files:
        argv += ["-i", os.fspath(key)]
    if settings.jump_host is not None:
        argv += ["-J", settings.jump_host]
    for name, value in settings.options.items():
        argv += ["-o", f"{name}={value}"]
    return argv


def _client_options(control_path: str) -> list[str]:
    """Return the options of every mux client: it uses the master or fails."""
    # The value is quoted because a blank would end it.
    path = '"' + control_path.replace("%", "%%") + '"'
    return [
        # The master has read ssh_config already.
        *("-F", "none"),
        *("-o", f"ControlPath={path}"),
        # If the master is dead or refuses the client, ssh would log in by itself, silently.
        *("-o", "ProxyCommand=false"),
        *("-o", "BatchMode=yes"),
    ]


def _client_argv(control_path: str, *options: str, command: str | None = None) -> list[str]:
    argv = ["ssh", *_client_options(control_path), *options, "--", _ON_THE_MASTER]
    return argv if command is None else [*argv, command]


def run_argv(control_path: str, log_file: str, remote_command: str) -> list[str]:
    """Make the argv of a mux client that runs one command in a session of its own.

    Its own messages go to `log_file`, so that stderr holds only the command's.
    """
    # DEBUG2 is the first level that prints the exit status the host sent.
    options = ("-o", "LogLevel=DEBUG2", "-E", log_file, "-T")
    return _client_argv(control_path, *options, command=remote_command)


def check_argv(control_path: str) -> list[str]:
    """Make the argv of a mux client that checks the master itself, not its connection."""
    return _client_argv(control_path, "-O", "check")


def forward_argv(control_path: str, version: Version, action: str, route: Route) -> list[str]:
    """Make the argv of a mux client that makes the master begin or end a forward.

    `action` is "forward" or "cancel".
    """
    forward = forward_text(route, expands_paths=version >= EXPANDS_SOCKET_PATHS)
    return _client_argv(control_path, "-O", action, route.flag, forward)


def probe_argv(control_path: str, host: str, port: int) -> list[str]:
    """Make the argv of a mux client that makes the host connect to a TCP port (`-W`)."""
    return _client_argv(control_path, "-W", f"[{host}]:{port}")


def sftp_argv(control_path: str) -> list[str]:
    """Make the argv of a mux client that opens an SFTP session; without input it exits with 0."""
    return _client_argv(control_path, "-s", command="sftp")


def scp_argv(
    control_path: str,
    version: Version,
    source: str,
    target: str,
    *,
    to_host: bool,
    sftp: bool = True,
) -> list[str]:
    """Make the argv of the scp that copies a file or folder through the master.

    With `sftp`, scp speaks SFTP if it can. Otherwise it speaks the old protocol, for which the
    account's shell reads the names.

    Raises:
        ValueError: If a shell would read the name on the host and it contains a line break.
    """
    sftp = sftp and version >= SCP_WITH_SFTP
    argv = ["scp", *_client_options(control_path), "-r", "-p"]
    if version >= SCP_WITH_SFTP:
        argv.append("-s" if sftp else "-O")
    if not sftp:
        remote = _escaped_for_shell(target if to_host else source)
    elif to_host:
        remote = target
    else:
        # With SFTP, scp takes the source for a pattern.
        remote = re.sub(r"([\\*?\[\]])", r"\\\1", source)
    on_host = f"{_ON_THE_MASTER}:{remote}"
    # scp never takes an absolute path for `host:path`, even if it contains a colon.
    local = absolute(source if to_host else target)
    return [*argv, "--", *((local, on_host) if to_host else (on_host, local))]


def _escaped_for_shell(path: str) -> str:
    """Escape with backslashes only: scp compares the names that the host sends with this pattern.

    scp does not know quotes, and would refuse the file ("filename does not match request").
    """
    if "\n" in path:
        raise ValueError(
            f"Invalid path {path!r}: it contains a line break, which scp without SFTP cannot copy."
        )
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + re.sub(r"([^\w@%+=:,./-])", r"\\\1", rest)
