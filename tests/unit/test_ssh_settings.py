"""What the user asks of ssh: invalid input is refused before any process starts."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest

from lazycluster._ssh.settings import Settings


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
        ("orphan_timeout", -1),
        ("keepalive", math.nan), ("python", ""), ("python", " "), ("python", "a\nb"),
        ("python", "a\0b"), ("python", ["python3"]), ("jump_host", ""), ("jump_host", "-x"),
        ("jump_host", "a, b"), ("jump_host", "a,,b"), ("jump_host", "a$(x)"), ("jump_host", 7),
        ("jump_host", "a:99999"), ("config_file", "/no/such/file"), ("config_file", "/"),
        ("config_file", ""), ("identity_file", "/no/such/file"),
        ("identity_file", "none"), ("identity_file", []),
        ("identity_file", [None]), ("identity_file", ["/dev/null", "/no/such"]),
        ("options", "Compression=yes"), ("options", {"": "x"}), ("options", {"-o": "x"}),
        ("options", {"Bad Name": "x"}), ("options", {"A=b": "x"}), ("options", {7: "x"}),
        ("options", {"Compression": ""}), ("options", {"Compression": None}),
        ("options", {"User": "a\nb"}), ("options", {"User": "a\0b"}),
        ("options", {"User": "a\x1bb"}), ("options", {"User": "a", "user": "b"}),
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
    assert Settings("h", identity_file="key").identity_files == (str(tmp_path / "key"),)


def test_several_identity_files_stay_in_their_order(tmp_path):
    """Settings with them can still be hashed and compared."""
    keys = [tmp_path / "b", tmp_path / "a"]
    for key in keys:
        key.write_text("")
    settings = Settings("h", identity_file=keys)
    assert settings.identity_files == (str(keys[0]), str(keys[1]))
    assert hash(settings) == hash(Settings("h", identity_file=tuple(map(str, keys))))


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
