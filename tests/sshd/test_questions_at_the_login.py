"""What ssh asks at a login: answered by passphrase=, by a person at a terminal, or not at all.

Passwords are in tests/docker: they need accounts that have one.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lazycluster import Connection
from lazycluster._ssh.options import PROMPTS_NAME_HOSTS, ssh_version
from lazycluster.exceptions import AuthenticationError, ConnectionLostError, HostKeyError
from support.managers import await_nothing_on_manager, logins
from support.waiting import TIMEOUT, wait_until

# What another run of these tests tells its ssh-keygen is not ours.
PASSPHRASE = 'a phrase, $with "quotes" and \\backslashes\\' + os.urandom(4).hex()


@pytest.fixture
def config(own_sshd, tmp_path):
    """An ssh_config for `sshd` whose key has a passphrase."""
    key = tmp_path / "locked_key"
    shutil.copy(own_sshd.user_key, key)
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-f", key, "-P", "", "-N", PASSPHRASE], check=True)
    text = Path(own_sshd.config_file).read_text().replace(str(own_sshd.user_key), str(key))
    assert str(key) in text
    path = tmp_path / "config"
    path.write_text(text)
    return path


# --- passphrase= ---


def test_f4_a_passphrase_opens_a_key(own_sshd, config):
    with Connection(own_sshd.alias, config_file=config, passphrase=PASSPHRASE) as connection:
        assert connection.run("echo in").stdout == "in\n"


def test_f4_a_passphrase_opens_a_key_again_after_a_loss(own_sshd, config):
    """No question has to be asked."""
    with Connection(own_sshd.alias, config_file=config, passphrase=PASSPHRASE) as connection:
        connection.open()
        transport = connection._start().transport
        own_sshd.kill_connections()
        assert transport.wait_until_ended(TIMEOUT)
        assert connection.run("echo in").stdout == "in\n"


def test_f4_a_wrong_passphrase_is_an_authentication_error(own_sshd, config):
    with pytest.raises(AuthenticationError, match="passphrase right") as told:
        Connection(own_sshd.alias, config_file=config, passphrase="open barley").open()
    assert "barley" not in str(told.value)
    await_nothing_on_manager(SimpleNamespace(config_file=config))


def test_f4_without_a_passphrase_it_fails_with_the_cure(own_sshd, config):
    with pytest.raises(AuthenticationError, match=r"passphrase=.*interactive=True"):
        Connection(own_sshd.alias, config_file=config).open()


@pytest.mark.skipif(
    ssh_version() < PROMPTS_NAME_HOSTS,
    reason="this ssh does not mark a host's questions, so a jump host could ask for the secret",
)
def test_f4_a_passphrase_opens_the_key_of_a_jump_host(own_sshd, config, tmp_path):
    """Its ssh asks by the same program."""
    jump = tmp_path / "jump"
    jump.write_text(
        config.read_text()
        + f"\nHost behind\nHostName 127.0.0.1\nPort {own_sshd.port}\nProxyJump {own_sshd.alias}\n"
        + "".join(line + "\n" for line in config.read_text().splitlines()[3:])
    )
    with Connection("behind", config_file=jump, passphrase=PASSPHRASE) as connection:
        assert connection.run("echo in").stdout == "in\n"


def test_an_unknown_host_key_is_never_accepted_by_itself(own_sshd, config, tmp_path):
    """ssh asks for that as it asks for a passphrase."""
    unknown = tmp_path / "unknown"
    unknown.write_text(
        f'UserKnownHostsFile "{tmp_path}/nobody"\nStrictHostKeyChecking ask\n' + config.read_text()
    )
    with pytest.raises(HostKeyError):
        Connection(own_sshd.alias, config_file=unknown, passphrase=PASSPHRASE).open()
    assert not (tmp_path / "nobody").exists()


def test_a_passphrase_stands_nowhere_else(own_sshd, config):
    """Not in an argv or environment of ours on either side, in a file, or in a repr."""
    with Connection(own_sshd.alias, config_file=config, passphrase=PASSPHRASE) as connection:
        folder = Path(connection._start().transport.master.folder)
        places = [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]
        places += [path for path in folder.iterdir() if path.is_file()]
        for place in places:
            try:
                assert PASSPHRASE.encode() not in place.read_bytes(), place
            except OSError:  # it has ended, or belongs to another user
                continue
        assert not {"askpass", "question", "answer"} & set(os.listdir(folder))
        assert "phrase," not in repr(connection)
        assert "phrase," not in repr(vars(connection))


# --- a person ---

MANAGER = """
import sys, time
from lazycluster import Connection
host, config = sys.argv[1:]
connection = Connection(host, config_file=config, interactive=True)
connection.open()
print("[open]", flush=True)
for line in sys.stdin:
    try:
        exec(line)
    except BaseException as error:
        print("[%s] %s" % (type(error).__name__, error), flush=True)
