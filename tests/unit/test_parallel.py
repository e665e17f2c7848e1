"""Do something for each host at the same time."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from lazycluster._group.parallel import _Batch, in_parallel
from support.waiting import wait_until


def test_all_run_at_the_same_time_and_come_back_in_order():
    barrier = threading.Barrier(20)
    work = {f"h{n}": lambda n=n: (barrier.wait(60), n)[1] for n in range(20)}
    results, errors = in_parallel(work)
    assert list(results.items()) == [(f"h{n}", n) for n in range(20)]
    assert errors == {}


def test_an_error_does_not_stop_the_others():
    def fail():
        raise ValueError("no")

    results, errors = in_parallel({"a": fail, "b": lambda: 1, "c": fail})
    assert results == {"b": 1}
    assert list(errors) == ["a", "c"]


def test_no_more_than_the_given_number_run_at_the_same_time():
    running, most = [], []

    def work():
        running.append(1)
        most.append(len(running))
        running.pop()

    in_parallel({str(n): work for n in range(10)}, most=1)
    assert max(most) == 1


def test_without_work_nothing_happens():
    assert in_parallel({}) == ({}, {})


def test_what_is_no_exception_is_raised():
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        in_parallel({"a": leave, "b": lambda: 1})


def test_an_interruption_begins_nothing_more_and_hands_over_what_is_late(monkeypatch):
    begun, go_on, stopped, late = threading.Event(), threading.Event(), [], []

    def slow():
        begun.set()
        assert go_on.wait(60)
        return "slow"

    def interrupt(self):
        wait_until(lambda: self.results)
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(_Batch, "has_more", interrupt)
    work = {"quick": lambda: "quick", "slow": slow, "never": lambda: pytest.fail("it has begun")}
    with pytest.raises(KeyboardInterrupt):
        in_parallel(
            work, most=1, stop=lambda: (stopped.append(1), go_on.set()), on_late=late.append
        )
    assert stopped == [1]
    assert late == ["quick", "slow"]


def test_a_thread_that_cannot_start_stops_the_others(monkeypatch):
    original, late = threading.Thread.start, []

    def start(self):
        if self.name == "lazycluster group 1":
            raise RuntimeError("can't start new thread")
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"):
        in_parallel({"a": lambda: "a", "b": lambda: "b"}, on_late=late.append)
    assert late in ([], ["a"], ["a", "b"])


def test_an_error_does_not_keep_the_results_of_others():
    """A Runtime is closed when it is freed, though the reason why another host failed is kept."""

    class Result:
        pass

    def fail():
        raise ValueError("no")

    gc.collect()
    gc.disable()
    try:
        outcomes = in_parallel({"a": Result, "b": fail})
        result, error = weakref.ref(outcomes.results["a"]), outcomes.errors["b"]
        assert error.__traceback__ is not None
        del outcomes
        assert result() is None
    finally:
        gc.enable()
