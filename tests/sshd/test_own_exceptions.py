"""The exception that a function raises on the host: it comes back, or its text does."""

from __future__ import annotations

import builtins
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import urllib.error

import pytest

from lazycluster import RuntimeTask
from lazycluster._functions.own_exception import OwnException
from lazycluster._tasks.outcomes import own_exception
from lazycluster.exceptions import RemoteFunctionError, RemoteTraceback
from support.hosts import cause

pytestmark = [pytest.mark.separate_host, pytest.mark.usefixtures("stays_good")]


class PlainError(Exception):
    pass


class DemandingError(Exception):
    """Its constructor takes other arguments than `args` has."""

    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class MixedError(PlainError, OSError):
    pass


class OwnOSError(OSError):
    """Its constructor takes other arguments than OSError's."""

    def __init__(self, path, *, hint):
        super().__init__(13, "Permission denied", path)
        self.hint = hint


class WithoutArgumentsError(OSError):
    """Its `args` are empty, as those of urllib's HTTPError are."""

    def __init__(self, code):
        self.code = code


class OwnWayError(Exception):
    """Pickles in a way of its own."""

    def __init__(self, first, second):
        self.pair = first, second

    def __reduce__(self):
        return type(self), self.pair


def raise_it(error):
    raise error


# --- It travels ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("one", 2),
        lambda: KeyError("key"),
        lambda: PlainError(),
        lambda: DemandingError(3, hint="try again"),
        lambda: SlottedError(5),
        lambda: MixedError(13, "no", "/a"),
        lambda: OwnOSError("/a", hint="b"),
        lambda: WithoutArgumentsError(5),
        lambda: OwnWayError("a", "b"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        lambda: ImportError("no", name="n", path="/p"),
        lambda: subprocess.CalledProcessError(returncode=3, cmd="make", stderr="text"),
        lambda: SyntaxError("text", ("file", 1, 2, "line")),
        lambda: TimeoutError("late"),
    ],
)
def test_an_exception_comes_back_with_its_arguments_and_attributes(runtime, make):
    def fail():
        raise make()

    own, error = cause(runtime, fail).exception, make()
    assert type(own) is type(error)
    assert own.args == error.args
    assert vars(own) == vars(error)
    for name in ("errno", "filename", "name", "path", "start", "reason", "code", "lineno"):
        assert getattr(own, name, None) == getattr(error, name, None)
    assert str(own) == str(error)


def test_an_exception_of_the_standard_library_that_the_host_makes_comes_back(runtime):
    error = cause(runtime, lambda: open("/no/such/file"))
    assert (error.exception.errno, error.exception.filename) == (2, "/no/such/file")


def test_an_exception_that_holds_an_open_file_comes_back_without_it(runtime):
    """The response of a server belongs to the host's process; its status and headers do not."""

    def fail():
        import http.server
        import threading
        import urllib.request

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(404, "No such page")

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.handle_request, daemon=True).start()
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/page", timeout=60)

    own = cause(runtime, fail).exception
    assert type(own) is urllib.error.HTTPError
    assert (own.code, own.msg, own.url[-5:], own.fp) == (404, "No such page", "/page", None)
    assert own.headers["Content-Type"].startswith("text/html")
    assert str(own) == "HTTP Error 404: No such page"
    own.close()


def test_an_exception_of_a_local_class_comes_back_as_that_class(runtime):
    """Local modules are not on the host, so that the class travels both ways."""

    def fail():
        raise DemandingError(7, hint="there")

    with pytest.raises(DemandingError) as caught:
        raise cause(runtime, fail).exception
    assert (caught.value.code, caught.value.hint) == (7, "there")


def test_an_exception_of_a_class_that_the_function_makes_comes_back(runtime):
    def fail():
        class InnerError(ValueError):
            def __init__(self, *, code):
                super().__init__(code)
                self.code = code

        raise InnerError(code=4)

    own = cause(runtime, fail).exception
    assert isinstance(own, ValueError)
    assert own.code == 4