"""


class Terminal:
    """A program at a terminal of its own, and a person who types there."""

    def __init__(self, *arguments):
        pid, self._fd = pty.fork()
        if pid == 0:
            try:
                os.execv(sys.executable, [sys.executable, "-c", MANAGER, *arguments])
            finally:
                os._exit(1)
        self.pid = pid
        self.shown = ""

    def expect(self, text):
        """Wait until it is shown, and forget all up to that."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.shown:
            ready = select.select([self._fd], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"not shown: {text!r}, but {self.shown!r}"
            try:
                data = os.read(self._fd, 4096)
            except OSError:  # no process has the terminal open any more
                data = b""
            assert data, f"ended without {text!r}, but with {self.shown!r}"
            self.shown += data.decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text):
        os.write(self._fd, text.encode())

    def end(self):
        """Close the terminal, and wait for the program."""
        os.close(self._fd)
        try:
            wait_until(lambda: os.waitpid(self.pid, os.WNOHANG)[0])
        except BaseException:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise


@pytest.fixture
def terminal(own_sshd):
    made, used = [], []

    def start(config):
        used.append(config)
        made.append(Terminal(own_sshd.alias, str(config)))
        return made[-1]

    yield start
    for each in made:
        each.end()
    for config in used:
        await_nothing_on_manager(SimpleNamespace(config_file=config))


def test_f4_a_person_is_asked_for_a_passphrase(terminal, config):
    """It is not shown."""
    at = terminal(config)
    at.expect("Enter passphrase for key")
    at.expect(": ")
    at.type(PASSPHRASE + "\n")
    assert "phrase" not in at.expect("[open]")
    at.type("print(connection.run('echo in').stdout)\n")
    at.expect("in\r\n")


def test_f4_a_person_may_trust_a_host_key(terminal, own_sshd, config, tmp_path):
    """The answer is shown, and known_hosts has the key then."""
    unknown = tmp_path / "unknown"
    unknown.write_text(
        f'UserKnownHostsFile "{tmp_path}/new hosts"\nStrictHostKeyChecking ask\n'
        + Path(own_sshd.config_file).read_text()
    )
    at = terminal(unknown)
    assert "authenticity of host" in at.expect("(yes/no/[fingerprint])?")
    at.type("yes\n")
    assert "yes" in at.expect("[open]")
    assert (tmp_path / "new hosts").stat().st_size


def test_f11_ctrl_c_ends_the_question_and_the_login(terminal, own_sshd, config):
    at = terminal(config)
    at.expect("Enter passphrase for key")
    at.expect(": ")
    at.type("\x03")
    at.expect("KeyboardInterrupt")
    await_nothing_on_manager(SimpleNamespace(config_file=config))


def test_f11_ctrl_c_after_the_login_leaves_the_connection(terminal, own_sshd, config):
    at = terminal(config)
    at.expect(": ")
    at.type(PASSPHRASE + "\n")
    at.expect("[open]")
    at.type("print('[sleeps]', flush=True); time.sleep(600)\n")
    at.expect("[sleeps]\r\n")
    at.type("\x03")
    at.expect("[KeyboardInterrupt]")
    at.type("print(connection.run('echo still in').stdout)\n")
    at.expect("still in\r\n")
    assert logins(own_sshd) == 1


def test_f4_it_is_not_opened_again_by_itself(terminal, own_sshd, config):
    """The question times out. The next open() asks again."""
    at = terminal(config)
    at.expect(": ")
    at.type(PASSPHRASE + "\n")
    at.expect("[open]")
    at.type("transport = connection._start().transport; print('[seen]', flush=True)\n")
    at.expect("[seen]\r\n")
    own_sshd.kill_connections()
    at.type("transport.wait_until_ended(60)\n")
    at.type("connection.run('true')\n")
    assert ConnectionLostError.__name__ in at.expect("Call open()")
    at.type("connection.open(); print('[again]')\n")
    at.expect("Enter passphrase for key")
    at.expect(": ")
    at.type(PASSPHRASE + "\n")
    at.expect("[again]\r\n")


def test_f4_without_a_terminal_it_says_so(own_sshd, config):
    """In a service, or under cron."""
    done = subprocess.run(
        [sys.executable, "-c", MANAGER, own_sshd.alias, config],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=TIMEOUT,
    )
    assert "AuthenticationError" in done.stderr
    assert "there is no terminal to ask at" in done.stderr
    await_nothing_on_manager(SimpleNamespace(config_file=config))
