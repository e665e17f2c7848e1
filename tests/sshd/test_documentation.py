"""What README, docs and the demo show is what happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

pytestmark = pytest.mark.every_python

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "text"}
"""Languages of fenced blocks; every Python block is run."""

FENCE = re.compile(r"^```(?P<language>.*)\n(?P<code>(?s:.*?))^```$", re.MULTILINE)
PRINT = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
"""A line that prints, with its output in a comment."""

PRINT_LOG = re.compile(r"^ *.*\.print_log\(\)\n((?: *# .*\n)+)", re.MULTILINE)
"""A line that prints a log, and comments below it with the lines."""


def outputs(code):
    """Return the lines that the code prints, by its comments."""
    lines = [line for found in PRINT_LOG.findall(code) for line in found.splitlines()]
    return PRINT.findall(code) + [line.lstrip()[2:] for line in lines]


def blocks(page, language):
    """Return the fenced blocks of a language, each with the number of its first line."""
    text = page.read_text()
    return [
        (text.count("\n", 0, found.start("code")), found["code"])
        for found in FENCE.finditer(text)
        if found["language"] == language
    ]


STAND_INS = {
    # The output shows the name my-host.
    "uname": 'if [ "$*" = -n ]; then echo my-host; else exec {uname} "$@"; fi',
    # The password is "secret", and the command `id -u` prints root's number.
    "sudo": 'if [ "$1" = -S ]; then read -r password; [ "$password" = secret ] || exit 1; shift 3\n'
    'else [ "$1" = -n ] || exit 99; shift; fi\n'
    'if [ "$1" = id ]; then echo 0; else exec "$@"; fi',
    # `uv run --with numpy python …` would download numpy; a module that adds up takes its place.
    "uv": '[ "$1 $2 $3 $4" = "run --with numpy python" ] || exit 99\n'
    'shift 4; export PYTHONPATH="{packages}"; exec {python} "$@"',
}


@pytest.fixture
def my_host(make_sshd, tmp_path, monkeypatch):
    """A host that ssh knows by several names, with what the examples use, and a folder."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "numpy.py").write_text("arange = lambda n: Sum(range(n))\n" + _SUM)
    values = {
        "python": Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}",
        "uname": shutil.which("uname"),
        "packages": tmp_path / "packages",
    }
    for name, script in STAND_INS.items():
        _write_script(tmp_path / "on-host" / name, script.format(**values))
    path = [tmp_path / "on-host", Path(sys.base_prefix) / "bin"]
    sshd = make_sshd(alias="my-host jump web1", path=path)
    # A RuntimeManager counts the names of one sshd once.
    others = [make_sshd(alias=alias, path=path) for alias in ("web2", "web3")]
    config = tmp_path / "ssh_config"
    config.write_text("".join(one.config_file.read_text() for one in (sshd, *others)))
    (tmp_path / "names").write_text("Host web1 web2 web3\n")
    names = "lazycluster._ssh.config_hosts.SYSTEM_CONFIG"
    monkeypatch.setattr(names, str(tmp_path / "names"))
    _write_script(sshd.home / "venvs/science/bin/python", 'exec {python} "$@"'.format(**values))
    _write_script(tmp_path / "bin" / "ssh", f'exec {shutil.which("ssh")} -F "{config}" "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")


_SUM = "class Sum(list):\n    def sum(self):\n        return sum(self)\n"


def _write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_examples_do_what_they_say(my_host, page, monkeypatch):
    """They run as they stand, in their order; the comment behind a print is its output."""
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    for line, code in blocks(page, "python"):
        # Empty lines come first, so that a traceback names the line of the page.
        program = compile("\n" * line + code, page, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(program, script.__dict__)
        printed = output.getvalue().splitlines()
        for shown in outputs(code):
            assert shown in printed, f"{page.name}, line {line}: {output.getvalue()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_example_hides_from_being_run(page):
    """A block in an unknown language would be an untested example."""
    assert {found["language"] for found in FENCE.finditer(page.read_text())} <= LANGUAGES


def test_prints_without_their_output_are_not_taken_for_others():
    """Only a line that prints has its output in a comment, or in comments below a log."""
    code = 'a = 1  # one\nprint(a)\n# two\nprint("x")  # x\n'
    code += "  t.print_log()\n  # 0: y\n  #    z\na\n# b\n"
    assert outputs(code) == ["x", "0: y", "   z"]


VARIABLE = [
    (r"(?<=, port )\d+(?=\.$)", "<port>"),
    (r"(?<=^operating system  ).+", "<system>"),
    (r"(?<=^Python            )\S+", "<version>"),
    (r"(?<=^CPU cores         )\d+", "<cores>"),
    (r"(?<=^memory            )\d+ MB", "<memory>"),
    (r"(?<=^GPUs              )\d+", "<gpus>"),
    (r"(?<=^Hello from )\S+", "<host name>"),
    (r"(?<=::)\d{4,5}(?=::|$)", "<port>"),
    (r"(?<=^  output      ).+", "<what ls says>"),
]
"""The parts of the demo's output that differ between machines, and their placeholders."""


def fixed(text):
    """Return the lines of the demo with placeholders, and without the lines for each GPU."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    for pattern, placeholder in VARIABLE:
        lines = [re.sub(pattern, placeholder, line) for line in lines]
    return [line for line in lines if not re.match(r"GPU \d", line)]


def test_readme_shows_what_the_demo_prints():
    """Line by line, except for the parts that differ between machines."""
    (shown,) = (code for _, code in blocks(ROOT / "README.md", "text") if "sshd listens on" in code)
    argv = [sys.executable, str(ROOT / "scripts" / "demo.py")]
    demo = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )
    assert demo.stderr == ""
    assert demo.returncode == 0
    assert fixed(shown) == fixed(demo.stdout)


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in VARIABLE])
def test_what_is_variable_is_in_the_readme(pattern):
    """A pattern that matches nothing is a mistake."""
    assert re.search(pattern, (ROOT / "README.md").read_text(), re.MULTILINE)
