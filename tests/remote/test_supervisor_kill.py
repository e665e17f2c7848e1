"""KILL: all that a request has started ends, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from support.pipe_host import command, operation
from support.processes import await_gone, is_alive
from support.waiting import TIMEOUT

SOON = 0.1
LATER = 10 * TIMEOUT  # seconds; a grace that no test waits for

DEAF = "trap '' TERM; "


def is_gone(*pids):
    return not any(is_alive(pid) for pid in pids)


def test_a_command_is_ended_by_sigterm(host):
    """The grace is not waited for where SIGTERM is enough."""
    asked = host.ask(command("echo $$; exec sleep 1000"))
    host.wait_for_output(asked)
    host.kill(asked, LATER)
    host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": signal.SIGTERM}]


def test_without_grace_it_is_sigkill(host):
    """A command that ignores SIGTERM is ended at once."""
    asked = host.ask(command(DEAF + "echo $$; exec sleep 1000"))
    host.wait_for_output(asked)
    host.kill(asked, 0)
    host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": signal.SIGKILL}]


def test_a_command_that_ignores_sigterm_ends_with_its_children(host):
    """After the grace it is SIGKILL, and when the request is over all of them have gone."""
    asked = host.ask(command(DEAF + "sleep 1000 & echo $! $$; while :; do sleep 1000; done"))
    pids = [int(word) for word in host.wait_for_output(asked)[0].split()]
    host.kill(asked, SOON)
    host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": signal.SIGKILL}]
    assert is_gone(*pids)


def test_the_request_is_over_when_the_group_has_gone(host):
    """A child that ignores SIGTERM is waited for, though the step's leader has ended."""
    asked = host.ask(command(f"(\n{DEAF} echo $$; exec sleep 1000) & echo $!; exec sleep 1000"))
    child = int(host.wait_for_output(asked, 2)[1])
    host.kill(asked, SOON)
    host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": signal.SIGTERM}]
    assert is_gone(child)


def test_a_second_kill_may_be_sooner(host):
    """A long grace is cut short by one of none."""
    asked = host.ask(command(DEAF + "echo $$; exec sleep 1000"))
    host.wait_for_output(asked)
    host.kill(asked, LATER)
    host.kill(asked, 0)
    host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": signal.SIGKILL}]


def test_a_command_may_clean_up_at_sigterm(host):
    """What it prints then, and its exit status, arrive."""
    asked = host.ask(command("trap 'echo bye; exit 7' TERM; echo hi; while :; do sleep 0.01; done"))
    host.wait_for_output(asked)
    host.kill(asked, LATER)
    host.finish(asked)
    assert asked.text.endswith("bye\n")  # some shells say that `sleep` was terminated, too
    assert asked.ended == [{"step": 0, "exit_status": 7}]


def test_no_further_step_starts(host, tmp_path):
    """Also where the killed one makes it a success."""
    asked = host.ask(
        command("trap 'exit 0' TERM; echo hi; while :; do sleep 0.01; done"),
        command(f"touch {tmp_path}/started"),
    )
    host.wait_for_output(asked)
    host.kill(asked, LATER)
    host.finish(asked)
    assert asked.ended == [{"step": 0, "exit_status": 0}]
    assert not (tmp_path / "started").exists()


def test_background_children_of_earlier_steps_end(host):
    """They belong to the request as long as it lasts."""
    first = command("sleep 1000 & echo $!")
    asked = host.ask(first, first, command("echo $$; exec sleep 1000"))
    host.wait(lambda: len(asked.output) == 3 and bool(asked.output[2]), "the third step")
    children = [int(output) for output in asked.output[:2]]
    assert not is_gone(*children)
    host.kill(asked, LATER)
    host.finish(asked)
    assert is_gone(*children)


def test_other_requests_go_on(host, tmp_path):
    """And so do the children that they have left."""
    left = host.run_command("sleep 1000 & echo $!")
    os.mkfifo(tmp_path / "fifo")
    other = host.ask(command(f"echo $$; read -r line < {tmp_path}/fifo; echo $line"))
    asked = host.ask(command("echo $$; exec sleep 1000"))
    host.wait_for_output(other)
    host.wait_for_output(asked)
    host.kill(asked, 0)
    host.finish(asked)
    (tmp_path / "fifo").write_text("went on\n")
    host.finish(other)
    assert other.text.splitlines()[1] == "went on"
    assert is_alive(int(left.text))
    os.kill(int(left.text), signal.SIGKILL)
    await_gone([int(left.text)])


