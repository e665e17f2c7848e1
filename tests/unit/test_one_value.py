"""The value of one call is kept until it is asked for, however it arrives."""

from __future__ import annotations

import pickle

import pytest

from lazycluster._spool import MEMORY_LIMIT, Spool
from lazycluster._tasks.one_value import OneValue
from lazycluster.exceptions import SerializationError

LIMIT = 1 << 24


def sent(data, count=1):
    """A value that has come in so many chunks, and is complete."""
    value = OneValue()
    size = -(-len(data) // count)
    for start in range(0, len(data), size):
        chunk = bytearray(data[start : start + size])
        value.append(memoryview(chunk))
        chunk[:] = bytes(len(chunk))  # the reader thread uses its buffer again
    value.returned = True
    return value


def load(value):
    return value.load("host", "f", lambda _: ())


@pytest.mark.parametrize("size", [0, 10, MEMORY_LIMIT + 10])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_arrives_in_any_number_of_chunks(size, count):
    expected = "x" * size
    value = sent(pickle.dumps(expected), count)
    assert not value.is_empty
    assert load(value) == expected


def test_it_is_read_once():
    """Its bytes are freed."""
    value = sent(pickle.dumps(1))
    assert load(value) == 1
    assert value.is_empty
    with pytest.raises(SerializationError, match="host has sent no value of f"):
        load(value)


@pytest.mark.parametrize("data", [b"", pickle.dumps(1)])
def test_there_is_none_before_the_function_has_returned(data):
    value = OneValue()
    value.append(memoryview(data))
    with pytest.raises(SerializationError, match="has sent no value"):
        load(value)


@pytest.mark.parametrize("count", [1, 3])
def test_a_value_that_cannot_be_unpickled_is_an_error(count):
    with pytest.raises(SerializationError, match="cannot be unpickled"):
        load(sent(b"no pickle", count))


@pytest.mark.parametrize("count", [1, 2])
def test_the_exception_of_a_call_is_what_it_has_sent(count):
    value = sent(b"0123456789", count)
    assert value.sent_by(0, LIMIT) == b"0123456789"
    assert value.sent_by(0, 10) == b"0123456789"
    assert value.sent_by(0, 9) == b""


def test_a_full_disk_is_told_when_the_value_is_asked_for(monkeypatch):
    """And what comes after it is dropped."""
    error = OSError(28, "No space left on device")

    def fail(spool, data):
        raise error

    monkeypatch.setattr(Spool, "write", fail)
    value = sent(b"0123456789", 5)
    assert value.error() is error
    assert not value.is_empty
    assert value.sent_by(0, LIMIT) == b""
    with pytest.raises(SerializationError):
        load(value)
