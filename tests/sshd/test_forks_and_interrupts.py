"""Forks, forgotten Runtimes and Ctrl-C, each in a manager of its own: see forking_managers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.managers import logins, on_manager
from support.processes import await_gone
from support.programs import forking_managers
from support.waiting import wait_until

pytestmark = pytest.mark.every_python


@pytest.fixture
def check(make_sshd, tmp_path, short_folder):
    """Runs one of forking_managers, and looks that nothing is left after it."""

    def check(which, expected_logins=1):
        sshd = make_sshd()
        (tmp_path / "folder").mkdir()
        if which in (
            forking_managers.interrupt_login,
            forking_managers.fork_while_a_thread_logs_in,
        ):
            (tmp_path / "folder" / "sshd").write_text(str(sshd.pid))
        argv = [sys.executable, "-Wignore:This process:DeprecationWarning"]
        argv += [forking_managers.__file__, which.__name__]
        argv += [str(sshd.config_file), str(tmp_path / "folder")]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(short_folder)}
        with open(tmp_path / "stderr", "w+") as stderr:
            try:
                result = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    env=environment,
                    timeout=280,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                stderr.seek(0)  # an error in a thread of it may be why
                pytest.fail(f"{which.__name__} does not end; it printed: {stderr.read()}")
            stderr.seek(0)
            assert result.returncode == 0, stderr.read()
            assert stderr.read() == ""
        await_gone(on_manager(sshd))
        wait_until(lambda: not os.listdir(short_folder), "a control folder is left")
        assert logins(sshd) == expected_logins

    return check


# ── forks ─────────────────────────────────────────────────────────────────────────────────────────


def test_f35_the_exit_of_a_forked_child_touches_nothing(check):
    check(forking_managers.fork_then_exit)


def test_f35_a_forked_child_is_refused(check):
    check(forking_managers.fork_then_use, expected_logins=2)


def test_f35_asynchronous_execution_in_a_forked_child_is_refused(check):
    check(forking_managers.fork_then_execute_async)


def test_f35_cleanup_in_a_forked_child_ends_nothing(check):
    check(forking_managers.fork_then_cleanup)


def test_f35_terminate_in_a_forked_child_is_refused(check):
    check(forking_managers.fork_then_terminate)


def test_f35_a_fork_while_a_thread_logs_in(check):
    check(forking_managers.fork_while_a_thread_logs_in, expected_logins=2)


def test_f35_a_forked_child_may_have_its_own_runtime(check):
    check(forking_managers.fork_then_new_runtime, expected_logins=2)


def test_f35_multiprocessing_of_every_kind(check):
    check(forking_managers.multiprocess, expected_logins=4)


# ── garbage ───────────────────────────────────────────────────────────────────────────────────────


def test_f36_a_forgotten_runtime_ends(check):
    check(forking_managers.forget, expected_logins=2)


def test_f36_a_runtime_without_a_thread_leaves_nothing(check):
    check(forking_managers.no_thread, expected_logins=0)


def test_f36_tasks_log_in_no_more_after_cleanup(check):
    check(forking_managers.cleanup_at_once, expected_logins=5)


# ── Ctrl-C ────────────────────────────────────────────────────────────────────────────────────────


def test_f11_ctrl_c_ends_a_command(check):
    check(forking_managers.interrupt_command)


def test_f11_ctrl_c_ends_a_function(check):
    check(forking_managers.interrupt_function)


def test_f11_ctrl_c_of_join_leaves_the_task(check):
    check(forking_managers.interrupt_join)


def test_f11_a_second_ctrl_c_does_not_wait(check):
    check(forking_managers.interrupt_twice)


def test_f11_ctrl_c_in_the_middle_of_an_upload(check):
    check(forking_managers.interrupt_upload)


def test_f11_ctrl_c_during_the_login(check):
    check(forking_managers.interrupt_login, expected_logins=0)
