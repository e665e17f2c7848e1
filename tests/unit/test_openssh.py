"""The argv of ssh, what is refused before any process starts, and the gates between versions.

`ssh -G` says how ssh itself reads an argv; it needs no server.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lazycluster._fabric_kwargs import translate_connection_kwargs
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
from lazycluster._ssh.control_folder import check_control_path, control_path_limit
from lazycluster._ssh.options import RESERVED_OPTIONS, Version, parse_version, ssh_version
from lazycluster._ssh.settings import Settings
from lazycluster.exceptions import LazyclusterError

NEW = Version(10, 0)
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


# --- what ssh understands ---


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
        "connecttimeout": "30",
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
    config, key = tmp_path / "my config", tmp_path / "my key"
    config.write_text("Host *\n  User fromconfig\n  Port 1\n  ConnectTimeout 99\n")
    key.write_text("")
    found = understood(
        argv(
            "h",
            ssh_version(),
            user="ann",
            port=2222,
            config_file=config,
            identity_file=str(key),
            jump_host="ann@jump:22,other",
            connect_timeout=1.2,
            options={"Compression": True, "ServerAliveInterval": 7, "HostKeyAlias": "x"},
        )
    )
    expected = {
        "user": ["ann"],
        "port": ["2222"],
        "identityfile": [str(key)],
        "proxyjump": ["ann@jump:22,other"],
        "connecttimeout": ["2"],
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


# --- the argv itself ---


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
        ({"password": "p", "passphrase": "q"}, NEW, {"kbdinteractiveauthentication": "yes"}),
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


@pytest.mark.parametrize(
    ("seconds", "option"),
    [(0.01, "1"), (30, "30"), (30.1, "31"), (1e12, "2147483")],
)
def test_connect_timeout_is_rounded_up_to_whole_seconds(seconds, option):
    """0 would be no limit at all, and ssh keeps milliseconds in an int."""
    assert f"ConnectTimeout={option}" in argv(connect_timeout=seconds)


def test_the_command_for_people_has_only_what_the_user_asked_for(tmp_path):
    """It can be pasted into a shell."""
    key = tmp_path / "my key"
    key.write_text("")
    assert login_command(Settings("ann@h:22", identity_file=key)) == (
        f"ssh -l ann -p 22 -i '{key}' h"
    )


# --- what is refused ---


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "-oProxyCommand=x",
        "ann@-h",
        "-l@h",
        "@h",
        "ann@",
        "a b",
        "a\tb",
        "a\nb",
        "a\x01b",
        "a\x7fb",
        "a\u200bb",
        "a\udc80b",
        "ann x@h",
        "a\\@h",
        "h:0",
        "h:65536",
        "[]:22",
        "ssh://",
        "ssh://-h",
        "ssh://a%0ab@h",
        *(f"a{c}b" for c in "'`\"$\\;&<>|(){},"),
        *(f"a{c}b@h" for c in "'`\"$;&<>|(){}"),
        None,
        7,
        b"h",
    ],
)
def test_a_host_that_ssh_must_not_see_is_refused(host):
    """Before any process starts."""
    with pytest.raises(ValueError, match=r"host|Host"):
        Settings(host)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", ""), ("user", "-l"), ("user", "a b"), ("user", "a;b"), ("user", "a\nb"),
        ("user", 7), ("port", 0), ("port", 65536), ("port", -1), ("port", "22"), ("port", True),
        ("port", 22.0), ("connect_timeout", 0), ("connect_timeout", -1),
        ("connect_timeout", math.inf), ("connect_timeout", math.nan), ("connect_timeout", "30"),
        ("connect_timeout", None), ("connect_timeout", True), ("keepalive", 0),
        ("keepalive", math.nan), ("python", ""), ("python", " "), ("python", "a\nb"),
        ("python", "a\0b"), ("python", ["python3"]), ("jump_host", ""), ("jump_host", "-x"),
        ("jump_host", "a, b"), ("jump_host", "a,,b"), ("jump_host", "a$(x)"), ("jump_host", 7),
        ("jump_host", "a:99999"), ("config_file", "/no/such/file"), ("config_file", "/"),
        ("config_file", ""), ("config_file", b"/dev/null"), ("identity_file", "/no/such/file"),
        ("identity_file", "none"), ("identity_file", 7), ("options", "Compression=yes"),
        ("options", {"": "x"}), ("options", {"-o": "x"}), ("options", {"Bad Name": "x"}),
        ("options", {"A=b": "x"}), ("options", {7: "x"}), ("options", {"Compression": ""}),
        ("options", {"Compression": None}), ("options", {"User": "a\nb"}),
        ("options", {"User": "a\0b"}), ("options", {"User": "a\x1bb"}),
        ("options", {"User": "a", "user": "b"}),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_is_refused_by_its_name(name, value):
    """The message names the input."""
    with pytest.raises(ValueError, match=name if name != "options" else "options|ssh_config|user"):
        Settings("h", **{name: value})


@pytest.mark.parametrize(
    "option",
    [
        "BatchMode",
        "batchmode",
        "ControlMaster",
        "ControlPath",
        "ControlPersist",
        "RemoteCommand",
        "RequestTTY",
        "PermitLocalCommand",
        "ClearAllForwardings",
        "EscapeChar",
        "LogLevel",
        "Tunnel",
        "ConnectTimeout",
        "StdinNull",
        "ForkAfterAuthentication",
        "SessionType",
        "ChannelTimeout",
    ],
)
def test_an_option_that_we_set_ourselves_is_refused(option):
    """Whatever the version, and whatever the case of the letters."""
    with pytest.raises(ValueError, match=f"{option} in options is set by lazycluster itself"):
        Settings("h", options={option: "yes"})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"host": "ann@h", "user": "bob"}, "user"),
        ({"host": "h:22", "port": 23}, "port"),
        ({"host": "ssh://ann@h:22", "port": 23}, "port"),
        ({"host": "ann@h", "options": {"User": "bob"}}, "user"),
        ({"host": "h", "port": 22, "options": {"port": "23"}}, "port"),
        ({"host": "h", "jump_host": "j", "options": {"ProxyJump": "k"}}, "jump_host"),
    ],
)
def test_what_is_given_twice_and_differently_is_refused(settings, name):
    """Neither of the two is silently dropped."""
    with pytest.raises(ValueError, match=name):
        Settings(**settings)


def test_what_is_given_twice_and_equally_is_fine():
    """There is nothing to choose."""
    settings = Settings("ann@h:22", user="ann", port=22)
    assert (settings.user, settings.destination, settings.port) == ("ann", "h", 22)


def test_the_home_directory_is_expanded_in_paths(tmp_path, monkeypatch):
    """As a shell would."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_text("")
    assert Settings("h", config_file="~/config").config_file == str(tmp_path / "config")


