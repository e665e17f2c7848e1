"""What ssh printed before a login came about, and which exception it means.

One ordered table, specific first: the first entry that fits anywhere in the text counts, because
the last line is not always the cause. A jump host's reason stands before "Connection closed by
UNKNOWN port 65535", and a changed host key ends like an unknown one. The lines were collected from
OpenSSH 8.4, 9.2 and 10.0; tests/unit/test_ssh_errors.py keeps them.
"""

from __future__ import annotations

import re
import shlex

from lazycluster._text import last_lines, quoted
from lazycluster.exceptions import AuthenticationError, ConnectError, HostKeyError

# Exit statuses of our line for the login shell; see `_login.BOOTSTRAP`. ssh's own is 255.
OTHER_SHELL = 93  # a start file replaced the shell by another, which reads our input as a script
INPUT_TAKEN = 94  # some of our input, or all of it, was read by somebody before us
PROGRAM_FAILED = 95  # Python could not run the supervisor

_KEY_CURE = (
    "Name the right key with identity_file, or load it with `ssh-add`; if it has a passphrase, "
    "give passphrase=… or interactive=True. Else `{ssh}` must work without a question."
)
_DROPPED_CURE = (
    "sshd drops logins when too many come at once (MaxStartups) or after failed ones "
    "(PerSourcePenalties), and something else than sshd may listen there; wait, and try `{ssh}`."
)
_JUMP_DROPPED_CURE = "That is the jump host: " + _DROPPED_CURE
_BEHIND_DROPPED_CURE = (
    "The jump host or ProxyCommand gave no reason: it has failed, or the host behind it drops "
    "logins (MaxStartups, PerSourcePenalties); wait, and try `{ssh}`."
)
_LOCKED_CURE = (
    "The host accepted no key, and {key} has a passphrase: load it with `ssh-add {key}`, or give "
    "passphrase=… or interactive=True."
)
_CONFIG_CURE = "Correct that line."
_PROXY_CURE = "Try `{ssh}`: the jump host or ProxyCommand is to blame, not the host itself."

_CURES_OF_SECRETS = {
    "password": "The password that was given was not accepted.",
    "passphrase": "Was the passphrase right? `ssh-keygen -y -f KEY` tries it.",
}

