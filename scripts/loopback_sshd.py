"""A throw-away sshd on loopback, for the tests and the demo. Needs no root, no third-party package.

    with LoopbackSshd() as sshd:
        subprocess.run(["ssh", "-F", sshd.config_file, sshd.alias, "echo hello"])

Keys, configuration, log and the remote HOME are made in a folder of their own under the temporary
folder; nothing outside it is written, save for the empty folder that sshd insists on when it is
started by root.

    this process ──pipe──> guard (this file as a program) ──> sshd ──> sshd for each connection

The guard starts sshd, and ends it and removes the folder when the pipe closes: on ``stop()``, and
also when this process is killed with -9.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

DEADLINE = 60.0
"""Seconds for sshd to start or to end. It takes some 20 ms; this is for a loaded machine."""

PRIVILEGE_SEPARATION_FOLDER = "/run/sshd"
"""Debian's. Its service makes it, so it is missing where the service never ran."""


class LoopbackSshdError(Exception):
    """sshd is missing, refuses its configuration, or does not start; the message has its words."""


class LoopbackSshd:
    """An sshd on a free port of 127.0.0.1, that lets the current user in with a key of its own.

    A context manager; ``start()`` and ``stop()`` do the same by hand. HOME is a fresh folder, so
    that no start file of the account is read; but commands start in the account's own home folder
    all the same, which is where sshd goes first.

    Args:
        alias: The host to give to ssh together with ``config_file``.
        sshd_config: Lines for sshd_config, such as ``"MaxSessions 1"``. They come first, so they
            win over ours; with a ``Subsystem`` among them there is no SFTP of ours. Not ``Match``,
            which would swallow our lines, nor ``SetEnv``, of which only one line counts: that is
            ``environment``.
        ssh_config: Lines for the alias in ``config_file``. They come first, so they win over ours.
        environment: Variables of every session; ``HOME`` and ``PATH`` can be among them.
        path: Folders to put first on the remote PATH.

    Attributes:
        folder: Everything below, and what else belongs to it; gone after ``stop()``.
        config_file: The ssh_config that knows the alias and nothing else.
        port: Where sshd listens, on 127.0.0.1.
        user: The account that is let in, the current one.
        user_key: The private key that is let in.
        known_hosts: The file with sshd's host key.
        log: What sshd says.
        home: The folder that is HOME in a session, unless ``environment`` says otherwise.
        pid: The listening sshd.
    """

    folder: Path
    config_file: Path
    port: int
    user: str
    user_key: Path
    known_hosts: Path
    log: Path
    home: Path
    pid: int

    def __init__(
        self,
        alias: str = "loopback",
        *,
        sshd_config: Sequence[str] = (),
        ssh_config: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        path: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        for line in sshd_config:
            if re.match(r"\s*(match|setenv)\b", line, re.IGNORECASE):
                raise ValueError(f"not possible among the lines of sshd_config: {line!r}")
        self.alias = alias
        self._sshd_config = list(sshd_config)
        self._ssh_config = list(ssh_config)
        self._environment = dict(environment or {})
        self._path = [os.fspath(folder) for folder in path]
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> LoopbackSshd:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> LoopbackSshd:
        """Starts sshd and returns when it accepts connections.

        Returns:
            Itself.

        Raises:
            LoopbackSshdError: There is no sshd, or it does not start; says why.
        """
        if self._guard is not None:
            raise LoopbackSshdError("this sshd is running already")
        sshd = find_sshd()
        try:
            self._start_guard(sshd)
            self._make_keys()
            for _ in range(5):  # somebody may take the free port before sshd does
                self.port = _free_port()
                self._write_configuration(sshd)
                if self._start_sshd():
                    return self
            raise LoopbackSshdError(f"sshd does not start:\n{self.log.read_text()}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends sshd with all its connections, and removes the folder. Twice is fine.

        What the sessions started is not ours to end: it sees its connection lost, as on any host.
        """
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        assert guard.stdout is not None
        # The guard does all of it when the pipe closes, so that there is one way only.
        with contextlib.suppress(BrokenPipeError):  # somebody has killed the guard
            guard.stdin.close()
        guard.wait()
        guard.stdout.close()

    def connection_pids(self) -> list[int]:
        """The sshd processes that serve connections, which is one or two for each."""
        return _sshd_descendants(self.pid)

    def kill_connections(self) -> None:
        """Kills the connections with SIGKILL, and returns when they are gone.

        New connections are accepted all the same.
        """
        pids = self.connection_pids()
        _signal_all(pids, signal.SIGKILL)
        _await_states(pids, "Z")

    def pause(self) -> None:
        """Stops the connections with SIGSTOP: half-open links, where TCP answers and nobody reads.

        Returns when they have stopped. New connections are accepted all the same.
        """
        pids = self.connection_pids()
        _signal_all(pids, signal.SIGSTOP)
        _await_states(pids, "TZ")

    def resume(self) -> None:
        """Lets paused connections go on."""
        _signal_all(self.connection_pids(), signal.SIGCONT)

    def _start_guard(self, sshd: str) -> None:
        """Makes the folder, and at once the guard that will remove it."""
        # No suffix of the process or the user: the path has to be short, for the sockets in it.
        self.folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        self.log = self.folder / "sshd.log"
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, sshd, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us to handle, not for the guard and sshd
            )
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        _running.add(self)

    def _make_keys(self) -> None:
        """Makes the host's key and the user's, and what either side keeps of the other's."""
        self.user = _account().pw_name
        self.home = self.folder / "home"
        self.home.mkdir(mode=0o700)
        self._host_key = self.folder / "host_key"
        self.user_key = self.folder / "user_key"
        for key in (self._host_key, self.user_key):
            # No comment: it would be the name of the developer and their computer.
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        self._authorized_keys = self.folder / "authorized_keys"
        shutil.copy(f"{self.user_key}.pub", self._authorized_keys)
        self.known_hosts = self.folder / "known_hosts"
        self.config_file = self.folder / "ssh_config"

    def _write_configuration(self, sshd: str) -> None:
        """Writes what depends on the port, and has sshd check its own part."""
        environment = {"HOME": str(self.home), **self._environment}
        if self._path:
            rest = environment.get("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            environment["PATH"] = ":".join([*self._path, rest])
        sshd_config = [
            *self._sshd_config,
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {_quoted(self._host_key)}",
            "PidFile none",
            f"AuthorizedKeysFile {_quoted(self._authorized_keys, tokens=True)}",
            f"AllowUsers {self.user}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            # Without PAM sshd refuses a locked account, as root's is on Ubuntu.
            f"UsePAM {'yes' if _account_is_locked(self.user) else 'no'}",
            "StrictModes no",  # the temporary folder may be writable for others
            "UseDNS no",
            "PrintMotd no",
            # Only the first SetEnv line counts, so all go into one.
            "SetEnv " + " ".join(_quoted(f"{k}={v}") for k, v in environment.items()),
        ]
        if not any(re.match(r"\s*subsystem\b", line, re.IGNORECASE) for line in self._sshd_config):
            sshd_config.append("Subsystem sftp internal-sftp")
        # Of these lines sshd takes the last, not the first (seen with 9.2).
        if not any(line.lower().startswith("maxstartups ") for line in self._sshd_config):
            # The default drops some of many logins at once, at random.
            sshd_config.append("MaxStartups 500")
        if _sshd_version(sshd) >= (9, 8):
            # Failed logins, which tests make, would shut out the good ones after them.
            sshd_config.append("PerSourcePenalties no")
        self._sshd_config_file = self.folder / "sshd_config"
        _write_lines(self._sshd_config_file, sshd_config)

        kind, key = Path(f"{self._host_key}.pub").read_text().split()[:2]
        _write_lines(self.known_hosts, [f"[127.0.0.1]:{self.port} {kind} {key}"])
        ssh_config = [
            f"Host {self.alias}",
            *self._ssh_config,
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {self.user}",
            f"IdentityFile {_quoted(self.user_key, tokens=True)}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {_quoted(self.known_hosts, tokens=True)}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
        ]
        _write_lines(self.config_file, ssh_config)

        if os.geteuid() == 0:
            os.makedirs(PRIVILEGE_SEPARATION_FOLDER, mode=0o755, exist_ok=True)
        argv = [sshd, "-t", "-f", str(self._sshd_config_file)]
        check = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if check.returncode != 0:
            raise LoopbackSshdError(f"sshd refuses its configuration:\n{check.stderr}")

    def _start_sshd(self) -> bool:
        """Has the guard start sshd; True when it accepts connections, False when it ended."""
        assert self._guard is not None
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdin.write("start\n")
        self.pid = int(self._guard.stdout.readline())
        deadline = time.monotonic() + DEADLINE
        while True:
            # The guard says a word when sshd ends; until then this is the pause between two tries.
            if select.select([self._guard.stdout], [], [], 0.02)[0]:
                self._guard.stdout.readline()
                return False
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as probe:
                    # Not only a connection: somebody else could listen there.
                    if probe.recv(4) == b"SSH-":
                        return True
            except ConnectionError:
                pass
            if time.monotonic() > deadline:
                raise LoopbackSshdError(f"sshd does not answer:\n{self.log.read_text()}")


def find_sshd() -> str:
    """Finds sshd, which has to be started by its absolute path.

    Raises:
        LoopbackSshdError: There is none.
    """
    # The sbin folders are not on the PATH of an ordinary user.
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/sbin"]
    found = shutil.which("sshd", path=os.pathsep.join(folders))
    if found is None:
        raise LoopbackSshdError("there is no sshd: install one (Debian, Ubuntu: openssh-server)")
    return os.path.abspath(found)


# A forked child of this process inherits the pipe to the guard: sshd must not live on because of
# it, nor may the child end it.
_running: weakref.WeakSet[LoopbackSshd] = weakref.WeakSet()


def _forget_in_forked_child() -> None:
    for sshd in list(_running):
        if sshd._guard is not None and sshd._guard.stdin is not None:
            os.close(sshd._guard.stdin.fileno())
            # Kept for good: what happens when it is collected is not for the child to do.
            _inherited.append(sshd._guard)
            sshd._guard = None


_inherited: list[subprocess.Popen[str]] = []
os.register_at_fork(after_in_child=_forget_in_forked_child)


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        uid = os.getuid()
        raise LoopbackSshdError(
            f"sshd lets nobody in without an account, and uid {uid} has none"
        ) from None


def _account_is_locked(user: str) -> bool:
    """Whether sshd would call the account locked. Only root's sshd can know."""
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user}:!") for line in lines)


def _sshd_version(sshd: str) -> tuple[int, int]:
    # Before 9.2 there is no -V, but the usage that comes instead has the version too.
    argv = [sshd, "-V"]
    said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _quoted(value: str | os.PathLike[str], *, tokens: bool = False) -> str:
    """A word of a configuration file; ``tokens`` where OpenSSH expands ``%`` in it."""
    word = os.fspath(value)
    if re.search(r'["\\\n]', word):
        # Before OpenSSH 8.7 there was no way to write these.
        raise LoopbackSshdError(f"neither quotes, backslashes nor newlines, please: {word!r}")
    return '"' + (word.replace("%", "%%") if tokens else word) + '"'


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)


def _await_states(pids: Sequence[int], states: str) -> None:
    """Returns when every process is in one of the states, or gone: signals take a moment."""
    deadline = time.monotonic() + DEADLINE
    while True:
        processes = _processes()
        late = [pid for pid in pids if pid in processes and processes[pid][1] not in states]
        if not late:
            return
        if time.monotonic() > deadline:
            raise LoopbackSshdError(f"processes {late} do not heed a signal")
        time.sleep(0.005)


def _sshd_descendants(root: int) -> list[int]:
    """The sshd processes below ``root``: not what runs in their sessions, and no zombies."""
    processes = _processes()
    found: list[int] = []
    parents = {root}
    while parents:
        # sshd-session and sshd-auth since OpenSSH 9.8
        parents = {
            pid
            for pid, (parent, state, name) in processes.items()
            if parent in parents and state != "Z" and name.startswith("sshd")
        }
        found.extend(sorted(parents))
    return found


def _processes() -> dict[int, tuple[int, str, str]]:
    """The parent, state and name of every process."""
    found = {}
    if os.path.isdir("/proc/self"):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", errors="replace") as file:
                    # 42 (a name, with ) and blanks) S 41 ...
                    head, _, tail = file.read().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent = tail.split()[:2]
            found[int(entry)] = (int(parent), state, head.partition("(")[2])
    else:
        argv = ["ps", "-A", "-o", "pid=,ppid=,state=,comm="]
        for line in subprocess.run(
            argv, check=True, capture_output=True, text=True
        ).stdout.splitlines():
            pid, parent, state, name = line.split(None, 3)
            found[int(pid)] = (int(parent), state[0], os.path.basename(name))
    return found


# ── the guard: this file run as a program ─────────────────────────────────────────────────────────


def _run_guard(sshd: str, folder: Path, commands: IO[str]) -> None:
    """Starts sshd at a line of ``commands``; at their end, or at a signal, leaves nothing."""
    # Every signal, and the end of a child, is a byte in this pipe.
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    process: subprocess.Popen[bytes] | None = None
    try:
        while True:
            ready = select.select([commands, wake], [], [])[0]
            if wake in ready:
                if any(number != signal.SIGCHLD for number in os.read(wake, 64)):
                    return
                if process is not None and process.poll() is not None:
                    print("ended", flush=True)
                    process = None
            if commands in ready:
                if not commands.readline():
                    return
                with open(folder / "sshd.log", "ab") as log:
                    argv = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
                    process = subprocess.Popen(
                        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                print(process.pid, flush=True)
    finally:
        if process is not None:
            _end_sshd(process)
        _remove(folder)


def _end_sshd(process: subprocess.Popen[bytes]) -> None:
    """Ends sshd and its connections. They are found by their parent, so it goes last."""
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)  # no new connections from here on
        try:
            _await_states([process.pid], "TZ")
            while pids := _sshd_descendants(process.pid):
                _signal_all(pids, signal.SIGKILL)
                _await_states(pids, "Z")
        finally:
            process.kill()
            process.wait()


def _remove(folder: Path) -> None:
    """Removes the folder, though what the sessions ran may still be writing to HOME."""
    deadline = time.monotonic() + DEADLINE
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.05)


if __name__ == "__main__":
    _run_guard(sys.argv[1], Path(sys.argv[2]), sys.stdin)
