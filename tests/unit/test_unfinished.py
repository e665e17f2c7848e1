"""What the WARNING at the interpreter's exit says."""

from __future__ import annotations

import logging
import sys

import pytest

from lazycluster._tasks import unfinished


@pytest.fixture
def add(monkeypatch):
    """Adds what runs, by kind, name and host."""
    monkeypatch.setattr(unfinished, "_entries", {})
    monkeypatch.setattr(unfinished, "_registered", True)  # not at the exit of the tests
    monkeypatch.delattr(sys, "last_value", raising=False)

    def add(kind, name, host, runs=lambda: True):
        unfinished.add(one := object(), kind, name, lambda: host, runs)
        return one

    return add


@pytest.mark.parametrize(
    ("running", "message"),
    [
        (
            ["task a h"],
            "1 task was still running on h when the program ended, and was stopped: a. "
            "Call join() to wait for it, or cleanup() of the Runtime to stop it.",
        ),
        (
            ["task b h", "task a h"],
            "2 tasks were still running on h when the program ended, and were stopped: b, a. "
            "Call join() to wait for them, or cleanup() of the Runtime to stop them.",
        ),
        (
            ["call f h"] * 300,
            "300 submitted calls were still running on h when the program ended, and were "
            "stopped: f. "
            "Call result() to wait for them, or cleanup() of the Runtime to stop them.",
        ),
        (
            ["call f "],
            "1 submitted call was still waiting for a host when the program ended, and was "
            "stopped: f. Call result() to wait for it, or cleanup() of the Runtime to stop it.",
        ),
        (
            ["call f h", "call g "],
            "2 submitted calls were still running on h or still waiting for a host when the "
            "program ended, and were stopped: f, g. "
            "Call result() to wait for them, or cleanup() of the Runtime to stop them.",
        ),
        (
            ["call f y", "task a\x1b x", *(f"task t{n} h{n}" for n in range(6))],
            "7 tasks and 1 submitted call were still running on h0, h1, h2 and 5 more when the "
            "program ended, and were stopped: f, a\\x1b, t0, t1, t2 and 3 more. "
            "Call join() and result() to wait for them, or cleanup() of the Runtime to stop them.",
        ),
    ],
)
def test_one_warning_names_what_runs(add, caplog, running, message):
    """Within bounds, and fit for a terminal."""
    kinds = {"task": unfinished.TASK, "call": unfinished.CALL}
    for kind, name, host in (each.split(" ") for each in running):
        add(kinds[kind], name, host)
    unfinished._warn()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lazycluster", logging.WARNING)
    assert record.getMessage() == message


def test_nothing_is_said_of_what_has_ended_or_was_stopped(add, caplog):
    """Neither if there was nothing."""
    unfinished._warn()
    one = add(unfinished.TASK, "a", "h")
    unfinished.discard(one)
    unfinished.discard(one)
    add(unfinished.TASK, "b", "h", runs=lambda: False)
    unfinished._warn()
    assert caplog.records == []


def test_nothing_is_said_behind_a_traceback(add, caplog, monkeypatch):
    """It says already why the program ended."""
    add(unfinished.TASK, "a", "h")
    monkeypatch.setattr(sys, "last_value", ValueError(), raising=False)
    unfinished._warn()
    assert caplog.records == []
