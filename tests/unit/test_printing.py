"""What steps have printed, as print_log and `debug=True` show it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading

import pytest

from lazycluster._tasks.lines import LINE_LIMIT
from lazycluster._tasks.log import READ_LIMIT, ExecutionLog
from lazycluster._tasks.printing import LivePrinter, print_log
from lazycluster._tasks.steps import HEADING_LIMIT, RunCommand, RunFunction


class Output(io.StringIO):
    """A standard output that may be a terminal."""

    def __init__(self, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal

    def take(self):
        """Return what was written since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def to_pipe(monkeypatch):
    """Makes a pipe of standard output, which pytest replaces behind each fixture."""

    def to_pipe():
        monkeypatch.setattr(sys, "stdout", Output(False))
        return sys.stdout

    return to_pipe


@pytest.fixture
def to_terminal(monkeypatch):
    """Makes a terminal of standard output, which pytest replaces behind each fixture."""

    def to_terminal():
        monkeypatch.setattr(sys, "stdout", Output(True))
        return sys.stdout

    return to_terminal


@pytest.fixture
def make_log(tmp_path, monkeypatch):
    """Makes logs that are closed at the end of the test."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path))
    logs = []

    def make_log(host="a"):
        logs.append(ExecutionLog(host, "task"))
        return logs[-1]

    yield make_log
    for log in logs:
        log.close()


# --- print_log ---


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("make", "make"),
        ("\n  cd /tmp\nmake\n", "cd /tmp …"),
        ("x" * 101, "x" * 99 + "…"),
        ("echo \x1b[2J\t\u202e", "echo \\x1b[2J\\t\\u202e"),
    ],
)
def test_a_heading_is_one_short_line(name, heading):
    """Of a command its first line."""
    assert RunCommand(name).heading == heading
    assert len(RunCommand("\n".join([name] * 1000)).heading) <= HEADING_LIMIT + 30  # escapes


def test_a_function_is_a_call_in_its_heading():
    """A command could have the same name."""
    assert RunFunction("Model.fit").heading == "call of Model.fit"


def test_print_log_shows_each_step_and_indents_its_output(make_log, to_pipe):
    """A silent step has its heading only; the last line need not be complete."""
    pipe = to_pipe()
    log = make_log()
    log.append(0, b"one\n\n  two")
    log.append(2, b"three\n")
    print_log(log, ["first", "second", "third"])
    assert pipe.take() == "0: first\n   one\n\n     two\n1: second\n2: third\n   three\n"


def test_print_log_leaves_output_to_a_file_as_it_is(make_log, to_pipe):
    """Only the indent comes to it."""
    pipe = to_pipe()
    log = make_log()
    log.append(0, b"\x1b[2J1%\r2%\r\n\x00\xff")
    print_log(log, ["x"])
    assert pipe.take() == "0: x\n   \x1b[2J1%\r2%\r\n   \x00\\xff\n"


def test_print_log_lets_colours_and_progress_bars_pass_on_a_terminal(make_log, to_terminal):
    """Behind the indent, so that no output passes for a heading."""
    terminal = to_terminal()
    log = make_log()
    log.append(0, b"\x1b[31mred\n1%\r0: rm -rf /\x1b[2J\r\n")
    print_log(log, ["x"])
    assert terminal.take() == "0: x\n   \x1b[31mred\x1b[0m\n   1%\r   0: rm -rf /\\x1b[2J\n"


def test_print_log_of_much_output(make_log, to_pipe):
    """It comes in parts, but that is not to be seen."""
    pipe = to_pipe()
    text = "".join(f"{number}é\n" for number in range(READ_LIMIT // 4)) + "x" * (2 * LINE_LIMIT + 1)
    log = make_log()
    log.append(0, text.encode())
    print_log(log, ["x"])
    lines = pipe.take().split("\n")
    assert lines[0] == "0: x"
    assert lines[1:-1] == [f"   {line}" for line in text.split("\n")]


# --- Live ---


def test_live_output_comes_in_whole_lines(make_log, to_pipe):
    """A line is printed when it is complete, or when its step has ended."""
    pipe = to_pipe()
    log = make_log()
    with LivePrinter(log) as printer:
        log.append(0, b"o")
        printer.print_new(ended=0)
        assert pipe.take() == ""
        log.append(0, b"ne\ntw\xc3")
        printer.print_new(ended=0)
        assert pipe.take() == "one\n"
        log.append(0, b"\xbc")
        printer.print_new(ended=0)
        assert pipe.take() == ""
        printer.print_new(ended=1)
        assert pipe.take() == "twü\n"
        log.append(1, b"\xc3")
        printer.print_new(ended=1)
    assert pipe.take() == "\\xc3\n"


def test_live_lines_of_two_steps_do_not_run_together(make_log, to_pipe):
    """What the first one has left in the background prints while the second one runs."""
    pipe = to_pipe()
    log = make_log()
    with LivePrinter(log) as printer:
        log.append(0, b"one")
        log.append(1, b"sixt")
        log.append(0, b"late\n")
        log.append(1, b"een\n")
        printer.print_new(ended=0)
    assert pipe.take() == "one\nlate\nsixteen\n"


def test_live_output_goes_to_a_file_as_it_is(make_log, to_pipe):
    """Although a progress bar moves: a notebook shows it."""
    pipe = to_pipe()
    log = make_log()
    with LivePrinter(log) as printer:
        log.append(0, b"\x1b[31m1%\r2%")
        printer.print_new(ended=0)
        assert pipe.take() == "\x1b[31m1%\r"
        log.append(0, b"\r\n\x00")
    assert pipe.take() == "2%\r\n\x00\n"


def test_live_output_of_two_executions_in_a_file(make_log, to_pipe):
    """A progress bar gets a line of its own there, and stays in one line behind its host."""
    pipe = to_pipe()
    logs = [make_log("a"), make_log("a"), make_log("b")]
    with LivePrinter(logs[0]) as one, LivePrinter(logs[1]) as two:
        logs[0].append(0, b"1%\r2%")
        logs[1].append(0, b"two\n")
        one.print_new(ended=0)
        two.print_new(ended=0)
        assert pipe.take() == "1%\r\ntwo\n"
        with LivePrinter(logs[2]):
            logs[0].append(0, b"\r3%\r4%\n")
            one.print_new(ended=0)
            assert pipe.take() == "a: 2%\r3%\r4%\n"


def test_live_lines_name_their_host_while_there_are_several(make_log, to_pipe):
    """And then to the end, so that each line can be told by what is before it."""
    pipe = to_pipe()
    logs = [make_log("a"), make_log("b"), make_log("b")]
    one, two, three = map(LivePrinter, logs)
    logs[1].append(0, b"b1\n")
    logs[2].append(0, b"b2\n")
    with two, three:
        two.print_new(ended=0)
        three.print_new(ended=0)
        assert pipe.take() == "b1\nb2\n"  # of one host
        with one:
            logs[0].append(0, b"a\n\nend")
            logs[1].append(0, b"b\r\n")
            one.print_new(ended=0)
            two.print_new(ended=0)
            assert pipe.take() == "a: a\na:\nb: b\r\n"
        assert pipe.take() == "a: end\n"
        logs[1].append(0, b"left\n")
        two.print_new(ended=0)
        assert pipe.take() == "b: left\n"
        logs[2].append(0, b"alone\n")
        three.print_new(ended=0)
        assert pipe.take() == "b: alone\n"
        with LivePrinter(log := make_log("b")):
            log.append(0, b"new\n")
        assert pipe.take() == "new\n"


def test_a_progress_bar_moves_on_a_terminal(make_log, to_terminal):
    """Each state is printed when it is complete, and written over by the lines of others."""
    terminal = to_terminal()
    logs = [make_log("a"), make_log("b")]
    with LivePrinter(logs[0]) as one, LivePrinter(logs[1]) as two:
        logs[0].append(0, b"\r1%\r2")
        one.print_new(ended=0)
        assert terminal.take() == "a:\ra: 1%\r"
        logs[1].append(0, b"hello\n")
        two.print_new(ended=0)
        assert terminal.take() == "\x1b[Kb: hello\n"
        logs[0].append(0, b"%\r3%")
        one.print_new(ended=0)
        assert terminal.take() == "a: 2%\r"
    assert terminal.take() == "a: 3%\n"


def test_a_carriage_return_before_a_line_feed_is_the_end_of_a_line(make_log, to_terminal):
    """Also if they come one after the other."""
    terminal = to_terminal()
    log = make_log()
    with LivePrinter(log) as printer:
        log.append(0, b"one\r")
        printer.print_new(ended=0)
        assert terminal.take() == ""
        log.append(0, b"\ntwo\r")
        printer.print_new(ended=0)
        assert terminal.take() == "one\n"
    assert terminal.take() == "two\r\n"


def test_a_line_without_end_is_printed_in_parts(make_log, to_pipe):
    """It is not kept in memory, and others begin a line of their own."""
    pipe = to_pipe()
    logs = [make_log("a"), make_log("b")]
    with LivePrinter(logs[0]) as one, LivePrinter(logs[1]) as two:
        logs[0].append(0, b"x" * LINE_LIMIT)
        one.print_new(ended=0)
        assert pipe.take() == "a: " + "x" * LINE_LIMIT
        logs[0].append(0, b"y" * LINE_LIMIT)
        one.print_new(ended=0)
        assert pipe.take() == "y" * LINE_LIMIT
        logs[1].append(0, b"hello\n")
        two.print_new(ended=0)
        assert pipe.take() == "\nb: hello\n"
        logs[0].append(0, b"z" * LINE_LIMIT)
        one.print_new(ended=0)
        assert pipe.take() == "a: " + "z" * LINE_LIMIT
    assert pipe.take() == "\n"


def test_output_is_printed_also_if_the_execution_fails(make_log, to_pipe):
    """What came before the end, and the line that is not complete."""
    pipe = to_pipe()
    log = make_log()
    with contextlib.suppress(KeyError), LivePrinter(log):
        log.append(0, b"one\ntwo")
        raise KeyError
    assert pipe.take() == "one\ntwo\n"


def test_many_threads_print_whole_lines(make_log, to_pipe):
    """Whatever the order of the lines is."""
    pipe = to_pipe()

    def work(host):
        log = make_log(host)
        with LivePrinter(log) as printer:
            for number in range(100):
                log.append(0, f"{number} of {host}".encode())
                printer.print_new(ended=0)
                log.append(0, b"\n")
                printer.print_new(ended=0)

    threads = [threading.Thread(target=work, args=[f"h{number}"]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line.rpartition(": ")[2] for line in pipe.take().splitlines()]
    assert sorted(lines) == sorted(f"{n} of h{host}" for n in range(100) for host in range(5))


class Blocked(io.StringIO):
    """A standard output that is not read."""

    def __init__(self):
        super().__init__()
        self.is_written_to, self.is_read = threading.Event(), threading.Event()

    def write(self, text):
        self.is_written_to.set()
        self.is_read.wait()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks beside a thread
def test_a_forked_child_prints_though_a_thread_of_its_parent_does(make_log, monkeypatch):
    """The lock that the thread holds is another one in the child."""
    log = make_log()
    log.append(0, b"one\n")
    monkeypatch.setattr(sys, "stdout", blocked := Blocked())
    with LivePrinter(log) as printer:
        thread = threading.Thread(target=printer.print_new)
        thread.start()
        blocked.is_written_to.wait()
        pid = os.fork()
        if pid == 0:
            sys.stdout = io.StringIO()
            with LivePrinter(log):
                pass
            os._exit(sys.stdout.getvalue() != "one\n")
        assert os.waitpid(pid, 0)[1] == 0
        blocked.is_read.set()
        thread.join()
