"""What ssh prints and which exception it becomes.

The texts are real ones, of OpenSSH 8.4, 9.2 and 10.0 against servers on loopback. Those of macOS,
of a dead network, of an agent that refuses and of 10.1 could not be had there; they are worded as
known from reports.
"""

from __future__ import annotations

import copy

import pytest

from lazycluster._ssh import errors as _ssh_errors
from lazycluster._ssh.errors import login_error, was_dropped
from lazycluster.exceptions import AuthenticationError, ConnectError, HostKeyError

BANNER = "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n"
BEHIND_JUMP = """\
kex_exchange_identification: Connection closed by remote host
Connection closed by UNKNOWN port 65535
"""
CHANGED = f"""\
{BANNER}@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
{BANNER}IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
SHA256:xpz4YHraZMxNNFbMgMcpLjOultLYtBTcN7MrnRlzT9Y.
Please contact your system administrator.
Add correct host key in /home/ann/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/ann/.ssh/known_hosts:2
  remove with:
  ssh-keygen -f "/home/ann/.ssh/known_hosts" -R "[127.0.0.1]:2201"
Host key for [127.0.0.1]:2201 has changed and you have requested strict checking.
Host key verification failed.
"""
REVOKED = f"""\
{BANNER}@       WARNING: REVOKED HOST KEY DETECTED!               @
{BANNER}The ED25519 host key for [127.0.0.1]:2201 is marked as revoked.
This could mean that a stolen key is being used to
impersonate this host.
ED25519 host key for [127.0.0.1]:2201 was revoked and you have requested strict checking.
Host key verification failed.
"""
OPEN_KEY = f"""\
{BANNER}@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @
{BANNER}Permissions 0644 for '/home/ann/a key' are too open.
It is required that your private key files are NOT accessible by others.
This private key will be ignored.
Load key "/home/ann/a key": bad permissions
ann@127.0.0.1: Permission denied (publickey,password,keyboard-interactive).
"""

