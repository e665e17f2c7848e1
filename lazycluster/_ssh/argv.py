"""Pure functions that make the argv of ssh, the hazards of ssh_config, and version gates.

What the user did not ask for is not passed, so that their ssh_config decides; what would break a
binary conversation on stdin and stdout is neutralised. Host key checking is the user's business:
nothing here sets StrictHostKeyChecking.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, NamedTuple

from lazycluster.exceptions import LazyclusterError

if TYPE_CHECKING:
    from lazycluster._ssh.settings import Settings


class Version(NamedTuple):
    """The version of OpenSSH, without its patch level."""

    major: int
    minor: int


# Since this one a question that a host has worded begins with "(user@host)", so that it cannot pass
# for one of ssh itself.
PROMPTS_NAME_HOSTS = Version(8, 5)

# Older ones have no -J, no "none" for some keywords, and nobody tests against them.
OLDEST_VERSION = Version(7, 0)

# What we set on the master, and since which version ssh knows the keyword: an unknown one is fatal,
# and IgnoreUnknown on the command line would replace the user's own.
_MASTER_OPTIONS: tuple[tuple[Version, str, str], ...] = (
    # `ask` opens SSH_ASKPASS for a key from a file, BatchMode or not (seen with 8.4, 9.2, 10.0).
    (Version(7, 2), "AddKeysToAgent", "no"),
    # The master lives as long as our session, in the foreground.
    (Version(7, 0), "ControlPersist", "no"),
    (Version(8, 7), "ForkAfterAuthentication", "no"),
    # With one, ssh refuses: "Cannot execute command-line and remote command."
    (Version(7, 6), "RemoteCommand", "none"),
    # `none` starts no command at all, `subsystem` takes ours for the name of one.
    (Version(8, 7), "SessionType", "default"),
    # stdin and stdout carry bytes of ours: no tty, no /dev/null, no escape character, no output of
    # a local command.
    (Version(7, 0), "RequestTTY", "no"),
    (Version(8, 7), "StdinNull", "no"),
    (Version(7, 0), "EscapeChar", "none"),
    (Version(7, 0), "PermitLocalCommand", "no"),
    # `*=5m` and `global=5m` end a session that is silent for that long (seen with 10.0).
    (Version(9, 6), "ChannelTimeout", "none"),
    # A forward of the user's may fail, and with ExitOnForwardFailure ends the login; an open one
    # keeps ssh alive after its session. What `ssh -O forward` asks for later works all the same.
    (Version(7, 0), "ClearAllForwardings", "yes"),
    (Version(7, 0), "Tunnel", "no"),
    # ClearAllForwardings does not clear it. It runs xauth on both sides and sets DISPLAY there.
    (Version(7, 0), "ForwardX11", "no"),
    # QUIET hides the reason of a failure, and only from INFO on stands why a connection ended.
    (Version(7, 0), "LogLevel", "INFO"),
    (Version(7, 0), "VisualHostKey", "no"),
)

# Settings keeps these out of `options`; ConnectTimeout has its parameter, BatchMode has three.
RESERVED_OPTIONS = frozenset(
    name.lower()
    for name in (
        *(name for _, name, _ in _MASTER_OPTIONS),
        "BatchMode",
        "ConnectTimeout",
        "ControlMaster",
        "ControlPath",
    )
)


# ssh keeps `seconds * 1000` in an int.
_LONGEST_CONNECT_TIMEOUT = 2_147_483


def master_argv(
    settings: Settings,
    control_path: str | os.PathLike[str],
    version: Version,
    remote_command: str,
) -> list[str]:
    """Make the argv of the ssh that is the control master and runs one command.

    Args:
        settings: What the user asked for.
        control_path: The absolute path of the control socket; see `check_control_path`.
        version: The version of the ssh that will run; it decides which options are known.
        remote_command: The command line for the remote shell.

    Returns:
        The words of the command, "ssh" first.
    """
    argv = [
        "ssh",
        "-M",  # once: twice means "ask"
        "-S",
        os.fspath(control_path).replace("%", "%%"),
        "-T",
    ]
    # ssh takes the first value of an option: ours, then the user's, then those of ssh_config.
    for since, name, value in _MASTER_OPTIONS:
        if version >= since:
            argv += ["-o", f"{name}={value}"]
    for name, value in _login_options(settings, version).items():
        argv += ["-o", f"{name}={value}"]
    seconds = min(math.ceil(settings.connect_timeout), _LONGEST_CONNECT_TIMEOUT)
    argv += ["-o", f"ConnectTimeout={seconds}"]
    argv += _user_arguments(settings)
    argv += ["--", settings.destination, remote_command]
    return argv


def _login_options(settings: Settings, version: Version) -> dict[str, str]:
    """The options that say what may be asked at the login."""
    if not settings.may_be_asked:
        # Nothing waits for a human: a question becomes an error.
        return {"BatchMode": "yes"}
    options = {"BatchMode": "no"}
    if settings.interactive:
        return options
    # What was refused once is refused again, and may lock the account.
    options["NumberOfPasswordPrompts"] = "1"
    if settings.password is None:
        options["PasswordAuthentication"] = "no"
    if settings.password is None or (settings.passphrase and version < PROMPTS_NAME_HOSTS):
        options["KbdInteractiveAuthentication"] = "no"
    return options


def login_environment(version: Version, askpass: str | None) -> dict[str, str]:
    """Return the environment for ssh: BatchMode does not reach the ssh of a jump host.

    With a DISPLAY that one asked three times for a password, by a window (tried with 9.2).

    Args:
        version: The version of ssh.
        askpass: The program that answers questions, None if nobody can.
    """
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "force" if askpass else "never"}
    if askpass:
        environment["SSH_ASKPASS"] = askpass
    if version < (8, 4):  # the first that knows SSH_ASKPASS_REQUIRE
        environment["SSH_ASKPASS"] = askpass or "false"
        environment.setdefault("DISPLAY", ":")  # without one it does not run the program
    return environment


def login_command(settings: Settings) -> str:
    """Return the command line by which a person logs in to the host, for messages.

    It can ask what we cannot: whether to accept a host key, a password, a passphrase.
    """
    return shlex.join(["ssh", *_user_arguments(settings), settings.destination])


def resolve_argv(settings: Settings) -> list[str]:
    """Make the argv of the ssh that prints what ssh_config says of a host, without a login."""
    return ["ssh", "-G", *_user_arguments(settings), "--", settings.destination]


def _user_arguments(settings: Settings) -> list[str]:
    argv: list[str] = []
    if settings.config_file is not None:
        argv += ["-F", os.fspath(settings.config_file)]
    if settings.user is not None:
        argv += ["-l", settings.user]
    if settings.port is not None:
        argv += ["-p", str(settings.port)]
    if settings.identity_file is not None:
        argv += ["-i", os.fspath(settings.identity_file)]
    if settings.jump_host is not None:
        argv += ["-J", settings.jump_host]
    for name, value in settings.options.items():
        argv += ["-o", f"{name}={value}"]
    return argv


# --- what rides on the master ---

# Any name will do: the control socket says which host it is.
_ON_THE_MASTER = "lazycluster"
# The first scp that knows -s, with which it speaks SFTP and no remote shell reads the names.
_SCP_WITH_SFTP = Version(8, 7)


def _client_options(control_path: str | os.PathLike[str]) -> list[str]:
    return [
        # No ssh_config has a say: what the user set there is in the master already.
        *("-F", "none"),
        *("-o", f"ControlPath={_as_option(control_path)}"),
        # A client whose master is dead, or refuses it, logs in by itself, silently. Not so.
        *("-o", "ProxyCommand=false"),
        *("-o", "BatchMode=yes"),
    ]


def _as_option(path: str | os.PathLike[str]) -> str:
    # A blank would end the value.
    return '"' + os.fspath(path).replace("%", "%%") + '"'


def run_argv(
    control_path: str | os.PathLike[str], log_file: str | os.PathLike[str], remote_command: str
) -> list[str]:
    """Make the argv of a mux client that runs one command in a session of its own.

    Args:
        control_path: The master's control socket.
        log_file: Where the client's own words go (`-E`), so that stderr is the command's alone. At
            DEBUG2, for only there stands whether the host told an exit status.
        remote_command: The command line for the remote shell.
    """
    return [
        "ssh",
        *_client_options(control_path),
        *("-o", "LogLevel=DEBUG2"),
        *("-E", os.fspath(log_file)),
        "-T",
        *("--", _ON_THE_MASTER, remote_command),
    ]


def check_argv(control_path: str | os.PathLike[str]) -> list[str]:
    """Make the argv of a mux client that asks whether the master is there, not whether its host is.

    Args:
        control_path: The master's control socket.
    """
    return ["ssh", *_client_options(control_path), "-O", "check", "--", _ON_THE_MASTER]


def forward_argv(
    control_path: str | os.PathLike[str],
    action: str,
    flag: str,
    listen_port: int,
    to_port: int,
) -> list[str]:
    """Make the argv of a mux client that has the master begin or end a forward on loopback.

    Args:
        control_path: The master's control socket.
        action: "forward" or "cancel" (`-O`).
        flag: "-L", to listen on the manager, or "-R", on the host.
        listen_port: The port to listen on, on 127.0.0.1; 0 only with "-R".
        to_port: The port of the other side's localhost to connect to, IPv4 or IPv6.
    """
    forward = f"127.0.0.1:{listen_port}:localhost:{to_port}"
    return [
        "ssh",
        *_client_options(control_path),
        *("-O", action),
        *(flag, forward),
        *("--", _ON_THE_MASTER),
    ]


def probe_argv(control_path: str | os.PathLike[str], port: int) -> list[str]:
    """Make the argv of a mux client that has the host connect to a port of its own (`-W`).

    Args:
        control_path: The master's control socket.
        port: The port of the host's localhost.
    """
    return [
        "ssh",
        *_client_options(control_path),
        *("-W", f"localhost:{port}"),
        *("--", _ON_THE_MASTER),
    ]


def sftp_argv(control_path: str | os.PathLike[str]) -> list[str]:
    """Make the argv of a mux client that opens a session of SFTP; without input it ends well.

    Args:
        control_path: The master's control socket.
    """
    return ["ssh", *_client_options(control_path), "-s", "--", _ON_THE_MASTER, "sftp"]


def scp_argv(
    control_path: str | os.PathLike[str],
    version: Version,
    source: str,
    target: str,
    *,
    to_host: bool,
    sftp: bool = True,
) -> list[str]:
    """Make the argv of the scp that copies a file or folder through the master.

    Args:
        control_path: The master's control socket.
        version: The version of ssh, and so of scp.
        source: The path to copy from.
        target: The path to copy to; a folder that is there gets it under its own name.
        to_host: Whether the target is on the host, and not the source.
        sftp: Whether to speak SFTP, where scp can; else the old protocol, for which the account's
            shell reads the names.

    Raises:
        ValueError: A name on the host has a line break, and would be read by a shell.
    """
    sftp = sftp and version >= _SCP_WITH_SFTP
    argv = ["scp", *_client_options(control_path), "-r", "-p"]
    if version >= _SCP_WITH_SFTP:
        argv.append("-s" if sftp else "-O")
    if sftp:
        # It looks for what matches the source, and takes the target as it is.
        remote = target if to_host else re.sub(r"([\\*?\[\]])", r"\\\1", source)
    else:
        remote = _escaped_for_shell(target if to_host else source)
    on_host = f"{_ON_THE_MASTER}:{remote}"
    # An absolute path has no host in it, whatever colons it holds.
    local = os.path.abspath(source if to_host else target)
    return [*argv, "--", *((local, on_host) if to_host else (on_host, local))]


def _escaped_for_shell(path: str) -> str:
    """Escape by backslashes only: scp compares what the host sends with the pattern it asked for.

    It does not know of quotes, and would refuse the file ("filename does not match request").
    """
    if "\n" in path:
        raise ValueError(
            f"The path {path!r} holds a line break, which scp without SFTP cannot copy."
        )
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + re.sub(r"([^\w@%+=:,./-])", r"\\\1", rest)


# --- versions ---


def ssh_version() -> Version:
    """Return the version of the ssh that PATH leads to; it is asked once per executable.

    Raises:
        LazyclusterError: If there is no ssh, or one that cannot be used.
    """
    import shutil

    path = shutil.which("ssh")
    if path is None:
        raise LazyclusterError(
            "There is no `ssh` in PATH; install the OpenSSH client (package openssh-client, on "
            "Fedora openssh-clients)."
        )
    return _version_of(os.path.realpath(path))


@functools.cache
def _version_of(path: str) -> Version:
    import subprocess

    try:
        done = subprocess.run(
            [path, "-V"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LazyclusterError(f"`{path} -V` does not work: {error}") from error
    return parse_version(done.stdout.decode("utf-8", "backslashreplace"))


def parse_version(text: str) -> Version:
    """Read what `ssh -V` printed.

    Args:
        text: As in "OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19 27 Jan 2026".

    Returns:
        The version.

    Raises:
        LazyclusterError: If it is not OpenSSH, is older than 7.0, or is the build for Windows,
            which cannot multiplex.
    """
    found = " ".join(text.split())[:100] or "nothing"
    match = re.search(r"\bOpenSSH_(for_Windows_)?(\d+)\.(\d+)", text)
    if "No user exists for uid" in text:
        raise LazyclusterError(f"ssh refuses to run: {found}. Add that user to /etc/passwd.")
    if match is None:
        raise LazyclusterError(
            f"`ssh -V` says {found!r}, which is not OpenSSH; put the OpenSSH client first in PATH."
        )
    if match[1]:
        raise LazyclusterError(
            f"`ssh -V` says {found!r}, which has no control master; run the manager under Linux, "
            "macOS or WSL."
        )
    version = Version(int(match[2]), int(match[3]))
    if version < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise LazyclusterError(
            f"`ssh -V` says {found!r}, but OpenSSH {oldest} or later is needed; update the client."
        )
    return version


# --- the control path ---


def control_path_limit() -> int:
    """Return how long the path of a control socket may be, in bytes.

    ssh binds `path.` and 16 letters first and renames that; sun_path has 108 bytes on Linux and 104
    on macOS and BSD, one of them for the NUL.
    """
    sun_path = 108 if sys.platform.startswith("linux") else 104
    return sun_path - len("." + "x" * 16) - 1


def check_control_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that ssh cannot make its control socket at.

    Raises:
        LazyclusterError: If it is too long, or holds `${`, which ssh takes for an environment
            variable.
    """
    folder, length = os.path.dirname(os.fspath(path)), len(os.fsencode(path))
    if length > control_path_limit():
        raise LazyclusterError(
            f"The control socket would have a path of {length} bytes in {folder!r}, but ssh "
            f"can have {control_path_limit()}; set XDG_RUNTIME_DIR to a folder with a shorter path."
        )
    if "${" in os.fspath(path):
        raise LazyclusterError(
            f"The control socket cannot be in {folder!r}, since ssh takes `${{` for an environment "
            "variable; set XDG_RUNTIME_DIR to another folder."
        )