def test_paths_do_not_depend_on_a_later_chdir(tmp_path, monkeypatch):
    """A relative path is that of the call."""
    monkeypatch.chdir(tmp_path)
    Path("key").write_text("")
    assert Settings("h", identity_file="key").identity_file == str(tmp_path / "key")


def test_no_config_file_at_all_can_be_asked_for():
    """As `ssh -F none`."""
    words = argv(config_file="none")
    assert words[words.index("-F") + 1] == "none"


@pytest.mark.parametrize("name", ["a%h", "a${X}"])
def test_an_identity_file_that_ssh_would_expand_is_refused(tmp_path, name):
    """ssh reads `%` and `${}` in it, after it has looked for the literal name."""
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="identity_file"):
        Settings("h", identity_file=tmp_path / name)


def test_settings_are_values():
    """Equal if all fields are equal, hashable, and unchanged by pickle and copy."""
    one, two = Settings("ann@h", options={"Compression": "yes"}), Settings("ann@h", port=22)
    assert one == Settings("ann@h", options={"Compression": "yes"})
    assert one != two
    assert len({one, two}) == 2
    for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert (again, again.destination) == (one, "h")


def test_options_are_copied():
    """The caller may change the mapping later."""
    options = {"Compression": "yes"}
    settings = Settings("h", options=options)
    options["Compression"] = "no"
    assert settings.options == {"Compression": "yes"}


