"""The translation of the `connection_kwargs` of paramiko and fabric."""

from __future__ import annotations

import traceback

import pytest

from lazycluster._fabric.kwargs import translate_connection_kwargs


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
            "forward_agent": True,
            "inline_ssh_env": False,
            "connect_kwargs": {
                "username": "u",
                "key_filename": ["b", "a"],
                "timeout": 3,
                "allow_agent": False,
                "look_for_keys": False,
                "compress": True,
            },
        }
    )
    assert translated == {
        "user": "u",
        "identity_file": ["b", "a"],
        "connect_timeout": 3,
        "jump_host": "j",
        "options": {"IdentityAgent": "none", "Compression": "yes", "ForwardAgent": "yes"},
    }


def test_what_is_none_or_the_default_is_not_given():
    """paramiko writes None for it, and True or False for what ssh does anyway."""
    kwargs = {
        "username": None,
        "allow_agent": True,
        "look_for_keys": True,
        "key_filename": [],
        "pkey": None,
        "gss_auth": False,
        "gss_kex": False,
        "gss_deleg_creds": True,
        "connect_kwargs": None,
    }
    assert translate_connection_kwargs(kwargs) == {}


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("compress", False, {"Compression": "no"}),
        ("forward_agent", False, {"ForwardAgent": "no"}),
        ("look_for_keys", False, {"IdentityFile": "none"}),
    ],
)
def test_what_is_switched_off_overrides_ssh_config(name, value, options):
    """A key that is named takes the place of those that ssh looks for, see above."""
    assert translate_connection_kwargs({name: value}) == {"options": options}


@pytest.mark.parametrize("gateway", ["ssh -W %h:%p jump", "nc --proxy x %h %p"])
def test_a_gateway_with_a_blank_is_a_proxy_command(gateway):
    """As fabric has it; without a blank it is a host, which a ProxyCommand cannot be."""
    assert translate_connection_kwargs({"gateway": gateway}) == {
        "options": {"ProxyCommand": gateway}
    }
    assert translate_connection_kwargs({"gateway": "jump"}) == {"jump_host": "jump"}
    assert translate_connection_kwargs({"gateway": False}) == {"jump_host": "none"}


def test_the_certificate_of_a_key_names_the_key():
    """ssh finds the certificate beside the key."""
    translated = translate_connection_kwargs({"key_filename": ["k-cert.pub", "l"]})
    assert translated == {"identity_file": ["k", "l"]}


def test_a_password_is_the_passphrase_of_a_key_as_well():
    """As with paramiko; a passphrase of its own counts more."""
    kwargs = {"key_filename": "k", "password": "x"}
    assert translate_connection_kwargs(kwargs)["passphrase"] == "x"
    assert translate_connection_kwargs({**kwargs, "passphrase": "y"})["passphrase"] == "y"
    assert "passphrase" not in translate_connection_kwargs({"password": "x"})


@pytest.mark.parametrize(
    ("kwargs", "seconds"),
    [
        ({"timeout": 5}, 5),
        ({"banner_timeout": 200}, 230),
        ({"timeout": 5, "banner_timeout": 15, "auth_timeout": 30.5}, 50.5),
        ({"connect_timeout": 10, "channel_timeout": 5}, 15),
        ({"auth_timeout": 1}, 31),
    ],
)
def test_the_times_of_phases_add_up_to_the_time_of_the_login(kwargs, seconds):
    """So no login ends sooner than with paramiko; ssh has one limit, by default 30 s."""
    assert translate_connection_kwargs(kwargs) == {"connect_timeout": seconds}


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("pkey", object(), "identity_file.*ssh-add"),
        ("sock", object(), "jump_host.*ProxyCommand"),
        ("disabled_algorithms", {"kex": ["x"]}, "options.*KexAlgorithms"),
        ("transport_factory", object, "leave it out"),
        ("auth_strategy", object(), "password"),
        ("gss_auth", True, "GSSAPIAuthentication"),
        ("gss_kex", True, "GSSAPIKeyExchange"),
        ("config", object(), "by their names"),
    ],
)
def test_what_ssh_cannot_do_is_refused_with_the_cure(name, value, cure):
    """By its name, also inside connect_kwargs, and without its value."""
    for kwargs in ({name: value}, {"connect_kwargs": {name: value}}):
        with pytest.raises(ValueError, match=f"^{name} .*{cure}") as caught:
            translate_connection_kwargs(kwargs)
        assert repr(value) not in str(caught.value)


def test_an_unknown_name_is_refused_with_all_known_ones():
    """Nothing is silently ignored."""
    known = ".*".join(sorted(["auth_timeout", "compress", "gateway", "key_filename", "timeout"]))
    with pytest.raises(ValueError, match=f"Unknown .*: timeuot, x; known are .*{known}"):
        translate_connection_kwargs({"timeuot": 1, "connect_kwargs": {"x": 1}})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"user": "a", "username": "b"},
        {"username": "a", "connect_kwargs": {"username": "b"}},
        {"identity_file": "a", "key_filename": "b"},
        {"allow_agent": False, "options": {"identityagent": "/run/agent"}},
        {"compress": True, "options": {"Compression": "no"}},
        {"gateway": "a", "jump_host": "b"},
        {"gateway": object()},
        {"gateway": True},
        {"allow_agent": "no"},
        {"compress": 9},
        {"banner_timeout": 0},
        {"auth_timeout": "5"},
        {"channel_timeout": float("nan")},
        {"timeout": -1, "auth_timeout": 1},
        {"options": "Compression=yes"},
        {"connect_kwargs": "x"},
    ],
)
def test_what_contradicts_itself_or_has_no_meaning_is_refused(kwargs):
    """With a ValueError, before any process starts."""
    with pytest.raises(ValueError, match="|".join([*kwargs, "connect_timeout"])):
        translate_connection_kwargs(kwargs)


class Secret:
    def __repr__(self):
        return "sesame"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"password": "sesame", "connect_kwargs": {"password": "barley"}},
        {"connect_kwargs": "password=sesame"},
        {"options": "password=sesame"},
        {"gateway": Secret()},
        {"pkey": Secret()},
        {"allow_agent": Secret()},
        {"pasword": "sesame"},
    ],
)
def test_no_value_that_may_be_a_secret_is_in_a_message(kwargs):
    """A message is shown and logged."""
    with pytest.raises(ValueError, match=next(iter(kwargs))) as caught:
        translate_connection_kwargs(kwargs)
    text = "".join(traceback.format_exception_only(caught.type, caught.value))
    assert "sesame" not in text
    assert "barley" not in text


def test_two_values_are_refused_without_being_shown():
    """A ValueError; the keyword of a Runtime counts as a spelling too."""
    given = {"username": "a", "password": "b"}
    for name in ("user", "password"):
        with pytest.raises(ValueError, match=f"{name} is given twice") as caught:
            translate_connection_kwargs(given, {name: "my-secret"})
        assert "my-secret" not in str(caught.value)


def test_two_spellings_that_agree_are_fine():
    """There is nothing to choose."""
    assert translate_connection_kwargs({"user": "a", "username": "a"}) == {"user": "a"}
