"""Inputs in chunks, bounded: `Pool.map` without a host."""

from __future__ import annotations

import gc
import itertools
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError

import pytest

from lazycluster._pool.mapping import map_in_chunks


class Submitted:
    """Runs each chunk at once, and knows the sizes of the chunks and the futures."""

    def __init__(self, ends=True):
        self.sizes = []
        self.futures = []
        self._ends = ends

    def __call__(self, chunk):
        future = Future()
        if self._ends:
            future.set_result([sum(arguments) for arguments in chunk])
        self.sizes.append(len(chunk))
        self.futures.append(future)
        return future


def counted(inputs, read):
    for each in inputs:
        read.append(each)
        yield each


@pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("count", [0, 1, 6, 7, 20])
def test_values_come_in_the_order_of_the_inputs(chunksize, buffersize, count):
    submit = Submitted()
    values = map_in_chunks(submit, (range(count), itertools.count(1)), chunksize, buffersize, None)
    assert list(values) == [2 * number + 1 for number in range(count)]
    assert sum(submit.sizes) == count
    assert all(size <= chunksize for size in submit.sizes)


@pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("buffersize", [1, 2, 3, 5, 100])
def test_no_more_inputs_are_read_than_the_buffer_has_room_for(chunksize, buffersize):
    read = []
    values = map_in_chunks(Submitted(), (counted(range(200), read),), chunksize, buffersize, None)
    for yielded, _ in enumerate(values, 1):
        assert len(read) - yielded <= buffersize
    assert len(read) == 200


def test_without_a_buffer_size_all_inputs_are_read_at_once():
    read = []
    map_in_chunks(Submitted(), (counted(range(200), read),), 3, None, None)
    assert len(read) == 200


def test_an_endless_input_needs_a_buffer_size():
    values = map_in_chunks(Submitted(), (itertools.count(),), 2, 4, None)
    assert list(itertools.islice(values, 5)) == [0, 1, 2, 3, 4]


def test_closing_the_iterator_cancels_what_is_left():
    submit = Submitted(ends=False)
    values = map_in_chunks(submit, (range(10),), 2, None, None)
    submit.futures[0].set_result([0, 1])
    assert next(values) == 0
    values.close()
    assert [future.cancelled() for future in submit.futures] == [False, True, True, True, True]


def test_closing_the_iterator_before_its_first_value_cancels_everything():
    submit = Submitted(ends=False)
    values = map_in_chunks(submit, (range(10),), 2, None, None)
    values.close()
    assert all(future.cancelled() for future in submit.futures)
    assert list(values) == []


@pytest.mark.parametrize(("begun", "cancelled"), [(False, False), (True, True)])
def test_dropping_an_iterator_cancels_what_is_left_if_a_value_was_asked_for(begun, cancelled):
    """As with the executors of the standard library."""
    submit = Submitted(ends=False)
    values = map_in_chunks(submit, (range(4),), 2, None, None)
    submit.futures[0].set_result([0, 1])
    if begun:
        next(values)
    del values
    gc.collect()
    assert submit.futures[1].cancelled() is cancelled


def test_a_value_that_is_late_ends_the_iteration_and_cancels_the_rest():
    submit = Submitted(ends=False)
    values = map_in_chunks(submit, (range(4),), 2, None, 0.0)
    with pytest.raises(LateError):
        next(values)
    assert all(future.cancelled() for future in submit.futures)
    assert list(values) == []


def test_an_input_that_raises_cancels_what_was_submitted():
    def inputs():
        yield 1
        raise OSError("no more")

    submit = Submitted(ends=False)
    with pytest.raises(OSError, match="no more"):
        map_in_chunks(submit, (inputs(),), 1, None, None)
    assert all(future.cancelled() for future in submit.futures)


def test_the_iterator_keeps_no_value_that_it_has_yielded():
    class Value:
        pass

    def submit(chunk):
        future = Future()
        future.set_result([Value() for _ in chunk])
        return future

    values = map_in_chunks(submit, (range(6),), 3, None, None)
    for _ in range(6):
        reference = weakref.ref(next(values))
        gc.collect()
        assert reference() is None
