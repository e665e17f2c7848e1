"""Runtimes on hosts with the libraries of this environment, and on hosts without them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazycluster import Runtime
from loopback_sshd import LoopbackSshd
from support.separate_host import SeparateSshd


@pytest.fixture(scope="session")
def runtime(make_separate_sshd: Callable[..., SeparateSshd]) -> Iterator[Runtime]:
    """Return a Runtime on a host whose Python is this environment's, without local files."""
    sshd = make_separate_sshd(kept=[sys.prefix], path=[Path(sys.prefix) / "bin"])
    with Runtime(sshd.alias, config_file=sshd.config_file) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def bare_runtime(separate_sshd: LoopbackSshd) -> Iterator[Runtime]:
    """Return a Runtime on a host without any library."""
    with Runtime(separate_sshd.alias, config_file=separate_sshd.config_file) as runtime:
        yield runtime
