"""Flow: a manager that does not read, or does not send, holds nothing up and fills no memory."""

from __future__ import annotations

import os
import time

import pytest

from lazycluster._shared import frames
from support.pipe_host import command
from support.processes import memory_peak, processor_time
from support.waiting import wait_until

FLOOD = 1 << 28
FLAT = 32 << 20
LINE = b"0123456789abcde\n"

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


class Checked:
    """Takes output that repeats LINE; it keeps none of it."""

    def __init__(self):
        self.size = 0
        self._expected = memoryview(LINE * (2 * frames.CHUNK // len(LINE)))

    def __call__(self, data):
        start = self.size % len(LINE)
        assert data == self._expected[start : start + len(data)]
        self.size += len(data)


def print_lines(count):
    return command(f"yes {LINE.decode().strip()} | head -c {count}")


def see_that_it_serves(host, folder):
    """What does not print much is done although the manager does not read."""
    path = folder / f"served{len(host.asked)}"
    host.ask(command(f"touch {path}"))
    host.wait_until_written()
    wait_until(path.exists, "the command has not run")


@needs_proc
def test_a_flood_that_nobody_reads_leaves_the_memory_flat(own_host, tmp_path):
    """The step waits, others are served, and all output comes when it is read."""
    pid = own_host.wait_for_hello()["pid"]
    before = memory_peak(pid)
    asked = own_host.ask(print_lines(FLOOD))
    asked.on_output = checked = Checked()
    for _ in range(3):
        see_that_it_serves(own_host, tmp_path)
    assert checked.size == 0
    own_host.finish(*own_host.asked.values())
    assert checked.size == FLOOD
    assert memory_peak(pid) - before < FLAT


def test_reading_goes_on_exactly_after_a_pause(host, tmp_path):
    """Nothing is lost or doubled when the manager is slow."""
    asked = [host.ask(print_lines(1 << 21)) for _ in range(3)]
    for one in asked:
        one.on_output = Checked()
    see_that_it_serves(host, tmp_path)
    host.finish(*host.asked.values())
    assert [one.on_output.size for one in asked] == [1 << 21] * 3
    assert all(one.ended == [{"step": 0, "exit_status": 0}] for one in asked)


def test_steps_that_end_while_nobody_reads_are_told(host, tmp_path):
    """Their last output and their outcome are kept until they are read."""
    flood = host.ask(print_lines(1 << 22))
    flood.on_output = Checked()
    asked = [host.ask(command(f"echo {number}; exit {number}")) for number in range(50)]
    see_that_it_serves(host, tmp_path)
    host.finish(*host.asked.values())
    assert [one.text for one in asked] == [f"{number}\n" for number in range(50)]
    assert [one.ended[0]["exit_status"] for one in asked] == list(range(50))


def test_a_kill_is_obeyed_while_nobody_reads(host):
    """A step whose output is stuck is ended like any other."""
    asked = host.ask(command("exec yes"))
    asked.on_output = lambda data: None
    host.wait(lambda: bool(asked.pids), "its start")
    host.kill(asked, 0)
    host.wait_until_written()
    wait_until(lambda: not os.path.exists(f"/proc/{asked.pids[0]}/fd/1"), "its end")
    host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": 9}]


def test_the_end_comes_while_nobody_reads(new_host):
    """A full pipe does not keep the supervisor from its end."""
    asked = new_host.ask(command("exec yes"))
    asked.on_output = lambda data: None
    new_host.wait(lambda: bool(asked.pids), "its start")
    new_host.close_stdin()
    assert new_host.process.wait(150) == 0


@needs_proc
def test_it_rests_while_nobody_reads(make_host, own_python):
    """Waiting costs no processor, though a heartbeat is due and cannot be sent."""
    keepalive = 0.1
    host = make_host(own_python, keepalive=keepalive)
    pid = host.wait_for_hello()["pid"]
    asked = host.ask(command("exec yes"))
    asked.on_output = lambda data: None
    host.wait(lambda: bool(asked.pids), "its start")
    beats = iter(range(1, 1000))
    started, used = time.monotonic(), processor_time(pid)
    while next(beats) < 30:
        host.send(frames.HEARTBEAT)
        host.wait_until_written()
        time.sleep(keepalive / 4)
    assert processor_time(pid) - used < (time.monotonic() - started) / 2


def test_a_step_that_reads_slowly_holds_nobody_up(own_host):
    """Its input waits for it, and other requests pass by."""
    value = os.urandom(1 << 20) * 16
    slow = own_host.ask_call(len_of, before=[command("sleep 0.2")], value=value)
    assert own_host.run_command("echo quick").text == "quick\n"
    own_host.finish(slow)
    assert slow.returned == len(value)


def len_of(value):
    return len(value)


def test_more_input_than_was_asked_for_is_no_sense(new_host):
    """A manager that does not keep to the windows is not believed."""
    asked = new_host.ask(command("exec sleep 1000"))
    for _ in range(2 + frames.WINDOW // frames.CHUNK):
        new_host.send(frames.INPUT, asked.number, bytes(frames.CHUNK))
    assert new_host.wait_for_end() == 0
    assert "the manager sent data that violates the protocol" in new_host.errors()


def test_without_epoll_the_loop_waits_by_poll(make_host, own_python, tmp_path):
    """As on a system that is not Linux."""
    (tmp_path / "sitecustomize.py").write_text("import select\ndel select.epoll\n")
    host = make_host(own_python, environment={"PYTHONPATH": str(tmp_path)})
    assert host.run_command("echo hi; sleep 0.01; echo ho").text == "hi\nho\n"
    assert host.call(dict, a=1).returned == {"a": 1}
    host.close_stdin()
    assert host.wait_for_end() == 0
