"""run, call and submit on all hosts: results by host, failures, live output."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import threading

import pytest

from lazycluster import (
    CommandError,
    ConnectionLostError,
    GroupError,
    LazyclusterError,
    RuntimeGroup,
    RuntimeTask,
    StepTimeoutError,
)
from lazycluster.exceptions import SerializationError
from lazycluster.groups import GroupResult
from loopback_sshd import LoopbackSshd
from support.processes import is_alive
from support.waiting import wait_until

HOSTS = ["web1", "web2", "web3"]


@pytest.fixture(autouse=True)
def names(group):
    """Give each host a variable with its name."""
    for runtime in group:
        runtime.env_variables = {"NAME": runtime.host}


def test_run_gives_a_result_of_each_host_in_the_order_of_the_group(group):
    result = group.run("echo I am $NAME; echo careful >&2")
    assert isinstance(result, GroupResult)
    assert list(result) == HOSTS
    assert {host: one.stdout for host, one in result.items()} == {h: f"I am {h}\n" for h in HOSTS}
    assert result["web2"].stderr == "careful\n"
    assert list(result.ok) == list(result.results) == HOSTS
    assert not result.failed
    assert not result.errors
    assert result.check() is result
    with pytest.raises(KeyError):
        result["web9"]


def test_run_begins_everywhere_before_it_waits_for_any(group, tmp_path):
    command = (
        f"touch {tmp_path}/$NAME; until [ $(ls {tmp_path} | wc -l) -ge 3 ]; do sleep 0.01; done"
    )
    assert len(group.run(command).ok) == 3


def test_a_failure_is_raised_when_all_have_ended(group):
    with pytest.raises(GroupError) as caught:
        group.run('[ "$NAME" != web1 ] || { echo bad luck >&2; exit 7; }; sleep 0.2; echo fine')
    error = caught.value
    assert {host: one.stdout for host, one in error.results.items()} == {
        "web1": "",
        "web2": "fine\n",
        "web3": "fine\n",
    }
    (failure,) = error.errors.values()
    assert isinstance(failure, CommandError)
    assert (failure.host, failure.exit_status) == ("web1", 7)
    assert str(error) == "1 of 3 hosts failed.\n  web1: exit status 7: bad luck"
    again = pickle.loads(pickle.dumps(error))
    assert again.errors["web1"].exit_status == 7
    assert again.results["web2"].stdout == "fine\n"


def test_without_check_an_exit_status_counts_as_failed(group):
    result = group.run('echo $NAME; [ "$NAME" = web2 ]', check=False)
    assert list(result.ok) == ["web2"]
    assert list(result.failed) == list(result.errors) == ["web1", "web3"]
    assert result.failed["web1"] is result["web1"] is result.results["web1"]
    assert (result["web1"].exit_status, result["web1"].stdout) == (1, "web1\n")
    assert isinstance(result.errors["web1"], CommandError)
    with pytest.raises(GroupError):
        result.check()
    assert result.folded() == (
        "web1:\n  web1\n  failed: exit status 1\nweb2: web2\nweb3:\n  web3\n  failed: exit status 1"
    )
    assert repr(result) == "<GroupResult of web[1-3], 2 failed>"


def test_a_signal_and_a_timeout_count_as_failed(group):
    result = group.run("kill -9 $$", check=False)
    assert [one.signal for one in result.failed.values()] == [9] * 3
    result = group.run("echo begun; sleep 600", check=False, timeout=0.3)
    assert list(result.failed) == HOSTS
    assert not result.results
    assert all(isinstance(error, StepTimeoutError) for error in result.failed.values())
    assert result.errors["web1"].output == "begun\n"


def test_equal_outputs_are_folded(group):
    assert group.run("echo 6.1.0").folded() == "web[1-3]: 6.1.0"
    folded = group.run('if [ $NAME = web2 ]; then printf "a\\nb\\n"; else echo c; fi').folded()
    assert folded == "web[1,3]: c\nweb2:\n  a\n  b"
    assert group.run("printf '\\033[2Jx'").folded() == "web[1-3]: \\x1b[2Jx"


def test_options_are_as_on_a_runtime(group, tmp_path):
    result = group.run(
        "cat; echo $A $0; pwd", input="in\n", env={"A": 1}, cwd=str(tmp_path), shell="/bin/sh"
    )
    assert result["web1"].stdout == f"in\n1 /bin/sh\n{tmp_path}\n"
    view = group.with_options(env={"A": "view"}).with_options(env={"B": "more"}, timeout=60)
    assert view.run("echo $A $B $NAME")["web3"].stdout == "view more web3\n"
    assert view.call(os.environ.get, "A")["web1"] == "view"
    with pytest.raises(GroupError, match=r"web\[1-3\]: timeout of 0.2 seconds"):
        group.with_options(timeout=0.2).run("sleep 600")
    assert repr(view).startswith("<GroupView of <GroupView of <RuntimeGroup")


def test_output_comes_with_its_host_while_the_command_runs(group, tmp_path):
    lines = []

    def take(host, line):
        lines.append((host, line))
        (tmp_path / host).touch()  # which the command waits for

    group.run(
        f"echo one; until [ -e {tmp_path}/$NAME ]; do sleep 0.01; done; echo two >&2",
        on_output=take,
    )
    for host in HOSTS:
        assert [line for name, line in lines if name == host] == ["one\n", "two\n"]
    lines.clear()
    group.with_options(on_output=take).call(print, "hello")
    assert sorted(lines) == [(host, "hello\n") for host in HOSTS]
    with pytest.raises(TypeError, match="on_output"):
        group.run("true", on_output=7)


def test_call_gives_the_value_of_each_host(group):
    result = group.call(os.environ.get, "NAME")
    assert dict(result) == {host: host for host in HOSTS}
    assert group.call(pow, 2, exp=5).folded() == "web[1-3]: 32"


def test_call_raises_what_all_hosts_have_raised(group):
    def fail():
        name = os.environ["NAME"]
        if name != "web2":
            raise KeyError(name)
        return name

    with pytest.raises(GroupError) as caught:
        group.call(fail)
    assert dict(caught.value.results) == {"web2": "web2"}
    assert [repr(error) for error in caught.value.errors.values()] == [
        "KeyError('web1')",
        "KeyError('web3')",
    ]
    assert isinstance(caught.value.__cause__, KeyError)
    result = group.with_options(check=False).call(fail)
    assert list(result.ok) == ["web2"]
    assert repr(result["web3"]) == "KeyError('web3')"
    assert group.with_options(check=False).run("false").errors
    with pytest.raises(GroupError):
        group.with_options(check=False).run("false", check=True)


def test_a_function_is_pickled_once(group, monkeypatch):
    from lazycluster._runtime import calls

    dumped = []
    original = calls.dump_call
    monkeypatch.setattr(
        calls, "dump_call", lambda *a, **k: (dumped.append(a[0]), original(*a, **k))[1]
    )
    group.call(pow, 2, 2)
    assert dumped == [pow]


def test_what_cannot_be_pickled_or_called_starts_nowhere(group, requests):
    with pytest.raises(TypeError):
        group.call(pow)
    with pytest.raises(SerializationError):
        group.call(print, threading.Lock())
    with pytest.raises(ValueError, match="command"):
        group.run("")
    with pytest.raises(TypeError):
        group.run("true", input=7)
    with pytest.raises(ValueError, match="timeout"):
        group.with_options(timeout=-1)
    assert requests == []


def test_submit_gives_a_future_of_each_host(group):
    futures = group.submit(os.environ.get, "NAME")
    assert list(futures) == HOSTS
    assert [future.host for future in futures.values()] == HOSTS
    done = concurrent.futures.wait(futures.values(), timeout=60).done
    assert {future.result() for future in done} == set(HOSTS)

    async def gather():
        return await asyncio.gather(*map(asyncio.wrap_future, group.submit(pow, 2, 3).values()))

    assert asyncio.run(gather()) == [8, 8, 8]


def test_nothing_is_submitted_if_a_runtime_was_closed(make_group, requests):
    group = make_group(hosts=["web1", "web2"])
    group.get_runtime("web2").close()
    requests.clear()
    with pytest.raises(RuntimeError, match="after shutdown"):
        group.submit(pow, 2, 2)
    assert requests == []


def test_a_group_that_was_closed_logs_in_again_as_a_runtime_does(make_group):
    group = make_group(hosts=["web1", "web2"])
    group.close()
    assert group.run("echo on").folded() == "web[1-2]: on"
    group.close()
    assert dict(group.call(pow, 2, 2)) == {"web1": 4, "web2": 4}


def test_a_forked_child_can_neither_use_nor_harm_a_group(group):
    task = group.execute_task(RuntimeTask().run_command("sleep 600"), host="web1")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "nothing"
        try:
            group.cleanup()
            for use in (lambda: group.run("true"), lambda: group.call(pow, 2, 2)):
                try:
                    use()
                except LazyclusterError as error:
                    said = str(error)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as said:
        assert "child forked" in said.read()
    assert task.process.is_alive()
    assert len(group.run("true").ok) == 3
    task.stop()


def test_an_interrupted_run_stops_everything(group, pids, monkeypatch):
    """As Ctrl-C does."""

    def interrupt(self, timeout=None):
        wait_until(lambda: len(list(pids.iterdir())) == 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("lazycluster.futures.RemoteFuture.exception", interrupt)
    with pytest.raises(KeyboardInterrupt):
        group.run(f"touch {pids}/$$; exec sleep 600")
    assert not [path for path in pids.iterdir() if is_alive(int(path.name))]


def test_a_host_that_dies_in_the_middle_does_not_take_the_others_along(
    sshd: LoopbackSshd, make_sshd, config_of, tmp_path
):
    mortal = make_sshd()
    config = config_of(good1_good2=sshd, mortal=mortal)
    with RuntimeGroup(hosts=["good1", "mortal", "good2"], config_file=config) as group:
        begun = set()
        command = f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo well"
        view = group.with_options(check=False, on_output=lambda host, line: begun.add(host))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = pool.submit(view.run, command)
            wait_until(lambda: len(begun) == 3)
            mortal.kill_connections()
            (tmp_path / "go").touch()
            result = waiting.result()
        assert list(result.ok) == ["good1", "good2"]
        (error,) = result.errors.values()
        assert isinstance(error, ConnectionLostError)
        assert error.started is True
        assert result["mortal"] is error
        assert "mortal: failed: " in result.folded()
        # The next use logs in again.
        assert list(group.run("true").ok) == ["good1", "mortal", "good2"]


def test_a_host_that_does_not_come_back_fails_alone(sshd: LoopbackSshd, make_sshd, config_of):
    mortal = make_sshd()
    config = config_of(good=sshd, mortal=mortal)
    with RuntimeGroup(hosts=["good", "mortal"], config_file=config) as group:
        mortal.stop()
        wait_until(lambda: not group.get_runtime("mortal")._connection._find_open())
        with pytest.raises(GroupError) as caught:
            group.run("echo here")
        assert list(caught.value.errors) == ["mortal"]
        assert caught.value.results["good"].stdout == "here\n"
        with pytest.raises(GroupError) as caught:
            group.call(pow, 2, 2)
        assert dict(caught.value.results) == {"good": 4}
        futures = group.submit(pow, 2, 2)
        assert futures["good"].result() == 4
        assert futures["mortal"].exception() is not None


def test_all_methods_say_why_a_host_is_not_reached(sshd: LoopbackSshd, make_sshd, config_of):
    """A refused port and a wrong key have other cures."""
    mortal = make_sshd()
    config = config_of(good=sshd, mortal=mortal)
    task = RuntimeTask().run_command("true")
    with RuntimeGroup(hosts=["good", "mortal"], config_file=config) as group:
        mortal.stop()
        wait_until(lambda: not group.get_runtime("mortal")._connection._find_open())
        for use in (
            lambda: group.run("true"),
            lambda: group.call(abs, 1),
            lambda: group.send_file(__file__, "copy", execute_async=False),
            lambda: group.get_file("~", "/nowhere", execute_async=False),
            lambda: group.execute_task(task, broadcast=True, execute_async=False),
        ):
            with pytest.raises(GroupError, match=r"mortal: .*[Rr]efused"):
                use()
