"""What a user types can be neither an option of ssh nor shell text: it is refused, or one word."""

from __future__ import annotations

import os
import string

import pytest

from lazycluster import Connection
from lazycluster.exceptions import ConnectError

OPTIONS = ["-oProxyCommand=touch ran", "-oProxyCommand=touch${IFS}ran", "-E/tmp/ran", "--", "-"]


CONTROL = ["a\nb", "a\rb", "a\x1b[0mb", "a\0b", "a\x7fb", "a\x9bb", "a\u2028b", "a b", "a\tb"]


@pytest.mark.parametrize("text", [*OPTIONS, *CONTROL], ids=repr)
@pytest.mark.parametrize(
    "parameter",
    [
        lambda text: {"host": text},
        lambda text: {"host": f"me@{text}"},
        lambda text: {"host": f"{text}@host"},
        lambda text: {"host": f"ssh://{text}@host"},
        lambda text: {"host": f"ssh://me@{text}:22"},
        lambda text: {"host": "host", "user": text},
        lambda text: {"host": "host", "jump_host": text},
        lambda text: {"host": "host", "jump_host": f"jump,me@{text}"},
        lambda text: {"host": "host", "jump_host": f"{text}@jump"},
        lambda text: {"host": "host", "options": {text: "yes"}},
    ],
    ids=[
        "host",
        "at",
        "user-at",
        "url-user",
        "url-host",
        "user",
        "jump",
        "jump-2",
        "j-user",
        "opt",
    ],
)
def test_what_ssh_could_take_for_an_option_is_refused(parameter, text, no_process):
    """A ValueError before any process starts; also for blanks and control characters."""
    with pytest.raises(ValueError, match=r"host|user|options"):
        Connection(**parameter(text))


@pytest.mark.parametrize("text", ["a\nb", "a\nProxyCommand touch ran", "a\rb", "a\0b", "a\x1bb"])
def test_value_of_an_option_is_one_line(text, no_process):
    """It cannot hold a second option, and the error cannot hold escape codes for a terminal."""
    with pytest.raises(ValueError, match="options") as caught:
        Connection("host", options={"HostKeyAlias": text})
    assert str(caught.value).isprintable()


@pytest.fixture
def percent_config(tmp_path):
    """A config whose ProxyCommand and Match exec hand %h, %n and %r to a shell."""
    config = tmp_path / "config"
    config.write_text(
        f"Match exec \"echo %n %r >>'{tmp_path}/match'\"\n"
        "Host *\n"
        # As long as 3 is open ssh waits, and does not kill it.
        f"ProxyCommand echo %h %r 3>&1 >>'{tmp_path}/proxy'\n"
    )
    (tmp_path / "empty").mkdir()
    return config


INJECTIONS = [
    "$(touch ran)",
    "`touch ran`",
    "a;touch${IFS}ran",
    "a|touch${IFS}ran",
    "a&touch${IFS}ran",
    "'$(touch${IFS}ran)'",
    '"$(touch${IFS}ran)"',
    "a\ntouch ran",
    "${IFS}touch",
    ">ran",
    "<(touch${IFS}ran)",
    "a\\",
]


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("where", ["host", "user", "host-user", "jump_host"])
def test_what_a_proxy_command_would_run_is_refused(
    percent_config, where, text, no_process, tmp_path
):
    """CVE-2023-51385 and CVE-2025-61984: nothing of it comes so far as a shell."""
    keywords = {
        "host": {"host": text},
        "user": {"host": "host", "user": text},
        "host-user": {"host": f"{text}@host"},
        "jump_host": {"host": "host", "jump_host": text},
    }[where]
    with pytest.raises(ValueError, match=r"host|user"):
        Connection(config_file=percent_config, **keywords)
    assert sorted(os.listdir(tmp_path)) == ["config", "empty"]


@pytest.mark.parametrize("where", ["host", "user"])
def test_what_is_let_through_is_one_literal_word_of_a_proxy_command(
    percent_config, where, tmp_path, monkeypatch
):
    """All characters that are not refused reach the shell of a ProxyCommand as themselves."""
    monkeypatch.chdir(tmp_path / "empty")

    def connection(text):
        keywords = {"host": text} if where == "host" else {"host": "host", "user": text}
        return Connection(config_file=percent_config, connect_timeout=2, **keywords)

    let_through = ""
    for character in string.punctuation:
        try:
            connection(f"a{character}b")
        except ValueError:
            continue
        # In a host @ ends the user; a shell takes the backslash of DOMAIN\\user away, and no more.
        if character not in ("@" if where == "host" else "\\"):
            let_through += character
    assert set("._-") <= set(let_through)
    assert not set("$`;&|<>()'\"") & set(let_through)
    word = f"a{let_through}b"
    with pytest.raises(ConnectError):
        connection(word).open()
    # In the place of the other is what the developer is called.
    lines = set((tmp_path / "proxy").read_text().splitlines())  # one for each try
    (words,) = [line.split() for line in lines]
    assert len(words) == 2
    assert words[0 if where == "host" else 1] == word
    assert os.listdir(tmp_path / "empty") == []


def test_python_is_the_one_command_line_beside_run_command(no_process):
    """It is read by a shell, as documented; a line break cannot be in it."""
    with pytest.raises(ValueError, match="python"):
        Connection("host", python="python3\ntouch ran")
