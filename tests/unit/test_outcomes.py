"""What a host reports of a step, and the error that it means."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from lazycluster._conversation.outcome import (
    OsFailure,
    Outcome,
    PythonModulesFailure,
    PythonStartFailure,
    PythonVersionFailure,
    RaisedFailure,
    parse_outcome,
)
from lazycluster._remote.files import os_failure
from lazycluster._remote.sessions import out_of_memory_kills
from lazycluster._tasks.steps import GetFile, RunCommand, RunFunction, SendFile
from lazycluster.exceptions import (
    CommandError,
    LazyclusterError,
    PythonNotFoundError,
    PythonVersionError,
    RemoteFunctionError,
    SerializationError,
)

COMMAND = RunCommand("make all")
FUNCTION = RunFunction("train")
SEND = SendFile("send /a", local_path="/a", remote_path="b")
GET = GetFile("get b", local_path="/a", remote_path="b")


def error_of(step, outcome):
    return step.error("host", outcome, lambda: "the output")


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        ({"step": 0, "exit_status": 3}, Outcome(exit_status=3)),
        ({"signal": 9}, Outcome(signal=9)),
        ({"exit_status": 0, "returned": True}, Outcome(exit_status=0, returned=True)),
        ({"result": None}, Outcome(completed=True)),
        ({"result": [1]}, Outcome(completed=True, result=[1])),
        (
            {"result": "/b", "skipped": [["b/fifo", "FIFO"]]},
            Outcome(completed=True, result="/b", skipped=(("b/fifo", "FIFO"),)),
        ),
        (
            {"failure": "os", "errno": 2, "message": "No such file", "path": "/b", "there": True},
            Outcome(failure=OsFailure("No such file", 2, "/b", True)),
        ),
        (
            {"failure": "os", "message": "odd", "path": None},
            Outcome(failure=OsFailure("odd", None, None, False)),
        ),
        (
            {"failure": "python_version", "python": "3.6.8"},
            Outcome(failure=PythonVersionFailure("3.6.8")),
        ),
        (
            {"failure": "python_modules", "message": "no zlib"},
            Outcome(failure=PythonModulesFailure("no zlib")),
        ),
        (
            {"failure": "python_start", "variables": ["A", "B"]},
            Outcome(failure=PythonStartFailure(("A", "B"))),
        ),
        (
            {"failure": "raised", "stage": "call", "type": "T", "message": "m", "traceback": "tb"},
            Outcome(failure=RaisedFailure("call", "T", "m", "tb")),
        ),
        (
            {
                "failure": "raised",
                "stage": "call",
                "type": "T",
                "message": "m",
                "traceback": "tb",
                "pickled": True,
            },
            Outcome(failure=RaisedFailure("call", "T", "m", "tb", pickled=True)),
        ),
    ],
)
def test_what_a_supervisor_reports_is_understood(report, outcome):
    """Each form of it."""
    assert parse_outcome(report) == outcome


@pytest.mark.parametrize(
    "report",
    [
        1,
        {"unknown": 1},
        {"step": "0"},
        {"exit_status": 1 << 31},
        {"signal": -9},
        {"returned": 1},
        {"ending": 1},
        {"killer": 9},
        {"failure": "unknown"},
        {"failure": []},
        {"failure": "os"},
        {"failure": "os", "message": "m", "errno": "2"},
        {"failure": "os", "message": "m", "path": [1]},
        {"failure": "raised", "stage": "call", "type": "T", "message": "m"},
        {"failure": "python_start", "variables": "A"},
        {"failure": "python_start", "variables": [1]},
        {"skipped": "ab"},
        {"skipped": [["a"]]},
        {"skipped": [["a", "b", "c"]]},
        {"skipped": [["a", 1]]},
    ],
)
def test_f47_what_no_supervisor_reports_is_refused(report):
    """By one of the errors that end the connection with a ProtocolError."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_outcome(report)


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (COMMAND, Outcome(exit_status=0)),
        (FUNCTION, Outcome(exit_status=0, returned=True)),
        (FUNCTION, Outcome(signal=11, returned=True)),  # it crashed after it had returned
        (SEND, Outcome(completed=True)),
        (GET, Outcome(completed=True)),
    ],
)
def test_a_success_is_not_an_error(step, outcome):
    """For each kind of step it is something else."""
    assert error_of(step, outcome) is None


