"""Functions of programs that are started in every way that Python knows."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path

import pytest

from support.waiting import TIMEOUT

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]

PACKAGES = str(Path(__import__("lazycluster").__file__).parents[1])

SCRIPT = """
import os
import sys
import tools_4721
from lazycluster import Runtime

class Result:
    def __init__(self, number):
        self.number = number

def double(number):
    return 2 * number

def work(number):
    from tools_4721 import one
    return Result(double(number) + one() + tools_4721.one())

def fail():
    raise ValueError("why")  # this line

runtime = Runtime(os.environ["ALIAS"], config_file=os.environ["CONFIG_FILE"])
value = runtime.call(work, 3)
print(type(value) is Result, value.number)
try:
    runtime.call(fail)
except ValueError as error:
    print("# this line" in str(error.__cause__))
runtime.close()
"""

TOOLS = "def one():\n    return 1\n"


@pytest.fixture
def run(host_sshd, tmp_path):
    """Return a function that runs Python in a folder with the script, and returns its output."""
    (tmp_path / "tools_4721.py").write_text(TOOLS)
    (tmp_path / "script_4721.py").write_text(SCRIPT)

    def run(*words, text=None):
        environment = {**os.environ, "PYTHONPATH": PACKAGES, "ALIAS": host_sshd.alias}
        done = subprocess.run(
            [sys.executable, *words],
            input=text or "",
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**environment, "CONFIG_FILE": str(host_sshd.config_file)},
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_a_script(run):
    assert run("script_4721.py") == ["True 8", "True"]


def test_a_script_that_is_found_by_a_link(run, tmp_path):
    """Its folder is the one of the file that the link leads to."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link.py").symlink_to(tmp_path / "script_4721.py")
    assert run("links/link.py") == ["True 8", "True"]


def test_a_module_by_m(run):
    assert run("-m", "script_4721") == ["True 8", "True"]


def test_a_package_by_m(run, tmp_path):
    """With relative imports in `__main__`."""
    package = tmp_path / "package_4721"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "more.py").write_text("def one():\n    return 1\n")
    text = SCRIPT.replace("import tools_4721", "from . import more as tools_4721")
    text = text.replace("from tools_4721 import one", "from .more import one")
    (package / "__main__.py").write_text(text)
    assert run("-m", "package_4721") == ["True 8", "True"]


def test_a_command_by_c(run):
    """Python knows the lines of such code since 3.13."""
    assert run("-c", SCRIPT)[0] == "True 8"


def test_standard_input(run):
    assert run("-", text=SCRIPT)[0] == "True 8"


def test_the_prompt(run):
    """Statement by statement, each compiled under the name <stdin>."""
    text = SCRIPT.replace("\n    print(type", "\nprint(type")
    lines = run("-i", "-q", text=text.replace("\n\n", "\n\n\n") + "\n\n")
    assert "True 8" in [line.lstrip("> .") for line in lines]


def test_a_folder_and_a_zip_with_a_main(run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "__main__.py").write_text(SCRIPT)
    (folder / "tools_4721.py").write_text(TOOLS)
    (tmp_path / "tools_4721.py").unlink()
    assert run("folder") == ["True 8", "True"]
    zipapp.create_archive(folder, tmp_path / "app.pyz")
    assert run("app.pyz") == ["True 8", "True"]


def test_a_script_that_runpy_or_a_profiler_runs(run, tmp_path):
    """Debuggers and coverage.py do the same."""
    (tmp_path / "run.py").write_text(
        "import runpy\nrunpy.run_path('script_4721.py', run_name='__main__')\n"
    )
    assert run("run.py") == ["True 8", "True"]
    assert run("-m", "cProfile", "-o", "profile", "script_4721.py")[:2] == ["True 8", "True"]


def test_doctest(run, tmp_path):
    (tmp_path / "documented_4721.py").write_text(
        textwrap.dedent(
            '''
            def double(x):
                """
                >>> import os
                >>> from lazycluster import Runtime
                >>> runtime = Runtime(os.environ["ALIAS"], config_file=os.environ["CONFIG_FILE"])
                >>> runtime.call(double, 2)
                4
                >>> def again(x):
                ...     return double(double(x))
                >>> runtime.call(again, 2)
                8
                >>> runtime.close()
                """
                return 2 * x
            '''
        )
    )
    assert run("-m", "doctest", "documented_4721.py") == []


def test_pytest(run, tmp_path):
    """It rewrites assertions, and the host has no pytest."""
    (tmp_path / "test_it_4721.py").write_text(
        textwrap.dedent(
            """
            import os
            import pytest
            from lazycluster import Runtime
            from tools_4721 import one

            def work(x):
                assert x > one(), f"{x} is too small"
                return x

            class Helper:
                def get(self):
                    assert one() == 1
                    return 5

            def test_it():
                keywords = {"config_file": os.environ["CONFIG_FILE"]}
                with Runtime(os.environ["ALIAS"], **keywords) as runtime:
                    assert runtime.call(work, 2) == 2
                    assert runtime.call(Helper().get) == 5
                    with pytest.raises(AssertionError, match="too small"):
                        runtime.call(work, 1)
            """
        )
    )
    lines = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it_4721.py")
    assert lines[-1].startswith("1 passed")
