"""Copy files and folders by scp, through the control master."""

from __future__ import annotations

from lazycluster._ssh.argv import scp_argv, sftp_argv
from lazycluster._ssh.mux import client_error, control, in_session, master_answers
from lazycluster._ssh.options import ssh_version
from lazycluster._ssh.transport import Transport


def send(transport: Transport, local_path: str, remote_path: str) -> None:
    """Copy a file or folder to the host.

    Raises:
        ConnectionLostError: If the connection has ended.
        SshError: If scp failed, for the reason that it printed.
    """
    in_session(transport, lambda: _copy(transport, local_path, remote_path, to_host=True))


def get(transport: Transport, remote_path: str, local_path: str) -> None:
    """Copy a file or folder from the host; see `send`."""
    in_session(transport, lambda: _copy(transport, remote_path, local_path, to_host=False))


def _copy(transport: Transport, source: str, target: str, *, to_host: bool) -> None:
    path = transport.master.control_path
    for sftp in (True, False):
        argv = scp_argv(path, ssh_version(), source, target, to_host=to_host, sftp=sftp)
        status, _, printed = control(argv, timeout=None)
        if not status:
            return
        if not sftp or "Connection closed" not in printed or not _lacks_sftp(transport):
            raise client_error(
                transport, f"copy {source!r} to {target!r}", status, printed, started=None
            )
        # Nothing was copied. The host's own scp may be there, for the old protocol.


def _lacks_sftp(transport: Transport) -> bool:
    """Return True if the host refuses SFTP; over a master scp does not print that."""
    argv = sftp_argv(transport.master.control_path)
    return control(argv)[0] != 0 and master_answers(transport)
