"""Fixtures of many hosts on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Pool
from loopback_sshd import LoopbackSshd

PATIENT = {"connect_timeout": 150}  # seconds; a loaded computer is not a fault


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an ssh_config: a name for each sshd, or for nothing (None)."""

    def write(**hosts: LoopbackSshd | None) -> Path:
        path = tmp_path / "config-of-many-hosts"
        path.write_text("\n".join(_block(name, sshd) for name, sshd in hosts.items()))
        return path

    return write


def _block(name: str, sshd: LoopbackSshd | None) -> str:
    if sshd is None:
        return f"Host {name}\nHostName 127.0.0.1\nPort 1\n"  # nobody listens there
    return sshd.config_file.read_text().replace(f"Host {sshd.alias}\n", f"Host {name}\n")


@pytest.fixture
def make_pool(config_for: Callable[..., Path]) -> Iterator[Callable[..., Pool]]:
    """Return a function that makes Pools of hosts as for `config_for`, shut down after the test."""
    with ExitStack() as stack:

        def make(*, slots: Any = 2, retries: int = 0, **hosts: LoopbackSshd | None) -> Pool:
            keywords = {**PATIENT, "config_file": config_for(**hosts)}
            pool = Pool(list(hosts), slots=slots, retries=retries, connection_kwargs=keywords)
            stack.callback(pool.shutdown, cancel_futures=True)
            return pool

        yield make
