"""Connection.run and Connection.copy: what rides on the master, with Python on the host or not."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lazycluster import Connection, Runtime
from lazycluster._ssh import run, scp
from lazycluster._ssh.options import Version, ssh_version
from lazycluster.connection import CommandResult
from lazycluster.exceptions import (
    CommandError,
    ConnectError,
    ConnectionLostError,
    InvalidRuntimeError,
    LazyclusterError,
    PythonNotFoundError,
    SshError,
    StepTimeoutError,
    TaskExecutionError,
)
from support.hosts import commands
from support.managers import control_folder, guards, logins, sshs
from support.processes import await_gone, await_recorded, end, is_alive, recorded
from support.programs import lost_statuses
from support.waiting import TIMEOUT, wait_until

SSH = ssh_version()

ODD = [
    "plain",
    "a b",
    " blanks ",
    "*",
    "?",
    "[a]",
    "back\\slash",
    "{x,y}",
    "$HOME",
    "`id`",
    'it\'s "so"',
    "-x",
    "~t",
    "co:lon",
    "#!;&|<>()",
    "ü",
    "new\nline",
]


# --- run ---


def test_run_gives_bytes_text_and_exit_status(connect, any_sshd):
    """stdout and stderr apart, exactly as they were written."""
    result = connect(any_sshd).run(r"printf 'a\377\nb'; echo err >&2")
    assert result.stdout_bytes == b"a\xff\nb"
    assert result.stdout == "a\\xff\nb"
    assert (result.stderr_bytes, result.stderr) == (b"err\n", "err\n")
    assert (result.exit_status, result.signal, result.returncode) == (0, None, 0)
    assert isinstance(result, CommandResult)


@pytest.mark.parametrize("status", [1, 3, 127, 254, 255])
def test_run_exit_status_255_is_an_exit_status(connect, any_sshd, status):
    """A CommandError with it, or the result without check; never taken for ssh's own."""
    connection = connect(any_sshd)
    with pytest.raises(CommandError) as caught:
        connection.run(f"echo out; echo err >&2; exit {status}")
    error = caught.value
    assert (error.exit_status, error.signal, error.host) == (status, None, any_sshd.alias)
    assert error.output == "out\nerr\n"
    assert str(status) in str(error)
    assert connection.run(f"exit {status}", check=False).exit_status == status
    assert logins(any_sshd) == 1


def test_run_that_a_signal_ends_has_no_exit_status(connect, any_sshd):
    """ssh does not pass on which signal it was, and a mux client says 255."""
    connection = connect(any_sshd)
    result = connection.run("echo hi; kill -9 $$", check=False)
    assert (result.exit_status, result.signal, result.stdout) == (None, None, "hi\n")
    assert result.returncode == 255
    with pytest.raises(CommandError, match="signal") as caught:
        connection.run("kill -15 $$")
    assert (caught.value.exit_status, caught.value.signal) == (None, None)
    assert connection.run("echo still").stdout == "still\n"


def test_run_of_one_program_that_a_signal_ends_has_no_exit_status(connect, any_sshd):
    """The shell replaces itself by the program, as with plain ssh; 137 is an exit status."""
    connection = connect(any_sshd)
    assert connection.run("sh -c 'kill -9 $$'", check=False).exit_status is None
    assert connection.run("true\nsh -c 'kill -9 $$'", check=False).exit_status is None
    assert connection.run("sh -c 'exit 137'", check=False).exit_status == 137


@pytest.mark.parametrize(
    "text", ["it's", 'a "b" $HOME `id` \\n \\0101', "100%s %b", "a\nb\n\n", "ü ! !! ^a^b", "  x  "]
)
def test_run_takes_the_command_as_it_is(connect, any_sshd, text):
    """The shell that runs it gets exactly these characters."""
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert connect(any_sshd).run(f"printf %s {quoted}\n\n").stdout == text


