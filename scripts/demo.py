"""Run examples/quickstart.py against a throw-away sshd on loopback; scripts/demo starts this."""

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
"""Seconds that the quickstart gets to clean up after a signal."""


def main() -> int:
    """Run the demo and return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    # Functions need the manager's minor version of Python on the host, so put it on the PATH.
    with LoopbackSshd(path=[Path(sys.base_prefix) / "bin"]) as sshd:
        print(f"A throw-away sshd listens on 127.0.0.1, port {sshd.port}.", flush=True)
        return run_quickstart(sshd)


def run_quickstart(sshd: LoopbackSshd) -> int:
    """Run the quickstart, make sure that it ends before sshd, and return its exit status."""
    argv = [sys.executable, str(QUICKSTART), "--config-file", str(sshd.config_file), sshd.alias]
    # Execution logs go into sshd's folder and are removed with it.
    environment = {**os.environ, "LAZYCLUSTER_HOME": str(sshd.folder / "lazycluster")}
    process = subprocess.Popen(argv, env=environment)
    try:
        return process.wait()
    finally:
        # Ctrl-C has reached the whole process group. A second signal would interrupt the clean-up
        # of the quickstart, so after SIGINT it only gets time, after another signal SIGTERM.
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
    """Raise SystemExit, so that all callers clean up, and ignore further signals."""
    global _received
    _received = number
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