def test_a_request_that_is_over_is_not_killed(host):
    """A KILL that crosses the end of its request on the way has no effect."""
    asked = host.run_command("sleep 1000 & echo $!")
    host.kill(asked, 0)
    assert host.run_command("echo next").text == "next\n"
    assert is_alive(int(asked.text))
    os.kill(int(asked.text), signal.SIGKILL)
    await_gone([int(asked.text)])


def test_a_kill_may_follow_its_request_at_once(host):
    """A process that has just been made is ended like any other."""
    for _ in range(10):
        asked = host.ask(command("exec sleep 1000"), operation("make_directory", path="/"))
        host.kill(asked, LATER)
        host.finish(asked)
        assert asked.ended == [{"step": 0, "signal": signal.SIGTERM}]


def ignore_sigterm_and_stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), os.fork(), flush=True)
    time.sleep(1000)


def test_a_function_ends_with_its_children(own_host):
    """Also one that ignores SIGTERM."""
    asked = own_host.ask_call(ignore_sigterm_and_stay)
    pids = [int(word) for line in own_host.wait_for_output(asked, 2) for word in line.split()]
    own_host.kill(asked, SOON)
    own_host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": signal.SIGKILL, "killer": "manager"}]
    assert is_gone(*(pid for pid in pids if pid))


def test_a_kill_may_follow_a_function_at_once(own_host):
    """SIGTERM is not lost to the actions that the supervisor has for itself."""
    for _ in range(20):
        asked = own_host.ask_call(lambda: time.sleep(1000))
        own_host.kill(asked, LATER)
        own_host.finish(asked)
        assert asked.ended == [{"step": 0, "signal": signal.SIGTERM, "killer": "manager"}]


def test_a_stopped_command_is_ended(own_host):
    """SIGSTOP does not keep it from SIGKILL."""
    asked = own_host.ask(command("echo $$; exec sleep 1000"))
    own_host.wait_for_output(asked)
    os.kill(asked.pids[0], signal.SIGSTOP)
    own_host.kill(asked, SOON)
    own_host.finish(asked)
    assert asked.ended[0]["signal"] in (signal.SIGTERM, signal.SIGKILL)  # both are pending


def test_a_request_that_has_not_started_is_over_at_once(make_host, own_python):
    """One that waits for descriptors does not wait for the others' end once it is killed."""
    host = make_host(own_python, under=["/bin/sh", "-c", 'ulimit -n 32; exec "$@"', "sh"])
    asked = [host.ask(command("echo $$; exec sleep 1000")) for _ in range(60)]
    host.wait(lambda: bool(asked[0].output and asked[0].output[-1]), "the first one's output")
    host.kill(asked[-1], LATER)
    host.finish(asked[-1])
    assert asked[-1].pids == []


NOT_REAPING = (
    "import ctypes, subprocess, sys; "
    "sys.exit(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) or subprocess.call(sys.argv[1:]))"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl")
def test_zombies_that_nobody_waits_for_hold_nothing_up(make_host, own_python):
    """The first process of a container may never wait for the orphans that it gets."""
    host = make_host(own_python, under=[sys.executable, "-c", NOT_REAPING])
    asked = host.ask(command("sleep 1000 & echo $!; exec sleep 1000"))
    child = int(host.wait_for_output(asked)[0])
    host.kill(asked, LATER)
    host.finish(asked)
    assert is_gone(child)


@pytest.mark.parametrize("way", ["end of input", "SIGKILL"])
def test_a_new_python_ends_with_the_supervisor(new_own_host, way):
    """A variable needed it; the process is still the one that the supervisor knows."""
    host = new_own_host
    step, payload = host.prepare_call(os.system, command="echo began; exec sleep 1000")
    asked = host.ask(step, payload=payload, environment={"PYTHONHASHSEED": "1"})
    host.wait_for_output(asked)
    if way == "SIGKILL":
        os.kill(host.wait_for_hello()["pid"], signal.SIGKILL)
    else:
        host.close_stdin()
    await_gone(asked.pids)
