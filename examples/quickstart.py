"""A tour of lazycluster: commands, functions, files, ports, and a command that fails.

Usage: python examples/quickstart.py HOST     HOST is what you would type after `ssh`
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import CommandError

PORTS = random.sample(range(20000, 30000), 100)
"""Random, because other programs may look for free ports at the same moment."""


def mean(values: list[float]) -> float:
    """Return the mean of some numbers. It runs on the host."""
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

    title("A Runtime: one login, which everything below uses.")
    # The end of the block ends everything that was started on the host, and the connection.
    with Runtime(arguments.host, config_file=arguments.config_file) as runtime:
        runtime.print_info()
        show_commands_and_functions(runtime)
        with tempfile.TemporaryDirectory() as folder:
            show_files(runtime, Path(folder))
        show_port_to_host(runtime)
        show_port_from_host(runtime)
        show_failure(runtime)


def show_commands_and_functions(runtime: Runtime) -> None:
    """Run a command, a function, and functions at once."""
    title("A command. Its result has standard output, standard error and exit status.")
    result = runtime.run("echo Hello from $(uname -n)")
    print(result.stdout.strip())

    title("A function. It travels to the host, and its value comes back.")
    print("value:", runtime.call(mean, [1.0, 2.0, 6.0]))

    title("A closure. The variables that it uses travel with it, and lines of output come back.")
    factor = 6

    def multiply(number: int) -> int:
        print(f"{factor} times {number}")
        return factor * number

    view = runtime.with_options(timeout=60, on_output=lambda line: print("line: ", line.strip()))
    print("value:", view.call(multiply, 7))

    title("Functions at once. Each is a future, as concurrent.futures has them.")
    futures = [runtime.submit(pow, number, 2) for number in range(5)]
    print("values:", [future.result() for future in futures])


def show_files(runtime: Runtime, folder: Path) -> None:
    """Send a folder, run a command on it, and fetch the result, as the steps of a task."""
    title(
        "A task. Its steps send a folder, run a command on it, and get a file that is made there."
    )
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
    print("page:", runtime.call(fetch, port))
    runtime.stop_process(key)

    service.shutdown()
    service.server_close()


def show_port_from_host(runtime: Runtime) -> None:
    """Expose a service of the host to the manager."""
    title("A port from the host. A function serves a page there, and the manager fetches it.")
    port = runtime.get_free_port(PORTS)
    listens = threading.Event()
    view = runtime.with_options(on_output=lambda _: listens.set())
    future = view.submit(serve, port, "a page from the host")
    listens.wait(30)

    key = runtime.expose_port_from_runtime(port, port + 100)
    print("key: ", key)
    print("page:", fetch(port + 100))
    runtime.stop_process(key)

    print("cancelled:", future.cancel())  # ends the function on the host


def show_failure(runtime: Runtime) -> None:
    """Run a command and a function that fail."""
    title("A command that fails. The error says what, where and how.")
    try:
        runtime.run("ls /no/such/folder")
    except CommandError as error:
        print(f"{type(error).__name__}: {error}")

    title("A function that fails. Its own exception comes back; the traceback there is the cause.")
    try:
        runtime.call(mean, [])
    except ZeroDivisionError as error:
        print(f"{type(error).__name__}: {error}")
        print("in mean():", "in mean" in str(error.__cause__))


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n# {text}")


if __name__ == "__main__":
    main()
