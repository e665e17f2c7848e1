"""What an actor sends is cut into values and outcomes, however it arrives."""

from __future__ import annotations

import json

import pytest

from lazycluster._shared import messages
from lazycluster._tasks.actor_messages import MessageReader

RAISED = {
    "failure": "raised",
    "stage": "call",
    "type": "KeyError",
    "message": "'x'",
    "traceback": "",
}
STREAM = b"".join(
    [
        messages.encode(messages.RETURNED),
        messages.encode(messages.VALUE_PART, b"one "),
        messages.encode(messages.VALUE_PART, b"two "),
        messages.encode(messages.RETURNED, b"three"),
        messages.encode(messages.RETURNED, b"four"),
        messages.encode(messages.RAISED, json.dumps(RAISED).encode()),
    ]
)


@pytest.fixture
def taken():
    return []


@pytest.fixture
def reader(taken):
    def end(outcome):
        taken.append(b"END" if outcome.returned else outcome.failure.type.encode())

    def take_whole(data):
        taken.extend([bytes(data), b"END"])

    return MessageReader(take_whole, lambda data: taken.append(bytes(data)), end)


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_the_stream_may_be_cut_anywhere(reader, taken, size):
    for start in range(0, len(STREAM), size):
        reader.feed(memoryview(STREAM[start : start + size]))
    assert b"".join(taken) == b"ENDone two threeENDfourENDKeyError"


@pytest.mark.parametrize(
    "data",
    [
        messages.encode(0),
        messages.encode(9, b"x"),
        messages.encode(messages.RAISED),
        messages.HEADER.pack(messages.RAISED, 1 << 40),
        messages.encode(messages.RAISED, b"[" * 100),
        messages.encode(messages.RAISED, b"not JSON"),
        messages.encode(messages.RAISED, b'{"failure": "of another kind"}'),
        messages.encode(messages.RAISED, b"[1]"),
    ],
)
def test_what_is_no_message_is_an_error(reader, taken, data):
    with pytest.raises((ValueError, KeyError, TypeError)):
        reader.feed(memoryview(data))
    assert taken == []