# (case, what ssh printed, the exception, what the message holds)
SEEN = [
    (
        "unknown name",
        "ssh: Could not resolve hostname no-such-host.invalid: Name or service not known\n",
        ConnectError,
        ["Could not resolve hostname no-such-host.invalid", "spelling"],
    ),
    (
        "unknown name, macOS",
        "ssh: Could not resolve hostname nope: nodename nor servname provided, or not known\r\n",
        ConnectError,
        ["Could not resolve hostname nope", "spelling"],
    ),
    (
        "refused",
        "ssh: connect to host 127.0.0.1 port 9: Connection refused\n",
        ConnectError,
        ["port 9: Connection refused", "sshd runs there"],
    ),
    (
        "no route",
        "ssh: connect to host 10.9.9.9 port 22: No route to host\n",
        ConnectError,
        ["No route to host", "network"],
    ),
    (
        "no network",
        "ssh: connect to host ff02::1 port 22: Network is unreachable\n",
        ConnectError,
        ["Network is unreachable", "network"],
    ),
    (
        "timeout",
        "ssh: connect to host 10.9.9.9 port 22: Connection timed out\n",
        ConnectError,
        ["Connection timed out", "firewall", "connect_timeout"],
    ),
    (
        "timeout, macOS",
        "ssh: connect to host 10.9.9.9 port 22: Operation timed out\n",
        ConnectError,
        ["Operation timed out", "firewall"],
    ),
    (
        "a port that stays silent",
        "Connection timed out during banner exchange\n"
        "Connection to 127.0.0.1 port 2304 timed out\n",
        ConnectError,
        ["during banner exchange", "check the port"],
    ),
    (
        "closed at once, as with MaxStartups",
        "kex_exchange_identification: Connection closed by remote host\n"
        "Connection closed by 127.0.0.1 port 2206\n",
        ConnectError,
        ["closed by remote host", "MaxStartups", "PerSourcePenalties"],
    ),
    (
        "closed at once, as 10.0 has it",
        "Connection closed by 127.0.0.1 port 2206\n",
        ConnectError,
        ["Connection closed by 127.0.0.1 port 2206", "MaxStartups"],
    ),
    (
        "reset",
        "kex_exchange_identification: read: Connection reset by peer\n"
        "Connection reset by 127.0.0.1 port 2302\n",
        ConnectError,
        ["Connection reset by peer", "PerSourcePenalties"],
    ),
    (
        "reset before connect() has returned",
        "ssh: connect to host 127.0.0.1 port 2302: Connection reset by peer\n",
        ConnectError,
        ["port 2302: Connection reset by peer", "MaxStartups"],
    ),
    (
        "reset before ssh has asked for the address",
        "Connection reset by UNKNOWN port -1\n",
        ConnectError,
        ["Connection reset by UNKNOWN port -1", "MaxStartups"],
    ),
    (
        "something else than sshd",
        "kex_exchange_identification: banner line contains invalid characters\n"
        "banner exchange: Connection to 127.0.0.1 port 2302: invalid format\n",
        ConnectError,
        ["banner line contains invalid characters", "not sshd", "port"],
    ),
    (
        "something else than sshd, as 10.0 has it",
        "banner exchange: Connection to 127.0.0.1 port 2302: invalid format\n",
        ConnectError,
        ["port 2302: invalid format", "not sshd"],
    ),
    (
        "something else than sshd, or one of another century",
        "Protocol major versions differ: 2 vs. 1\n"
        "banner exchange: Connection to 127.0.0.1 port 2302: could not read protocol version\n",
        ConnectError,
        ["Protocol major versions differ", "not sshd"],
    ),
    (
        "security key that is not plugged in",
        'sign_and_send_pubkey: signing failed for ED25519-SK "/k": device not found\n'
        "ann@127.0.0.1: Permission denied (publickey).\n",
        AuthenticationError,
        ["device not found", "security key"],
    ),
    (
        "no accepted key",
        "ann@127.0.0.1: Permission denied (publickey,password,keyboard-interactive).\n",
        AuthenticationError,
        ["Permission denied (publickey,", "no key", "ssh-add", "passphrase", "`ssh build-7`"],
    ),
    (
        "password only",
        "ann@127.0.0.1: Permission denied (password).\n",
        AuthenticationError,
        ["Permission denied (password)", "wants a password"],
    ),
    (
        "second factor",
        "ann@127.0.0.1: Permission denied (keyboard-interactive).\n",
        AuthenticationError,
        ["Permission denied (keyboard-interactive)", "second factor"],
    ),
    (
        "too many keys",
        "Received disconnect from 127.0.0.1 port 2205:2: Too many authentication failures\n"
        "Disconnected from 127.0.0.1 port 2205\n",
        AuthenticationError,
        ["Too many authentication failures", "identity_file", "IdentitiesOnly"],
    ),
    ("key file too open", OPEN_KEY, AuthenticationError, ["too open", "chmod 600 /home/ann/a key"]),
    (
        "key file missing",
        "no such identity: /home/ann/nokey: No such file or directory\n"
        "ann@127.0.0.1: Permission denied (publickey,password,keyboard-interactive).\n",
        AuthenticationError,
        ["no such identity: /home/ann/nokey", "identity_file"],
    ),
    (
        "key file missing, by -i",
        "Warning: Identity file /home/ann/nokey not accessible: No such file or directory.\n"
        "ann@127.0.0.1: Permission denied (publickey).\n",
        AuthenticationError,
        ["Identity file /home/ann/nokey not accessible", "identity_file"],
    ),
    (
        "key file broken",
        'Load key "badkey": error in libcrypto\n'
        "ann@127.0.0.1: Permission denied (publickey,password,keyboard-interactive).\n",
        AuthenticationError,
        ['Load key "badkey": error in libcrypto'],
    ),
    (
        "agent refuses",
        'sign_and_send_pubkey: signing failed for ED25519 "/k" from agent: '
        "agent refused operation\nann@h: Permission denied (publickey).\n",
        AuthenticationError,
        ["agent refused operation", "ssh-add"],
    ),
    (
        "host key unknown",
        "Host key verification failed.\n",
        HostKeyError,
        ["Host key verification failed", "Run `ssh build-7` once to accept its host key."],
    ),
    (
        "host key unknown, strict",
        "No ED25519 host key is known for [127.0.0.1]:2201 and you have requested strict checking."
        "\nHost key verification failed.\n",
        HostKeyError,
        ["No ED25519 host key is known for [127.0.0.1]:2201", "Run `ssh build-7` once"],
    ),
    (
        "host key changed",
        CHANGED,
        HostKeyError,
        ["has changed", "line 2 of /home/ann/.ssh/known_hosts", "ssh-keygen -R '[127.0.0.1]:2201'"],
    ),
    (
        "host key changed, 8.4",
        CHANGED.replace("\nHost key for", "\nED25519 host key for"),
        HostKeyError,
        ["has changed", "line 2 of /home/ann/.ssh/known_hosts", "ssh-keygen -R '[127.0.0.1]:2201'"],
    ),
    ("host key revoked", REVOKED, HostKeyError, ["was revoked", "new key"]),
    (
        "host key revoked by file",
        "Host key ED25519 SHA256:xpz4YHraZMxNNFbMgMcpLjOultLYtBTcN7MrnRlzT9Y revoked by file "
        "/etc/ssh/revoked\nHost key verification failed.\n",
        HostKeyError,
        ["revoked by file /etc/ssh/revoked"],
    ),
    (
        "file of revoked keys missing",
        "Error checking host key ED25519 SHA256:xpz4 in revoked keys file /no: "
        "No such file or directory\nHost key verification failed.\n",
        HostKeyError,
        ["RevokedHostKeys"],
    ),
    (
        "bad option in ssh_config",
        "/home/ann/.ssh/config: line 9: Bad configuration option: nosuchthing\n"
        "/home/ann/.ssh/config: terminating, 1 bad configuration options\n",
        ConnectError,
        ["/home/ann/.ssh/config: line 9: Bad configuration option: nosuchthing"],
    ),
    (
        "bad value in ssh_config",
        '/home/ann/.ssh/config line 9: unsupported option "maybe".\n'
        "/home/ann/.ssh/config: terminating, 1 bad configuration options\n",
        ConnectError,
        ['config line 9: unsupported option "maybe"'],
    ),
    (
        "garbage in ssh_config, 8.4",
        '/home/ann/.ssh/config line 9: garbage at end of line; "no".\n',
        ConnectError,
        ["config line 9: garbage at end of line"],
    ),
    (
        "bad owner of ssh_config",
        "Bad owner or permissions on /home/ann/.ssh/config\n",
        ConnectError,
        ["Bad owner or permissions", "chmod 600 /home/ann/.ssh/config"],
    ),
    (
        "bad value in options",
        "command-line line 0: Bad port 'abc'.\n",
        ConnectError,
        ["Bad port 'abc'", "`options`"],
    ),
    (
        "bad name in options",
        "command-line: line 0: Bad configuration option: nosuchthing\n",
        ConnectError,
        ["nosuchthing", "`options`"],
    ),
    (
        "no config file",
        "Can't open user config file /no/file: No such file or directory\n",
        ConnectError,
        ["Can't open user config file /no/file", "Check config_file"],
    ),
    (
        "a config file with a blank, before a jump host",
        "Can't open user config file /home/ann/my: No such file or directory\n" + BEHIND_JUMP,
        ConnectError,
        ["Can't open user config file /home/ann/my", "blanks"],
    ),
    (
        "no common host key type",
        "Unable to negotiate with 127.0.0.1 port 2203: no matching host key type found. "
        "Their offer: ssh-rsa\n",
        ConnectError,
        ["no matching host key type found", "{'HostKeyAlgorithms': '+ssh-rsa'}"],
    ),
    (
        "no common key exchange",
        "Unable to negotiate with 127.0.0.1 port 2204: no matching key exchange method found. "
        "Their offer: diffie-hellman-group1-sha1,kex-strict-s-v00@openssh.com\n",
        ConnectError,
        ["no matching key exchange", "{'KexAlgorithms': '+diffie-hellman-group1-sha1'}"],
    ),
    (
        "no common cipher",
        "Unable to negotiate with 127.0.0.1 port 2201: no matching cipher found. "
        "Their offer: aes128-ctr,aes192-ctr\n",
        ConnectError,
        ["no matching cipher", "{'Ciphers': '+aes128-ctr'}"],
    ),
    (
        "no common MAC",
        "Unable to negotiate with 127.0.0.1 port 2201: no matching MAC found. "
        "Their offer: hmac-md5,hmac-sha1\n",
        ConnectError,
        ["no matching MAC", "{'MACs': '+hmac-md5'}"],
    ),
    (
        "nothing in common of another kind",
        "Unable to negotiate with 127.0.0.1 port 2201: no matching compression found.\n",
        ConnectError,
        ["no matching compression found", "Update ssh or sshd"],
    ),
    (
        "jump host: unknown name",
        "ssh: Could not resolve hostname nosuchjump.invalid: Name or service not known\n"
        + BEHIND_JUMP,
        ConnectError,
        ["jump host", "Could not resolve hostname nosuchjump.invalid"],
    ),
    (
        "jump host: refused",
        "ssh: connect to host 127.0.0.1 port 9: Connection refused\n" + BEHIND_JUMP,
        ConnectError,
        ["jump host", "port 9: Connection refused"],
    ),
    (
        "jump host: host key unknown",
        "Host key verification failed.\n" + BEHIND_JUMP,
        HostKeyError,
        ["jump host", "Run `ssh build-7` once"],
    ),
    (
        "jump host: denied",
        "Permission denied, please try again.\nPermission denied, please try again.\n"
        "ann@127.0.0.1: Permission denied (password).\n" + BEHIND_JUMP,
        AuthenticationError,
        ["jump host", "ann@127.0.0.1: Permission denied (password)", "ssh_config"],
    ),
    (
        "jump host: cannot reach the host",
        "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n"
        + BEHIND_JUMP,
        ConnectError,
        ["connect failed: Connection refused", "The jump host cannot reach the host"],
    ),
    (
        "jump host: does not forward",
        "channel 0: open failed: administratively prohibited: open failed\n"
        "stdio forwarding failed\n" + BEHIND_JUMP,
        ConnectError,
        ["administratively prohibited", "AllowTcpForwarding"],
    ),
    (
        "ProxyCommand fails, or the host behind it drops the login",
        BEHIND_JUMP,
        ConnectError,
        ["ProxyCommand", "MaxStartups", "try `ssh build-7`"],
    ),
    (
        "jump host drops the login",
        "kex_exchange_identification: Connection closed by remote host\n"
        "Connection closed by 127.0.0.1 port 2206\n" + BEHIND_JUMP,
        ConnectError,
        ["Connection closed by 127.0.0.1 port 2206", "That is the jump host", "MaxStartups"],
    ),
    (
        "a jump host that stays silent",
        "Connection timed out during banner exchange\nConnection to UNKNOWN port 65535 timed out\n",
        ConnectError,
        ["during banner exchange", "The jump host, or the host behind it", "connect_timeout"],
    ),
    (
        "ProxyCommand is missing",
        "/bin/bash: line 1: /no/such/nc: No such file or directory\n" + BEHIND_JUMP,
        ConnectError,
        ["/no/such/nc: No such file or directory", "ProxyCommand"],
    ),
    (
        "ProxyCommand is missing, 10.0",
        "/bin/bash: line 1: /no/such/nc: No such file or directory\n"
        "Connection closed by UNKNOWN port 65535\n",
        ConnectError,
        ["/no/such/nc: No such file or directory", "ProxyCommand"],
    ),
    (
        "no session allowed",
        "channel 1: open failed: connect failed: open failed\n",
        ConnectError,
        ["open failed", "MaxSessions"],
    ),
    (
        "control path in a folder that is not there",
        "unix_listener: cannot bind to path /no/x.gkJkmYAceHe1kNy8: No such file or directory\n",
        ConnectError,
        ["cannot bind to path", "XDG_RUNTIME_DIR"],
    ),
    (
        "a variable in ssh_config that is not set",
        "vdollar_percent_expand: env var ${FOO} has no value\n"
        "invalid environment variable expansion\n",
        ConnectError,
        ["${FOO} has no value", "`${}`"],
    ),
    (
        "a KnownHostsCommand that fails",
        "oops\nKnownHostsCommand-ORDER /bin/false failed, status 1\r\nKnownHostsCommand failed\r\n",
        HostKeyError,
        ["KnownHostsCommand-ORDER /bin/false failed, status 1. Correct KnownHostsCommand"],
    ),
    (
        "10.0: a port that is not sshd",
        "banner exchange: Connection to 127.0.0.1 port 8099: invalid format\r\n",
        ConnectError,
        ["banner exchange", "not sshd"],
    ),
    (
        "a user that is in no passwd",
        "No user exists for uid 54321\n",
        ConnectError,
        ["No user exists for uid 54321", "/etc/passwd"],
    ),
    (
        "a warning of 10.1 and later before the reason",
        "** WARNING: connection is not using a post-quantum key exchange algorithm.\n"
        '** This session may be vulnerable to "store now, decrypt later" attacks.\n'
        "** The server may need to be upgraded. See https://openssh.com/pq.html\n"
        "ann@h: Permission denied (publickey).\n",
        AuthenticationError,
        ["ann@h: Permission denied (publickey)"],
    ),
]


