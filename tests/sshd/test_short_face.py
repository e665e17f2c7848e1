"""run, call and submit: commands and functions without a task."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster._tasks import unfinished
from lazycluster.exceptions import (
    CommandError,
    ConnectError,
    ConnectionLostError,
    LazyclusterError,
    RemoteFunctionError,
    RemoteTraceback,
    SerializationError,
    StepTimeoutError,
)
from lazycluster.futures import RemoteFuture
from loopback_sshd import LoopbackSshd
from support.hosts import supervisor
from support.processes import await_gone, await_recorded, end, is_alive, recorded
from support.programs import unfinished_calls
from support.waiting import TIMEOUT, wait_until

FOREVER = 1000
LARGE = 100 * 2**20


@pytest.fixture
def log_folder(monkeypatch, tmp_path):
    """Return the folder of the log files of this test."""
    folder = tmp_path / "main directory"
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(folder))
    return folder


def wait_forever(pids):
    open(f"{pids}/{os.getpid()}", "w").close()
    time.sleep(FOREVER)


# ── run ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("stays_good")
def test_run_returns_both_streams_and_the_exit_status(runtime):
    result = runtime.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.exit_status, result.signal, result.returncode) == (3, None, 3)
    assert result.command == "echo out; echo err >&2; exit 3"
    assert pickle.loads(pickle.dumps(result)) == result


def test_run_reports_the_signal(runtime):
    result = runtime.run("ulimit -c 0; kill -s SEGV $$", check=False)
    number = int(signal.SIGSEGV)
    assert (result.exit_status, result.signal, result.returncode) == (None, number, -number)


@pytest.mark.parametrize("command", ["exit 7", "kill -9 $$"])
def test_a_command_that_fails_raises(runtime, command):
    with pytest.raises(CommandError) as caught:
        runtime.run(f"echo out; echo err >&2; {command}")
    error = caught.value
    assert error.output == "out\nerr\n"
    assert (error.exit_status, error.signal) == ((7, None) if "7" in command else (None, 9))
    assert error.host == runtime.host
    assert len(list(_frames(caught.tb))) == 2  # ours is one of them


def _frames(traceback):
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next


def test_bytes_that_are_not_text_arrive_exactly(runtime, tmp_path):
    data = os.urandom(3_000_000) + bytes(range(256))
    (tmp_path / "data").write_bytes(data)
    result = runtime.run(f"cat {tmp_path}/data; cat {tmp_path}/data >&2")
    assert (result.stdout_bytes, result.stderr_bytes) == (data, data)
    assert runtime.run(r"printf 'a\377b'").stdout == "a\\xffb"


def test_run_makes_no_task_and_no_log_file(runtime, log_folder):
    before = runtime.get_processes()
    runtime.run("echo hi")
    runtime.call(print, "hi")
    runtime.submit(print, "hi").result(TIMEOUT)
    assert runtime.get_processes() == before
    assert not log_folder.exists()


def test_run_has_the_directory_and_variables_of_the_runtime(make_runtime, tmp_path):
    runtime = make_runtime(str(tmp_path))
    runtime.env_variables = {"A": "1", "B": "2"}
    (tmp_path / "sub").mkdir()
    result = runtime.run(
        'pwd -P; echo "$A $B $C $WORKING_DIR"', cwd="sub", env={"B": "3", "C": "4"}
    )
    assert result.stdout == f"{tmp_path.resolve()}/sub\n1 3 4 {runtime.working_dir}\n"
    assert runtime.run('echo "$B$C"').stdout == "2\n"
    assert runtime.run("pwd -P", cwd="/").stdout == "/\n"
    for home in ("~", "$HOME", "${HOME}/"):
        assert runtime.run("pwd -P", cwd=home).stdout == runtime.run("cd; pwd -P").stdout


def test_a_directory_that_is_missing_is_named(runtime):
    with pytest.raises(LazyclusterError, match="none' No such file or directory") as caught:
        runtime.run("true", cwd="none")
    assert not isinstance(caught.value, CommandError)
    with pytest.raises(LazyclusterError, match="none' No such file or directory"):
        runtime.with_options(cwd="none").call(os.getcwd)


def test_run_by_another_shell(runtime):
    assert runtime.run("echo $-$0", shell="/bin/sh -e").stdout[0] == "e"


def test_a_timeout_stops_the_command(runtime, pids):
    with pytest.raises(StepTimeoutError) as caught:
        runtime.run(
            f"echo so far; touch {pids}/$$; sh -c 'touch {pids}/$$; exec sleep {FOREVER}'; echo no",
            timeout=0.7,
            check=False,
        )
    assert (caught.value.output, caught.value.timeout) == ("so far\n", 0.7)
    await_gone(await_recorded(pids, 2))


# ── input ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, b""), ("", b""), ("ü\n", "ü\n".encode()), (b"\0\xff", b"\0\xff"), ("\udcff", b"\xff")],
)
def test_a_command_reads_its_input(runtime, given, expected):
    assert runtime.run("cat", input=given).stdout_bytes == expected


@pytest.mark.usefixtures("stays_good")
def test_a_hundred_megabytes_are_read(runtime):
    data = os.urandom(2**20) * (LARGE // 2**20)
    result = runtime.run("sha256sum", input=data)
    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("command", ["true", "head -c 10", "exec <&-; sleep 0.2"])
def test_input_that_is_not_read_does_no_harm(runtime, command):
    assert runtime.run(command, input=bytes(LARGE)).exit_status == 0
    assert runtime.run("cat", input="next").stdout == "next"


def test_commands_of_a_task_have_inputs_of_their_own(runtime):
    task = (
        RuntimeTask().run_command("cat", input="one").run_command("head -c 1", input=bytes(LARGE))
    )
    task.run_command("cat").run_command("cat", input=b"two\n")
    runtime.execute_task(copy.deepcopy(task), execute_async=False)
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["one", "\0", "", "two\n"]
    assert "two" not in repr(task.steps)  # it may be a password
    with pytest.raises(TypeError, match="input"):
        task.run_command("cat", input=3)


# ── on_output ─────────────────────────────────────────────────────────────────────────────────────


def test_each_line_is_handed_over(runtime):
    lines = []
    result = runtime.run(
        r"echo one; echo two >&2; printf 'th'; sleep 0.1; printf 'ree\n\303'; sleep 0.1; "
        r"printf '\274\377'; printf end >&2",
        on_output=lines.append,
    )
    assert lines[:3] == ["one\n", "two\n", "three\n"]
    assert sorted(lines[3:]) == ["end", "ü\\xff"]
    assert (result.stdout, result.stderr) == ("one\nthree\nü\\xff", "two\nend")


def test_lines_come_while_the_command_runs(runtime, gate):
    runtime.run(f"echo ready; {gate.wait}", on_output=lambda line: _open(gate))


def _open(gate):
    # The callback may use the Runtime itself.
    gate.open()


def test_a_callback_that_fails_is_logged_once_and_output_goes_on(runtime, caplog):
    seen = []

    def fail(line):
        seen.append(line)
        raise SystemExit("no")

    assert runtime.run("seq 3", on_output=fail).stdout == "1\n2\n3\n"
    assert seen == ["1\n", "2\n", "3\n"]
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "on_output" in record.getMessage()


def test_a_slow_callback_does_not_stop_the_connection(runtime):
    """Other requests are served, and no line is lost."""
    seen, may_go = [], threading.Event()

    def wait(line):
        may_go.wait(TIMEOUT)
        seen.append(line)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        flood = pool.submit(runtime.run, "seq 200000", on_output=wait)
        assert runtime.run("echo quick").stdout == "quick\n"
        may_go.set()
        assert flood.result(TIMEOUT).stdout == "".join(seen)


def test_lines_of_functions_are_handed_over_before_the_end(runtime):
    lines = []
    view = runtime.with_options(on_output=lines.append)
    assert view.call(_talk, 2) is None
    assert lines == ["0\n", "1\n"]
    assert view.submit(_talk, 3).result(TIMEOUT) is None
    assert lines == ["0\n", "1\n", "0\n", "1\n", "2\n"]


def _talk(count):
    for number in range(count):
        print(number)


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"command": ""}, ValueError),
        ({"command": "a\0b"}, ValueError),
        ({"command": b"true"}, ValueError),
        ({"input": 3}, TypeError),
        ({"input": "\ud800"}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "1"}, ValueError),
        ({"env": {"A B": "1"}}, ValueError),
        ({"env": {"A": "\0"}}, ValueError),
        ({"env": {"WORKING_DIR": "/"}}, ValueError),
        ({"cwd": b"a"}, TypeError),
        ({"cwd": ""}, ValueError),
        ({"cwd": "a\0"}, ValueError),
        ({"shell": ""}, ValueError),
        ({"shell": "a 'b"}, ValueError),
        ({"on_output": 3}, TypeError),
    ],
    ids=str,
)
def test_bad_input_is_an_error_before_anything_starts(runtime, requests, arguments, error):
    with pytest.raises(error):
        runtime.run(**{"command": "true", **arguments})
    options = {key: value for key, value in arguments.items() if key not in ("command", "input")}
    if options:
        with pytest.raises(error):
            runtime.with_options(**options)
    assert requests == []


@pytest.mark.parametrize("method", ["call", "submit"])
def test_a_call_that_cannot_be_made_is_an_error_at_once(runtime, requests, method):
    call = getattr(runtime, method)
    with pytest.raises(ValueError, match="not callable"):
        call("pow")
    with pytest.raises(TypeError, match="missing"):
        call(_talk)
    with pytest.raises(TypeError, match="too many"):
        call(_talk, 1, 2)
    with pytest.raises(SerializationError, match="positional argument 1"):
        call(_talk, threading.Lock())
    assert requests == []


def test_a_call_that_cannot_be_sent_leaves_no_future(runtime):
    before = set(unfinished._entries)
    with pytest.raises(ValueError, match="at most"):
        runtime.with_options(env={"A": "x" * (1 << 26)}).submit(pow, 2, 3)
    assert set(unfinished._entries) == before
    assert runtime.call(pow, 2, 3) == 8


# ── call ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("stays_good")
def test_call_returns_the_value(runtime):
    assert runtime.call(pow, 2, 10) == 1024
    assert runtime.call(int, "ff", base=16) == 255
    assert runtime.call(lambda: None) is None
    assert len(runtime.call(bytes, LARGE)) == LARGE


def test_all_arguments_belong_to_the_function(runtime):
    def collect(**kwargs):
        return kwargs

    kwargs = {"function": 1, "self": 2, "timeout": 3, "debug": 4, "cwd": 5}
    assert runtime.call(collect, **kwargs) == kwargs
    assert runtime.submit(collect, **kwargs).result(TIMEOUT) == kwargs


class OwnError(Exception):
    pass


def _fail(text):
    print("printed before")
    raise OwnError(text)


def test_call_raises_the_functions_own_exception(runtime):
    with pytest.raises(OwnError, match="bad") as caught:
        runtime.call(_fail, "bad")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "raise OwnError(text)" in str(caught.value.__cause__)
    assert len(list(_frames(caught.tb))) == 2


def test_an_end_without_an_exception_is_a_remote_function_error(runtime):
    with pytest.raises(RemoteFunctionError) as caught:
        runtime.call(lambda: os._exit(3))  # coverage.py replaces the function on the manager
    assert caught.value.exit_status == 3
    with pytest.raises(RemoteFunctionError):
        runtime.call(sys.exit, 3)


def test_an_interrupt_ends_the_call(runtime, pids):
    main_thread = threading.get_ident()

    def interrupt():
        await_recorded(pids, 1)
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        runtime.call(wait_forever, str(pids))
    thread.join()
    await_gone(await_recorded(pids, 1))


# ── with_options ──────────────────────────────────────────────────────────────────────────────────


def test_options_belong_to_the_view(runtime):
    view = runtime.with_options(env={"A": "1", "B": "1"}, cwd="/", shell="/bin/sh -f")
    inner = view.with_options(env={"B": "2"})
    assert view.run('echo "$A$B"; pwd; echo /*').stdout == "11\n/\n/*\n"
    assert inner.run('echo "$A$B"; pwd', env={"A": "3"}).stdout == "32\n/\n"
    assert inner.call(os.getenv, "B") == "2"
    assert inner.submit(os.getcwd).result(TIMEOUT) == "/"
    assert runtime.run('echo "$A$B"; pwd').stdout == f"\n{runtime.working_dir}\n"


def test_a_timeout_stops_a_call(runtime, pids):
    for timeout in (0.5, 5, 50):  # on a loaded computer the first is over before they have started
        view = runtime.with_options(timeout=timeout)
        with pytest.raises(StepTimeoutError):
            view.call(wait_forever, str(pids))
        future = view.submit(wait_forever, str(pids))
        with pytest.raises(StepTimeoutError):
            future.result(TIMEOUT)
        if len(recorded(pids)) >= 2:
            break
    await_gone(await_recorded(pids, 2))
    assert view.submit(pow, 2, 3).result(TIMEOUT) == 8


# ── submit ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("stays_good")
def test_a_future_has_the_value(runtime):
    future = runtime.submit(pow, 2, 5)
    assert isinstance(future, RemoteFuture)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(TIMEOUT) == 32
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert future.exception() is None
    assert future.host == runtime.host
    assert "pow" in repr(future)
    assert not future.cancel()


def test_a_future_cannot_be_an_argument(runtime):
    future = runtime.submit(pow, 2, 5)
    with pytest.raises(SerializationError, match=r"Use its result\(\)"):
        runtime.submit(id, future)
    assert future.result(TIMEOUT) == 32


def test_a_value_is_unpickled_once(runtime):
    future = runtime.submit(dict)
    assert future.result(TIMEOUT) is future.result()


def test_a_future_raises_the_functions_own_exception(runtime):
    future = runtime.submit(_fail, "bad")
    with pytest.raises(OwnError, match="bad") as caught:
        future.result(TIMEOUT)
    assert future.exception() is caught.value
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert len(list(_frames(caught.tb))) == 2


def test_arguments_are_pickled_when_they_are_submitted(runtime):
    numbers = [1, 2]
    future = runtime.submit(sum, numbers)
    numbers.append(3)
    assert future.result(TIMEOUT) == 3


def test_a_result_that_is_waited_for_too_long_goes_on(runtime, pids):
    future = runtime.submit(wait_forever, str(pids))
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0)
    (pid,) = await_recorded(pids, 1)
    wait_until(future.running)
    assert is_alive(pid)
    assert future.cancel()


def test_cancel_ends_the_process_on_the_host(runtime, pids, nothing_left):
    future = runtime.submit(wait_forever, str(pids))
    called = []
    future.add_done_callback(called.append)
    started = await_recorded(pids, 1)
    assert future.cancel()
    assert (future.done(), future.cancelled(), future.running()) == (True, True, False)
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    await_gone(started)
    wait_until(lambda: called == [future])
    nothing_left()


def _ignore_sigterm(pids):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_forever(pids)


def test_a_function_that_ignores_sigterm_is_killed(runtime, pids):
    future = runtime.submit(_ignore_sigterm, str(pids))
    started = await_recorded(pids, 1)
    assert future.cancel()
    await_gone(started)


def test_wait_and_as_completed_know_futures(runtime, pids):
    never = runtime.submit(wait_forever, str(pids))
    futures = [runtime.submit(pow, number, 2) for number in range(10)]
    done, rest = concurrent.futures.wait([*futures, never], TIMEOUT, "FIRST_COMPLETED")
    assert never in rest
    assert done
    found = {future.result() for future in concurrent.futures.as_completed(futures, TIMEOUT)}
    assert found == {number**2 for number in range(10)}
    failed = runtime.submit(_fail, "bad")
    done, rest = concurrent.futures.wait([failed, never], TIMEOUT, "FIRST_EXCEPTION")
    assert (done, rest) == ({failed}, {never})
    threading.Timer(0.1, never.cancel).start()
    assert list(concurrent.futures.as_completed([never], TIMEOUT)) == [never]


def test_asyncio_waits_for_futures(runtime):
    async def main():
        calls = [asyncio.wrap_future(runtime.submit(pow, number, 2)) for number in range(5)]
        return await asyncio.wait_for(asyncio.gather(*calls), TIMEOUT)

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_asyncio_gets_the_functions_own_exception(runtime):
    async def main():
        await asyncio.wrap_future(runtime.submit(_fail, "bad"))

    with pytest.raises(OwnError, match="bad"):
        asyncio.run(main())


def test_cancelling_in_asyncio_ends_the_process(runtime, pids):
    async def main():
        future = asyncio.wrap_future(runtime.submit(wait_forever, str(pids)))
        while not os.listdir(pids):
            await asyncio.sleep(0.01)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
    await_gone(await_recorded(pids, 1))


def test_300_calls_at_once_take_no_300_threads(runtime):
    before = threading.active_count()
    futures = [runtime.submit(pow, number, 2) for number in range(300)]
    most = threading.active_count()
    done, _ = concurrent.futures.wait(futures, TIMEOUT)
    assert len(done) == 300
    assert [future.result() for future in futures] == [number**2 for number in range(300)]
    assert most <= before + 2


def test_a_callback_may_wait_for_another_call(runtime):
    found = []
    future = runtime.submit(pow, 2, 2)
    future.add_done_callback(
        lambda done: found.append(runtime.submit(pow, done.result(), 2).result(TIMEOUT))
    )
    wait_until(lambda: found == [16])


def test_a_callback_that_fails_is_logged(runtime, caplog):
    future = runtime.submit(pow, 2, 2)
    called = []
    future.add_done_callback(lambda done: 1 // 0)
    future.add_done_callback(called.append)
    wait_until(lambda: called == [future])
    future.add_done_callback(called.append)
    assert called == [future, future]


# ── endings ───────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_connection_is_the_error_of_its_futures(own_runtime, pids):
    future = own_runtime.submit(wait_forever, str(pids))
    started = await_recorded(pids, 1)
    end(supervisor(own_runtime))
    with pytest.raises(ConnectionLostError) as caught:
        future.result(TIMEOUT)
    assert caught.value.started is not False
    await_gone(started)
    # The next one logs in again, in a thread, and submit does not wait for it.
    assert own_runtime.submit(pow, 2, 3).result(TIMEOUT) == 8


def test_futures_that_wait_for_a_login_get_its_error(make_runtime, make_sshd):
    sshd = make_sshd()
    runtime = make_runtime(on=sshd)
    end(supervisor(runtime))
    wait_until(lambda: runtime._connection._find_open() is None)
    sshd.stop()
    futures = [runtime.submit(pow, 2, 3) for _ in range(5)]
    assert all(isinstance(future.exception(TIMEOUT), ConnectError) for future in futures)


def test_a_call_that_is_cancelled_before_its_login_does_not_run(make_runtime, make_sshd, pids):
    runtime = make_runtime(on=make_sshd())
    end(supervisor(runtime))
    wait_until(lambda: runtime._connection._find_open() is None)
    future = runtime.submit(wait_forever, str(pids))
    assert future.cancel()
    assert runtime.submit(pow, 2, 3).result(TIMEOUT) == 8
    assert os.listdir(pids) == []


def test_a_closed_runtime_takes_no_call(make_runtime, pids):
    runtime = make_runtime()
    future = runtime.submit(wait_forever, str(pids))
    started = await_recorded(pids, 1)
    runtime.cleanup()
    with pytest.raises(ConnectionLostError, match="closed"):
        future.result(TIMEOUT)
    await_gone(started)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        runtime.submit(pow, 2, 3)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        runtime.with_options(timeout=3).submit(pow, 2, 3)


def test_a_forked_child_gets_a_clear_error(runtime, pids):
    future = runtime.submit(wait_forever, str(pids))
    attempts = [
        lambda: runtime.run("true"),
        lambda: runtime.call(pow, 2, 3),
        lambda: runtime.submit(pow, 2, 3),
        future.result,
        future.exception,
        future.cancel,
    ]
    pid = os.fork()
    if pid == 0:
        status = 0
        for attempt in attempts:
            try:
                attempt()
                status = 1
            except LazyclusterError as error:
                status = status or (0 if "child forked from" in str(error) else 2)
            except BaseException:
                status = 3
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    await_recorded(pids, 1)
    assert future.cancel()


def _run_program(sshd, which, folder):
    return subprocess.run(
        [sys.executable, unfinished_calls.__file__, which, sshd.alias, sshd.config_file, folder],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("which", unfinished_calls.WAYS)
def test_calls_that_are_unfinished_at_the_exit_are_ended(sshd, pids, which):
    """One WARNING says so."""
    done = _run_program(sshd, which, pids)
    await_gone(await_recorded(pids, 3))
    message = "3 submitted calls were still running on loopback when the program ended"
    assert done.stderr.startswith(message), done.stderr
    assert (done.stdout, done.returncode) == ("", 0)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("which", unfinished_calls.POOLS)
def test_a_pool_that_waits_for_a_call_does_not_keep_the_program(sshd, pids, which):
    """Python joins the workers of pools before anything else at its exit."""
    done = _run_program(sshd, which, pids)
    assert done.returncode == 0
    assert "wait for a host" in done.stderr
    await_gone(await_recorded(pids, 3 + (which != "pool that waits")))


def test_a_runtime_lives_as_long_as_its_calls(sshd: LoopbackSshd):
    """And no longer: the last one that refers to it may be a call."""
    future = Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file}).submit(
        time.sleep, 0.2
    )
    assert future.result(TIMEOUT) is None
