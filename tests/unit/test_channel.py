"""The messages from the process of a step: whole, in order, and never into another file."""

from __future__ import annotations

import json
import os
import threading

import pytest

from lazycluster._remote import channel, streams
from lazycluster._remote.channel import LOGGED, OUTCOME, REPORT, VALUE, Channel, Messages
from lazycluster._shared import frames

MESSAGES = [
    (REPORT, b'{"temporary": "/x"}'),
    (LOGGED, b"line\n" * 300),
    (VALUE, b"v" * 1000),
    (VALUE, b"w"),
    (OUTCOME, b"{}"),
]


@pytest.fixture
def pipe():
    """The end to read from, and the end to write to."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def encoded(messages):
    return b"".join(channel.HEADER.pack(kind, len(data)) + data for kind, data in messages)


def split(messages, data, size):
    """What is found in data of which `size` bytes come at a time; a value is joined."""
    found = []
    for start in range(0, len(data), size):
        part = data[start : start + size]
        if messages.value_left:  # which the supervisor reads by itself
            taken = part[: messages.value_left]
            messages.value_left -= len(taken)
            found[-1] = VALUE, found[-1][1] + taken
            part = part[len(taken) :]
        found += messages.split(part)
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 7, 999, 1 << 20])
def test_messages_are_cut_wherever_the_reads_end(size):
    assert split(Messages(), encoded(MESSAGES), size) == MESSAGES


@pytest.mark.parametrize(
    "data", [b"\0", b"print", b"\7\0\0\0\1x", channel.HEADER.pack(REPORT, frames.MAX_PAYLOAD + 1)]
)
def test_what_a_function_has_written_is_not_a_message(data):
    with pytest.raises(ValueError, match="not a message"):
        list(Messages().split(data + bytes(channel.HEADER.size)))


def test_a_small_value_goes_with_its_outcome(pipe):
    """One write, which wakes the supervisor once."""
    sent = Channel(pipe[1])
    sent.write(b"va")
    sent.write(b"lue")
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)
    assert sent.send_outcome({"returned": True})
    assert list(Messages().split(os.read(pipe[0], 1 << 16))) == [
        (VALUE, b"value"),
        (OUTCOME, json.dumps({"returned": True}).encode()),
    ]


def test_a_large_value_does_not_wait(pipe):
    """What was small before it comes first."""
    sent = Channel(pipe[1])
    sent.write(b"begin")
    value = b"x" * (channel.SMALL + 1)
    # In a thread: the pipes of an account that has many hold a page each, see pipe(7).
    writing = threading.Thread(target=sent.write, args=(memoryview(value),))
    writing.start()
    size = 2 * channel.HEADER.size + len(b"begin") + len(value)
    found = list(Messages().split(streams.read_exactly(pipe[0], size)))
    writing.join()
    assert found == [(VALUE, b"begin"), (VALUE, value)]


def test_nothing_follows_the_outcome(pipe):
    """A daemon thread may log until the process exits."""
    sent = Channel(pipe[1])
    assert sent.send_outcome({})
    sent.log(b"late\n")
    assert [kind for kind, _ in Messages().split(os.read(pipe[0], 1 << 16))] == [OUTCOME]


def test_nothing_is_written_into_a_file_that_has_got_the_number(pipe, tmp_path):
    sent = Channel(pipe[1])
    with open(tmp_path / "file", "wb") as file:
        os.dup2(file.fileno(), pipe[1])
        assert not sent.send_outcome({"returned": True})
        sent.log(b"line\n")
        with pytest.raises(OSError, match="closed the pipe"):
            sent.write(b"x" * (channel.SMALL + 1))
    assert (tmp_path / "file").read_bytes() == b""
