"""Hosts that allow few sessions on one connection (MaxSessions): one login is enough for all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import Connection, RuntimeTask
from lazycluster.exceptions import SshError
from support.hosts import commands
from support.managers import logins
from support.waiting import wait_until


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_f6_everything_shares_one_login(make_sshd, make_runtime, tmp_path, limit):
    """300 commands at once, functions and files both ways."""
    sshd = make_sshd(sshd_config=[f"MaxSessions {limit}"])
    runtime = make_runtime(on=sshd)
    (tmp_path / "file").write_text("data")
    tasks = [
        runtime.execute_task(RuntimeTask().run_command(f"sleep 0.5; echo {number}"))
        for number in range(300)
    ]
    functions = [runtime.execute_function(os.getpid, execute_async=True) for _ in range(3)]
    copies = [
        runtime.execute_task(
            RuntimeTask()
            .send_file(str(tmp_path / "file"), f"file-{number}")
            .get_file(f"file-{number}", str(tmp_path / f"copy-{number}"))
        )
        for number in range(3)
    ]
    runtime.join()
    assert [task.execution_log for task in tasks] == [[f"{number}\n"] for number in range(300)]
    assert len({value for task in functions for value in task.function_returns}) == 3
    assert [task.error for task in copies] == [None] * 3
    assert [(tmp_path / f"copy-{number}").read_text() for number in range(3)] == ["data"] * 3
    assert logins(sshd) == 1


@pytest.mark.parametrize("limit", [2, 4])
def test_f6_run_beyond_the_limit_is_refused(make_sshd, tmp_path, limit):
    """With the cure, and without a login of its own; tasks go on, and so do others when they can.

    The session of the tasks is one of those that are counted.
    """
    sshd = make_sshd(sshd_config=[f"MaxSessions {limit}"])
    gate = tmp_path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        with ThreadPoolExecutor(limit) as pool:
            try:
                running = [
                    pool.submit(connection.run, f": > {tmp_path}/{number}; {wait}; echo {number}")
                    for number in range(limit - 1)
                ]
                for number in range(limit - 1):
                    wait_until((tmp_path / str(number)).exists)
                with pytest.raises(SshError, match=r"\(MaxSessions\).*Raise MaxSessions"):
                    connection.run("echo hi")
                assert commands("echo hi").execute(connection).execution_log == ["hi\n"]
            finally:
                gate.touch()
            assert [task.result().stdout for task in running] == [
                f"{number}\n" for number in range(limit - 1)
            ]
        assert connection.run("echo hi").stdout == "hi\n"
    assert logins(sshd) == 1


def test_f6_no_session_at_all(make_sshd):
    """A host with MaxSessions 0 runs no command, and the error names MaxSessions."""
    sshd = make_sshd(sshd_config=["MaxSessions 0"])
    connection = Connection(sshd.alias, config_file=sshd.config_file)
    with pytest.raises(SshError, match="MaxSessions"):
        connection.open()
    assert logins(sshd) == 1
