"""Variables in texts: expanded as a shell does in double quotes, and nothing else."""

from __future__ import annotations

import os
import subprocess

import pytest

from lazycluster._shared import paths


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("NAME", "value with  blanks $HOME `id`")
    monkeypatch.setenv("_N1", "\udcff")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("MISSING", raising=False)


EXPANDED = ["$NAME", "${NAME}", "a$NAME-b${NAME}c", "$NAME$NAME", "$_N1", "$EMPTY|", "$MISSING|"]
LITERAL = [
    "",
    "$",
    "$$",
    "$1",
    "${",
    "${}",
    "${1}",
    "${NAME",
    "${NAME:-x}",
    "$(id)",
    "`id`",
    "\\$",
    '"',
    "a\nb",
    "{NAME}",
]


def shell_text(text: str) -> str:
    """What a shell prints for a text of which only variables are meant."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'printf "%s" "{text}"'], stdout=subprocess.PIPE, check=True
    )
    return os.fsdecode(done.stdout)


@pytest.mark.parametrize("text", EXPANDED)
def test_variables_are_expanded_as_a_shell_does(text):
    """Their values are not looked at again."""
    assert paths.expand_variables(text) == shell_text(text)


@pytest.mark.parametrize("text", LITERAL)
def test_everything_else_is_literal(text):
    """Nothing in data is ever run."""
    assert paths.expand_variables(text) == text


def test_a_dollar_before_a_variable_is_literal():
    """`$$` is not the number of a process."""
    assert paths.expand_variables("$$EMPTY") == "$"


def test_pwd_is_the_current_folder(monkeypatch, tmp_path):
    """Whatever the environment says; the path that was inherited if it leads there."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path / "link")
    for inherited in ("/nonexistent", "/", "link", str(tmp_path / "link")):
        monkeypatch.setenv("PWD", inherited)
        assert paths.expand_variables("${PWD}") == shell_text("${PWD}")
    assert paths.expand_variables("$PWD") == str(tmp_path / "link")
