"""Make the private folder for the control socket and the log of ssh."""

from __future__ import annotations

import logging
import os
import posix
import shutil
import socket
import stat
import sys
from contextlib import ExitStack

from lazycluster.exceptions import LazyclusterError

logger = logging.getLogger("lazycluster")


def make_control_folder() -> str:
    """Make a new folder with mode 0700 and a path that is short enough for the control socket.

    Another user who can rename the folder can put a socket of their own in its place. So a parent
    folder that others can write to (for example a Kubernetes volume mounted as /tmp) is used only
    if there is no other, and a warning is logged.

    Raises:
        LazyclusterError: If no parent folder is usable; the message gives a reason for each.
    """
    parents = [os.environ.get("XDG_RUNTIME_DIR"), "/tmp", os.environ.get("TMPDIR")]
    reasons: dict[str, str] = {}
    for shared in (False, True):
        for parent in parents:
            if not parent or not os.path.isabs(parent):
                continue
            try:
                if _is_shared(parent) != shared:
                    continue
                folder = _control_folder_in(parent)
            except (OSError, LazyclusterError) as error:
                text = error.strerror if isinstance(error, OSError) else None
                reasons[parent] = f"{parent}: {(text or str(error)).rstrip('.')}."
                continue
            if shared:
                logger.warning(
                    "ssh's control socket is in %s, where other users can replace it; set "
                    "XDG_RUNTIME_DIR to a folder that only you can write to.",
                    parent,
                )
            return folder
    raise LazyclusterError(
        "There is no folder for ssh's control socket. Set XDG_RUNTIME_DIR to a folder of yours "
        "with a short path. " + " ".join(reasons.values())
    )


def _is_shared(parent: str) -> bool:
    """Return True if other users can rename what is in the folder."""
    status = os.stat(parent)
    owners = {status.st_uid, os.lstat(parent).st_uid}
    # /tmp is trusted with any owner: in a container that may be an unknown uid.
    if parent != "/tmp" and not owners <= {0, os.geteuid()}:
        raise LazyclusterError("it belongs to another user")
    return bool(status.st_mode & 0o022) and not status.st_mode & stat.S_ISVTX


def _control_folder_in(parent: str) -> str:
    """Make a private folder there, with an empty log, in which a socket can be made."""
    folder = os.path.join(parent, "lazycluster-" + os.urandom(4).hex())  # short, for the socket
    os.mkdir(folder, 0o700)
    with ExitStack() as on_error:
        on_error.callback(shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, "s")
        check_control_path(path)
        status = os.lstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise LazyclusterError("A folder made there is not private")
        posix.close(
            os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(path)
        os.unlink(path)
        on_error.pop_all()
    return folder


def control_path_limit() -> int:
    """Return the longest possible path of a control socket, in bytes.

    ssh first binds `path.` and 16 letters, and renames that socket. sun_path has 108 bytes on Linux
    and 104 on macOS and BSD, one of them for the NUL.
    """
    sun_path = 108 if sys.platform.startswith("linux") else 104
    return sun_path - len("." + "x" * 16) - 1


def check_control_path(path: str | os.PathLike[str]) -> None:
    """Check that ssh can make its control socket at this path.

    Raises:
        LazyclusterError: If the path is too long, or contains `${`, which ssh takes for an
            environment variable.
    """
    folder, length = os.path.dirname(os.fspath(path)), len(os.fsencode(path))
    if length > control_path_limit():
        raise LazyclusterError(
            f"The control socket would have a path of {length} bytes in {folder!r}, but ssh "
            f"can have {control_path_limit()}; set XDG_RUNTIME_DIR to a folder with a shorter path."
        )
    if "${" in os.fspath(path):
        raise LazyclusterError(
            f"The control socket cannot be in {folder!r}, since ssh takes `${{` for an environment "
            "variable; set XDG_RUNTIME_DIR to another folder."
        )
