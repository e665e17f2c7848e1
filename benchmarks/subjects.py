"""Functions that the benchmarks call on the host. execnet refuses annotations."""

from __future__ import annotations


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class Adder:
    """What an actor holds."""

    def add(self, a: int, b: int) -> int:
        """Return a sum."""
        return a + b


def size(data: bytes) -> int:
    """Return a small value for a large argument."""
    return len(data)


def zeros(count: int) -> bytes:
    """Return a large value for a small argument."""
    return bytes(count)


def touch(table):
    """Read 1000 elements of a large array."""
    return float(table[:: len(table) // 1000].sum())


def group():
    """Group a table."""
    import numpy
    import pandas

    table = pandas.DataFrame({"key": numpy.arange(1000) % 10, "value": numpy.arange(1000.0)})
    return float(table.groupby("key")["value"].mean().sum())


def mitogen_command() -> bytes:
    """Run a command."""
    import subprocess

    return subprocess.check_output("echo hi", shell=True)  # noqa: S602 - as one does


def execnet_add(channel, a, b):
    """Add."""
    channel.send(a + b)


def execnet_command(channel):
    """Run a command."""
    import subprocess

    channel.send(subprocess.check_output("echo hi", shell=True))  # noqa: S602 - as one does


def execnet_adder(channel):
    """Return sums."""
    for a, b in channel:
        channel.send(a + b)
