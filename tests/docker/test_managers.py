"""Managers with other releases of OpenSSH and Python: each in a container of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cloudpickle
import pytest

import lazycluster
from lazycluster._ssh.options import Version, parse_version
from support.containers import USER, DockerHosts, docker, start_host
from support.programs import hazards, killed_manager
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

FOLDER = "/opt/manager"
"""What a manager needs; no package is installed there."""

HOME = f"/home/{USER}"
ENVIRONMENT = {
    "HOME": HOME,
    "LAZYCLUSTER_HOME": f"{HOME}/lazycluster",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": FOLDER,
}

# Besides the hosts of compose.yaml, which have their names on the network, itself under many names.
COMMON = f"""\
User {USER}
StrictHostKeyChecking yes
Host hazard-*
HostName 127.0.0.1
HostKeyAlias self
Host inner1
ProxyJump jump
"""


class Manager:
    """A container that is a manager, and a host of its own.

    Attributes:
        hosts: All hosts, and this one under `alias`.
        version: Of its OpenSSH.
    """

    def __init__(self, release: str, project: str, user_key: Path) -> None:
        self.alias = f"manager-{release}"
        start_host(project, self.alias, "default", release, user_key)
        self.hosts = DockerHosts(project, user_key.parent, user_key)
        self.version: Version
        self._user_key = user_key

    def set_up(self, known_hosts: str) -> None:
        """Give it the library, the key and the keys of all hosts."""
        self.exec(["mkdir", "-p", FOLDER, f"{HOME}/.ssh", f"{HOME}/sockets"])
        for source in (
            *(Path(module.__file__ or "").parent for module in (lazycluster, cloudpickle)),
            *(hazards.__file__, killed_manager.__file__),
        ):
            self.copy(source, FOLDER)
        self.copy(self._user_key, f"{HOME}/.ssh/id_ed25519")
        self.exec(["chown", "-R", USER, f"{HOME}/.ssh", f"{HOME}/sockets"])
        key = "/etc/ssh/ssh_host_ed25519_key.pub"
        wait_until(lambda: self.succeeds(["test", "-s", key]), lambda: f"no {key}")
        own = self.exec(["cat", key])
        self.write("/etc/ssh/ssh_known_hosts", f"{known_hosts}self {own}")
        listening = "Server listening on"
        wait_until(lambda: listening in self.hosts.log(self.alias), lambda: f"never {listening}")
        self.version = parse_version(self.exec(["sh", "-c", "ssh -V 2>&1"]))

    def exec(self, argv: list[str]) -> str:
        """Run a program there as root; what it printed."""
        return self.hosts.exec(self.alias, argv).stdout

    def succeeds(self, argv: list[str]) -> bool:
        """Run a program there as root; whether it succeeded."""
        return self.hosts.exec(self.alias, argv, check=False).returncode == 0

    def copy(self, source: str | Path, target: str) -> None:
        """Copy a file or folder there."""
        docker("cp", str(source), f"{self.hosts.container(self.alias)}:{target}")

    def write(self, path: str, text: str) -> None:
        """Write a file there, for all to read."""
        self.exec(["sh", "-c", 'printf %s "$1" >"$2"; chmod 644 "$2"', "sh", text, path])

    def python(self, script: str, *arguments: str, detach: bool = False) -> str:
        """Run a script there as the user, without a terminal; its output."""
        done = subprocess.run(
            [
                *("docker", "exec", "--user", USER, *(["--detach"] if detach else [])),
                *(f"--env={name}={value}" for name, value in ENVIRONMENT.items()),
                self.hosts.container(self.alias),
                # With a parent in the container, so that it is among the processes.
                *("sh", "-c", '"$@" & wait "$!"', "sh"),
                *("python3", f"{FOLDER}/{Path(script).name}", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def remove(self) -> None:
        """Remove the container."""
        docker("rm", "--force", "--volumes", self.hosts.container(self.alias))


@pytest.fixture(scope="module", params=["bullseye", "trixie"])
def manager(
    request: pytest.FixtureRequest,
    docker_hosts: DockerHosts,
    docker_compose_project_name: str,
    user_key: Path,
) -> Iterator[Manager]:
    with ExitStack() as stack:
        manager = Manager(request.param, docker_compose_project_name, user_key)
        stack.callback(manager.remove)
        manager.set_up(docker_hosts.known_hosts.read_text())
        yield manager


@pytest.mark.parametrize("path", [f"{HOME}/.ssh/config", "/etc/ssh/ssh_config"])
def test_f46_no_setting_changes_a_result(path: str, manager: Manager) -> None:
    """Where ssh finds it by itself, in the user's file and in the computer's."""
    text = hazards.config(COMMON, busy=22, folder=f"{HOME}/sockets", version=manager.version)
    manager.exec(["rm", "-f", f"{HOME}/.ssh/config", "/etc/ssh/ssh_config"])
    manager.write(path, text)
    aliases = [hazard.alias for hazard in hazards.known_hazards(manager.version)]
    wrong = json.loads(manager.python(hazards.__file__, "--one-session", *aliases))
    assert wrong == dict.fromkeys(aliases)
    assert manager.exec(["ls", f"{HOME}/sockets"]) == ""
    manager.hosts.await_no_process(manager.alias)


def test_every_release_works_with_every_other(manager: Manager) -> None:
    """Commands, files and ports; functions need the same Python."""
    manager.write(f"{HOME}/.ssh/config", COMMON)
    aliases = ["bullseye", "bookworm", "trixie", "inner1"]
    options = ["--no-functions", "--one-session"]
    wrong = json.loads(manager.python(hazards.__file__, *options, *aliases))
    assert wrong == dict.fromkeys(aliases)


def test_f10_a_killed_manager_leaves_nothing(manager: Manager) -> None:
    """No process, on either side, and no control folder."""
    manager.write(f"{HOME}/.ssh/config", COMMON)
    config_file = f"{HOME}/.ssh/config"
    manager.python(killed_manager.__file__, "bookworm", config_file, detach=True)
    hosts = manager.hosts
    sleeps = {"sleep 1001", "sleep 1002", "sleep 1003"}

    def missing() -> set[str]:
        return sleeps - {process.command for process in hosts.processes("bookworm", user=USER)}

    wait_until(lambda: not missing(), lambda: f"not on bookworm: {missing()}")
    (python,) = (
        process.pid
        for process in hosts.processes(manager.alias, user=USER)
        if process.command.startswith("python3 ")
        and Path(killed_manager.__file__).name in process.command
    )
    assert manager.exec(["sh", "-c", "ls -d /tmp/lazycluster-*"])
    manager.exec(["sh", "-c", f"kill -KILL {python}"])
    hosts.await_no_process("bookworm")
    hosts.await_no_process(manager.alias)
    assert not manager.succeeds(["sh", "-c", "ls -d /tmp/lazycluster-*"])
