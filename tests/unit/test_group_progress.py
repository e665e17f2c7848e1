"""One progress for the copies of many hosts."""

from __future__ import annotations

import pytest

from lazycluster._group import progress as group_progress
from lazycluster._group.progress import GroupProgress


@pytest.fixture
def reports(monkeypatch):
    """Return a list of what is reported, each time."""
    monkeypatch.setattr(group_progress, "REPORT_INTERVAL", -1)
    return []


def make(reports, hosts="ab"):
    return GroupProgress(lambda *state: reports.append(state), "send", hosts)


def test_the_bytes_are_added_up(reports):
    whole = make(reports)
    first, second = whole.of("a"), whole.of("b")
    first(10, 100)
    second(5, 300)
    first(100, 100)
    second(300, 300)
    # While b has not begun, it is taken for as large as a.
    assert reports == [(10, 200), (15, 400), (105, 400), (400, 400)]


def test_a_copy_that_failed_before_it_began_is_not_counted(reports):
    whole = make(reports)
    whole.end("b")
    whole.of("a")(100, 100)
    assert reports == [(100, 100)]
    whole.end("a")
    whole.close()


def test_reports_are_rare_but_for_the_last_one(reports, monkeypatch):
    monkeypatch.setattr(group_progress, "REPORT_INTERVAL", 1e9)
    whole = make(reports)
    first, second = whole.of("a"), whole.of("b")
    for done in range(101):
        first(done, 100)
        second(done, 100)
    assert reports[-1] == (200, 200)
    assert len(reports) <= 2


@pytest.mark.parametrize("fails_at", [None, 50])
def test_what_was_held_back_is_reported_when_the_last_copy_fails(reports, monkeypatch, fails_at):
    monkeypatch.setattr(group_progress, "REPORT_INTERVAL", 1e9)
    whole = make(reports)
    whole.of("a")(0, 100)
    if fails_at is not None:
        whole.of("b")(fails_at, 100)
    whole.of("a")(100, 100)
    for host in "ab":
        whole.end(host)
    whole.close()
    assert reports[-1] == ((100, 100) if fails_at is None else (150, 200))


def test_an_exception_is_raised_in_every_copy(reports):
    def fail(done, total):
        raise KeyError("enough")

    whole = GroupProgress(fail, "send", "ab")
    for host in "ab":
        with pytest.raises(KeyError):
            whole.of(host)(1, 100)


def test_empty_files_have_a_progress(reports):
    whole = make(reports)
    whole.of("a")(0, 0)
    whole.of("b")(0, 0)
    assert reports == [(0, 0)]