def test_an_unknown_line_of_ssh_itself_is_the_reason():
    """Not the account's shell, which may end with 255 too; ssh's lines end with CR and LF."""
    message = str(error_for("a banner\nFrobnication failed\r\n"))
    assert (
        "build-7: Frobnication failed. ssh itself prints that; try `ssh build-7 true`." in message
    )
    assert "shell" not in message


def test_what_the_host_prints_is_not_taken_for_the_reason_of_ssh():
    """With the warning that ssh prints before each login to a new host."""
    added = "Warning: Permanently added 'h' (ED25519) to the list of known hosts.\r\n"
    assert "the account's shell ended" in str(error_for(added + "start file: no\n"))


def error_for(stderr, **others):
    given = {"host": "build-7", "exit_status": 255, "ssh_command": "ssh build-7", **others}
    return login_error(stderr, **given)


@pytest.mark.parametrize(
    ("stderr", "cls", "parts"), [row[1:] for row in SEEN], ids=[row[0] for row in SEEN]
)
def test_what_ssh_printed_becomes_the_right_exception(stderr, cls, parts):
    """Its class, ssh's own reason, the host and the cure; and the whole text as an attribute."""
    error = error_for(stderr)
    assert type(error) is cls
    assert (error.host, error.exit_status, error.stderr) == ("build-7", 255, stderr)
    message = str(error)
    assert message.startswith("Cannot connect to build-7")
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("stderr", [row[1] for row in SEEN], ids=[row[0] for row in SEEN])
def test_a_message_is_one_line_without_open_placeholders(stderr):
    """Whatever the pattern caught."""
    message = str(error_for(stderr))
    assert "\n" not in message
    assert "{ssh}" not in message
    assert ".." not in message
    assert "None" not in message


