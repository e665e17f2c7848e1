"""What a host printed, on its way to a person."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycluster._text import escaped, last_lines, one_line, output_line, show
from lazycluster.exceptions import LazyclusterError


class Terminal(io.StringIO):
    """A standard output that says that it is a terminal."""

    def isatty(self):
        return True


@settings(deadline=None)
@given(st.text())
def test_escaped_text_has_no_control_characters_but_tab_and_line_feed(text):
    """And can be written in UTF-8; what is harmless stays as it is."""
    result = escaped(text)
    result.encode()
    assert all(c in "\t\n" or not (c < " " or "\x7f" <= c <= "\x9f") for c in result)
    assert escaped(result) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("good\rbad", "good\\rbad"),
        ("\x9b31m", "\\x9b31m"),
        ("a\x08b\x7f", "a\\x08b\\x7f"),
        ("tab\tline\nü日本🎉", "tab\tline\nü日本🎉"),
        ("\udcff", "\\udcff"),
        ("\\x1b", "\\x1b"),
    ],
)
def test_control_characters_are_shown(text, result):
    """As Python writes them."""
    assert escaped(text) == result


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[31mred\x1b[0m\n", "\x1b[31mred\x1b[0m\n"),  # pytest
        (
            "\x1b[01;31m\x1b[Kerror\x1b[m\x1b[K\n",
            "\x1b[01;31m\x1b[Kerror\x1b[m\x1b[K\n",
        ),  # gcc, grep
        ("\x1b[38;2;1;2;3mx\x1b[38:5:9my\n", "\x1b[38;2;1;2;3mx\x1b[38:5:9my\x1b[0m\n"),
        ("10%\r20%\r\x1b[K30%\n", "10%\r20%\r\x1b[K30%\n"),
        ("10%\r", "10%\r"),
        ("dos\r\n", "dos\n"),
        ("no end", "no end"),
        ("", ""),
        ("\x1b[2J\x1b[2K\x1b[1A\x1b[H\n", "\\x1b[2J\\x1b[2K\\x1b[1A\\x1b[H\n"),
        ("\x1b[>4;2m\x1b[?25l\x1b[6n\x1bc\n", "\\x1b[>4;2m\\x1b[?25l\\x1b[6n\\x1bc\n"),
        ("\x1b]0;title\x07\x9b31m\x08\n", "\\x1b]0;title\\x07\\x9b31m\\x08\n"),
        ("\x1b[31", "\\x1b[31"),
    ],
)
def test_output_may_have_colours_and_carriage_returns_on_a_terminal(line, shown):
    """What reaches beyond its line is shown by an escape, and a colour ends with its line."""
    assert output_line(line) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("one\n", "a: one\n"),
        ("\n", "a:\n"),
        ("1\rb: 2\n", "a: 1\ra: b: 2\n"),
        ("1\r\r", "a: 1\r"),
        ("\x1b[8mhidden\n", "a: \x1b[8mhidden\x1b[0m\n"),
    ],
)
def test_output_stays_behind_its_margin(line, shown):
    """So no line passes for one of another host, or for a heading."""
    assert output_line(line, "a: ") == shown


def test_a_terminal_gets_escaped_text(monkeypatch):
    """Nothing in it is obeyed."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    show("\x1b[2Jhi\n")
    assert sys.stdout.getvalue() == "\\x1b[2Jhi\n"


def test_what_is_no_terminal_gets_it_as_it_is(monkeypatch):
    """A file or a pipe keeps the colours."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    show("\x1b[2Jhi\n")
    assert sys.stdout.getvalue() == "\x1b[2Jhi\n"


def test_a_standard_output_that_only_writes_will_do(monkeypatch):
    """Programs put all kinds of things in its place."""

    class Writer:
        text = ""

        def write(self, text):
            self.text += text

    monkeypatch.setattr(sys, "stdout", Writer())
    show("hi\n")
    assert sys.stdout.text == "hi\n"


def test_f42_without_a_standard_output_nothing_happens(monkeypatch):
    """Python has None for a descriptor that was closed at the start."""
    monkeypatch.setattr(sys, "stdout", None)
    show("hi\n")


def test_f42_what_the_encoding_lacks_is_shown_by_backslashes(monkeypatch):
    """A task does not fail because of the locale it is watched with."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", newline=""))
    show("ü日\n")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\xfc\\u65e5\n"


def test_a_message_is_fit_for_a_terminal():
    """Whatever part of it came from a host."""
    assert str(LazyclusterError("It said \x1b[2J\r\n.")) == "It said \\x1b[2J\\r\n."


def test_a_real_terminal_is_one():
    """Python's own standard output, on a terminal and on a pipe."""
    code = "from lazycluster._text import show; show('\\x1b[2Jhi\\n')"
    argv = [sys.executable, "-c", code]
    path = os.pathsep.join([str(Path(sys.modules["lazycluster"].__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    piped = subprocess.run(argv, env=environment, capture_output=True, check=True)
    assert piped.stdout == b"\x1b[2Jhi\n"
    leader, follower = pty.openpty()
    try:
        subprocess.run(argv, env=environment, stdout=follower, check=True)
        assert os.read(leader, 100) == b"\\x1b[2Jhi\r\n"
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\x1b", "a\\nb\\x1b"),
        ("x" * 10, "xxxxxxxxxx"),
        ("x" * 11, "xxxxxxxxx…"),
        ("\u202eü日", "\\u202eü日"),
    ],
)
def test_one_line_is_one_line_whatever_is_in_it(text, line):
    """Bidirectional controls could show a text in another order than it is read."""
    assert one_line(text, 10) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n  \n", ""),
        ("one\n\ntwo.\nthree\t  3..\n\x1bfour\n", "two / three 3 / \\x1bfour"),
        ("debug1: x\nbad.\n", "bad"),
    ],
)
def test_the_last_three_lines_are_quoted(text, line):
    """Without what is noise."""
    assert last_lines(text, re.compile("^debug")) == line
