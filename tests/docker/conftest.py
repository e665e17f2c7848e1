"""The containers of docker/compose.yaml, by pytest-docker, started once for all tests here.

Without an engine, compose or a base image the tests are skipped with the reason; with
LAZYCLUSTER_REQUIRE_DOCKER=1 they fail.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from lazycluster import Runtime
from support.containers import DockerHosts, remove_project, run

FOLDER = Path(__file__).resolve().parents[2] / "docker"
BASE_IMAGES = tuple(f"lazycluster-base:{name}" for name in ("bullseye", "bookworm", "trixie"))
BUILD_TIMEOUT = 2400
"""Seconds for the first test, whose fixtures build the images if they are not there."""


@pytest.hookimpl(trylast=True)  # when it is decided which tests run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.join(os.path.dirname(__file__), "")
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT))
            return


# ── fixtures that pytest-docker reads ─────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def docker_environment() -> Iterator[pytest.MonkeyPatch]:
    """Return the environment of docker's command line, for other fixtures to extend."""
    with pytest.MonkeyPatch.context() as environment:
        # HOME is not the developer's here, but the engine, the log-ins and the plugins are.
        own = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".docker"
        if "DOCKER_CONFIG" not in os.environ and own.is_dir():
            environment.setenv("DOCKER_CONFIG", str(own))
        yield environment


@pytest.fixture(scope="session")
def docker_compose_command(docker_environment: pytest.MonkeyPatch) -> str:
    """Return the command line of compose; skip or fail if something is missing."""
    engine = _attempt("docker", "version", "--format", "{{.Server.Version}}")
    if engine is not None:
        _unavailable(f"no Docker engine: {engine}")
    for image in BASE_IMAGES:
        if _attempt("docker", "image", "inspect", image) is not None:
            _unavailable(f"no image {image}: run `sh docker/make_base_images` first")
    for compose in ("docker compose", "docker-compose"):
        if _attempt(*compose.split(), "version") is None:
            return compose
    return _unavailable("neither `docker compose` nor docker-compose works")


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(FOLDER / "compose.yaml")


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"lazycluster-tests-{os.getpid()}"


@pytest.fixture(scope="session")
def user_key(docker_environment: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the private key of the accounts on all hosts; containers get the public one."""
    folder = Path(tempfile.mkdtemp(prefix="lctest-"))
    key = folder / "user_key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)])
    docker_environment.setenv("LAZYCLUSTER_TEST_KEY", Path(f"{key}.pub").read_text().strip())
    yield key
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def docker_setup(user_key: Path, docker_compose_project_name: str) -> Iterator[list[str]]:
    # Not `up --build`: some services use the image of another, which has to be there before.
    yield ["build", "up --detach --no-build"]
    # Nothing, unless the set-up failed half-way: pytest-docker does not clean up then.
    remove_project(docker_compose_project_name)


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down --volumes --remove-orphans"]


def _attempt(*argv: str) -> str | None:
    """Return None if the command works, else its reason."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit {done.returncode}")


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("LAZYCLUSTER_REQUIRE_DOCKER") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


# ── hosts ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def docker_hosts(
    docker_services: object, docker_compose_project_name: str, user_key: Path
) -> DockerHosts:
    """Return the hosts, all of which answer; a test that changes one undoes it."""
    hosts = DockerHosts(docker_compose_project_name, user_key.parent, user_key)
    hosts.await_answers()
    return hosts


@pytest.fixture
def make_runtime(docker_hosts: DockerHosts) -> Iterator[Callable[..., Runtime]]:
    """Return a function that makes Runtimes for one test, by alias."""
    with ExitStack() as stack:

        def make(alias: str, working_dir: str | None = None, **keywords: Any) -> Runtime:
            keywords = {"config_file": str(docker_hosts.config_file), **keywords}
            runtime = Runtime(alias, working_dir, connection_kwargs=keywords)
            stack.callback(runtime.cleanup)
            return runtime

        yield make
