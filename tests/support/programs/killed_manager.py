"""A manager that a test kills: `python killed_manager.py <alias> <config file>`."""

from __future__ import annotations

import sys

from lazycluster import Runtime, RuntimeTask

COMMANDS = (
    "sleep 1001",
    "nohup sleep 1002 >/dev/null 2>&1 & wait",
    'trap "" TERM HUP INT; sleep 1003; sleep 1004',
)
"""One that every signal ends, one with a child in the background, one that only SIGKILL ends."""

if __name__ == "__main__":
    alias, config_file = sys.argv[1:]
    runtime = Runtime(alias, connection_kwargs={"config_file": config_file})
    for command in COMMANDS:
        runtime.execute_task(RuntimeTask().run_command(command))
    runtime.join()
