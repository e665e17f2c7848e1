"""Variables that Python or the dynamic loader reads at its start: functions obey them, too."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from lazycluster.exceptions import PythonNotFoundError, RemoteFunctionError, StepTimeoutError
from support.interpreters import OWN_PYTHON
from support.processes import await_gone, is_alive
from support.waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.every_python, pytest.mark.usefixtures("stays_good")]

NEW = {"PYTHONHASHSEED": "1"}
"""Variables with which a new Python runs a call."""


def evaluate(imports, expression):
    space = {}
    exec(f"import {imports}", space)
    return repr(eval(expression, space))


def as_command(runtime, imports, expression, options=""):
    """Return what a Python that a command starts makes of an expression."""
    code = f"import {imports}; print(repr(({expression})))"
    result = runtime.run(f"{OWN_PYTHON} {options} -c {shlex.quote(code)}")
    return result.stdout.strip()


# --- Each variable takes effect -----------------------------------------------------------------

EFFECTS = {
    "PYTHONASYNCIODEBUG": ("1", "asyncio.coroutines", "asyncio.coroutines._is_debug_mode()"),
    "PYTHONDEVMODE": ("1", "sys", "sys.flags.dev_mode, sys.warnoptions"),
    "PYTHONDONTWRITEBYTECODE": ("1", "sys", "sys.dont_write_bytecode"),
    "PYTHONFAULTHANDLER": ("1", "faulthandler", "faulthandler.is_enabled()"),
    "PYTHONHASHSEED": ("7", "sys", "hash('a'), sys.flags.hash_randomization"),
    "PYTHONIOENCODING": ("latin-1:replace", "sys", "sys.stdout.encoding, sys.stdout.errors"),
    "PYTHONNOUSERSITE": ("1", "site", "site.ENABLE_USER_SITE"),
    "PYTHONOPTIMIZE": ("1", "sys", "sys.flags.optimize, __debug__"),
    "PYTHONPYCACHEPREFIX": ("/nowhere", "sys", "sys.pycache_prefix"),
    "PYTHONTRACEMALLOC": ("3", "tracemalloc", "tracemalloc.get_traceback_limit()"),
    "PYTHONTZPATH": ("/nowhere", "zoneinfo", "zoneinfo.TZPATH"),
    "PYTHONUSERBASE": ("/nowhere", "site", "site.getuserbase()"),
    "PYTHONUTF8": ("1", "sys", "sys.flags.utf8_mode"),
    "PYTHONWARNINGS": ("error::UserWarning", "sys", "sys.warnoptions"),
    "PYTHONCOERCECLOCALE": ("0", "os", "os.environ.get('PYTHONCOERCECLOCALE')"),
    "LC_ALL": ("C", "locale", "locale.setlocale(locale.LC_CTYPE), locale.getpreferredencoding()"),
    "LANG": ("POSIX", "sys", "sys.getfilesystemencoding()"),
    "HOME": ("/nowhere", "site", "site.getusersitepackages()"),
    "TZ": ("ODD-5", "time", "time.tzname, time.timezone"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_function_obeys_a_variable_as_a_command_does(runtime, name):
    """Of the call, of the Runtime's own variables, and not in the next call."""
    value, imports, expression = EFFECTS[name]
    before = runtime.call(evaluate, imports, expression)
    view = runtime.with_options(env={name: value})
    assert view.call(evaluate, imports, expression) == as_command(view, imports, expression)
    assert view.call(os.getenv, name) == value
    if name != "PYTHONHASHSEED":
        assert runtime.call(evaluate, imports, expression) == before


def test_variables_of_a_runtime_and_of_a_task(own_runtime):
    """The same as those of a call."""
    own_runtime.env_variables = {"PYTHONHASHSEED": "5"}
    expected = own_runtime.call(hash, "text")
    (value,) = own_runtime.execute_function(hash_of_text).function_returns
    assert value == expected == int(as_command(own_runtime, "sys", "hash('text')"))


