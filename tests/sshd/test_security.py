"""Host keys, the control folder, secrets, and what a terminal gets to see."""

from __future__ import annotations

import dataclasses
import glob
import io
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import HostKeyError, LazyclusterError
from support.hosts import commands
from support.machine import needs_link_counts
from support.waiting import wait_until

# ── host keys ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def other_key(tmp_path):
    """The words of a host key that no sshd has."""
    key = tmp_path / "other"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key]
    subprocess.run(argv, check=True)
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture
def host_key_error(sshd, tmp_path):
    """The HostKeyError that a known_hosts with these lines gives; the file stays as it is."""

    def fail(*lines, hashed=False, **options):
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text("".join(f"{line}\n" for line in lines))
        if hashed:
            argv = ["ssh-keygen", "-q", "-H", "-f", known_hosts]
            subprocess.run(argv, check=True, capture_output=True)
            assert "127.0.0.1" not in known_hosts.read_text()
        before = known_hosts.read_bytes()
        options = {"UserKnownHostsFile": str(known_hosts), **options}
        connection = Connection(sshd.alias, config_file=sshd.config_file, options=options)
        with pytest.raises(HostKeyError) as caught:
            connection.open()
        assert known_hosts.read_bytes() == before
        error = caught.value
        assert sshd.alias in str(error)
        if error.known_hosts_file is not None:
            assert error.known_hosts_file == str(known_hosts)
            assert str(known_hosts) in str(error)
        return error

    return fail


@pytest.mark.parametrize("hashed", [False, True], ids=["plain", "hashed"])
def test_f3_changed_host_key_names_the_file_and_the_line(sshd, host_key_error, other_key, hashed):
    """And how to remove it; also where the names are hashed."""
    changed = f"[127.0.0.1]:{sshd.port} {other_key}"
    error = host_key_error(f"other.invalid {other_key}", changed, hashed=hashed)
    assert error.known_hosts_line == 2
    assert "line 2 of" in str(error)
    assert "ssh-keygen -R" in str(error)


def test_f3_unknown_host_key_is_not_accepted(sshd, host_key_error, other_key):
    """The message has the command that accepts it."""
    error = host_key_error(f"other.invalid {other_key}")
    assert "once to accept its host key" in str(error)


@pytest.mark.parametrize("setting", ["yes", "ask"])
def test_f3_unknown_host_key_whatever_the_user_has_set(host_key_error, setting):
    """No question is asked."""
    host_key_error(StrictHostKeyChecking=setting)


def test_f3_revoked_host_key(sshd, host_key_error):
    """By a line of known_hosts."""
    kind_and_key = sshd.known_hosts.read_text().split(None, 1)[1].strip()
    error = host_key_error(f"@revoked * {kind_and_key}")
    assert "revoked" in str(error)


def test_f3_host_key_revoked_by_a_file_of_its_own(sshd, host_key_error, tmp_path):
    """As RevokedHostKeys names it."""
    kind_and_key = sshd.known_hosts.read_text().split(None, 1)[1].strip()
    revoked = tmp_path / "revoked"
    revoked.write_text(f"{kind_and_key}\n")
    line = f"[127.0.0.1]:{sshd.port} {kind_and_key}"
    error = host_key_error(line, RevokedHostKeys=str(revoked))
    assert "revoked" in str(error)


def test_f3_hashed_known_hosts_are_read(sshd, tmp_path):
    """As ssh reads them."""
    known_hosts = tmp_path / "known_hosts"
    shutil.copy(sshd.known_hosts, known_hosts)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known_hosts], check=True, capture_output=True)
    options = {"UserKnownHostsFile": str(known_hosts)}
    with Connection(sshd.alias, config_file=sshd.config_file, options=options) as connection:
        assert connection.run("echo hi").stdout == "hi\n"


