"""Fixtures of groups: several names of one sshd, and sshds that fail."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lazycluster import RuntimeGroup
from loopback_sshd import LoopbackSshd, find_sshd

HOSTS = ["web1", "web2", "web3"]
"""Names of one sshd, so that nothing but logins and Runtimes are different."""

REFUSED = "Host refused\n  HostName 127.0.0.1\n  Port 1\n"
"""A host that refuses connections."""

ConfigOf = Callable[..., str]


@pytest.fixture(scope="module")
def config_of(tmp_path_factory: pytest.TempPathFactory) -> ConfigOf:
    """Return a function that writes an ssh_config with names of sshds, and returns its path."""

    def write(more: str = "", first: str = "", **names: LoopbackSshd) -> str:
        texts = [first]
        for name, sshd in names.items():
            text = sshd.config_file.read_text()
            texts.append(text.replace(f"Host {sshd.alias}", f"Host {name.replace('_', ' ')}", 1))
        path = tmp_path_factory.mktemp("config") / "ssh_config"
        path.write_text("".join(texts) + more)
        return str(path)

    return write


@pytest.fixture(scope="module")
def config(sshd: LoopbackSshd, config_of: ConfigOf) -> str:
    """Return an ssh_config that knows HOSTS, localhost and a host that refuses."""
    return config_of(REFUSED, web1_web2_web3_localhost=sshd)


@pytest.fixture(scope="module")
def group(config: str) -> Iterator[RuntimeGroup]:
    """Return the group of all tests of a module, which leave it as it is."""
    with RuntimeGroup(hosts=HOSTS, config_file=config, connect_timeout=150) as group:
        yield group


@pytest.fixture
def make_group(config: str) -> Iterator[Callable[..., RuntimeGroup]]:
    """Return a function that makes groups for one test, with the arguments of RuntimeGroup."""
    with ExitStack() as stack:

        def make(*arguments: Any, **keywords: Any) -> RuntimeGroup:
            if "hosts" in keywords:
                keywords = {"config_file": config, "connect_timeout": 150, **keywords}
            group = RuntimeGroup(*arguments, **keywords)
            stack.callback(group.cleanup)
            return group

        yield make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the current one for the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def far_config(sshd: LoopbackSshd, config_of: ConfigOf) -> str:
    """Return an ssh_config with far1 to far3, each login of which has ports of its own.

    It is a network namespace with an sshd that serves the login alone. localhost is the manager.
    """
    probe = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], check=False)
    if probe.returncode != 0:
        pytest.skip("no network namespace can be made")
    config = sshd.folder / "sshd_config"
    server = f"ip link set lo up && exec {find_sshd()} -i -f {config}"
    far = "".join(
        f"Host {name}\n  ProxyCommand unshare --net sh -c '{server}'\n"
        for name in ("far1", "far2", "far3")
    )
    return config_of(REFUSED, far, far1_far2_far3_localhost=sshd)


@pytest.fixture
def far_group(far_config: str) -> Iterator[RuntimeGroup]:
    """Return a group of far1, far2 and localhost."""
    hosts = ["far1", "far2", "localhost"]
    with RuntimeGroup(hosts=hosts, config_file=far_config, connect_timeout=150) as group:
        yield group
