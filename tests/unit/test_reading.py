"""Files of modules are read where no signal handler raises, so that none is taken for missing."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from lazycluster._functions.payload import dump_call
from lazycluster._functions.reading import read_apart
from lazycluster._functions.sources import Sources


def test_what_the_work_returns_and_raises_passes():
    assert read_apart(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        read_apart(lambda: 1 // 0)


def test_handlers_exception_passes_and_not_through_the_work():
    """The work goes on, and ends by itself."""
    late = TimeoutError("late")
    go_on, seen = threading.Event(), []

    def work():
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            go_on.wait()
        except OSError as error:
            seen.append(error)

    def handle(*_):
        raise late

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(TimeoutError) as caught:
            read_apart(work)
    finally:
        signal.signal(signal.SIGUSR1, before)
        go_on.set()
    assert caught.value is late
    assert not seen


def test_another_thread_does_the_work_itself():
    """It runs no handlers."""
    threads = []
    thread = threading.Thread(
        target=lambda: read_apart(lambda: threads.append(threading.current_thread()))
    )
    thread.start()
    thread.join()
    assert threads == [thread]


def test_package_of_a_call_is_read_apart(tmp_path, monkeypatch):
    """Its files, and what says whether it is installed."""
    (tmp_path / "lc_apart").mkdir()
    (tmp_path / "lc_apart" / "__init__.py").write_text("def run():\n    return 1\n")
    (tmp_path / "lc_apart" / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("lc_apart")
    threads = set()
    original = os.scandir

    def scandir(path="."):
        if str(tmp_path) in str(path):
            threads.add(threading.current_thread())
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Sources, "_all", {})
    try:
        assert dump_call(module.run, (), {}).required == {"lc_apart"}
    finally:
        del sys.modules["lc_apart"]
    assert threads
    assert threading.main_thread() not in threads
