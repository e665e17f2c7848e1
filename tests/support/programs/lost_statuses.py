"""A manager that never gets the exit status of a child.

    python lost_statuses.py <ignored | reaped> <config file> <host> <folder>

Ends with status 0 and prints "good" if every failure is an error of its own all the same.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lazycluster import Connection, RuntimeTask
from lazycluster.exceptions import AuthenticationError, ConnectError, PortInUseError, SshError

Error = TypeVar("Error", bound=BaseException)


def reap() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.0005)


def fails(error: type[Error], function: Callable[..., object], *arguments: object) -> Error:
    try:
        function(*arguments)
    except BaseException as caught:
        if type(caught) is error:
            return caught
        raise
    raise AssertionError(f"{function} does not fail")


def main(how: str, config_file: str, host: str, folder: str) -> None:
    if how == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    else:
        threading.Thread(target=reap, daemon=True).start()
    file = Path(folder, "file")
    file.write_text("text")
    with Connection(host, config_file=config_file, connect_timeout=150) as connection:
        assert connection.run("exit 3", check=False).exit_status == 3
        assert connection.run("exit 0").exit_status == 0
        assert connection.run("kill -9 $$", check=False).exit_status is None
        connection.send(file, f"{folder}/copy")
        fails(SshError, connection.get, f"{folder}/none", f"{folder}/back")
        fails(SshError, connection.send, file, f"{folder}/none/none")
        with connection.forward_local(0, 22) as forward:
            fails(PortInUseError, connection.forward_local, forward.port, 22)
        assert RuntimeTask().run_command("echo hi").execute(connection).execution_log == ["hi\n"]
    keywords = {"config_file": config_file, "connect_timeout": 150}
    fails(AuthenticationError, Connection(host, user="nobody", **keywords).open)
    error = fails(ConnectError, Connection(host, python="exit 7;", **keywords).open)
    assert error.exit_status == 7, repr(error)
    print("good")


if __name__ == "__main__":
    main(*sys.argv[1:])
