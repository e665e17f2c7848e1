"""What each further file of a copy costs: calls into the system, which are most of its time."""

from __future__ import annotations

import collections
import sys

from lazycluster._shared import tree_stream
from lazycluster._shared.unpacker import Unpacker
from support.trees import file, folder, look, make

SYSTEM = "posix"  # the module whose functions are system calls
NOT_IN_THE_SYSTEM = {"fspath"}


def calls_of(action):
    """Return how often each function of the system was called."""
    counts: collections.Counter[str] = collections.Counter()

    def note(_frame, event, called):
        if event == "c_call" and getattr(called, "__module__", None) == SYSTEM:
            counts[called.__name__] += called.__name__ not in NOT_IN_THE_SYSTEM

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return counts


def calls_for_each_file(place, prepare):
    """Return the calls for 30 files that the ones for 10 files do not have, for each file.

    `prepare` returns what is counted, for a source and a target.
    """
    found = []
    for count in (10, 30):
        source, target = place / f"source-{count}", place / f"target-{count}"
        make(source, folder({b"%d" % number: file(b"data") for number in range(count)}))
        found.append(calls_of(prepare(source, target)))
    few, many = found
    return {name: (many[name] - few[name]) / 20 for name in many if many[name] != few[name]}


def test_a_file_of_a_folder_is_read_with_few_calls(place):
    """Its status is asked for twice, so that a change meanwhile is seen."""

    def prepare(source, _target):
        return lambda: list(tree_stream.pack(str(source)))

    found = calls_for_each_file(place, prepare)
    assert found == {"open": 1, "fstat": 2, "read": 1, "close": 1}


def test_a_file_of_a_new_folder_is_written_with_few_calls(place):
    """The folder has a temporary name, so a file needs none, and no look at what is there."""

    def prepare(source, target):
        pieces = list(tree_stream.pack(str(source)))
        unpacker = Unpacker(str(target), None)

        def write():
            for piece in pieces:
                unpacker.feed(piece)
            unpacker.finish()

        return write

    found = calls_for_each_file(place, prepare)
    assert found == {"open": 1, "write": 1, "fchmod": 1, "utime": 1, "close": 1}
    assert look(place / "target-30") == look(place / "source-30")
