"""Endings: however the connection ends, nothing that it started stays."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time

import pytest

from lazycluster._shared import frames
from support.pipe_host import command, operation
from support.processes import await_gone, is_alive
from support.waiting import wait_until

SHORT = 0.05  # seconds between heartbeats, where silence is what is tested


class Busy:
    """A host with work under way: what must have gone at its end."""

    def __init__(self, host, *more):
        self.host = host
        self.pids = [host.wait_for_hello()["pid"]]
        self.temporary = host.run(operation("make_private_directory")).ended[0]["result"]
        asked = [host.ask(command("echo $$; exec sleep 1000")) for _ in range(2)]
        asked.append(host.ask(command(": " + "x" * 300_000 + "\necho $$; exec sleep 1000")))
        asked += [host.ask(command(text)) for text in more]
        for one in asked:
            host.wait_for_output(one)
            self.pids += [int(line) for line in one.text.split()]
            self.pids += one.pids

    def wait_until_nothing_is_left(self, temporary):
        """The supervisor, what it started, and what it made."""
        assert self.host.process.wait(150) == 0
        await_gone(self.pids)
        assert list(temporary.iterdir()) == []


def end_of_stdin(host):
    host.close_stdin()


def end_of_stdout(host):
    host.close_stdout()
    host.send(frames.HEARTBEAT)
    host.ask(command("echo some output"))
    host.wait_until_written()


def garbage(host):
    host.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    host.wait_until_written()


def absurd_length(host):
    host.write(frames.HEADER.pack(frames.INPUT, 1, 2**31))
    host.wait_until_written()


def no_json(host):
    host.send(frames.REQUEST, 1000, b'{"steps": [')
    host.wait_until_written()


def no_request(host):
    host.send(frames.REQUEST, 1000, b"[1, 2, 3]")
    host.wait_until_written()


def a_signal(number):
    return lambda host: os.kill(host.wait_for_hello()["pid"], number)


ENDINGS = {
    "end of stdin": end_of_stdin,
    "end of stdout": end_of_stdout,
    "SIGTERM": a_signal(signal.SIGTERM),
    "SIGHUP": a_signal(signal.SIGHUP),
    "SIGINT": a_signal(signal.SIGINT),
    "garbage": garbage,
    "absurd length": absurd_length,
    "no json": no_json,
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_nothing_is_left_after(ending, new_host, temporary):
    """No process, no temporary directory, and no supervisor."""
    busy = Busy(new_host)
    ending(new_host)
    busy.wait_until_nothing_is_left(temporary)


def test_nothing_is_left_after_silence(make_host, host_python, temporary):
    """A silence of orphan_timeout is the end, though the pipes are open."""
    host = make_host(host_python, keepalive=SHORT, orphan_timeout=4 * SHORT)
    pids = [host.wait_for_hello()["pid"]]
    path = host.run(operation("make_private_directory")).ended[0]["result"]
    asked = host.ask(command("echo $$; exec sleep 1000"))
    pids.append(int(host.wait_for_output(asked)[0]))
    host.wait_for_end()
    await_gone(pids)
    assert not os.path.exists(path)


def test_any_frame_is_a_sign_of_life(make_host, host_python):
    """Heartbeats keep it, for longer than it would bear silence; and it sends its own."""
    host = make_host(host_python, keepalive=SHORT, orphan_timeout=4 * SHORT)
    asked = host.ask(command("sleep 0.4; echo done"))
    while not asked.finished:
        beats = host.heartbeats
        host.send(frames.HEARTBEAT)
        host.wait(lambda beats=beats: host.heartbeats > beats or asked.finished, "a heartbeat")
    assert asked.text == "done\n"


BACKGROUND = "sleep 1000 & echo $!"
DEAF = "trap '' TERM; sleep 1000 & echo $! $$; while :; do sleep 1000; done"


def test_what_steps_have_left_behind_ends(new_host, temporary):
    """Background children of steps and of requests that were over."""
    left = int(new_host.run_command(BACKGROUND).text)
    busy = Busy(new_host, f"{BACKGROUND}; sleep 1000")
    busy.pids.append(left)
    assert all(is_alive(pid) for pid in busy.pids)
    new_host.close_stdin()
    busy.wait_until_nothing_is_left(temporary)


def test_what_ignores_sigterm_ends(new_own_host, temporary):
    """It is SIGKILL then."""
    busy = Busy(new_own_host, DEAF)
    new_own_host.close_stdin()
    busy.wait_until_nothing_is_left(temporary)


def test_what_is_stopped_ends(new_own_host, temporary):
    """SIGSTOP keeps nothing."""
    busy = Busy(new_own_host)
    for pid in busy.pids[1:]:
        os.kill(pid, signal.SIGSTOP)
    new_own_host.close_stdin()
    busy.wait_until_nothing_is_left(temporary)


def stay_with_children():
    one = multiprocessing.get_context("fork").Process(target=time.sleep, args=[1000])
    one.start()
    other = subprocess.Popen(["sleep", "1000"])
    print(one.pid, other.pid, os.getpid(), flush=True)
    time.sleep(1000)


def test_functions_end_with_their_children(new_own_host, temporary):
    """As commands do."""
    asked = new_own_host.ask_call(stay_with_children)
    pids = [int(word) for word in new_own_host.wait_for_output(asked)[0].split()]
    busy = Busy(new_own_host)
    busy.pids += pids
    new_own_host.close_stdin()
    busy.wait_until_nothing_is_left(temporary)


def test_a_second_signal_changes_nothing(new_own_host, temporary):
    """It ends what there is while it is told to end once more."""
    busy = Busy(new_own_host, "trap 'sleep 0.3; exit' TERM; echo $$; while :; do sleep 0.01; done")
    for _ in range(3):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if is_alive(busy.pids[0]):
                os.kill(busy.pids[0], number)
    busy.wait_until_nothing_is_left(temporary)


def test_the_end_may_follow_a_request_at_once(new_own_host, temporary):
    """Processes that have just been made are ended like any other."""
    asked = []
    for _ in range(20):
        asked.append(new_own_host.ask(command("exec sleep 1000")))
        asked.append(new_own_host.ask(operation("make_private_directory")))
    new_own_host.wait_until_written()
    os.close(new_own_host.stdin)
    new_own_host.stdin = -1
    new_own_host.wait_for_end()
    await_gone(pid for one in asked for pid in one.pids)
    assert list(temporary.iterdir()) == []


def test_temporary_directories_go_where_descriptors_are_short(make_host, own_python, temporary):
    """To remove a tree takes some, and the steps had them all."""
    host = make_host(own_python, under=["/bin/sh", "-c", 'ulimit -n 32; exec "$@"', "sh"])
    path = host.run(operation("make_private_directory")).ended[0]["result"]
    host.run_command("mkdir -p a/b/c", working_dir=path)
    asked = [host.ask(command("echo $$; exec sleep 1000")) for _ in range(60)]
    host.wait_for_output(asked[0])
    host.close_stdin()
    host.wait_for_end()
    assert not os.path.exists(path)


def test_f7_a_killed_supervisor_has_an_heir(new_own_host, temporary):
    """It ends what was left behind, what ignores SIGTERM, and what has just been started."""
    left = int(new_own_host.run_command(BACKGROUND).text)
    busy = Busy(new_own_host, f"{BACKGROUND}; sleep 1000", DEAF)
    function = new_own_host.ask_call(stay_with_children)
    busy.pids += [int(word) for word in new_own_host.wait_for_output(function)[0].split()]
    os.kill(busy.pids[0], signal.SIGKILL)
    assert new_own_host.process.wait(150) != 0
    await_gone([left, *busy.pids])
    wait_until(lambda: not os.listdir(temporary), lambda: f"left: {os.listdir(temporary)}")


def test_f7_an_heir_leaves_alone_what_was_let_go(new_own_host, temporary):
    """What setsid has started, and a directory that was removed and made again by a user."""
    path = new_own_host.run(operation("make_private_directory")).ended[0]["result"]
    new_own_host.run(operation("remove_tree", path=path))
    os.mkdir(path)
    free = new_own_host.ask(command("setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000"))
    (pid,) = (int(line) for line in new_own_host.wait_for_output(free))
    pids = [new_own_host.wait_for_hello()["pid"], *free.pids]
    try:
        os.kill(pids[0], signal.SIGKILL)
        await_gone(pids)
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert os.listdir(temporary) == [os.path.basename(path)]
    os.rmdir(path)


def end_by_sigkill(host):
    os.kill(host.wait_for_hello()["pid"], signal.SIGKILL)


@pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid")
@pytest.mark.parametrize("end", [end_of_stdin, end_by_sigkill])
def test_a_job_may_leave_its_session_after_the_end_of_its_step(end, new_own_host, tmp_path):
    """A shell ends at once when it has started `setsid job &`; setsid takes effect later."""
    slow = f"(sleep 0.3; exec setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000') & "
    stays = int(new_own_host.run_command(slow + BACKGROUND).text.split()[-1])
    end(new_own_host)
    new_own_host.process.wait(150)
    await_gone([stays])
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    try:
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_end_of_stdin_is_no_failure(new_host):
    """Nothing is printed on standard error for the user to find."""
    new_host.run_command("echo done")
    new_host.close_stdin()
    assert new_host.wait_for_end() == 0
    assert new_host.errors() == ""


def test_what_made_no_sense_is_not_printed(new_own_host):
    """A variable in it may be a secret; that there was something is told."""
    new_own_host.send(frames.REQUEST, 1, b'{"environment": {"TOKEN": "hunter2"')
    assert new_own_host.wait_for_end() == 0
    assert "the manager sent data that violates the protocol" in new_own_host.errors()
    assert "hunter2" not in new_own_host.errors()


def test_the_end_during_the_bootstrap_leaves_nothing(make_host, host_python):
    """When the manager goes before all of it was written, the interpreter goes, too."""
    host = make_host(host_python)
    host._to_write[0] = host._to_write[0][:-100]
    host.wait_until_written()
    host.close_stdin()
    assert host.wait_for_end() == 0
    assert host.reply is None
