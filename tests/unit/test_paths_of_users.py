"""What every parameter that takes a path makes of it; no host."""

from __future__ import annotations

import os

import pytest

from lazycluster import Connection, Environment, Runtime, RuntimeTask
from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster._runtime.calls import Options
from lazycluster._ssh.settings import Settings
from lazycluster._tasks import log_files


class OnlyPath:
    """An os.PathLike that is nothing else: `str()` of it is not its path."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def main_directory(path, set_it):
    try:
        set_it(path)
        return Environment.main_directory
    finally:
        log_files._chosen = None


# What takes only paths, and what it makes of one.
PATHS = {
    "send_file, local": lambda path: RuntimeTask().send_file(path, "x").steps,
    "send_file, remote": lambda path: RuntimeTask().send_file("x", path).steps,
    "get_file, local": lambda path: RuntimeTask().get_file("x", path).steps,
    "get_file, remote": lambda path: RuntimeTask().get_file(path, "x").steps,
    "config_file": lambda path: Settings("h", config_file=path).config_file,
    "identity_file": lambda path: Settings("h", identity_file=path).identity_file,
    "identity_files": lambda path: Settings("h", identity_file=[path, path]).identity_file,
    "cwd": lambda path: Options().replaced(cwd=path).cwd,
    "main_directory": lambda path: main_directory(
        path, lambda value: setattr(Environment, "main_directory", value)
    ),
    "set_main_directory": lambda path: main_directory(path, Environment.set_main_directory),
}
# What takes something else too.
WORDS = {
    "options": lambda path: Settings("h", options={"UserKnownHostsFile": path}).options,
    "python": lambda path: Connection("h", python=path)._settings.python,
    "shell": lambda path: Options().replaced(shell=path).shell,
    "shell of a step": lambda path: RuntimeTask().run_command("id", shell=path).steps[0].shell,
}
# What meets a host before it returns: here only the errors.
OF_A_HOST = {
    "working_dir": lambda path: Runtime("h", path),
    "working_dir, assigned": lambda path: setattr(new(Runtime), "working_dir", path),
    "create_dir": lambda path: new(Runtime).create_dir(path),
    "delete_dir": lambda path: new(Runtime).delete_dir(path),
    "Runtime.send_file": lambda path: new(Runtime).send_file(path),
    "Runtime.get_file": lambda path: new(Runtime).get_file(path),
    "send, local": lambda path: Connection("h").send(path, "x"),
    "send, remote": lambda path: Connection("h").send("x", path),
    "get, local": lambda path: Connection("h").get("x", path),
    "get, remote": lambda path: Connection("h").get(path, "x"),
}


TAKES_BYTES = (PATHS["send_file, local"], OF_A_HOST["Runtime.send_file"])


def new(of):
    return object.__new__(of)


@pytest.mark.parametrize("take", {**PATHS, **WORDS}.values(), ids={**PATHS, **WORDS})
def test_a_path_is_a_string_or_any_path_like(take, tmp_path, no_process):
    file = tmp_path / "file"
    file.write_text("")
    assert take(OnlyPath(str(file))) == take(file) == take(str(file))
    assert str(file) in str(take(file))


BAD = {"bytes": b"/tmp", "PathLike of bytes": OnlyPath(b"/tmp"), "number": 5, "list": ["/tmp"]}


@pytest.mark.parametrize("path", BAD.values(), ids=BAD)
@pytest.mark.parametrize("take", {**PATHS, **OF_A_HOST}.values(), ids={**PATHS, **OF_A_HOST})
def test_what_is_not_a_path_is_a_type_error(take, path, no_process):
    """It names the cure, before any process starts."""
    if isinstance(path, list) and take is PATHS["identity_file"]:
        pytest.skip("takes several paths")
    if isinstance(path, bytes) and take in TAKES_BYTES:
        pytest.skip("bytes are the contents of a file")
    cure = r"os\.fsdecode" if path in (b"/tmp", BAD["PathLike of bytes"]) else r"os\.PathLike"
    with pytest.raises(TypeError, match=cure):
        take(path)


@pytest.mark.parametrize("take", WORDS.values(), ids=WORDS)
def test_a_path_like_of_bytes_is_not_a_word(take, no_process):
    with pytest.raises(TypeError, match=r"os\.fsdecode"):
        take(OnlyPath(b"/tmp"))


@pytest.mark.parametrize("take", {**PATHS, **OF_A_HOST}.values(), ids={**PATHS, **OF_A_HOST})
def test_a_path_that_cannot_be_is_a_value_error(take, no_process):
    with pytest.raises(ValueError, match=r"NUL|path of a file"):
        take(OnlyPath("a\0b"))


def test_a_path_is_one_word_of_a_command_line(no_process):
    """Whatever it contains; a home directory is found by the host's shell."""
    path = OnlyPath("/opt/my python; id")
    assert Options().replaced(shell=path).shell == (path.path,)
    assert Connection("h", python=path)._settings.python == "'/opt/my python; id'"
    assert Connection("h", python=OnlyPath("~/a b"))._settings.python == "~/'a b'"


def test_the_name_of_a_task_shows_the_path(no_process):
    """And not what `str()` makes of the object."""
    (sent,) = RuntimeTask().send_file(OnlyPath("a"), OnlyPath("b")).steps
    (got,) = RuntimeTask().get_file(OnlyPath("a"), OnlyPath("b")).steps
    assert (sent.name, got.name) == ("send a", "get a")


def test_a_key_of_paramiko_is_a_path_too():
    """paramiko may name its certificate."""
    found = translate_connection_kwargs({"key_filename": OnlyPath("/k-cert.pub")})
    assert found == translate_connection_kwargs({"key_filename": "/k-cert.pub"})
    assert os.fspath(found["identity_file"]) == "/k"
