"""End the processes that this library has started on the manager."""

from __future__ import annotations

import os
import signal
import subprocess


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to a process and to the process group that it leads, unless it has ended.

    With SIGCHLD ignored, or where another part of the program reaps all children, the number of an
    ended process may belong to another process by now. `poll` finds that out.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
