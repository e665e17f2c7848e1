"""What a mux client's log says of a command whose connection has ended; none may run twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lazycluster._ssh import run
from lazycluster.exceptions import ConnectionLostError

HELLO = "debug2: mux_client_hello_exchange: master version 4\r\n"
OPENED = "debug1: mux_client_request_session: master session id: 2\r\n"


@pytest.mark.parametrize(
    ("log", "started"),
    [
        ("Control socket connect(/tmp/s): No such file or directory\r\n", False),
        ("debug1: mux_client_hello_exchange: read packet failed\r\n", False),
        ("debug1: mux_client_hello_exchange: write packet: Broken pipe\r\n", False),
        (HELLO, None),
        (HELLO + "debug1: mux_client_request_session: read from master failed\r\n", None),
        (HELLO + OPENED, True),
    ],
    ids=["no master", "no hello back", "no hello", "hello", "asked", "opened"],
)
def test_started_of_a_command_on_a_lost_connection(log, started):
    """False only if it cannot have been asked for."""
    transport = SimpleNamespace(
        ended=True,
        closing=False,
        settings=SimpleNamespace(host="host"),
        wait_until_ended=lambda timeout: True,
        end_error=lambda started: ConnectionLostError("lost", host="host", started=started),
    )
    with pytest.raises(ConnectionLostError) as caught:
        run._exit_status(transport, SimpleNamespace(returncode=255), log, b"")
    assert caught.value.started is started
