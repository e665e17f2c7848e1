"""The names in `Host` lines of ssh_config."""

from __future__ import annotations

import os
import pwd

import pytest

from lazycluster._ssh import config_hosts
from lazycluster._ssh.config_hosts import configured_hosts


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a home folder with an empty .ssh, and make the system have no ssh_config."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setattr(config_hosts, "SYSTEM_CONFIG", str(tmp_path / "etc" / "ssh_config"))
    return tmp_path


@pytest.fixture
def write(home):
    """Return a function that writes a file below .ssh, or elsewhere."""

    def write(text, name="config"):
        path = home / ".ssh" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("Host web1\n  HostName 10.0.0.1\n", ["web1"]),
        ("Host web1 web2\tweb3", ["web1", "web2", "web3"]),
        ("Host=web1", ["web1"]),
        ("host = web1 web2", ["web1", "web2"]),
        ("HOST web1", ["web1"]),
        ("  Host web1  \r\n", ["web1"]),
        ('Host "web1" "web2" web3', ["web1", "web2", "web3"]),
        ("Host 'web1'", ["web1"]),
        ('"Host" web1', ["web1"]),
        ("Host web1 # web2", ["web1"]),
        ("Host web#1", ["web#1"]),
        ("# Host web1\n#Host web2", []),
        ("Host * web1 web? !web3 a*b", ["web1"]),
        ("Host web1\nHost web1 web2", ["web1", "web2"]),
        ("Match host web1\n  User joe\nHost web2", ["web2"]),
        ("HostName web1\nHostKeyAlias web2", []),
        ('Host "two words" web1', ["web1"]),
        ('Host web1 "unclosed', ["web1"]),
        ("Host -oProxyCommand=x web1 a;b", ["web1"]),
        ("Host .host machine/.host web1 team/web2", ["web1", "team/web2"]),  # systemd's names
        ("Host", []),
        ("Host web1\n\0\x1b[2J\nHost web2", ["web1", "web2"]),
        (b"Host web1 w\xff\nHost web2", ["web1", "web2"]),
        ("garbage without sense\n===\nHost web1", ["web1"]),
        ("Host webä", ["webä"]),
    ],
)
def test_names_are_literal_and_odd_entries_do_not_end_the_file(write, text, hosts):
    write(text)
    assert configured_hosts() == hosts


def test_the_users_file_comes_before_the_systems(write, home):
    write("Host mine both")
    write("Host both theirs\nInclude more", "../etc/ssh_config")
    write("Host more", "../etc/more")
    assert configured_hosts() == ["mine", "both", "theirs", "more"]


def test_without_home_the_account_has_the_file(write, home, monkeypatch):
    write("Host mine")
    monkeypatch.delenv("HOME")
    account = pwd.getpwuid(os.getuid())
    fields = [*account[:5], str(home), account[6]]
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(fields))
    assert configured_hosts() == ["mine"]
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["no account"])
    assert configured_hosts() == []


def test_a_file_that_is_given_is_read_alone(write, home):
    write("Host mine")
    write("Host other\nInclude third", "other")
    write("Host third", "third")  # relative to .ssh, as for ssh -F
    assert configured_hosts(str(home / ".ssh" / "other")) == ["other", "third"]
    assert configured_hosts(home / ".ssh" / "other") == ["other", "third"]
    assert configured_hosts("~/.ssh/other") == ["other", "third"]
    assert configured_hosts("none") == []
    with pytest.raises(FileNotFoundError):
        configured_hosts(str(home / "missing"))
    with pytest.raises(IsADirectoryError):
        configured_hosts(str(home))
    with pytest.raises(OSError, match="it is not a file"):
        configured_hosts("/dev/null")


def test_files_that_are_included_are_read_where_they_are_included(write, home):
    write('Host a\nInclude conf.d/* second "with blank" ~/third\nHost z')
    write("Host b2", "conf.d/2")
    write("Host b1", "conf.d/1")
    write("Host c\nInclude /etc/missing/*", "second")
    write("Host d", "with blank")
    write("Host e", "../third")
    assert configured_hosts() == ["a", "b1", "b2", "c", "d", "e", "z"]


def test_an_include_counts_whatever_is_around_it(write):
    write("Host a\n  Include one\nMatch user joe\n  Include = two")
    write("Host b", "one")
    write("Host c", "two")
    assert configured_hosts() == ["a", "b", "c"]


@pytest.mark.timeout(60)
def test_files_that_include_each_other_end(write):
    """Without a memory of the files, the last of these would take 2**16 reads."""
    write("Include config\nInclude config other other\nHost a")
    write("Include config other\nHost b", "other")
    assert sorted(configured_hosts()) == ["a", "b"]


def test_files_are_included_as_deeply_as_ssh_does(write):
    write("Include 1")
    for n in range(1, 20):
        write(f"Host h{n}\nInclude {n + 1}", str(n))
    assert configured_hosts() == [f"h{n}" for n in range(1, 17)]


@pytest.mark.timeout(60)
def test_what_cannot_be_read_is_left_out(write, home, caplog):
    """A folder, a FIFO without a writer, and a file that its owner may not read, unless as root."""
    write("Host a\nInclude folder fifo secret missing bad\nHost z")
    (home / ".ssh" / "folder").mkdir()
    os.mkfifo(home / ".ssh" / "fifo")
    write("Host s", "secret").chmod(0)
    (home / ".ssh" / "bad").symlink_to("bad")
    assert [host for host in configured_hosts() if host != "s"] == ["a", "z"]
    for name in ("folder", "fifo", "bad"):
        assert f".ssh/{name} is left out" in caplog.text
    assert "missing" not in caplog.text
