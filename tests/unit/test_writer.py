"""Writer: frames arrive whole and in order over a pipe, and the sender never waits."""

from __future__ import annotations

import os
import select
import threading

import pytest

from lazycluster._conversation.writer import PIPE_BUF, Writer
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.every_python


class Pipe:
    """A pipe whose writing end does not block, as the lifeline's."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def read(self, count):
        """Return `count` bytes, as soon as they have come."""
        data = b""
        while len(data) < count:
            assert select.select([self.reader], [], [], TIMEOUT)[0], f"only {len(data)} bytes"
            data += os.read(self.reader, count - len(data))
        return data

    @property
    def is_empty(self):
        return not select.select([self.reader], [], [], 0)[0]

    def fill(self):
        """Write until nothing more fits, and return the number of bytes."""
        count = 0
        while True:
            try:
                count += os.write(self.writer, bytes(1))
            except BlockingIOError:
                return count

    def close_reader(self):
        os.close(self.reader)
        self.reader = -1

    def close(self):
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)


class Frames:
    """A source of frames that counts how often it was asked.

    Args:
        frames: What it has; None stands for none at the moment, an error is raised.
    """

    def __init__(self, *frames):
        self._frames = list(frames)
        self.error = None
        self.asked = threading.Semaphore(0)

    def next_frame(self):
        frame = self._frames.pop(0) if self._frames else None
        self.asked.release()
        if isinstance(frame, Exception):
            raise frame
        return frame

    def fail(self, error):
        self.error = error


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def writer(pipe):
    writer = Writer(pipe.writer, "writer of a test")
    yield writer
    assert writer.close()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "writer of a test"]


def test_a_small_frame_is_written_at_once_and_without_a_thread(writer, pipe):
    writer.send(b"frame")
    assert not pipe.is_empty
    assert pipe.read(5) == b"frame"
    assert not threads()


def test_an_error_of_a_signal_handler_is_not_one_of_the_pipe(writer, pipe, monkeypatch):
    """The frame would be lost without a word, and its request would be waited for without end."""
    late = TimeoutError("late")

    def write(*_):
        raise late

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(TimeoutError) as caught:
            writer.send(b"frame")
    assert caught.value is late
    assert pipe.is_empty
    writer.send(b"next")
    assert pipe.read(4) == b"next"


def test_a_frame_larger_than_an_atomic_write_comes_whole(writer, pipe):
    frame = os.urandom(20 * PIPE_BUF)
    writer.send(frame)
    assert pipe.read(len(frame)) == frame


def test_frames_that_find_a_full_pipe_wait_in_their_order(writer, pipe):
    filled = pipe.fill()
    for number in range(100):
        writer.send(b"%3d" % number)  # none of them blocks
    assert pipe.read(filled) == bytes(filled)
    assert pipe.read(300) == b"".join(b"%3d" % number for number in range(100))


def test_a_small_frame_does_not_overtake_a_large_one(writer, pipe):
    large = os.urandom(1 << 20)  # more than fits into the pipe
    writer.send(large)
    writer.send(b"small")
    assert pipe.read(len(large) + 5) == large + b"small"


def test_two_sources_take_turns(writer, pipe):
    """Neither a large file nor a large value keeps the other waiting for its end."""
    filled = pipe.fill()
    first, second = Frames(b"1", b"1", b"1"), Frames(b"2", b"2", b"2")
    writer.send(b"begin")  # the thread is busy with it, so that both are known before a turn
    writer.feed(first)
    writer.feed(second)
    pipe.read(filled)
    assert pipe.read(11) == b"begin121212"


def test_a_frame_that_is_sent_goes_before_what_sources_have(writer, pipe):
    """A KILL does not wait for the end of an upload."""
    filled = pipe.fill()
    writer.send(b"begin")
    writer.feed(Frames(b"1", b"1"))
    writer.send(b"kill")
    pipe.read(filled)
    assert pipe.read(11) == b"beginkill11"


def test_a_source_is_asked_again_only_when_it_is_fed_again(writer, pipe):
    source = Frames(b"1", None, b"2")
    writer.feed(source)
    assert pipe.read(1) == b"1"
    for _ in range(2):
        assert source.asked.acquire(timeout=TIMEOUT)
    assert pipe.is_empty
    wait_until(lambda: writer.feed(source) or not pipe.is_empty)
    assert pipe.read(1) == b"2"


def test_a_source_fed_twice_has_one_place_in_the_queue(writer, pipe):
    filled = pipe.fill()
    source = Frames(b"1", b"1", b"1")
    writer.send(b"begin")
    writer.feed(source)
    writer.feed(source)
    writer.feed(Frames(b"2", b"2", b"2"))
    pipe.read(filled)
    assert pipe.read(11) == b"begin121212"


def test_a_source_that_fails_gets_its_error_and_others_go_on(writer, pipe):
    broken = Frames(b"1", OSError("the disk"))
    writer.feed(broken)
    assert pipe.read(1) == b"1"
    for _ in range(2):
        assert broken.asked.acquire(timeout=TIMEOUT)
    writer.feed(Frames(b"2"))
    assert pipe.read(1) == b"2"
    assert str(broken.error) == "the disk"


def test_a_heartbeat_is_written_when_nothing_else_is(writer, pipe):
    writer.heartbeat(b"beat")
    assert pipe.read(4) == b"beat"


def test_a_heartbeat_is_left_out_while_a_frame_is_being_written(writer, pipe):
    """Any frame shows the host that the manager is there."""
    filled = pipe.fill()
    writer.send(b"frame")
    writer.heartbeat(b"beat")
    pipe.read(filled)
    assert pipe.read(5) == b"frame"
    writer.send(b"next")
    assert pipe.read(4) == b"next"


def test_nothing_is_written_after_the_end(writer, pipe):
    writer.send(b"frame")
    assert writer.close()
    writer.send(b"late")
    writer.feed(Frames(b"late"))
    assert pipe.read(5) == b"frame"
    assert pipe.is_empty


def test_the_end_does_not_wait_for_a_pipe_that_nobody_reads(writer, pipe):
    """And then the pipe is no longer in use, so it can be closed."""
    pipe.fill()
    writer.send(b"frame")
    wait_until(threads)
    assert writer.close()
    wait_until(lambda: not threads(), "the thread lives on")


def test_a_broken_pipe_is_not_an_error_of_the_sender(writer, pipe):
    """The thread that reads finds the reason."""
    pipe.close_reader()
    writer.send(b"small")
    writer.send(bytes(2 * PIPE_BUF))
    wait_until(lambda: not threads(), "the thread lives on")
    writer.send(b"late")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks beside threads
def test_a_forked_child_writes_nothing(writer, pipe):
    """The number of the descriptor may be another file's there."""
    child = os.fork()
    if child == 0:
        writer.send(b"from the child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pipe.is_empty
