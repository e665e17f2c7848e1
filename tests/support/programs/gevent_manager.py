"""A manager that gevent has patched.

    python -m gevent.monkey gevent_manager.py <config file> <host> <folder>

Ends with status 0 and prints "good" if everything works as without gevent.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import StepTimeoutError

DESCRIPTORS = 200  # fewer than the folders that are sent


def commands_and_functions(runtime: Runtime, folder: Path) -> None:
    task = runtime.execute_task(RuntimeTask().run_command("sleep 1000"))
    joining = threading.Thread(target=task.join)
    joining.start()
    log = runtime.execute_task(RuntimeTask().run_command("echo hi"), execute_async=False)
    assert log.execution_log == ["hi\n"]
    (value,) = runtime.execute_function(os.getpid, execute_async=False).function_returns
    assert value != os.getpid()
    task.stop()
    joining.join()
    lines: list[str] = []
    assert runtime.run("cat", input="hi\n", on_output=lines.append).stdout == "hi\n"
    assert lines == ["hi\n"]
    assert runtime.call(pow, 2, 3) == runtime.submit(pow, 2, 3).result() == 8
    endless = runtime.with_options(timeout=0.1).submit(signal.pause)
    assert isinstance(endless.exception(), StepTimeoutError)


def folders(runtime: Runtime, folder: Path) -> None:
    """Each folder is a descriptor for a moment."""
    for number in range(2 * DESCRIPTORS):
        (folder / "many" / str(number)).mkdir(parents=True)
    task = RuntimeTask().send_file(str(folder / "many"), str(folder / "there"))
    task.get_file(str(folder / "there"), str(folder / "back"))
    runtime.execute_task(task, execute_async=False)
    assert len(list((folder / "back").iterdir())) == 2 * DESCRIPTORS


def mux_clients(connection: Connection, folder: Path) -> None:
    assert connection.run("echo hi").stdout == "hi\n"
    try:
        connection.run("sleep 1000", timeout=0.1)
    except StepTimeoutError:
        pass
    else:
        raise AssertionError("no timeout")
    connection.send(__file__, folder / "copy")
    with connection.forward_local(0, 22), connection.forward_remote(0, 22):
        pass


def forked_children(connection: Connection, folder: Path) -> None:
    """Close their copies of the lifelines."""
    lifeline = connection._open().transport.master.lifeline
    child = os.fork()
    if not child:
        try:
            os.fstat(lifeline)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def closed(connection: Connection) -> None:
    """By the end of its standard input: at a timeout, this thread would release the guard."""
    transport = connection._open().transport
    release, threads = transport.master.release, set()

    def recorded(**keywords: bool) -> None:
        threads.add(threading.current_thread())
        release(**keywords)

    transport.master.release = recorded
    connection.close()
    assert threads == {transport._thread}


def main(config_file: str, host: str, folder: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    keywords = {"config_file": config_file, "connect_timeout": 150, "python": sys.executable}
    runtime = Runtime(host, connection_kwargs=keywords)
    commands_and_functions(runtime, folder)
    folders(runtime, folder)
    connection = runtime._connection
    mux_clients(connection, folder)
    forked_children(connection, folder)
    closed(connection)
    connection.open()
    closed(connection)
    logging.disable()  # of what the exit ends
    runtime.execute_task(RuntimeTask().run_command("sleep 1000"))
    print("good", flush=True)  # the exit ends the task and the connection


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
