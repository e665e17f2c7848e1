"""Which Python the host has, and what surrounds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Connection, Runtime
from lazycluster.exceptions import (
    ConnectError,
    InvalidRuntimeError,
    PythonNotFoundError,
    PythonVersionError,
    TaskExecutionError,
)
from loopback_sshd import LoopbackSshd
from support.hosts import call, commands, run
from support.interpreters import OWN_PYTHON

MakeSshd = Callable[..., LoopbackSshd]
MakeRuntime = Callable[..., Runtime]

OWN_NAME = "python{}.{}".format(*sys.version_info)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# For a computer where none that old is. It is given `-c`, the code and its arguments.
OLD_PYTHON = f"""
old='import sys; sys.version_info = (3, 5, 2); exec(sys.argv.pop(1))'
shift
exec {OWN_PYTHON} -c "$old" "$@"
"""


def refused(sshd: LoopbackSshd, **keywords: Any) -> InvalidRuntimeError:
    """Why there can be no Runtime: its message has the reason, its cause the type."""
    with pytest.raises(InvalidRuntimeError) as caught:
        Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file, **keywords})
    return caught.value


# ── which one ─────────────────────────────────────────────────────────────────────────────────────


def test_f20_broken_interpreter_hides_no_good_one(
    make_sshd: MakeSshd, make_runtime: MakeRuntime, tmp_path: Path
) -> None:
    """The manager's version is tried first; `python3` is next."""
    script(tmp_path / OWN_NAME, "echo 'a library is missing' >&2; exit 1")
    (tmp_path / "python3").symlink_to(OWN_PYTHON)
    runtime = make_runtime(on=make_sshd(path=[tmp_path]))
    assert call(runtime, os.getcwd) == runtime.working_dir


