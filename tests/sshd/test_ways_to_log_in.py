"""Where `ssh <host>` leads, a Connection does: jump hosts, Match, Include, certificates, agents."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Connection
from lazycluster._ssh.options import ssh_version
from lazycluster.exceptions import AuthenticationError, ConnectError
from loopback_sshd import LoopbackSshd
from support.hosts import commands
from support.machine import needs_ipv6
from support.managers import logins
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def lines_for(sshd: LoopbackSshd, *without: str) -> str:
    """The lines that an ssh_config needs for this sshd, save for some keywords."""
    lines = sshd.config_file.read_text().splitlines(keepends=True)[1:]
    return "".join(line for line in lines if line.split()[0] not in without)


def says_hi(host: str, **keywords: Any) -> bool:
    # Each hop may take its time on a loaded computer.
    with Connection(host, connect_timeout=100, **keywords) as connection:
        return commands("echo hi").execute(connection).execution_log == ["hi\n"]


def make_key(file: Path) -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return file


# ── forms of a host ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["{user}@127.0.0.1:{port}", "ssh://{user}@127.0.0.1:{port}"])
def test_a_host_may_have_a_user_and_a_port(form: str, sshd: LoopbackSshd) -> None:
    """It needs no alias and no other parameter."""
    assert says_hi(
        form.format(user=sshd.user, port=sshd.port),
        config_file="none",
        identity_file=sshd.user_key,
        options={"UserKnownHostsFile": str(sshd.known_hosts), "IdentitiesOnly": "yes"},
    )


@needs_ipv6
@pytest.mark.parametrize("form", ["::1", "[::1]", "[::1]:{port}", "ssh://{user}@[::1]:{port}"])
def test_a_host_may_be_an_ipv6_address(form: str, ipv6_sshd: LoopbackSshd, tmp_path: Path) -> None:
    """With and without brackets."""
    sshd = ipv6_sshd
    file = tmp_path / "config"
    file.write_text(f"HostKeyAlias [127.0.0.1]:{sshd.port}\n" + lines_for(sshd, "HostName"))
    assert says_hi(form.format(user=sshd.user, port=sshd.port), config_file=file)


@pytest.fixture(scope="module")
def ipv6_sshd() -> Iterator[LoopbackSshd]:
    environment = {name: os.environ[name] for name in ("LAZYCLUSTER_TEST_SESSION", "TMPDIR")}
    with LoopbackSshd(sshd_config=["ListenAddress ::1"], environment=environment) as sshd:
        yield sshd


# ── ssh_config ────────────────────────────────────────────────────────────────────────────────────

# What leads to the host, and how many logins that takes. What is not heeded leads to port 1, where
# no sshd is.
WAYS = {
    "pattern": ("Host tar?et !tarzet\nPort {port}\n", 1),
    "match-exec": ('Match exec "test %n = target"\nPort {port}\n', 1),
    "match-exec-that-prints": ('Match exec "echo noise; cat"\nPort {port}\n', 1),
    "match-exec-that-fails": ('Match exec false\nPort 2\nMatch !exec "false"\nPort {port}\n', 1),
    "match-host": ("Host target\nHostName 127.0.0.1\nMatch host 127.*\nPort {port}\n", 1),
    "match-originalhost": ("Match originalhost target\nPort {port}\n", 1),
    "match-final": ("Port {port}\nMatch final originalhost target\nProxyJump first\n", 2),
    "include": ('Include "{folder}/more files/*.conf"\n', 1),
    "include-in-a-block": ('Host target\nInclude "{folder}/more files/*.conf"\n', 1),
    "ignore-unknown": ("IgnoreUnknown No*,Use*\nUseKeychain yes\nPort {port}\nNoSuch yes\n", 1),
    "proxy-jump": ("Port {port}\nHost target\nProxyJump first\n", 2),
    "proxy-jump-twice": ("Port {port}\nHost target\nProxyJump first,second\n", 3),
    "proxy-jump-by-address": ("Host target\nPort {port}\nProxyJump {user}@localhost:{port}\n", 2),
    "proxy-jump-by-url": ("Host target\nPort {port}\nProxyJump ssh://localhost:{port}\n", 2),
    "jump-host-behind-another": (
        "Port {port}\nHost target\nProxyJump second\nHost second\nProxyJump first\n",
        3,
    ),
    "proxy-jump-none": ("Port {port}\nHost target\nProxyJump none\nHost *\nProxyJump first\n", 1),
    "proxy-command": (
        "Port {port}\nHost target\nProxyCommand ssh -F {folder}/config -W %h:%p first\n",
        2,
    ),
    "proxy-command-none": ("Port {port}\nProxyCommand none\nHost *\nProxyCommand false\n", 1),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ssh_config_says_how_to_get_there(way: str, sshd: LoopbackSshd, tmp_path: Path) -> None:
    """Every way of ssh_config that leads to a host, with no login too many."""
    if way == "proxy-jump-by-url" and ssh_version() < (8, 5):
        pytest.skip("ssh 8.4 refuses a URL for ProxyJump in its configuration")
    text, count = WAYS[way]
    write_config(tmp_path, sshd, text)
    before = logins(sshd)
    assert says_hi("target", config_file=tmp_path / "config")
    assert logins(sshd) == before + count


@pytest.mark.parametrize(
    ("jump_host", "count"),
    [("first", 2), ("first,second", 3), ("{user}@localhost:{port}", 2), ("none", 1)],
)
def test_jump_host_wins_over_ssh_config(
    jump_host: str, count: int, sshd: LoopbackSshd, tmp_path: Path
) -> None:
    """One, two, an address, or none at all."""
    text = "Port {port}\nHost target\nProxyJump first,second,third\n"
    write_config(tmp_path, sshd, text)
    before = logins(sshd)
    assert says_hi(
        "target",
        config_file=tmp_path / "config",
        jump_host=jump_host.format(user=sshd.user, port=sshd.port),
    )
    assert logins(sshd) == before + count


def write_config(folder: Path, sshd: LoopbackSshd, text: str) -> None:
    values = {"port": sshd.port, "user": sshd.user, "folder": folder}
    common = f"Host *\nPort 1\nHostKeyAlias [127.0.0.1]:{sshd.port}\n{lines_for(sshd, 'Port')}"
    (folder / "config").write_text(text.format(**values) + common)
    (folder / "more files").mkdir()
    (folder / "more files" / "a.conf").write_text(f"Host target\nPort {sshd.port}\n")


def test_a_dead_jump_host_is_named(sshd: LoopbackSshd, tmp_path: Path) -> None:
    """The error has the reason why it could not be reached."""
    write_config(tmp_path, sshd, "Host target\nPort {port}\nProxyJump first\n")
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1 port 1: Connection refused"):
        Connection("target", config_file=tmp_path / "config", connect_timeout=100).open()


@pytest.mark.parametrize(
    "name",
    ["a blank", "a 'quote'", 'two "quotes"', "a;touch touched", "$(touch touched)", "%h", "ü", "~"],
)
def test_any_name_of_a_config_file_goes_together_with_a_jump_host(
    name: str, sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh hands it to a shell, which must not read it."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, sshd, "Port {port}\nHost target\nProxyJump first\n")
    (tmp_path / "config").rename(tmp_path / name)
    assert says_hi("target", config_file=f"./{name}")
    assert not (tmp_path / "touched").exists()
    assert not os.listdir(os.environ["XDG_RUNTIME_DIR"])


# ── what lets one in ──────────────────────────────────────────────────────────────────────────────


def test_certificates_of_both_sides(make_sshd: Any, tmp_path: Path) -> None:
    """The host knows the user's authority and no key, the manager the host's authority."""
    authority, key, host_key = (
        make_key(tmp_path / name) for name in ("authority", "user_key", "host_key")
    )
    sign = ["ssh-keygen", "-q", "-s", authority, "-I", "test"]
    subprocess.run([*sign, "-h", f"{host_key}.pub"], check=True)
    sshd = make_sshd(
        sshd_config=[
            f'HostKey "{host_key}"',
            f'HostCertificate "{host_key}-cert.pub"',
            f'TrustedUserCAKeys "{authority}.pub"',
            "AuthorizedKeysFile none",
        ]
    )
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"@cert-authority * {Path(f'{authority}.pub').read_text()}")
    file = tmp_path / "config"
    own = f'IdentityFile "{key}"\nUserKnownHostsFile "{known_hosts}"\n'
    file.write_text(own + lines_for(sshd, "IdentityFile", "UserKnownHostsFile"))
    with pytest.raises(AuthenticationError):
        Connection("target", config_file=file, connect_timeout=100).open()
    subprocess.run([*sign, "-n", sshd.user, f"{key}.pub"], check=True)
    assert says_hi("target", config_file=file)
    assert re.search("Accepted publickey .* ED25519-CERT", sshd.log.read_text())


@pytest.mark.parametrize("told_by", ["SSH_AUTH_SOCK", "IdentityAgent"])
def test_a_key_that_only_an_agent_has(
    told_by: str, sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a jump host too."""
    file = tmp_path / "config"
    lines = lines_for(sshd, "IdentityFile", "IdentitiesOnly", "IdentityAgent", "Port")
    # A file of that name would be offered, too.
    text = f"IdentityFile {tmp_path}/missing\nPort {sshd.port}\nHost target\nProxyJump first\n"
    socket = Path(os.environ["TMPDIR"]) / "agent"  # a short path
    if told_by == "IdentityAgent":
        text = f"IdentityAgent {socket}\n" + text
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    else:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    file.write_text(f"{text}Host *\nHostKeyAlias [127.0.0.1]:{sshd.port}\n{lines}")
    argv = ["ssh-agent", "-D", "-a", socket]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until(socket.exists)
            with pytest.raises(AuthenticationError):
                Connection("target", config_file=file, connect_timeout=100).open()
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            subprocess.run(["ssh-add", "-q", sshd.user_key], check=True, env=environment)
            assert says_hi("target", config_file=file)
        finally:
            agent.terminate()
