"""A manager in poor surroundings: a program for test_poor_surroundings.

    python poor_manager.py <config file> <folder>

It writes "works" to the file `result` in the folder, or the exception.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from lazycluster import Runtime, RuntimeTask


def work(config_file, folder):
    """Run a command and a function, copy a file each way, and expose a port."""
    keywords = {"config_file": config_file, "connect_timeout": 150}
    runtime = Runtime("loopback", connection_kwargs=keywords)
    with open(f"{folder}/local", "w") as file:
        file.write("data")
    task = RuntimeTask().run_command("echo hi; cat").run_function(length, value=[1, 2])
    task.send_file(f"{folder}/local", "sent").get_file("sent", f"{folder}/got")
    runtime.execute_task(task, execute_async=False, debug=True)
    task.print_log()
    assert task.execution_log == ["hi\n", "", "", ""]
    assert list(task.function_returns) == [2]
    with open(f"{folder}/got") as file:
        assert file.read() == "data"
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"hi"))
        thread.start()
        key = runtime.expose_port_from_runtime(server.getsockname()[1], 0)
        port = int(key.split("::")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert client.recv(2) == b"hi"
        thread.join()
        runtime.stop_process(key)
    tasks = [runtime.execute_task(RuntimeTask().run_command("echo hi")) for _ in range(10)]
    for task in tasks:
        task.join()
        assert task.error is None, task.error
    runtime.cleanup()


def length(value):
    return len(value)


def main(config_file, folder):
    try:
        work(config_file, folder)
        result = "works"
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    with open(f"{folder}/result.part", "w") as file:
        file.write(result)
    os.rename(f"{folder}/result.part", f"{folder}/result")


if __name__ == "__main__":
    main(*sys.argv[1:])