def test_a_host_key_error_has_the_file_and_the_line():
    """As attributes too, for a program that repairs the file."""
    error = copy.copy(error_for(CHANGED))
    assert (error.known_hosts_file, error.known_hosts_line) == ("/home/ann/.ssh/known_hosts", 2)


def test_a_host_key_error_has_no_file_where_ssh_names_none():
    """In batch mode ssh prints only that the check failed."""
    error = error_for("Host key verification failed.\n")
    assert (error.known_hosts_file, error.known_hosts_line) == (None, None)


def test_a_host_key_error_names_the_file_that_lacks_the_key():
    """Without a line, if ssh prints only where the right one belongs."""
    text = "\n".join(line for line in CHANGED.splitlines() if not line.startswith("Offending"))
    error = error_for(text)
    assert "/home/ann/.ssh/known_hosts" in str(error)
    assert (error.known_hosts_file, error.known_hosts_line) == ("/home/ann/.ssh/known_hosts", None)


def test_the_cure_has_the_command_that_the_caller_gives():
    """With user, port and config file, which the host alone does not say."""
    error = error_for("Host key verification failed.", ssh_command="ssh -p 2222 build-7")
    assert "Run `ssh -p 2222 build-7` once" in str(error)


def test_braces_in_what_ssh_printed_do_no_harm():
    """They are text, not places to fill."""
    text = "ssh: Could not resolve hostname {0}{x!r}: Name or service not known"
    assert "{0}{x!r}" in str(error_for(text, ssh_command="ssh '{y}'"))


