"""What the start files of the account's shell do before our line: print, read, wait, end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from lazycluster import Connection, Runtime
from lazycluster.exceptions import ConnectError, InvalidRuntimeError, StepTimeoutError
from loopback_sshd import LoopbackSshd
from support.hosts import call, run

# sshd has its own HOME, so these are not the developer's: bash reads the first when ssh starts it,
# zsh always reads the second.
START_FILES = (".bashrc", ".zshenv")
pytestmark = pytest.mark.skipif(
    os.path.basename(pwd.getpwuid(os.getuid()).pw_shell) not in ("bash", "zsh"),
    reason="the account's shell reads no such file",
)

HARMLESS = {
    "prints text": "echo Welcome; echo to the host >&2; printf 'no newline'",
    "prints a megabyte": "head -c 1000000 /dev/zero | tr '\\0' x",
    "prints lines on stderr": "seq 20000 >&2",
    "prints escape codes": "printf '\\033]0;owned\\007\\033[2J\\033[?1049h'",
    "prints binary": "head -c 100000 /dev/urandom; printf '\\000\\377lazycluster-'",
    "reads a line": "read -r line",
    "reads eight lines": "for i in 1 2 3 4 5 6 7 8; do read -r line; done",
    "changes its surroundings": "cd /; umask 077; set -u; trap 'echo bye' EXIT; IFS=x",
    "is wrong": "if; then (",
    "sleeps": "sleep 0.2",
}

ENDING = {
    "exits": ("exit 0", "exit status 0 instead of running lazycluster's command"),
    "exits and fails": ("echo 'not today'; exit 3", "exit status 3.*not today"),
    "exits as ssh does": ("exit 255", "exit status 255 or by a signal"),
    "is killed": ("kill -s KILL $$", "exit status 255 or by a signal"),
    "reads nine lines": (
        "for i in 1 2 3 4 5 6 7 8 9; do read -r line; done",
        "standard input before lazycluster's own program",
    ),
    "reads bytes": ("head -c 200 >/dev/null", "standard input before lazycluster's own program"),
    "closes its input": ("exec </dev/null", "standard input before lazycluster's own program"),
    "becomes sh": ("exec sh", "starts another shell"),
    "becomes bash": ("exec bash --norc", "starts another shell"),
    "prints escape codes and exits": (
        "printf '\\033]0;owned\\007sorry \\233\\n'; printf '\\033[2J\\n' >&2; exit 4",
        r"exit status 4.*\\x1b\[2J.*\\x1b\]0;owned\\x07sorry",
    ),
}

# Each ends by itself after the login is given up: its input or output does, or it has slept.
ENDLESS = {
    "reads all of its input": ("echo Your name?; cat >/dev/null", "Your name?"),
    "becomes cat": ("exec cat", "standard input"),
    "prints for ever": ("yes 'no end'", "no end / no end"),
    "sleeps": ("echo hold on; sleep 14", "hold on"),
}


@pytest.fixture
def with_start_file() -> Iterator[Callable[[LoopbackSshd, str], LoopbackSshd]]:
    """Gives the sshd's account a start file, for one test."""
    with ExitStack() as stack:

        def write(sshd: LoopbackSshd, text: str) -> LoopbackSshd:
            for name in START_FILES:
                path = sshd.home / name
                path.write_text(f"{text}\n")
                stack.callback(path.unlink)
            return sshd

        yield write


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_f18_harmless_start_file(
    text: str,
    sshd: LoopbackSshd,
    with_start_file: Callable[[LoopbackSshd, str], LoopbackSshd],
    make_runtime: Callable[..., Runtime],
) -> None:
    """What it does is not taken for an answer, and the value of a function is not touched."""
    runtime = make_runtime(on=with_start_file(sshd, text))
    assert call(runtime, os.getcwd) == runtime.working_dir


def test_f18_commands_have_the_start_file_as_with_ssh(
    sshd: LoopbackSshd,
    with_start_file: Callable[[LoopbackSshd, str], LoopbackSshd],
    make_runtime: Callable[..., Runtime],
) -> None:
    """A command is run by the account's shell, which reads it again."""
    runtime = make_runtime(on=with_start_file(sshd, "GREETING=welcome"))
    assert run(runtime, 'echo "$GREETING"') == ["welcome\n"]


@pytest.mark.parametrize("shell", ["the account's", "zsh"])
@pytest.mark.parametrize("command", ["greet; cat reads", "greet\ncat reads", "greet && cat reads"])
def test_f18_run_reads_the_start_file_once(
    shell: str,
    command: str,
    make_sshd: Callable[..., LoopbackSshd],
    with_start_file: Callable[[LoopbackSshd, str], LoopbackSshd],
) -> None:
    """As plain ssh does, and the command has the functions that it defines."""
    forced = []
    if shell == "zsh":
        path = shutil.which("zsh")
        if path is None:
            pytest.skip("there is no zsh")
        forced = [f'ForceCommand exec {path} -c "$SSH_ORIGINAL_COMMAND"']
    sshd = make_sshd(sshd_config=forced)
    with_start_file(sshd, "cd; echo read >>reads; greet() { echo hello; }")
    argv = ["ssh", "-F", sshd.config_file, sshd.alias, command]
    by_ssh = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        (sshd.home / "reads").unlink()
        assert connection.run(command).stdout_bytes == by_ssh.stdout
    if not forced:
        assert by_ssh.stdout == b"hello\nread\n"


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_f18_run_with_a_harmless_start_file(
    text: str,
    make_sshd: Callable[..., LoopbackSshd],
    with_start_file: Callable[[LoopbackSshd, str], LoopbackSshd],
) -> None:
    """The command runs as with plain ssh, its exit status is its own, and it can be stopped."""
    sshd = with_start_file(make_sshd(), text)
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        result = connection.run("echo done; exit 7", check=False)
        assert "done\n" in result.stdout
        assert result.exit_status == 7
        with pytest.raises(StepTimeoutError):
            connection.run("sleep 1000", timeout=1)


@pytest.mark.parametrize(("text", "message"), ENDING.values(), ids=ENDING)
def test_f18_start_file_that_ends_the_login(
    text: str,
    message: str,
    sshd: LoopbackSshd,
    with_start_file: Callable[[LoopbackSshd, str], LoopbackSshd],
    nothing_left: Callable[[], None],
) -> None:
    """One sentence says what came instead, at once; nothing a terminal obeys is in it."""
    with_start_file(sshd, text)
    with pytest.raises(InvalidRuntimeError, match=message) as caught:
        # A timeout would be another message.
        Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file})
    assert type(caught.value.__cause__) is ConnectError
    assert "start file" in str(caught.value)
    assert str(caught.value).isprintable()
    nothing_left()


def test_f18_start_file_that_never_ends(
    make_sshd: Callable[..., LoopbackSshd],
    with_start_file: Callable[[LoopbackSshd, str], LoopbackSshd],
) -> None:
    """It is given up after connect_timeout, with the likely cause and what came."""

    def log_in(sshd: LoopbackSshd) -> str:
        connection = Connection(sshd.alias, config_file=sshd.config_file, connect_timeout=10)
        with pytest.raises(ConnectError, match="did not answer within 10 s") as caught:
            connection.open()
        return str(caught.value)

    hosts = [with_start_file(make_sshd(), text) for text, _ in ENDLESS.values()]
    with ThreadPoolExecutor(len(hosts)) as pool:  # all at once: each takes the whole time
        messages = list(pool.map(log_in, hosts))
    for message, (_, part) in zip(messages, ENDLESS.values()):
        assert part in message
        assert "start file" in message
        assert message.isprintable()
