"""Pool, RuntimeGroup and RuntimeManager over hosts of a private network, some of which fail.

What runs notes that on its host's own disk. What the manager says of it is compared with the notes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lazycluster import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    GroupError,
    InvalidRuntimeError,
    Pool,
    PythonNotFoundError,
    RuntimeGroup,
    RuntimeManager,
)
from lazycluster._pool import worker
from lazycluster.futures import RemoteFuture
from support.containers import INNER, REACHABLE, USER, DockerHosts, docker, start_host
from support.interpreters import OWN_VERSION
from support.waiting import TIMEOUT, wait_until

T = TypeVar("T")

RELEASES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
"""The releases of Debian, by the minor version of their Python, which functions need."""

STEADY = ("steady1", "steady2", "steady3")
SLOW = "slow"
MORTAL = "mortal"
HOSTS = (*STEADY, SLOW, MORTAL)
REFUSING = "refusing"
"""A host whose sshd lets no account in."""

SLOTS = {**dict.fromkeys((*STEADY, SLOW), 2), MORTAL: 8, REFUSING: 12}
"""How many calls each host runs at once. If all are idle, the one with most gets the first."""

PATIENT = {"connect_timeout": 150, "keepalive": 1}  # a cut network is noticed after four seconds


@pytest.fixture(scope="module")
def hosts(
    docker_hosts: DockerHosts,
    docker_compose_project_name: str,
    user_key: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DockerHosts]:
    """Return the hosts of compose, five more on the private network, and one that refuses."""
    if OWN_VERSION not in RELEASES:
        pytest.skip(f"no host here has Python {OWN_VERSION}, which functions need")
    project, more = docker_compose_project_name, (*HOSTS, REFUSING)
    # So that the container goes on without its sshd.
    command = ("sh", "-c", "sh /usr/local/sbin/start; exec sleep infinity")
    started: list[str] = []
    try:
        for alias in more:
            release = RELEASES[OWN_VERSION]
            started.append(start_host(project, alias, "private", release, user_key, *command))
        folder = tmp_path_factory.mktemp("many-hosts")
        hosts = DockerHosts(project, folder, user_key, more)
        hosts.await_answers()
        refuse(hosts, REFUSING)
        yield hosts
    finally:
        docker("rm", "--force", "--volumes", *started)


def refuse(hosts: DockerHosts, host: str) -> None:
    """Make the host let no account in."""
    hosts.exec(host, ["truncate", "--size=0", "/etc/ssh/authorized_keys"])


@contextlib.contextmanager
def letting_in(hosts: DockerHosts, host: str) -> Iterator[None]:
    """Make the host let its accounts in for a block."""
    hosts.exec(host, ["sh", "-c", 'echo "$AUTHORIZED_KEY" >/etc/ssh/authorized_keys'])
    try:
        yield
    finally:
        refuse(hosts, host)


@pytest.fixture(autouse=True)
def _nothing_left(hosts: DockerHosts) -> Iterator[None]:
    """Fail if a login is left on a host, or on the jump host, through which all are reached."""
    yield
    on_each((*HOSTS, REFUSING, "jump"), hosts.await_no_process)


@pytest.fixture
def keywords(hosts: DockerHosts) -> dict[str, Any]:
    """Return the parameters of all logins."""
    return {"config_file": str(hosts.config_file), **PATIENT}


@pytest.fixture
def pool(
    hosts: DockerHosts, keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pool]:
    """Return a Pool that has logged in to all hosts but the one that refuses."""
    monkeypatch.setattr(worker, "LONGEST_REST", 1.0)
    pool = Pool([*HOSTS, REFUSING], slots=SLOTS, connection_kwargs=keywords)
    try:
        for host in HOSTS:
            await_state(pool, host, "ready")
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# ── notes ─────────────────────────────────────────────────────────────────────────────────────────


class Notes:
    """What ran, in a file on each host's own disk."""

    _numbers = itertools.count()

    def __init__(self, hosts: DockerHosts) -> None:
        self._hosts = hosts
        self.path = f"/var/tmp/ran-{next(self._numbers)}"

    def read(self) -> Mapping[str, Counter[str]]:
        """Return how often each line was written, by host."""
        show = ["sh", "-c", '[ ! -e "$1" ] || cat "$1"', "sh", self.path]
        shown = on_each(HOSTS, lambda host: self._hosts.exec(host, show).stdout)
        return {host: Counter(text.split()) for host, text in shown.items()}

    @contextlib.contextmanager
    def hold_one(self, host: str) -> Iterator[None]:
        """Make the next that runs on the host wait for the end of the block."""
        hold, held = f"{self.path}-hold", f"{self.path}-held"
        self._hosts.exec(host, ["install", "--owner", USER, "/dev/null", hold])
        try:
            yield
        finally:
            self._hosts.exec(host, ["rm", "-f", hold, held])


@pytest.fixture
def make_notes(hosts: DockerHosts) -> Callable[[], Notes]:
    return lambda: Notes(hosts)


@pytest.fixture
def notes(make_notes: Callable[[], Notes]) -> Notes:
    return make_notes()


