"""What steps print, in any amount and of any kind, and what they are given to read."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios

import pytest

from lazycluster import RuntimeTask
from support.hosts import call, commands, run
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("stays_good")


def logged(runtime, line):
    """Runs a command, and gives the bytes in its log file, which is removed."""
    path = runtime.execute_task(commands(line), execute_async=False).execution_log_file_path
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    return data


# --- Much of it ------------------------------------------------------------------------------


def test_f14_100_000_lines(runtime):
    """Each in its place."""
    expected = "".join(f"{number}\n" for number in range(1, 100_001))
    assert run(runtime, "seq 100000") == [expected]


def test_f14_line_of_100_megabytes(runtime):
    """It is in the log, and in memory only when it is asked for."""
    task = commands("head -c 100000000 /dev/zero | tr '\\0' x")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["x" * 100_000_000]
    os.unlink(task.execution_log_file_path)


def test_f14_both_streams_full_at_once(runtime):
    """Neither waits for the other."""
    one = "yes stdout | head -c 7000000"
    other = "yes stderr | head -c 7000000 >&2"
    data = logged(runtime, f"{one} & {other}; wait")
    assert len(data) == 14_000_000
    # Pieces of a pipe's writers may cut each other's lines, but no letter is lost.
    assert data.count(b"o") == data.count(b"u") == 1_000_000


FLOOD = """
import os, re, sys
from lazycluster import Runtime, RuntimeTask

def peak(process):
    with open(f"/proc/{process}/status") as file:
        return int(re.search(r"VmHWM:\\s*(\\d+) kB", file.read())[1]) * 1024

def peak_of_supervisor():
    return peak(os.getppid())

def ask_supervisor():
    return next(runtime.execute_function(peak_of_supervisor).function_returns)

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
before = peak("self"), ask_supervisor()
task = RuntimeTask().run_command(f"head -c {sys.argv[3]} /dev/zero")
runtime.execute_task(task, execute_async=False)
path = task.execution_log_file_path
size = os.path.getsize(path)
os.unlink(path)
print(size, peak("self") - before[0], ask_supervisor() - before[1])
"""

FLOOD_SIZE = int(os.environ.get("LAZYCLUSTER_TEST_FLOOD", 2**30))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_f14_flood_leaves_the_memory_of_both_sides_flat(sshd, tmp_path):
    """A gigabyte is in the log file, whole, and no more than some pieces of it in memory."""
    script = tmp_path / "flood.py"
    script.write_text(FLOOD)
    done = subprocess.run(
        [sys.executable, script, sshd.alias, sshd.config_file, str(FLOOD_SIZE)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=280 if FLOOD_SIZE == 2**30 else 1000,
        check=True,
    )
    size, manager, supervisor = map(int, done.stdout.split())
    assert size == FLOOD_SIZE
    assert manager < 16 * 2**20
    assert supervisor < 16 * 2**20


# --- Of any kind -----------------------------------------------------------------------------


def test_f14_binary_output_is_exact(runtime, tmp_path):
    """Every byte, with NUL, CR and LF in any order."""
    data = os.urandom(3_000_001) + bytes(range(256)) + b"\r\n\r\0\n\r\r\n"
    (tmp_path / "binary").write_bytes(data)
    assert logged(runtime, f"cat {tmp_path}/binary") == data


def test_f14_characters_split_between_frames(runtime, tmp_path, capsys):
    """They are whole in the log and in what is printed live, wherever a piece ends."""
    text = "".join(f"{number}é☃🦔" for number in range(60_000))
    (tmp_path / "text").write_text(text, encoding="utf-8")
    task = commands(f"cat {tmp_path}/text")
    runtime.execute_task(task, execute_async=False, debug=True)
    assert task.execution_log == [text]
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize(
    ("octal", "shown"),
    [
        (r"a\374b", "a\\xfcb"),  # Latin-1
        (r"a\303", "a\\xc3"),  # the beginning of a character, and then the end
        (r"\360\237\246", "\\xf0\\x9f\\xa6"),
        (r"\355\240\200", "\\xed\\xa0\\x80"),  # half a surrogate pair
        (r"\300\257", "\\xc0\\xaf"),  # a slash in two bytes
        (r"a\000b\r\n\r", "a\0b\r\n\r"),
    ],
    ids=["latin-1", "cut-of-2", "cut-of-4", "surrogate", "overlong", "nul-and-crlf"],
)
def test_f14_output_that_is_no_utf8(runtime, octal, shown, capsys):
    """What is no character is shown by its bytes, live as well; the file has them as they came."""
    task = commands(f"printf '{octal}'")
    runtime.execute_task(task, execute_async=False, debug=True)
    assert task.execution_log == [shown]
    assert capsys.readouterr().out == f"{shown}\n"
    task.print_log()
    assert capsys.readouterr().out == f"0: {task.steps[0].name}\n" + "".join(
        f"   {line}\n" if line != "\r" else "\r\n" for line in shown.split("\n")
    )


ASCII = """
import sys
from lazycluster import Runtime, RuntimeTask

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
task = RuntimeTask().run_command("printf '\\\\342\\\\230\\\\203\\\\377'")
runtime.execute_task(task, execute_async=False, debug=True)
task.print_log()
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_f14_output_that_the_managers_encoding_lacks(sshd, tmp_path, encoding):
    """It is shown by backslashes; no task fails because of a locale."""
    script = tmp_path / "ascii.py"
    script.write_text(ASCII)
    done = subprocess.run(
        [sys.executable, script, sshd.alias, sshd.config_file],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=280,
    )
    first, heading, indented = done.stdout.splitlines()
    assert (first, indented, done.stderr) == (b"\\u2603\\xff", b"   \\u2603\\xff", b"")
    assert heading == b"0: printf '\\342\\230\\203\\377'"


