"""Exposures that are made again after the next login, and those that have ended for good."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading

import pytest

from support.services import WORD, Service, answers, fetch, free_port
from support.waiting import wait_until

EXPOSE = {"to": "expose_port_to_runtime", "from": "expose_port_from_runtime"}
BOTH = pytest.mark.parametrize("expose", EXPOSE.values(), ids=EXPOSE)


@pytest.fixture
def service():
    with contextlib.closing(Service()) as service:
        yield service


@pytest.fixture
def lost_runtime(make_runtime, own_sshd):
    """A Runtime on an sshd for one test, with a working directory that a loss does not end."""
    return make_runtime(os.environ["TMPDIR"], on=own_sshd)


def lose(runtime, own_sshd):
    """End the connection, and wait until all have noticed."""
    transport = runtime._connection._open().transport
    own_sshd.kill_connections()
    assert transport.wait_until_ended(100)


@BOTH
def test_an_exposure_is_made_again_before_the_first_use_of_the_next_login(
    lost_runtime, own_sshd, service, expose
):
    """Under its key and its port; as often as the connection is lost."""
    key = getattr(lost_runtime, expose)(service.port, 0, restore=True)
    exposure = lost_runtime.get_process(key)
    port = exposure.port
    for _ in range(2):
        assert fetch(port) == WORD
        lose(lost_runtime, own_sshd)
        exposure.join(100)
        assert (exposure.is_alive(), exposure.exitcode) == (False, 1)
        wait_until(lambda: not answers(port))
        lost_runtime.run("true")
        assert fetch(port) == WORD
        assert (exposure.is_alive(), exposure.exitcode, exposure.port) == (True, None, port)
        assert list(lost_runtime.get_processes(only_alive=True)) == [key]
    lost_runtime.stop_process(key)
    wait_until(lambda: not answers(port))
    assert exposure.exitcode == -signal.SIGTERM


@BOTH
def test_one_without_restore_stays_ended(lost_runtime, own_sshd, service, expose):
    key = getattr(lost_runtime, expose)(service.port, 0)
    lose(lost_runtime, own_sshd)
    lost_runtime.run("true")
    assert not lost_runtime.get_process(key).is_alive()


@BOTH
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_was_stopped_stays_ended(lost_runtime, own_sshd, service, expose, when):
    """Before the loss, or while it waits for the login."""
    key = getattr(lost_runtime, expose)(service.port, 0, restore=True)
    port = lost_runtime.get_process(key).port
    if when == "before":
        lost_runtime.stop_process(key)
    lose(lost_runtime, own_sshd)
    lost_runtime.stop_process(key)
    lost_runtime.run("true")
    assert not lost_runtime.get_process(key).is_alive()
    wait_until(lambda: not answers(port))


@BOTH
def test_one_that_was_closed_stays_ended(lost_runtime, own_sshd, service, expose):
    """cleanup ends all, also what waits for a login."""
    key = getattr(lost_runtime, expose)(service.port, 0, restore=True)
    lose(lost_runtime, own_sshd)
    lost_runtime.cleanup()
    lost_runtime.run("true")
    assert not lost_runtime.get_process(key).is_alive()


def test_sockets_third_hosts_and_addresses_are_made_again(
    lost_runtime, own_sshd, short_folder, service
):
    """With all that was asked for."""
    keys = [
        lost_runtime.expose_port_to_runtime(service.port, short_folder / "a", restore=True),
        lost_runtime.expose_port_from_runtime(service.port, short_folder / "b", restore=True),
        lost_runtime.expose_port_from_runtime(
            service.port, 0, to_host="127.0.0.1", bind_address="127.0.0.5", restore=True
        ),
    ]
    lose(lost_runtime, own_sshd)
    wait_until(lambda: os.listdir(short_folder) == [])
    lost_runtime.run("true")
    assert list(lost_runtime.get_processes(only_alive=True)) == keys
    assert fetch(short_folder / "a") == fetch(short_folder / "b") == WORD
    assert fetch(lost_runtime.get_process(keys[2]).port, "127.0.0.5") == WORD


@BOTH
def test_a_connection_that_goes_silent(make_runtime, own_sshd, service, expose):
    """Its sshd would listen on until TCP gives up, so it is ended with what it has started."""
    runtime = make_runtime(os.environ["TMPDIR"], on=own_sshd, keepalive=0.3)
    key = getattr(runtime, expose)(service.port, 0, restore=True)
    port = runtime.get_process(key).port
    transport = runtime._connection._open().transport
    pids = own_sshd.connection_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert transport.wait_until_ended(100)
        runtime.run("true")
        assert fetch(port) == WORD
    finally:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)


@BOTH
def test_a_port_that_is_taken_meanwhile_is_a_warning(
    lost_runtime, own_sshd, service, expose, caplog
):
    """What uses the connection goes on; after the next loss it is tried again."""
    key = getattr(lost_runtime, expose)(service.port, 0, restore=True)
    exposure = lost_runtime.get_process(key)
    lose(lost_runtime, own_sshd)
    exposure.join(100)
    with contextlib.closing(Service(port=exposure.port)):
        assert lost_runtime.run("echo hi").stdout == "hi\n"
        messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        (message,) = [m for m in messages if "was not made again" in m]
        assert f"Port {exposure.port} of" in message
        assert not exposure.is_alive()
    lose(lost_runtime, own_sshd)
    lost_runtime.run("true")
    assert fetch(exposure.port) == WORD


def test_threads_that_use_the_next_login_at_once(lost_runtime, own_sshd, service):
    """One of them makes it again, and the others wait for that."""
    key = lost_runtime.expose_port_to_runtime(service.port, 0, restore=True)
    port = lost_runtime.get_process(key).port
    lose(lost_runtime, own_sshd)
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port} && cat <&3"
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(lost_runtime.run(script, shell="bash").stdout))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [WORD.decode()] * 5


@BOTH
@pytest.mark.parametrize("restore", [None, 1, "yes"])
def test_restore_is_a_flag(runtime, expose, restore):
    if restore is None:
        key = getattr(runtime, expose)(free_port(), 0, restore=None)
        runtime.stop_process(key)
        return
    with pytest.raises(TypeError, match="restore must be True, False or None"):
        getattr(runtime, expose)(1, 0, restore=restore)


@BOTH
def test_clear_tasks_forgets_exposures_that_have_ended(lost_runtime, own_sshd, service, expose):
    """Those that are alive, or wait for the next login, stay."""
    ended, lost, waits = (
        getattr(lost_runtime, expose)(service.port, 0, restore=restore)
        for restore in (False, False, True)
    )
    lost_runtime.stop_process(ended)
    lost_runtime.clear_tasks()
    assert sorted(lost_runtime.get_processes()) == sorted([lost, waits])
    lose(lost_runtime, own_sshd)
    for key in (lost, waits):
        lost_runtime.get_process(key).join(100)
    lost_runtime.clear_tasks()
    assert list(lost_runtime.get_processes()) == [waits]
    lost_runtime.run("true")
    assert fetch(lost_runtime.get_process(waits).port) == WORD
    lost_runtime.stop_process(waits)
    lost_runtime.clear_tasks()
    assert lost_runtime.get_processes() == {}
