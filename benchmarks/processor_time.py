"""How much processor time a call takes, and in which processes; Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # of the times in /proc, a second


def own(pid: int) -> float:
    """Return the seconds that a process has used."""
    return sum(_times(pid)[:2])


def ended_children(pid: int) -> float:
    """Return the seconds that the children of a process have used that have ended."""
    return sum(_times(pid)[2:])


def _times(pid: int) -> list[float]:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return [int(word) / TICKS for word in stat[stat.rindex(")") :].split()[12:16]]


def measure(
    call: Callable[[], object],
    rounds: int,
    parts: dict[str, Callable[[], float]],
    pause: float,
) -> dict[str, float]:
    """Return the milliseconds of processor time of each call, by the part that has used them.

    Args:
        call: The call.
        rounds: How often it is made.
        parts: Functions that return the seconds used so far, by the name of a part.
        pause: Seconds between two calls.
    """
    call()
    before = {name: used() for name, used in parts.items()}
    for _ in range(rounds):
        call()
        time.sleep(pause)
    time.sleep(0.5)  # The processes of the last calls end.
    return {name: (used() - before[name]) / rounds * 1000 for name, used in parts.items()}
