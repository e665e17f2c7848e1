"""What the tests of endings look with: who is alive, what is left, and a bounded wait."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import endings_manager

from lazycluster import Runtime

DEADLINE = 150.0
"""Seconds until something must have happened that happens in one or two; for a loaded machine."""


def wait_until(true, what):
    """Wait until `true()` is, with a deadline; what it gave. `what` says what did not happen."""
    deadline = time.monotonic() + DEADLINE
    while not (result := true()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.01)
    return result


# ── processes ─────────────────────────────────────────────────────────────────────────────────────


def is_alive(pid):
    """Whether there is such a process, and it is no zombie: its reaper may be slow."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def words(pid, name="cmdline"):
    """A process's argv, or its environment; empty if it has gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []


def all_pids():
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def end(pid):
    """End a process that a test has started."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def await_gone(pids, what="processes"):
    def left():
        return {pid: b" ".join(words(pid)).decode() for pid in pids if is_alive(pid)}

    wait_until(lambda: not left(), lambda: f"{what} live on: {left()}")


def recorded(folder):
    """The pids that processes have recorded as names of empty files."""
    return {int(name) for name in os.listdir(folder)}


def await_recorded(folder, count):
    return wait_until(
        lambda: len(recorded(folder)) >= count and recorded(folder),
        lambda: f"only {recorded(folder)} of {count} processes have started",
    )


# ── the manager's side of connections to one sshd ─────────────────────────────────────────────────


def on_manager(sshd):
    """Guards and sshs that go to this sshd: its config file is in their argv."""
    return guards(sshd) + sshs(sshd)


def guards(sshd):
    return _with_config_file(sshd, lambda argv: b"lazycluster-guard" in argv)


def sshs(sshd):
    return _with_config_file(sshd, lambda argv: argv[0] == b"ssh")


def _with_config_file(sshd, wanted):
    config_file = os.fsencode(sshd.config_file)
    found = {pid: words(pid) for pid in all_pids()}
    return [pid for pid, argv in found.items() if config_file in argv and wanted(argv)]


def control_folder(guard):
    argv = words(guard)
    return os.fsdecode(argv[argv.index(b"lazycluster-guard") + 1])


def await_nothing_on_manager(sshd):
    await_gone(on_manager(sshd), "on the manager's side")
    wait_until(lambda: not on_manager(sshd), "ssh was started anew")
    parent_folder = os.environ["XDG_RUNTIME_DIR"]
    wait_until(
        lambda: not os.listdir(parent_folder),
        lambda: f"control folders stay: {os.listdir(parent_folder)}",
    )


def logins(sshd):
    """How often somebody has logged in."""
    return sshd.log.read_text(errors="replace").count("Accepted publickey")


# ── the host's side of one Runtime ────────────────────────────────────────────────────────────────


def open_runtime(sshd, working_dir=None, **connection_kwargs):
    return Runtime(
        sshd.alias,
        working_dir,
        connection_kwargs={"config_file": sshd.config_file, **connection_kwargs},
    )


def supervisor(runtime):
    return int(runtime.echo("$PPID"))


def await_step(task):
    """Wait until the host has said that a step runs; the pid of its process there."""
    return wait_until(lambda: task.process.pid, f"no step runs: {task.error}")


# ── a manager that is a process of its own ────────────────────────────────────────────────────────

FORKING_IN_THREADS = "-Wignore:This process:DeprecationWarning"  # since 3.12, and on purpose


class Manager:
    """A process that runs one of `endings_manager`, and all that it may leave somewhere."""

    def __init__(self, sshd, which, python=sys.executable, **environment):
        self.sshd = sshd
        self.folder = Path(tempfile.mkdtemp(prefix="lctest-"))  # short, for the socket in it
        for name in ("host", "survivors", "own", "run", "tmp"):
            (self.folder / name).mkdir(mode=0o700)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("LAZYCLUSTER_HOME", "XDG_STATE_HOME")
        }
        self.environment.update(
            XDG_RUNTIME_DIR=str(self.folder / "run"), TMPDIR=str(self.folder / "tmp"), **environment
        )
        self.prepare()
        with open(self.folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *(python, FORKING_IN_THREADS, endings_manager.__file__),
                    *(which, str(sshd.config_file), str(self.folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=self.environment,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def prepare(self):
        """What it finds in its folder besides."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.pid)
        self.process.wait()
        try:  # the supervisor first: what it knows of need not be recorded
            await_gone(recorded(self.folder / "host"))
        except AssertionError:
            pass  # the test has failed, and says why
        for name in ("own", "survivors", "host"):
            for pid in recorded(self.folder / name):
                end(pid)
        shutil.rmtree(self.folder)

    @property
    def stderr(self):
        return (self.folder / "stderr").read_text()

    def await_ready(self):
        """Wait until it has said that all runs; what it said."""
        ready = self.folder / "ready"
        wait_until(lambda: ready.exists() or self.process.poll() is not None, "not ready")
        assert ready.exists(), self.stderr
        self.told = json.loads(ready.read_text())
        return self.told

    def await_end(self):
        wait_until(lambda: self.process.poll() is not None, "the manager lives on")
        return self.process.returncode

    def await_nothing_left(self):
        """Nothing of ours, that is: what was forked by the user or by setsid lives on."""
        host = recorded(self.folder / "host")
        await_gone(host, "on the host")
        await_gone(set(on_manager(self.sshd)), "on the manager's side")
        working_dir = Path(self.told["working_dir"])
        wait_until(lambda: not working_dir.exists(), f"{working_dir} is left")

        def left():
            return [str(path) for name in ("run", "tmp") for path in (self.folder / name).iterdir()]

        wait_until(lambda: not left(), lambda: f"left: {left()}")
        assert not on_manager(self.sshd)
        assert not (self.folder / "never").exists()
