"""A manager whose files can have 100 kB: what runs on the host must not depend on its logs.

manager_on_a_full_disk.py HOST CONFIG_FILE
"""

from __future__ import annotations

import resource
import sys

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import TaskExecutionError

LIMIT = 100_000


def print_much(count: int) -> int:
    print("x" * count)
    return count


def make_value(size: int) -> bytes:
    return bytes(size)


def main() -> None:
    runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    task = RuntimeTask().run_command("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end")
    task.run_command("echo also")
    runtime.execute_task(task, execute_async=False)
    first, second = task.execution_log
    assert first.startswith("x" * LIMIT), first[:100]
    lost = 3_000_009 - LIMIT - (1 << 20) + len("also\n")
    assert f"[{lost} bytes were not kept: File too large]" in first, first[:200_000].strip("x")
    assert first.endswith("x\nthe end\n")
    assert second == "also\n"
    assert next(runtime.execute_function(print_much, count=200_000).function_returns) == 200_000
    assert runtime.echo("hi") == "hi"
    assert runtime.check_filter(filter_commands="echo true")
    assert len(next(runtime.execute_function(make_value, size=1_000_000).function_returns)) == 10**6
    try:
        runtime.execute_function(make_value, size=3_000_000)
    except TaskExecutionError as error:
        print(error, type(error.__cause__.__cause__))
    assert next(runtime.execute_function(make_value, size=10).function_returns) == bytes(10)
    runtime.cleanup()


if __name__ == "__main__":
    main()
