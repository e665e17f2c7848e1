"""Hosts that let in by a password: it is answered once, and given to the host alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import AuthenticationError
from support.containers import DockerHosts

PASSWORD = "open sesame"
WRONG = "open barley"


@pytest.fixture
def connect(docker_hosts: DockerHosts) -> Iterator[Callable[..., Connection]]:
    with ExitStack() as stack:

        def connect(host: str, **keywords: object) -> Connection:
            keywords.setdefault("config_file", docker_hosts.config_file)
            connection = Connection(host, **keywords)  # type: ignore[arg-type]
            stack.callback(connection.close)
            return connection

        yield connect


@pytest.mark.parametrize(
    ("alias", "account"),  # Debian 11 has PAM ask for the whole sshd or not at all
    [("bullseye", "word"), ("bookworm", "word"), ("bookworm", "pam"), ("trixie", "pam")],
)
def test_f4_a_password_lets_in(
    make_runtime: Callable[..., Runtime], alias: str, account: str
) -> None:
    """By the method "password" and by "keyboard-interactive"."""
    runtime = make_runtime(f"{account}@{alias}", password=PASSWORD)
    task = runtime.execute_task(RuntimeTask().run_command("id -un"), execute_async=False)
    assert task.execution_log == [f"{account}\n"]


@pytest.mark.parametrize("account", ["word", "pam"])
def test_f4_a_wrong_password_is_tried_once(
    docker_hosts: DockerHosts, connect: Callable[..., Connection], account: str
) -> None:
    """Some hosts lock an account after three."""
    before = docker_hosts.log("bookworm")
    with pytest.raises(AuthenticationError, match="not accepted") as told:
        connect(f"{account}@bookworm", password=WRONG).open()
    assert WRONG not in str(told.value)
    log = docker_hosts.log("bookworm")[len(before) :]
    tries = [
        line
        for line in log.splitlines()
        if "Failed password" in line or "PAM: Authentication failure" in line
    ]
    assert len(tries) == 1, log


@pytest.mark.parametrize("account", ["word", "pam"])
def test_f4_without_a_password_it_fails_with_the_cure(
    connect: Callable[..., Connection], account: str
) -> None:
    with pytest.raises(AuthenticationError, match=r"password=.*interactive=True"):
        connect(f"{account}@trixie").open()


def test_f4_the_password_is_not_given_to_a_jump_host(
    docker_hosts: DockerHosts, connect: Callable[..., Connection], tmp_path: Path
) -> None:
    """Which asks for one as well, and may be anybody's."""
    config = tmp_path / "config"
    config.write_text(
        "Host jump\nUser word\nPubkeyAuthentication no\n" + docker_hosts.config_file.read_text()
    )
    before = docker_hosts.log("jump")
    with pytest.raises(AuthenticationError, match=r"jump host.*for the host alone"):
        connect("word@inner1", password=PASSWORD, config_file=config).open()
    assert "Failed password" not in docker_hosts.log("jump")[len(before) :]


def test_f4_a_host_behind_a_jump_host_gets_its_password(
    make_runtime: Callable[..., Runtime],
) -> None:
    runtime = make_runtime("pam@inner1", password=PASSWORD)
    task = runtime.execute_task(RuntimeTask().run_command("id -un"), execute_async=False)
    assert task.execution_log == ["pam\n"]


def test_the_password_stands_nowhere_else(connect: Callable[..., Connection]) -> None:
    """Not in an argv or environment here, nor in the control folder, nor in a repr."""
    connection = connect("word@bookworm", password=PASSWORD)
    connection.open()
    folder = Path(connection._start().transport.master.folder)
    places = [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]
    places += [path for path in folder.iterdir() if path.is_file()]
    for place in places:
        try:
            assert PASSWORD.encode() not in place.read_bytes(), place
        except OSError:  # it has ended, or belongs to another user
            continue
    assert not {"askpass", "question", "answer"} & set(os.listdir(folder))
    assert PASSWORD not in repr(connection)
    assert PASSWORD not in repr(vars(connection))
