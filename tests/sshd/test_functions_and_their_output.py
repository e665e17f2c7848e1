"""What functions print: by whatever means, it is in the log, and the value is not disturbed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import TaskExecutionError
from support.hosts import call

pytestmark = [pytest.mark.separate_host, pytest.mark.usefixtures("stays_good")]


def test_f24_prints_go_to_the_log(runtime):
    """Both streams, in order, and its children's."""

    def talk():
        print("one")
        print("two", file=sys.stderr)
        os.write(1, b"three\n")
        print("fo", end="")
        print("ur", end="", flush=True)
        sys.stdout.write("\n\N{SNOWMAN}")

    assert runtime.execute_function(talk).execution_log == ["one\ntwo\nthree\nfour\n\N{SNOWMAN}"]


def test_f24_prints_of_a_failed_function_are_in_the_log(runtime):
    """The traceback is in the error and not in the log."""

    def fail():
        print("before")
        raise ValueError("why")

    task = RuntimeTask().run_function(fail)
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["before\n"]
    assert caught.value.output == "before\n"


def test_f24_prints_do_not_disturb_the_value(runtime):
    """Whatever a function writes to the descriptors that it knows."""

    def noise():
        for fd in (1, 2):
            os.write(fd, b"\0\xff" * 100_000)
        return "value"

    assert call(runtime, noise) == "value"


def test_f24_debug_prints_what_a_function_prints(runtime, capsys):
    """As for commands."""
    runtime.execute_function(print, debug=True, sep="-")
    assert capsys.readouterr().out == "\n"


def logged(runtime, function, **keywords):
    """Calls a function, and gives what it printed with what it returned."""
    task = runtime.execute_function(function, **keywords)
    (value,) = task.function_returns
    (log,) = task.execution_log
    return log, value


def test_f24_prints_from_c(runtime):
    """Although no code flushes what C buffers for a pipe."""

    def talk():
        import ctypes

        library = ctypes.CDLL(None)
        library.puts(b"from C")
        library.printf(b"no end of line")
        return "value"

    assert logged(runtime, talk) == ("from C\nno end of line", "value")


def test_f24_prints_from_a_compiled_module(runtime, both_sides):
    """From another package, not from the standard library."""
    import _ctypes

    if not hasattr(_ctypes, "__file__"):
        pytest.skip("it is compiled into this Python")
    (both_sides / "lc_compiled").mkdir()
    shutil.copy(_ctypes.__file__, both_sides / "lc_compiled")

    def talk(folder):
        import sys

        sys.path.insert(0, folder)
        from lc_compiled import _ctypes

        puts = _ctypes.dlsym(_ctypes.dlopen(None, 0), "puts")
        _ctypes.call_cdeclfunction(puts, (b"from C",))
        return _ctypes.__file__.startswith(folder)

    assert logged(runtime, talk, folder=str(both_sides)) == ("from C\n", True)


def test_f24_prints_from_c_before_an_exception(runtime):
    """They are in the log as well."""

    def fail():
        import ctypes

        ctypes.CDLL(None).puts(b"from C")
        raise ValueError

    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(fail)
    assert caught.value.output == "from C\n"


def test_f24_prints_of_children(runtime):
    """Of both streams, in order, whichever way they are started."""

    def talk():
        for number in range(3):
            subprocess.run(["sh", "-c", f"echo {number}; echo {number} >&2"], check=True)
        os.system("echo system")  # noqa: S605 - a function may
        if os.fork() == 0:
            print("fork")
            os._exit(0)
        os.wait()

    # What a fork has not flushed when it leaves by os._exit is lost, as ever; a line is.
    assert logged(runtime, talk)[0] == "0\n0\n1\n1\n2\n2\nsystem\nfork\n"


def close_descriptors():
    for fd in range(3):
        os.close(fd)


def close_streams():
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def delete_streams():
    del sys.stdin, sys.stdout, sys.stderr


def detach_streams():
    sys.stdout.detach()
    sys.stderr.detach()


def take_none():
    sys.stdin = sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None


def take_a_file():
    sys.stdout = sys.stderr = open(os.devnull, "w")


def take_an_object_without_methods():
    sys.stdout = sys.stderr = object()


def take_what_raises():
    class Broken:
        def flush(self):
            raise OSError(5, "broken")

    sys.stdout = sys.stderr = Broken()


def reopen_descriptors():
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)


@pytest.mark.parametrize(
    "change",
    [
        close_descriptors,
        close_streams,
        delete_streams,
        detach_streams,
        take_none,
        take_a_file,
        take_an_object_without_methods,
        take_what_raises,
        reopen_descriptors,
    ],
)
def test_f24_function_may_do_as_it_likes_with_its_streams(runtime, change):
    """What it printed before is in the log, and its value comes."""

    def work():
        print("before", flush=True)
        change()
        return "value"

    assert logged(runtime, work) == ("before\n", "value")


def test_f24_what_is_left_in_a_replaced_stream_is_not_lost(runtime):
    """A line that has not ended is in a buffer."""

    def work():
        import io

        print("before", end="")
        sys.stdout = io.StringIO()

    assert logged(runtime, work)[0] == "before"


def test_f24_gigabyte_printed_by_a_function(runtime):
    """All of it is in the log file; the value comes behind it."""

    def talk():
        block = b"x" * 2**20
        for _ in range(2**10):
            os.write(1, block)
        return "value"

    task = runtime.execute_function(talk)
    try:
        assert os.path.getsize(task.execution_log_file_path) == 2**30
        assert list(task.function_returns) == ["value"]
    finally:
        os.unlink(task.execution_log_file_path)