@pytest.mark.parametrize("env", [{"LC_ALL": ""}, {"LC_CTYPE": "C"}, {"LANG": "C"}], ids=str)
def test_the_locale_is_that_of_the_variable_that_counts(make_sshd, make_runtime, env):
    """LC_ALL, else LC_CTYPE, else LANG; an empty one does not count."""
    on = make_sshd(environment={"LC_ALL": "C", "LANG": "C.UTF-8"})
    view = make_runtime(on=on).with_options(env=env)
    expression = "locale.setlocale(locale.LC_CTYPE)"
    assert view.call(evaluate, "locale", expression) == as_command(view, "locale", expression)


def hash_of_text():
    return hash("text")


def guarded(flag):
    assert flag, "the guard"
    return __debug__


def test_assertions_are_left_out(runtime):
    """Of a module's functions, and of what travels by value: functions, methods, closures."""
    factor = 3

    class Guarded:
        def check(self):
            assert factor == 4
            return __debug__, factor

    def check(number=1):
        def inner():
            assert number == factor
            return __debug__, number

        return inner()

    functions = [lambda: guarded(False), Guarded().check, check]
    optimized = runtime.with_options(env={"PYTHONOPTIMIZE": "1"})
    assert not optimized.call(guarded, False)
    assert [optimized.call(each) for each in functions] == [False, (False, 3), (False, 1)]
    for each in functions:
        with pytest.raises(AssertionError):
            runtime.call(each)


@pytest.mark.parametrize(
    "name", ["PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONUNBUFFERED", "PYTHONBREAKPOINT"]
)
def test_variables_without_a_meaning_for_a_function(runtime, name, tmp_path):
    """They do no harm; beside one with a meaning neither."""
    script = tmp_path / "start.py"
    script.write_text("print('started')\n")
    for more in ({}, NEW):
        lines = []
        view = runtime.with_options(env={name: str(script), **more}, on_output=lines.append)
        assert view.call(os.getenv, name) == str(script)
        assert lines == []


def a_library(folder):
    """Copy a library of the system to a folder, under a name that is not installed."""
    source = next(path for path in mapped_files() if path.name.startswith(("libc.so", "libc-")))
    target = folder / "liblazycluster-test.so"
    target.write_bytes(source.read_bytes())
    return target


def mapped_files():
    """Return the files that are mapped into this process."""
    words = Path("/proc/self/maps").read_text().split()
    return [Path(word) for word in words if word.startswith("/")]


def can_load(name):
    import ctypes

    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_ld_library_path(runtime, tmp_path):
    """ld.so reads it once, when the program starts."""
    library = a_library(tmp_path)
    assert not runtime.call(can_load, library.name)
    assert runtime.with_options(env={"LD_LIBRARY_PATH": str(tmp_path)}).call(can_load, library.name)


def is_mapped(name):
    with open("/proc/self/maps") as file:
        return name in file.read()


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_ld_preload(runtime, tmp_path):
    """Of a library that does nothing here."""
    libraries = [path for path in mapped_files() if path.name.startswith(("libm.so", "libm-"))]
    if not libraries:
        pytest.skip("this Python has no libm")
    copied = tmp_path / "libpreloaded.so"
    copied.write_bytes(libraries[0].read_bytes())
    view = runtime.with_options(env={"LD_PRELOAD": str(copied)})
    assert view.call(is_mapped, copied.name)
    assert not runtime.call(is_mapped, copied.name)


@pytest.mark.parametrize(
    "name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "ASAN_OPTIONS", "LD_BIND_NOW"]
)
def test_variables_of_the_c_library_are_there_when_the_process_starts(runtime, name):
    """As /proc shows it, which has the variables of the start."""

    def started_with():
        with open("/proc/self/environ", "rb") as file:
            return [line for line in file.read().split(b"\0") if line.startswith(name.encode())]

    view = runtime.with_options(env={name: "1"})
    assert view.call(started_with) == [f"{name}=1".encode()]


# --- PYTHONPATH ---------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, NEW], ids=["fork", "new Python"])
@pytest.mark.parametrize(
    "value", ["{0}/a", "b:/nowhere", "{0}/a::b", "{0}/a/:{0}/a:/nowhere/../x", ""]
)
def test_pythonpath_is_where_python_puts_it(runtime, tmp_path, value, more):
    """In front of the standard library; a relative one starts at the working directory."""
    view = runtime.with_options(
        env={"PYTHONPATH": value.format(tmp_path), **more}, cwd=str(tmp_path)
    )
    expected = as_command(view, "sys", "sys.path[1:]")
    assert view.call(evaluate, "sys", f"sys.path[:{len(eval(expected))}]") == expected


