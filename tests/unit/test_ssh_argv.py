"""The argv of ssh and scp, and how ssh itself reads them.

`ssh -G` prints what ssh makes of an argv; it needs no server.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from lazycluster._ssh.argv import (
    check_argv,
    forward_argv,
    login_command,
    master_argv,
    probe_argv,
    run_argv,
    scp_argv,
    sftp_argv,
)
from lazycluster._ssh.askpass import login_environment
from lazycluster._ssh.endpoints import Endpoint, Route
from lazycluster._ssh.options import PROMPTS_NAME_HOSTS, RESERVED_OPTIONS, Version, ssh_version
from lazycluster._ssh.settings import Settings

NEW = Version(10, 0)


def route(port, to_port, *, on_host):
    """A forward on loopback."""
    return Route(Endpoint("localhost", port), Endpoint("localhost", to_port), on_host)


HOSTILE = """\
Host *
  RemoteCommand tmux attach
  RequestTTY force
  PermitLocalCommand yes
  LocalCommand echo noise
  VisualHostKey yes
  LocalForward 7777 localhost:22
  RemoteForward 7778 localhost:22
  DynamicForward 7779
  ExitOnForwardFailure yes
  ControlMaster auto
  ControlPath ~/.ssh/%C
  ControlPersist 10m
  EscapeChar ~
  LogLevel QUIET
  Tunnel yes
  BatchMode no
  ConnectTimeout 1
  ForwardX11 yes
  AddKeysToAgent ask
"""
HOSTILE_SINCE = [
    (Version(8, 7), "  StdinNull yes\n  ForkAfterAuthentication yes\n  SessionType none\n"),
    (Version(9, 6), "  ChannelTimeout *=1s\n"),
]

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here")
needs_ssh_8_5 = pytest.mark.skipif(
    shutil.which("ssh") is not None and ssh_version() < PROMPTS_NAME_HOSTS,
    reason="ssh 8.5 marks the questions that a host words; this ssh is older",
)


def argv(host="h", version=NEW, control_path="/run/x/s", **settings):
    return master_argv(Settings(host, **settings), control_path, version, "the command")


def understood(words, **env):
    """What ssh makes of an argv, by `ssh -G`: lower-case option -> values."""
    done = subprocess.run(
        [words[0], "-G", *words[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **env},
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


@needs_ssh
def test_f46_hostile_settings_of_ssh_config_are_neutralised(tmp_path):
    """No setting of the user's reaches our stdin, stdout, life time or exit status."""
    version = ssh_version()
    config = tmp_path / "a config"
    config.write_text(HOSTILE + "".join(t for since, t in HOSTILE_SINCE if version >= since))
    found = understood(argv("anything", version, config_file=config))
    expected = {
        "batchmode": "yes",
        "requesttty": "false",
        "permitlocalcommand": "no",
        "visualhostkey": "no",
        "clearallforwardings": "yes",
        "controlmaster": "true",
        "controlpath": "/run/x/s",
        "controlpersist": "no",
        "escapechar": "none",
        "loglevel": "INFO",
        "tunnel": "false",
        "connecttimeout": "1",
        "forwardx11": "no",
        "addkeystoagent": "false",
    }
    if version >= (8, 7):
        expected |= {
            "stdinnull": "no",
            "forkafterauthentication": "no",
            "sessiontype": "default",
        }
    if version >= (9, 6):
        expected["channeltimeout"] = "none"
    assert {name: found[name][0] for name in expected} == expected
    assert not {"localforward", "remoteforward", "dynamicforward"} & found.keys()
    assert "remotecommand" not in found


@needs_ssh
@pytest.mark.parametrize(
    ("host", "user", "hostname", "port"),
    [
        ("alias", None, "alias", "22"),
        ("ann@h", "ann", "h", "22"),
        ("ann@h:2222", "ann", "h", "2222"),
        ("h:2222", None, "h", "2222"),
        ("a@corp.example@h", "a@corp.example", "h", "22"),
        ("CORP\\ann@h", "CORP\\ann", "h", "22"),
        ("::1", None, "::1", "22"),
        ("ann@fe80::1%eth0", "ann", "fe80::1%eth0", "22"),
        ("[::1]", None, "::1", "22"),
        ("[::1]:2222", None, "::1", "2222"),
        ("ann@[::1]:2222", "ann", "::1", "2222"),
        ("ssh://h", None, "h", "22"),
        ("ssh://ann@h:2222", "ann", "h", "2222"),
        ("ssh://ann@[::1]:2222/", "ann", "::1", "2222"),
        ("SSH://a%40b@h", "a@b", "h", "22"),
    ],
)
def test_ssh_connects_to_what_the_host_says(host, user, hostname, port):
    """Every form, also those that ssh alone does not read."""
    found = understood(argv(host, ssh_version(), config_file="none"))
    assert (found["hostname"], found["port"]) == ([hostname], [port])
    if user is not None:
        assert found["user"] == [user]