def test_an_exception_of_the_main_script_comes_back(host_sshd, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from lazycluster import Runtime\n"
        "class MyError(Exception):\n"
        "    def __init__(self, *, code):\n"
        "        self.code = code\n"
        "def fail():\n"
        "    raise MyError(code=5)\n"
        "runtime = Runtime(sys.argv[1], connection_kwargs={'config_file': sys.argv[2]})\n"
        "try:\n"
        "    runtime.execute_function(fail)\n"
        "except Exception as error:\n"
        "    own = error.__cause__.exception\n"
        "    print(type(own) is MyError, own.code)\n"
        "runtime.cleanup()\n"
    )
    words = [sys.executable, str(script), host_sshd.alias, host_sshd.config_file]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True 5\n", "")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in Python 3.11")
def test_notes_come_back(runtime):
    def fail():
        error = ValueError("text")
        error.add_note("a note")
        raise error

    error = cause(runtime, fail)
    assert error.exception.__notes__ == ["a note"]
    assert "a note" not in str(error.exception.__cause__)
    assert "a note" in error.traceback


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup is new in Python 3.11")
def test_an_exception_group_comes_back_whole(runtime):
    group = vars(builtins)["ExceptionGroup"]

    def fail():
        raise group("both", [DemandingError(1, hint="h"), group("inner", [OSError(5, "x")])])

    own = cause(runtime, fail).exception
    assert type(own) is group
    first, inner = own.exceptions
    assert (type(first), first.code, first.hint) == (DemandingError, 1, "h")
    assert inner.exceptions[0].errno == 5


def test_large_arguments_travel_in_many_frames(runtime):
    own = cause(runtime, raise_it, error=ValueError(b"x" * (5 << 20))).exception
    assert len(own.args[0]) == 5 << 20


# --- What Python prints of it ---


def test_the_cause_is_the_traceback_on_the_host(runtime):
    """The exception itself, which Python prints last, is not repeated there."""

    def fail():
        raise PlainError("this text")

    error = cause(runtime, fail)
    own = error.exception
    assert isinstance(own.__cause__, RemoteTraceback)
    headline, *lines = str(own.__cause__).splitlines()
    assert headline == f"fail raised {error.exception_type} on {runtime.host}:"
    assert lines == error.traceback.splitlines()[:-1]
    assert lines[0] == "Traceback (most recent call last):"
    printed = "".join(traceback.format_exception(type(own), own, None))
    assert printed.count("PlainError: this text") == 1
    assert printed.count("raise PlainError(") == 1


def test_causes_on_the_host_are_in_the_traceback(runtime):
    def fail():
        try:
            {}["first"]
        except KeyError as error:
            raise ValueError("second") from error

    own = cause(runtime, fail).exception
    assert "KeyError: 'first'" in str(own.__cause__)
    assert own.__context__ is None


def test_control_characters_of_the_host_are_escaped_in_the_traceback(runtime):
    def fail():
        exec(compile("raise ValueError(1)", "\x1b[2J", "exec"))

    own = cause(runtime, fail).exception
    assert "\x1b" not in str(own.__cause__)
    assert r"\x1b[2J" in str(own.__cause__)


def test_a_call_raises_the_own_exception(runtime):
    """What `Runtime.call` makes of the error of a function."""
    error = cause(runtime, raise_it, error=KeyError("k"))
    assert own_exception(error) is error.exception
    error = cause(runtime, lambda: sys.exit(3))
    assert own_exception(error) is error


# --- It is unpickled late, once, and survives ---


