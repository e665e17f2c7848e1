"""A command's standard input, its separate standard error, and the directory of a single call."""

from __future__ import annotations

import errno
import os
import time

import pytest

from lazycluster._shared import frames
from support.pipe_host import command
from support.processes import memory_peak
from support.waiting import wait_until

LARGE = 20 * frames.WINDOW


# --- Standard error ---


def test_separate_streams_come_apart(host):
    asked = host.run(command("echo 1; echo 2 >&2; echo 3; printf 4 >&2", separate=True))
    assert (asked.output, asked.errors) == ([b"1\n3\n"], [b"2\n4"])


def test_a_flood_on_both_streams_comes_whole(host):
    """Neither waits for the other."""
    line = "head -c 3000000 /dev/zero | tr '\\0' {} {}"
    both = f"{line.format('o', '')} & {line.format('e', '>&2')}; wait"
    asked = host.run(command(both, separate=True))
    assert (asked.output, asked.errors) == ([b"o" * 3000000], [b"e" * 3000000])


def test_each_step_says_how_it_wants_them(host):
    text = "echo out; echo err >&2"
    asked = host.run(command(text, separate=True), command(text), command(text, separate=True))
    assert asked.output == [b"out\n", b"out\nerr\n", b"out\n"]
    assert asked.errors == [b"err\n", b"", b"err\n"]


def test_an_orphan_may_go_on_writing_to_both(host, tmp_path):
    """What it writes is dropped, and it neither waits nor fails."""
    go, done = tmp_path / "go", tmp_path / "done"
    loop = f"while ! [ -e {go} ]; do sleep 0.01; done"
    flood = "head -c 1000000 /dev/zero"
    asked = host.run(
        command(
            f"({loop}; {flood}; {flood} >&2; echo $? >{done}) & echo 1; echo 2 >&2", separate=True
        )
    )
    assert (asked.output, asked.errors) == ([b"1\n"], [b"2\n"])
    go.touch()
    wait_until(lambda: done.exists() and done.read_text() == "0\n", "its end")


# --- Standard input ---


def sent(*inputs: bytes | None):
    """Return commands that print the standard input, and all of it."""
    steps = [command("cat", input=None if data is None else len(data)) for data in inputs]
    return steps, b"".join(data or b"" for data in inputs)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, frames.CHUNK, frames.FIRST_WINDOW + 1, LARGE])
def test_a_command_reads_its_input_to_the_end(size, host):
    data = os.urandom(size)
    steps, payload = sent(data)
    asked = host.run(*steps, payload=payload)
    assert asked.output == [data]
    assert asked.ended == [{"step": 0, "exit_status": 0}]


def test_each_step_has_its_own_input(host):
    """And one without input reads nothing."""
    inputs = [b"first", None, b"", bytes(1000000), b"last"]
    steps, payload = sent(*inputs)
    asked = host.run(*steps, payload=payload)
    assert asked.output == [data or b"" for data in inputs]


@pytest.mark.parametrize("size", [10, 65537, LARGE])
@pytest.mark.parametrize(
    "reader", ["true", "exec <&-; sleep 0.1", "head -c 3 >&2", "sleep 0.1"], ids=str
)
def test_input_that_is_not_read_does_no_harm(reader, size, host):
    """The step ends as the command does, and the next step's input is whole."""
    asked = host.run(
        command(reader, input=size), command("cat", input=4), payload=bytes(size) + b"next"
    )
    assert asked.ended == [{"step": index, "exit_status": 0} for index in range(2)]
    assert asked.output[1] == b"next"


def test_a_command_that_does_not_read_holds_nothing_up(own_host):
    """Its input waits on the manager, not in the supervisor's memory."""
    pid = own_host.wait_for_hello()["pid"]
    before = memory_peak(pid)
    asked = own_host.ask(command("exec sleep 1000", input=LARGE), payload=bytes(LARGE))
    assert own_host.run_command("echo quick").text == "quick\n"
    assert memory_peak(pid) - before < LARGE // 4
    own_host.kill(asked, 0)
    own_host.finish(asked)
    assert asked.ended == [{"step": 0, "signal": 9}]


def test_a_child_that_keeps_the_input_open_does_not_keep_the_step(new_host):
    asked = new_host.run(command("sleep 1000 <&0 &", input=LARGE), payload=bytes(LARGE))
    assert asked.ended == [{"step": 0, "exit_status": 0}]


def test_a_function_that_is_forked_meanwhile_does_not_keep_the_input_open(own_host):
    """Otherwise `cat` would wait for the end of the function."""
    reader = own_host.ask(command("cat", input=4))
    sleeper = own_host.ask_call(sleep)
    own_host.wait_for_output(sleeper)
    reader.payload = memoryview(b"text")
    own_host.finish(reader)
    assert reader.output == [b"text"]
    own_host.kill(sleeper, 0)
    own_host.finish(sleeper)


def sleep():
    print("asleep")
    time.sleep(1000)


# --- The directory of a call ---


@pytest.mark.parametrize("where", ["sub", "./sub/", "../work/sub"])
def test_a_directory_is_relative_to_the_working_directory(where, host, tmp_path):
    working_dir = tmp_path / "work"
    (working_dir / "sub").mkdir(parents=True)
    asked = host.run(command("pwd -P"), working_dir=str(working_dir), cwd=where)
    assert asked.text == f"{(working_dir / 'sub').resolve()}\n"


def test_a_directory_may_be_absolute(host, tmp_path):
    asked = host.run(command("pwd -P"), working_dir="/", cwd=str(tmp_path))
    assert asked.text == f"{tmp_path.resolve()}\n"


def test_a_tilde_is_the_home_directory(host):
    home = host.run(command("cd; pwd -P; mkdir -p below"), working_dir="/").text.strip()
    assert host.run(command("pwd -P"), working_dir="/", cwd="~/below").text == f"{home}/below\n"


def test_a_missing_directory_is_named(host, tmp_path):
    asked = host.run(command("true"), working_dir=str(tmp_path), cwd="none")
    assert asked.ended[0]["errno"] == errno.ENOENT
    assert asked.ended[0]["path"] == f"{tmp_path}/none"