def noted(path: str, line: object) -> str:
    """Note on this host's disk that this runs, take a while, and return the host's own name."""
    host = os.uname().nodename
    with open(path, "a") as file:  # one write with O_APPEND
        file.write(f"{line}\n")
    with contextlib.suppress(FileNotFoundError):
        os.rename(f"{path}-hold", f"{path}-held")
        while os.path.exists(f"{path}-held"):
            time.sleep(0.01)
    time.sleep(0.5 if host == "slow" else 0.03)
    return host


NOTED = """\
echo run >>{0}
if mv {0}-hold {0}-held 2>/dev/null; then while [ -e {0}-held ]; do sleep 0.01; done; fi
hostname
"""


def on_each(names: Sequence[str], function: Callable[[str], T]) -> dict[str, T]:
    """Call a function with each name at the same time; return what it returns, by name."""
    with concurrent.futures.ThreadPoolExecutor(len(names)) as threads:
        return dict(zip(names, threads.map(function, names)))


# ── ways to die ───────────────────────────────────────────────────────────────────────────────────

Dies = Callable[[DockerHosts, str], AbstractContextManager[None]]


@contextlib.contextmanager
def sshd_killed(hosts: DockerHosts, host: str) -> Iterator[None]:
    """Kill the sshd that listens and those of the logins; start it again after the block."""
    kill(hosts, host, lambda command, _: command.startswith(("sshd", "/usr/sbin/sshd")))
    try:
        yield
    finally:
        listens = "until grep -q ':0016 00000000:0000 0A' /proc/net/tcp; do sleep 0.01; done"
        start = f"sh /usr/local/sbin/start >/dev/null 2>&1 & {listens}"
        hosts.exec(host, ["sh", "-c", start])


@contextlib.contextmanager
def network_cut(hosts: DockerHosts, host: str) -> Iterator[None]:
    """Take the host off its network for a block."""
    with hosts.disconnected(host):
        yield


@contextlib.contextmanager
def supervisor_killed(hosts: DockerHosts, host: str) -> Iterator[None]:
    """Kill the supervisor. Nothing hinders the next login, also in the block."""
    kill(hosts, host, lambda _, parents: parents.startswith("/bin/sh -c while TMOUT"))
    yield


WAYS = pytest.mark.parametrize("dies", [sshd_killed, network_cut, supervisor_killed])


def kill(hosts: DockerHosts, host: str, is_meant: Callable[[str, str], bool]) -> None:
    """Kill the processes that are meant, by their command line and that of their parent."""
    processes = hosts.processes(host)
    commands = {process.pid: process.command for process in processes}
    meant = [p.pid for p in processes if is_meant(p.command, commands.get(p.parent, ""))]
    assert meant, processes
    hosts.exec(host, ["kill", "-KILL", *map(str, meant)])


# ── a Pool ────────────────────────────────────────────────────────────────────────────────────────


def await_state(pool: Pool, host: str, state: str) -> None:
    """Wait until a host of a Pool is in a state."""
    wait_until(lambda: pool.status()[host].state == state, lambda: str(pool.status()[host]))


def await_some_ended(futures: Sequence[RemoteFuture[str]], host: str) -> None:
    """Wait until some calls have ended on a host, but not many."""
    wait_until(lambda: sum(future.done() and future.host == host for future in futures) >= 10)


def places(ran: Mapping[str, Counter[str]], number: int) -> list[str]:
    """Return the hosts on which a call ran, each as often as it ran there."""
    return [host for host, lines in ran.items() for _ in range(lines[str(number)])]


@WAYS
def test_f48_what_a_dying_host_ran_is_told_and_nothing_runs_twice(
    dies: Dies, pool: Pool, hosts: DockerHosts, notes: Notes
) -> None:
    """The others go on, and the host comes back when it can be reached."""
    with notes.hold_one(MORTAL):
        futures = [pool.submit(noted, notes.path, number) for number in range(300)]
        await_some_ended(futures, MORTAL)
        with dies(hosts, MORTAL):
            wait_until(lambda: pool.status()[MORTAL].reason)
            if dies is not supervisor_killed:
                await_state(pool, MORTAL, "resting")
            assert not concurrent.futures.wait(futures, TIMEOUT).not_done
    await_state(pool, MORTAL, "ready")
    later = [pool.submit(noted, notes.path, number) for number in range(300, 320)]
    assert MORTAL in {future.result(TIMEOUT) for future in later}

    ran = notes.read()
    losses = []
    for number, future in enumerate([*futures, *later]):
        error = future.exception()
        if error is None:
            assert places(ran, number) == [future.host] == [future.result()]
        else:
            assert isinstance(error, ConnectionLostError)
            assert error.host == future.host == MORTAL
            assert error.started is not False
            assert places(ran, number) in ([], [MORTAL])
            losses.append((error.started, len(places(ran, number))))
    assert len(losses) <= SLOTS[MORTAL]
    assert (True, 1) in losses  # the call that was held
    assert all(line.isdigit() for lines in ran.values() for line in lines)


