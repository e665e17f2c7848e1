"""Scripts of ours under the environments and the /bin/sh that managers and hosts have.

Debian's dash knows neither TMOUT nor SHELLOPTS; on most other systems /bin/sh is bash or busybox.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest

import loopback_sshd
from lazycluster import Connection
from lazycluster._ssh.scripts import read_script
from support.hosts import commands
from support.namespaces import sh_is, with_files
from support.programs import strange_environment
from support.waiting import TIMEOUT

SHELLS = ["dash", "bash", "posix bash", "busybox"]
OPTIONS = "allexport:errexit:monitor:noclobber:noglob:nounset"
ON_HOST = {
    "TMOUT": "1",
    "SHELLOPTS": OPTIONS,
    "BASHOPTS": "failglob:nocasematch",
    "CDPATH": "/",
    "PS4": "$(exit 1)",
    "LC_ALL": "C",
    "GLOBIGNORE": "*",
}
ON_MANAGER = {
    **ON_HOST,
    "IFS": "/e",
    "BASH_ENV": "/nonexistent/start file",
    "ENV": "/nonexistent/start file",
    **{f"BASH_FUNC_{name}%%": "() { exit 9; }" for name in ("read", "kill", "ls", "rm", "ssh")},
}


def strange(shell, **environment):
    """Return the words before an argv, with which /bin/sh and the environment are others."""
    if shell == "posix bash":
        environment["POSIXLY_CORRECT"] = "1"  # with it bash passes over SHELLOPTS
    files = sh_is(shell.split()[-1])
    # By env: dash, which mounts the files, drops functions of bash.
    return [*with_files(files), "env", *(f"{name}={value}" for name, value in environment.items())]


def manage(sshd, tmp_path, *more, prefix=(), returncode=0):
    """Run the manager."""
    done = subprocess.run(
        [
            *prefix,
            *(sys.executable, strange_environment.__file__),
            *(str(sshd.config_file), sshd.alias, str(tmp_path), *more),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.stdout, done.returncode) == ("good\n", returncode), done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("returncode", [0, -9], ids=["closed", "killed"])
def test_the_environment_of_the_manager_changes_nothing(
    sshd, tmp_path, shell, returncode, nothing_left
):
    """A connection lives longer than TMOUT, and what it leaves is removed."""
    prefix = strange(shell, **ON_MANAGER)
    how = "kill" if returncode else "close"
    manage(sshd, tmp_path, how, prefix=prefix, returncode=returncode)
    nothing_left()


@pytest.fixture(params=SHELLS)
def strange_sshd(request, make_sshd, tmp_path, monkeypatch):
    """Makes an sshd with another /bin/sh and a strange environment; with a PATH if one is given."""
    sshd = tmp_path / "sshd"
    words = [*strange(request.param), loopback_sshd.find_sshd()]
    sshd.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    sshd.chmod(0o755)
    monkeypatch.setattr(loopback_sshd, "find_sshd", lambda: str(sshd))
    more = {"POSIXLY_CORRECT": "1"} if request.param == "posix bash" else {}
    return lambda **others: make_sshd(environment={**ON_HOST, **more, **others})


def test_the_environment_of_the_host_changes_nothing(strange_sshd, tmp_path):
    """The command itself gets it as it is."""
    sshd = strange_sshd()
    manage(sshd, tmp_path)
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        assert connection.run("echo $TMOUT $CDPATH").stdout == "1 /\n"
        (log,) = commands("echo $TMOUT $CDPATH").execute(connection).execution_log
        assert log.endswith("1 /\n")  # behind what a start file of the account prints


def test_the_environment_of_a_host_without_python_changes_nothing(strange_sshd, tmp_path):
    """There the last loop of the bootstrap reads for as long as the connection lives."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cat", "setsid", "sh", "sleep"):
        (tools / name).symlink_to(shutil.which(name) or "")
    manage(strange_sshd(PATH=str(tools)), tmp_path, "no-python")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_environment_does_not_change_the_askpass_program(tmp_path, shell):
    """It prints the answer, and nothing of it to the log."""
    program = tmp_path / "askpass"
    program.write_text("#!/bin/sh\n" + read_script("askpass"))
    program.chmod(0o755)
    for name in ("question", "answer"):
        os.mkfifo(tmp_path / name)
    options = {"SHELLOPTS": f"{OPTIONS}:verbose:xtrace"}
    with subprocess.Popen(
        [*strange(shell, **{**ON_MANAGER, **options}), str(program), "Password: "],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asking:
        question = (tmp_path / "question").read_bytes()
        (tmp_path / "answer").write_bytes(b" a secret\\n \n")
        printed, log = asking.communicate()
    assert question.endswith(b" secret Password: \0")
    assert printed == b" a secret\\n \n"
    assert b"a secret" not in log
