"""preload=: a process on the host imports modules once, and functions are forked from it."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from contextlib import suppress

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import (
    ConnectionLostError,
    RemoteFunctionError,
    StepTimeoutError,
)
from support.processes import await_gone, is_alive, parents, read_pid
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def is_imported(*names):
    return [name in sys.modules for name in names]


def pids():
    """Return the pids of the function, of the branch, and of the supervisor."""
    branch = os.getppid()
    with open(f"/proc/{branch}/stat") as file:
        return os.getpid(), branch, int(file.read().rpartition(")")[2].split()[1])


def test_functions_find_the_modules_imported_and_are_isolated(own_runtime):
    view = own_runtime.with_options(preload=["wave", "xml.dom.minidom"])
    assert view.call(is_imported, "wave", "xml.dom.minidom") == [True, True]
    assert own_runtime.call(is_imported, "wave", "xml.dom.minidom") == [False, False]
    (first, branch, supervisor), (second, same, _) = view.call(pids), view.call(pids)
    assert first != second
    assert branch == same
    assert supervisor == own_runtime.call(os.getppid)


def test_different_preloads_are_never_shared(own_runtime):
    one = own_runtime.with_options(preload=["wave"])
    two = own_runtime.with_options(preload=["mailbox"])
    assert one.call(is_imported, "wave", "mailbox") == [True, False]
    assert two.call(is_imported, "wave", "mailbox") == [False, True]
    assert one.call(pids)[1] != two.call(pids)[1]
    assert two.with_options(preload=[]).call(is_imported, "wave", "mailbox") == [False, False]


def test_tasks_of_a_runtime_use_it_too(make_runtime):
    runtime = make_runtime(preload=["wave"])
    task = RuntimeTask("three steps").run_command("echo one")
    task.run_function(lambda: "wave" in sys.modules).run_command("echo two")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["one\n", "", "two\n"]
    assert list(task.function_returns) == [True]
    assert list(runtime.execute_function(is_wave_imported).function_returns) == [True]


def is_wave_imported():
    return "wave" in sys.modules


def test_a_local_module_is_imported_once_and_again_when_it_has_changed(
    own_runtime, local, tmp_path
):
    source = "import os\nMAKER = os.getpid()\ndef maker():\n    return MAKER\n"
    warm = local(warm_module=source)
    view = own_runtime.with_options(preload=["warm_module"])
    (branch, again), pid = (view.call(warm.maker), view.call(warm.maker)), view.call(pids)[1]
    assert branch == again == pid
    (tmp_path / "warm_module.py").write_text(source + "def more():\n    return 'more'\n")
    os.utime(tmp_path / "warm_module.py", (time.time() + 5,) * 2)
    importlib.reload(warm)
    assert view.call(warm.more) == "more"
    assert view.call(warm.maker) == view.call(pids)[1] != branch
    await_gone([branch])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('mine')", "KeyError: 'mine'"),
        ("raise SystemExit('no')", "SystemExit: no"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()",
            "thread",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
        ("import os\nos._exit(3)", "ended by its exit"),
    ],
)
def test_a_module_that_cannot_be_preloaded_fails_functions_by_its_name(
    own_runtime, local, tmp_path, body, reason
):
    local(good_module="X = 1")
    (tmp_path / "bad_module.py").write_text(body)  # the manager does not import it
    view = own_runtime.with_options(preload=["good_module", "bad_module"])
    for _ in range(2):
        with pytest.raises(RemoteFunctionError, match="bad_module") as raised:
            view.call(divmod, 7, 2)
        assert reason in str(raised.value)
        assert view.run("echo fine").stdout == "fine\n"
    assert own_runtime.call(divmod, 7, 2) == (3, 1)


def test_a_module_that_the_host_lacks_is_named(own_runtime):
    view = own_runtime.with_options(preload=["wave", "no_such_module_at_all"])
    with pytest.raises(RemoteFunctionError, match="no_such_module_at_all cannot be preloaded"):
        view.call(divmod, 7, 2)
    with pytest.raises(RemoteFunctionError, match="no_such_module_at_all cannot be preloaded"):
        view.submit(divmod, 7, 2).result(TIMEOUT)


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ("numpy", TypeError),
        (5, TypeError),
        ([os], TypeError),
        ([5], TypeError),
        (["a b"], ValueError),
        (["-c"], ValueError),
        ([""], ValueError),
        (["__main__"], ValueError),
        ([".relative"], ValueError),
    ],
)
def test_what_are_no_names_of_modules_is_an_error_at_once(runtime, names, error):
    with pytest.raises(error, match="preload"):
        runtime.with_options(preload=names)


def echo(data):
    print("x" * 100_000)
    return data


def test_large_arguments_values_and_output_go_through(own_runtime):
    lines = []
    view = own_runtime.with_options(preload=["wave"], on_output=lines.append)
    data = os.urandom(20_000_000)
    assert view.call(echo, data) == data
    assert "".join(lines) == "x" * 100_000 + "\n"


def test_many_calls_at_once(own_runtime):
    view = own_runtime.with_options(preload=["wave"])
    futures = [view.submit(pow, number, 2) for number in range(100)]
    assert [future.result(TIMEOUT) for future in futures] == [n * n for n in range(100)]


def test_the_variables_of_the_runtime_are_there_at_the_import(own_runtime, local):
    module = local(env_module="import os\nSEEN = os.environ.get('SEEN_AT_IMPORT')\n")
    own_runtime.add_env_variables({"SEEN_AT_IMPORT": "yes"})
    view = own_runtime.with_options(preload=["env_module"], env={"SEEN_AT_IMPORT": "later"})
    assert view.call(lambda: (module.SEEN, os.environ["SEEN_AT_IMPORT"])) == ("yes", "later")


def test_the_path_of_the_runtime_is_there_too(own_runtime, tmp_path):
    (tmp_path / "only_on_the_host.py").write_text("import os\nMAKER = os.getpid()\n")
    own_runtime.add_env_variables({"PYTHONPATH": str(tmp_path)})
    view = own_runtime.with_options(preload=["only_on_the_host"])
    assert view.call(maker_there) == view.call(pids)[1]


def maker_there():
    return importlib.import_module("only_on_the_host").MAKER


def test_exit_functions_of_preloaded_modules_run_at_the_end_of_each_function(
    own_runtime, local, tmp_path
):
    local(good_module="X = 1")
    text = "import atexit\natexit.register(print, 'the end')\nprint('imported')\n"
    (tmp_path / "exit_module.py").write_text(text)  # the manager does not import it
    lines = []
    view = own_runtime.with_options(preload=["exit_module"], on_output=lines.append)
    for _ in range(2):
        view.call(divmod, 7, 2)
    assert lines == ["the end\n"] * 2


def draw():
    import random

    return random.random()


def test_random_numbers_differ(own_runtime):
    view = own_runtime.with_options(preload=["random"])
    assert len({view.call(draw) for _ in range(5)}) == 5


def test_the_streams_are_those_of_the_function(own_runtime, local):
    """A module may replace them while it is imported."""
    local(loud_module="import io, sys\nprint('at import')\nsys.stdout = sys.stderr = io.StringIO()")
    lines = []
    view = own_runtime.with_options(preload=["loud_module"], on_output=lines.append)
    for _ in range(2):
        view.call(print, "in the function")
    assert lines == ["in the function\n"] * 2


def square_all(numbers):
    import multiprocessing

    with multiprocessing.Pool(2) as pool:
        return pool.map(square, numbers)


def square(number):
    return number * number


def test_a_function_can_use_a_pool(own_runtime):
    view = own_runtime.with_options(preload=["multiprocessing.pool"])
    assert view.call(square_all, [1, 2, 3]) == [1, 4, 9]


def sleep_and_say(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)


def test_a_call_can_be_cancelled_and_time_out(own_runtime, tmp_path):
    path = tmp_path / "pid"
    view = own_runtime.with_options(preload=["wave"])
    future = view.submit(sleep_and_say, str(path))
    pid = read_pid(path)
    assert future.cancel()
    await_gone([pid])
    with pytest.raises(StepTimeoutError):
        view.with_options(timeout=1).call(time.sleep, 1000)
    assert view.call(divmod, 7, 2) == (3, 1)


def test_an_import_without_end_ends_with_the_calls_that_wait_for_it(
    own_runtime, local, tmp_path, nothing_left
):
    """And they do not start later."""
    local(good_module="X = 1")
    text = f"import os, time\nopen({str(tmp_path / 'began')!r}, 'w').write(str(os.getpid()))\n"
    (tmp_path / "slow_module.py").write_text(f"{text}time.sleep(1000)\n")
    view = own_runtime.with_options(preload=["slow_module"])
    future = view.submit(sleep_and_say, str(tmp_path / "pid"))
    pid = read_pid(tmp_path / "began")
    with pytest.raises(StepTimeoutError):
        view.with_options(timeout=0.5).call(divmod, 7, 2)
    assert is_alive(pid)
    assert future.cancel()
    await_gone([pid])
    assert not (tmp_path / "pid").exists()
    own_runtime.cleanup()
    nothing_left()


def leave_a_process():
    import subprocess

    return subprocess.Popen(["sleep", "1000"]).pid


def test_a_stop_ends_what_steps_have_left_on_either_side(make_runtime, tmp_path):
    """A copy is a request of its own, which the supervisor serves."""
    runtime = make_runtime(preload=["wave"])
    task = RuntimeTask("mixed").run_function(leave_a_process)
    task.send_file(__file__, str(tmp_path / "copy"))
    task.run_command("sleep 1000 & echo $!; exec sleep 1000")
    runtime.execute_task(task)
    wait_until(lambda: len(task.execution_log) == 3 and task.execution_log[2])
    children = {pid for pid, words in sleeps().items() if words[1:2] == [b"1000"]}
    assert len(children) >= 3
    task.stop()
    await_gone(children)


def sleeps():
    from support.processes import words

    return {pid: found for pid in parents() if (found := words(pid))[:1] == [b"sleep"]}


@pytest.mark.parametrize("is_running", [True, False])
def test_a_branch_that_is_killed_is_started_again(own_runtime, tmp_path, is_running):
    view = own_runtime.with_options(preload=["wave"])
    _, branch, _ = view.call(pids)
    future = view.submit(sleep_and_say, str(tmp_path / "pid")) if is_running else None
    if future is not None:
        read_pid(tmp_path / "pid")
    os.kill(branch, signal.SIGKILL)
    if future is not None:
        with pytest.raises(RemoteFunctionError, match="wave"):
            future.result(TIMEOUT)
        await_gone([int((tmp_path / "pid").read_text())])
    wait_until(lambda: not is_alive(branch))
    with suppress(RemoteFunctionError):  # sent before the supervisor knew
        view.call(divmod, 7, 2)
    assert view.call(pids)[1] != branch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_supervisor_ends_branches_and_their_functions(
    own_runtime, tmp_path, number, nothing_left
):
    view = own_runtime.with_options(preload=["wave"])
    _, branch, supervisor = view.call(pids)
    future = view.submit(sleep_and_say, str(tmp_path / "pid"))
    pid = read_pid(tmp_path / "pid")
    os.kill(supervisor, number)
    with pytest.raises(ConnectionLostError):
        future.result(TIMEOUT)
    await_gone([branch, pid])
    own_runtime.cleanup()
    nothing_left()


def test_the_end_of_the_connection_ends_branches(make_runtime, nothing_left):
    runtime = make_runtime(preload=["wave"])
    _, branch, _ = runtime.call(pids)
    runtime.cleanup()
    assert not is_alive(branch)
    nothing_left()


def test_unused_branches_are_few(own_runtime):
    names = ["wave", "mailbox", "calendar", "sched", "cmd", "code"]
    branches = {own_runtime.with_options(preload=[name]).call(pids)[1] for name in names}
    assert len(branches) == len(names)
    wait_until(lambda: sum(map(is_alive, branches)) <= 4)