# (what ssh printed, the exception, the cure). `reason` in the pattern is what the message quotes,
# the whole match if there is none. In the cure, {ssh} is the command that logs in by hand, and the
# other groups of the pattern stand under their names.
_TABLE: tuple[tuple[str, type[ConnectError], str], ...] = (
    # The host key, before anything that follows from it.
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED[^\0]*?"
        r"^(?P<reason>(?:\S+ host|Host) key for (?P<name>\S+) has changed\b.*)",
        HostKeyError,
        "Ask the owner of the host whether that is right; if so, remove the old key with "
        "`ssh-keygen -R '{name}'` and run `{ssh}` once.",
    ),
    (
        r"^(?P<reason>\S+ host key for \S+ was revoked\b.*|Host key .* revoked by file .*)",
        HostKeyError,
        "Ask the owner of the host for its new key.",
    ),
    (
        r"^Error checking host key .* in revoked keys file .*",
        HostKeyError,
        "Correct RevokedHostKeys in ssh_config.",
    ),
    (
        r"^(?P<reason>Certificate invalid: .*)",
        HostKeyError,
        "Ask the owner of the host to renew the certificate of its key.",
    ),
    (
        r"^(?P<reason>No .* host key is known for .*)",
        HostKeyError,
        "Run `{ssh}` once to accept its host key, or add it to known_hosts.",
    ),
    (
        r"^Host key verification failed\.",
        HostKeyError,
        "Run `{ssh}` once to accept its host key.",
    ),
    # ssh_config.
    (
        r"^Bad owner or permissions on (?P<file>.*)",
        ConnectError,
        "Run `chmod 600 {file}`; it must belong to you or root.",
    ),
    (
        r"^(?P<reason>Can't open user config file .*)[^\0]*UNKNOWN port 65535",
        ConnectError,
        "ssh cannot hand a config_file whose path has blanks in it to a jump host; rename it.",
    ),
    (r"^Can't open user config file .*", ConnectError, "Check config_file."),
    (
        r"^command-line:? line 0: .*",
        ConnectError,
        "Correct `options`; values are written and quoted as in ssh_config.",
    ),
    (
        # With a colon before "line" it may as well be a shell that says so, of a ProxyCommand.
        r"^\S.*(?:: line \d+: Bad configuration option: |(?<!:) line \d+: \S).*",
        ConnectError,
        _CONFIG_CURE,
    ),
    (r"^.*: terminating, \d+ bad configuration options", ConnectError, _CONFIG_CURE),
    (
        r"^(?:vdollar_percent_expand: |percent_expand: |invalid environment variable expansion).*",
        ConnectError,
        "Correct the `%` or `${{}}` in ssh_config.",
    ),
    (
        r"^(?:hostname|remote username) contains invalid characters",
        ConnectError,
        "Correct the host, or Hostname and User in ssh_config.",
    ),
    (
        r"^No user exists for uid \d+",
        ConnectError,
        "ssh needs an entry for this user in /etc/passwd.",
    ),
    # Our own socket.
    (
        r"^(?:unix_listener|muxserver_listen|ControlPath|mux_client)\b.*",
        ConnectError,
        "Set XDG_RUNTIME_DIR to a folder that is yours and has a short path.",
    ),
    # The way to the host, or to the jump host before it.
    (
        r"^ssh: (?P<reason>Could not resolve hostname .*)",
        ConnectError,
        "Check the spelling, and the entry in ssh_config if it is an alias.",
    ),
    (
        r"^ssh: (?P<reason>connect to (?:host|address) .*: Connection refused)",
        ConnectError,
        "Check that sshd runs there, and the port.",
    ),
    (
        r"^ssh: (?P<reason>connect to (?:host|address) .*: (?:Connection|Operation) timed out)",
        ConnectError,
        "Check that the host is up and that no firewall is between; connect_timeout says how long "
        "to wait.",
    ),
    (
        # The reset of who drops a login may come before connect() has returned.
        r"^ssh: (?P<reason>connect to (?:host|address) .*: Connection reset by peer)",
        ConnectError,
        _DROPPED_CURE,
    ),
    (
        r"^ssh: (?P<reason>connect to (?:host|address) .*)",
        ConnectError,
        "Check the network, and whether the host needs a jump host.",
    ),
    (
        r"^channel \d+: (?P<reason>open failed: administratively prohibited: .*)\n"
        r"stdio forwarding failed",
        ConnectError,
        "The jump host does not let connections through; its sshd needs AllowTcpForwarding.",
    ),
    (
        r"^channel \d+: (?P<reason>open failed: .*)\nstdio forwarding failed",
        ConnectError,
        "The jump host cannot reach the host; check the name and port as seen from there.",
    ),
    (
        r"^jumphost loop via .*|^(?:Invalid -J argument|inconsistent options: Proxy).*",
        ConnectError,
        "Correct jump_host, or ProxyJump and ProxyCommand in ssh_config.",
    ),
    # No common language.
    (
        r"^(?P<reason>Unable to negotiate with .*: no matching host key type found\..*?"
        r"(?:offer: (?P<offer>[^,\s]+).*)?)$",
        ConnectError,
        "Update sshd on the host, or allow it with options={{'HostKeyAlgorithms': '+{offer}'}}.",
    ),
    (
        r"^(?P<reason>Unable to negotiate with .*: no matching key exchange method found\..*?"
        r"(?:offer: (?P<offer>[^,\s]+).*)?)$",
        ConnectError,
        "Update sshd on the host, or allow it with options={{'KexAlgorithms': '+{offer}'}}.",
    ),
    (
        r"^(?P<reason>Unable to negotiate with .*: no matching cipher found\..*?"
        r"(?:offer: (?P<offer>[^,\s]+).*)?)$",
        ConnectError,
        "Update sshd on the host, or allow it with options={{'Ciphers': '+{offer}'}}.",
    ),
    (
        r"^(?P<reason>Unable to negotiate with .*: no matching MAC found\..*?"
        r"(?:offer: (?P<offer>[^,\s]+).*)?)$",
        ConnectError,
        "Update sshd on the host, or allow it with options={{'MACs': '+{offer}'}}.",
    ),
    (r"^Unable to negotiate with .*", ConnectError, "Update ssh or sshd."),
    (r"^(?:Bad server host key|ssh_dispatch_run_fatal): .*", ConnectError, "Try `{ssh}`."),
    # Logging in.
    (
        r"^Received disconnect from .*: (?P<reason>Too many authentication failures)",
        AuthenticationError,
        "ssh offered too many keys; name the right one with identity_file and "
        "options={{'IdentitiesOnly': 'yes'}}.",
    ),
    (
        r"^(?P<reason>Permissions \S+ for '(?P<file>.+)' are too open)"
        r"[^\0]*^.*: Permission denied \(",
        AuthenticationError,
        "ssh ignores such a key; run `chmod 600 {file}`.",
    ),
    (
        r"^(?P<reason>no such identity: .*)[^\0]*^.*: Permission denied \(",
        AuthenticationError,
        "Correct identity_file, or IdentityFile in ssh_config.",
    ),
    (
        r"^(?P<reason>Load key .*)[^\0]*^.*: Permission denied \(",
        AuthenticationError,
        "ssh cannot use that key; try `{ssh}`.",
    ),
    (
        r"^Warning: (?P<reason>Identity file .* not accessible: .*)[^\0]*^.*: Permission denied \(",
        AuthenticationError,
        "Correct identity_file, or IdentityFile in ssh_config.",
    ),
    (
        r"^(?P<reason>sign_and_send_pubkey: .*)[^\0]*^.*: Permission denied \(",
        AuthenticationError,
        "Load the key again with `ssh-add`, or touch the security key when it blinks.",
    ),
    (
        r"^(?P<reason>.*(?:password has expired|Password change required|account has expired).*)",
        AuthenticationError,
        "Run `{ssh}` once to renew it, or ask the owner of the host.",
    ),
    (
        r"^(?P<reason>\S+: Permission denied \([^)]*\))[^\0]*UNKNOWN port 65535",
        AuthenticationError,
        "That is the jump host, which is offered only keys of ssh_config and of the agent; "
        "`{ssh}` must work without a question.",
    ),
    (
        r"^(?P<reason>\S+: Permission denied \((?=[^)]*publickey)[^)]*\))",
        AuthenticationError,
        "The host accepted no key. " + _KEY_CURE,
    ),
    (
        r"^(?P<reason>\S+: Permission denied \([^)]*\))",
        AuthenticationError,
        "The host wants a password or a second factor; give password=… or interactive=True, or "
        "have a login with a key alone allowed.",
    ),
    # The host took the login, but not our command.
    (
        r"^(?:channel \d+: open failed: |exec request failed|shell request failed).*",
        ConnectError,
        "The host lets nobody run a command; its sshd needs MaxSessions 1 or more, and the "
        "account must be allowed processes.",
    ),
    # Silence, and doors that close: what follows from nearly everything above.
    (
        r"^(?P<reason>Connection timed out during banner exchange)[^\0]*UNKNOWN port 65535",
        ConnectError,
        "The jump host, or the host behind it, does not answer; try `{ssh}`, or raise "
        "connect_timeout.",
    ),
    (
        r"^Connection timed out during banner exchange",
        ConnectError,
        "Something accepts connections there but does not talk as sshd does; check the port, "
        "or raise connect_timeout.",
    ),
    (
        r"^(?:Connection to \S+ port \d+ timed out|Timeout, server .* not responding\.)",
        ConnectError,
        "The host went silent; check that it is up, or raise connect_timeout.",
    ),
    (
        r"^(?P<reason>[^\n]*(?:not found|No such file or directory|Permission denied))$[^\0]*"
        r"UNKNOWN port 65535",
        ConnectError,
        _PROXY_CURE,
    ),
    (
        r"^(?P<reason>Connection (?:closed|reset) by (?!UNKNOWN)\S+ port \d+)\n"
        r"[^\0]*UNKNOWN port 65535",
        ConnectError,
        _JUMP_DROPPED_CURE,
    ),
    (
        r"\A(?:kex_exchange_identification: .*\n)?"
        r"(?P<reason>Connection (?:closed|reset) by UNKNOWN port 65535)\s*\Z",
        ConnectError,
        _BEHIND_DROPPED_CURE,
    ),
    (r"^Connection (?:closed|reset) by UNKNOWN port 65535", ConnectError, _PROXY_CURE),
    (
        r"^(?:kex_exchange_identification: (?:banner line|No SSH version|client sent invalid)"
        r"|Bad remote protocol version identification|Protocol major versions differ).*",
        ConnectError,
        "Something else than sshd listens there; check the port.",
    ),
    (
        r"^(?:kex_exchange_identification|ssh_exchange_identification|banner exchange): .*",
        ConnectError,
        _DROPPED_CURE,
    ),
    (r"^Connection (?:closed|reset) by .*", ConnectError, _DROPPED_CURE),
    (
        r"^(?P<reason>Received disconnect from .*)|^Disconnected from .*",
        ConnectError,
        "Try `{ssh}`.",
    ),
)

