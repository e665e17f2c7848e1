"""Know what ssh prints when a login fails, and which exception it means.

One ordered table, specific rows first: the first row that is found anywhere in the text counts. The
last line alone does not name the cause: a jump host's reason stands before "Connection closed by
UNKNOWN port 65535", and a changed host key ends like an unknown one. The lines were collected from
OpenSSH 8.4, 9.2 and 10.0; tests/unit/test_ssh_errors.py keeps them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lazycluster.exceptions import AuthenticationError, ConnectError, HostKeyError

KEY_CURE = (
    "The host accepted no key. Name the right key with identity_file, or load it with `ssh-add`; "
    "if it has a passphrase, give passphrase=… or interactive=True. Else `{ssh}` must work without "
    "a question."
)
LOCKED_KEY_CURE = (
    "The host accepted no key, and {key} has a passphrase: load it with `ssh-add {key}`, or give "
    "passphrase=… or interactive=True."
)
# Added to the cure if the host would also have taken a password.
PASSWORD_CURE = " The host also takes a password or a code: give password=… or interactive=True."
# The cure by the secret that ssh got.
CURES_OF_SECRETS = {
    "password": "The password that was given was not accepted.",
    "passphrase": "Was the passphrase right? `ssh-keygen -y -f KEY` tries it.",
}
_DROPPED_CURE = (
    "sshd drops logins when too many come at once (MaxStartups) or after failed ones "
    "(PerSourcePenalties), or the port is not sshd's; wait, and try `{ssh}`."
)
_JUMP_DROPPED_CURE = "That is the jump host: " + _DROPPED_CURE
_BEHIND_DROPPED_CURE = (
    "The jump host or ProxyCommand gave no reason: it has failed, or the host behind it drops "
    "logins (MaxStartups, PerSourcePenalties); wait, and try `{ssh}`."
)
_CONFIG_CURE = "Correct that line."
_PROXY_CURE = "Try `{ssh}`: the jump host or ProxyCommand failed, not the host itself."

DROPPED_CURES = frozenset({_DROPPED_CURE, _JUMP_DROPPED_CURE, _BEHIND_DROPPED_CURE})

# The option that adds an algorithm, by ssh's name for the kind of algorithm.
OPTIONS_OF_ALGORITHMS = {
    "host key type": "HostKeyAlgorithms",
    "key exchange method": "KexAlgorithms",
    "cipher": "Ciphers",
    "MAC": "MACs",
}


class Row(NamedTuple):
    """One row of the table.

    Args:
        pattern: Matches what ssh printed. The group `reason` is quoted in the message; the whole
            match if there is no such group.
        cure: A format string with the groups of the pattern by name, with {ssh}, the command that
            logs in by hand, and with {option} if there is a group `algorithm`.
        error: The exception.
    """

    pattern: str
    cure: str
    error: type[ConnectError] = ConnectError


TABLE = (
    # The host key, before anything that follows from it.
    Row(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED[^\0]*?"
        r"^(?P<reason>(?:\S+ host|Host) key for (?P<name>\S+) has changed\b.*)",
        "Ask the owner of the host whether the new key is right; if so, remove the old key with "
        "`ssh-keygen -R '{name}'` and run `{ssh}` once.",
        HostKeyError,
    ),
    Row(
        r"^(?P<reason>\S+ host key for \S+ was revoked\b.*|Host key .* revoked by file .*)",
        "Ask the owner of the host for its new key.",
        HostKeyError,
    ),
    Row(
        r"^Error checking host key .* in revoked keys file .*",
        "Correct RevokedHostKeys in ssh_config.",
        HostKeyError,
    ),
    Row(
        r"^(?P<reason>Certificate invalid: .*)",
        "Ask the owner of the host to renew the certificate of its key.",
        HostKeyError,
    ),
    Row(
        r"^(?P<reason>No .* host key is known for .*)",
        "Run `{ssh}` once to accept its host key, or add it to known_hosts.",
        HostKeyError,
    ),
    Row(
        r"^Host key verification failed\.", "Run `{ssh}` once to accept its host key.", HostKeyError
    ),
    # ssh_config.
    Row(
        r"^Bad owner or permissions on (?P<file>.*)",
        "Run `chmod 600 {file}`; it must belong to you or root.",
    ),
    Row(
        r"^(?P<reason>Can't open user config file .*)[^\0]*UNKNOWN port 65535",
        "ssh cannot pass a config_file with blanks in its path on to a jump host; rename it.",
    ),
    Row(r"^Can't open user config file .*", "Check config_file."),
    Row(
        r"^command-line:? line 0: .*",
        "Correct `options`; values are written and quoted as in ssh_config.",
    ),
    Row(
        # With a colon before "line" it may also be the shell of a ProxyCommand that prints this.
        r"^\S.*(?:: line \d+: Bad configuration option: |(?<!:) line \d+: \S).*",
        _CONFIG_CURE,
    ),
    Row(r"^.*: terminating, \d+ bad configuration options", _CONFIG_CURE),
    Row(
        r"^(?:vdollar_percent_expand: |percent_expand: |invalid environment variable expansion).*",
        "Correct the `%` or `${{}}` in ssh_config.",
    ),
    Row(
        r"^(?:hostname|remote username) contains invalid characters",
        "Correct the host, or Hostname and User in ssh_config.",
    ),
    Row(
        r"^(?P<reason>KnownHostsCommand\S* .* failed, .*)",
        "Correct KnownHostsCommand in ssh_config.",
        HostKeyError,
    ),
    Row(r"^No user exists for uid \d+", "Add an entry for this user to /etc/passwd."),
    # The control socket.
    Row(
        r"^(?:unix_listener|muxserver_listen|ControlPath|mux_client)\b.*",
        "Set XDG_RUNTIME_DIR to a folder of yours with a short path.",
    ),
    # The way to the host, or to the jump host before it.
    Row(
        r"^ssh: (?P<reason>Could not resolve hostname .*)",
        "Check the spelling, and the entry in ssh_config if it is an alias.",
    ),
    Row(
        r"^ssh: (?P<reason>connect to (?:host|address) .*: Connection refused)",
        "Check the port, and that sshd runs there.",
    ),
    Row(
        r"^ssh: (?P<reason>connect to (?:host|address) .*: (?:Connection|Operation) timed out)",
        "Check that the host is up and that no firewall is between; connect_timeout is the time to "
        "wait.",
    ),
    Row(
        # The reset of a dropped login may arrive before connect() has returned.
        r"^ssh: (?P<reason>connect to (?:host|address) .*: Connection reset by peer)",
        _DROPPED_CURE,
    ),
    Row(
        r"^ssh: (?P<reason>connect to (?:host|address) .*)",
        "Check the network, and whether the host needs a jump host.",
    ),
    Row(
        r"^channel \d+: (?P<reason>open failed: administratively prohibited: .*)\n"
        r"stdio forwarding failed",
        "The jump host does not forward connections; its sshd needs AllowTcpForwarding.",
    ),
    Row(
        r"^channel \d+: (?P<reason>open failed: .*)\nstdio forwarding failed",
        "The jump host cannot reach the host; check the name and port as seen from there.",
    ),
    Row(
        r"^jumphost loop via .*|^(?:Invalid -J argument|inconsistent options: Proxy).*",
        "Correct jump_host, or ProxyJump and ProxyCommand in ssh_config.",
    ),
    # No common language.
    Row(
        r"^(?P<reason>Unable to negotiate with .*: no matching "
        r"(?P<algorithm>host key type|key exchange method|cipher|MAC) found\..*?"
        r"(?:offer: (?P<offer>[^,\s]+).*)?)$",
        "Update sshd on the host, or allow it with options={{'{option}': '+{offer}'}}.",
    ),
    Row(r"^Unable to negotiate with .*", "Update ssh or sshd."),
    Row(r"^(?:Bad server host key|ssh_dispatch_run_fatal): .*", "Try `{ssh}`."),
    # Logging in.
    Row(
        r"^Received disconnect from .*: (?P<reason>Too many authentication failures)",
        "ssh offered too many keys; name the right one with identity_file and "
        "options={{'IdentitiesOnly': 'yes'}}.",
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>Permissions \S+ for '(?P<file>.+)' are too open)"
        r"[^\0]*^.*: Permission denied \(",
        "ssh ignores such a key; run `chmod 600 {file}`.",
        AuthenticationError,
    ),
    Row(
        r"^(?:Warning: )?(?P<reason>no such identity: .*|Identity file .* not accessible: .*)"
        r"[^\0]*^.*: Permission denied \(",
        "Correct identity_file, or IdentityFile in ssh_config.",
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>Load key .*)[^\0]*^.*: Permission denied \(",
        "ssh cannot use that key; try `{ssh}`.",
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>sign_and_send_pubkey: .*)[^\0]*^.*: Permission denied \(",
        "Load the key again with `ssh-add`, or touch the security key when it blinks.",
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>.*(?:password has expired|Password change required|account has expired).*)",
        "Run `{ssh}` once to renew it, or ask the owner of the host.",
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>\S+: Permission denied \([^)]*\))[^\0]*UNKNOWN port 65535",
        "That is the jump host, which is offered only keys of ssh_config and of the agent; "
        "`{ssh}` must work without a question.",
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>\S+: Permission denied \((?=[^)]*publickey)[^)]*\))",
        KEY_CURE,
        AuthenticationError,
    ),
    Row(
        r"^(?P<reason>\S+: Permission denied \([^)]*\))",
        "The host wants a password or a second factor; give password=… or interactive=True, or "
        "make sshd allow a login with a key alone.",
        AuthenticationError,
    ),
    # The host accepted the login, but not the command.
    Row(
        r"^(?:channel \d+: open failed: |exec request failed|shell request failed).*",
        "The host does not run commands; its sshd needs MaxSessions 1 or more, and the account "
        "must be allowed to start processes.",
    ),
    # Silence and closed connections, which follow from nearly all of the above.
    Row(
        r"^(?P<reason>Connection timed out during banner exchange)[^\0]*UNKNOWN port 65535",
        "The jump host, or the host behind it, does not answer; try `{ssh}`, or raise "
        "connect_timeout.",
    ),
    Row(
        r"^Connection timed out during banner exchange",
        "The port accepts connections but does not answer like sshd; check the port, or raise "
        "connect_timeout.",
    ),
    Row(
        r"^(?:Connection to \S+ port \d+ timed out|Timeout, server .* not responding\.)",
        "The host went silent; check that it is up, or raise connect_timeout.",
    ),
    Row(
        r"^(?P<reason>[^\n]*(?:not found|No such file or directory|Permission denied))$[^\0]*"
        r"UNKNOWN port 65535",
        _PROXY_CURE,
    ),
    Row(
        r"^(?P<reason>Connection (?:closed|reset) by (?!UNKNOWN)\S+ port \d+)\n"
        r"[^\0]*UNKNOWN port 65535",
        _JUMP_DROPPED_CURE,
    ),
    Row(
        r"\A(?:kex_exchange_identification: .*\n)?"
        r"(?P<reason>Connection (?:closed|reset) by UNKNOWN port 65535)\s*\Z",
        _BEHIND_DROPPED_CURE,
    ),
    Row(r"^Connection (?:closed|reset) by UNKNOWN port 65535", _PROXY_CURE),
    Row(
        r"^(?:kex_exchange_identification: (?:banner line|No SSH version|client sent invalid)"
        r"|banner exchange: .*: invalid format"  # the only line of 10.0
        r"|Bad remote protocol version identification|Protocol major versions differ).*",
        "The program that listens there is not sshd; check the port.",
    ),
    Row(
        r"^(?:kex_exchange_identification|ssh_exchange_identification|banner exchange): .*",
        _DROPPED_CURE,
    ),
    Row(r"^Connection (?:closed|reset) by .*", _DROPPED_CURE),
    Row(r"^(?P<reason>Received disconnect from .*)|^Disconnected from .*", "Try `{ssh}`."),
)

# sshd's last word, with the methods that are left.
TAKES_PASSWORD = re.compile(
    r"^\S+: Permission denied \([^)]*(?:password|keyboard-interactive)", re.MULTILINE
)

# ssh's name for the other end of a ProxyCommand, and so of a jump host.
BEHIND_PROXY = re.compile(r"\bUNKNOWN port 65535\b|^stdio forwarding failed", re.MULTILINE)


def find_row(text: str) -> tuple[Row, re.Match[str]] | None:
    """Return the first row that matches, and its match."""
    for row in TABLE:
        match = re.search(row.pattern, text, re.MULTILINE)  # compiled now: it takes milliseconds
        if match is not None:
            return row, match
    return None
