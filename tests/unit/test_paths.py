"""Variables in texts: expanded as a shell does in double quotes, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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


# --- Paths ---


@pytest.fixture
def home(monkeypatch, tmp_path):
    """The home directory, reached through a link, with a folder that leads elsewhere."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("/usr/bin")
    path = str(tmp_path / "home")
    monkeypatch.setenv("HOME", path)
    monkeypatch.chdir(path)
    monkeypatch.setenv("PWD", path)
    return path


@pytest.mark.parametrize("start", ["~", "$HOME", "${HOME}"])
@pytest.mark.parametrize("rest", ["", "/", "/a b", "/a/$HOME/~/${HOME}"])
def test_home_directory_at_the_start_of_a_path_is_expanded(home, start, rest):
    """Links on the way to it stay in the path."""
    assert paths.expand(start + rest) == home + rest


@pytest.mark.parametrize(
    "path",
    [
        "$HOME2",
        "$HOMEX/a",
        "${HOME}x",
        "${HOME}a/b",
        "$HOME ",
        "$HOME\n",
        "$USER/a",
        "${PWD}/a",
        "$(id)",
        "`id`",
        "*",
        "a/~",
        "a/$HOME",
        "./x/${HOME}",
        "\\$HOME",
        "$home",
        "${HOME",
        "$",
    ],
)
def test_everything_else_in_a_path_is_literal(home, path):
    """No other variable is expanded, and no variable elsewhere."""
    expected = path[len("./") :] if path.startswith("./") else path
    assert paths.expand(path) == f"{home}/{expected}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("//", "/"),
        ("//a//b/", "/a/b/"),
        ("/a/./b/.", "/a/b/"),
        ("/..", "/.."),
        ("/a/.../b", "/a/.../b"),
        ("/a./b", "/a./b"),
        ("/nonexistent/../b", "/nonexistent/../b"),
    ],
)
def test_an_absolute_path_stays_as_it_is(path, expected):
    """But for what means nothing."""
    assert paths.expand(path) == expected


@pytest.mark.parametrize("path", ["link/../share/x", "deep/../link/y", "no/../such", "..", "a/.."])
def test_two_dots_are_left_to_the_system(home, path):
    """Behind a link they do not lead to the folder with the link."""
    assert paths.expand(path) == f"{home}/{path}"
    assert paths.absolute(f"./{path}/.") == f"{os.path.realpath(home)}/{path}/"


def test_two_dots_in_the_path_of_a_directory_are_resolved_as_the_system_does(home):
    """No shell takes a PWD with `..`. Links behind it stay."""
    assert paths.expand_directory("link/../share/x") == os.path.realpath("/usr/bin/..") + "/share/x"
    assert paths.expand_directory("deep/../link/") == os.path.realpath(home) + "/link"
    assert paths.expand_directory("/..") == paths.expand_directory("/") == "/"


@pytest.mark.parametrize("path", ["no/../such", "file/../deep", "file/.."])
def test_two_dots_that_lead_nowhere_are_not_resolved(home, path):
    """The system reports them, whatever they would mean as text."""
    Path(home, "file").touch()
    assert paths.expand_directory(path) == f"{home}/{path}"


def test_a_relative_path_begins_at_the_folder_that_is_given(home):
    """Other paths have nothing to do with it."""
    for path, expected in [
        ("a", "/f/a"),
        (".", "/f/"),
        ("../a", "/f/../a"),
        ("/a", "/a"),
        ("~/a", f"{home}/a"),
    ]:
        assert paths.expand(path, "/f") == expected


def test_an_absolute_path_needs_no_current_folder(tmp_path, monkeypatch):
    """It may have gone."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert paths.expand("/a") == "/a"
    with pytest.raises(FileNotFoundError):
        paths.expand("a")
