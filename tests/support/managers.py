"""The manager's side of connections to one sshd, and managers that are processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

from loopback_sshd import LoopbackSshd
from support.processes import all_pids, await_gone, end, recorded, words
from support.programs import endings_manager
from support.waiting import wait_until

FORKING_IN_THREADS = "-Wignore:This process:DeprecationWarning"
"""Since Python 3.12 a fork beside threads warns; these managers do it on purpose."""


def on_manager(sshd: LoopbackSshd) -> list[int]:
    """Return the guards and sshs that go to this sshd: its config file is in their argv."""
    return guards(sshd) + sshs(sshd)


def guards(sshd: LoopbackSshd) -> list[int]:
    """Return the pids of the guards of connections to this sshd."""
    return _with_config_file(sshd, lambda argv: b"lazycluster-guard" in argv)


def sshs(sshd: LoopbackSshd) -> list[int]:
    """Return the pids of the sshs that go to this sshd."""
    return _with_config_file(sshd, lambda argv: argv[0] == b"ssh")


def _with_config_file(sshd: LoopbackSshd, wanted: Callable[[list[bytes]], bool]) -> list[int]:
    config_file = os.fsencode(sshd.config_file)
    found = {pid: words(pid) for pid in all_pids()}
    return [pid for pid, argv in found.items() if config_file in argv and wanted(argv)]


def control_folder(guard: int) -> str:
    """Return the control folder that a guard looks after."""
    argv = words(guard)
    return os.fsdecode(argv[argv.index(b"lazycluster-guard") + 1])


def await_nothing_on_manager(sshd: LoopbackSshd) -> None:
    """Wait until no process and no control folder of connections to this sshd is left."""
    await_gone(on_manager(sshd), "on the manager's side")
    wait_until(lambda: not on_manager(sshd), "ssh was started anew")
    folder = os.environ["XDG_RUNTIME_DIR"]
    wait_until(
        lambda: not os.listdir(folder), lambda: f"control folders stay: {os.listdir(folder)}"
    )


def logins(sshd: LoopbackSshd) -> int:
    """Return the number of logins so far."""
    return sshd.log.read_text(errors="replace").count("Accepted publickey")


class Manager:
    """A process that runs one function of `endings_manager`, and all that it may leave behind.

    Args:
        sshd: The host.
        which: The name of the function.
    """

    def __init__(self, sshd: LoopbackSshd, which: str) -> None:
        self.sshd = sshd
        self.ready: dict[str, Any] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="lctest-"))  # short, for the socket in it
        for name in ("host", "survivors", "own", "run", "tmp"):
            (self.folder / name).mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "TMPDIR": str(self.folder / "tmp"),
        }
        self.prepare()
        with open(self.folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, FORKING_IN_THREADS, endings_manager.__file__),
                    *(which, str(sshd.config_file), str(self.folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=self.environment,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def prepare(self) -> None:
        """Put more into the folder before the process starts."""

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.pid)
        self.process.wait()
        try:  # the supervisor first: what it knows of need not be recorded
            await_gone(recorded(self.folder / "host"))
        except AssertionError:
            pass  # the test has failed and says why
        for name in ("own", "survivors", "host"):
            for pid in recorded(self.folder / name):
                end(pid)
        shutil.rmtree(self.folder)

    @property
    def stderr(self) -> str:
        """What the process has printed so far."""
        return (self.folder / "stderr").read_text()

    def await_ready(self) -> dict[str, Any]:
        """Wait until the process has reported that all runs, and return its report."""
        ready = self.folder / "ready"
        wait_until(lambda: ready.exists() or self.process.poll() is not None, "not ready")
        assert ready.exists(), self.stderr
        self.ready = json.loads(ready.read_text())
        return self.ready

    def await_end(self) -> int:
        """Wait for the end of the process, and return its return code."""
        wait_until(lambda: self.process.poll() is not None, "the manager lives on")
        return self.process.returncode

    def await_nothing_left(self) -> None:
        """Wait until nothing of the library's is left.

        What the user has forked or started by setsid lives on.
        """
        await_gone(recorded(self.folder / "host"), "on the host")
        await_gone(set(on_manager(self.sshd)), "on the manager's side")
        working_dir = Path(self.ready["working_dir"])
        wait_until(lambda: not working_dir.exists(), f"{working_dir} is left")

        def left() -> list[str]:
            return [str(path) for name in ("run", "tmp") for path in (self.folder / name).iterdir()]

        wait_until(lambda: not left(), lambda: f"left: {left()}")
        assert not on_manager(self.sshd)
        assert not (self.folder / "never").exists()
