"""What is called on the host. execnet takes no annotations."""

from __future__ import annotations


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def size(data: bytes) -> int:
    """Give back little for much."""
    return len(data)


def zeros(count: int) -> bytes:
    """And the other way round."""
    return bytes(count)


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
