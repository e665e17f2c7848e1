"""No setting of ssh_config changes a result: not in the user's file, nor in the computer's."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lazycluster
from lazycluster import Connection
from lazycluster._ssh.options import ssh_version
from lazycluster.exceptions import AuthenticationError
from loopback_sshd import QUICK_LOGIN, LoopbackSshd
from support.managers import logins
from support.programs import hazards
from support.programs.hazards import HAZARDS, Hazard
from support.waiting import wait_until

# Some 40 connections in one go, where a loaded computer may take seconds for each.
pytestmark = pytest.mark.timeout(900)


class Place(NamedTuple):
    """Where the settings are tried out."""

    sshd: LoopbackSshd
    config: str
    """The text of an ssh_config that knows a host for each hazard."""
    busy: int
    """A port that is listened on."""
    folder: Path
    """For control sockets."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("sockets")
    # A second key, which known_hosts has not: ssh may ask whether to add it.
    key = tmp_path_factory.mktemp("keys") / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key], check=True)
    environment = {name: os.environ[name] for name in ("LAZYCLUSTER_TEST_SESSION", "TMPDIR")}
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        LoopbackSshd(
            sshd_config=["AcceptEnv *", f'HostKey "{key}"', QUICK_LOGIN],
            environment=environment,
            path=[Path(sys.base_prefix) / "bin"],
        ) as sshd,
    ):
        busy = listener.getsockname()[1]
        config = hazards.config(common_lines(sshd), busy=busy, folder=folder)
        yield Place(sshd, config, busy, folder)


def common_lines(sshd: LoopbackSshd) -> str:
    """What every ssh_config must have for this sshd."""
    return sshd.config_file.read_text().partition("\n")[2]


@pytest.fixture(params=HAZARDS, ids=lambda hazard: hazard.name)
def hazard(request: pytest.FixtureRequest) -> Hazard:
    if ssh_version() < request.param.since:
        pytest.skip("OpenSSH {}.{} knows it first".format(*request.param.since))
    return request.param


@pytest.fixture(autouse=True)
def display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a screen, so that ssh has something to forward and could ask for a passphrase there."""
    monkeypatch.setenv("DISPLAY", ":99")


# ── the user's file ───────────────────────────────────────────────────────────────────────────────


def test_f46_no_setting_of_the_users_changes_a_result(
    hazard: Hazard, place: Place, tmp_path: Path
) -> None:
    """A command, a function, a file each way, a port each way; and no socket where theirs go."""
    file = tmp_path / "config"
    file.write_text(place.config)
    hazards.check(hazard.alias, file, silence=hazard.silence, taken=place.busy)
    assert not os.listdir(place.folder)


def test_f46_a_master_of_the_users_own_is_left_alone(
    place: Place, tmp_path: Path, short_folder: Path
) -> None:
    """Ours is another, though their ControlPath leads to one that would do."""
    file = tmp_path / "config"
    file.write_text(place.config)
    control_path = short_folder / "master"
    lines = f"Host other\nControlMaster auto\nControlPath {control_path}\n"
    file.write_text(lines + place.config)
    before = logins(place.sshd)
    argv = ["ssh", "-F", file, "-M", "-N", "other"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as master:
        try:
            wait_until(control_path.exists)
            hazards.check("other", file)
            assert logins(place.sshd) == before + 2
            assert master.poll() is None
            assert control_path.exists()
        finally:
            master.terminate()


@pytest.mark.parametrize("level", ["QUIET", "FATAL", "DEBUG3"])
def test_f46_no_log_level_hides_why_a_login_failed(
    level: str, place: Place, tmp_path: Path
) -> None:
    """The error is the same, with ssh's own reason."""
    file, key = tmp_path / "config", tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    # The first key counts, and of the others none is tried.
    lines = f"LogLevel {level}\nIdentityFile {key}\n"
    common = common_lines(place.sshd).splitlines(keepends=True)
    file.write_text(lines + "".join(line for line in common if "IdentityFile" not in line))
    with pytest.raises(AuthenticationError, match="Permission denied"):
        Connection("127.0.0.1", config_file=file, connect_timeout=100).open()


# ── the computer's file ───────────────────────────────────────────────────────────────────────────

SYSTEM_WIDE = Path("/etc/ssh/ssh_config")

# In mounts of its own, which no other process sees and which end with it.
MANAGER = """
mount --bind "$1" /etc/ssh/ssh_config || exit
if [ -d "$2/.ssh" ]; then mount --bind "$3" "$2/.ssh" || exit; fi
shift 3
exec "$@"
"""


@pytest.fixture(scope="module")
def wrong(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What is wrong with each host where /etc/ssh/ssh_config is ours, and the user has none."""
    if not SYSTEM_WIDE.exists():
        pytest.skip(f"there is no {SYSTEM_WIDE}")
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if shutil.which("unshare") is None or not succeeds([*unshare, "true"]):
        pytest.skip(f"`{' '.join(unshare)}` is not possible here")
    folder = tmp_path_factory.mktemp("system-wide")
    (folder / "empty").mkdir()
    file = folder / "ssh_config"
    file.write_text(place.config)
    home = pwd.getpwuid(os.getuid()).pw_dir
    hosts = [hazard.alias for hazard in hazards.known_hazards()]
    package = Path(lazycluster.__file__).parent.parent
    done = subprocess.run(
        [
            *(*unshare, "sh", "-c", MANAGER, "sh", file, home, folder / "empty"),
            *(sys.executable, hazards.__file__, *hosts),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "DISPLAY": ":99", "PYTHONPATH": str(package)},
        timeout=800,
    )
    assert done.returncode == 0
    return json.loads(done.stdout)


def succeeds(argv: list[str]) -> bool:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return done.returncode == 0


def test_f46_no_setting_of_the_computers_changes_a_result(
    hazard: Hazard, wrong: dict[str, str | None]
) -> None:
    """The same, in the file that ssh itself looks for."""
    assert wrong[hazard.alias] is None
