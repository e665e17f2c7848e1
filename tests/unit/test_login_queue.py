"""login_queue: how many logins are on their way to one first hop at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster._ssh import login_queue
from lazycluster._ssh.login_queue import MOST_LOGINS, Place
from support.waiting import wait_until

OPEN = threading.Event()


@pytest.fixture
def places():
    """Take all places of a hop."""
    taken = [Place("hop") for _ in range(MOST_LOGINS)]
    for place in taken:
        assert place.take(OPEN)
    yield taken
    for place in taken:
        place.leave()
    assert not login_queue._running
    assert not login_queue._waiting


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def waiting(count):
    wait_until(lambda: len(login_queue._waiting.get("hop", ())) == count)


def test_a_login_too_many_waits_for_the_end_of_another(places, pool):
    late = Place("hop")
    begun = pool.submit(late.take, OPEN)
    waiting(1)
    assert not begun.done()
    places[3].leave()
    assert begun.result(60)
    late.leave()


def test_logins_begin_in_the_order_in_which_they_came(places, pool):
    late = [Place("hop") for _ in range(3)]
    begun = []
    for number, place in enumerate(late, 1):
        begun.append(pool.submit(place.take, OPEN))
        waiting(number)
    for number in range(3):
        assert not any(each.done() for each in begun[number:])
        places[number].leave()
        assert begun[number].result(60)
    for place in late:
        place.leave()


def test_another_hop_has_its_own_places(places):
    other = Place("other")
    assert other.take(OPEN)
    other.leave()


def test_a_place_is_left_once(places, pool):
    places[0].leave()
    places[0].leave()
    first, second = Place("hop"), Place("hop")
    assert first.take(OPEN)
    begun = pool.submit(second.take, OPEN)
    waiting(1)
    first.leave()
    assert begun.result(60)
    second.leave()


def test_a_login_that_is_closed_while_it_waits_does_not_begin(places, pool):
    """It takes no place from the others."""
    closed = threading.Event()
    begun = pool.submit(Place("hop").take, closed)
    waiting(1)
    closed.set()
    login_queue.wake()
    assert not begun.result(60)
    waiting(0)


def test_an_exception_in_a_waiting_thread_takes_no_place(places, monkeypatch):
    """A KeyboardInterrupt, for example."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(login_queue, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Place("hop").take(OPEN)
    waiting(0)


def test_a_forked_child_begins_anew():
    """The logins of its parent are not its own, and a thread of the parent may hold the lock."""
    program = """
import os, threading
from lazycluster._ssh.login_queue import MOST_LOGINS, Place, _lock

for _ in range(MOST_LOGINS):
    Place("hop").take(threading.Event())
with _lock:
    pid = os.fork()
    if not pid:
        began = []
        thread = threading.Thread(
            target=lambda: began.append(Place("hop").take(threading.Event())), daemon=True
        )
        thread.start()
        thread.join(60)
        os._exit(0 if began == [True] else 1)
raise SystemExit(os.waitpid(pid, 0)[1])
"""
    subprocess.run([sys.executable, "-c", program], check=True)
