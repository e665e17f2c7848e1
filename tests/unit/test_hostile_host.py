"""F47 and downloads: whatever a host sends, it is an error with a name, and nothing else happens.

In the place of ssh are two pipes, and a thread that plays the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import select
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazycluster import Connection, RuntimeTask
from lazycluster._shared import frames, tree_stream
from lazycluster._ssh import lifelines as _lifelines
from lazycluster._ssh import transport
from lazycluster._tasks import execution as _execution
from lazycluster.exceptions import (
    CommandError,
    ConnectError,
    ConnectionLostError,
    FileTransferError,
    LazyclusterError,
    ProtocolError,
    TaskExecutionError,
)
from support.waiting import TIMEOUT


class Host:
    """What `Master` is to the conversation; a host that says `script` when it is asked.

    Args:
        script: What it says behind its answer, at the first request.
        answer: What it says at the login, the token before it.
        stays: Whether it stays then until the manager goes, and does not go itself.
    """

    askpass = None
    folder = control_path = "/nonexistent"

    def __init__(self, script: Iterable[bytes], answer: bytes, stays: bool) -> None:
        self._script = script
        self._answer = answer
        self._stays = stays
        self._input, self.lifeline = _lifelines.pipe()
        self.output, self._output = _lifelines.pipe()
        self._released, self._wake = _lifelines.pipe()
        os.set_blocking(self.lifeline, False)
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        try:
            told = self._read_until(re.compile(rb"lazycluster-[0-9a-f]{32}\b"), b"")
            token = told[1]
            self._say(token + self._answer)
            told = self._read_until(re.compile(rb'\{"steps": \['), told[0])
            for piece in self._script:
                if select.select([self._released], [], [], 0)[0]:
                    break
                self._say(piece)
            if self._stays:
                self._read_until(re.compile(rb"(?!)"), b"")
        except (EOFError, BrokenPipeError):
            pass
        for fd in (self._output, self._input):
            _lifelines.close(fd)

    def _read_until(self, pattern: re.Pattern[bytes], seen: bytes) -> tuple[bytes, bytes]:
        while True:
            if found := pattern.search(seen):
                return seen, found[0]
            ready = select.select([self._input, self._released], [], [])[0]
            data = b"" if self._released in ready else os.read(self._input, 1 << 16)
            if not data:
                raise EOFError
            seen += data

    def _say(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._output, view) :]

    def log(self) -> str:
        return ""

    def close_lifeline(self) -> None:
        self.lifeline = _lifelines.close(self.lifeline)

    def release(self, *, ending: bool = False) -> None:
        self._wake = _lifelines.close(self._wake)

    def wait(self) -> int:
        self.output = _lifelines.close(self.output)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        self._released = _lifelines.close(self._released)
        return 255


@contextlib.contextmanager
def host_that_says(
    *script: bytes, pieces: Iterable[bytes] = (), answer: bytes = b" python\n", stays: bool = True
) -> Iterator[Connection]:
    """A Connection to such a host; nothing of it is left."""
    threads = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        says = (piece for source in (script, pieces) for piece in source)
        patch.setattr(transport, "Master", lambda *_: Host(says, answer, stays))
        connection = Connection("host", connect_timeout=TIMEOUT, keepalive=TIMEOUT)
        try:
            yield connection
        finally:
            connection.close()
            for thread in set(threading.enumerate()) - threads:
                thread.join(TIMEOUT)
                assert not thread.is_alive(), thread


def frame(kind: int, content: Any = None, number: int = 1) -> bytes:
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return frames.encode(kind, number, payload)


STARTED = frame(frames.STARTED, {"step": 0, "pid": 1})
ENDED = frame(frames.ENDED, {"step": 0, "exit_status": 0})
FINISHED = frame(frames.FINISHED, b"")


def failure(task: RuntimeTask, connection: Connection) -> BaseException:
    with pytest.raises(TaskExecutionError) as caught:
        task.execute(connection)
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


def command() -> RuntimeTask:
    return RuntimeTask().run_command("true")


def test_a_host_that_makes_sense_is_understood():
    """Or none of these tests would show anything."""
    output = frame(frames.OUTPUT, b"hi\n")
    with host_that_says(STARTED, output, ENDED, FINISHED) as connection:
        assert command().execute(connection).execution_log == ["hi\n"]


# ── frames ────────────────────────────────────────────────────────────────────────────────────────

MALFORMED = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(100),
    "absurd length": frames.HEADER.pack(frames.OUTPUT, 1, 2**32 - 1),
    "a kind of our own": frame(frames.KILL, {"grace": 0}),
    "an unknown request": frame(frames.OUTPUT, b"hi", number=7),
    "no JSON": frame(frames.STARTED, b"{"),
    "no object": frame(frames.STARTED, [1]),
    "no UTF-8": frame(frames.ENDED, b"\xff\xfe\xfd"),
    "JSON without end": frame(frames.ENDED, b"[" * 200_000),
    "an infinite number": frame(frames.STARTED, b'{"step": Infinity, "pid": 1}'),
    "a step that is none": frame(frames.STARTED, {"step": "x", "pid": 1}),
    "a step below 0": frame(frames.STARTED, {"step": -1, "pid": 1}),
    "a step that was not asked for": frame(frames.STARTED, {"step": 10**9, "pid": 1}),
    "a step twice": STARTED * 2,
    "a step that starts after the last": STARTED + ENDED + STARTED,
    "a step that ends after the last": STARTED + ENDED * 2,
    "no pid": frame(frames.STARTED, {"step": 0}),
    "an ending that is a number": STARTED + frame(frames.ENDED, 1),
    "an ending of unknown words": STARTED + frame(frames.ENDED, {"x": 1}),
    "an exit status that is text": STARTED + frame(frames.ENDED, {"exit_status": "0"}),
    "an absurd exit status": STARTED + frame(frames.ENDED, {"exit_status": 1 << 70}),
    "a signal below 0": STARTED + frame(frames.ENDED, {"signal": -9}),
    "an unknown failure": STARTED + frame(frames.ENDED, {"failure": "x"}),
    "a failure without a message": STARTED + frame(frames.ENDED, {"failure": "os"}),
    "a failure without its text": STARTED + frame(frames.ENDED, {"failure": "raised"}),
    "an absurd errno": frame(frames.ENDED, {"failure": "os", "message": "", "errno": 1 << 70}),
    "a path that is none": frame(frames.ENDED, {"failure": "os", "message": "", "path": [1]}),
    "skipped that is none": STARTED + frame(frames.ENDED, {"skipped": [1]}),
    "credit that is none": frame(frames.CREDIT, {"bytes": "x"}),
    "output behind the end": STARTED + ENDED + FINISHED + frame(frames.OUTPUT, b"hi"),
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
def test_f47_what_makes_no_sense_ends_the_connection(said):
    """A ProtocolError, though the host stays, and as often as it is tried."""
    with host_that_says(STARTED[:0], said) as connection:
        login = connection._start().transport
        with contextlib.suppress(TaskExecutionError):  # the last of them comes behind the end
            command().execute(connection)
        assert login.wait_until_ended(TIMEOUT)
        error = login.end_error(None)
        assert type(error) is ProtocolError
        assert "violate the protocol" in str(error)
        assert len(str(error)) < 500


def test_f47_the_error_of_a_running_step_is_the_protocol_error():
    """And it is not tried again."""
    with host_that_says(STARTED, MALFORMED["garbage"]) as connection:
        error = failure(command(), connection)
    assert type(error) is ProtocolError
    assert error.host == "host"


def test_f47_half_a_frame_and_then_the_end():
    """The connection was lost, and the step had started."""
    with host_that_says(STARTED, ENDED[:-1], stays=False) as connection:
        error = failure(command(), connection)
    assert type(error) is ConnectionLostError
    assert error.started


@pytest.fixture
def no_kill_timeout(monkeypatch):
    """Do not wait ten seconds for a hostile host to report that it has stopped a request."""
    monkeypatch.setattr(_execution, "KILL_TIMEOUT", -_execution.TERMINATE_GRACE)


def test_f47_a_frame_that_never_ends_is_bounded_by_the_timeout(no_kill_timeout):
    """The host can be as slow as it likes; a timeout is the manager's own."""
    with host_that_says(STARTED, frames.HEADER.pack(frames.OUTPUT, 1, 100)) as connection:
        task = command()
        with pytest.raises(TaskExecutionError) as caught:
            task.execute(connection, timeout=0.05)
    assert "timeout" in str(caught.value)


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.mark.parametrize(
    "piece",
    [b"\0" * 65536, b"no sense " * 10000, frame(frames.OUTPUT, b"x", number=9) * 1000],
    ids=["zeros", "text", "frames"],
)
def test_f47_endless_garbage_is_not_read(piece):
    """The connection ends at the first of it."""
    with host_that_says(pieces=endless(piece)) as connection:
        assert type(failure(command(), connection)) is ProtocolError


