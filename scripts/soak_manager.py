"""Put load on one host for scripts/soak.py, which starts this program and reads its figures.

Standard input has one word a line: `count` asks for the figures, `end` ends the load and closes the
connection. Each answer is one line of JSON. The end of standard input ends the program.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import random
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import (
    CommandError,
    ConnectError,
    ConnectionLostError,
    ForwardError,
    RemoteFunctionError,
)
from lazycluster.forwards import Forward

THREADS = 3
BIG = 1_100_000  # bytes; above 1 MiB a value is in a file
FILE = 300_000  # bytes
SLOW = 120.0  # seconds; an operation that takes longer is stuck, since none waits for more than 10
LONG_STEP = 5  # seconds, so that there is always something to kill
KILLED = 9
LOST_FORWARD_TIMEOUT = 20.0


class WrongResultError(Exception):
    """The host returned something else than it must."""


class LostForwardError(Exception):
    """The forward was lost with its connection."""


class Load:
    """Operations in some threads on a Runtime and a Connection, and what became of them."""

    def __init__(self, host: str, arguments: dict[str, Any], folder: Path, clear: bool) -> None:
        self.runtime = Runtime(host, connection_kwargs=arguments)
        self.connection = Connection(host, **arguments)
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # the first unexplained error of each kind
        self._clear = clear
        self._folder = folder
        self._lock = threading.Lock()
        self._began: dict[int, tuple[str, float]] = {}
        self._ending = threading.Event()
        self._echo = _start_echo_server()
        self._echo_port = int(self._echo.server_address[1])
        self._operations: dict[str, tuple[int, Callable[[int], None]]] = {
            "small call": (50, self._call),
            "big call": (12, self._big_call),
            "command": (20, self._command),
            "long step": (1, self._long_step),
            "file": (6, self._file),
            "session": (5, self._session),
            "scp": (2, self._scp),
            "forward": (3, self._forward),
        }
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(THREADS)]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def _work(self, number: int) -> None:
        generator = random.Random(f"{os.getpid()} {number}")
        names = list(self._operations)
        weights = [weight for weight, _ in self._operations.values()]
        while not self._ending.is_set():
            name = generator.choices(names, weights)[0]
            self._began[number] = (name, time.monotonic())
            kind = self._try(name, number)
            with self._lock:
                self.counts[f"{name}: {kind}"] += 1
            if self._clear:
                self.runtime.clear_tasks()
        self._began.pop(number, None)

    def _try(self, name: str, number: int) -> str:
        """Do one operation; return "done", "lost", "killed" or "wrong"."""
        try:
            self._operations[name][1](number)
        except Exception as error:
            kind = _kind(error)
            if kind == "wrong":
                kind_of_error = f"{name}: {type(error).__name__}"
                text = f"{kind_of_error}: {error}; cause {error.__cause__!r}"
                with self._lock:
                    self.examples.setdefault(kind_of_error, text)
            return kind
        return "done"

    def figures(self) -> dict[str, Any]:
        """Return what became of the operations so far."""
        now = time.monotonic()
        stuck = [name for name, began in list(self._began.values()) if now - began > SLOW]
        with self._lock:
            counts, examples = dict(self.counts), list(self.examples.values())
        return {"counts": counts, "examples": examples, "stuck": stuck}

    def end(self) -> None:
        """End the load and close the connection; a thread that is stuck stays."""
        self._ending.set()
        deadline = time.monotonic() + SLOW
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            faulthandler.dump_traceback()  # to the log
        self.runtime.cleanup()
        self.connection.close()
        self._echo.shutdown()
        self._echo.server_close()

    # Operations. Each raises WrongResultError, or an error of the library.

    def _call(self, number: int) -> None:
        _expect(self._value(multiply, left=number, right=7), number * 7)

    def _big_call(self, number: int) -> None:
        data = os.urandom(1024) * (BIG // 1024)
        _expect(self._value(reverse, data=data), data[::-1])

    def _value(self, function: Callable[..., Any], **arguments: Any) -> object:
        task = self.runtime.execute_function(function, **arguments)
        return next(task.function_returns)

    def _command(self, number: int) -> None:
        task = RuntimeTask("soak").run_command(f"echo {number}; echo $HOME")
        self.runtime.execute_task(task, execute_async=False)
        if not "".join(task.execution_log).startswith(f"{number}\n"):
            raise WrongResultError(task.execution_log)

    def _long_step(self, number: int) -> None:
        task = RuntimeTask("long").run_command(f"(sleep {LONG_STEP}; true) & wait")
        self.runtime.execute_task(task, execute_async=False)

    def _file(self, number: int) -> None:
        there = f"~/soak-{number}"
        source, copy = self._folder / f"sent-{number}", self._folder / f"got-{number}"
        source.write_bytes(os.urandom(FILE))
        self.runtime.send_file(str(source), there)
        self.runtime.get_file(there, str(copy))
        _expect(copy.read_bytes(), source.read_bytes())

    def _session(self, number: int) -> None:
        _expect(self.connection.run(f"echo {number}").stdout, f"{number}\n")

    def _scp(self, number: int) -> None:
        source, copy = self._folder / f"put-{number}", self._folder / f"copied-{number}"
        source.write_bytes(os.urandom(FILE))
        self.connection.send(source, f"soak-scp-{number}")
        self.connection.get(f"soak-scp-{number}", copy)
        _expect(copy.read_bytes(), source.read_bytes())

    def _forward(self, number: int) -> None:
        """Reach the manager's echo server through the host and back."""
        with contextlib.ExitStack() as stack:
            there = self.connection.forward_remote(0, self._echo_port)
            stack.callback(_cancel, there)
            here = stack.enter_context(self.connection.forward_local(0, there.port))
            data = os.urandom(50_000)
            try:
                with socket.create_connection(("127.0.0.1", here.port), 10) as client:
                    client.settimeout(10)
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)
                    echoed = b"".join(iter(lambda: client.recv(1 << 16), b""))
                _expect(echoed, data)
            except (OSError, WrongResultError) as error:
                # The socket may see the end of the connection before the forward knows it; and
                # the two forwards may be on two connections, if the first one was lost meanwhile.
                if (there.wait(LOST_FORWARD_TIMEOUT) and there.lost) or here.lost:
                    raise LostForwardError(str(error)) from error
                raise