@needs_ssh
def test_blanks_and_percent_in_the_control_path_are_taken_literally():
    """`%` is written twice, since ssh expands `%h` and its like; blanks need nothing."""
    found = understood(argv(version=ssh_version(), control_path="/run/a b/%h %%x/s"))
    assert found["controlpath"] == ["/run/a b/%h %%x/s"]


@needs_ssh
def test_what_the_user_asked_for_reaches_ssh(tmp_path):
    """Every parameter, with a blank in each path."""
    config, key, other = tmp_path / "my config", tmp_path / "my key", tmp_path / "a key"
    config.write_text("Host *\n  User fromconfig\n  Port 1\n  ConnectTimeout 99\n")
    key.write_text("")
    other.write_text("")
    found = understood(
        argv(
            "h",
            ssh_version(),
            user="ann",
            port=2222,
            config_file=config,
            identity_file=[str(key), other],
            jump_host="ann@jump:22,other",
            options={"Compression": True, "ServerAliveInterval": 7, "HostKeyAlias": "x"},
        )
    )
    expected = {
        "user": ["ann"],
        "port": ["2222"],
        "identityfile": [str(key), str(other)],
        "proxyjump": ["ann@jump:22,other"],
        "connecttimeout": ["99"],
        "compression": ["yes"],
        "serveraliveinterval": ["7"],
        "hostkeyalias": ["x"],
    }
    assert {name: found[name] for name in expected} == expected


@needs_ssh
def test_ssh_config_decides_what_was_not_asked_for(tmp_path):
    """User, port, jump host and alias stay the config's business."""
    config = tmp_path / "config"
    config.write_text("Host h\n User ann\n Port 2222\n ProxyJump jump\n HostName 192.0.2.7\n")
    found = understood(argv("h", ssh_version(), config_file=config))
    names = ("user", "port", "proxyjump", "hostname")
    assert [found[name] for name in names] == [["ann"], ["2222"], ["jump"], ["192.0.2.7"]]


@needs_ssh
def test_options_of_lazycluster_win_over_the_options_of_the_user():
    """ssh takes the first value, and the options of lazycluster stand first."""
    words = argv(version=ssh_version(), options={"Compression": "yes"})
    assert words.index("LogLevel=INFO") < words.index("Compression=yes")


@needs_ssh
def test_a_jump_host_of_ssh_config_can_be_switched_off(tmp_path):
    """`jump_host="none"` is `ssh -J none`."""
    config = tmp_path / "config"
    config.write_text("ProxyJump jump\n")
    found = understood(argv("h", ssh_version(), config_file=config, jump_host="none"))
    assert "proxyjump" not in found


def test_the_argv_has_one_master_flag_and_ends_with_the_destination_and_the_command():
    """`-M` twice means "ask"; nothing after `--` is an option."""
    words = argv("ann@h")
    assert words[:5] == ["ssh", "-M", "-S", "/run/x/s", "-T"]
    assert words.count("-M") == 1
    assert words[-3:] == ["--", "h", "the command"]


def test_what_was_not_asked_for_is_not_passed():
    """No flag without a reason."""
    assert not {"-F", "-l", "-p", "-i", "-J"} & set(argv())


@needs_ssh
@pytest.mark.parametrize(
    ("settings", "version", "expected"),
    [
        ({}, NEW, {"batchmode": "yes"}),
        (
            {"passphrase": "p"},
            NEW,
            {
                "batchmode": "no",
                "numberofpasswordprompts": "1",
                "passwordauthentication": "no",
                "kbdinteractiveauthentication": "no",
            },
        ),
        ({"password": "p"}, NEW, {"batchmode": "no", "numberofpasswordprompts": "1"}),
        pytest.param(
            {"password": "p", "passphrase": "q"},
            NEW,
            {"kbdinteractiveauthentication": "yes"},
            marks=needs_ssh_8_5,
        ),
        (
            # A host could ask in words that pass for ssh's own.
            {"password": "p", "passphrase": "q"},
            Version(8, 4),
            {"passwordauthentication": "yes", "kbdinteractiveauthentication": "no"},
        ),
        (
            {"interactive": True, "password": "p"},
            NEW,
            {"batchmode": "no", "numberofpasswordprompts": "3"},
        ),
    ],
)
def test_ssh_asks_only_what_can_be_answered(tmp_path, settings, version, expected):
    config = tmp_path / "config"
    config.write_text("")
    options = understood(argv(config_file=config, version=min(version, ssh_version()), **settings))
    assert {name: options[name][0] for name in expected} == expected