@pytest.mark.parametrize("answer", [b" python", b" what\n", b" " + b"x" * 10000, b"\n" * 10000])
def test_f47_an_answer_that_is_none_is_an_error(answer):
    """The rest of what comes is kept in bounded memory, and the end is the reason."""
    with host_that_says(answer=answer, stays=False) as connection:
        # Nothing is asked before the answer, so the host goes when it is to be closed.
        connection._settings.__dict__["connect_timeout"] = -0.7
        with pytest.raises((ConnectError, ProtocolError)):
            connection.open()


def test_f47_heartbeats_and_hellos_of_any_form_are_signs_of_life():
    """Nothing in them is believed."""
    said = [frame(kind, b"\xff" * 10) for kind in (frames.HELLO, frames.HEARTBEAT)]
    with host_that_says(*said, STARTED, ENDED, FINISHED) as connection:
        assert command().execute(connection).error is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
words = st.sampled_from(
    [
        "step",
        "pid",
        "bytes",
        "exit_status",
        "signal",
        "failure",
        "errno",
        "path",
        "message",
        "there",
        "python",
        "stage",
        "type",
        "traceback",
        "returned",
        "skipped",
        "result",
    ]
)
contents = st.one_of(
    st.dictionaries(words, values | st.integers(-1, 2), max_size=6),
    st.fixed_dictionaries({"step": st.integers(-1, 2), "pid": st.integers()}),
    st.fixed_dictionaries({"exit_status": st.integers(-1, 300)}),
    st.fixed_dictionaries(
        {
            "failure": st.sampled_from(
                ["os", "raised", "python_version", "python_modules", "python_start"]
            )
        },
        optional={
            word: st.text(max_size=9) for word in ("message", "stage", "type", "traceback", "path")
        },
    ),
    values,
)
some_frames = st.builds(
    lambda kind, number, payload: frames.encode(kind, number, payload),
    st.sampled_from(sorted(frames.TO_MANAGER)),
    st.sampled_from([1, 1, 1, 1, 0, 2]),
    contents.map(lambda content: json.dumps(content).encode()) | st.binary(max_size=20),
)
quickly = settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))


