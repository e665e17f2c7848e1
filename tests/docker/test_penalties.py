"""F5 against an sshd that shuts out who has failed before (PerSourcePenalties, since 9.8)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Connection
from lazycluster._conversation import login
from lazycluster._ssh.master import Master
from lazycluster.exceptions import AuthenticationError, ConnectError
from support.containers import DockerHosts, docker

HOST = "trixie"
PORT = 2222
PID_FILE = "/run/strict-sshd.pid"


@pytest.fixture
def strict(docker_hosts: DockerHosts) -> Iterator[dict[str, Any]]:
    """A second sshd on the host, with penalties for five minutes; how to connect to it."""
    address = docker(
        *("inspect", docker_hosts.container(HOST), "--format"),
        "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
    ).stdout.split()[0]
    options = [
        f"Port={PORT}",
        f"PidFile={PID_FILE}",
        "HostKey=/etc/ssh/ssh_host_ed25519_key",
        "PerSourcePenalties=authfail:300s min:1s max:600s",
    ]
    argv = ["/usr/sbin/sshd", *(word for option in options for word in ("-o", option))]
    docker_hosts.exec(HOST, argv)
    # It is there when it listens. To look at the port would be a login that fails.
    waits = f"for _ in $(seq 600); do [ -s {PID_FILE} ] && exit; sleep 0.1; done; exit 1"
    docker_hosts.exec(HOST, ["sh", "-c", waits])
    try:
        yield {
            "config_file": str(docker_hosts.config_file),
            "port": PORT,
            "options": {"HostName": address},
        }
    finally:
        docker_hosts.exec(HOST, ["sh", "-c", f"kill $(cat {PID_FILE}) && rm -f {PID_FILE}"])


def test_f5_a_penalty_is_told_and_not_made_longer(
    strict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key is not tried again; who is shut out for it gets a few tries, and the cause."""
    made: list[str] = []
    original = Master.__init__

    def init(self: Master, settings: Any, *arguments: Any) -> None:
        made.append(settings.host)
        original(self, settings, *arguments)

    monkeypatch.setattr(Master, "__init__", init)
    monkeypatch.setattr(login, "BACK_OFF", (0.01, 0.01))
    with Connection(HOST, **strict):
        pass  # the host is there, and lets in

    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    config = tmp_path / "config"
    text = Path(strict["config_file"]).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("IdentityFile")]
    config.write_text("\n".join(lines))
    made.clear()
    with pytest.raises(AuthenticationError):
        Connection(HOST, **{**strict, "config_file": str(config)}, identity_file=key).open()
    assert len(made) == 1

    made.clear()
    with pytest.raises(ConnectError, match="PerSourcePenalties"):
        Connection(HOST, **strict).open()
    assert len(made) == 3
