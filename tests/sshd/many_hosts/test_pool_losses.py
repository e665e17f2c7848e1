"""What a Pool does when a host is lost: nothing runs twice, and nothing waits without end."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lazycluster._pool.worker import FIRST_REST
from lazycluster.exceptions import ConnectionLostError, InvalidRuntimeError
from support.hosts import double
from support.waiting import TIMEOUT, wait_until

LONGER = 1.3  # times the first rest: more than chance adds to it


def noted(folder, number, seconds=0.1):
    """Note on the host's disk that the call ran; each run adds a line."""
    with open(Path(folder, "ran"), "a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return number


def runs(folder):
    path = folder / "ran"
    return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.fixture
def two_hosts(make_sshd):
    return make_sshd(), make_sshd()


@pytest.mark.parametrize("how", ["sshd", "supervisor"])
def test_what_was_lost_never_runs_twice(make_pool, two_hosts, tmp_path, how):
    steady, lost = two_hosts
    pool = make_pool(steady=steady, lost=lost)
    supervisors = {}
    while "lost" not in supervisors:
        future = pool.submit(os.getppid)
        pid = future.result()
        supervisors[future.host] = pid
    futures = [pool.submit(noted, tmp_path, number) for number in range(40)]
    wait_until(lambda: any(f.host == "lost" and f.running() for f in futures))
    if how == "sshd":
        lost.kill_connections()
    else:
        os.kill(supervisors["lost"], 9)
    concurrent.futures.wait(futures, TIMEOUT)
    errors = {n: f.exception() for n, f in enumerate(futures) if f.exception() is not None}
    counted = runs(tmp_path)
    assert max(counted.values()) == 1
    assert len(errors) <= 2
    for number, error in errors.items():
        assert isinstance(error, ConnectionLostError)
        assert error.started is not False
        assert counted[str(number)] <= 1
    assert counted.keys() >= {str(n) for n in range(40) if n not in errors}
    wait_until(lambda: pool.status()["lost"].state == "ready")  # it comes back by itself


def test_retries_allow_a_second_run(make_pool, own_sshd, tmp_path):
    pool = make_pool(a=own_sshd, slots=1).with_options(retries=1)
    future = pool.submit(noted, tmp_path, 1, 600)
    wait_until(lambda: runs(tmp_path)["1"] == 1)
    own_sshd.kill_connections()
    wait_until(lambda: runs(tmp_path)["1"] == 2)
    own_sshd.kill_connections()
    with pytest.raises(ConnectionLostError):
        future.result(TIMEOUT)
    assert runs(tmp_path)["1"] == 2


def test_a_host_that_refuses_rests_and_the_others_work(make_pool, sshd):
    pool = make_pool(works=sshd, refuses=None)
    assert list(pool.map(double, range(10))) == [2 * number for number in range(10)]
    status = wait_until(lambda: (found := pool.status()["refuses"]).state == "resting" and found)
    assert "Connection refused" in status.reason
    assert status.rest > 0


def test_pauses_grow_while_a_host_fails(make_pool, sshd):
    pool = make_pool(works=sshd, refuses=None)
    wait_until(lambda: pool.status()["refuses"].rest > LONGER * FIRST_REST)


def test_a_host_comes_back(make_pool, config_for, sshd):
    pool = make_pool(works=sshd, late=None)
    wait_until(lambda: pool.status()["late"].state == "resting")
    config_for(works=sshd, late=sshd)
    wait_until(lambda: pool.status()["late"].state == "ready")
    futures = [pool.submit(time.sleep, 0.2) for _ in range(8)]
    concurrent.futures.wait(futures)
    assert "late" in {future.host for future in futures}


def test_without_a_host_waiting_calls_fail_with_all_reasons(make_pool):
    pool = make_pool(a=None, b=None)
    futures = [pool.submit(double, number) for number in range(3)]
    for future in futures:
        with pytest.raises(InvalidRuntimeError, match=r"no host is left") as caught:
            future.result(TIMEOUT)
        assert str(caught.value).count("Connection refused") == 2


def test_a_host_without_the_managers_python_is_left_out(make_pool, bare_sshd, sshd):
    pool = make_pool(works=sshd, bare=bare_sshd)
    futures = [pool.submit(double, number) for number in range(20)]
    assert [future.result(TIMEOUT) for future in futures] == [2 * n for n in range(20)]
    assert {future.host for future in futures} == {"works"}
    assert wait_until(lambda: pool.status()["bare"].reason)


def test_a_shutdown_fails_nothing_that_still_can_run(make_pool, two_hosts, tmp_path):
    pool = make_pool(a=two_hosts[0], b=two_hosts[1])
    futures = [pool.submit(noted, tmp_path, number) for number in range(12)]
    wait_until(lambda: any(future.running() for future in futures))
    pool.shutdown(wait=True)
    assert [future.result(0) for future in futures] == list(range(12))


def test_a_shutdown_ends_while_no_host_can_be_used(make_pool):
    pool = make_pool(a=None)
    future = pool.submit(double, 1)
    pool.shutdown()
    assert isinstance(future.exception(0), InvalidRuntimeError)


def test_a_bounded_map_keeps_few_calls_waiting(make_pool, sshd):
    pool = make_pool(a=sshd, b=sshd)
    most = 0
    values = pool.map(bytes, itertools.repeat(10_000, 2000), chunksize=20, buffersize=200)
    for _ in values:
        waiting = sum(map(len, pool._scheduler._waiting.values()))
        most = max(most, waiting)
    assert most <= 10
    assert not any(pool._scheduler._waiting.values())


def test_the_pool_of_a_program_that_exits_ends(config_for, sshd, nothing_left, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "from lazycluster import Pool\n"
        "pool = Pool(['a'], slots=1, connection_kwargs={'config_file': sys.argv[1]})\n"
        "print(pool.submit(pow, 2, 3).result())\n"
        "futures = [pool.submit(time.sleep, 600) for _ in range(3)]\n"
        "while not futures[0].running(): time.sleep(0.01)\n"
    )
    argv = [sys.executable, program, config_for(a=sshd)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.stdout == "8\n"
    (line,) = result.stderr.splitlines()
    assert "calls were still running on a or still waiting for a host when" in line
    nothing_left()