def test_it_is_unpickled_once_in_the_thread_that_asks(runtime):
    threads = []

    class Noting(OwnException):
        def _unpickle(self):
            threads.append(threading.get_ident())
            return super()._unpickle()

    error = cause(runtime, raise_it, error=ValueError("v"))
    error._load_exception.__self__.__class__ = Noting
    assert threads == []
    first = error.exception
    assert error.exception is first
    assert copy.copy(error).exception is first
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("way", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_it_survives_pickle_with_its_traceback(runtime, way):
    """Before and after it was asked for."""

    def fail():
        raise DemandingError(3, hint="h")

    error = cause(runtime, fail)
    for _ in range(2):
        own = way(error).exception
        assert (own.code, own.hint) == (3, "h")
        assert "in fail" in str(own.__cause__)
        assert error.exception.code == 3


def test_a_task_and_the_history_keep_it(runtime):
    """The error of an asynchronous task has it too."""
    task = RuntimeTask().run_command("echo a").run_function(raise_it, error=KeyError("k"))
    runtime.execute_task(task)
    task.join()
    assert task.error.__cause__.exception.args == ("k",)
    assert list(task._last.execution.values) == []


# --- It stays text ---


class UnpicklableError(Exception):
    def __init__(self):
        super().__init__("the text")
        self.lock = threading.Lock()


class FailsToUnpickle:
    def __reduce__(self):
        return raise_it, (ValueError("while it was unpickled"),)


def only_in_a_module_of_the_host():
    import types

    module = sys.modules["only_there"] = types.ModuleType("only_there")
    exec("class StrangeError(Exception): pass", vars(module))
    raise module.StrangeError("the text")


def unpicklable():
    raise UnpicklableError


def fails_to_unpickle():
    raise ValueError("the text", FailsToUnpickle())


def too_large():
    error = ValueError("the text")
    error.data = bytes(32 << 20)
    raise error


def endless():
    error = ValueError("the text")
    inner = []
    for _ in range(100_000):
        inner = [inner]
    error.inner = inner
    raise error


@pytest.mark.parametrize(
    "function",
    [
        only_in_a_module_of_the_host,
        unpicklable,
        fails_to_unpickle,
        too_large,
        endless,
    ],
)
def test_an_exception_that_cannot_travel_is_text(runtime, function):
    error = cause(runtime, function)
    assert type(error) is RemoteFunctionError
    assert error.exception is None
    assert "the text" in error.exception_message
    assert f"in {function.__name__}" in error.traceback
    assert own_exception(error) is error


class EndsPickling(Exception):  # noqa: N818
    how: object = None

    def __reduce__(self):
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(7)


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_a_process_that_ends_while_it_pickles_has_told_its_exception(runtime, how):
    def fail():
        error = EndsPickling("the text")
        error.how = how
        raise error

    error = cause(runtime, fail)
    assert error.exception_type.endswith("EndsPickling")
    assert error.exception_message == "the text"
    assert error.exception is None


def stop_iteration():
    raise StopIteration(1)


def stop_async_iteration():
    raise StopAsyncIteration


def cancelled():
    import concurrent.futures

    raise concurrent.futures.CancelledError


def cancelled_in_asyncio():
    import asyncio

    raise asyncio.CancelledError


def keyboard_interrupt():
    raise KeyboardInterrupt


def generator_exit():
    raise GeneratorExit


def own_base_exception():
    class FinalError(BaseException):
        pass

    raise FinalError


@pytest.mark.parametrize(
    "function",
    [
        sys.exit,
        stop_iteration,
        stop_async_iteration,
        cancelled,
        cancelled_in_asyncio,
        keyboard_interrupt,
        generator_exit,
        own_base_exception,
    ],
)
def test_what_would_mean_something_else_here_stays_text(runtime, function):
    error = cause(runtime, function)
    assert type(error) is RemoteFunctionError
    assert error.exception is None
    assert error.exception_type


def test_a_failed_call_leaves_the_next_one_alone(make_runtime):
    runtime = make_runtime()
    for _ in range(3):
        cause(runtime, too_large)
        cause(runtime, raise_it, error=ValueError(1))
        assert list(runtime.execute_function(pow, base=2, exp=3).function_returns) == [8]
