"""The translation of the `connection_kwargs` of paramiko and fabric."""

from __future__ import annotations

import pytest

from lazycluster._fabric_kwargs import translate_connection_kwargs


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