def test_run_in_the_accounts_shell(connect, any_sshd):
    """As `ssh host command`: the shell is SHELL, the directory the home directory."""
    by_ssh = subprocess.run(
        ["ssh", "-F", any_sshd.config_file, any_sshd.alias, "echo ${0##*/}; pwd"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert connect(any_sshd).run("echo ${0##*/}; pwd").stdout == by_ssh.stdout


def test_run_has_no_input_and_default_signals(connect, any_sshd):
    """Nothing waits for a human, and Ctrl-C's signal is not ignored."""
    result = connect(any_sshd).run("cat; [ ! -e /proc/self/status ] || cat /proc/$$/status")
    ignored = [line for line in result.stdout.splitlines() if line.startswith("SigIgn")]
    for line in ignored:
        assert not int(line.split()[1], 16) & (1 << signal.SIGINT - 1 | 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize("data", ["", "text\n", b"\0\xff\n", bytes(range(256)) * 40000], ids=len)
def test_run_with_input(connect, any_sshd, data):
    """All of it, and then its end."""
    expected = data.encode() if isinstance(data, str) else data
    assert connect(any_sshd).run("cat", input=data).stdout_bytes == expected


@pytest.mark.parametrize("command", ["true", "head -c 3", "exec <&-; exec sleep 0.1"])
def test_run_with_input_that_is_not_read(connect, any_sshd, command):
    connection = connect(any_sshd)
    connection.run(command, input=bytes(10_000_000))
    assert connection.run("cat", input="next").stdout == "next"


def test_run_with_input_that_is_not_read_is_stopped_in_time(connect, any_sshd, pids):
    connection = connect(any_sshd)
    with pytest.raises(StepTimeoutError):
        connection.run(f"touch {pids}/$$; exec sleep 1000", input=bytes(10_000_000), timeout=2)
    await_gone(recorded(pids))


def test_run_leaves_no_file_of_its_input(connect, own_sshd):
    connection = connect(own_sshd)
    shown = connection.run("ls -A ${TMPDIR:-/tmp}; umask; set -o", input=b"secret").stdout
    assert "lazycluster-" not in shown
    assert shown == connection.run("ls -A ${TMPDIR:-/tmp}; umask; set -o").stdout


def test_run_whose_input_cannot_be_stored_does_not_start(connect, make_sshd, pids):
    sshd = make_sshd(environment={"TMPDIR": "/no/such/folder"})
    connection = connect(sshd)
    with pytest.raises(CommandError, match="/no/such/folder"):
        connection.run(f"touch {pids}/$$", input=b"x")
    assert not recorded(pids)


@pytest.mark.parametrize("data", [3, ["a"], bytearray(b"a")])
def test_run_with_bad_input(connect, sshd, no_process, data):
    with pytest.raises(TypeError, match="input"):
        connect(sshd).run("cat", input=data)


def test_run_ends_what_it_leaves_behind(connect, any_sshd, pids):
    """And does not wait for it; `setsid` is the way out."""
    connection = connect(any_sshd)
    result = connection.run(
        f"sh -c 'touch {pids}/$$; exec sleep 1000' & while ! [ -e {pids}/$! ]; do :; done; echo hi"
    )
    assert result.stdout == "hi\n"
    await_gone(await_recorded(pids, 1))


def test_run_over_the_timeout_is_stopped(connect, any_sshd, pids):
    """A StepTimeoutError with the output so far, and the command and its children have gone."""
    connection = connect(any_sshd)
    with pytest.raises(StepTimeoutError) as caught:
        connection.run(
            f"echo so far; touch {pids}/$$; sh -c 'touch {pids}/$$; exec sleep 1000'; echo no",
            timeout=0.7,
            check=False,
        )
    assert caught.value.output == "so far\n"
    assert caught.value.timeout == 0.7
    await_gone(recorded(pids))
    assert connection.run("echo hi").stdout == "hi\n"


@pytest.mark.parametrize("timeout", [2.0**31 / 1000 + 1, sys.maxsize, 1e300])
def test_run_with_a_timeout_that_the_system_cannot_wait(connect, any_sshd, timeout):
    assert connect(any_sshd).run("echo made", timeout=timeout).stdout == "made\n"


def test_run_over_the_timeout_that_ignores_sigterm_is_killed(connect, any_sshd, pids):
    """Two seconds later."""
    with pytest.raises(StepTimeoutError):
        connect(any_sshd).run(
            f"trap '' TERM; touch {pids}/$$; while :; do sleep 0.1; done", timeout=0.5
        )
    await_gone(await_recorded(pids, 1))


def test_run_ends_with_the_connection(connect, any_sshd, pids):
    """close() while a command runs: it is told so, and the command has gone."""
    connection = connect(any_sshd)
    errors = []

    def run():
        with pytest.raises(ConnectionLostError) as caught:
            connection.run(f"touch {pids}/$$; exec sleep 1000")
        errors.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    (pid,) = await_recorded(pids, 1)
    connection.close()
    thread.join(100)
    assert errors[0].started is True
    await_gone([pid])


def test_run_under_which_the_connection_is_lost(connect, any_sshd, pids):
    """A ConnectionLostError that says that it had started; it is not repeated."""
    connection = connect(any_sshd)
    connection.open()

    def lose():
        await_recorded(pids, 1)
        any_sshd.kill_connections()

    thread = threading.Thread(target=lose)
    thread.start()
    with pytest.raises(ConnectionLostError) as caught:
        connection.run(f"touch {pids}/$$; exec sleep 1000")
    thread.join()
    assert caught.value.started is True
    await_gone(recorded(pids))
    assert len(recorded(pids)) == 1
    assert logins(any_sshd) == 1
    assert connection.run("echo again").stdout == "again\n"
    assert logins(any_sshd) == 2


def test_run_after_a_loss_logs_in_once(connect, any_sshd):
    """The mux client does not log in by itself; the connection does."""
    connection = connect(any_sshd)
    connection.open()
    for pid in sshs(any_sshd):
        os.kill(pid, signal.SIGKILL)
    assert connection.run("echo hi").stdout == "hi\n"
    assert logins(any_sshd) == 2


def test_mux_client_never_logs_in_by_itself(connect, own_sshd):
    """With the control socket gone it fails, and says so."""
    connection = connect(own_sshd)
    connection.open()
    (guard,) = guards(own_sshd)
    os.unlink(f"{control_folder(guard)}/s")
    with pytest.raises(SshError, match="control socket"):
        connection.run("echo hi")
    with pytest.raises(LazyclusterError, match="control socket"):
        connection.forward_local(0, 22)
    assert logins(own_sshd) == 1


def test_f6_run_at_max_sessions_1(connect, make_sshd):
    """An SshError that names MaxSessions; tasks work, and there is no second login."""
    sshd = make_sshd(sshd_config=["MaxSessions 1"])
    connection = connect(sshd)
    with pytest.raises(SshError, match="MaxSessions"):
        connection.run("echo hi")
    with pytest.raises(SshError, match="MaxSessions"):
        connection.send("/etc/passwd", "copy")
    assert commands("echo hi").execute(connection).execution_log == ["hi\n"]
    assert logins(sshd) == 1


def test_run_of_what_cannot_be_run(connect, own_sshd, no_process):
    """A ValueError before any process is started."""
    connection = connect(own_sshd)
    with pytest.raises(ValueError, match="NUL"):
        connection.run("a\0b")
    with pytest.raises(ValueError, match="bytes"):
        connection.run("x" * 200_000)


def test_run_many_at_once(connect, make_sshd):
    """Each gets its own output."""
    connection = connect(make_sshd(sshd_config=["MaxSessions 20"]))
    connection.open()
    results = {}

    def run(number):
        results[number] = connection.run(f"echo {number}; exit {number}", check=False)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[n].exit_status for n in range(15)] == list(range(15))
    assert [results[n].stdout for n in range(15)] == [f"{n}\n" for n in range(15)]


def test_run_with_much_output(connect, any_sshd):
    """Nothing is cut off."""
    result = connect(any_sshd).run(
        "i=0; while [ $i -lt 20000 ]; do echo $i 0123456789 0123456789; i=$((i+1)); done"
    )
    assert len(result.stdout.splitlines()) == 20000


def test_hostile_ssh_config_has_no_say_in_a_client(connect, make_sshd):
    """RequestTTY, RemoteCommand and the like are for the user's own sessions."""
    lines = ["RequestTTY force", "RemoteCommand tmux attach", "LogLevel QUIET", "EscapeChar ~"]
    lines += ["PermitLocalCommand yes", "LocalCommand echo noise", "ControlPersist 10m"]
    sshd = make_sshd(ssh_config=lines)
    assert connect(sshd).run("printf 'a\\nb'; exit 3", check=False) == CommandResult(
        "printf 'a\\nb'; exit 3", b"a\nb", b"", 3
    )


@pytest.mark.parametrize("how", ["ignored", "reaped"])
def test_an_exit_status_that_was_not_read_is_never_0(sshd, tmp_path, how):
    """subprocess takes it for 0 if SIGCHLD is ignored or another thread reaps all children."""
    done = subprocess.run(
        [
            *(sys.executable, lost_statuses.__file__, how),
            *(str(sshd.config_file), sshd.alias, str(tmp_path)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.stdout, done.returncode) == ("good\n", 0), done.stderr


def test_run_by_another_shell(connect, any_sshd):
    """`shell=` is a command line."""
    connection = connect(any_sshd)
    assert connection.run("echo $-$0", shell="/bin/sh -e").stdout[:1] == "e"
    assert connection.run("", shell="sh").stdout == ""
    with pytest.raises(CommandError, match="no/such/shell"):
        connection.run("echo hi", shell="'/no/such/shell'")


@pytest.mark.parametrize("shell", ["", "'", 1])
def test_run_by_what_is_not_a_shell(connect, own_sshd, no_process, shell):
    with pytest.raises(ValueError, match="shell"):
        connect(own_sshd).run("echo hi", shell=shell)


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false"])
def test_run_where_the_accounts_shell_runs_no_commands(shell):
    """Where the server starts the session all the same, as runuser does."""
    with subprocess.Popen(
        ["/bin/sh", "-c", run.session_line(None)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "SHELL": shell},
    ) as process:
        process.stdin.write(run.session_input("echo $0", None))
        process.stdin.flush()
        assert process.stdout.read() == b"/bin/sh\n"


@pytest.mark.parametrize("login_shell", ["/bin/sh", "bash"])
@pytest.mark.parametrize("tools", [["setsid", "sleep"], ["sleep"]], ids=["setsid", "no setsid"])
def test_a_signal_goes_only_to_what_the_session_has_made(tmp_path, pids, tools, login_shell):
    """Not to the process group of a server that makes none for commands."""
    for name in tools:
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    server = (
        'sleep 1000 >/dev/null & echo $!; PATH=$2; export PATH; $3 -c "$1"; echo "$?"; read -r end'
    )
    sleep, touch = shutil.which("sleep"), shutil.which("touch")
    child = f"/bin/sh -c '{touch} {pids}/$$; exec {sleep} 1000'"
    command = f"{touch} {pids}/$$; {child}; exit 5"
    line = run.session_line(command if login_shell == "bash" else None)
    with subprocess.Popen(
        ["/bin/sh", "-c", server, "server", line, str(tmp_path), shutil.which(login_shell) or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "SHELL": "/bin/sh"},
        start_new_session=True,
    ) as process:
        bystander = int(process.stdout.readline())
        process.stdin.write(run.session_input(command, None))
        process.stdin.flush()
        shell, child = sorted(await_recorded(pids, 2))
        process.stdin.close()
        await_gone([shell] if tools == ["sleep"] else [shell, child])
        status = int(process.stdout.readline())
        assert is_alive(bystander)
        assert is_alive(process.pid) or process.wait() >= 0
        end(bystander)
    assert status == 143


# --- a host without Python ---


@pytest.mark.parametrize("python", [None, "/no/such/python"])
def test_f20_host_without_python_can_be_opened(connect, bare_sshd, python):
    """open() and run() work; tasks say that there is no Python, and the connection lives on."""
    connection = connect(bare_sshd, python=python)
    connection.open()
    with pytest.raises(TaskExecutionError) as caught:
        commands("echo hi").execute(connection)
    assert isinstance(caught.value.__cause__, PythonNotFoundError)
    assert python or "python3" in str(caught.value)
    assert connection.run("echo hi").stdout == "hi\n"
    assert logins(bare_sshd) == 1


def test_f20_host_without_python_is_no_runtime(bare_sshd, nothing_left):
    """InvalidRuntimeError, and nothing stays."""
    with pytest.raises(InvalidRuntimeError, match="python3") as caught:
        Runtime(bare_sshd.alias, connection_kwargs={"config_file": bare_sshd.config_file})
    assert isinstance(caught.value.__cause__, PythonNotFoundError)
    nothing_left()


def test_host_without_python_is_left_at_close(connect, bare_sshd, nothing_left):
    """ssh, its folder and the shell that waited there have gone."""
    connection = connect(bare_sshd)
    connection.open()
    connection.close()
    nothing_left()
    connection.close()
    assert connection.run("echo again").stdout == "again\n"


# --- copy ---


@pytest.fixture(params=["sftp", "old protocol"])
def protocol(request, monkeypatch):
    """Either language of scp; the second is what an older scp speaks."""
    if request.param == "old protocol":
        original = scp.scp_argv

        def scp_argv(*arguments, **keywords):
            return original(*arguments, **{**keywords, "sftp": False})

        monkeypatch.setattr(scp, "scp_argv", scp_argv)
    elif Version(8, 7) > SSH:
        pytest.skip("this scp does not speak SFTP")
    return request.param


@pytest.mark.parametrize("name", ODD)
def test_f30_copy_takes_names_literally(connect, own_sshd, tmp_path, protocol, name):
    """To the host and back, beside a file that a pattern would match too."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "a").write_text("another")
    (there / "abc").write_text("another")
    (tmp_path / name).write_text(name)
    connection = connect(own_sshd)
    if "\n" in name and protocol != "sftp":
        with pytest.raises(ValueError, match="line break"):
            connection.send(tmp_path / name, there / name)
        return
    connection.send(tmp_path / name, there / name)
    assert (there / name).read_text() == name
    connection.get(there / name, tmp_path / "back")
    assert (tmp_path / "back").read_text() == name
    assert {path.name for path in there.iterdir()} == {"a", "abc", name}
    assert logins(own_sshd) == 1


def test_copy_a_folder_both_ways(connect, own_sshd, tmp_path, protocol):
    """With its files, modes and times; into a folder that is there under its own name."""
    source = tmp_path / "sou rce"
    (source / "sub*").mkdir(parents=True)
    (source / "sub*" / "file").write_bytes(b"\0\xff" * 100_000)
    (source / "script").write_text("#!/bin/sh\n")
    (source / "script").chmod(0o750)
    os.utime(source / "script", (10**9, 10**9))
    connection = connect(own_sshd)
    connection.send(source, tmp_path / "there")
    connection.get(tmp_path / "there", tmp_path / "back")
    for copy in (tmp_path / "there", tmp_path / "back"):
        assert (copy / "sub*" / "file").read_bytes() == b"\0\xff" * 100_000
        status = (copy / "script").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o750, 10**9)
    connection.send(source, tmp_path / "there")
    assert (tmp_path / "there" / "sou rce" / "script").exists()


def test_copy_to_a_host_without_python(connect, bare_sshd, tmp_path):
    """SFTP needs nothing of the PATH."""
    if Version(8, 7) > SSH:
        pytest.skip("this scp does not speak SFTP")
    (tmp_path / "file").write_text("text")
    connection = connect(bare_sshd)
    connection.send(tmp_path / "file", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "text"


def test_copy_to_a_host_without_sftp(connect, make_sshd, tmp_path):
    """The old protocol is used, by the host's own scp."""
    if Version(8, 7) > SSH:
        pytest.skip("this scp does not speak SFTP")
    sshd = make_sshd(sshd_config=["Subsystem other internal-sftp"])
    (tmp_path / "a b").write_text("text")
    connect(sshd).send(tmp_path / "a b", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "text"


def test_f45_a_fifo_is_refused(connection, tmp_path):
    """scp would wait for its other end, and outlive the connection."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for copy in (
        lambda: connection.send(fifo, "copy"),
        lambda: connection.get("/etc/passwd", fifo),
        lambda: connection.get("/etc/fifo", tmp_path),
    ):
        with pytest.raises(ValueError, match="fifo"):
            copy()


def test_copy_of_what_is_not_there(connect, own_sshd, tmp_path):
    """Here a FileNotFoundError, there an SshError in scp's words; nothing is made."""
    connection = connect(own_sshd)
    with pytest.raises(FileNotFoundError):
        connection.send(tmp_path / "none", "x")
    with pytest.raises(SshError, match="No such file"):
        connection.get(tmp_path / "none", tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_copy_of_a_path_that_cannot_be(connect, own_sshd, path, no_process):
    """A ValueError before any process is started."""
    with pytest.raises(ValueError, match="path"):
        connect(own_sshd).get(path, "x")
    with pytest.raises(ValueError, match="path"):
        connect(own_sshd).send("x", path)


def test_copy_of_a_local_path_with_a_colon(connect, own_sshd, tmp_path, monkeypatch):
    """It is no host's name."""
    monkeypatch.chdir(tmp_path)
    Path("h:x").write_text("text")
    connect(own_sshd).send("h:x", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "text"


def test_copy_over_a_lost_connection(connect, own_sshd, tmp_path):
    """It is found lost, and made again, once."""
    connection = connect(own_sshd)
    transport = connection._open().transport
    own_sshd.kill_connections()
    wait_until(lambda: transport.ended)
    (tmp_path / "file").write_text("text")
    connection.send(tmp_path / "file", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "text"
    assert logins(own_sshd) == 2


def test_unusable_host_is_a_connect_error(own_sshd, connect):
    """run, copy and forward say so as open() does."""
    connection = connect(own_sshd, port=1, connect_timeout=5)
    for use in (
        lambda: connection.run("true"),
        lambda: connection.send("/etc/passwd", "x"),
        lambda: connection.forward_local(0, 22),
    ):
        with pytest.raises(ConnectError):
            use()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "x", True])
def test_a_timeout_that_is_none_is_refused_before_anything_starts(timeout):
    """There is no such host, and none is asked."""
    with pytest.raises(ValueError, match="Invalid timeout"):
        Connection("host.invalid").run("true", timeout=timeout)
