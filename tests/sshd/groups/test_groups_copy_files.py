"""Files to all hosts and from all hosts, with one progress for all."""

from __future__ import annotations

import io
import sys

import pytest

from lazycluster import FileTransferError, GroupError
from lazycluster._group.files import folders_of
from support.waiting import wait_until

HOSTS = ["web1", "web2", "web3"]
SIZE = 3_000_000


@pytest.fixture(autouse=True)
def folders(group, tmp_path):
    """Give each host an empty working directory."""
    group.clear_tasks()
    for runtime in group:
        runtime.working_dir = str(tmp_path / "hosts" / runtime.host)


@pytest.mark.parametrize("execute_async", [True, False])
def test_a_file_goes_to_all_hosts(group, folder, execute_async):
    (folder / "a.txt").write_text("hello")
    tasks = group.send_file("a.txt", "b/c.txt", execute_async)
    assert [task.name for task in tasks] == [f"send-file-a.txt-to-{host}" for host in HOSTS]
    group.join()
    assert [result.stdout for result in group.run("cat b/c.txt").values()] == ["hello"] * 3
    group.send_file(b"bytes", "d", execute_async=False, mode=0o600)
    assert group.run("cat d; stat -c %a d").folded() == "web[1-3]: bytes600"


def test_a_file_of_each_host_comes_into_a_folder_of_its_own(group, folder):
    group.run("basename $PWD > name; mkdir d; echo x > d/e")
    tasks = group.get_file("name", execute_async=False)
    assert [task.name for task in tasks] == [f"get-file-name-from-{host}" for host in HOSTS]
    assert [(folder / host / "name").read_text() for host in HOSTS] == [f"{h}\n" for h in HOSTS]
    group.get_file("d/", "into/here")
    group.join()
    assert [(folder / "into" / "here" / host / "e").read_text() for host in HOSTS] == ["x\n"] * 3
    group.get_file("d", "into", execute_async=False, exclude=["e"])
    assert [list((folder / "into" / host / "d").iterdir()) for host in HOSTS] == [[]] * 3


def test_no_two_hosts_have_one_folder():
    hosts = ["joe@a:22", "joe@a_22", "WEB", "web", "..", "a/b", "::1"]
    folders = folders_of(hosts)
    assert list(folders) == hosts
    assert list(folders.values()) == [
        "joe@a_22",
        "joe@a_22_2",
        "WEB",
        "web_2",
        "_",
        "a_b",
        "__1",
    ]


def test_a_host_that_fails_does_not_stop_the_others(group, folder):
    """0.2 stopped at the first failure."""
    (folder / "a").write_text("hello")
    group.get_runtime("web1").run("touch b")
    with pytest.raises(GroupError) as caught:
        group.send_file("a", "b/c", execute_async=False)
    (error,) = caught.value.errors.values()
    assert isinstance(error, FileTransferError)
    assert error.host == "web1"
    assert list(caught.value.results) == ["web2", "web3"]
    assert [r.stdout for r in group.run("cat b/c", check=False).ok.values()] == ["hello"] * 2
    tasks = group.send_file("a", "b/c")
    group.join()
    assert [task.error is not None for task in tasks] == [True, False, False]


def test_all_copies_have_one_progress(group, folder):
    (folder / "a").write_bytes(bytes(SIZE))
    reports = []
    group.send_file("a", execute_async=False, progress=lambda *state: reports.append(state))
    assert {total for _, total in reports} == {3 * SIZE}
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (3 * SIZE, 3 * SIZE)
    reports.clear()
    tasks = group.get_file("a", "back", progress=lambda *state: reports.append(state))
    group.join()
    assert [task.error for task in tasks] == [None] * 3
    assert reports[-1] == (3 * SIZE, 3 * SIZE)


def test_a_copy_that_does_not_begin_is_not_waited_for_in_the_progress(group, folder):
    group.run('[ $(basename $PWD) = web2 ] || head -c 100000 /dev/zero > "a"')
    reports = []
    with pytest.raises(GroupError):
        group.get_file("a", execute_async=False, progress=lambda *state: reports.append(state))
    assert reports[-1] == (200_000, 200_000)


def test_an_exception_of_the_progress_stops_the_copies(group, folder):
    (folder / "a").write_bytes(bytes(1000))

    def fail(done, total):
        raise ValueError("enough")

    with pytest.raises(GroupError) as caught:
        group.send_file("a", execute_async=False, progress=fail)
    assert list(caught.value.errors) == HOSTS
    assert "enough" in str(caught.value)


@pytest.mark.parametrize("execute_async", [True, False])
def test_the_progress_is_one_line_on_a_terminal(group, folder, monkeypatch, execute_async):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    (folder / "a").write_bytes(bytes(1000))
    group.send_file("a", execute_async=execute_async, progress=True)
    group.join()
    shown = sys.stderr
    wait_until(lambda: shown.getvalue().endswith("\n"))
    assert shown.getvalue().count("\n") == 1
    assert "send a (3 hosts) 100 % of 3 kB" in shown.getvalue()


def test_bad_arguments_are_errors_before_anything_starts(group, folder, requests):
    with open(__file__, "rb") as file, pytest.raises(TypeError, match="once only"):
        group.send_file(file, "a")
    for call in (
        lambda: group.send_file(""),
        lambda: group.send_file(b"x"),
        lambda: group.get_file(""),
        lambda: group.send_file("a", on_error="ignore"),
        lambda: group.get_file("a", progress=7),
    ):
        with pytest.raises(ValueError, match=r"path|on_error|progress"):
            call()
    with pytest.raises(TypeError):
        group.get_file("a", b"folder")
    with pytest.raises(TypeError):
        group.send_file("a", execute_async="yes")
    assert requests == []
