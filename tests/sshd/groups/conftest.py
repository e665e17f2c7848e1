"""Fixtures of groups: several names of one sshd, and sshds that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lazycluster import RuntimeGroup
from loopback_sshd import LoopbackSshd

HOSTS = ["web1", "web2", "web3"]
"""Names of one sshd, so that nothing but logins and Runtimes are different."""

REFUSED = "Host refused\n  HostName 127.0.0.1\n  Port 1\n"
"""A host that refuses connections."""

ConfigOf = Callable[..., str]


@pytest.fixture(scope="module")
def config_of(tmp_path_factory: pytest.TempPathFactory) -> ConfigOf:
    """Return a function that writes an ssh_config with names of sshds, and returns its path."""

    def write(more: str = "", **names: LoopbackSshd) -> str:
        texts = []
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