@pytest.mark.parametrize("ending", [{"exit_status": 3}, {"signal": 9}])
def test_a_command_that_fails_is_a_command_error(ending):
    """With its ending and its output."""
    error = error_of(COMMAND, Outcome(**ending))
    assert type(error) is CommandError
    assert (error.exit_status, error.signal) == (ending.get("exit_status"), ending.get("signal"))
    assert (error.command, error.output) == ("make all", "the output")


@pytest.mark.parametrize(
    ("ending", "text"),
    [({"exit_status": 3}, "with exit status 3"), ({"signal": 9}, "by signal 9")],
)
def test_a_function_that_does_not_return_is_a_remote_function_error(ending, text):
    """Nothing was raised."""
    error = error_of(FUNCTION, Outcome(**ending))
    assert type(error) is RemoteFunctionError
    assert text in str(error)
    assert error.exception_type is None


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (PythonVersionFailure("3.6.8"), PythonVersionError, "Python on host is 3.6.8"),
        (PythonModulesFailure("no zlib"), PythonNotFoundError, "it is not complete: no zlib"),
        (
            PythonStartFailure(("A", "B", "C")),
            PythonNotFoundError,
            "does not start with A, B and C of the step's variables, so train was not called. "
            "It ended with exit status 1 and printed: ",
        ),
        (RaisedFailure("dump", "T", "m", "tb"), SerializationError, "cannot be pickled: T: m"),
        (RaisedFailure("load", "T", "m", "tb"), RemoteFunctionError, "could not be loaded on host"),
        (
            RaisedFailure("call", "T", "m", "tb"),
            RemoteFunctionError,
            "train raised T on host:\ntb\nT: m",
        ),
        (OsFailure("No such file", 2, "/b", False), LazyclusterError, "could not start on host"),
    ],
)
def test_a_failure_of_a_function_has_a_type_of_its_own(failure, kind, text):
    """And says what to do."""
    error = error_of(FUNCTION, Outcome(exit_status=1, failure=failure))
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize(("type_name", "exit_status"), [("SystemExit", 4), ("ValueError", None)])
def test_the_exit_status_of_a_function_is_that_of_sys_exit(type_name, exit_status):
    """Of another exception it means nothing."""
    failure = RaisedFailure("call", type_name, "m", "tb")
    assert error_of(FUNCTION, Outcome(exit_status=4, failure=failure)).exit_status == exit_status


@pytest.mark.parametrize(("on_sender", "side"), [(True, "the manager"), (False, "host")])
def test_a_copy_that_fails_is_an_os_error_that_names_the_side(on_sender, side):
    """A path that is missing is the target's."""
    failure = OsFailure("Permission denied", errno.EACCES, None, on_sender)
    error = error_of(SEND, Outcome(exit_status=1, failure=failure))
    assert type(error) is PermissionError
    assert error.strerror == f"Permission denied (on {side})"
    assert error.filename == "b"


def test_a_copy_that_is_killed_names_the_signal():
    """There is no errno then."""
    assert "ended by signal 9 (SIGKILL) on host" in str(error_of(GET, Outcome(signal=9)))


