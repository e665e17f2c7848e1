"""The tree of exceptions: what each carries, and that it survives pickle and copy."""

from __future__ import annotations

import ast
import copy
import errno
import gc
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import lazycluster
from lazycluster import exceptions
from lazycluster._tasks.outcomes import timeout_error
from lazycluster._tasks.steps import GetFile, RunFunction, SendFile
from lazycluster._text import command_message
from lazycluster.exceptions import (
    ActorLostError,
    AuthenticationError,
    CommandError,
    ConnectError,
    ConnectionLostError,
    FileAccessError,
    FileTransferError,
    ForwardError,
    GroupError,
    HostKeyError,
    InvalidRuntimeError,
    IsAFolderError,
    LazyclusterError,
    MissingFileError,
    NoPortsLeftError,
    NoRuntimesDetectedError,
    NotAFolderError,
    PathCreationError,
    PortInUseError,
    ProtocolError,
    PythonNotFoundError,
    PythonVersionError,
    RemoteFunctionError,
    RemoteTraceback,
    SerializationError,
    SshError,
    StepTimeoutError,
    TargetExistsError,
    TaskExecutionError,
    UnsuitableFileError,
)

SPAWN = multiprocessing.get_context("spawn")

pytestmark = pytest.mark.every_python

STEP = {
    "task": "a task",
    "task_step_index": 2,
    "host": "h",
    "execution_log_file_path": "/tmp/x.log",
    "output": "out",
}
COPY = {
    **STEP,
    "local_path": "/a",
    "remote_path": "b",
    "errno": errno.ENOENT,
    "filename": "/a",
}
SSH = {"host": "h", "exit_status": 255, "stderr": "ssh: no"}
COMMAND = {"host": "h", "command": "false", "exit_status": 1, "signal": None, "output": "o"}

