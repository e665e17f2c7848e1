"""Which modules a function finds on a host: the manager's, the host's, and those sent as files."""

from __future__ import annotations

import importlib
import os
import sys

import pytest

from lazycluster import RuntimeTask

pytestmark = pytest.mark.every_python


def import_all(names):
    os.chdir("/")
    return [importlib.import_module(name).__file__ for name in names]


# ── the working directory ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["work", "a folder, Zoë"])
def test_a_function_imports_what_was_sent_as_a_file(make_runtime, tmp_path, name):
    """A module and a package; after a change of directory, too."""
    files = tmp_path / "files"
    (files / "lc_sent_package").mkdir(parents=True)
    (files / "lc_sent_package" / "__init__.py").write_text("")
    (files / "lc_sent_module.py").write_text("")
    runtime = make_runtime(working_dir=str(tmp_path / name))
    task = RuntimeTask().send_file(files / "lc_sent_module.py").send_file(files / "lc_sent_package")
    task.run_function(import_all, names=["lc_sent_module", "lc_sent_package"])
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [
        [f"{tmp_path}/{name}/lc_sent_module.py", f"{tmp_path}/{name}/lc_sent_package/__init__.py"]
    ]


def test_the_directory_of_a_call_is_on_its_path(make_runtime, tmp_path):
    """The one of `cwd=`, and only that; the temporary one of a Runtime otherwise."""
    runtime = make_runtime()
    runtime.run("mkdir below && echo 'X = 1' > below/lc_below.py && echo > lc_above.py")
    assert runtime.call(import_all, ["lc_above"]) == [f"{runtime.working_dir}/lc_above.py"]
    view = runtime.with_options(cwd="below")
    assert view.call(import_all, ["lc_below"]) == [f"{runtime.working_dir}/below/lc_below.py"]
    with pytest.raises(ModuleNotFoundError):
        view.call(import_all, ["lc_above"])


def test_the_standard_library_is_before_the_working_directory(make_runtime, tmp_path):
    """Also for the modules that nothing has imported yet."""
    names = ["json", "this", "mailbox", "multiprocessing.queues"]
    for name in names:
        (tmp_path / f"{name.partition('.')[0]}.py").write_text("raise ZeroDivisionError")
    runtime = make_runtime(working_dir=str(tmp_path))
    assert not any(str(tmp_path) in path for path in runtime.call(import_all, names))


def test_a_working_directory_on_the_path_already_is_not_there_twice(make_runtime, tmp_path):
    """And it is the last one otherwise, though a step before has changed the path."""

    def add(name):
        sys.path.insert(0, name)
        return sys.path

    runtime = make_runtime(working_dir=str(tmp_path))
    for _ in range(2):
        path = runtime.call(add, "/first")
        assert (path[0], path[-1], path.count(path[-1])) == ("/first", str(tmp_path), 1)