def test_an_unknown_text_is_reported_by_its_last_lines_and_the_exit_status():
    """Nothing is guessed, nothing is lost."""
    error = error_for("one\ntwo\nthree\n** WARNING: old\n\nfour\n", exit_status=3)
    assert type(error) is ConnectError
    assert "exit status 3 instead" in str(error)
    assert "(printed: two / three / four)" in str(error)
    assert "one" in error.stderr


def test_what_came_instead_of_the_handshake_reply_is_reported():
    """A login shell that prints and leaves is seen only there."""
    error = error_for("", exit_status=1, noise="Welcome!\nPlease use the portal.\n")
    assert "exit status 1 instead" in str(error)
    assert "(printed: Welcome! / Please use the portal)" in str(error)


@pytest.mark.parametrize(
    "line",
    ["This account is currently not available.", "This service allows sftp connections only."],
)
def test_an_account_without_a_shell_is_reported_by_what_it_prints(line):
    """It comes on stdout, after a login that went well."""
    assert "login shell" in str(error_for("", exit_status=1, noise=line + "\n"))


def test_what_ssh_prints_counts_before_what_the_login_shell_prints():
    """Any program can print anything there."""
    error = error_for("Host key verification failed.\n", noise="Connection closed by 1.2.3.4")
    assert type(error) is HostKeyError


