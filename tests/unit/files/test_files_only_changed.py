"""A copy of what has changed: what is compared, what is sent, and what is not."""

from __future__ import annotations

import os

import pytest

from lazycluster._shared import listing, tree_stream
from lazycluster._shared.tree_stream import KEPT, LINK
from support.trees import (
    LINK_TIMES,
    NASTY_NAMES,
    TIME,
    as_nobody,
    file,
    folder,
    link,
    look,
    make,
    needs_any_name,
    record,
    unpack,
)

SECOND = 10**9


def sent(place, *, keeps_names=False, **options):
    """The stream of what the target lacks."""
    packer = tree_stream.Packer(str(place / "source"), keeps_names=keeps_names, **options)
    packer.scan()
    packer.compare(b"".join(listing.make_list(str(place / "target"))))
    measured = packer.measure()
    pieces = list(packer.stream())
    return b"".join(pieces), measured


def copied(place, **options):
    """Copies what has changed; the bytes of files that were sent."""
    stream, measured = sent(place, **options)
    unpack([stream], place, "target")
    return measured


@needs_any_name
def test_what_is_equal_is_not_sent(place):
    """Whatever its name is; nothing of it is opened."""
    entries = {name: file(b"data") for name in NASTY_NAMES}
    tree = folder({**entries, b"sub": folder({**entries, b"l": link(b"a b/\xff")})})
    make(place / "source", tree)
    make(place / "target", tree)
    stream, measured = sent(place)
    assert measured == 0
    assert b"data" not in stream
    assert all(name not in stream for name in NASTY_NAMES if len(name) > 5)


def test_what_is_missing_is_sent(place):
    make(place / "source", folder({b"a": file(b"1"), b"sub": folder({b"b": file(b"23")})}))
    assert sent(place)[1] == 3
    make(place / "target", folder({b"a": file(b"1")}))
    assert copied(place) == 2
    assert look(place / "target") == look(place / "source")
    assert copied(place) == 0


CHANGES = {
    "size": file(b"longer"),
    "time": file(b"other", time=TIME + 1),
    "earlier time": file(b"other", time=TIME - SECOND),
    "size, and the time is whole": file(b"longer", time=TIME // SECOND * SECOND),
    "link": link(b"datum"),
    "folder": folder({b"x": file(b"datum")}),
}


@pytest.mark.parametrize("there", CHANGES.values(), ids=CHANGES)
def test_what_differs_is_sent(place, there):
    make(place / "source", folder({b"a": file(b"datum")}))
    make(place / "target", folder({b"a": there}))
    assert sent(place)[1] == len(b"datum")


def test_a_mode_makes_no_difference(place):
    """Sizes and times do."""
    make(place / "source", folder({b"a": file(b"datum", mode=0o600)}))
    make(place / "target", folder({b"a": file(b"other", mode=0o644)}))
    assert sent(place)[1] == 0


@pytest.mark.skipif(not LINK_TIMES, reason="links have no times of their own here")
@pytest.mark.parametrize("there", [link(b"b"), link(b"a", time=TIME + SECOND), file(b"a")])
def test_a_link_that_differs_is_sent(place, there):
    make(place / "source", folder({b"l": link(b"a")}))
    make(place / "target", folder({b"l": there}))
    assert b"l\0a" in sent(place)[0]


@pytest.mark.parametrize("step", [SECOND, 10**6, 10**3, 100])
@pytest.mark.parametrize("coarse", ["source", "target"])
def test_times_are_compared_as_exactly_as_both_sides_keep_them(place, step, coarse):
    """The other side has no digits that could differ."""
    rough = TIME // step * step
    make(
        place / "source", folder({b"a": file(b"datum", time=rough if coarse == "source" else TIME)})
    )
    make(
        place / "target", folder({b"a": file(b"datum", time=rough if coarse != "source" else TIME)})
    )
    assert sent(place)[1] == 0
    assert not listing.is_same_time(rough, TIME + step)
    assert not listing.is_same_time(rough, rough - 1)


def test_a_file_is_compared_too(place):
    make(place / "source", file(b"datum"))
    assert copied(place) == 5
    stream, measured = sent(place)
    assert (stream[: tree_stream.HEAD.size], measured) == (record(KEPT, mode=0), 0)
    assert copied(place) == 0
    assert look(place / "target") == file(b"datum")
    os.utime(place / "source", ns=(1, 1))
    assert copied(place) == 5
    assert look(place / "target") == file(b"datum", time=1)


def test_what_is_excluded_is_not_compared(place):
    make(place / "source", folder({b"a": file(b"1"), b"b": file(b"23")}))
    assert sent(place, exclude=["b"])[1] == 1


def test_a_folder_that_is_new_since_it_was_compared_is_sent(place):
    """And a file that has gone is not missed."""
    make(place / "source", folder({b"sub": folder({b"a": file(b"1"), b"b": file(b"2")})}))
    packer = tree_stream.Packer(str(place / "source"))
    packer.scan()
    packer.compare(b"")
    os.unlink(place / "source/sub/a")
    make(place / "source/sub/new", folder({b"c": file(b"3")}))
    skipped = unpack(packer.stream(), place / "target")
    assert [reason for _, reason in skipped] == ["vanished while the folder was read"]
    assert look(place / "target/sub")[3] == {b"b": file(b"2")}


def test_the_names_of_what_is_equal_are_sent_if_they_are_asked_for(place):
    """In the folder that they are in, some in each record."""
    names = [b"%d" % number for number in range(40)]
    tree = folder({b"sub": folder({name: file() for name in names}), b"z": file()})
    make(place / "source", tree)
    make(place / "target", tree)
    stream, _ = sent(place, keeps_names=True)
    kept, at = [], 0
    while at < len(stream):
        kind, _, length, _, _ = tree_stream.HEAD.unpack_from(stream, at)
        at += tree_stream.HEAD.size + length
        if kind == KEPT:
            kept += stream[at - length : at].split(b"\0")
        assert kind != LINK
    assert sorted(kept) == sorted([*names, b"z"])


def test_what_cannot_be_listed_is_sent(place):
    """The copy says what is wrong with it."""
    make(place / "source", folder({b"sub": folder({b"a": file(b"1")})}))
    make(place / "target", folder({b"sub": folder({b"a": file(b"1")}, mode=0)}))
    with as_nobody():
        assert sent(place)[1] == 1
    os.chmod(place / "target/sub", 0o700)


@pytest.mark.parametrize("target", ["file", "nothing", "fifo"])
def test_a_list_of_what_is_not_a_folder(place, target):
    make(place / "file", file(b"12", time=5))
    os.mkfifo(place / "fifo")
    expected = b"f5 2/" if target == "file" else b""
    assert b"".join(listing.make_list(str(place / target))) == expected


def test_a_list_arrives_whole_or_not_at_all():
    pieces = [b"a" * 200_000, b"", b"b"]
    frames = list(listing.frame(iter(pieces)))
    assert max(map(len, frames)) == 1 << 16
    framed = b"".join(frames)

    def reading(data):
        rest = [data]

        def read(count):
            taken, rest[0] = rest[0][: min(count, 1000)], rest[0][min(count, 1000) :]
            return taken

        return read

    assert listing.read_framed(reading(framed)) == b"".join(pieces)
    with pytest.raises(OSError, match="before it was complete"):
        listing.read_framed(reading(framed[:-1]))