# What ssh prints although nothing failed.
NOISE = re.compile(
    r"^(?:\*\* |Pseudo-terminal will not be allocated|Warning: Permanently added )"
    r"|already exists, disabling multiplexing"
)
# ssh names a ProxyCommand, and so a jump host, like this.
_BEHIND_PROXY = re.compile(r"\bUNKNOWN port 65535\b|^stdio forwarding failed", re.MULTILINE)


def login_error(
    stderr: str,
    *,
    host: str,
    exit_status: int | None,
    noise: str = "",
    given: str = "",
    ssh_command: str | None = None,
    jump_host: str = "",
    locked_key: str = "",
) -> ConnectError:
    """Make the exception for a login that did not come about.

    Args:
        stderr: What ssh printed, whole.
        host: The host as the user typed it.
        exit_status: The exit status of the ssh process; None if it had to be ended.
        noise: What came on stdout instead of the hello.
        given: What ssh was told when it asked: "password", "passphrase", or "".
        ssh_command: The command that logs in by hand, for the cure. Default: `ssh` and the host.
        jump_host: What ssh goes through, if it is known.
        locked_key: A key that ssh could not offer because of its passphrase, if there is one.

    Returns:
        A ConnectError, AuthenticationError or HostKeyError, not raised yet.
    """
    text = stderr.replace("\r", "").replace("\0", "")
    ssh = ssh_command if ssh_command is not None else f"ssh {shlex.quote(host)}"
    where = host
    if _BEHIND_PROXY.search(text):
        proxy = f"the jump host {jump_host}" if jump_host else "a jump host or ProxyCommand"
        where = f"{host} (behind {proxy})"
    # Another exit status than 255 is the shell's, and then a start file may have printed `text`.
    found = _find(text) if exit_status in (None, 255) else None
    if found is not None:
        match, error, cure = found
        groups = {name: quoted(value or "…") for name, value in match.groupdict().items()}
        reason = groups.get("reason", quoted(match[0]))
        if error is AuthenticationError:
            cure = _CURES_OF_SECRETS.get(given, cure)
        if locked_key and cure.endswith(_KEY_CURE):
            cure = _LOCKED_CURE
        key = shlex.quote(locked_key)
        message = f"Cannot connect to {where}: {reason}. " + cure.format(ssh=ssh, key=key, **groups)
        if error is HostKeyError:
            return _host_key_error(message, text, host, exit_status, stderr)
        return error(message, host=host, exit_status=exit_status, stderr=stderr)
    if exit_status is None:
        why = f"{_said(text, noise) or 'no reason given'} (ssh had to be ended). Try `{ssh} true`."
    else:
        why = _after_login(exit_status, text, noise, ssh)
    return ConnectError(
        f"Cannot connect to {where}: {why}",
        host=host,
        exit_status=exit_status,
        stderr=stderr,
    )