def test_what_a_start_file_prints_is_not_taken_for_a_reason_of_ssh():
    """ssh's own exit status is 255; any other is that of the shell, after a good login."""
    error = error_for("ann@other: Permission denied (publickey).\n", exit_status=3)
    assert type(error) is ConnectError
    assert "start file" in str(error)
    assert "Permission denied" in str(error)


@pytest.mark.parametrize(
    ("exit_status", "part"),
    [
        (_ssh_errors.OTHER_SHELL, "another shell"),
        (_ssh_errors.INPUT_TAKEN, "standard input"),
        (_ssh_errors.PROGRAM_FAILED, "No module named json"),
    ],
)
def test_the_exit_statuses_of_the_bootstrap_are_reported(exit_status, part):
    """With what was printed meanwhile, and the cure."""
    error = error_for("", exit_status=exit_status, noise="No module named json\n")
    assert part in str(error)
    assert "(printed: No module named json)" in str(error)


@pytest.mark.parametrize("exit_status", [0, 1, 127, 255, _ssh_errors.PROGRAM_FAILED])
def test_the_message_of_a_python_that_fails_begins_with_it(exit_status):
    """If the user has named it. It does not advise to name it, nor blame the start files."""
    error = error_for("", exit_status=exit_status, noise="oops\n", python="conda run python")
    assert str(error).startswith("python='conda run python' on build-7 ")
    assert "(printed: oops)" in str(error)
    assert "with python=" not in str(error)
    assert "shell" not in str(error)


def test_a_python_that_was_not_named_and_ends_without_an_answer():
    """Another one may do."""
    error = error_for("", exit_status=0, python="")
    assert str(error).startswith("Cannot connect to build-7: Python on build-7 ended with exit")
    assert "with python=" in str(error)


