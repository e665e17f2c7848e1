"""A host on this computer that sees neither the manager's files nor its packages.

It is a mount namespace. An empty file system covers each folder that is not the host's: the
project, the tests' packages, and temporary folders. The interpreter below the tests' virtual
environment stays, but its site-packages is empty: a bare Python of the manager's minor version.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from typing import Any

from loopback_sshd import LoopbackSshd
from support.interpreters import OWN_PYTHON

# `keep` saves a folder before others are covered, `restore` puts it back; both in the same order.
_SCRIPT = """set -e
mount -n -t tmpfs none /mnt
kept=0 restored=0
while [ "$1" != run ]; do
    case $1 in
        keep)
            kept=$((kept + 1))
            mkdir "/mnt/$kept"
            mount -n --rbind "$2" "/mnt/$kept"
            ;;
        cover) mount -n -t tmpfs none "$2" ;;
        restore)
            restored=$((restored + 1))
            mkdir -p "$2"
            mount -n --move "/mnt/$restored" "$2"
            ;;
    esac
    shift 2
done
shift
umount /mnt
mkdir -p -m 700 "${TMPDIR:-/tmp}"
exec "$@"
"""


def without_files(covered: Iterable[str], kept: Iterable[str] = ()) -> list[str]:
    """Return the words to put before an argv, so that the program does not see these folders.

    Args:
        covered: Folders that are empty for the program. Those that do not exist are left out.
        kept: Folders that it sees all the same, also below a covered one.
    """
    cover, keep = ({os.path.realpath(folder) for folder in each} for each in (covered, kept))
    words: list[str] = []
    seen: dict[str, bool] = {"/": True}  # whether the program sees what is at or below a path
    for folder in sorted({folder for folder in cover | keep if os.path.isdir(folder)}):
        above = max((path for path in seen if _is_below(folder, path)), key=len)
        if seen[above] != (folder in keep):
            seen[folder] = folder in keep
            words += ["restore" if folder in keep else "cover", folder]
    kept_words = [word for folder in words[1::2] if seen[folder] for word in ("keep", folder)]
    own = f"{os.geteuid()}", f"{os.getegid()}"
    unshare, back = ["unshare", "--mount"], []
    if own[0] != "0":  # the account is root in a user namespace for the mounts only
        unshare = ["unshare", "--map-root-user", "--mount"]
        back = ["unshare", "--user", f"--map-user={own[0]}", f"--map-group={own[1]}"]
    return [*unshare, "sh", "-c", _SCRIPT, "without-files", *kept_words, *words, "run", *back]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


@functools.cache
def why_not_separate() -> str | None:
    """Return why no separate host can be made here; None if one can."""
    if shutil.which("unshare") is None:
        return "there is no unshare (util-linux)"
    done = subprocess.run([*_without([]), "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace can be made: {done.stderr.strip()}" if done.returncode else None


def on_separate_host(*kept: str) -> list[str]:
    """Return the words to put before the argv of a host's program; none if it cannot be separate.

    Args:
        kept: Folders of the manager that the program sees all the same.
    """
    return [] if why_not_separate() else _without(kept)


def _without(kept: Iterable[str]) -> list[str]:
    kept = [os.path.realpath(folder) for folder in kept]
    covered = {
        folder
        for folder in _managers_folders()
        if not any(_is_below(os.path.realpath(folder), above) for above in kept)
    }
    return without_files(covered, [sys.base_prefix, *kept])


def _managers_folders() -> set[str]:
    """Return the folders of the manager that a real host does not have."""
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    standard = {os.path.realpath(folder) for folder in standard}
    # The project, the tests and what is installed, but not the standard library.
    imported = {
        os.path.realpath(folder)
        for folder in [os.getcwd(), *sys.path]
        if os.path.isdir(folder) and not _is_standard(os.path.realpath(folder), standard)
    }
    run = os.path.dirname(os.environ["HOME"])  # of tests/conftest.py, with all temporary folders
    environment = {sys.prefix} - {sys.base_prefix}
    return {*imported, *environment, *_site_packages(), run, "/tmp", "/var/tmp"}


def _is_standard(folder: str, standard: set[str]) -> bool:
    return folder in standard or os.path.basename(folder) == "lib-dynload"


@functools.cache
def _site_packages() -> list[str]:
    code = "import site; print(*site.getsitepackages(), sep='\\n')"
    return subprocess.run(
        [OWN_PYTHON, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()


class SeparateSshd(LoopbackSshd):
    """A LoopbackSshd whose sessions are on a separate host, if one can be made here.

    Its `folder`, with HOME, is the one place that both sides see, under the same path.

    Args:
        kept: Folders of the manager that the host sees as well.
        arguments: The arguments of LoopbackSshd.
    """

    def __init__(self, *, kept: Iterable[str] = (), **arguments: Any) -> None:
        super().__init__("separate", **arguments)
        self._kept = list(kept)

    def _server_argv(self, server: str) -> list[str]:
        return [*on_separate_host(str(self.folder), *self._kept), *super()._server_argv(server)]