# --- connection_kwargs ---


def test_our_own_names_are_taken_as_they_are():
    """Those of Connection."""
    kwargs = {
        "user": "u",
        "port": 1,
        "config_file": "c",
        "identity_file": "i",
        "jump_host": "j",
        "connect_timeout": 1,
        "keepalive": 2,
        "python": "p",
        "options": {"A": "b"},
    }
    assert translate_connection_kwargs(kwargs) == kwargs


def test_the_names_of_paramiko_and_fabric_are_translated():
    """Those with a meaning in OpenSSH, also inside connect_kwargs."""
    translated = translate_connection_kwargs(
        {
            "gateway": "j",
            "connect_kwargs": {
                "username": "u",
                "key_filename": ["k"],
                "timeout": 3,
                "allow_agent": False,
                "look_for_keys": False,
            },
        }
    )
    assert translated == {
        "user": "u",
        "identity_file": "k",
        "connect_timeout": 3,
        "jump_host": "j",
        "options": {"IdentityAgent": "none", "IdentitiesOnly": "yes"},
    }


def test_what_is_none_or_the_default_is_not_given():
    """paramiko writes None for it, and True for what ssh does anyway."""
    kwargs = {"username": None, "allow_agent": True, "look_for_keys": True, "connect_kwargs": None}
    assert translate_connection_kwargs(kwargs) == {}


def test_an_unknown_name_is_refused_with_all_known_ones():
    """Nothing is silently ignored."""
    with pytest.raises(ValueError, match=r"Unknown .*: banner_timeout, pkey; known are .*timeout"):
        translate_connection_kwargs({"banner_timeout": 1, "connect_kwargs": {"pkey": 1}})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"user": "a", "username": "b"},
        {"username": "a", "connect_kwargs": {"username": "b"}},
        {"identity_file": "a", "key_filename": "b"},
        {"allow_agent": False, "options": {"identityagent": "/run/agent"}},
        {"gateway": object()},
        {"allow_agent": "no"},
        {"key_filename": ["a", "b"]},
        {"options": "Compression=yes"},
        {"connect_kwargs": "x"},
    ],
)
def test_what_contradicts_itself_or_has_no_meaning_is_refused(kwargs):
    """With a ValueError, before any process starts."""
    with pytest.raises(ValueError, match="|".join(kwargs)):
        translate_connection_kwargs(kwargs)


def test_two_passwords_that_differ_are_in_no_message():
    """A message is shown and logged."""
    kwargs = {"password": "sesame", "connect_kwargs": {"password": "barley"}}
    with pytest.raises(ValueError, match="password") as caught:
        translate_connection_kwargs(kwargs)
    assert "sesame" not in str(caught.value)
    assert "barley" not in str(caught.value)


def test_two_spellings_that_agree_are_fine():
    """There is nothing to choose."""
    assert translate_connection_kwargs({"user": "a", "username": "a"}) == {"user": "a"}


# --- versions ---


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u6, OpenSSL 3.0.19 27 Jan 2026", (9, 2)),
        ("OpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w  11 Sep 2023", (8, 4)),
        ("OpenSSH_10.0p2 Debian-7+deb13u4, OpenSSL 3.5.7 9 Jun 2026", (10, 0)),
        ("OpenSSH_9.0p1, LibreSSL 3.3.6", (9, 0)),
        ("OpenSSH_7.4p1-FIPS, OpenSSL 1.0.2k-fips  26 Jan 2017", (7, 4)),
        ("warning: something else first\nOpenSSH_8.0p1, OpenSSL 1.1.1k  FIPS 25 Mar 2021", (8, 0)),
    ],
)
def test_the_version_is_read_from_what_ssh_says(text, version):
    """Of Debian, Red Hat and macOS."""
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Dropbear v2020.81", "not OpenSSH"),
        ("", "not OpenSSH"),
        ("OpenSSH_6.9p1, OpenSSL 1.0.2", "7.0 or later"),
        ("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", "control master"),
    ],
)
def test_an_ssh_that_cannot_be_used_is_refused_with_what_it_printed(text, reason):
    """With the cure."""
    with pytest.raises(LazyclusterError, match=reason) as caught:
        parse_version(text)
    assert text[:20] in str(caught.value)


