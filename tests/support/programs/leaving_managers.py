"""Managers that exit without cleaning up: programs for test_concurrency.

python leaving_managers.py <which> <config file>
"""

from __future__ import annotations

import gc
import random
import sys
import threading
import time

from lazycluster import Connection, Runtime, RuntimeTask

KEPT = []


def open_runtime(config_file):
    return Runtime("loopback", connection_kwargs={"config_file": config_file})


def start(runtime):
    return runtime.execute_task(RuntimeTask().run_command("echo hi; sleep 1000"))


def in_a_global(config_file):
    """Keep a Runtime with tasks that run."""
    runtime = open_runtime(config_file)
    KEPT.append((runtime, start(runtime), start(runtime)))


def in_a_cycle(config_file):
    """Leave cycles that the collector finds, or the exit."""
    for found in (True, False):
        runtime = open_runtime(config_file)
        task = start(runtime)
        runtime.itself = task.runtime = cycle = [runtime, task]
        cycle.append(cycle)
        del runtime, task, cycle
        if found:
            gc.collect()


def in_a_thread(config_file):
    """Exit while a daemon thread executes a task."""
    task = RuntimeTask().run_command("echo begun; sleep 1000")

    def work():
        open_runtime(config_file).execute_task(task, execute_async=False)

    threading.Thread(target=work, daemon=True).start()
    while task.execution_log != ["begun\n"]:
        time.sleep(0.01)


def in_any_order(config_file):
    """Keep parts of a Runtime, and forget the rest."""
    runtime = open_runtime(config_file)
    task = start(runtime)
    parts = [runtime, task, task.process, task._last.execution, runtime._connection]
    parts += [runtime._connection._start(), task.execution_log]
    del runtime, task
    random.shuffle(parts)
    while len(parts) > 2:
        del parts[0]
        gc.collect()
    KEPT.extend(parts)


def never_opened(config_file):
    """Keep what could not be made, or was never used."""
    try:
        Runtime("loopback", connection_kwargs={"config_file": config_file, "port": 1})
    except ValueError:
        raise AssertionError("an InvalidRuntimeError is not a ValueError") from None
    except Exception as error:
        KEPT.append(error)
    for bad in ("", "-o", None):
        try:
            Runtime(bad)
        except ValueError as error:
            KEPT.append(error)
    KEPT.append(Connection("loopback", config_file=config_file))
    assert len(KEPT) == 5


WAYS = [way.__name__ for way in (in_a_global, in_a_cycle, in_a_thread, in_any_order, never_opened)]
TASKS = {"in_a_global": "2 tasks were", "in_a_cycle": "2 tasks were", "in_any_order": "1 task was"}
"""The asynchronous tasks that the exit stops, as its WARNING counts them."""

if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("left", flush=True)
