"""Managers that tests end while they work: programs for test_endings_*.

    python endings_manager.py <which> <config file> <folder>

Each process creates an empty file with its pid as the name in one of three folders of the folder:
`host` if a task has started it, `survivors` if setsid has, `own` if it is a child of the manager
that the user is responsible for.

Managers that copy use more files: `file` and `folder` are the sources, `up-file` and the like the
targets.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lazycluster import Runtime, RuntimeTask

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run as a file
from support.waiting import wait_until

COMMAND = """
echo here
touch "$FOLDER/host/$$" "$FOLDER/host/$PPID"
sleep 1000 &
touch "$FOLDER/host/$!"
nohup sh -c 'touch "$FOLDER/host/$$"; sleep 1000; :' >/dev/null 2>&1 &
setsid sh -c 'touch "$FOLDER/survivors/$$"; exec sleep 1000' &
sh -c 'touch "$FOLDER/host/$$"; exec sleep 1000'
wait
"""
STUBBORN = """
trap "" TERM HUP INT
touch "$FOLDER/host/$$"
sh -c 'touch "$FOLDER/host/$$"; while :; do sleep 1; done' &
while :; do sleep 1; done
"""
ON_HOST = 10
"""Processes that `busy` starts on the host: 5 of the command, 2 stubborn, 3 of the function."""


def function(folder):
    def record(pid):
        open(f"{folder}/host/{pid}", "w").close()

    child = subprocess.Popen(["sleep", "1000"])
    record(child.pid)
    forked = os.fork()
    if forked == 0:
        while True:
            time.sleep(1000)
    record(forked)
    record(os.getpid())
    time.sleep(1000)


def own_child(folder):
    """Wait in a child that keeps what it inherited, and that only SIGKILL ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    open(f"{folder}/own/{os.getpid()}", "w").close()
    while True:
        time.sleep(1000)


def fork(folder):
    if os.fork() == 0:
        try:
            own_child(folder)
        finally:
            os._exit(1)


def open_runtime(config_file, **connection_kwargs):
    return Runtime("loopback", connection_kwargs={"config_file": config_file, **connection_kwargs})


def await_count(folder, count):
    wait_until(lambda: len(os.listdir(folder)) >= count, lambda: f"{folder}: {os.listdir(folder)}")


def report(folder, **content):
    with open(f"{folder}/ready.part", "w") as file:
        json.dump(content, file)
    os.rename(f"{folder}/ready.part", f"{folder}/ready")


def busy(config_file, folder):
    """Start all that can run at once, and report it."""
    runtime = open_runtime(config_file)
    runtime.add_env_variables({"FOLDER": folder})
    runtime.execute_task(RuntimeTask().run_command(STUBBORN))
    task = RuntimeTask().run_command(COMMAND).run_command('touch "$FOLDER/never"')
    runtime.execute_task(task)
    runtime.execute_function(function, execute_async=True, folder=folder)
    await_count(f"{folder}/host", ON_HOST)
    await_count(f"{folder}/survivors", 1)
    fork(folder)
    # multiprocessing would join it at the exit, and it ignores SIGTERM.
    child = multiprocessing.get_context("fork").Process(target=own_child, args=[folder])
    child.start()
    multiprocessing.process._children.discard(child)
    await_count(f"{folder}/own", 2)
    report(folder, working_dir=runtime.working_dir, log=task.execution_log_file_path)
    return runtime


def waits(config_file, folder):
    busy(config_file, folder).join()


def ends(config_file, folder):
    busy(config_file, folder)


def calls_sys_exit(config_file, folder):
    runtime = busy(config_file, folder)
    sys.exit(3 if runtime.alive_task_process_count else 4)


def raises(config_file, folder):
    runtime = busy(config_file, folder)
    raise RuntimeError(f"expected {runtime.alive_task_process_count}")


def calls_os_exit(config_file, folder):
    busy(config_file, folder)
    os._exit(3)


def copying(config_file, folder):
    """Copy a file, a folder and one into folders that exist in each direction; expose ports, too.

    The processes that copy on the host are stopped when the first bytes have arrived, so their
    speed does not matter.
    """
    runtime = open_runtime(config_file)
    copies = []
    for way in ("up", "down"):
        for what in ("file", "folder", "tree"):
            source, target = f"{folder}/{what}", f"{folder}/{way}-{what}/"
            task = RuntimeTask()
            task = task.send_file(source, target) if way == "up" else task.get_file(source, target)
            runtime.execute_task(task)
            await_first_bytes(task, target)
            os.kill(task.process.pid, signal.SIGSTOP)
            copies.append(task.process.pid)
    with open(f"{folder}/service") as file:
        service = int(file.read())
    keys = [
        runtime.expose_port_from_runtime(service, 0),
        runtime.expose_port_to_runtime(service, 0),
    ]
    report(
        folder,
        working_dir=runtime.working_dir,
        copies=copies,
        ports=[int(key.split("::")[2]) for key in keys],
    )
    return runtime


def await_first_bytes(task, target):
    """Wait for bytes; they may come before the manager has read that the step has started."""
    wait_until(lambda: size(target) and task.process.pid, lambda: repr(task.error))


def size(folder):
    """Return the bytes of all files below a folder."""
    files = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
    return sum(os.path.getsize(path) for path in files)


def copies(config_file, folder):
    copying(config_file, folder).join()


def ends_copying(config_file, folder):
    runtime = copying(config_file, folder)
    wait_until(lambda: os.path.exists(f"{folder}/go"), lambda: "the test does not let it go on")
    return runtime


def raises_copying(config_file, folder):
    runtime = ends_copying(config_file, folder)
    raise RuntimeError(f"expected {runtime.alive_task_process_count}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
