"""Use the containers of docker/compose.yaml as hosts: run programs there, cause faults."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from support.waiting import wait_until

REACHABLE = ("bullseye", "bookworm", "trixie", "nopython", "jump")
"""The aliases of the hosts whose sshd has a port on the manager."""

INNER = ("inner1", "inner2")
"""The aliases of the hosts on the private network, behind the jump host."""

USER = "lazy"


class HostProcess(NamedTuple):
    """A process in a container, with its numbers there."""

    pid: int
    parent: int
    user: int
    state: str
    """The letter of proc(5): Z for a zombie."""
    command: str


class DockerHosts:
    """The running containers, one host each, and an ssh_config that knows them by their aliases.

    Args:
        project: The name of the compose project.
        folder: Where to write ssh_config and known_hosts.
        user_key: The private key of the accounts.
        more: Aliases of further hosts on the private network; see `start_host`.

    Attributes:
        aliases: The names of the hosts, as the services are called.
        config_file: The ssh_config.
        known_hosts: The file of the hosts' keys, by alias.
    """

    def __init__(
        self, project: str, folder: Path, user_key: Path, more: Sequence[str] = ()
    ) -> None:
        self._inner = (*INNER, *more)
        self.aliases = (*REACHABLE, *self._inner)
        self.config_file = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        self._user_key = user_key
        listed = docker(
            *("ps", "--no-trunc", "--filter", f"label=com.docker.compose.project={project}"),
            *("--format", '{{.Label "com.docker.compose.service"}} {{.ID}}'),
        ).stdout
        self._containers = dict(line.split() for line in listed.splitlines())
        self._networks: dict[str, list[str]] = {}

    def container(self, alias: str) -> str:
        """Return the id of the host's container."""
        return self._containers[alias]

    def exec(
        self, alias: str, argv: Sequence[str], *, user: str = "root", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the container, without sshd; return its output and exit status."""
        return docker("exec", "--user", user, self.container(alias), *argv, check=check)

    def processes(self, alias: str, *, user: str | None = None) -> list[HostProcess]:
        """Return the container's processes, or the processes of one account.

        Without those that `exec` started. The container needs sh and grep only. A paused container
        does not answer.
        """
        wanted = None if user is None else int(self.exec(alias, ["id", "-u", user]).stdout)
        # The shell becomes grep, so that this is one process; it has no parent in the container.
        show = 'exec grep -aHs "" /proc/[0-9]*/status /proc/[0-9]*/cmdline'
        # grep fails because of those that have ended since the shell listed them.
        output = self.exec(alias, ["sh", "-c", show], check=False).stdout
        fields: dict[int, dict[str, str]] = {}
        for line in output.splitlines():
            match = re.match(r"/proc/(\d+)/(status|cmdline):(?:(\w+):\t)?(.*)", line)
            if match is None:
                continue
            found = fields.setdefault(int(match[1]), {})
            if match[2] == "cmdline":
                found.setdefault("command", match[4].replace("\0", " ").strip())
            elif match[3]:
                found[match[3]] = match[4]
        processes = [
            HostProcess(
                pid,
                int(found["PPid"]),
                int(found["Uid"].split()[0]),
                found["State"][0],
                found.get("command", found["Name"]),
            )
            for pid, found in sorted(fields.items())
            if "Uid" in found  # it ended while it was read
        ]
        return [
            process
            for process in processes
            if (process.pid == 1 or process.parent != 0) and wanted in (None, process.user)
        ]

    def await_no_process(self, alias: str, *, user: str = USER) -> None:
        """Wait until no process of an account is left, not even a zombie or a login."""
        left: list[HostProcess] = []

        def none_left() -> bool:
            left[:] = self.processes(alias, user=user)
            return not left

        wait_until(none_left, lambda: f"left on {alias}: {left}")

    # Faults

    def pause(self, alias: str) -> None:
        """Freeze the container: TCP answers, but no process reads."""
        docker("pause", self.container(alias))

    def unpause(self, alias: str) -> None:
        """Continue a frozen container."""
        docker("unpause", self.container(alias))

    @contextlib.contextmanager
    def paused(self, alias: str) -> Iterator[None]:
        """Freeze the container for a block."""
        self.pause(alias)
        try:
            yield
        finally:
            self.unpause(alias)

    def disconnect(self, alias: str) -> None:
        """Take the container off its networks: packets get no answer."""
        shown = docker(
            *("inspect", self.container(alias), "--format"),
            "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}",
        )
        self._networks[alias] = shown.stdout.split()
        for network in self._networks[alias]:
            docker("network", "disconnect", network, self.container(alias))

    def connect(self, alias: str) -> None:
        """Put it on its networks again; `config_file` gets its port, which may be another."""
        for network in self._networks.pop(alias):
            docker("network", "connect", "--alias", alias, network, self.container(alias))
        self._write_config()

    @contextlib.contextmanager
    def disconnected(self, alias: str) -> Iterator[None]:
        """Take the container off its networks for a block."""
        self.disconnect(alias)
        try:
            yield
        finally:
            self.connect(alias)

    # The start

    def await_answers(self) -> None:
        """Wait until every sshd listens, learn its key from the engine, and log in to each once."""
        keys = []
        for alias in self.aliases:
            self._await_listening(alias)
            # From the container itself, so no key is trusted on first use.
            key = self.exec(alias, ["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout
            keys.append(f"{alias} {key.strip()}\n")
        self.known_hosts.write_text("".join(keys))
        self._write_config()
        for alias in self.aliases:
            run(["ssh", "-F", str(self.config_file), "-o", "BatchMode=yes", "-n", alias, "true"])

    def log(self, alias: str) -> str:
        """Return the log of the container's sshd."""
        return docker("logs", self.container(alias)).stderr

    def _await_listening(self, alias: str) -> None:
        wait_until(lambda: "Server listening on" in self.log(alias), lambda: self.log(alias))

    def _port(self, alias: str) -> str:
        published = docker("port", self.container(alias), "22/tcp").stdout
        return published.split()[0].rpartition(":")[2]

    def _write_config(self) -> None:
        lines = []
        for alias in REACHABLE:
            if alias not in self._networks:
                lines += [f"Host {alias}", "HostName 127.0.0.1", f"Port {self._port(alias)}"]
                lines += [f"HostKeyAlias {alias}"]
        for alias in self._inner:
            lines += [f"Host {alias}", f"HostKeyAlias {alias}", "ProxyJump jump"]
        lines += [
            "Host *",
            f"User {USER}",
            f'IdentityFile "{self._user_key}"',
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f'UserKnownHostsFile "{self.known_hosts}"',
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
        ]
        # At once, because a Pool may log in meanwhile.
        new = self.config_file.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        os.replace(new, self.config_file)


def run(argv: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, for 200 seconds at most; fail with what it printed."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=200,
    )
    assert done.returncode == 0 or not check, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run docker's command line."""
    return run(["docker", *arguments], check=check)


def start_host(
    project: str, alias: str, network: str, release: str, user_key: Path, *command: str
) -> str:
    """Start one more container as a host, with the labels of compose; return its id.

    The caller removes it before the networks are.

    Args:
        project: The name of the compose project.
        alias: Its service name, its host name, and its name on the network.
        network: The network, as compose.yaml calls it.
        release: Of Debian.
        user_key: The private key of the accounts.
        *command: What to run there in place of the image's own command.
    """
    labels = {"project": project, "service": alias}
    public_key = Path(f"{user_key}.pub").read_text().strip()
    started = docker(
        *("run", "--detach", "--init", "--hostname", alias),
        *("--network", f"{project}_{network}", "--network-alias", alias),
        *("--env", f"AUTHORIZED_KEY={public_key}"),
        *(f"--label=com.docker.compose.{name}={value}" for name, value in labels.items()),
        *(f"lazycluster-host:{release}", *command),
    )
    return started.stdout.strip()


def remove_project(project: str) -> None:
    """Remove the containers and networks of a compose project; keep its images."""
    label = f"label=com.docker.compose.project={project}"
    containers = docker("ps", "--all", "--quiet", "--filter", label).stdout.split()
    if containers:
        docker("rm", "--force", "--volumes", *containers)
    networks = docker("network", "ls", "--quiet", "--filter", label).stdout.split()
    if networks:
        docker("network", "rm", *networks)
