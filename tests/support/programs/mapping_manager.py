"""A manager that maps large inputs over the hosts of a Pool, and says what it holds.

Usage: python mapping_manager.py CONFIG_FILE HOST...
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from lazycluster import Pool

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run as a file
from support.processes import memory_peak
from support.waiting import wait_until

SIZE = 20_000  # bytes of an input, and of its value
FEW, MANY = 2_000, 10_000  # inputs
CHUNK = 20
BUFFER = 640  # inputs: a call runs in each slot of eight hosts, and one waits for it


def same(data: bytes) -> bytes:
    """Return the input."""
    return data


class Inputs:
    """Inputs that differ, so that none can stand for another; they count how many were read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.count):
            self.read += 1
            yield number.to_bytes(4, "big") * (SIZE // 4)


def map_all(pool: Pool, count: int) -> dict[str, int]:
    """Map with `buffersize`; return what the manager had and has."""
    inputs = Inputs(count)
    ahead = 0
    values = pool.map(same, inputs, chunksize=CHUNK, buffersize=BUFFER)
    for number, value in enumerate(values):
        assert value[:4] == number.to_bytes(4, "big")
        ahead = max(ahead, inputs.read - number)
    wait_until(lambda: not any(status.running for status in pool.status().values()))
    gc.collect()
    return {
        "peak": memory_peak(os.getpid()),
        "objects": len(gc.get_objects()),
        "ahead": ahead,
        "values": number + 1,
    }


def main(config_file: str, *hosts: str) -> None:
    """Print what is there after few inputs and after many, and after many without a bound."""
    with Pool(hosts, slots=2, connection_kwargs={"config_file": config_file}) as pool:
        found = {"few": map_all(pool, FEW), "many": map_all(pool, MANY)}
        values = pool.map(same, Inputs(MANY), chunksize=CHUNK)
        found["unbounded"] = {"peak": memory_peak(os.getpid())}
        values.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