@pytest.mark.parametrize("more", [{}, NEW], ids=["fork", "new Python"])
def test_pythonpath_gives_modules(runtime, tmp_path, more):
    """Of the call that has it, and of the programs that it starts."""
    (tmp_path / "lc_there.py").write_text("value = 7\n")

    def use():
        import lc_there

        code = "import lc_there; print(lc_there.value)"
        return lc_there.value, subprocess.check_output([sys.executable, "-c", code])

    view = runtime.with_options(env={"PYTHONPATH": str(tmp_path), **more})
    assert view.call(use) == (7, b"7\n")
    with pytest.raises(ImportError):
        runtime.call(use)


@pytest.mark.parametrize("hook", ["sitecustomize", "usercustomize"])
def test_start_hooks_in_pythonpath(runtime, tmp_path, hook):
    """Python runs them at its start."""
    (tmp_path / f"{hook}.py").write_text("import sys\nsys.lc_hooked = True\n")
    view = runtime.with_options(env={"PYTHONPATH": str(tmp_path)})
    expected = as_command(view, "sys", "hasattr(sys, 'lc_hooked')")
    assert view.call(evaluate, "sys", "hasattr(sys, 'lc_hooked')") == expected


def test_a_pythonpath_replaces_that_of_the_host(make_sshd, make_runtime, tmp_path):
    """As in a Python that starts."""
    runtime = make_runtime(on=make_sshd(environment={"PYTHONPATH": str(tmp_path / "host")}))
    for value in (str(tmp_path / "call"), "", str(tmp_path / "host")):
        view = runtime.with_options(env={"PYTHONPATH": value})
        expected = as_command(view, "sys", "sys.path[1:]")
        assert view.call(evaluate, "sys", f"sys.path[:{len(eval(expected))}]") == expected
    assert runtime.call(evaluate, "sys", "sys.path[0]") == repr(str(tmp_path / "host"))


@pytest.mark.parametrize("options", ["-E", "-I", "-s", "-X utf8 -X dev", "-O"])
def test_options_of_the_interpreter_stay(make_runtime, tmp_path, options):
    """`python=` may name several words; the new Python has its options, and only those."""
    runtime = make_runtime(python=f"nice {OWN_PYTHON} {options}")
    flags = "optimize isolated ignore_environment no_user_site dev_mode hash_randomization"
    expression = ", ".join(f"sys.flags.{flag}" for flag in flags.split()) + ", sys._xoptions"
    for env in ({"PYTHONPATH": str(tmp_path)}, {"PYTHONHASHSEED": "3"}, {"PYTHONOPTIMIZE": "2"}):
        view = runtime.with_options(env=env)
        expected = as_command(view, "sys", expression, options)
        assert view.call(evaluate, "sys", expression) == expected


def test_the_interpreter_of_a_virtual_environment_stays(make_runtime, tmp_path):
    """Its packages are there in the new Python."""
    folder = tmp_path / "venv"
    subprocess.run([OWN_PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    runtime = make_runtime(python=f"{folder}/bin/python")
    expression = "sys.prefix, sys.executable"
    for env in ({}, NEW):
        found = runtime.with_options(env=env).call(evaluate, "sys", expression)
        assert found == repr((str(folder), f"{folder}/bin/python"))


# --- Variables with which Python does not start -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PYTHONHOME", "/nowhere", "encod"),
        ("PYTHONIOENCODING", "no-such", "no-such"),
        ("PYTHONHASHSEED", "no number", "PYTHONHASHSEED"),
        ("LD_LIBRARY_PATH", "{0}", ""),
    ],
)
def test_a_python_that_does_not_start(runtime, tmp_path, name, value, text):
    """The error names the variable and what Python printed; the next call works."""
    for path in mapped_files():
        if path.name.startswith(("libc.so", "libc-", "libpython")):
            (tmp_path / path.name).write_text("not a library")
    (tmp_path / "libc.so.6").write_text("not a library")  # a link to libc-2.31.so in Debian 11
    made = tmp_path / "made"
    view = runtime.with_options(env={name: value.format(tmp_path)})
    with pytest.raises(PythonNotFoundError) as caught:
        view.call(os.mkdir, str(made))
    assert f"does not start with {name} " in str(caught.value)
    assert text in str(caught.value)
    assert not made.exists()
    assert runtime.call(pow, 2, 3) == 8


