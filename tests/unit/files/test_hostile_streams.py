"""A stream of a hostile peer writes nothing but the target."""

from __future__ import annotations

import errno
import itertools
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycluster._shared import tree_stream
from lazycluster._shared import unpacker as unpacker_module
from lazycluster._shared.unpacker import Unpacker
from support.trees import drawn, file, folder, hypothesis_place, look, make, names, record, unpack

FILE, FOLDER, LEAVE, LINK, END = (
    tree_stream.FILE,
    tree_stream.FOLDER,
    tree_stream.LEAVE,
    tree_stream.LINK,
    tree_stream.END,
)
ROOT = record(FOLDER)
NO_DATA = tree_stream.NO_MORE_DATA
BAD_NAMES = [b"", b".", b"..", b"/", b"/etc/x", b"a/b", b"../x", b"a/", b"a\0b", b"\0", b"n" * 5000]
HOSTILE = {
    **{f"file {name[:9]!r}": ROOT + record(FILE, name) for name in BAD_NAMES},
    **{f"folder {name[:9]!r}": ROOT + record(FOLDER, name) for name in BAD_NAMES},
    **{
        f"link {name[:9]!r}": ROOT + record(LINK, name + b"\0target")
        for name in BAD_NAMES
        if b"\0" not in name
    },
    "name of a temporary": ROOT + record(FILE, b".lazycluster-0123456789abcdef"),
    "link without a target": ROOT + record(LINK, b"a"),
    "link to nothing": ROOT + record(LINK, b"a\0"),
    "link with a NUL": ROOT + record(LINK, b"a\0b\0c"),
    "link with a long target": ROOT + record(LINK, b"a\0" + b"t" * 5000),
    "file twice": ROOT + (record(FILE, b"a") + NO_DATA) * 2,
    "folder twice": ROOT + (record(FOLDER, b"a") + record(LEAVE)) * 2,
    "file through a link": ROOT + record(LINK, b"a\0../outside") + record(FILE, b"a"),
    "folder through a link": ROOT + record(LINK, b"a\0../outside") + record(FOLDER, b"a"),
    "folder through a file": ROOT + record(FILE, b"a") + NO_DATA + record(FOLDER, b"a"),
    "link in place of a folder": ROOT
    + record(FOLDER, b"a")
    + record(LEAVE)
    + record(LINK, b"a\0../outside"),
    "link as the root": record(LINK, b"\0../outside"),
    "link as the root with a name": record(LINK, b"a\0../outside"),
    "file as the root with a name": record(FILE, b"a"),
    "out of the root": ROOT + record(LEAVE) + record(LEAVE),
    "out of nothing": record(LEAVE),
    "second root": ROOT + record(LEAVE) + ROOT,
    "entry behind the root": ROOT + record(LEAVE) + record(FILE, b"a"),
    "entry behind a file": record(FILE) + NO_DATA + record(FILE, b"a"),
    "end of nothing": record(END),
    "end within": ROOT + record(END),
    "data behind the end": record(FILE) + NO_DATA + record(END) + b"x",
    "record behind the end": ROOT + record(LEAVE) + record(END) + record(FILE, b"a"),
    "unknown kind": ROOT + record(8),
    "kind 0": record(0),
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "long piece": record(FILE) + tree_stream.LENGTH.pack(tree_stream.CHUNK + 1),
    "longest piece": ROOT + record(FILE, b"a") + tree_stream.LENGTH.pack(2**32 - 2),
    "end of what is broken": record(FILE) + tree_stream.LENGTH.pack(2**32 - 1) + record(END),
    "too many nanoseconds": record(FILE, nanoseconds=10**9),
    "skipped for an unknown reason": ROOT + record(tree_stream.SKIPPED, b"a", mode=99),
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_stream_is_refused_and_leaves_nothing(place, stream):
    """Nothing is written but below the temporary, and that goes."""
    make(place / "outside", folder({b"kept": file()}))
    make(place / "folder", folder())
    with pytest.raises(tree_stream.FormatError):
        unpack([stream], place / "folder/target")
    assert look(place / "outside") == folder({b"kept": file()})
    assert names(place / "folder") == []
    assert names(place) == ["folder", "outside"]


def test_format_error_is_a_value_error():
    """So that who knows no more can catch it."""
    assert issubclass(tree_stream.FormatError, ValueError)


@drawn
@given(st.binary(max_size=300))
def test_garbage_writes_nothing_but_the_target(garbage):
    """Whatever comes, it is an error or a file or folder under that name."""
    with hypothesis_place() as place:
        try:
            unpack([garbage], place / "target")
        except (OSError, tree_stream.FormatError):
            assert names(place) == []
        else:
            assert names(place) == ["target"]


RECORDS = st.one_of(
    st.builds(
        record,
        st.integers(1, 7),
        st.sampled_from([b"", b"a", b"b", b"..", b"a\0..", b"b\0/tmp", b"c\0a", b"x\0ENOENT"]),
        st.sampled_from([0o755, 0o7777, 0, 3]),
    ),
    st.just(NO_DATA),
    st.just(tree_stream.LENGTH.pack(1) + b"x"),
)


@drawn
@given(st.lists(RECORDS, max_size=12))
def test_records_in_any_order_write_nothing_but_the_target(records):
    """As garbage does, but deeper in."""
    with hypothesis_place() as place:
        (place / "folder").mkdir()
        try:
            unpack([ROOT, *records], place / "folder/target")
        except (OSError, tree_stream.FormatError):
            assert names(place / "folder") == []
        else:
            assert names(place / "folder") == ["target"]
        assert names(place) == ["folder"]


def test_setuid_bits_of_a_stream_are_dropped(place):
    """Whether the manager or the host sends them."""
    stream = record(FOLDER, mode=0o7777) + record(FILE, b"a", mode=0o7755) + NO_DATA
    unpack([stream + record(LEAVE) + record(END)], place / "target")
    assert stat.S_IMODE(os.stat(place / "target/a").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(place / "target").st_mode) == 0o1777


@pytest.mark.parametrize("seconds", [-(2**63), 2**63 - 1])
def test_time_of_a_stream_may_be_absurd(place, seconds):
    """The file system makes of it what it can."""
    stream = record(FILE, seconds=seconds, nanoseconds=999999999) + NO_DATA + record(END)
    try:
        unpack([stream], place / "target")
    except (OSError, tree_stream.FormatError):
        assert names(place) == []
    else:
        assert names(place) == ["target"]


def test_levels_without_end_are_refused(place, monkeypatch):
    """The memory for them is ours."""
    monkeypatch.setattr(unpacker_module, "MOST_LEVELS", 50)
    with pytest.raises(tree_stream.FormatError, match="without end"):
        unpack([ROOT, record(FOLDER, b"d") * 50], place / "target")
    assert names(place) == []


def test_skipped_names_without_end_are_refused(place):
    line = record(tree_stream.SKIPPED, b"x" * 60000, mode=0)
    with pytest.raises(tree_stream.FormatError, match="too much"):
        unpack(itertools.chain([ROOT], itertools.repeat(line)), place / "target")
    assert names(place) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"/there/x\0ENOENT", errno.ENOENT),
        (b"/there/x\0ENOSUCH", errno.EIO),
        (b"/there/x\0errorcode", errno.EIO),
        (b"/there/x\0", errno.EIO),
        (b"/there/x\0\xff", errno.EIO),
    ],
)
def test_error_of_the_sender_is_raised_with_its_path(place, text, number):
    """By the name of its number, which differs between systems."""
    unpacker = Unpacker(str(place / "target"), None)
    unpacker.feed(ROOT)
    with pytest.raises(OSError, match="/there/x") as caught:
        unpacker.feed(record(tree_stream.ERROR, text))
    assert (caught.value.errno, caught.value.filename) == (number, "/there/x")
    assert unpacker.failed_there
    assert names(place) == []


def test_name_longer_than_the_file_system_takes_is_an_error(place):
    """A host may have longer names than we can."""
    with pytest.raises(OSError, match="target") as caught:
        unpack([ROOT, record(FILE, b"n" * 300)], place / "target")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert names(place) == []
