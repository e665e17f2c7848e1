"""From a host to a live control master: the guard, the bootstrap, what the host answers first."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from functools import cache
from typing import NamedTuple, cast

from lazycluster import _lifelines, _openssh, _ssh_errors
from lazycluster._askpass import Askpass
from lazycluster._remote import archive, frames
from lazycluster._settings import Settings
from lazycluster.exceptions import LazyclusterError, PythonNotFoundError, PythonVersionError

# The guard runs ssh and outlives the manager for as long as it takes to end it: a closed lifeline
# alone does not, while somebody uses a forward (measured with OpenSSH 9.2). Its standard input and
# output are ssh's. Its standard error is a pipe that only the manager holds: dash takes no other
# descriptor above 9 by its number. All that ssh started, a jump host's ssh say, is in the guard's
# process group. The trap comes after ssh, which would have it until its exec and lose a SIGTERM;
# the timer has it and therefore gets SIGKILL, and its sleep the SIGTERM. An ssh that is about to
# end gets none at first, which would take its exit status away: that comes after its output's end.
# The links in the folder lead to copies from the host that are not whole; who removes a link, guard
# or manager, deals with the copy.
GUARD = """
exec 3<&2 9<&0 </dev/null 2>>"$1/log"
folder=$1
shift
"$@" <&9 3<&- 9<&- &
ssh=$!
echo "$ssh" >"$folder/pid"
trap : TERM
exec 9<&- >/dev/null
PATH=/bin:/usr/bin:$PATH
tidy() {
    for copy in "$folder"/.lazycluster-*; do
        path=$(readlink "$copy") && rm "$copy" && {
            rm -rf "$path" || { chmod -R u+rwx "$path"; rm -rf "$path"; }
        }
    done
    rm -rf "$folder"
}
read -r end <&3
[ "$end" ] || kill -s TERM 0
(sleep 3; tidy; kill -s KILL 0) &
timer=$!
wait "$ssh"
status=$?
kill -s KILL "$timer"
tidy
kill -s TERM 0
exit "$status"
"""
GUARD_PATIENCE = 8.0  # seconds until a guard that was told to end is killed; it needs at most 3

# One line that bash, dash, csh, fish and busybox read alike; no data is in it, so that nothing a
# user typed is ever read by the login shell. `read` takes byte by byte from a pipe and so leaves
# the rest of standard input to Python, whose first text is read byte by byte, too.
#
# The first line that it reads says `exit`: were a start file to replace the shell (`exec zsh`), the
# other one would take all that follows for its script. And it must be whole: a start file that
# reads more than the spare lines has eaten of it. An interpreter that ends is passed over only if
# it has left the next line to be read, and so all behind it. Its text has a line for each try, as
# a comment; ours ends with 0, or by a signal, and nothing must be waited for then.
# Python 3.7 and newer would set LC_CTYPE for themselves and thereby for every command.
BOOTSTRAP = (
    "exec /bin/sh -c '"
    'while read -r e s h t n v p && [ -z "$e" ]; do :; done; '
    f'case "$e $s $t" in "exit {_ssh_errors.OTHER_SHELL}; lazycluster-"*) ;; '
    f"*) exit {_ssh_errors.INPUT_TAKEN};; esac; "
    "PYTHONCOERCECLOCALE=0; export PYTHONCOERCECLOCALE; "
    'c="import os,sys;exec(bytes().join(os.read(0,1)for i in range(int(sys.argv[2]))))"; '
    'if [ "$p" ]; then set -- "$p"; else set -- python$v python3; fi; f=; k=; '
    "for q do s=-; "
    'if [ "$p" ] || command -v $q >/dev/null 2>&1; then '
    'eval "$q -c \\"\\$c\\" $t $n"; s=$?; '
    f"case $s in 0|{_ssh_errors.PROGRAM_FAILED}|137|143) exit $s;; esac; "
    'read -r g; k="#$k"; [ "$g" = "$k$t" ] || exit $s; n=$((n-${#g}-1)); '
    'fi; f="$f $s"; done; '
    'for q in python python2; do command -v $q >/dev/null 2>&1 && f="$f $q"; done; '
    'echo "$t none$f"; while read -r q; do :; done\''
)
SPARE_LINES = "\n" * 8  # for start files that read a line or two
TRIES = 2  # interpreters that are looked for, at most
# In the order of import.
ROOMS = ("files", "frames", "function", "loop", "processes", "supervisor")
PACKAGE = "_lazycluster"  # what the host's half calls it, see loader
_OWN_VERSION = "{}.{}".format(*sys.version_info)
LOG_READ = 1 << 16  # bytes of what ssh has printed, at most
NOISE_KEPT = 2048  # bytes of what came before the answer, for the message of an error


logger = logging.getLogger("lazycluster")


class Answer(NamedTuple):
    """How the host answered: with a supervisor or with the reason why there is none."""

    kind: str  # "python", "old" or "none"
    # The version of an old one. Of none: the exit status of each interpreter that was tried, or a
    # dash if it was not found; then the names of others that are there.
    detail: str
    rest: bytes  # what came behind it: the first frames


class Preamble:
    """Finds the host's answer in what the login shell's start files may have printed before it."""

    def __init__(self, token: str) -> None:
        answer = rb" (python|old|none)((?: [\w.-]+)*)\n"
        self._pattern = re.compile(re.escape(token.encode()) + answer)
        self._seen = b""

    def feed(self, data: bytes) -> Answer | None:
        """The answer, or None while it has not come."""
        self._seen += data
        match = self._pattern.search(self._seen)
        if match is None:
            self._seen = self._seen[-NOISE_KEPT:]
            return None
        kind, detail = (group.decode("ascii", "replace").strip() for group in match.groups())
        return Answer(kind, detail, self._seen[match.end() :])

    @property
    def noise(self) -> str:
        """The end of what came instead of an answer."""
        return self._seen.decode("utf-8", "backslashreplace").strip()


class Master:
    """An ssh with its guard, started; the bootstrap is not written yet.

    Args:
        settings: What the user asked of ssh.

    Attributes:
        lifeline: The pipe into ssh, non-blocking.
        output: The pipe out of ssh.
        askpass: Who answers what is asked at the login; None if nobody can.

    Raises:
        LazyclusterError: There is no usable ssh, or no place for its socket.
    """

    def __init__(self, settings: Settings) -> None:
        version = _openssh.ssh_version()
        self.folder = _make_control_folder()
        self.control_path = os.path.join(self.folder, "s")
        self._lock = threading.Lock()
        self.lifeline = self.output = self._guard_pipe = -1
        self._log = -1
        self._last_log = b""
        self.askpass: Askpass | None = None
        try:
            self._log = os.open(os.path.join(self.folder, "log"), os.O_RDONLY | os.O_CLOEXEC)
            if settings.may_be_asked:
                self.askpass = Askpass(self.folder, settings)
            plain = _with_plain_config_file(settings, self.folder)
            argv = _openssh.master_argv(plain, self.control_path, version, BOOTSTRAP)
            ssh_input, self.lifeline = _lifelines.pipe()
            self.output, ssh_output = _lifelines.pipe()
            for fd in (self.lifeline, self.output):
                frames.widen(fd)
            guard_input, self._guard_pipe = _lifelines.pipe()
            try:
                os.set_blocking(self.lifeline, False)
                self._guard = subprocess.Popen(
                    ["/bin/sh", "-c", GUARD, "lazycluster-guard", self.folder, *argv],
                    stdin=ssh_input,
                    stdout=ssh_output,
                    stderr=guard_input,
                    env=_openssh.login_environment(
                        version, self.askpass.path if self.askpass else None
                    ),
                    start_new_session=True,
                )
            finally:
                for fd in (ssh_input, ssh_output, guard_input):
                    _lifelines.close(fd)
        except BaseException:
            # A KeyboardInterrupt may come when the guard runs already: it ends with its pipe.
            for fd in (self.lifeline, self.output, self._guard_pipe):
                _lifelines.close(fd)
            if self._log >= 0:
                os.close(self._log)
            if self.askpass is not None:
                self.askpass.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def log(self) -> str:
        """What ssh, a jump host's ssh and the host's own standard error have printed so far."""
        return self.log_since(0)

    def log_size(self) -> int:
        """How many bytes of that there are, for `log_since`."""
        with self._lock:
            return os.fstat(self._log).st_size if self._log >= 0 else len(self._last_log)

    def log_since(self, size: int) -> str:
        """What they have printed since there were `size` bytes."""
        with self._lock:
            if self._log >= 0:
                data = os.pread(self._log, LOG_READ, size)
            else:
                data = self._last_log[size:]
        return data.decode("utf-8", "backslashreplace")

    def close_lifeline(self) -> None:
        """The host's half ends then, and ssh with it if nothing else keeps it."""
        with self._lock:
            self.lifeline = _lifelines.close(self.lifeline)

    def release(self, *, ending: bool = False) -> None:
        """Tell the guard to end ssh and itself; a second time is fine.

        Args:
            ending: ssh is about to end by itself, with an exit status that somebody wants.
        """
        with self._lock:
            if ending and self._guard_pipe >= 0:
                try:
                    os.write(self._guard_pipe, b"ending\n")
                except OSError:  # somebody killed the guard
                    pass
            self._guard_pipe = _lifelines.close(self._guard_pipe)

    def wait(self) -> int:
        """Wait until ssh, its guard and their folder have gone; ssh's exit status.

        Only after `release`. A second time is fine.
        """
        try:
            status = self._guard.wait(GUARD_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            status = self._guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # if somebody killed the guard
        with self._lock:
            self.output = _lifelines.close(self.output)
            if self._log >= 0:
                self._last_log = os.pread(self._log, LOG_READ, 0)
                os.close(self._log)
                self._log = -1
        return status


def bootstrap(token: str, settings: Settings) -> bytes:
    """What the host reads first, by exact counts: the loader and the modules it loads."""
    guards = "".join("#" * number + token + "\n" for number in range(1, TRIES + 1))
    loader = guards.encode() + source("loader")
    unpacker, packed = source("archive"), _rooms()
    first = (
        f"{SPARE_LINES}exit {_ssh_errors.OTHER_SHELL}; # "
        f"{token} {len(loader)} {_OWN_VERSION} {settings.python or ''}\n"
    )
    head = f"{settings.keepalive} {len(unpacker)} {len(packed)}\n"
    return b"".join([first.encode(), loader, head.encode(), unpacker, packed])


def python_error(
    answer: Answer, settings: Settings, log: str
) -> PythonVersionError | PythonNotFoundError:
    """Make the exception for requests to a host that has no Python, or one that is too old.

    Args:
        answer: The host's answer, "old" or "none".
        settings: What the user asked of ssh.
        log: What the host has printed on standard error.
    """
    host = settings.host
    if answer.kind == "old":
        return PythonVersionError(
            f"Python on {host} is {answer.detail}, and at least 3.6 is needed. "
            "Name a newer interpreter with python=….",
            host=host,
            host_version=answer.detail,
            manager_version="{}.{}.{}".format(*sys.version_info),
        )
    names = [settings.python] if settings.python else [f"python{_OWN_VERSION}", "python3"]
    found = answer.detail.split()
    tried = ", ".join(
        name if status == "-" else f"{name} (exit status {status})"
        for name, status in zip(names, found)
    )
    printed = _ssh_errors.last_lines(log) if set(found[: len(names)]) != {"-"} else ""
    others = ", ".join(found[len(names) :])
    return PythonNotFoundError(
        f"There is no Python on {host} that can be used; looked for: {tried}"
        f"{f', which printed: {printed}' if printed else ''}. "
        f"Install Python 3.6 or newer there, or name it with python=…"
        f"{f' (there is: {others})' if others else ''}.",
        host=host,
    )


def make_token() -> str:
    """A word that nothing prints by chance."""
    return "lazycluster-" + os.urandom(16).hex()


@cache
def _rooms() -> bytes:
    return archive.pack({name: source(name).decode() for name in ROOMS})


@cache
def source(name: str) -> bytes:
    """The text of a module that runs on the host."""
    from importlib.abc import ResourceLoader

    spec = frames.__spec__
    assert spec is not None and spec.origin is not None  # noqa: PT018 - this is no test
    loader = cast(ResourceLoader, spec.loader)
    return loader.get_data(os.path.join(os.path.dirname(spec.origin), name + ".py"))


def _with_plain_config_file(settings: Settings, folder: str) -> Settings:
    """With a link in the control folder for a config file whose path a shell would not take as is.

    For ProxyJump ssh writes it unquoted into a line for the shell, which splits it at a blank and
    runs what is behind a `;` (seen with 9.2); in there `%` is for ssh.
    """
    path = settings.config_file
    if path is None or re.fullmatch(r"[\w@+=:,./-]+", os.fspath(path), re.ASCII):
        return settings
    link = os.path.join(folder, "config")
    os.symlink(path, link)
    return dataclasses.replace(settings, config_file=link)


def _make_control_folder() -> str:
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
        _openssh.check_control_path(path)
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
