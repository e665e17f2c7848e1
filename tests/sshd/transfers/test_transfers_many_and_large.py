"""Many copies at once, and large ones."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.hosts import call, ended, run
from support.transfers import picture, text, unfinished


def test_many_copies_and_commands_at_once(own_runtime, here):
    """Over one connection, and each gets its own."""
    (here / "big").write_bytes(os.urandom(3 << 20))
    digest = hashlib.sha256((here / "big").read_bytes()).hexdigest()

    def use(number):
        own_runtime.send_file("big", f"big-{number}")
        (printed,) = run(own_runtime, f"sha256sum big-{number}")
        own_runtime.get_file(f"big-{number}")
        got = hashlib.sha256((here / f"big-{number}").read_bytes()).hexdigest()
        return printed.split()[0], got, call(own_runtime, text, value=number)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(use, range(20))) == [(digest, digest, n) for n in range(20)]
    assert not unfinished(here, own_runtime.working_dir)


def test_many_copies_to_one_target(runtime, there, elsewhere):
    """One of them is there in the end, whole."""
    for number in range(10):
        (elsewhere / str(number)).write_bytes(bytes([number]) * (1 << 20))
    tasks = [
        runtime.send_file(str(elsewhere / str(number)), "target", execute_async=True)
        for number in range(10)
    ]
    assert [ended(task).error for task in tasks] == [None] * 10
    data = (there / "target").read_bytes()
    assert len(data) == 1 << 20
    assert len(set(data)) == 1
    assert os.listdir(there) == ["target"]


def test_folder_of_2000_files(runtime, here, there, elsewhere):
    """All of them, both ways."""
    for number in range(2000):
        folder = elsewhere / "many" / str(number % 20)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_text(f"{number}\n" * (number % 50))
    runtime.send_file(str(elsewhere / "many"))
    assert picture(there / "many") == picture(elsewhere / "many")
    runtime.get_file("many")
    assert picture(here / "many") == picture(elsewhere / "many")


def test_deep_folder(runtime, here, there, elsewhere):
    """Deeper than a path can be."""
    source = elsewhere / "deep"
    source.mkdir()
    fd = os.open(source, os.O_RDONLY)
    for _ in range(100):
        try:
            os.mkdir("x" * 100, dir_fd=fd)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            pytest.skip("the file system opens folders by paths of bounded length")
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    runtime.send_file(str(source))
    runtime.get_file("deep")
    assert runtime.delete_dir("deep") is True
    count = 0
    fd = os.open(here / "deep", os.O_RDONLY)
    while (names := os.listdir(fd)) == ["x" * 100]:
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, count = below, count + 1
    os.close(fd)
    assert (count, names) == (100, ["file"])
    for folder in (source, here / "deep"):  # pytest could not
        assert runtime.delete_dir(str(folder)) is True


MANAGER = """
import re, sys
from lazycluster import Runtime

def most_memory():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) >> 10

alias, config_file, source, there, small, back = sys.argv[1:]
runtime = Runtime(alias, there, {"config_file": config_file})
runtime.send_file(small)
runtime.get_file("small", back + "-small")
before = most_memory()
runtime.send_file(source, "big")
sent = most_memory()
runtime.get_file("big", back)
print(before, sent, most_memory())
runtime.cleanup()
"""


def test_memory_stays_flat(sshd, tmp_path):
    """A file of 100 MB takes no more of the manager's than a small one, save for some buffers."""
    piece = os.urandom(1 << 20)
    with open(tmp_path / "source", "wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4, "big") + piece[4:])
    (tmp_path / "small").write_text("hello")
    argv = [sys.executable, "-c", MANAGER, sshd.alias, str(sshd.config_file)]
    paths = [str(tmp_path / name) for name in ("source", "there", "small", "back")]
    process = subprocess.run([*argv, *paths], capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr
    before, sent, got = (int(word) for word in process.stdout.split())
    assert sent < before + 30
    assert got < before + 30
    assert filecmp.cmp(tmp_path / "source", tmp_path / "back", shallow=False)
