"""What the library's own source must not contain."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path

import pytest

import lazycluster
from lazycluster._conversation.host_sources import read_source
from lazycluster._ssh.scripts import read_script
from lazycluster.exceptions import LazyclusterError


def test_no_shell_true_in_the_library():
    """Only argv is ever run on the manager."""
    import lazycluster

    folder = Path(lazycluster.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text()
        assert "shell=True" not in text, path
        assert "os.system" not in text, path
        assert "os.popen" not in text, path


def test_f43_no_module_asks_the_wall_clock():
    """Only the names of log files have the wall clock's time, and the times of files are its."""
    folder = Path(lazycluster.__file__).parent
    for path in set(folder.rglob("*.py")) - {folder / "_functions" / "sources.py"}:
        assert not re.search(r"\btime\.time(_ns)?\(|\bdatetime\b", path.read_text()), path


def test_no_module_of_the_manager_closes_by_what_gevent_replaces():
    """gevent's `os.close` closes later, see `_ssh.lifelines`; on hosts nothing is replaced."""
    folder = Path(lazycluster.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text().replace("`os.close`", "")
        assert "_remote" in path.parts or "os.close" not in text, path


NO_MAIN_THREAD = {
    ("_conversation/writer.py", "_run"),  # the writer's own thread
    ("_group/files.py", "_follow"),  # a thread of its own
    ("_pool/scheduler.py", "_close"),  # the Pool's thread
    ("_ssh/master.py", "wait"),  # the reader thread, and ssh has been killed
    ("_ssh/mux.py", "control"),  # the client has been killed
    ("_ssh/resolved.py", "_output_of"),  # the program has been killed
    ("_ssh/run.py", "_stop"),  # the client has been killed
}
"""Functions that wait without a bound, but not in the main thread or for what ends at once."""


def test_no_wait_of_the_main_thread_is_without_a_bound():
    """A signal may come just before it, and its handler would run after it; see `_waits`."""
    folder = Path(lazycluster.__file__).parent
    found = set()
    for path in folder.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and any(map(is_endless, ast.walk(function))):
                found.add((path.relative_to(folder).as_posix(), function.name))
    assert {(path, name) for path, name in found if "_remote" not in path} == NO_MAIN_THREAD


def is_endless(node):
    """Return True for a wait for a lock, a thread or a process that is given no time."""
    if not isinstance(node, ast.Call) or node.args or node.keywords:
        return False
    *_, owner, name = ["", *ast.unparse(node.func).split(".")]
    return name in ("wait", "join", "acquire", "communicate", "result") and owner not in OWN


OWN = {"request", "self", "execution", "_records", "records", "master"}
"""Objects of the library, whose waits are looked at themselves."""


@pytest.mark.parametrize("read", [read_script, read_source])
def test_a_file_that_was_not_packed_is_an_error_with_the_cure(read):
    """PyInstaller packs modules alone unless it is told otherwise."""
    with pytest.raises(LazyclusterError, match=r"not packed .*--collect-all lazycluster"):
        read("none")


def test_pyinstaller_finds_the_hook():
    """By the entry point of the distribution; the file has the name that PyInstaller looks for."""
    points = importlib.metadata.distribution("lazycluster").entry_points
    (point,) = [point for point in points if point.group == "pyinstaller40"]
    (folder,) = point.load()()
    assert Path(folder, "hook-lazycluster.py").exists()
