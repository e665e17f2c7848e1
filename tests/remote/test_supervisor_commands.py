"""Commands: what they print, how they end, what surrounds them, many at once."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lazycluster._remote.commands import account_shell
from support.pipe_host import command
from support.processes import await_gone, is_alive

MANY = 300


def from_environment(name):
    """Prints a variable and nothing else."""
    return f'printf %s "${name}"'


# --- Endings ---


def test_output_comes_in_order(host):
    """What goes to standard output and to standard error is one stream."""
    asked = host.run_command("echo 1; echo 2 >&2; echo 3; printf 4 >&2")
    assert asked.output == [b"1\n2\n3\n4"]


@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_exit_status(status, host):
    """Each exit status is told as it is."""
    assert host.run_command(f"exit {status}").ended == [{"step": 0, "exit_status": status}]


def test_the_end_of_a_command_that_does_not_exist_is_an_exit_status(host):
    """The shell says so, with 127."""
    asked = host.run_command("no-such-command-here")
    assert asked.ended == [{"step": 0, "exit_status": 127}]
    assert "no-such-command-here" in asked.text


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM", "HUP", "INT", "PIPE"])
def test_signal(name, host):
    """A signal is told as one, and not as an exit status above 128."""
    number = int(getattr(signal, f"SIG{name}"))
    asked = host.run_command(f"ulimit -c 0; kill -s {name} $$; sleep 1000")
    assert asked.ended == [{"step": 0, "signal": number}]


def test_an_exit_status_above_128_is_no_signal(host):
    """A shell whose child was killed exits; it was not killed itself."""
    asked = host.run_command("ulimit -c 0; sh -c 'kill -s KILL $$'; exit $?")
    assert asked.ended == [{"step": 0, "exit_status": 128 + signal.SIGKILL}]


# --- What surrounds a command ---


def test_f15_standard_input_is_dev_null(host):
    """A command that reads is at the end at once, and reads nothing of the lifeline."""
    text = host.run_command("cat; [ /dev/fd/0 -ef /dev/null ] && echo null").text
    assert text == "null\n"


@pytest.mark.parametrize(
    "value",
    ["", "a\nb\n\n", 'it\'s "quoted" `x` $HOME \\n', "Zoë ☃ 🦔", "\udcff\udc80x", "x" * 100_000],
    ids=["empty", "newlines", "quotes", "unicode", "not-utf-8", "100kB"],
)
def test_f37_the_value_of_a_variable_arrives_exactly(value, host):
    """It is data and never read by a shell."""
    asked = host.run_command(from_environment("VALUE"), environment={"VALUE": value})
    assert asked.output == [value.encode("utf-8", "surrogateescape")]


def test_variables_of_a_request_are_not_those_of_the_next(host):
    """What one sets another does not see."""
    host.run_command(":", environment={"VALUE": "first"})
    assert host.run_command(from_environment("VALUE")).output == [b""]


def test_variables_of_the_host_stay(host):
    """Those of a request are added to them."""
    asked = host.run_command('echo "$LANG $VALUE"', environment={"VALUE": "1"})
    assert asked.text == "C.UTF-8 1\n"


def test_a_command_need_not_be_ascii(host):
    """Its bytes are those that were meant, whether they are UTF-8 or not."""
    asked = host.run_command("printf %s 'Zoë \udcff'")
    assert asked.output == ["Zoë ".encode() + b"\xff"]


def test_the_working_directory_is_where_the_command_starts(host, tmp_path):
    """It is, also for a program that asks the system."""
    asked = host.run_command("/bin/pwd -P", working_dir=str(tmp_path))
    assert asked.text == f"{os.path.realpath(tmp_path)}\n"


@pytest.mark.parametrize("name", ["with blank", "Zoë", "\udcff", "-n", "$HOME"], ids=ascii)
def test_a_working_directory_may_have_any_name(name, host, tmp_path):
    """Names are taken literally."""
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    asked = host.run_command("echo here > file", working_dir=str(tmp_path / name))
    assert asked.ended == [{"step": 0, "exit_status": 0}]
    assert (tmp_path / name / "file").read_text() == "here\n"


def test_pwd_is_the_working_directory_as_it_was_written(host, tmp_path):
    """Links stay in it, for the shell and for what the shell starts."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    path = str(tmp_path / "link")
    asked = host.run_command(
        """echo "$PWD"; sh -c 'echo "$PWD"'; env | grep ^PWD""", working_dir=path
    )
    assert asked.text == f"{path}\n{path}\nPWD={path}\n"