def tasks(folder: Path) -> dict[str, Callable[[], RuntimeTask]]:
    return {
        "command": command,
        "send": lambda: RuntimeTask().send_file(__file__),
        "get": lambda: RuntimeTask().get_file("asked", str(folder / "target")),
    }


@pytest.mark.parametrize("which", ["command", "send", "get"])
@quickly
@given(st.lists(some_frames | st.binary(max_size=30), max_size=6))
def test_f47_any_frames_end_in_an_error_with_a_name(which, tmp_path_factory, said):
    """Or in success; whatever comes, nothing hangs, and no TypeError of the library comes out."""
    folder = tmp_path_factory.mktemp("f47")
    with host_that_says(STARTED, *said, stays=False) as connection:
        task = tasks(folder)[which]()
        with contextlib.suppress(TaskExecutionError):
            task.execute(connection)
    cause = None if task.error is None else task.error.__cause__
    named = (LazyclusterError,) if which == "command" else (LazyclusterError, OSError, ValueError)
    assert cause is None or (isinstance(cause, named) and type(cause) is not ValueError)
    assert set(os.listdir(folder)) <= {"target"}


# ── values ────────────────────────────────────────────────────────────────────────────────────────


class Bomb:
    """What a hostile host returns."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_f47_a_value_that_nobody_asks_for_is_never_unpickled(tmp_path):
    """The caller that unpickles it trusts the host; trust.md says so."""
    bomb = frame(frames.VALUE, pickle.dumps(Bomb(str(tmp_path / "ran"))))
    ended = frame(frames.ENDED, {"exit_status": 0, "returned": True})
    with host_that_says(STARTED, bomb, ended, FINISHED) as connection:
        task = RuntimeTask().run_function(pow, base=2, exp=3).execute(connection)
        repr(task), task.execution_log, task.error
        assert not (tmp_path / "ran").exists()
        list(task.function_returns)
    assert (tmp_path / "ran").exists()  # so that the test can fail


def test_f47_a_separate_standard_error_that_nobody_asked_for_is_dropped():
    output = [frame(kind, b"text\n") for kind in (frames.ERRORS, frames.OUTPUT, frames.ERRORS)]
    with host_that_says(STARTED, *output, ENDED, FINISHED) as connection:
        task = command().execute(connection)
    assert task.execution_log == ["text\n"]


def test_f47_a_command_has_no_value_whatever_a_host_says(tmp_path):
    """Who calls no function unpickles nothing."""
    bomb = frame(frames.VALUE, pickle.dumps(Bomb(str(tmp_path / "ran"))))
    ended = frame(frames.ENDED, {"exit_status": 0, "returned": True})
    with host_that_says(STARTED, bomb, ended, FINISHED) as connection:
        task = command().execute(connection)
    assert list(task.function_returns) == []
    assert not (tmp_path / "ran").exists()


RAISED = {
    "failure": "raised",
    "stage": "call",
    "type": "os.system",
    "message": "touch ran",
    "traceback": "\x1b]0;owned\x07",
    "exit_status": 1,
}


def test_f47_the_text_of_an_exception_is_text(tmp_path):
    """Not even its class is looked for here."""
    with host_that_says(STARTED, frame(frames.ENDED, RAISED), FINISHED) as connection:
        error = failure(RuntimeTask().run_function(pow, base=2, exp=3), connection)
    assert (error.exception_type, error.exception_message) == ("os.system", "touch ran")
    assert error.exception is None
    assert "\x1b" not in str(error)
    assert "\x1b" in error.traceback


def test_f47_an_exception_of_a_command_is_never_unpickled(tmp_path):
    """Whatever the host says, with a value and without."""
    bomb = frame(frames.VALUE, pickle.dumps(Bomb(str(tmp_path / "ran"))))
    ended = frame(frames.ENDED, {**RAISED, "pickled": True})
    with host_that_says(STARTED, bomb, ended, FINISHED) as connection:
        error = failure(command(), connection)
    assert error.exception is None
    assert not (tmp_path / "ran").exists()


def test_f47_an_exception_of_a_function_is_unpickled_only_when_it_is_asked_for(tmp_path):
    """As values are."""
    bomb = frame(frames.VALUE, pickle.dumps(Bomb(str(tmp_path / "ran"))))
    ended = frame(frames.ENDED, {**RAISED, "pickled": True})
    with host_that_says(STARTED, bomb, ended, FINISHED) as connection:
        error = failure(RuntimeTask().run_function(pow, base=2, exp=3), connection)
    assert str(error)
    assert not (tmp_path / "ran").exists()
    assert error.exception is None
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        pickle.dumps("a str"),
        pickle.dumps(ValueError),
        pickle.dumps(SystemExit(0)),
        pickle.dumps(ValueError(bytes(frames.EXCEPTION_LIMIT))),
    ],
    ids=["nothing", "garbage", "text", "a class", "SystemExit", "too large"],
)
def test_f47_what_is_not_an_exception_is_none(data):
    parts = (data[i : i + frames.CHUNK] for i in range(0, len(data), frames.CHUNK))
    values = [frame(frames.VALUE, part) for part in parts]
    ended = frame(frames.ENDED, {**RAISED, "pickled": True})
    with host_that_says(STARTED, *values, ended, FINISHED) as connection:
        error = failure(RuntimeTask().run_function(pow, base=2, exp=3), connection)
    assert error.exception is None
    assert error.exception_message == "touch ran"


def test_words_of_a_host_in_a_message_are_text():
    """No terminal that shows an error obeys the host; its attributes are as they came."""
    evil = "\x1b[2J\x9b31m\r\x07"
    output = frame(frames.OUTPUT, evil.encode())
    ended = frame(frames.ENDED, {"exit_status": 1})
    with host_that_says(STARTED, output, ended, FINISHED) as connection:
        error = failure(command(), connection)
    assert type(error) is CommandError
    assert error.output == evil
    assert str(error).replace("\n", "").isprintable()
    ended = frame(frames.ENDED, {"failure": "os", "message": evil, "path": evil, "errno": 2})
    for task in (command(), RuntimeTask().get_file("asked", "/nonexistent/target")):
        with host_that_says(STARTED, ended, FINISHED) as connection:  # noqa: SIM117
            with pytest.raises(TaskExecutionError) as caught:
                task.execute(connection)
        assert str(caught.value).replace("\n", "").isprintable()
        assert str(caught.value.__cause__).replace("\n", "").isprintable()


# ── downloads ─────────────────────────────────────────────────────────────────────────────────────


def record(kind: int, text: bytes = b"", mode: int = 0o755) -> bytes:
    return tree_stream.HEAD.pack(kind, mode, len(text), 0, 0) + text


def data(content: bytes) -> bytes:
    return tree_stream.LENGTH.pack(len(content)) + content + tree_stream.NO_MORE_DATA


FOLDER, LEAVE = record(tree_stream.FOLDER), record(tree_stream.LEAVE)
TREES = {
    "an absolute name": FOLDER + record(tree_stream.FILE, b"/tmp/evil") + data(b"x"),
    "..": FOLDER + record(tree_stream.FILE, b"..") + data(b"x"),
    "a way up": FOLDER + record(tree_stream.FILE, b"../evil") + data(b"x"),
    "a way down": FOLDER + record(tree_stream.FILE, b"kept/evil") + data(b"x"),
    "a way up by a folder": FOLDER
    + record(tree_stream.FOLDER, b"..")
    + record(tree_stream.FILE, b"evil"),
    "more ways up than down": FOLDER
    + LEAVE
    + LEAVE
    + record(tree_stream.FILE, b"evil")
    + data(b"x"),
    "a name that was not asked for": record(tree_stream.FILE, b"evil") + data(b"x"),
    "a second file": record(tree_stream.FILE)
    + data(b"x")
    + record(tree_stream.FILE, b"evil")
    + data(b"x"),
    "a file through a link": FOLDER
    + record(tree_stream.LINK, b"out\0..")
    + record(tree_stream.FILE, b"out/evil")
    + data(b"x"),
    "a folder through a link": FOLDER
    + record(tree_stream.LINK, b"out\0..")
    + record(tree_stream.FOLDER, b"out")
    + record(tree_stream.FILE, b"evil"),
    "a file behind its link": FOLDER
    + record(tree_stream.LINK, b"out\0../kept")
    + record(tree_stream.FILE, b"out")
    + data(b"x"),
    "a link as what was asked for": record(tree_stream.LINK, b"\0../kept"),
    "a device": FOLDER + record(8, b"null"),
    "an absurd piece": record(tree_stream.FILE) + tree_stream.LENGTH.pack(2**32 - 1),
    "an absurd name": FOLDER + record(tree_stream.FILE, b"n" * 60000),
    "names that are one": FOLDER + (record(tree_stream.FILE, b"a") + data(b"x")) * 2,
    "our own temporary": FOLDER
    + record(tree_stream.FILE, b".lazycluster-0123456789abcdef")
    + data(b"x"),
}


@pytest.fixture
def place(tmp_path):
    """A folder to download into, with something in it that must stay as it is."""
    (tmp_path / "kept").write_text("kept")
    yield tmp_path
    assert (tmp_path / "kept").read_text() == "kept"
    assert set(os.listdir(tmp_path)) <= {"kept", "target", "asked"}
    assert not os.path.lexists("/tmp/evil")


@pytest.mark.parametrize("stream", TREES.values(), ids=TREES)
@pytest.mark.parametrize("finished", [True, False], ids=["told", "untold"])
def test_what_a_host_sends_is_written_nowhere_else(place, stream, finished):
    """A FileTransferError, and no trace of it; CVE-2019-6111, CVE-2018-20685, CVE-2026-0964."""
    ending = (frame(frames.ENDED, {"exit_status": 0, "result": None}), FINISHED) if finished else ()
    value = frame(frames.VALUE, stream + record(tree_stream.END))
    with host_that_says(STARTED, value, *ending, stays=finished) as connection:  # noqa: SIM117
        with pytest.raises(FileTransferError):
            RuntimeTask().get_file("asked", str(place / "target")).execute(connection)
    assert os.listdir(place) == ["kept"]


def test_bits_that_give_rights_are_not_taken_from_a_host(place):
    """Neither setuid nor setgid nor the sticky bit."""
    stream = record(tree_stream.FILE, mode=0o7777) + data(b"x") + record(tree_stream.END)
    ended = frame(frames.ENDED, {"exit_status": 0, "result": None})
    said = (STARTED, frame(frames.VALUE, stream), ended, FINISHED)
    with host_that_says(*said) as connection:
        RuntimeTask().get_file("asked", str(place / "target")).execute(connection)
    assert (place / "target").stat().st_mode & 0o7777 == 0o777


def test_a_folder_goes_under_the_name_that_was_asked_for(place):
    """A host cannot choose where in a folder that is there it goes."""
    stream = (
        FOLDER + record(tree_stream.FILE, b"kept") + data(b"x") + LEAVE + record(tree_stream.END)
    )
    ended = frame(frames.ENDED, {"exit_status": 0, "result": "/tmp/evil"})
    with host_that_says(STARTED, frame(frames.VALUE, stream), ended, FINISHED) as connection:
        RuntimeTask().get_file("some/asked", str(place)).execute(connection)
    assert sorted(os.listdir(place)) == ["asked", "kept"]
    assert (place / "asked/kept").read_text() == "x"


def test_data_without_end_is_written_under_the_one_name_until_it_is_stopped(place, no_kill_timeout):
    """A timeout stops it, and what came is removed."""

    def pieces() -> Iterator[bytes]:
        yield frame(frames.VALUE, record(tree_stream.FILE))
        while True:
            yield frame(frames.VALUE, tree_stream.LENGTH.pack(1000) + bytes(1000))

    with host_that_says(STARTED, pieces=pieces()) as connection:  # noqa: SIM117
        with pytest.raises(FileTransferError):
            RuntimeTask().get_file("asked", str(place / "target")).execute(connection, timeout=0.05)
    assert os.listdir(place) == ["kept"]


def test_names_of_what_was_skipped_are_text(place):
    """They are in the log, where nothing of them is obeyed."""
    skipped = tree_stream.HEAD.pack(tree_stream.SKIPPED, tree_stream.DEVICE, 5, 0, 0) + b"\x1b[2Ja"
    stream = FOLDER + skipped + LEAVE + record(tree_stream.END)
    ended = frame(frames.ENDED, {"exit_status": 0, "result": None})
    with host_that_says(STARTED, frame(frames.VALUE, stream), ended, FINISHED) as connection:
        task = RuntimeTask().get_file("asked", str(place / "target")).execute(connection)
    assert task.execution_log == ["skipped '\\x1b[2Ja': device\n"]
