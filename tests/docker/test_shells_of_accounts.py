"""Accounts whose login shell is odd, or none; and their own start files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from lazycluster import Connection, Runtime
from lazycluster.exceptions import ConnectError
from support.containers import DockerHosts

# What each shell reads also when it is given a command.
START_FILES = {"zsh": ".zshenv", "tcsh": ".tcshrc", "fish": ".config/fish/config.fish"}

NO_SHELLS = {
    "nologin": ("/usr/sbin/nologin", "exit status 1 .*not available"),
    "false": ("/bin/false", "exit status 1 "),
    "restricted": ("/bin/rbash", "exit status .*restricted"),
}


@pytest.fixture
def start_file(docker_hosts: DockerHosts) -> Iterator[Callable[[str, str], str]]:
    """Gives the account of a shell a start file, for one test; the alias to log in to."""
    written: list[str] = []

    def write(shell: str, text: str) -> str:
        path = f"/home/{shell}/{START_FILES[shell]}"
        script = 'mkdir -p "${1%/*}"; printf "%s\\n" "$2" >"$1"'
        docker_hosts.exec("bookworm", ["sh", "-c", script, "sh", path, text], user=shell)
        written.append(path)
        return f"{shell}@bookworm"

    yield write
    for path in written:
        docker_hosts.exec("bookworm", ["rm", path])


@pytest.mark.parametrize("shell", START_FILES)
def test_f18_start_file_of_another_shell_may_print(
    shell: str,
    start_file: Callable[[str, str], str],
    make_runtime: Callable[..., Runtime],
    docker_hosts: DockerHosts,
) -> None:
    """What it prints is not taken for an answer."""
    runtime = make_runtime(start_file(shell, "echo Welcome; printf 'no end of line'"))
    runtime.send_file(__file__)
    runtime.cleanup()
    docker_hosts.await_no_process("bookworm", user=shell)


@pytest.mark.parametrize(
    ("shell", "text", "message"),
    [("zsh", "exit 3", "exit status 3")]
    + [(shell, "exec sh", "starts another shell") for shell in START_FILES],
)
def test_f18_start_file_of_another_shell_that_ends_the_login(
    shell: str,
    text: str,
    message: str,
    start_file: Callable[[str, str], str],
    docker_hosts: DockerHosts,
) -> None:
    """One sentence says so. (In tcsh and fish `exit` ends the start file alone.)"""
    host = start_file(shell, text)
    with pytest.raises(ConnectError, match=message):
        Connection(host, config_file=docker_hosts.config_file).open()
    docker_hosts.await_no_process("bookworm", user=shell)


@pytest.mark.parametrize("shell", ["dash", "ash", *START_FILES])
def test_f18_login_shell_that_another_execs_takes_nothing_for_its_script(
    shell: str, start_file: Callable[[str, str], str], docker_hosts: DockerHosts
) -> None:
    """A start file that becomes it ends the login, and none of our text is run.

    fish reads its whole script before it runs any of it, so there the time has to pass.
    """
    host = start_file("zsh", f'[ -n "$AGAIN" ] || AGAIN=1 exec /bin/{shell}')
    says = "within 5 s.*start file" if shell == "fish" else "starts another shell"
    with pytest.raises(ConnectError, match=says):
        Connection(host, config_file=docker_hosts.config_file, connect_timeout=5).open()
    docker_hosts.await_no_process("bookworm", user="zsh")


@pytest.mark.parametrize(("shell", "message"), NO_SHELLS.values(), ids=NO_SHELLS)
def test_f17_account_without_a_shell(shell: str, message: str, docker_hosts: DockerHosts) -> None:
    """One sentence says what came instead, at once."""
    user = f"none-{os.urandom(4).hex()}"
    create = ["useradd", "--create-home", "--shell", shell, "--password", "*", user]
    docker_hosts.exec("bookworm", create)
    try:
        with pytest.raises(ConnectError, match=message) as caught:
            Connection(f"{user}@bookworm", config_file=docker_hosts.config_file).open()
        assert "login shell" in str(caught.value)
        docker_hosts.await_no_process("bookworm", user=user)
    finally:
        docker_hosts.exec("bookworm", ["userdel", "--remove", user])
