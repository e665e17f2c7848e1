"""Runs examples/quickstart.py against an sshd of our own on loopback. Started by scripts/demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from loopback_sshd import LoopbackSshd

QUICKSTART = Path(__file__).resolve().parent.parent / "examples" / "quickstart.py"
GRACE = 20
"""Seconds that the quickstart has to clean up after a signal."""


def main() -> int:
    """Runs the demo and returns its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    # Functions need the same minor version of Python on both sides: ours has to be on the PATH.
    with LoopbackSshd(path=[Path(sys.base_prefix) / "bin"]) as sshd:
        print(f"An sshd of our own listens on 127.0.0.1, port {sshd.port}.", flush=True)
        return run_quickstart(sshd)


def run_quickstart(sshd: LoopbackSshd) -> int:
    """Runs the quickstart and sees to it that it ends before the sshd does."""
    argv = [sys.executable, str(QUICKSTART), "--config-file", str(sshd.config_file), sshd.alias]
    # Execution logs go where sshd's own files are, and with them.
    environment = {**os.environ, "LAZYCLUSTER_HOME": str(sshd.folder / "lazycluster")}
    process = subprocess.Popen(argv, env=environment)
    try:
        return process.wait()
    finally:
        # Ctrl-C has reached it already, by the process group; a second SIGINT would only cut its
        # clean-up short, so it gets time first, and SIGTERM when it was only us who were told.
        if process.poll() is None:
            if _received != signal.SIGINT:
                process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_received: int | None = None


def _leave(number: int, _frame: FrameType | None) -> None:
    """Leaves by an exception, so that everything on the way is cleaned up, and only once."""
    global _received
    _received = number
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