def test_f3_what_the_user_decides_about_host_keys_holds(sshd, tmp_path):
    """`accept-new` is theirs to say; then the key is written down."""
    known_hosts = tmp_path / "known_hosts"
    options = {"UserKnownHostsFile": str(known_hosts), "StrictHostKeyChecking": "accept-new"}
    with Connection(sshd.alias, config_file=sshd.config_file, options=options):
        assert f"[127.0.0.1]:{sshd.port} " in known_hosts.read_text()


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def umask_000():
    """The worst umask there is."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes_below(folder):
    """The permission bits of a folder and of all that is in it."""
    paths = [folder, *glob.glob(f"{folder}/**", recursive=True)]
    return {str(path): stat.S_IMODE(os.lstat(path).st_mode) for path in paths}


def test_nobody_else_can_read_what_is_ours_whatever_the_umask(sshd, umask_000):
    """Control folder, socket, log, execution log, the working directory on the host."""
    runtime = Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file})
    try:
        master = runtime._connection._start().transport.master
        modes = modes_below(master.folder)
        assert modes[master.folder] == 0o700
        assert modes[master.control_path] & 0o177 == 0
        assert modes[f"{master.folder}/log"] == 0o600
        task = runtime.execute_task(commands("echo hi"), execute_async=False)
        assert stat.S_IMODE(os.stat(task.execution_log_file_path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(runtime.working_dir).st_mode) == 0o700
    finally:
        runtime.cleanup()


@needs_link_counts
def test_large_values_are_in_a_private_file_without_a_name(sshd, umask_000, runtime):
    """Nothing of it can be found in a folder."""
    before = set(os.listdir(tempfile.gettempdir()))
    task = runtime.execute_function(bytes, source=3 << 20)
    spool = task._last.execution.values.spool
    assert spool._file is not None
    status = os.fstat(spool._file.fd)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 0
    new = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in new if name.startswith("tmp")]


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────


def every_process():
    """Argv and environment of every process but this one's own, by its pid."""
    found = {}
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            argv = Path(folder, "cmdline").read_bytes()
            found[int(folder[6:])] = (argv, Path(folder, "environ").read_bytes())
        except OSError:
            continue
    return found


def test_secrets_are_in_no_argv_environment_log_or_repr(own_runtime, caplog, tmp_path):
    """Only the step itself has its variables; nothing but the step's own output has its value."""
    secret = os.urandom(8).hex()
    caplog.set_level(logging.DEBUG)
    own_runtime.add_env_variables({"TOKEN": secret})
    release = tmp_path / "release"

    def wait(argument, path):
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)
        return argument

    task = RuntimeTask("secrets").run_command('test "$TOKEN" && : # ' + "x")
    task.run_function(wait, argument=secret, path=str(release))
    task.env_variables = {"OTHER": secret}
    own_runtime.execute_task(task)

    def second_step():
        request = task._last.execution._request  # None until the first step is sent
        return request and len(request.outcomes) == 1 and request.pid

    step = wait_until(second_step)
    running = every_process()
    environments = {pid for pid, (_, environ) in running.items() if secret.encode() in environ}
    # A fork's own is that of the supervisor: what was set since is in its memory.
    assert environments <= {step}
    assert not [pid for pid, (argv, _) in running.items() if secret.encode() in argv]
    shown = [repr(thing) for thing in (own_runtime, task, task.process, task._last.execution.log)]
    shown += [repr(step) for step in task.steps]
    release.touch()
    task.join()
    assert list(task.function_returns) == [secret]
    shown += [repr(task), caplog.text, *task.execution_log]
    assert secret not in "".join(shown)


def test_secret_of_a_command_is_in_no_argv_of_the_manager(own_runtime, tmp_path):
    """On the host it is in the argv of the shell, as documented."""
    secret = os.urandom(8).hex()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # The shell itself waits: a fork of it would have the argv too.
    task = own_runtime.execute_task(commands(f": {secret}; read line < {gate}"))
    step = wait_until(lambda: task.process.pid)
    with_it = {pid for pid, (argv, _) in every_process().items() if secret.encode() in argv}
    gate.write_text("go on\n")
    task.join()
    assert task.error is None
    assert with_it <= {step}


def test_no_agent_and_no_display_is_forwarded_by_us(make_sshd, monkeypatch):
    """The user's agent and display stay at home, though the host would take them."""
    sshd = make_sshd(sshd_config=["AllowAgentForwarding yes", "X11Forwarding yes"])
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setenv("DISPLAY", ":0")
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        task = commands('echo "<$SSH_AUTH_SOCK|$DISPLAY|$XAUTHORITY>"').execute(connection)
        assert task.execution_log == ["<||>\n"]
        assert connection.run('echo "<$SSH_AUTH_SOCK|$DISPLAY>"').stdout == "<|>\n"


# ── a hostile host, over ssh ──────────────────────────────────────────────────────────────────────