# --- Printed live ----------------------------------------------------------------------------


PAUSED = """
import sys
from lazycluster import Runtime, RuntimeTask

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
flood = RuntimeTask().run_command("head -c 3000000 /dev/zero | tr '\\\\0' x; exit 0")
runtime.execute_task(flood, debug=True)
sys.stdin.readline()  # until standard output is full

other = runtime.execute_task(RuntimeTask().run_command("echo other"), execute_async=False)
(value,) = runtime.execute_function(pow, base=2, exp=10).function_returns
runtime.send_file(__file__, "copy.py")
print(other.execution_log, value, flood.process.is_alive(), file=sys.stderr, flush=True)
flood.join()
runtime.cleanup()
"""


F_GETPIPE_SZ = 1032  # of Linux; Python has it from 3.10 on


def test_f14_paused_pipe_holds_up_its_own_task_only(sshd, tmp_path):
    """While the output of `debug=True` is not read, other tasks on the Runtime go on."""
    script = tmp_path / "paused.py"
    script.write_text(PAUSED)
    with subprocess.Popen(
        [sys.executable, script, sshd.alias, sshd.config_file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as manager:
        try:
            # A Python starts first. The pipe of an account that has many may hold two pages.
            full = fcntl.fcntl(manager.stdout, F_GETPIPE_SZ)
            wait_until(
                lambda: waiting_in(manager.stdout) >= full or manager.poll() is not None,
                timeout=200,
            )
            manager.stdin.write(b"\n")
            manager.stdin.flush()
            assert manager.stderr.readline() == b"['other\\n'] 1024 True\n"
            stdout, stderr = manager.communicate(timeout=200)
            assert (stdout, stderr) == (b"x" * 3_000_000 + b"\n", b"")
            assert manager.returncode == 0
        finally:
            manager.kill()


def waiting_in(pipe):
    """Return the number of bytes that have not been read yet."""
    size = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(size, sys.byteorder)


SEVERAL = """
import sys
from lazycluster import Runtime, RuntimeTask

hosts = ["one", "two", "three"]
runtimes = [Runtime(host, connection_kwargs={"config_file": sys.argv[1]}) for host in hosts]
for runtime in runtimes:
    runtime.execute_task(RuntimeTask().run_command(sys.argv[2]), debug=True)
for runtime in runtimes:
    runtime.join()
    runtime.cleanup()
"""


def test_f14_live_lines_of_several_hosts_do_not_run_together(make_sshd, tmp_path):
    """Each is whole and names its host, although all print one character after the other."""
    sshd = make_sshd(alias="one two three")
    script = tmp_path / "several.py"
    script.write_text(SEVERAL)
    # The first line comes when all three run.
    wait = f"touch here-$$; while [ $(ls {tmp_path}/here-* | wc -l) -lt 3 ]; do sleep 0.1; done"
    line = f"cd {tmp_path}; {wait}; for n in 1 2 3; do printf a; printf b; echo $n; done; printf c"
    done = subprocess.run(
        [sys.executable, script, sshd.config_file, line],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stderr == ""
    for host in ("one", "two", "three"):
        lines = [found for found in done.stdout.splitlines() if found.startswith(f"{host}: ")]
        assert lines == [f"{host}: {text}" for text in ("ab1", "ab2", "ab3", "c")]
    assert len(done.stdout.splitlines()) == 12


# --- Standard input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("cat | wc -c | tr -d ' '", "0\n"),
        ("read -r line || echo end", "end\n"),
        ("exec <&-; echo closed", "closed\n"),
        ("echo never reads", "never reads\n"),
        ("cat & wait; head -c 1; echo end", "end\n"),
        ("(exec <&-; cat 2>/dev/null); cat; echo end", "end\n"),
        ("[ /dev/fd/0 -ef /dev/null ] && echo null", "null\n"),
    ],
)
def test_f15_command_reads_the_end_and_nothing_else(runtime, connection, line, printed):
    """Whatever it does with its input, the next steps are not in it, nor is anything of ours."""
    assert run(runtime, line, "echo next", line) == [printed, "next\n", printed]
    assert connection.run(line).stdout == printed


def test_f15_function_after_a_reader_gets_its_arguments(runtime):
    """They come over the same connection, and no command eats them."""
    task = RuntimeTask().run_command("cat & cat; wait").run_function(length, data=bytes(2**21))
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [2**21]
    assert call(runtime, length, data=b"1") == 1


def length(data):
    return len(data)
