"""Libraries that run their work in a Pool, as in any executor of `concurrent.futures`."""

from __future__ import annotations

import os

import dask
import dask.array
import pytest


@pytest.fixture
def view(pool):
    """Return the Pool with dask imported once on each host, not in each call."""
    return pool.with_options(preload=["dask", "dask.array"])


def processes_of(_):
    """Return this process and the supervisor that it is a fork of."""
    return os.getpid(), os.getppid()


def test_dask_computes_delayed_calls_on_the_hosts(view):
    """Each is a call of its own, and the value of one is an argument of others."""
    doubled = [dask.delayed(lambda number: 2 * number)(number) for number in range(20)]
    assert dask.compute(sum(doubled), *doubled, scheduler=view)[:3] == (380, 0, 2)
    found = dask.compute([dask.delayed(processes_of)(n) for n in range(12)], scheduler=view)[0]
    assert os.getpid() not in {pid for pid, _ in found}
    assert len({parent for _, parent in found}) == 2


def test_dask_computes_arrays_on_the_hosts(view):
    array = dask.array.arange(1000, chunks=100)
    assert (array**2).sum().compute(scheduler=view) == sum(n**2 for n in range(1000))
    on_hosts = array.map_blocks(lambda block: block * 0 + os.getpid(), dtype=array.dtype)
    assert os.getpid() not in on_hosts.compute(scheduler=view)


def test_dask_takes_a_pool_for_all_that_a_block_computes(pool):
    with dask.config.set(scheduler=pool):
        assert dask.delayed(os.getpid)().compute() != os.getpid()
    with dask.config.set(scheduler=pool.with_options(env={"NUMBER": 5})):
        assert dask.delayed(os.getenv)("NUMBER").compute() == "5"


def test_what_a_call_of_dask_raises_is_raised_here_and_the_pool_goes_on(pool):
    with pytest.raises(ZeroDivisionError):
        dask.compute(dask.delayed(divmod)(1, 0), scheduler=pool)
    assert dask.delayed(pow)(2, 8).compute(scheduler=pool) == 256