EVERY = [
    (LazyclusterError, {}),
    (InvalidRuntimeError, {"host": "h", "errors": {}}),
    (GroupError, {"results": {"h": 1}, "errors": {}}),
    (SshError, SSH),
    (ConnectError, SSH),
    (AuthenticationError, SSH),
    (HostKeyError, {**SSH, "known_hosts_file": "/k", "known_hosts_line": 3}),
    (ConnectionLostError, {**SSH, "started": True}),
    (ForwardError, SSH),
    (TaskExecutionError, STEP),
    (FileTransferError, {**COPY, "errno": errno.ENOSPC}),
    (MissingFileError, COPY),
    (FileAccessError, {**COPY, "errno": errno.EACCES}),
    (TargetExistsError, {**COPY, "errno": errno.EEXIST}),
    (NotAFolderError, {**COPY, "errno": errno.ENOTDIR}),
    (IsAFolderError, {**COPY, "errno": errno.EISDIR}),
    (UnsuitableFileError, {**COPY, "errno": errno.EINVAL}),
    (CommandError, COMMAND),
    (StepTimeoutError, {**COMMAND, "exit_status": None, "signal": 15, "timeout": 1.5}),
    (
        RemoteFunctionError,
        {
            "host": "h",
            "function": "f",
            "exception_type": "KeyError",
            "exception_message": "'x'",
            "traceback": "Traceback …",
            "exit_status": None,
            "signal": 9,
        },
    ),
    (PythonNotFoundError, {"host": "h"}),
    (PythonVersionError, {"host": "h", "host_version": "3.6.9", "manager_version": "3.11.2"}),
    (SerializationError, {}),
    (ActorLostError, {"host": "h", "reason": "it was closed", "started": False}),
    (ProtocolError, {"host": "h"}),
    (PortInUseError, {"port": 80, "side": "manager"}),
    (NoPortsLeftError, {}),
    (PathCreationError, {"host": "h", "path": "/p"}),
    (NoRuntimesDetectedError, {}),
]
each = pytest.mark.parametrize(("cls", "attributes"), EVERY, ids=[c.__name__ for c, _ in EVERY])
WAYS = {
    **{
        f"pickle{protocol}": lambda e, p=protocol: pickle.loads(pickle.dumps(e, p))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


class AwkwardError(Exception):
    """Pickles, but cannot be read: its __init__ wants more than its args hold."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_every_public_exception_is_in_this_table():
    """A new class cannot be forgotten here."""
    public = {
        c for c in vars(exceptions).values() if isinstance(c, type) and issubclass(c, Exception)
    }
    assert public - {RemoteTraceback} == {cls for cls, _ in EVERY}


def test_every_exception_is_drawn_in_the_tree():
    """The picture on top of the file is whole."""
    for cls, _ in EVERY:
        assert cls.__name__ in exceptions.__doc__


@each
def test_the_message_is_the_text_of_the_exception(cls, attributes):
    """str(error) is the first argument, also where OSError would add its number."""
    assert str(cls("What happened.", **attributes)) == "What happened."


@each
def test_attributes_are_what_was_given(cls, attributes):
    """Each keyword is a plain attribute."""
    error = cls("m", **attributes)
    assert {name: getattr(error, name) for name in attributes} == attributes


@pytest.mark.parametrize("attributes", [{}, {"host": "h", "hots": "h"}, {"hots": "h"}])
def test_a_missing_or_unknown_attribute_is_a_type_error(attributes):
    """As for every other call."""
    with pytest.raises(TypeError, match=r"SshError takes .*host.* needs .*host.* got"):
        SshError("m", **attributes)


def test_the_library_makes_its_exceptions_with_the_attributes_that_they_declare():
    """No type checker sees them, and a TypeError would hide the failure that was to be reported."""
    classes = {cls.__name__: (cls, keywords) for cls, keywords in EVERY}
    made = 0
    for path in Path(lazycluster.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in classes:
                cls, every = classes[node.func.id]
                names = {keyword.arg for keyword in node.keywords}
                assert names - {None} <= every.keys(), f"{path}:{node.lineno}"
                if None not in names:  # no **keywords
                    required = {name for name in every if not hasattr(cls, name)}
                    assert required <= names, f"{path}:{node.lineno}"
                made += 1
    assert made > 30


@each_way
@each
def test_an_exception_survives(cls, attributes, way):
    """Class, message and attributes come out as they went in."""
    error = way(cls("m", **attributes))
    assert type(error) is cls
    assert error.args == ("m",)
    assert {name: getattr(error, name) for name in attributes} == attributes


@each_way
def test_causes_survive_at_every_depth(way):
    """A cause of another class keeps its own cause too, which Python alone forgets."""
    lowest = AuthenticationError("denied", host="h", stderr="s")
    foreign = KeyError("k")
    foreign.__cause__ = lowest
    middle = CommandError("c", host="h", command="false", exit_status=1)
    middle.__cause__ = foreign
    top = TaskExecutionError("t", **STEP)
    top.__cause__ = middle

    top = way(top)

    assert isinstance(top.__cause__, CommandError)
    assert isinstance(top.__cause__.__cause__, KeyError)
    assert top.__cause__.__cause__.args == ("k",)
    assert isinstance(top.__cause__.__cause__.__cause__, AuthenticationError)
    assert top.__cause__.__cause__.__cause__.stderr == "s"


def fail_for_a_reason():
    try:
        raise AuthenticationError("denied", host="h", exit_status=255)
    except AuthenticationError as error:
        raise InvalidRuntimeError("no runtime", host="h") from error


def fail_in_a_pool():
    with ProcessPoolExecutor(1, SPAWN) as pool:
        pool.submit(fail_for_a_reason).result()


def run_by_executor(function):
    with ProcessPoolExecutor(1, SPAWN) as pool:
        pool.submit(function).result()


def run_by_multiprocessing(function):
    with SPAWN.Pool(1) as pool:
        pool.apply(function)


@pytest.fixture
def collected_pools():
    """Free the semaphores of pools here: their finalizers need an os.write that works."""
    yield
    gc.collect()


@pytest.mark.usefixtures("collected_pools")
@pytest.mark.parametrize(
    ("run", "function"),
    [
        (run_by_executor, fail_for_a_reason),
        (run_by_executor, fail_in_a_pool),
        (run_by_multiprocessing, fail_for_a_reason),  # whose processes can have no pool
    ],
)
def test_the_cause_of_an_error_of_a_process_pool_is_kept(run, function):
    """A pool puts the remote traceback in the place of `__cause__`."""
    with pytest.raises(InvalidRuntimeError) as caught:
        run(function)
    assert type(caught.value.__cause__) is not AuthenticationError
    cause = caught.value.predecessor_excp
    assert isinstance(cause, AuthenticationError)
    assert (str(cause), cause.exit_status) == ("denied", 255)


def test_the_names_of_the_reference():
    """Message and cause, also as arguments."""
    cause = ValueError("cause")
    error = LazyclusterError("text", cause)
    assert (error.msg, error.predecessor_excp, error.__cause__) == ("text", cause, cause)
    other = KeyError("k")
    with pytest.raises(LazyclusterError) as caught:
        raise copy.copy(error) from other
    assert caught.value.predecessor_excp is other


@each_way
def test_raise_from_none_survives(way):
    """The context that was hidden stays hidden."""
    error = LazyclusterError("m")
    error.__cause__ = None
    assert way(error).__suppress_context__ is True


@each_way
def test_a_circle_of_causes_survives(way):
    """pickle and copy remember what they have seen."""
    first, second = LazyclusterError("1"), ProtocolError("2", host="h")
    first.__cause__, second.__cause__ = second, first
    again = way(first)
    assert str(again.__cause__) == "2"
    assert str(again.__cause__.__cause__) == "1"


def test_a_cause_that_cannot_be_read_again_becomes_text():
    """One awkward class far below does not lose the whole error."""
    error = LazyclusterError("m")
    error.__cause__ = AwkwardError("a", "b")
    again = pickle.loads(pickle.dumps(error))
    assert type(again.__cause__) is LazyclusterError
    assert str(again.__cause__) == "AwkwardError: a and b"


def test_copy_keeps_the_very_cause():
    """copy.copy copies the error, not what it refers to."""
    error = LazyclusterError("m")
    error.__cause__ = AwkwardError("a", "b")
    assert copy.copy(error).__cause__ is error.__cause__


def test_a_subclass_with_attributes_of_its_own_survives():
    """Users may derive classes of their own."""
    error = pickle.loads(pickle.dumps(DerivedError("m", host="h")))
    assert (type(error), error.host, error.extra) == (DerivedError, "h", 7)


class DerivedError(SshError):
    def __init__(self, message, *, host):
        super().__init__(message, host=host)
        self.extra = 7


@pytest.mark.parametrize("cls", [ConnectError, AuthenticationError, HostKeyError])
def test_a_failed_login_is_a_value_error(cls):
    """As the reference has it."""
    assert issubclass(cls, ValueError)


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.ENOENT, FileNotFoundError),
        (errno.EACCES, PermissionError),
        (errno.EPERM, PermissionError),
        (errno.EEXIST, FileExistsError),
        (errno.ENOTDIR, NotADirectoryError),
        (errno.EISDIR, IsADirectoryError),
        (errno.EINVAL, ValueError),
        (errno.ENOSPC, OSError),
    ],
)
@each_way
def test_a_failed_copy_is_the_os_error_of_its_number(number, cls, way):
    """As the reference has it; strerror belongs to it."""
    with pytest.raises(cls) as caught:
        raise way(FileTransferError("m", **{**COPY, "errno": number}))
    error = caught.value
    assert isinstance(error, FileTransferError)
    assert (error.errno, error.strerror, error.filename) == (number, os.strerror(number), "/a")
    assert (str(error), error.msg, error.args) == ("m", "m", ("m",))


@each_way
def test_a_failed_copy_without_a_number_has_none(way):
    """Not every failure has an errno."""
    error = way(FileTransferError("m", **STEP))
    assert type(error) is FileTransferError
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_a_failed_command_is_reported_as_a_small_table():
    """Exit status, command, host, last lines, in that order."""
    message = command_message(host="h", command="make", exit_status=2, output="a\n\nb\n")
    assert message.splitlines() == [
        "A command failed.",
        "  exit status 2",
        "  command     make",
        "  host        h",
        "  output      a",
        "              b",
    ]


def test_a_signal_is_reported_with_its_name():
    """A number alone says little."""
    assert "signal      9 (SIGKILL)" in command_message(host="h", command="x", signal=9)


def test_a_signal_without_a_name_here_is_reported_by_its_number():
    """The host may have signals that the manager does not know."""
    assert "signal      4711\n" in command_message(host="h", command="x", signal=4711)


def test_a_timeout_is_reported_in_seconds():
    """The headline says that it was the time."""
    lines = command_message(host="h", command="x", signal=15, timeout=0.5).splitlines()
    assert lines[:2] == ["A command took too long.", "  timeout     0.5 seconds"]


@pytest.mark.parametrize("step", [RunFunction, SendFile, GetFile])
def test_the_timeout_of_a_step_says_what_it_is(step):
    """A function or a copy has a name, and not a command line."""
    message = str(timeout_error("h", step.kind, "name", 1, ""))
    kind = "function" if step is RunFunction else "copy"
    assert message.startswith(
        f"A {kind} took too long.\n  timeout     1 seconds\n  {kind:<12}name\n"
    )


def test_a_timeout_is_a_timeout_of_python():
    """`except TimeoutError` catches it, and it keeps its own text and attributes."""
    error = StepTimeoutError("m", host="h", command="f", timeout=1.0)
    assert isinstance(error, TimeoutError)
    assert (str(error), error.errno, error.timeout) == ("m", None, 1.0)


def test_only_the_last_five_lines_are_shown():
    """The whole output is in the attribute."""
    message = command_message(host="h", command="x", output="\n".join(map(str, range(100))))
    assert message.endswith(
        "output      95\n              96\n              97\n              98\n              99"
    )


def test_a_long_command_is_shortened():
    """A message is for people."""
    assert max(map(len, command_message(host="h", command="y" * 10_000).splitlines())) < 220


def test_control_characters_do_not_reach_the_terminal():
    """What the host printed could otherwise rewrite the screen on which a traceback is shown."""
    message = command_message(host="h", command="a\nb", output="\x1b[2Jgone\n")
    assert "\x1b" not in message
    assert "\\x1b[2Jgone" in message
    assert "a\\nb" in message