@pytest.mark.parametrize(
    ("python", "name"), [("conda run p", "python='conda run p'"), ("", "Python")]
)
def test_a_python_that_does_not_answer_is_named(python, name):
    """The login has come past the start files then."""
    error = _ssh_errors.silence_error(
        "",
        host="build-7",
        connect_timeout=2.5,
        noise="",
        python=python,
        ssh_command="ssh build-7",
        jump_host="",
    )
    assert str(error).startswith(f"{name} on build-7 did not answer within 2.5 s")
    assert "--no-capture-output" in str(error)
    assert "start file" not in str(error)


def test_what_comes_instead_of_an_answer_in_time_is_reported():
    """The end of it, on one line, without what a terminal would obey."""
    error = _ssh_errors.silence_error(
        "a banner\n",
        host="build-7",
        connect_timeout=2.5,
        noise="\x1b[2JYour name?\n",
        ssh_command="ssh build-7",
        jump_host="",
    )
    assert "build-7 did not answer within 2.5 s" in str(error)
    assert "Your name?" in str(error)
    assert "standard input" in str(error)
    assert "\x1b" not in str(error)
    assert error.stderr == "a banner\n"


def test_silence_is_reported_as_such():
    """And whether ssh ended by itself."""
    assert "no reason given (lazycluster had to end ssh)" in str(error_for("", exit_status=None))


def test_control_characters_of_a_banner_do_not_reach_the_terminal():
    """A host that was not even logged in to must not write on the screen."""
    message = str(error_for("\x1b]0;owned\x07 sorry\n"))
    assert "\x1b" not in message
    assert "sorry" in message


DROPPED = [
    "closed at once, as with MaxStartups",
    "closed at once, as 10.0 has it",
    "reset",
    "reset before connect() has returned",
    "reset before ssh has asked for the address",
    "ProxyCommand fails, or the host behind it drops the login",
    "jump host drops the login",
]


@pytest.mark.parametrize(("case", "stderr"), [row[:2] for row in SEEN], ids=[r[0] for r in SEEN])
def test_f5_only_a_dropped_login_is_tried_again(case, stderr):
    """Nothing that says why, least of all a key or host key that was refused."""
    assert was_dropped(stderr) == (case in DROPPED)


def test_the_jump_host_is_named_where_it_is_known():
    """ssh itself gives its address at most."""
    error = error_for("Host key verification failed.\n" + BEHIND_JUMP, jump_host="ann@gate:22")
    assert "build-7 (behind the jump host ann@gate:22): Host key" in str(error)


@pytest.mark.parametrize("methods", ["password", "keyboard-interactive"])
@pytest.mark.parametrize(
    "before", ["", "no such identity: /k: No such file or directory\n", 'Load key "/k": error\n']
)
@pytest.mark.parametrize("locked_key", ["", "/home/ann/key"])
def test_a_host_that_takes_a_password_as_well_is_said_to(methods, before, locked_key):
    """Whatever was wrong with the key; but not of a jump host, and not after a password."""
    denied = f"{before}ann@h: Permission denied (publickey,{methods}).\n"
    assert "password=…" in str(error_for(denied, locked_key=locked_key))
    assert "password=…" not in str(error_for(denied, given="password"))
    assert "password=…" not in str(error_for(denied + BEHIND_JUMP))
    denied = f"{before}ann@h: Permission denied (publickey,hostbased).\n"
    assert "password=…" not in str(error_for(denied, locked_key=locked_key))


def test_f4_a_key_with_a_passphrase_is_named():
    """As a word of a shell; but not where no key would do."""
    error = error_for("ann@h: Permission denied (publickey).\n", locked_key="/home/ann/{my} key")
    assert "'/home/ann/{my} key' has a passphrase: load it with `ssh-add '/home/ann/" in str(error)
    error = error_for("ann@h: Permission denied (password).\n", locked_key="/home/ann/key")
    assert "/home/ann/key" not in str(error)