# ── signals that end a function ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("number", "killer", "reason"),
    [
        (signal.SIGKILL, None, "probably the host's out-of-memory killer"),
        (signal.SIGKILL, "memory", "has just ended a process because it was out of memory"),
        (signal.SIGKILL, "other", "another process has ended it"),
        (signal.SIGKILL, "manager", "it was stopped from here"),
        (signal.SIGTERM, "manager", "it was stopped from here"),
        (signal.SIGTERM, None, "another process has ended it"),
        (signal.SIGHUP, None, "another process has ended it"),
        (signal.SIGSEGV, None, "a compiled module has crashed"),
        (signal.SIGBUS, None, "a compiled module has crashed"),
        (signal.SIGFPE, None, "a compiled module has crashed"),
        (signal.SIGABRT, None, "a compiled module has called abort()"),
        (signal.SIGXCPU, None, "the limit of processor time"),
        (signal.SIGXFSZ, None, "the limit of file sizes"),
    ],
)
def test_a_signal_has_its_name_and_its_likely_reason(number, killer, reason):
    message = str(error_of(FUNCTION, Outcome(signal=int(number), killer=killer)))
    assert f"by signal {int(number)} ({number.name}) on host before" in message
    assert reason in message


@pytest.mark.parametrize("number", [signal.SIGUSR1, 4711])
def test_a_signal_that_may_mean_anything_has_no_reason(number):
    assert str(error_of(FUNCTION, Outcome(signal=int(number)))).endswith("the function returned.")


CRASH = """\
printedFatal Python error: Segmentation fault

Thread 0x00007f26914766c0 (most recent call first):
  File "threading.py", line 982 in run

Current thread 0x00007f26923d5b80 [python3] (most recent call first):
  File "/home/user/script.py", line 11 in inner
  File "/home/user/script.py", line 9 in outer
  File "<lazycluster>/_remote.call", line 47 in call
  File "<string>", line 1 in <module>

Extension modules: numpy (total: 1)
"""


def test_the_error_of_a_crash_has_the_lines_of_python():
    """Those of the thread that crashed, without the library's own."""
    error = FUNCTION.error("host", Outcome(signal=11), lambda: CRASH)
    assert error.traceback.splitlines() == [
        "Current thread 0x00007f26923d5b80 [python3] (most recent call first):",
        '  File "/home/user/script.py", line 11 in inner',
        '  File "/home/user/script.py", line 9 in outer',
    ]
    assert str(error).endswith(f"has crashed.\n{error.traceback}")
    assert error._reason().endswith("a compiled module has crashed")
    assert error._short_message() == f"train did not return.\n{error.traceback}"


@pytest.mark.parametrize(
    "printed",
    ["", "Fatal Python error: Aborted", CRASH[:60], CRASH.replace("/home/user", "<lazycluster>")],
)
def test_a_crash_without_lines_has_no_traceback(printed):
    error = FUNCTION.error("host", Outcome(signal=6), lambda: printed)
    assert error.traceback is None
    assert "\n" not in str(error)


def test_a_function_that_ends_after_it_has_returned_says_so():
    """Its threads and exit functions may have had something to do."""
    error = error_of(FUNCTION, Outcome(exit_status=0, ending=True))
    assert "with exit status 0 on host after the function had returned" in str(error)


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("nr_free_pages 1\noom_kill 3\nzone 4\n", 3),
        ("oom_kill_x 3\n", None),
        ("oom_kill many\n", None),
    ],
)
def test_the_kernel_counts_what_it_has_ended_for_lack_of_memory(tmp_path, text, kills):
    (tmp_path / "vmstat").write_text(text)
    assert out_of_memory_kills(str(tmp_path / "vmstat")) == kills
    assert out_of_memory_kills(str(tmp_path / "missing")) is None


def test_an_error_of_a_copy_keeps_what_was_added_to_its_reason():
    """But for the path, which subprocess of Python 3.6 adds."""
    text = f"{os.strerror(errno.ENOSPC)}; 3 entries are in place already, the last one is '/a: b'"
    for added in ("", ": '/a b'"):
        failure = os_failure(OSError(errno.ENOSPC, text + added, "/a b"))
        assert failure["message"] == text
        assert (failure["errno"], failure["path"]) == (errno.ENOSPC, "/a b")