def _cancel(forward: Forward) -> None:
    """Cancel a forward; dropbear keeps its port, which the error says."""
    try:
        forward.cancel()
    except ForwardError as error:
        if "dropbear" not in str(error):
            raise


def _kind(error: BaseException) -> str:
    """Return "killed", "lost", or "wrong" for what no kill of the soak test explains."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (CommandError, RemoteFunctionError)) and seen.signal == KILLED:
            return "killed"
        if isinstance(seen, (ConnectionLostError, ConnectError, LostForwardError)):
            return "lost"
        seen = seen.__cause__
    # Operations of the library and copies have no error with a signal, only a text.
    texts = (f"(signal {KILLED})", f"ended by signal {KILLED} ")
    return "killed" if any(text in str(error) for text in texts) else "wrong"


def _expect(got: object, expected: object) -> None:
    if got != expected:
        size = len(got) if isinstance(got, bytes) else got
        raise WrongResultError(f"got {size} in place of {str(expected)[:40]}")


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


def _start_echo_server() -> socketserver.ThreadingTCPServer:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def multiply(*, left: int, right: int) -> int:
    """Run on the host."""
    return left * right


def reverse(*, data: bytes) -> bytes:
    """Run on the host."""
    return data[::-1]


def main() -> None:
    """Serve scripts/soak.py until standard input ends."""
    settings = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="soak-files-") as folder:
        load = Load(settings["host"], settings["connection"], Path(folder), settings["clear"])
        for line in sys.stdin:
            if line == "end\n":
                load.end()
            print(json.dumps(load.figures()), flush=True)
    os._exit(0)  # a stuck thread must not keep the program


if __name__ == "__main__":
    main()
