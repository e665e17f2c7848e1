"""Managers that end, or are interrupted, while threads and asyncio wait for a host.

Each function is run by a Python of its own: interrupted_managers.py NAME HOST CONFIG_FILE FOLDER.
A command writes to FOLDER/started when it runs, so that the interrupt comes while it is waited for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NoReturn

from lazycluster import Connection, Runtime, RuntimeTask

FOLDER = Path(sys.argv[-1])
KEPT: list[socket.socket] = []  # open until the end


def open_runtime() -> Runtime:
    return Runtime(sys.argv[2], connection_kwargs={"config_file": sys.argv[3]})


def endless() -> RuntimeTask:
    return RuntimeTask().run_command(f"echo $$ > {FOLDER}/started; exec sleep 1000")


def await_start() -> None:
    while not (FOLDER / "started").exists():
        time.sleep(0.01)


def submit(pool: ThreadPoolExecutor) -> None:
    runtime = open_runtime()
    for _ in range(3):  # two of them wait for the worker
        pool.submit(runtime.execute_task, endless(), False)
    await_start()


def exception_with_a_pool() -> None:
    submit(ThreadPoolExecutor(1))
    raise RuntimeError("the program fails")


def exit_with_a_pool() -> None:
    submit(ThreadPoolExecutor(1))
    sys.exit(1)


def interrupt_with_a_pool() -> None:
    submit(ThreadPoolExecutor(1))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(100)


def exception_with_a_pool_that_joins() -> None:
    runtime = open_runtime()
    task = runtime.execute_task(endless())
    await_start()
    pool = ThreadPoolExecutor(2)
    for wait_for_it in (task.join, runtime.join, lambda: list(task.function_returns)):
        pool.submit(wait_for_it)
    raise RuntimeError("the program fails")


def exception_with_a_thread() -> None:
    runtime = open_runtime()
    threading.Thread(target=runtime.execute_task, args=(endless(), False)).start()
    await_start()
    raise RuntimeError("the program fails")


def is_shutting_down_a_pool(thread: threading.Thread) -> bool:
    """Return True if a thread is in the method that waits for a pool's workers."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "shutdown" and "concurrent" in code.co_filename:
            return True
        frame = frame.f_back
    return False


def interrupt_twice_in_a_with_block() -> None:
    def interrupt() -> None:
        await_start()
        os.kill(os.getpid(), signal.SIGINT)
        # Two at once would be one interrupt, and a thread that is about to wait misses one.
        while not is_shutting_down_a_pool(threading.main_thread()):
            time.sleep(0.01)
        while is_shutting_down_a_pool(threading.main_thread()):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    with ThreadPoolExecutor(1) as pool:
        submit(pool)
        threading.Thread(target=interrupt, daemon=True).start()
        while True:
            time.sleep(0.1)


def interrupt_pool_of_the_guide() -> None:
    runtime = open_runtime()
    tasks = [endless() for _ in range(3)]
    submitted = threading.Event()

    def interrupt() -> None:
        await_start()
        submitted.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(runtime.execute_task, task, False) for task in tasks]
        try:
            submitted.set()
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            while wait(futures, timeout=0.1).not_done:
                for task in tasks:
                    task.stop()
            raise


def interrupt_asyncio_of_the_guide() -> None:
    runtime = open_runtime()

    async def execute(task: RuntimeTask) -> None:
        runtime.execute_task(task)
        try:
            await asyncio.get_running_loop().run_in_executor(None, task.join)
        except asyncio.CancelledError:
            await asyncio.get_running_loop().run_in_executor(None, task.stop)
            raise

    async def main() -> None:
        one = asyncio.ensure_future(execute(endless()))
        while not (FOLDER / "started").exists():
            await asyncio.sleep(0.01)
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        raise RuntimeError("the program fails")

    asyncio.run(main())


def open_connection() -> Connection:
    connection = Connection(sys.argv[2], config_file=sys.argv[3])
    connection.open()
    return connection


def run_in_a_pool() -> None:
    command = f"echo $$ > {FOLDER}/started; exec sleep 1000"
    ThreadPoolExecutor(1).submit(open_connection().run, command)
    await_start()
    raise RuntimeError("the program fails")


def copy_in_a_pool() -> None:
    scp = FOLDER / "scp"
    scp.write_text(f"#!/bin/sh\necho $$ > {FOLDER}/started; exec sleep 1000\n")
    scp.chmod(0o700)
    os.environ["PATH"] = f"{FOLDER}:{os.environ['PATH']}"
    ThreadPoolExecutor(1).submit(open_connection().send, scp, FOLDER / "copy")
    await_start()
    raise RuntimeError("the program fails")


def forward_in_a_pool() -> None:
    ThreadPoolExecutor(1).submit(open_connection().forward_local(0, 22).wait)
    raise RuntimeError("the program fails")


def wait_until_back_in_a_pool() -> None:
    ThreadPoolExecutor(1).submit(open_connection().wait_until_back, 1000)
    raise RuntimeError("the program fails")


def operation_in_a_pool() -> None:
    connection = open_connection()
    server = int(connection.run("echo $PPID").stdout)
    (FOLDER / "server").write_text(str(server))
    os.kill(server, signal.SIGSTOP)  # no answer comes any more
    ThreadPoolExecutor(1).submit(connection._open().operate, "port_state", {"port": 1})
    raise RuntimeError("the program fails")


def log_in_to_a_silent_host(**keywords: str) -> NoReturn:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    connection = Connection("127.0.0.1", port=port, connect_timeout=1000, **keywords)
    ThreadPoolExecutor(1).submit(connection.open)
    accepted, _ = listener.accept()
    KEPT.extend([listener, accepted])
    accepted.recv(1)
    raise RuntimeError("the program fails")


def login_in_a_pool() -> None:
    log_in_to_a_silent_host()


def question_in_a_pool() -> None:
    """A login that may be asked a question waits for that first."""
    log_in_to_a_silent_host(password="secret")


def normal_end_with_a_thread() -> None:
    """Python waits for threads that are not daemons; their work is done."""
    runtime = open_runtime()

    def work() -> None:
        task = RuntimeTask().run_command(f"sleep 1; echo done > {FOLDER}/started")
        runtime.execute_task(task, False)
        runtime.execute_task(RuntimeTask().run_command(f"echo more >> {FOLDER}/started"), False)

    threading.Thread(target=work).start()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