def silence_error(
    stderr: str,
    *,
    host: str,
    connect_timeout: float,
    noise: str,
    ssh_command: str | None = None,
    jump_host: str = "",
) -> ConnectError:
    """Make the exception for a host that has not answered in time.

    Args:
        stderr: What ssh printed, whole.
        host: The host as the user typed it.
        connect_timeout: How long it was waited for, in seconds.
        noise: What came on stdout instead of the hello.
        ssh_command: The command that logs in by hand, for the cure. Default: `ssh` and the host.
        jump_host: What ssh goes through, if it is known.
    """
    ssh = ssh_command if ssh_command is not None else f"ssh {shlex.quote(host)}"
    behind = f", behind the jump host {jump_host}," if jump_host else ""
    came = last_lines(noise, NOISE) or last_lines(stderr, NOISE)
    return ConnectError(
        f"{host}{behind} did not answer within {connect_timeout:g} s"
        f"{f'; instead came: {came}' if came else ''}. If `{ssh} true` ends by itself and prints "
        "nothing, raise connect_timeout. Else a start file of the account's shell waits for "
        "something, reads standard input or starts another program, which it may do only in "
        "interactive shells; or a forced command runs in place of ours.",
        host=host,
        stderr=stderr,
    )


def was_dropped(stderr: str) -> bool:
    """Whether sshd, of the host or a jump host, dropped the login before it knew who it was."""
    found = _find(stderr.replace("\r", "").replace("\0", ""))
    return found is not None and found[2].endswith((_DROPPED_CURE, _BEHIND_DROPPED_CURE))