def test_retries_run_again_what_a_dying_host_ran_and_nothing_else(
    pool: Pool, hosts: DockerHosts, notes: Notes
) -> None:
    with notes.hold_one(MORTAL):
        view = pool.with_options(retries=1)
        values = view.map(noted, itertools.repeat(notes.path), range(300), chunksize=3)
        wait_until(lambda: notes.read()[MORTAL])
        with supervisor_killed(hosts, MORTAL):
            told = list(values)
    ran = notes.read()
    twice = 0
    for number, host in enumerate(told):
        where = places(ran, number)
        assert host in where
        if len(where) > 1:
            twice += 1
            assert len(where) == 2
            assert MORTAL in where
    assert 1 <= twice <= 3 * SLOTS[MORTAL]


def test_a_slow_host_gets_less(pool: Pool, notes: Notes) -> None:
    told = list(pool.map(noted, itertools.repeat(notes.path), range(150)))
    ran = notes.read()
    assert [[host] for host in told] == [places(ran, number) for number in range(150)]
    counts = Counter(told)
    assert counts.keys() == set(HOSTS)
    assert counts[SLOW] < min(counts[host] for host in STEADY)


def test_a_host_that_refuses_rests_with_the_reason_until_it_lets_in(
    pool: Pool, hosts: DockerHosts, notes: Notes
) -> None:
    await_state(pool, REFUSING, "resting")
    assert "Permission denied" in pool.status()[REFUSING].reason
    with letting_in(hosts, REFUSING):
        await_state(pool, REFUSING, "ready")
        assert pool.submit(noted, notes.path, 1).result() == REFUSING


# ── a group ───────────────────────────────────────────────────────────────────────────────────────


def test_a_group_with_a_host_that_refuses_is_one_error(keywords: dict[str, Any]) -> None:
    with pytest.raises(InvalidRuntimeError, match="1 of 6 hosts") as caught:
        RuntimeGroup(hosts=[*HOSTS, REFUSING], **keywords)
    assert list(caught.value.errors) == [REFUSING]
    assert isinstance(caught.value.errors[REFUSING].__cause__, AuthenticationError)


def test_a_group_goes_on_without_a_host_that_refuses(keywords: dict[str, Any]) -> None:
    with RuntimeGroup(hosts=[REFUSING, *HOSTS], on_error="skip", **keywords) as group:
        assert list(group.errors) == [REFUSING]
        said = {host: result.stdout for host, result in group.run("hostname").ok.items()}
        assert said == {host: f"{host}\n" for host in HOSTS}


@WAYS
def test_a_group_names_the_host_that_dies_in_the_middle(
    dies: Dies, hosts: DockerHosts, keywords: dict[str, Any], make_notes: Callable[[], Notes]
) -> None:
    """A command and a function at the same time; afterwards the host works again."""
    called, run = make_notes(), make_notes()
    with (
        RuntimeGroup(hosts=HOSTS, **keywords) as group,
        concurrent.futures.ThreadPoolExecutor() as threads,
        called.hold_one(MORTAL),
        run.hold_one(MORTAL),
    ):
        ends = {
            called: threads.submit(group.call, noted, called.path, "call"),
            run: threads.submit(group.run, NOTED.format(run.path)),
        }
        wait_until(lambda: all(notes.read()[MORTAL] for notes in ends))
        # What the host has reported until now arrives before the result of this.
        next(runtime for runtime in group if runtime.host == MORTAL).run("true")
        with dies(hosts, MORTAL):
            for end in ends.values():
                error = end.exception(TIMEOUT)
                assert isinstance(error, GroupError)
                assert list(error.errors) == [MORTAL]
                assert isinstance(error.errors[MORTAL], ConnectionLostError)
                assert error.errors[MORTAL].started is True
                assert error.results.keys() == set(HOSTS) - {MORTAL}
        assert dict(group.call(noted, called.path, "again")) == {host: host for host in HOSTS}
    assert called.read() == {host: Counter(["call", "again"]) for host in HOSTS}
    assert run.read() == {host: Counter(["run"]) for host in HOSTS}


# ── a manager ─────────────────────────────────────────────────────────────────────────────────────


def test_a_manager_finds_the_hosts_that_can_be_used_and_why_others_cannot(
    hosts: DockerHosts,
) -> None:
    """Of all releases, behind a jump host or not."""
    keywords = {"connection_kwargs": {"keepalive": 1}, "connect_timeout": 150}
    with (
        hosts.disconnected(MORTAL),
        RuntimeManager(hosts.config_file, **keywords) as manager,
    ):
        causes = {host: type(error.__cause__) for host, error in manager.errors.items()}
        assert causes == {
            "nopython": PythonNotFoundError,
            MORTAL: ConnectError,
            REFUSING: AuthenticationError,
        }
        assert manager.inactive_hosts == list(causes)
        usable = [host for host in (*REACHABLE, *INNER, *HOSTS) if host not in causes]
        assert manager.hosts == usable
        group = manager.create_group(exclude_hosts="jump", installed_executables="python3")
        assert list(group.run("hostname").ok) == [host for host in usable if host != "jump"]
