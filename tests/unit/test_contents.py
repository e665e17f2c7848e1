"""File objects that cannot be a source or a target of a copy."""

from __future__ import annotations

import io
import os

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks.contents import Source


class OnlyText:
    def read(self, size):
        return "text"


BAD = {
    "text": (io.StringIO(), TypeError, "binary"),
    "no method": (
        object.__new__(type("Other", (), {"read": None, "write": None})),
        TypeError,
        "no",
    ),
    "number": (5, TypeError, "PathLike"),
}


@pytest.mark.parametrize(("file", "error", "match"), BAD.values(), ids=BAD)
def test_what_is_not_a_binary_file_object_is_refused(file, error, match, no_process):
    task = RuntimeTask()
    with pytest.raises(error, match=match):
        task.send_file(file, "x")
    with pytest.raises(error, match=match):
        task.get_file("x", file)
    assert task.steps == ()


def test_a_file_object_must_be_open_for_it(tmp_path, no_process):
    path = tmp_path / "file"
    path.write_text("")
    with open(path, "rb") as file, pytest.raises(ValueError, match="not open to write"):
        RuntimeTask().get_file("x", file)
    with open(path, "ab") as file, pytest.raises(ValueError, match="not open to read"):
        RuntimeTask().send_file(file, "x")
    with pytest.raises(ValueError, match="closed"):
        RuntimeTask().send_file(file, "x")


def test_bytes_are_not_a_target(no_process):
    with pytest.raises(TypeError, match=r"os\.fsdecode"):
        RuntimeTask().get_file("x", b"y")
    with pytest.raises(TypeError, match="no method 'write'"):
        RuntimeTask().get_file("x", bytearray(5))


def test_text_of_a_file_object_is_a_type_error():
    with pytest.raises(TypeError, match="returned str"):
        Source(OnlyText()).read()


def test_a_source_is_read_once():
    """A request may be sent twice, if its connection has ended before it."""
    source = Source(io.BytesIO(b"data"))
    assert source.read() is source.read()
    assert len(source.read()) == 4


def test_a_raw_file_may_return_a_part():
    reader, writer = os.pipe()
    os.write(writer, b"one")
    os.close(writer)
    with open(reader, "rb", buffering=0) as file:
        assert Source(file).read().read_at(0, 10) == b"one"