@pytest.mark.parametrize("version", [Version(7, 0), Version(8, 3), Version(8, 4), NEW])
def test_ssh_asks_only_the_program_in_the_control_folder(monkeypatch, version):
    """Not a window that the user has set."""
    monkeypatch.setenv("SSH_ASKPASS", "/usr/bin/window")
    monkeypatch.delenv("DISPLAY", raising=False)
    asking = login_environment(version, "/run/x/askpass")
    assert asking["SSH_ASKPASS"] == "/run/x/askpass"
    assert asking["SSH_ASKPASS_REQUIRE"] == "force"
    silent = login_environment(version, None)
    assert silent["SSH_ASKPASS_REQUIRE"] == "never"
    if version < (8, 4):
        assert asking["DISPLAY"]
        assert silent["SSH_ASKPASS"] == "false"


def test_secrets_are_in_no_repr_and_no_argv():
    settings = Settings("h", password="sesame", passphrase="barley")
    words = master_argv(settings, "/run/x/s", NEW, "true")
    for text in (repr(settings), repr(words), login_command(settings)):
        assert "sesame" not in text
        assert "barley" not in text


def test_host_key_checking_is_never_set():
    """The user's ssh_config decides."""
    assert "stricthostkeychecking" not in " ".join(argv()).lower()
    assert "knownhosts" not in " ".join(argv()).lower()


@pytest.mark.parametrize(
    ("version", "unknown"),
    [
        (Version(7, 0), {"RemoteCommand", "AddKeysToAgent", "StdinNull", "ChannelTimeout"}),
        (Version(8, 4), {"StdinNull", "ForkAfterAuthentication", "SessionType", "ChannelTimeout"}),
        (Version(8, 6), {"StdinNull", "ForkAfterAuthentication", "SessionType"}),
        (Version(9, 2), {"ChannelTimeout"}),
        (Version(9, 5), {"ChannelTimeout"}),
    ],
)
def test_an_older_ssh_gets_no_option_that_it_does_not_know(version, unknown):
    """An unknown one would be fatal."""
    given = {word.partition("=")[0] for word in argv(version=version)}
    assert not unknown & given


@pytest.mark.parametrize(
    ("version", "option"),
    [
        (Version(7, 6), "RemoteCommand=none"),
        (Version(8, 7), "StdinNull=no"),
        (Version(9, 6), "ChannelTimeout=none"),
        (Version(10, 0), "ChannelTimeout=none"),
    ],
)
def test_an_option_is_set_from_the_version_that_knows_it(version, option):
    """10 comes after 9."""
    assert option in argv(version=version)


def test_connect_timeout_is_passed_only_if_it_is_given():
    """Without it, the user's ssh_config decides."""
    assert not [word for word in argv() if word.startswith("ConnectTimeout")]
    words = master_argv(Settings("h"), "/run/x/s", NEW, "true", 10)
    assert "ConnectTimeout=10" in words


def test_the_command_for_people_has_only_what_the_user_asked_for(tmp_path):
    """It can be pasted into a shell."""
    key = tmp_path / "my key"
    key.write_text("")
    assert login_command(Settings("ann@h:22", identity_file=key)) == (
        f"ssh -l ann -p 22 -i '{key}' h"
    )


def test_no_config_file_at_all_can_be_asked_for():
    """As `ssh -F none`."""
    words = argv(config_file="none")
    assert words[words.index("-F") + 1] == "none"


def test_reserved_options_are_all_those_that_the_master_gets():
    """A new option of the master is refused from users without another list."""
    given = {
        words[i + 1].partition("=")[0].lower()
        for words in [argv()]
        for i, word in enumerate(words)
        if word == "-o"
    }
    assert given <= RESERVED_OPTIONS


