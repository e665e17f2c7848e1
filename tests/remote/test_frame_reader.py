"""The wire format: streams of frames, cut in any way, and bytes that are none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycluster._shared import frames

kinds = st.sampled_from(sorted(frames.TO_SUPERVISOR))
numbers = st.integers(0, 2**32 - 1)
some_frames = st.lists(st.tuples(kinds, numbers, st.binary(max_size=40)), max_size=8)
cuts = st.lists(st.integers(1, 30), max_size=60)


def encoded(stream):
    return b"".join(frames.encode(*frame) for frame in stream)


def joined(found):
    """With the payloads of BULK put together again, which come as they were read."""
    whole = []
    for kind, number, payload in found:
        if kind in frames.BULK and whole and whole[-1][:2] == (kind, number):
            payload = whole.pop()[2] + bytes(payload)
        if payload or kind not in frames.BULK:
            whole.append((kind, number, bytes(payload)))
    return whole


def pieces_of(data, lengths):
    for length in lengths:
        yield data[:length]
        data = data[length:]
    yield data


@settings(deadline=None)
@given(some_frames, cuts)
def test_any_split_gives_the_same_frames(stream, lengths):
    """How the bytes were cut on their way does not matter."""
    reader = frames.FrameReader(frames.TO_SUPERVISOR)
    found = []
    for piece in pieces_of(encoded(stream), lengths):
        found += reader.feed(piece)
    assert joined(found) == joined(stream)


@settings(deadline=None)
@given(some_frames)
def test_a_message_is_given_as_soon_as_its_last_byte_has_come(stream):
    """Byte by byte, each comes with its own end, and bytes of BULK one by one."""
    reader = frames.FrameReader(frames.TO_SUPERVISOR)
    for frame in stream:
        kind, number, payload = frame
        found = [reader.feed(bytes([byte])) for byte in frames.encode(*frame)]
        if kind in frames.BULK:
            one_by_one = [[(kind, number, bytes([byte]))] for byte in payload]
            assert found == [[]] * frames.HEADER.size + one_by_one
        else:
            assert found == [[]] * (len(found) - 1) + [[frame]]


@settings(deadline=None)
@given(some_frames, st.integers(0, 255).filter(lambda kind: kind not in frames.TO_SUPERVISOR))
def test_an_unknown_kind_is_no_frame(stream, kind):
    """What the other side may not send is refused as soon as its header is there."""
    reader = frames.FrameReader(frames.TO_SUPERVISOR)
    reader.feed(encoded(stream))
    with pytest.raises(frames.FrameError, match=f"unknown kind {kind}$"):
        reader.feed(frames.HEADER.pack(kind, 0, 0))


@settings(deadline=None)
@given(some_frames, kinds, st.integers(frames.MAX_PAYLOAD + 1, 2**32 - 1))
def test_an_absurd_length_is_no_frame(stream, kind, length):
    """Nothing is waited for, or kept, that is longer than what may be."""
    reader = frames.FrameReader(frames.TO_SUPERVISOR)
    reader.feed(encoded(stream))
    with pytest.raises(frames.FrameError, match=str(length)):
        reader.feed(frames.HEADER.pack(kind, 0, length))


@settings(deadline=None)
@given(st.binary(min_size=9, max_size=200), cuts)
def test_garbage_gives_frames_or_a_frame_error(garbage, lengths):
    """Whatever comes, there is no other outcome."""
    reader = frames.FrameReader(frames.TO_SUPERVISOR)
    try:
        for piece in pieces_of(garbage, lengths):
            for kind, _, payload in reader.feed(piece):
                assert kind in frames.TO_SUPERVISOR
                assert len(payload) <= frames.MAX_PAYLOAD
    except frames.FrameError:
        return


def test_the_longest_payload_is_a_frame():
    """The bound itself is believed."""
    reader = frames.FrameReader(frames.TO_MANAGER)
    payload = bytes(frames.MAX_PAYLOAD)
    assert reader.feed(frames.encode(frames.OUTPUT, 7, payload)) == [(frames.OUTPUT, 7, payload)]


def test_each_side_refuses_what_it_says_itself():
    """Save for the heartbeat, which goes both ways."""
    assert {frames.HEARTBEAT} == frames.TO_SUPERVISOR & frames.TO_MANAGER


def test_the_kinds_are_told_apart_by_their_numbers():
    """No number stands for two kinds."""
    others = ("SILENT_PERIODS", "KEY_SIZE")
    names = [
        name
        for name, value in vars(frames).items()
        if name.isupper() and type(value) is int and value <= 255 and name not in others
    ]
    numbers = {getattr(frames, name) for name in names}
    assert len(numbers) == len(names)
    assert numbers == frames.TO_SUPERVISOR | frames.TO_MANAGER