def test_f20_only_broken_interpreters(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """Each is named with its exit status."""
    script(tmp_path / OWN_NAME, "exit 1")
    script(tmp_path / "python3", "exit 4")
    error = refused(make_sshd(path=[], environment={"PATH": str(tmp_path)}))
    assert type(error.__cause__) is PythonNotFoundError
    assert f"{OWN_NAME} (exit status 1), python3 (exit status 4)" in str(error)


def test_f20_only_an_interpreter_of_another_name(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """It is not taken, and named: it may be a Python 2."""
    (tmp_path / "python").symlink_to(OWN_PYTHON)
    sshd = make_sshd(path=[], environment={"PATH": str(tmp_path)})
    error = refused(sshd)
    assert type(error.__cause__) is PythonNotFoundError
    assert "(there is: python)" in str(error)


def test_f20_interpreter_that_is_too_old(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """It is a PythonVersionError for a task; the connection works on, as it does without any."""
    sshd = make_sshd()
    python = script(tmp_path / "python", OLD_PYTHON)
    with Connection(sshd.alias, config_file=sshd.config_file, python=str(python)) as connection:
        with pytest.raises(TaskExecutionError) as caught:
            commands("echo hi").execute(connection)
        error = caught.value.__cause__
        assert type(error) is PythonVersionError
        assert error.host_version == "3.5.2"
        assert "3.5.2" in str(caught.value)
        assert "python=" in str(caught.value)
        assert connection.run("echo hi").stdout == "hi\n"
    assert type(refused(sshd, python=str(python)).__cause__) is PythonVersionError


# ── what surrounds it ─────────────────────────────────────────────────────────────────────────────


def test_f20_variables_of_python(
    make_sshd: MakeSshd, make_runtime: MakeRuntime, tmp_path: Path
) -> None:
    """PYTHONPATH is there for functions; no variable does anything to what is ours."""
    for name in ("cloudpickle", "_lazycluster"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "mine.py").write_text("value = 7\n")
    (tmp_path / "usercustomize.py").write_text("print('hooked', flush=True)\n")
    environment = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "mine.py"),
        "PYTHONINSPECT": "1",
        "PYTHONIOENCODING": "utf-16",
    }
    runtime = make_runtime(on=make_sshd(environment=environment))

    def use_mine() -> int:
        import mine

        return mine.value

    assert call(runtime, use_mine) == 7
    assert run(runtime, "echo $PYTHONPATH") == [f"{tmp_path}\n"]


def test_f20_wrong_pythonhome(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """No Python starts there then, which is said."""
    error = refused(make_sshd(environment={"PYTHONHOME": str(tmp_path)}))
    assert type(error.__cause__) is PythonNotFoundError
    assert f"{OWN_NAME} (exit status " in str(error)


@pytest.mark.parametrize("options", ["-I", "-S", "-I -S"])
def test_f21_host_without_anything_installed(make_runtime: MakeRuntime, options: str) -> None:
    """cloudpickle travels with the call: nothing of site-packages is needed, or looked at."""
    runtime = make_runtime(python=f"{OWN_PYTHON} {options}")

    def cloudpickle_is_from() -> str:
        import cloudpickle

        return type(cloudpickle.__loader__).__module__

    assert call(runtime, cloudpickle_is_from) == "_lazycluster._remote.imports"


@pytest.mark.parametrize(
    "text",
    ["raise ImportError('broken')", "__version__ = '0.1'", "import sys; sys.exit(1)", "("],
    ids=["broken", "old", "exits", "no Python"],
)
def test_f21_host_with_another_cloudpickle(
    text: str, make_sshd: MakeSshd, make_runtime: MakeRuntime, tmp_path: Path
) -> None:
    """Ours wins."""
    (tmp_path / "cloudpickle").mkdir()
    (tmp_path / "cloudpickle" / "__init__.py").write_text(f"{text}\n")
    runtime = make_runtime(on=make_sshd(environment={"PYTHONPATH": str(tmp_path)}))
    doubled = 2
    assert call(runtime, lambda: doubled * 2) == 4


def test_f20_python_without_zlib_is_one_sentence(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """What is sent is compressed; the error names what such a Python lacks."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['zlib'] = None\n")
    sshd = make_sshd(environment={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(
        ConnectError, match=r"could not run lazycluster's program.*zlib.*with python="
    ):
        Connection(sshd.alias, config_file=sshd.config_file).open()


# ── its locale ────────────────────────────────────────────────────────────────────────────────────

NAMES = ["grüße ☃", "\udcff\udcfe not UTF-8", "e\u0301 é"]
LOCALES = {
    "none": {},
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": "POSIX"},
    "not there": {"LC_ALL": "xx_XX.ISO-8859-1"},
    "Latin-1": {"LC_ALL": "en_US.ISO-8859-1"},
}


@pytest.mark.parametrize("environment", LOCALES.values(), ids=LOCALES)
def test_f19_locale_of_the_host(
    environment: dict[str, str], make_sshd: MakeSshd, make_runtime: MakeRuntime, tmp_path: Path
) -> None:
    """Output, names, variables, arguments and values arrive byte by byte, and commands have it."""
    runtime = make_runtime(on=make_sshd(environment=environment))
    (output,) = run(runtime, "printf 'gr\\303\\274\\303\\237e \\377'; echo ü \"$LC_ALL\"")
    # bash itself says first that there is no such locale.
    assert output.endswith(f"grüße \\xffü {environment.get('LC_ALL', '')}\n")
    for name in NAMES:
        (tmp_path / name).write_text(name, errors="surrogateescape")
        runtime.send_file(str(tmp_path / name))
        runtime.get_file(name, str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == os.fsencode(name)
    listed = b"".join(os.fsencode(name) + b"\n" for name in sorted(NAMES, key=os.fsencode))
    runtime.add_env_variables({"EXPECTED": os.fsdecode(listed)})
    (output,) = run(runtime, '[ "$(LC_ALL=C ls -1 | cat; echo .)" = "$EXPECTED." ] && echo same')
    assert output.endswith("same\n")
    assert call(runtime, lambda text: text + "ü", text="☃") == "☃ü"


# ── programs that start it ────────────────────────────────────────────────────────────────────────

# As `conda run`: without --no-capture-output the program has no input, and what it prints comes at
# its end.
CONDA = f"""
import os, subprocess, sys
assert sys.argv[1] == "run"
words = sys.argv[2:]
captured = "--no-capture-output" not in words
words = [word for word in words if word != "--no-capture-output"]
assert words[:2] == ["-n", "science"] and words[2] == "python", words
argv = [{OWN_PYTHON!r}, *words[3:]]
os.environ["CONDA_DEFAULT_ENV"] = "science"
if not captured:
    sys.exit(subprocess.call(argv))
pipe = subprocess.PIPE
process = subprocess.Popen(argv, stdin=STDIN, stdout=pipe, stderr=pipe)
output, errors = process.communicate()
print(output.decode())
print(errors.decode(), file=sys.stderr)
sys.exit(process.returncode)
"""


def conda(folder: Path, stdin: str = "pipe") -> Path:
    text = CONDA.replace("STDIN", stdin)
    program = folder / "conda.py"
    program.write_text(text)
    return script(folder / "conda", f'exec {OWN_PYTHON} {program} "$@"')


def environment_name() -> str | None:
    return os.environ.get("CONDA_DEFAULT_ENV")


def test_f20_conda_run(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    """As the guide has it."""
    runtime = make_runtime(python=f"{conda(tmp_path)} run --no-capture-output -n science python")
    assert call(runtime, environment_name) == "science"
    assert run(runtime, "echo $CONDA_DEFAULT_ENV") == ["science\n"]
    view = runtime.with_options(env={"PYTHONHASHSEED": "1"})
    assert view.call(environment_name) == "science"


@pytest.mark.parametrize("stdin", ["pipe", "None"])
def test_f20_conda_run_that_captures_the_output(
    sshd: LoopbackSshd, tmp_path: Path, stdin: str
) -> None:
    """The message begins with `python=`, and has the cure; the start files are not blamed."""
    python = f"{conda(tmp_path, stdin)} run -n science python"
    with pytest.raises(ConnectError) as caught:
        Connection(
            sshd.alias, config_file=sshd.config_file, python=python, connect_timeout=4
        ).open()
    assert str(caught.value).startswith(f"python={python!r} on {sshd.alias} ")
    assert "--no-capture-output" in str(caught.value)
    assert "start file" not in str(caught.value)


MODULES = """
module() {
    [ "$1" = load ] && [ "$2" = python/3 ] || { echo "no such module: $2" >&2; return 1; }
    echo "Loading $2" >&2
    PATH=FOLDER:$PATH; LOADEDMODULES=$2; export PATH LOADEDMODULES
}
"""


@pytest.mark.parametrize(
    ("command", "fails"),
    [
        ('module load python/3; exec python3 "$@"', False),
        ('module load python/9 && exec python3 "$@"', True),
    ],
)
def test_f20_environment_modules(
    make_sshd: MakeSshd, make_runtime: MakeRuntime, tmp_path: Path, command: str, fails: bool
) -> None:
    """As the guide has it: a shell function of login shells, which a plain `bash -c` lacks."""
    folder = tmp_path / "loaded"
    folder.mkdir()
    (folder / "python3").symlink_to(OWN_PYTHON)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bash_profile").write_text(MODULES.replace("FOLDER", str(folder)))
    sshd = make_sshd(environment={"HOME": str(home)})
    python = f"HOME={home} bash -lc '{command}' x"
    if fails:
        error = refused(sshd, python=python)
        assert type(error.__cause__) is PythonNotFoundError
        assert f"python={python!r} is not a Python that can be used" in str(error)
        assert "no such module: python/9" in str(error)
        assert "lazycluster-" not in str(error)  # the line that ends standard error
        assert "with python=" not in str(error)
        return
    runtime = make_runtime(on=sshd, python=python)
    assert call(runtime, os.getenv, key="LOADEDMODULES") == "python/3"
    view = runtime.with_options(env={"PYTHONHASHSEED": "1"})
    assert view.call(os.getenv, "LOADEDMODULES") == "python/3"


@pytest.mark.parametrize("python", ["/nowhere/python", "false", "echo", "sh", "cat"])
def test_f20_python_that_is_none(sshd: LoopbackSshd, python: str) -> None:
    """Every message begins with it, and none advises to name it."""
    connection = Connection(
        sshd.alias, config_file=sshd.config_file, python=python, connect_timeout=3
    )
    with pytest.raises((ConnectError, TaskExecutionError)) as caught, connection:
        commands("true").execute(connection)
    error = caught.value.__cause__ or caught.value
    assert f"python={python!r} " in str(caught.value)
    assert "with python=" not in str(caught.value)
    assert "start file" not in str(error)
