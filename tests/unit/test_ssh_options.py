"""The versions of ssh: which are refused, and that each executable is asked once."""

from __future__ import annotations

import os

import pytest

from lazycluster._ssh.options import Version, parse_version, ssh_version
from lazycluster.exceptions import LazyclusterError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u6, OpenSSL 3.0.19 27 Jan 2026", (9, 2)),
        ("OpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w  11 Sep 2023", (8, 4)),
        ("OpenSSH_10.0p2 Debian-7+deb13u4, OpenSSL 3.5.7 9 Jun 2026", (10, 0)),
        ("OpenSSH_9.0p1, LibreSSL 3.3.6", (9, 0)),
        ("OpenSSH_7.4p1-FIPS, OpenSSL 1.0.2k-fips  26 Jan 2017", (7, 4)),
        ("warning: something else first\nOpenSSH_8.0p1, OpenSSL 1.1.1k  FIPS 25 Mar 2021", (8, 0)),
    ],
)
def test_the_version_is_read_from_what_ssh_says(text, version):
    """Of Debian, Red Hat and macOS."""
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Dropbear v2020.81", "not OpenSSH"),
        ("", "not OpenSSH"),
        ("OpenSSH_6.9p1, OpenSSL 1.0.2", "7.0 or later"),
        ("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", "control master"),
    ],
)
def test_an_ssh_that_cannot_be_used_is_refused_with_what_it_printed(text, reason):
    """With the cure."""
    with pytest.raises(LazyclusterError, match=reason) as caught:
        parse_version(text)
    assert text[:20] in str(caught.value)


def fake_ssh(folder, version):
    path = folder / "ssh"
    path.write_text(f'#!/bin/sh\necho asked >>"{folder}/asked"\necho OpenSSH_{version}p1 >&2\n')
    path.chmod(0o755)


def test_the_version_is_asked_once_for_each_ssh(tmp_path, monkeypatch):
    """A different PATH is a different ssh."""
    for name, version in (("one", "8.1"), ("two", "9.9")):
        (tmp_path / name).mkdir()
        fake_ssh(tmp_path / name, version)
    monkeypatch.setenv("PATH", str(tmp_path / "one"), prepend=os.pathsep)
    assert [ssh_version(), ssh_version()] == [Version(8, 1)] * 2
    monkeypatch.setenv("PATH", str(tmp_path / "two"), prepend=os.pathsep)
    assert ssh_version() == Version(9, 9)
    assert (tmp_path / "one" / "asked").read_text() == "asked\n"


def test_without_ssh_the_error_names_the_package(tmp_path, monkeypatch):
    """Not a FileNotFoundError from somewhere below."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LazyclusterError, match="openssh-client"):
        ssh_version()


def test_an_ssh_that_cannot_be_run_is_a_clear_error(tmp_path, monkeypatch):
    """The file is there, and executable, and no program."""
    (tmp_path / "ssh").write_text("\0")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LazyclusterError, match="does not work"):
        ssh_version()