def fake_ssh(folder, version):
    path = folder / "ssh"
    path.write_text(f'#!/bin/sh\necho asked >>"{folder}/asked"\necho OpenSSH_{version}p1 >&2\n')
    path.chmod(0o755)


def test_the_version_is_asked_once_for_each_ssh(tmp_path, monkeypatch):
    """A different PATH is a different ssh."""
    for name, version in (("one", "8.1"), ("two", "9.9")):
        (tmp_path / name).mkdir()
        fake_ssh(tmp_path / name, version)
    monkeypatch.setenv("PATH", str(tmp_path / "one"), prepend=os.pathsep)
    assert [ssh_version(), ssh_version()] == [Version(8, 1)] * 2
    monkeypatch.setenv("PATH", str(tmp_path / "two"), prepend=os.pathsep)
    assert ssh_version() == Version(9, 9)
    assert (tmp_path / "one" / "asked").read_text() == "asked\n"


def test_without_ssh_the_error_names_the_package(tmp_path, monkeypatch):
    """Not a FileNotFoundError from somewhere below."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LazyclusterError, match="openssh-client"):
        ssh_version()


def test_an_ssh_that_cannot_be_run_is_a_clear_error(tmp_path, monkeypatch):
    """The file is there, and executable, and no program."""
    (tmp_path / "ssh").write_text("\0")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LazyclusterError, match="does not work"):
        ssh_version()


# --- the control path ---


def test_the_limit_leaves_room_for_what_ssh_appends(monkeypatch):
    """17 bytes and a NUL, of 108 on Linux and 104 elsewhere."""
    monkeypatch.setattr(sys, "platform", "linux")
    assert control_path_limit() == 90
    monkeypatch.setattr(sys, "platform", "darwin")
    assert control_path_limit() == 86


def test_the_system_takes_a_socket_as_long_as_ssh_would_bind(tmp_path, monkeypatch):
    """The limit and the 17 bytes that ssh adds fit, one more does not."""
    monkeypatch.chdir("/")
    folder = "/tmp"
    longest = f"{folder}/" + "x" * (control_path_limit() - len(folder) - 1) + "." + "y" * 16
    with socket.socket(socket.AF_UNIX) as unix:
        with pytest.raises(OSError, match="too long"):
            unix.bind(longest + "zz")
        # To connect checks the length as well, and makes nothing.
        with pytest.raises(FileNotFoundError):
            unix.connect(longest)


def test_a_control_path_at_the_limit_is_fine_and_a_longer_one_is_refused():
    """In bytes, not letters; the error names the folder and the limit."""
    limit = control_path_limit()
    check_control_path("/" + "x" * (limit - 1))
    with pytest.raises(LazyclusterError, match=rf"'/tmp/ü'.*{limit}.*XDG_RUNTIME_DIR"):
        check_control_path("/tmp/ü/" + "x" * (limit - 7))


def test_a_control_path_that_ssh_would_expand_is_refused():
    """`${` has no escape: "env var ${FOO} has no value"."""
    with pytest.raises(LazyclusterError, match="environment variable"):
        check_control_path("/tmp/${FOO}/s")


def test_reserved_options_are_all_those_that_the_master_gets():
    """A new option of the master is refused from users without another list."""
    given = {
        words[i + 1].partition("=")[0].lower()
        for words in [argv()]
        for i, word in enumerate(words)
        if word == "-o"
    }
    assert given <= RESERVED_OPTIONS


# --- mux clients ---

CLIENTS = [
    run_argv("/run/x/s", "/run/x/log", "true"),
    check_argv("/run/x/s"),
    forward_argv("/run/x/s", "forward", "-L", 1, 2),
    forward_argv("/run/x/s", "cancel", "-R", 0, 2),
    probe_argv("/run/x/s", 1),
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
    words = forward_argv("/s", action, flag, 80, 8080)
    assert words[words.index("-O") + 1] == action
    assert words[words.index(flag) + 1] == "127.0.0.1:80:localhost:8080"


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
