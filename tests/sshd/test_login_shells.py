"""What runs our line on the host: each login shell will do, and what is none is told as such."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lazycluster import Connection, Runtime
from lazycluster.exceptions import ConnectError, InvalidRuntimeError
from loopback_sshd import LoopbackSshd
from support.hosts import call, run

SHELLS = ("bash", "dash", "busybox sh", "zsh", "ksh", "mksh", "tcsh", "csh", "fish", "xonsh")


@pytest.mark.parametrize("shell", SHELLS)
def test_f17_login_shell(
    shell: str,
    make_sshd: Callable[..., LoopbackSshd],
    make_runtime: Callable[..., Runtime],
    tmp_path: Path,
) -> None:
    """Commands, functions and files."""
    words = shell.split()
    path = shutil.which(words[0])
    if path is None:
        pytest.skip(f"there is no {words[0]}")
    # As sshd runs an account's shell, which needs no account with that shell.
    wrapper = " ".join(["exec", path, *words[1:]]) + ' -c "$SSH_ORIGINAL_COMMAND"'
    sshd = make_sshd(sshd_config=[f"ForceCommand {wrapper}"])
    with Connection(sshd.alias, config_file=sshd.config_file, connect_timeout=150) as connection:
        result = connection.run("printf '%s!' 'a\\b' \"it's\" '*\n'; cat; exit 3", check=False)
        assert (result.stdout, result.exit_status) == ("a\\b!it's!*\n!", 3)
        assert connection.run("cat", input="it's\n").stdout == "it's\n"
    runtime = make_runtime(on=sshd)
    assert run(runtime, "echo hi", "exit 0") == ["hi\n", ""]
    assert call(runtime, os.getcwd) == runtime.working_dir
    (tmp_path / "file").write_text("text")
    runtime.send_file(str(tmp_path / "file"))
    assert run(runtime, "cat file") == ["text"]


NO_SHELL = {
    "nologin": ("/usr/sbin/nologin", "exit status 1 .*not available"),
    "false": ("/bin/false", "exit status 1 "),
    "true": ("/bin/true", "exit status 0 "),
    "a forced command": ("echo Use the portal.; exit 7", "exit status 7 .*Use the portal"),
    "one that says what was asked": (
        'echo "You may not: $SSH_ORIGINAL_COMMAND"; exit 1',
        "exit status 1 .*You may not",
    ),
    "a restricted shell": ('exec bash -r -c "$SSH_ORIGINAL_COMMAND"', "exit status .*restricted"),
    "sftp only": ("internal-sftp", "exit status 1 .*sftp connections only"),
}


@pytest.mark.parametrize(("forced", "message"), NO_SHELL.values(), ids=NO_SHELL)
def test_f17_account_that_runs_no_commands(
    forced: str,
    message: str,
    make_sshd: Callable[..., LoopbackSshd],
) -> None:
    """One sentence says what came instead, at once."""
    if forced.startswith("/") and not os.access(forced, os.X_OK):
        pytest.skip(f"there is no {forced}")
    sshd = make_sshd(sshd_config=[f"ForceCommand {forced}"])
    with pytest.raises(InvalidRuntimeError, match=message) as caught:
        # A timeout would be another message.
        Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file})
    assert type(caught.value.__cause__) is ConnectError
    assert "login shell" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sshd can change its root folder")
@pytest.mark.parametrize("forced", [["ForceCommand internal-sftp"], []], ids=["sftp", "no shell"])
def test_f17_account_in_a_root_folder_without_a_shell(
    forced: list[str],
    make_sshd: Callable[..., LoopbackSshd],
) -> None:
    """As an account for sftp has it."""
    sshd = make_sshd(sshd_config=["ChrootDirectory /var", *forced])
    with pytest.raises(ConnectError, match="exit status 1 ") as caught:
        Connection(sshd.alias, config_file=sshd.config_file).open()
    assert "login shell" in str(caught.value)


def test_f17_command_of_a_key(make_sshd: Callable[..., LoopbackSshd]) -> None:
    """A key in authorized_keys may be for one command only."""
    sshd = make_sshd()
    keys = sshd.folder / "authorized_keys"
    keys.write_text(f'command="echo backup done" {keys.read_text()}')
    with pytest.raises(ConnectError, match=r"exit status 0 .*backup done"):
        Connection(sshd.alias, config_file=sshd.config_file).open()


def test_f17_forced_command_that_reads_for_ever(make_sshd: Callable[..., LoopbackSshd]) -> None:
    """It is given up after connect_timeout."""
    sshd = make_sshd(sshd_config=["ForceCommand echo ready; cat >/dev/null"])
    connection = Connection(sshd.alias, config_file=sshd.config_file, connect_timeout=10)
    with pytest.raises(ConnectError, match=r"did not answer within 10 s.*ready.*forced command"):
        connection.open()
