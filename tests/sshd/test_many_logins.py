"""Many logins at once, of one process, in many threads: none is dropped by a real sshd."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import Connection, Runtime
from lazycluster._ssh import login_queue
from lazycluster._ssh.master import Master
from lazycluster.exceptions import ConnectError, ConnectionLostError
from loopback_sshd import QUICK_LOGIN
from support.managers import logins
from support.waiting import wait_until


@pytest.fixture
def started(monkeypatch):
    """The hosts of the ssh that are started from now on: one for each try of a login."""
    made = []
    original = Master.__init__

    def init(self, settings, *arguments):
        made.append(settings.host)
        original(self, settings, *arguments)

    monkeypatch.setattr(Master, "__init__", init)
    return made


def echo_from_each(sshd, count):
    keywords = {"config_file": sshd.config_file, "connect_timeout": 100}

    def echo(number):
        runtime = Runtime(sshd.alias, connection_kwargs=keywords)
        with runtime:
            return runtime.echo(str(number))

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(echo, range(count))) == [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("lines", "at_once", "count"),
    [([], login_queue.MOST_LOGINS, 24), (["MaxStartups 3:100:3"], 3, 12)],
    ids=["as sshd comes", "three places"],
)
def test_f5_no_login_is_dropped(make_sshd, started, monkeypatch, lines, at_once, count):
    """One try for each."""
    monkeypatch.setattr(login_queue, "MOST_LOGINS", at_once)
    sshd = make_sshd(sshd_config=[QUICK_LOGIN, *lines])
    echo_from_each(sshd, count)
    assert len(started) == logins(sshd) == count


def test_f5_logins_that_are_dropped_are_tried_again(make_sshd, monkeypatch):
    """Where sshd has fewer places than it comes with."""
    # As often as it takes where every login is slow.
    monkeypatch.setattr("lazycluster._conversation.login.BACK_OFF", (1.0,) * 100)
    sshd = make_sshd(sshd_config=[QUICK_LOGIN, "MaxStartups 3:100:3"])
    echo_from_each(sshd, 12)
    assert logins(sshd) == 12


def test_a_failed_login_lets_the_next_one_begin(sshd, monkeypatch):
    """Whether ssh refuses it or its host does."""
    monkeypatch.setattr(login_queue, "MOST_LOGINS", 1)
    for keywords in ({"user": "no-such-user"}, {"options": {"NoSuchOption": "x"}}):
        bad = Connection(sshd.alias, config_file=sshd.config_file, **keywords)
        with pytest.raises(ConnectError):
            bad.open()
    with Connection(sshd.alias, config_file=sshd.config_file) as good:
        assert good.run("echo hi").stdout == "hi\n"
    assert not login_queue._running


@pytest.fixture
def full(sshd, monkeypatch):
    """The one place of a hop, taken."""
    monkeypatch.setattr(login_queue, "MOST_LOGINS", 1)
    place = login_queue.Place(f"127.0.0.1:{sshd.port}")
    assert place.take(threading.Event())
    yield place
    place.leave()
    assert not login_queue._running


def test_waiting_for_other_logins_does_not_count_for_the_timeout(sshd, full, connect):
    """The login has all of it, from when it begins."""
    connection = connect(sshd)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(connection.open)
        wait_until(lambda: login_queue._waiting)
        waited_until = time.monotonic()
        full.leave()
        opened.result(60)
    assert connection._current.transport.began >= waited_until


def test_close_ends_the_wait_for_other_logins(sshd, full, connect, started):
    connection = connect(sshd)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(connection.open)
        wait_until(lambda: login_queue._waiting)
        connection.close()
        with pytest.raises(ConnectionLostError, match="was closed"):
            opened.result(60)
    assert not login_queue._waiting
    assert not started
