"""Make the private folder that holds ssh's control socket and log."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat

from lazycluster._ssh.argv import check_control_path
from lazycluster.exceptions import LazyclusterError

logger = logging.getLogger("lazycluster")


def make_control_folder() -> str:
    """A fresh 0700 folder for the control socket and the log, with a path short enough.

    Whoever can rename it can put a socket of their own in its place. So a parent that others may
    write to is the last resort, as with a volume of Kubernetes in place of /tmp, and a WARNING.
    """
    reasons = []
    shared = []
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), "/tmp", os.environ.get("TMPDIR")):
        if not parent or not os.path.isabs(parent):
            continue
        try:
            status = os.stat(parent)
            owners = {status.st_uid, os.lstat(parent).st_uid}
            # What /tmp is, the system says: in a container it may belong to nobody.
            if parent != "/tmp" and not owners <= {0, os.geteuid()}:
                reasons.append(f"{parent}: it belongs to somebody else.")
            elif status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
                shared.append(parent)
            else:
                return _control_folder_in(parent)
        except (OSError, LazyclusterError) as error:
            reasons.append(_reason(parent, error))
    for parent in shared:
        try:
            folder = _control_folder_in(parent)
        except (OSError, LazyclusterError) as error:
            reasons.append(_reason(parent, error))
            continue
        logger.warning(
            "ssh's control socket is in %s, where others may replace it; set XDG_RUNTIME_DIR to a "
            "folder that you alone can write to.",
            parent,
        )
        return folder
    raise LazyclusterError(
        "There is no folder for ssh's control socket. Set XDG_RUNTIME_DIR to one that is short and "
        "yours. " + " ".join(reasons)
    )


def _reason(parent: str, error: OSError | LazyclusterError) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{parent}: {text.rstrip('.')}."


def _control_folder_in(parent: str) -> str:
    """A folder there that is ours alone, with an empty log, and in which a socket can be made.

    Raises:
        OSError, LazyclusterError: There can be none.
    """
    folder = os.path.join(parent, "lazycluster-" + os.urandom(4).hex())  # short, for the socket
    os.mkdir(folder, 0o700)
    try:
        path = os.path.join(folder, "s")
        check_control_path(path)
        status = os.lstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise LazyclusterError("A folder made there is not private")
        os.close(os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(path)
        os.unlink(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