@pytest.mark.parametrize(
    ("cwd", "path"),
    [("sub", "link/sub"), ("./sub/", "link/sub"), ("sub/..", "folder"), (".", "link")],
)
def test_pwd_is_the_directory_to_start_in_made_absolute(host, tmp_path, cwd, path):
    """A path with `..` is resolved, since a shell would not take it."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("folder")
    asked = host.run(
        command('printf %s "$PWD"; env | grep ^PWD'), working_dir=str(tmp_path / "link"), cwd=cwd
    )
    expected = os.path.realpath(tmp_path / path) if ".." in cwd else str(tmp_path / path)
    assert asked.text == f"{expected}PWD={expected}\n"


def test_without_a_working_directory_it_is_that_of_the_login(make_host, host_python, tmp_path):
    """A session begins in the home directory."""
    assert make_host(host_python).run_command("pwd -P").text == f"{os.path.realpath(tmp_path)}\n"


@pytest.mark.parametrize(
    ("make", "number"),
    [(lambda path: None, errno.ENOENT), (Path.touch, errno.ENOTDIR)],
    ids=["missing", "a file"],
)
def test_a_working_directory_that_is_none_is_named(make, number, host, tmp_path):
    """The command does not start; path and errno say why."""
    path = tmp_path / "Zoë"
    make(path)
    asked = host.run_command("echo started", working_dir=str(path))
    assert asked.pids == []
    (ended,) = asked.ended
    assert (ended["failure"], ended["errno"], ended["path"]) == ("os", number, str(path))
    assert ended["message"] == os.strerror(number)


def test_a_shell_that_is_missing_is_named(host):
    """It is the shell that is not there, not the working directory."""
    asked = host.run(command("echo started", by="/nonexistent/sh"))
    (ended,) = asked.ended
    assert (ended["failure"], ended["errno"]) == ("os", errno.ENOENT)
    assert ended["path"] == "/nonexistent/sh"


def test_without_a_shell_it_is_the_accounts_own(host):
    """As for `ssh host command`."""
    import pwd

    shell = pwd.getpwuid(os.getuid()).pw_shell
    if os.path.basename(shell) not in ("sh", "bash", "dash", "zsh", "ksh"):
        pytest.skip(f"what $0 is in {shell} is not known here")
    assert host.run(command("echo $0", by=None)).text == f"{shell}\n"


def test_a_command_too_long_for_an_argv_works(host):
    """One of 300 kB is run like any other; nothing stays of it."""
    asked = host.run_command(": " + "x" * 300_000 + "\nprintf '%s %s' done $#; exit 7")
    assert asked.output == [b"done 0"]
    assert asked.ended == [{"step": 0, "exit_status": 7}]


def test_of_a_long_command_nothing_stays(make_host, host_python, temporary):
    """What was made for it goes with it, or with the connection."""
    host = make_host(host_python)
    for _ in range(2):
        host.run(command(": " + "x" * 300_000), command(": " + "y" * 300_000))
    assert [path for path in temporary.rglob("*") if not path.is_dir()] == []
    host.close_stdin()
    host.wait_for_end()
    assert list(temporary.iterdir()) == []


def test_python_programs_print_at_once(host):
    """A pipe is not a terminal, and Python would keep what it prints until its end."""
    assert host.run_command(from_environment("PYTHONUNBUFFERED")).output == [b"1"]


@pytest.mark.parametrize("value", ["", "0"])
def test_a_step_decides_whether_python_buffers(value, host):
    """Python buffers if the variable is empty."""
    asked = host.run_command(
        from_environment("PYTHONUNBUFFERED") + "; printf .",
        environment={"PYTHONUNBUFFERED": value},
    )
    assert asked.output == [f"{value}.".encode()]


def test_an_account_decides_whether_python_buffers(make_host, host_python):
    """What its start files have set stays."""
    host = make_host(host_python, environment={"PYTHONUNBUFFERED": "0"})
    assert host.run_command(from_environment("PYTHONUNBUFFERED")).output == [b"0"]


def test_an_environment_too_large_for_the_system_is_a_failure_of_the_step(host):
    """E2BIG concerns this command, and the next one works."""
    asked = host.run_command("echo started", environment={"VALUE": "x" * 3_000_000})
    (ended,) = asked.ended
    assert (ended["failure"], ended["errno"]) == ("os", errno.E2BIG)
    assert host.run_command("echo next").text == "next\n"


def test_a_pipe_whose_reader_ends_is_no_complaint(host):
    """Signals are those of a login shell: SIGPIPE ends `yes` silently."""
    assert host.run_command("yes | head -1").output == [b"y\n"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_no_signal_is_blocked_or_ignored(host):
    """A command starts with the actions of signals that a shell would give it."""
    asked = host.run_command("grep -E '^Sig(Blk|Ign):' /proc/self/status")
    masks = [int(line.split()[1], 16) for line in asked.text.splitlines()]
    # 32 and 33 belong to the C library: no program can set them.
    assert [mask & 0x7FFFFFFF for mask in masks] == [0, 0]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_command_inherits_no_descriptor(host):
    """It has its three and nothing of the supervisor's, also while others run."""
    other = host.ask(command("echo $$; exec sleep 1000"))
    host.wait_for_output(other)
    # The fourth is the folder that `ls` reads.
    assert host.run_command("ls /proc/self/fd").text.split() == ["0", "1", "2", "3"]
    host.kill(other, 0)
    host.finish(other)