def _find(text: str) -> tuple[re.Match[str], type[ConnectError], str] | None:
    """The first entry of the table that fits, with what it fits."""
    for pattern, error, cure in _TABLE:
        match = re.search(pattern, text, re.MULTILINE)  # compiled now: it takes milliseconds
        if match is not None:
            return match, error, cure
    return None


def _host_key_error(
    message: str, text: str, host: str, exit_status: int | None, stderr: str
) -> HostKeyError:
    """Add the known_hosts file and the line, where ssh said which."""
    file, line = None, None
    offending = re.search(r"^Offending .*?key .*?in (?P<file>.+):(?P<line>\d+)$", text, re.M)
    correct = re.search(r"^Add correct host key in (?P<file>.+) to get rid of this", text, re.M)
    if offending:
        file, line = offending["file"], int(offending["line"])
        message += f" The old key is in line {line} of {file}."
    elif correct:
        file = correct["file"]
        message += f" The right key belongs in {file}."
    return HostKeyError(
        message,
        host=host,
        exit_status=exit_status,
        stderr=stderr,
        known_hosts_file=file,
        known_hosts_line=line,
    )


_CURES_OF_ENDINGS = {
    OTHER_SHELL: (
        "a start file of the account's shell starts another shell (`exec`), which takes our input "
        "for its script{printed}. Let it do so only in interactive shells."
    ),
    INPUT_TAKEN: (
        "standard input, by which our program comes, was read or closed there before it{printed}. "
        "If a start file of the account's shell does so, give that command `</dev/null`, or let "
        "it run only in interactive shells."
    ),
    PROGRAM_FAILED: (
        "Python there could not run our program{printed}. Name one that is complete with python=…."
    ),
}


def _after_login(exit_status: int, text: str, noise: str, ssh: str) -> str:
    """Say why our line did not get to its answer, with the cure, where ssh itself gave no reason.

    ssh's exit status is then that of the shell; or 255, if a signal ended that.
    """
    said = _said(text, noise)
    printed = f" (printed: {said})" if said else ""
    if exit_status in _CURES_OF_ENDINGS:
        return _CURES_OF_ENDINGS[exit_status].format(printed=printed)
    ending = f"with exit status {exit_status}" + " or by a signal" * (exit_status > 128)
    return (
        f"the account's shell ended {ending} in place of running our line{printed}. If "
        f"`{ssh} true` ends so too, a start file of the shell exits, or the account has no login "
        "shell, a restricted one or a forced command (nologin, rbash, sftp only): ask the owner of "
        "the host for one that runs commands."
    )


def _said(text: str, noise: str) -> str:
    """Return the last lines that ssh and the host printed, as one line."""
    printed = (last_lines(text, NOISE), last_lines(noise, NOISE))
    return " / ".join(lines for lines in printed if lines)
