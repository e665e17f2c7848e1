"""Use lazycluster for an hour while connections and steps are killed, and count what stays.

    sh scripts/soak                       an hour, on OpenSSH and dropbear
    sh scripts/soak --minutes 5 --host openssh

Each server is on loopback, with a home folder of its own, and has a manager of its own: a process
that calls functions, runs commands, copies files and forwards ports without a pause. This program
kills connections and steps at random, by their pids, which it verifies first.

Prints a table for each host, and exits with 1 if a count grew without bound, if something was left
at the end, or if an operation failed for another reason than a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from loopback_dropbear import LoopbackDropbear, missing_for_dropbear
from loopback_sshd import LoopbackSshd
from soak_counts import COLUMNS, Orphans, Process, grown, processes_with, steps, supervisors, table

MARKER = "LAZYCLUSTER_SOAK"
KILL_INTERVAL = 6.0  # seconds between two kills on a host, on average
SAMPLES = 20  # at least, in a run that is shorter than 20 minutes
REPLY_TIMEOUT = 30.0
END_TIMEOUT = 300.0  # for the manager to end its load; its own bound is 120 s
GONE_TIMEOUT = 60.0  # for processes and folders to go after that
THREADS = 3  # of a manager: so many operations can be lost with one connection


class Soak:
    """A server, its manager, and what was counted."""

    def __init__(self, server: LoopbackSshd, folder: Path, clear: bool) -> None:
        self.server = server
        self.rows: list[dict[str, float]] = []
        self.kills: Counter[str] = Counter()
        self.figures: dict[str, Any] = {}
        self.failures: list[str] = []
        self._marker = uuid.uuid4().hex
        self._folder = folder
        self._orphans_here, self._orphans_there = Orphans(), Orphans()
        self._environment = dict(os.environ, **{MARKER: self._marker})
        for name in ("TMPDIR", "XDG_RUNTIME_DIR", "LAZYCLUSTER_HOME"):
            (folder / name).mkdir(mode=0o700)
            self._environment[name] = str(folder / name)
        (folder / "HOST").mkdir(mode=0o700)  # the TMPDIR of the host
        python = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
        arguments = {
            "config_file": str(server.config_file),
            "python": f"env TMPDIR={folder / 'HOST'} {python}",
        }
        settings = {"host": server.alias, "connection": arguments, "clear": clear}
        self._log = (folder / "log").open("ab")
        self._manager = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("soak_manager.py")),
                json.dumps(settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is handled here
        )

    def count(self, minute: float) -> None:
        """Add a row of counts."""
        self._ask("count", REPLY_TIMEOUT)
        here, there = self._processes()
        manager = Process(self._manager.pid)
        alive = supervisors(there)
        files = {name: _count_files(self._folder / name) for name in os.listdir(self._folder)}
        values = (
            manager.megabytes,
            manager.count_descriptors(),
            manager.threads,
            len(here),
            files["TMPDIR"] + files["XDG_RUNTIME_DIR"],
            files["LAZYCLUSTER_HOME"],
            max((process.megabytes for process in alive), default=math.nan),
            max((process.count_descriptors() for process in alive), default=math.nan),
            len(there),
            files["HOST"],
            self._orphans_here.count(here, [self._manager.pid]),
            self._orphans_there.count(there, [self.server.pid, *self.server.connection_pids()]),
        )
        self.rows.append({"minute": minute, **dict(zip(COLUMNS, values))})

    def kill(self) -> None:
        """Kill the connections, or one step."""
        if random.random() < 0.3:
            if self.server.connection_pids():
                self.server.kill_connections()
                self.kills["connections"] += 1
            return
        there = self._processes()[1]
        found = [step for supervisor in supervisors(there) for step in steps(there, supervisor)]
        if found and self._kill_process(random.choice(found)):
            self.kills["steps"] += 1

    def _kill_process(self, process: Process) -> bool:
        """Send SIGKILL to a process if it still is the one that was seen."""
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(process.pid)
            try:
                if Process(process.pid).key == process.key:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    return True
            finally:
                os.close(descriptor)
        return False

    def end(self) -> None:
        """End the load and note what was left, what grew, and what failed without a reason."""
        if not self._ask("end", END_TIMEOUT):
            self.failures.append("the manager did not end its load")
        deadline = time.monotonic() + GONE_TIMEOUT
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.failures += [f"left: {text}" for text in left]
        self.stop()
        self.failures += [f"grew: {text}" for text in grown(self.rows)]
        self._judge_operations()

    def _judge_operations(self) -> None:
        counts = Counter[str]()
        for name, count in self.figures.get("counts", {}).items():
            counts[name.rpartition(": ")[2]] += count
        if not counts["done"]:
            self.failures.append("no operation succeeded")
        if counts["killed"] > self.kills["steps"]:
            text = f"{counts['killed']} steps were killed, and this program killed"
            self.failures.append(f"{text} {self.kills['steps']}")
        # An operation that was lost may meet a connection that another kill ends, but not often.
        if counts["lost"] > 2 * THREADS * self.kills["connections"]:
            text = f"{counts['lost']} operations lost their connections, which were killed"
            self.failures.append(f"{text} {self.kills['connections']} times")
        if counts["wrong"]:
            self.failures.append(f"{counts['wrong']} operations failed for no known reason:")
            self.failures += self.figures["examples"]
        self.failures += [f"stuck: {name}" for name in self.figures.get("stuck", [])]

    def stop(self) -> None:
        """End the manager; a second call does nothing."""
        assert self._manager.stdin is not None
        assert self._manager.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._manager.stdin.close()
        try:
            self._manager.wait(REPLY_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.failures.append("the manager did not exit")
            self._manager.kill()
            self._manager.wait()
        self._manager.stdout.close()
        self._log.close()

    def _ask(self, word: str, timeout: float) -> bool:
        """Ask the manager for its figures; return False if it does not answer."""
        assert self._manager.stdin is not None
        assert self._manager.stdout is not None
        try:
            self._manager.stdin.write(f"{word}\n".encode())
            self._manager.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"The manager has ended; its log:\n{self._read_log()}") from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._manager.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                return False
        line = self._manager.stdout.readline()
        if not line:
            raise SystemExit(f"The manager has ended; its log:\n{self._read_log()}")
        self.figures = json.loads(line)
        return True

    def _read_log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-5000:]

    def _processes(self) -> tuple[dict[int, Process], dict[int, Process]]:
        """Return the manager's processes and the host's, without the manager itself."""
        here = processes_with(f"{MARKER}={self._marker}")
        here.pop(self._manager.pid, None)
        return here, processes_with(f"HOME={self.server.home}")

    def _left(self) -> list[str]:
        """Return what must not be there when the connections have been closed."""
        here, there = self._processes()
        left = [f"process {pid} of the manager" for pid in here]
        left += [f"process {pid} on the host" for pid in there]
        for name in ("XDG_RUNTIME_DIR", "HOST"):
            left += [f"{name}/{entry}" for entry in os.listdir(self._folder / name)]
        own = "soak-files-"  # the manager's own folder, which goes with it
        temporary = os.listdir(self._folder / "TMPDIR")
        return left + [f"TMPDIR/{entry}" for entry in temporary if not entry.startswith(own)]

    def report(self) -> str:
        """Return the tables and what failed."""
        lines = [f"## {self.server.alias}", "", table(self.rows), "", "| operation | count |"]
        lines += ["| --- | ---: |"]
        counts = sorted(self.figures.get("counts", {}).items())
        lines += [f"| {name} | {count} |" for name, count in counts]
        lines += ["", "Killed: " + ", ".join(f"{n} {name}" for name, n in self.kills.items())]
        lines += ["", *(self.failures or ["Nothing grew without bound and nothing was left."])]
        return "\n".join(lines)


def _count_files(path: Path) -> int:
    return sum(len(files) + len(folders) for _, folders, files in os.walk(path))


def _run(soaks: list[Soak], minutes: float) -> None:
    """Kill and count until the time is over."""
    began = time.monotonic()
    interval = min(60.0, minutes * 60 / SAMPLES)
    next_count, next_kill = began + interval, dict.fromkeys(soaks, began + KILL_INTERVAL)
    while (now := time.monotonic()) < began + minutes * 60:
        for soak in soaks:
            if now >= next_kill[soak]:
                next_kill[soak] = now + random.expovariate(1 / KILL_INTERVAL)
                soak.kill()
        if now >= next_count:
            next_count += interval
            for soak in soaks:
                soak.count((now - began) / 60)
        time.sleep(0.2)


def main() -> int:
    """Run the soak test and return its exit status."""
    parser = argparse.ArgumentParser(description="Put load on lazycluster and count what stays.")
    parser.add_argument("--minutes", type=float, default=60.0, help="default: 60")
    parser.add_argument("--host", choices=["openssh", "dropbear", "both"], default="both")
    parser.add_argument("--clear-tasks", action="store_true", help="call clear_tasks after each")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    servers: list[LoopbackSshd] = []
    if arguments.host != "dropbear":
        servers.append(LoopbackSshd("openssh"))
    if arguments.host != "openssh":
        missing = missing_for_dropbear()
        if missing is not None:
            print(f"{missing} Or leave it out: --host openssh", file=sys.stderr)
            return 2
        servers.append(LoopbackDropbear())
    with contextlib.ExitStack() as stack:
        soaks = []
        for server in servers:
            # A short path, because the path of a socket may have about 90 bytes.
            folder = Path(tempfile.mkdtemp(prefix="soak-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(server)
            soaks.append(Soak(server, folder, arguments.clear_tasks))
            stack.callback(soaks[-1].stop)
        _run(soaks, arguments.minutes)
        for soak in soaks:
            soak.end()
        print("\n\n".join(soak.report() for soak in soaks))
        return int(any(soak.failures for soak in soaks))


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
