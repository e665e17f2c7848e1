"""Signals that come just before the main thread waits, so that they end no system call of it.

Python has released the GIL then, and runs the handler after the wait. No test can time such a
signal. One that another thread gets has the same effect: the main thread is not disturbed.
"""

from __future__ import annotations

import socket
import threading
import time

import pytest

from lazycluster import Connection
from support.hosts import commands
from support.services import free_port
from support.signals import Alarm, handled


def check(action, *arguments, **keywords):
    """Check that an action, which takes long, soon raises the exception of a handler."""
    with handled(Alarm()) as alarm:
        alarm.set_aside()
        with pytest.raises(KeyboardInterrupt) as caught:
            action(*arguments, **keywords)
    assert caught.value is alarm.raised[0]


def sleep():
    time.sleep(1000)


@pytest.mark.parametrize("wait", ["execute_task", "run", "call"])
def test_a_step(runtime, wait):
    assert runtime.call(int) == 0  # The host has all that it needs.
    action = {
        "execute_task": lambda: runtime.execute_task(commands("sleep 1000"), execute_async=False),
        "run": lambda: runtime.run("sleep 1000"),
        "call": lambda: runtime.call(sleep),
    }[wait]
    check(action)


def test_a_copy(runtime, tmp_path):
    """A terabyte takes long."""
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(1 << 40)
    check(runtime.send_file, str(big), f"{tmp_path}/copy")
    check(runtime.get_file, str(big), f"{tmp_path}/copy")


class Sleeper:
    def sleep(self):
        time.sleep(1000)


def test_a_method_of_an_actor(own_runtime):
    check(own_runtime.actor(Sleeper).sleep)


@pytest.mark.parametrize("wait", ["result", "exception"])
def test_a_future(own_runtime, wait):
    future = own_runtime.submit(sleep)
    check(getattr(future, wait))
    assert not future.done()
    future.cancel()


@pytest.mark.parametrize("wait", ["task", "runtime", "process"])
def test_an_asynchronous_task(own_runtime, wait):
    task = own_runtime.execute_task(commands("sleep 1000"))
    check({"task": task, "runtime": own_runtime, "process": task.process}[wait].join)
    task.stop()


def test_a_forward(own_runtime):
    key = own_runtime.expose_port_to_runtime(free_port())
    check(own_runtime.get_process(key).join)


def test_a_callback_that_takes_the_last_line(runtime):
    """The command has ended, but not its callback."""
    taken = threading.Event()
    try:
        check(runtime.run, "echo hi", on_output=lambda _: taken.wait())
    finally:
        taken.set()


def test_a_command_without_python(connect, bare_sshd):
    connection = connect(bare_sshd)
    connection.open()
    check(connection.run, "sleep 1000")


@pytest.mark.parametrize("keywords", [{}, {"passphrase": "open sesame"}], ids=["alone", "asked"])
def test_a_login(sshd, keywords):
    """The host says nothing, and asks nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = Connection(
            sshd.alias,
            port=silent.getsockname()[1],
            config_file=sshd.config_file,
            connect_timeout=1000,
            **keywords,
        )
        check(connection.open)
        connection.close()
