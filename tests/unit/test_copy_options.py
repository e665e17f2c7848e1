"""What a copy can be told, and what it cannot; nothing is sent."""

from __future__ import annotations

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks.copy_options import DEFAULTS, CopyOptions

BAD = [
    ({"on_error": "ignore"}, ValueError),
    ({"on_error": None}, ValueError),
    ({"only_changed": 1}, TypeError),
    ({"delete": "yes"}, TypeError),
    ({"in_place": "yes"}, TypeError),
    ({"mode": "644"}, TypeError),
    ({"mode": True}, TypeError),
    ({"mode": 644}, ValueError),
    ({"mode": -1}, ValueError),
    ({"mode": 0o1000}, ValueError),
]


@pytest.mark.parametrize(("options", "error"), BAD, ids=repr)
def test_an_option_that_cannot_be_is_refused_by_its_name(options, error, no_process):
    (name,) = options
    task = RuntimeTask()
    for method in (task.send_file, task.get_file):
        with pytest.raises(error, match=name):
            method("a", "b", **options)
    assert task.steps == ()


@pytest.mark.parametrize("option", ["only_changed", "delete"])
def test_an_option_of_folders_is_refused_for_bytes(option, no_process):
    with pytest.raises(ValueError, match=option):
        RuntimeTask().send_file(b"data", "a", **{option: True})


def test_a_host_gets_only_what_differs_from_the_defaults():
    assert DEFAULTS.for_sender() == DEFAULTS.for_receiver() == {}
    options = CopyOptions(exclude=("a",), only_changed=True, delete=True, mode=0, in_place=True)
    assert options.for_sender() == {"exclude": ("a",), "only_changed": True, "keeps_names": True}
    assert options.for_receiver() == {
        "exclude": ("a",),
        "delete": True,
        "mode": 0,
        "in_place": True,
    }
