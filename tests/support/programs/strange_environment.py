"""A manager whose environment and /bin/sh are not what scripts expect.

    python strange_environment.py <config file> <host> <folder> [close | kill | no-python]

Prints "good" if all is as it should be. Ends with status 0; with `kill`, by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from lazycluster import Connection, RuntimeTask


def main(config_file: str, host: str, folder: str, how: str = "close") -> None:
    connection = Connection(host, config_file=config_file, connect_timeout=150)
    connection.open()
    transport = connection._open().transport
    time.sleep(3)  # longer than TMOUT, which is a second
    assert not transport.ended
    result = connection.run("printf 'a\\n b'; read -r x || echo eof; sleep 2; exit 3", check=False)
    assert (result.stdout, result.exit_status) == ("a\n beof\n", 3), result
    if how != "no-python":
        task = RuntimeTask().run_command("echo one").run_command("echo two")
        log = task.execute(connection).execution_log
        # A start file of the account may print that a variable is not set.
        assert [entry.splitlines()[-1] for entry in log] == ["one", "two"], log
    connection.send(__file__, f"{folder}/copy")
    with connection.forward_local(0, 22):
        pass
    assert connection._open().transport is transport  # one login
    print("good", flush=True)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
