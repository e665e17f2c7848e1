"""A manager whose calls have not ended when it ends.

Usage: python unfinished_calls.py WAY HOST CONFIG_FILE FOLDER
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lazycluster import Runtime

WAYS = ("plain", "waiting daemon", "cancelled")
POOLS = ("pool that waits", "pool that runs", "pool that calls")


def wait_forever(folder: str) -> None:
    """Record the pid, and do not end."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)


def main(way: str, host: str, config_file: str, folder: str) -> None:
    """Submit calls, and end."""
    runtime = Runtime(host, connection_kwargs={"config_file": config_file})
    futures = [runtime.submit(wait_forever, folder) for _ in range(3)]
    while len(os.listdir(folder)) < 3:
        time.sleep(0.01)
    if way == "waiting daemon":
        threading.Thread(target=futures[0].result, daemon=True).start()
    if way == "cancelled":
        runtime.submit(time.sleep, 1000).cancel()
    if way in POOLS:
        pool = ThreadPoolExecutor(1)
        if way == "pool that waits":
            pool.submit(futures[0].result)
        elif way == "pool that runs":
            pool.submit(runtime.run, f"touch {folder}/$$; exec sleep 1000")
        else:
            pool.submit(runtime.call, wait_forever, folder)
        while way != "pool that waits" and len(os.listdir(folder)) < 4:
            time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