CLIENTS = [
    run_argv("/run/x/s", "/run/x/log", "true"),
    check_argv("/run/x/s"),
    forward_argv("/run/x/s", NEW, "forward", route(1, 2, on_host=False)),
    forward_argv("/run/x/s", NEW, "cancel", route(1, 2, on_host=True)),
    probe_argv("/run/x/s", "::1", 1),
    sftp_argv("/run/x/s"),
    scp_argv("/run/x/s", NEW, "a", "b", to_host=True),
]


@pytest.mark.parametrize("words", CLIENTS, ids=lambda words: " ".join(words[:1] + words[-3:]))
def test_a_client_reads_no_ssh_config_and_cannot_log_in(words):
    """A dead master is an error and no second login."""
    assert words[1:3] == ["-F", "none"]
    for option in ("ProxyCommand=false", "BatchMode=yes", 'ControlPath="/run/x/s"'):
        assert words[words.index(option) - 1] == "-o"
    assert "--" in words[-3:]


@pytest.mark.parametrize("path", ["/run/a b/s", "/run/100%h/s", "/run/üx/s"])
def test_a_client_takes_the_control_path_literally(path):
    """As ssh itself reads it: blanks and percent signs mean nothing."""
    words = run_argv(path, "/dev/null", "true")
    del words[words.index("-E") : words.index("-E") + 2]
    done = subprocess.run(
        ["ssh", "-G", *words[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert f"controlpath {path}" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(("action", "flag"), [("forward", "-L"), ("cancel", "-R")])
def test_a_forward_is_asked_for_on_loopback(action, flag):
    """Never on all addresses, whatever GatewayPorts says; to IPv4 or IPv6."""
    words = forward_argv("/s", NEW, action, route(80, 8080, on_host=flag == "-R"))
    assert words[words.index("-O") + 1] == action
    assert words[words.index(flag) + 1] == "[localhost]:80:[localhost]:8080"


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize(
    ("ends", "version", "text"),
    [
        ((Endpoint("*", 1), Endpoint("db", 2)), NEW, "[*]:1:[db]:2"),
        ((Endpoint("::1", 1), Endpoint("fe80::1%lo", 2)), NEW, "[::1]:1:[fe80::1%lo]:2"),
        ((Endpoint("", 0, "/a:b\\c"), Endpoint("db", 2)), NEW, "/a\\:b\\\\c:[db]:2"),
        ((Endpoint("::", 1), Endpoint("", 0, "/%h")), NEW, "[::]:1:/%%h"),
        ((Endpoint("", 0, "/%h"), Endpoint("", 0, "/b")), Version(8, 2), "/%h:/b"),
    ],
)
def test_the_ends_of_a_forward_are_literal(ends, version, text, on_host):
    """A colon in a path does not end it, and `%` is none of ssh's."""
    words = forward_argv("/s", version, "forward", Route(*ends, on_host))
    assert words[words.index("-R" if on_host else "-L") + 1] == text


@pytest.mark.parametrize(
    ("version", "sftp", "flag"),
    [
        (Version(8, 4), True, None),
        (Version(8, 6), False, None),
        (Version(8, 7), True, "-s"),
        (Version(9, 2), False, "-O"),
        (NEW, True, "-s"),
    ],
)
def test_scp_speaks_sftp_where_it_can(version, sftp, flag):
    """-s and -O came with 8.7."""
    words = scp_argv("/s", version, "a", "b", to_host=True, sftp=sftp)
    assert [word for word in words if word in ("-s", "-O")] == ([flag] if flag else [])


def test_names_for_scp_are_literal():
    """SFTP looks for what matches a source on the host; elsewhere a shell reads it."""

    def remote(path, **keywords):
        words = scp_argv("/s", NEW, path, path, **keywords)
        return words[-1 if keywords["to_host"] else -2].partition(":")[2]

    odd = r"a *?[b]\$x"
    assert remote(odd, to_host=True) == odd
    assert remote(odd, to_host=False) == r"a \*\?\[b\]\\$x"
    for to_host in (True, False):
        assert remote(odd, to_host=to_host, sftp=False) == r"a\ \*\?\[b\]\\\$x"
        assert remote("~/a b", to_host=to_host, sftp=False) == r"~/a\ b"
        with pytest.raises(ValueError, match="line break"):
            remote("a\nb", to_host=to_host, sftp=False)


def test_a_local_name_with_a_colon_is_no_host():
    """It is made absolute."""
    words = scp_argv("/s", NEW, "h:x", "y", to_host=True)
    assert words[-2] == os.path.abspath("h:x")