# --- All else is as in any call -----------------------------------------------------------------


@pytest.fixture
def new(runtime):
    """A view of a Runtime whose calls run in a new Python."""
    return runtime.with_options(env=NEW)


class OwnError(Exception):
    pass


def raise_own(code):
    raise OwnError(code)


def test_values_and_exceptions(new):
    """They come back, big ones too, of classes of the user's own."""
    assert new.call(len, b"x" * (8 << 20)) == 8 << 20
    assert len(new.call(bytes, 8 << 20)) == 8 << 20
    with pytest.raises(OwnError) as caught:
        new.call(raise_own, 5)
    assert caught.value.args == (5,)
    assert "raise_own" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("function", "argument", "ending"),
    [
        (sys.exit, 3, (3, None)),
        (lambda status: os._exit(status), 4, (4, None)),  # coverage.py replaces it here
        (signal.raise_signal, signal.SIGKILL, (None, 9)),
        (signal.raise_signal, signal.SIGTERM, (None, 15)),
    ],
)
def test_endings(new, function, argument, ending):
    """Also of a process that ends before the function returns."""
    with pytest.raises(RemoteFunctionError) as caught:
        new.call(lambda: function(argument))
    assert (caught.value.exit_status, caught.value.signal) == ending


def test_output_comes_while_it_runs(runtime, gate):
    """In whole lines, in the encoding that lazycluster expects."""
    lines = []
    line = gate.wait

    def speak():
        print("early \u2603")
        subprocess.check_call(["sh", "-c", line])
        print("late", end="", file=sys.stderr)

    future = runtime.with_options(env=NEW, on_output=lines.append).submit(speak)
    wait_until(lambda: lines == ["early \u2603\n"], lambda: f"{lines}")
    gate.open()
    future.result(TIMEOUT)
    assert lines == ["early \u2603\n", "late"]


def sleep_and_record(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def test_a_timeout_and_a_cancellation_end_it(runtime, pids):
    """The process is the one that the host knows."""
    with pytest.raises(StepTimeoutError):
        runtime.with_options(env=NEW, timeout=1).call(sleep_and_record, str(pids))
    future = runtime.with_options(env=NEW).submit(sleep_and_record, str(pids))
    wait_until(lambda: any(is_alive(int(name)) for name in os.listdir(pids)))
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    await_gone([int(name) for name in os.listdir(pids)], "on the host")


def test_the_process_is_one_of_a_step(new):
    """It leads its session, has nothing open but its pipes, and waits for nothing."""

    def look():
        stat = os.fstat(0)
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
        inherited = [fd for fd in fds if fd > 2 and _inheritable(fd)]
        return os.getsid(0) == os.getpid(), stat.st_rdev, inherited, sys.argv

    def _inheritable(fd):
        try:
            return os.get_inheritable(fd)
        except OSError:
            return False

    null = os.stat(os.devnull).st_rdev
    assert new.call(look) == (True, null, [], [""])
    assert new.call(signal.getsignal, signal.SIGPIPE) == signal.SIG_IGN
    assert new.call(signal.pthread_sigmask, signal.SIG_BLOCK, []) == set()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_no_variable_is_in_an_argv(runtime):
    """An argv can be seen by all accounts."""
    secret = "s3cr3t-" + os.urandom(8).hex()

    def argv():
        with open("/proc/self/cmdline") as file:
            return file.read()

    view = runtime.with_options(env={**NEW, "TOKEN": secret, "PYTHONPATH": secret})
    assert secret not in view.call(argv)
    assert view.call(os.getenv, "TOKEN") == secret
