"""A tour of lazycluster: commands, functions, files, ports, and a command that fails.

Usage: python examples/quickstart.py HOST     HOST is what you would type after `ssh`
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import TaskExecutionError

PORTS = random.sample(range(20000, 30000), 100)
"""Random, because other programs may look for free ports at the same moment."""


def mean(values: list[float]) -> float:
    """Return the mean of some numbers. It runs on the host."""
    import platform  # imported on the host

    print(f"Python {platform.python_version()} adds {len(values)} numbers")
    return sum(values) / len(values)


def make_service(port: int, text: str) -> HTTPServer:
    """Return an HTTP service with one page, on loopback. Both sides use it."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002, the name in the base class
            """Print nothing."""

    return HTTPServer(("127.0.0.1", port), Page)


def serve(port: int, text: str) -> None:
    """Serve the page until the process is stopped."""
    service = make_service(port, text)
    print("listening")
    service.serve_forever()


def fetch(port: int) -> str:
    """Fetch the page of a service on loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        page: bytes = answer.read()
    return page.decode()


def main() -> None:
    """Connect to the host, show what can be done there, and leave nothing behind."""
    parser = argparse.ArgumentParser(description="A tour of lazycluster.")
    parser.add_argument("host", help="what you would type after `ssh`")
    parser.add_argument("--config-file", help="an ssh_config to use in place of your own (ssh -F)")
    arguments = parser.parse_args()
    connection = {"config_file": arguments.config_file} if arguments.config_file else {}

    title("A Runtime: one login, which everything below uses.")
    runtime = Runtime(arguments.host, connection_kwargs=connection)
    try:
        runtime.print_info()
        show_commands_and_functions(runtime)
        with tempfile.TemporaryDirectory() as folder:
            show_files(runtime, Path(folder))
        show_port_to_host(runtime)
        show_port_from_host(runtime)
        show_failure(runtime)
    finally:
        runtime.cleanup()  # ends everything that was started on the host, and the connection


def show_commands_and_functions(runtime: Runtime) -> None:
    """Run a command, a function and a closure."""
    title("A command. A task is a list of steps, and its log has the output of each step.")
    task = RuntimeTask("greet").run_command("echo Hello from $(uname -n)")
    runtime.execute_task(task, execute_async=False)
    task.print_log()

    title("A function. It travels to the host, its output is in the log, and its value comes back.")
    task = runtime.execute_function(mean, values=[1.0, 2.0, 6.0])
    print("value:", next(task.function_returns))
    print("log:  ", task.execution_log[0].strip())

    title("A closure. The variables that it uses travel with it.")
    factor = 6
    task = runtime.execute_function(lambda number: factor * number, number=7)
    print("value:", next(task.function_returns))


def show_files(runtime: Runtime, folder: Path) -> None:
    """Send a folder, run a command on it, and fetch the result."""
    title("Files. A folder goes to the host, and a file that is made there comes back.")
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text("first line\nsecond line\n")
    (folder / "texts" / "two.txt").write_text("third line\n")

    task = RuntimeTask("count")
    task.send_file(str(folder / "texts"))  # into the working directory, under its own name
    task.run_command("cat texts/*.txt | wc -l | tr -d ' ' > lines.txt")
    task.get_file("lines.txt", str(folder))  # into the folder
    runtime.execute_task(task, execute_async=False)
    print("lines:", (folder / "lines.txt").read_text().strip())


def show_port_to_host(runtime: Runtime) -> None:
    """Expose a service of the manager, where this script runs, to the host."""
    title("A port to the host. The manager serves a page, and the host fetches it.")
    service = make_service(0, "a page from the manager")
    threading.Thread(target=service.serve_forever, daemon=True).start()

    port = runtime.get_free_port(PORTS)
    key = runtime.expose_port_to_runtime(service.server_port, port)
    print("key: ", key)
    task = runtime.execute_function(fetch, port=port)
    print("page:", next(task.function_returns))
    runtime.stop_process(key)

    service.shutdown()
    service.server_close()


def show_port_from_host(runtime: Runtime) -> None:
    """Expose a service of the host to the manager."""
    title("A port from the host. A task serves a page there, and the manager fetches it.")
    port = runtime.get_free_port(PORTS)
    task = RuntimeTask("service").run_function(serve, port=port, text="a page from the host")
    runtime.execute_task(task)  # asynchronous: returns at once
    while not any(task.execution_log) and task.error is None:  # the log grows while it runs
        time.sleep(0.01)

    key = runtime.expose_port_from_runtime(port, port + 100)
    print("key: ", key)
    print("page:", fetch(port + 100))
    runtime.stop_process(key)

    assert task.process is not None
    runtime.stop_process(task.process.name)
    print("exit code of the stopped task:", task.process.exitcode)


def show_failure(runtime: Runtime) -> None:
    """Run a command that fails."""
    title("A command that fails. The error says what, where and how; its cause has the details.")
    task = RuntimeTask("fail").run_command("ls /no/such/folder")
    try:
        runtime.execute_task(task, execute_async=False)
    except TaskExecutionError as error:
        print(f"{type(error).__name__}: {error}")
        print(f"because of {type(error.__cause__).__name__}: {error.__cause__}")


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n# {text}")


if __name__ == "__main__":
    main()