HOSTILE = """
import json, os, struct, sys
token = next(word for word in sys.argv if word.startswith("lazycluster-"))
os.write(1, (token + " python\\n").encode())
seen = b""
while b'{"steps": [' not in seen:
    data = os.read(0, 65536)
    if not data:
        sys.exit()
    seen += data
def frame(kind, payload):
    return struct.pack(">BII", kind, 1, len(payload)) + payload
os.write(1, frame(17, json.dumps({"step": 0, "pid": 1}).encode()))
os.write(1, SAID)
while os.read(0, 65536):
    pass
"""


@pytest.mark.parametrize(
    "said",
    [
        "b'no sense at all'",
        "frame(18, b'')[:5] + b'x' * 100000",
        "frame(19, struct.pack('>BHHqI', 1, 511, 7, 0, 0) + b'../evil')",
        "frame(19, struct.pack('>BHHqI', 2, 511, 0, 0, 0)"
        " + struct.pack('>BHHqI', 1, 511, 9, 0, 0) + b'/tmp/evil')",
    ],
    ids=["garbage", "half", "name", "absolute"],
)
def test_f47_hostile_program_in_the_place_of_the_supervisor(sshd, tmp_path, said, nothing_left):
    """Over a real ssh: an error with a name, nothing written, and nothing left on either side."""
    program = tmp_path / "hostile.py"
    program.write_text(HOSTILE.replace("SAID", said))
    target = tmp_path / "target"
    target.mkdir()
    python = f"{sys.executable} {program}"
    connection = Connection(sshd.alias, config_file=sshd.config_file, python=python)
    with pytest.raises(LazyclusterError) as caught:
        RuntimeTask().get_file("asked", str(target) + "/").execute(connection)
    assert caught.value.__cause__ is not None
    assert os.listdir(target) == []
    assert not os.path.lexists("/tmp/evil")
    connection.close()
    nothing_left()


# ── terminals ─────────────────────────────────────────────────────────────────────────────────────


class Terminal(io.StringIO):
    """A standard output that says that it is a terminal."""

    def isatty(self):
        return True


EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m"


@pytest.mark.parametrize("output", [Terminal, io.StringIO])
def test_terminal_is_shown_control_characters_and_does_not_obey_them(runtime, monkeypatch, output):
    """But for carriage returns; what is no terminal gets what came, as the log does."""
    task = commands(f"printf '%s\\t\\n' '{EVIL}'", name="evil")
    monkeypatch.setattr(sys, "stdout", output())
    runtime.execute_task(task, execute_async=False, debug=True)
    task.print_log()
    live, heading, indented, rest = sys.stdout.getvalue().split("\n")
    monkeypatch.undo()
    assert heading.isprintable()
    assert rest == ""
    assert task.execution_log == [f"{EVIL}\t\n"]
    if output is Terminal:
        assert live == "\\x1b]0;owned\\x07\\x1b[2J\r\\x9b31m\t"
        assert indented == "   \\x1b]0;owned\\x07\\x1b[2J\r   \\x9b31m\t"
    else:
        assert live == f"{EVIL}\t"
        assert indented == f"   {EVIL}\t"


def test_log_messages_hold_no_control_characters(runtime, caplog):
    """Many logs are read on a terminal."""
    task = commands(f"printf '%s\\n' '{EVIL}' >&2; exit 3", name="evil")
    runtime.execute_task(task)
    task.join()
    assert task.error is not None
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.getMessage().replace("\n", "").isprintable()
    assert "owned" in record.getMessage()
    assert pickle.loads(pickle.dumps(task.error)).output == f"{EVIL}\n"


def test_exception_of_a_function_holds_no_control_characters(runtime):
    """Its message and traceback come from the host."""

    def fail(text):
        raise ValueError(text)

    with pytest.raises(LazyclusterError) as caught:
        runtime.execute_function(fail, text=EVIL)
    cause = caught.value.__cause__
    for error in (caught.value, cause):
        assert str(error).replace("\n", "").isprintable()
    assert cause.exception_message == EVIL


def test_what_is_known_of_a_host_is_printed_likewise(own_runtime, monkeypatch):
    """The host says what its system is called."""
    own_runtime._info = dataclasses.replace(own_runtime._read_info(), os=EVIL)
    monkeypatch.setattr(sys, "stdout", Terminal())
    own_runtime.print_info()
    assert sys.stdout.getvalue().replace("\n", "").isprintable()