def test_a_command_has_a_session_of_its_own(host):
    """Its leader is the process that is told as the step's."""
    line = f"exec {shlex.quote(sys.executable)} -c 'import os; print(os.getsid(0))'"
    asked = host.run_command(line)
    assert int(asked.text) == asked.pids[0]


# --- Steps ---


def test_steps_run_in_order(host):
    """Five in one request, each with its own output and ending."""
    asked = host.run(*(command(f"echo {number}") for number in range(5)))
    assert asked.output == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    assert asked.ended == [{"step": step, "exit_status": 0} for step in range(5)]


@pytest.mark.parametrize("bad", ["exit 1", "kill -s KILL $$"])
def test_steps_stop_at_the_first_that_fails(bad, host, tmp_path):
    """Those after it do not start."""
    asked = host.run(command("echo 0"), command(bad), command(f"touch {tmp_path}/started"))
    assert len(asked.pids) == len(asked.ended) == 2
    assert not (tmp_path / "started").exists()


def test_steps_share_directory_and_variables(host, tmp_path):
    """And nothing else: a `cd` is forgotten."""
    step = command('pwd -P; echo "$VALUE"; cd /; VALUE=2')
    asked = host.run(step, step, working_dir=str(tmp_path), environment={"VALUE": "1"})
    assert asked.output[0] == asked.output[1] == f"{os.path.realpath(tmp_path)}\n1\n".encode()


# --- Much output ---


def test_f14_many_lines_arrive_exactly(host):
    """All of 100000 lines, in order."""
    expected = "".join(f"{number}\n" for number in range(1, 100_001))
    assert host.run_command("seq 100000").output == [expected.encode()]


def test_f14_binary_output_arrives_exactly(host, tmp_path):
    """Bytes are not text."""
    data = os.urandom(1_000_000) + bytes(range(256))
    (tmp_path / "data").write_bytes(data)
    assert host.run_command(f"cat {tmp_path}/data").output == [data]


def test_output_before_the_end_is_not_lost(host):
    """What a process has written last is read after it has gone."""
    asked = host.run(*(command("head -c 65536 /dev/zero") for _ in range(20)))
    assert [len(output) for output in asked.output] == [65536] * 20


