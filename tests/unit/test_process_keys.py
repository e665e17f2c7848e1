"""Process keys: which of their parts says what the process does."""

from __future__ import annotations

import pytest

from lazycluster import Runtime

HOSTS = [
    "my-host",
    "joe@my-host:22",
    "::1",
    "fe80::1%eth0",
    "2001:db8::",
    "joe@::1",
    "ssh://[::1]:22",
]
NAMES = ["a", "a::-R::b", "-L::1::2", "task", "::task::", "a::2", "a\n::-R::b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("host", HOSTS)
def test_a_task_is_a_task_whatever_its_name_and_its_host_contain(host, name):
    key = f"{host}::task::{name}"
    assert Runtime.is_runtime_task_process(key)
    assert not Runtime.is_port_exposure_process(key)


@pytest.mark.parametrize("kind", ["-L", "-R"])
@pytest.mark.parametrize("host", HOSTS)
def test_an_exposure_is_an_exposure_whatever_its_host_contains(host, kind):
    key = f"{host}::{kind}::8080::80"
    assert Runtime.is_port_exposure_process(key)
    assert not Runtime.is_runtime_task_process(key)


@pytest.mark.parametrize(
    "key", ["", "task", "host", "host::other::task", "host::task", "::task::a"]
)
def test_what_is_not_a_key_is_neither(key):
    assert not Runtime.is_runtime_task_process(key)
    assert not Runtime.is_port_exposure_process(key)
