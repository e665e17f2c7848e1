"""A RuntimeManager at a terminal: hosts for which ssh would ask a person are inactive."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios

import pytest

from support.processes import is_alive
from support.programs import manager_at_a_terminal
from support.waiting import wait_until

TYPED = "yes\nsecret\n"


class Terminal:
    """A program at a terminal of its own, which shows nothing that is typed."""

    def __init__(self, argv):
        ready, begin = os.pipe()
        self.shown = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.close(begin)
                os.read(ready, 1)  # until the lines are typed
                os.execvp(argv[0], argv)
            finally:
                os._exit(1)
        os.close(ready)
        settings = termios.tcgetattr(self._fd)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(self._fd, termios.TCSANOW, settings)
        os.write(self._fd, TYPED.encode())
        os.set_blocking(self._fd, False)
        os.close(begin)

    def shows(self, text):
        """Return True if the terminal has shown a text so far."""
        try:
            self.shown += os.read(self._fd, 4096)
        except OSError:  # there is nothing, or no process has the terminal open any more
            pass
        return text in self.shown

    def has_ended(self):
        has_ended = not is_alive(self.pid)
        self.shows(b"")  # after that, so that nothing is missed
        return has_ended

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def at_terminal():
    made = []

    def start(*argv):
        made.append(Terminal([str(word) for word in argv]))
        return made[-1]

    yield start
    for each in made:
        each.end()


QUESTIONS = {
    "unknown": b"authenticity of host",
    "password": b"password:",
    "locked": b"passphrase for key",
    "behind": b"authenticity of host",
    "proxied": b"authenticity of host",
}
"""What ssh asks for a host of `config_file`, if it is run at a terminal."""


@pytest.fixture
def config_file(sshd, make_sshd, tmp_path):
    """Return an ssh_config of web1, and of hosts for which ssh asks something."""
    locked, password = (
        make_sshd(),
        make_sshd(sshd_config=["PasswordAuthentication yes", "PubkeyAuthentication no"]),
    )
    key = tmp_path / "locked_key"
    shutil.copy(locked.user_key, key)
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-f", key, "-P", "", "-N", "secret"], check=True)
    path = tmp_path / "config"
    unknown = f"UserKnownHostsFile {tmp_path}/none\nStrictHostKeyChecking ask\nUser another\n"
    own = f"ssh -F {path} -W %h:%p unknown"
    blocks = {
        "web1": (sshd, ""),
        "unknown": (sshd, unknown),
        "password": (password, ""),
        "locked": (locked, f"IdentityFile {key}\n"),
        "behind": (sshd, "ProxyJump unknown\n"),
        "proxied": (sshd, f"ProxyCommand {own}\n"),
    }
    text = ""
    for name, (its_sshd, lines) in blocks.items():
        others = its_sshd.config_file.read_text().replace(f"Host {its_sshd.alias}\n", "")
        if name == "locked":
            others = others.replace(f'IdentityFile "{locked.user_key}"\n', "")
        text += f"Host {name}\n{lines}{others}"
    path.write_text(text)
    return path


def test_a_manager_asks_nothing_and_reads_nothing(at_terminal, config_file, tmp_path):
    result = tmp_path / "result"
    program = manager_at_a_terminal.__file__
    terminal = at_terminal(sys.executable, program, config_file, result)
    wait_until(terminal.has_ended)
    assert terminal.shown == b""
    found = json.loads(result.read_text())
    assert found["hosts"] == found["group"] == ["web1"]
    assert list(found["reasons"]) == list(QUESTIONS)
    assert found["typed"] == TYPED
    assert found["settings_are_kept"]
    for host, word in {
        "unknown": "host key",
        "password": "password",
        "locked": "passphrase",
        "behind": "host key",
        "proxied": "host key",
    }.items():
        assert word in found["reasons"][host].lower(), found["reasons"]


@pytest.mark.parametrize("host", QUESTIONS)
def test_ssh_itself_would_ask(at_terminal, config_file, host):
    """So the test above can fail."""
    terminal = at_terminal("ssh", "-F", config_file, host, "true")
    wait_until(lambda: terminal.shows(QUESTIONS[host]), lambda: repr(terminal.shown))