def test_output_comes_while_the_command_runs(host, tmp_path):
    """It is not kept until the end."""
    os.mkfifo(tmp_path / "fifo")
    asked = host.ask(command(f"echo first; read -r line < {tmp_path}/fifo; echo $line"))
    assert host.wait_for_output(asked) == ["first"]
    (tmp_path / "fifo").write_text("second\n")
    host.finish(asked)
    assert asked.text == "first\nsecond\n"


# --- Many at once ---


def test_two_requests_at_once_do_not_mix(host):
    """Each has its own stream."""
    texts = [f"yes {word} | head -100000" for word in ("one", "another")]
    one, another = (host.ask(command(text)) for text in texts)
    host.finish(one, another)
    assert one.output == [b"one\n" * 100_000]
    assert another.output == [b"another\n" * 100_000]


def test_many_at_once_are_all_served(own_host):
    """300 commands on one connection, each with what is its own."""
    asked = [own_host.ask(command(f"sleep 0.2; echo {number}")) for number in range(MANY)]
    own_host.finish(*asked)
    assert [one.text for one in asked] == [f"{number}\n" for number in range(MANY)]
    assert all(one.ended == [{"step": 0, "exit_status": 0}] for one in asked)


def test_many_requests_of_many_steps_are_all_served(own_host):
    """Pipes of steps that end and of steps that begin are not taken for one another."""
    steps = [command(f"echo {number}; exec true") for number in range(5)]
    asked = [own_host.ask(*steps) for _ in range(50)]
    own_host.finish(*asked)
    for one in asked:
        assert one.output == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]


def few_descriptors(limit):
    return ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]


def test_more_than_there_are_descriptors_for_are_all_served(make_host, own_python):
    """A request waits then, until another has ended."""
    host = make_host(own_python, under=few_descriptors(40))
    asked = [host.ask(command(f"sleep 0.05; echo {number}")) for number in range(MANY)]
    host.finish(*asked)
    assert [one.text for one in asked] == [f"{number}\n" for number in range(MANY)]


# --- What a command leaves behind ---


def test_a_background_child_does_not_hold_the_step_up(host):
    """A step ends with its leader, though a child still has its output; the child lives on."""
    asked = host.run(command("sleep 1000 & echo $!"), command("echo next"))
    child = int(asked.output[0])
    assert asked.output[1] == b"next\n"
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)
    await_gone([child])


def test_a_background_child_may_go_on_printing(host, tmp_path):
    """It is neither stopped by a full pipe nor taken for the next step."""
    first = command(f"(head -c 1000000 /dev/zero; echo $? > {tmp_path}/fifo) & :")
    os.mkfifo(tmp_path / "fifo")
    asked = host.run(first, command(f"read -r status < {tmp_path}/fifo; echo $status"))
    assert asked.output[1] == b"0\n"


@pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid")
def test_setsid_is_the_way_out(new_host):
    """Who has left the step's session survives the end of the connection; others do not."""
    leaving = "setsid sh -c 'echo $$ && exec sleep 1000' & "
    asked = new_host.ask(command(leaving + "sleep 1000 & echo $! && wait"))
    new_host.wait_for_output(asked, 2)
    pids = {int(line) for line in asked.text.split()}
    new_host.close_stdin()
    new_host.wait_for_end()
    (left,) = (pid for pid in pids if is_alive(pid))
    assert os.getpgid(left) == left
    os.kill(left, signal.SIGKILL)
    await_gone(pids)


def test_a_shell_may_have_options(host):
    """As in `bash --norc`."""
    assert host.run(command("echo one; false; echo two", by="/bin/sh -e")).text == "one\n"


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false", "", None])
def test_an_account_that_refuses_logins_has_a_shell(monkeypatch, shell):
    """A service's account is used by `runuser -u NAME -- python3`."""

    def getpwuid(_):
        if shell is None:
            raise KeyError
        return SimpleNamespace(pw_shell=shell)

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.delenv("SHELL", raising=False)
    assert account_shell() == b"/bin/sh"
