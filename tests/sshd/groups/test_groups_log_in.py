"""The constructor of a RuntimeGroup: logins, bad input, what is left open, what is closed."""

from __future__ import annotations

import threading

import pytest

from lazycluster import InvalidRuntimeError, PathCreationError, Runtime, RuntimeGroup, RuntimeTask
from lazycluster._group import opening
from support.hosts import await_step

HOSTS = ["web1", "web2", "web3"]


def test_a_group_has_a_runtime_of_each_host_in_their_order(group):
    assert group.hosts == [runtime.host for runtime in group] == HOSTS
    assert len(group) == group.runtime_count == 3
    assert group.runtimes == list(group)
    assert len({runtime.working_dir for runtime in group}) == 3
    assert "web2" in group
    assert group.get_runtime("web2") in group
    assert "web9" not in group
    assert not group.contains_runtime("web9")
    assert str(group) == "RuntimeGroup: Runtime: web1, Runtime: web2, Runtime: web3"
    assert repr(group) == "<RuntimeGroup of web[1-3]>"


def test_all_logins_run_at_the_same_time(make_group, monkeypatch):
    """Each waits for the others: one after the other, none would come to its end."""
    barrier = threading.Barrier(3)

    class Waiting(Runtime):
        def is_valid_runtime(self):
            barrier.wait(60)
            return True

    monkeypatch.setattr("lazycluster.groups.Runtime", Waiting)
    assert len(make_group(hosts=HOSTS)) == 3


def test_logins_at_which_a_person_is_asked_come_one_after_the_other(make_group, monkeypatch):
    running = []

    class Counting(Runtime):
        def _start(self, working_dir):
            running.append(self.host)
            super()._start(working_dir)
            running.remove(self.host)

        def is_valid_runtime(self):
            assert running == [self.host]
            return True

    monkeypatch.setattr("lazycluster.groups.Runtime", Counting)
    make_group(hosts=HOSTS, interactive=True)


def test_all_failures_are_in_one_error_and_nothing_is_left_open(make_group, nothing_left, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRuntimeError) as caught:
        make_group(hosts=["web1", "refused", "nowhere.invalid"])
    errors = caught.value.errors
    assert list(errors) == ["refused", "nowhere.invalid"]
    assert all(isinstance(error, InvalidRuntimeError) for error in errors.values())
    assert [error.host for error in errors.values()] == list(errors)
    assert str(caught.value).startswith("2 of 3 hosts cannot be used as Runtimes.\n  refused: ")
    assert "refused" in str(caught.value.__cause__)
    nothing_left()


def test_a_working_directory_that_cannot_be_made_is_one_of_these_failures(make_group, nothing_left):
    with pytest.raises(InvalidRuntimeError) as caught:
        make_group(hosts=["web1", "web2"], working_dir="/dev/null/folder")
    errors = caught.value.errors
    assert [(h, type(error)) for h, error in errors.items()] == [
        ("web1", PathCreationError),
        ("web2", PathCreationError),
    ]
    nothing_left()


def test_skip_goes_on_with_the_others(make_group, caplog):
    group = make_group(hosts=["refused", "web1"], on_error="skip")
    assert group.hosts == ["web1"]
    assert list(group.errors) == ["refused"]
    assert [r.getMessage().split(":")[0] for r in caplog.records if r.levelname == "WARNING"] == [
        "refused is left out of the group"
    ]


def test_skip_does_not_skip_all(make_group):
    with pytest.raises(InvalidRuntimeError) as caught:
        make_group(hosts=["refused"], on_error="skip")
    assert list(caught.value.errors) == ["refused"]


def test_an_interrupted_constructor_leaves_nothing_open(make_group, nothing_left, monkeypatch):
    """As Ctrl-C does: some have logged in already, another comes later."""
    ready, released = threading.Event(), threading.Event()

    class Slow(Runtime):
        def is_valid_runtime(self):
            if self.host == "web2":
                ready.set()
                assert released.wait(60)
            return True

    def interrupt(self):
        assert ready.wait(60)
        threading.Timer(0.5, released.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr("lazycluster.groups.Runtime", Slow)
    monkeypatch.setattr("lazycluster._group.parallel._Batch.has_more", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_group(hosts=["web1", "web2"])
    nothing_left()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"hosts": []}, ValueError),
        ({"runtimes": []}, ValueError),
        ({"hosts": "web1"}, TypeError),
        ({"runtimes": ["web1"]}, TypeError),
        ({"runtimes": "web1"}, TypeError),
        ({"hosts": ["web1", "web2", "web1"]}, ValueError),
        ({"hosts": ["web1", "-bad"]}, ValueError),
        ({"hosts": ["web1", 7]}, ValueError),
        ({"hosts": 7}, TypeError),
        ({"hosts": ["web1"], "on_error": "ignore"}, ValueError),
        ({"hosts": ["web1"], "port": 0}, ValueError),
        ({"hosts": ["web1"], "connection_kwargs": {"colour": 1}}, ValueError),
        ({"hosts": ["web1"], "modules": "numpy"}, TypeError),
        ({"hosts": ["web1"], "working_dir": b"x"}, TypeError),
    ],
)
def test_bad_input_is_an_error_before_any_process_starts(arguments, error, no_process):
    with pytest.raises(error):
        RuntimeGroup(**arguments)


@pytest.mark.parametrize("hosts", [("web1", "web2", "web3"), ("web1",), (["web1", "web2"],)])
def test_hosts_in_the_place_of_runtimes_are_an_error_with_the_cure(hosts, no_process):
    with pytest.raises(TypeError, match=r"not str; give hosts by hosts="):
        RuntimeGroup(*hosts)


def test_runtimes_that_are_given_take_no_parameters_of_logins(group, no_process):
    with pytest.raises(ValueError, match="for hosts="):
        RuntimeGroup(group.runtimes, user="joe")
    with pytest.raises(ValueError, match="one of both"):
        RuntimeGroup(group.runtimes, ["web1"])
    with pytest.raises(ValueError, match="named twice"):
        RuntimeGroup([*group, group.get_runtime("web1")])


def test_the_working_directory_counts_for_hosts_and_for_runtimes(make_group, tmp_path):
    """0.2 ignored it."""
    group = make_group(hosts=["web1"], working_dir=str(tmp_path / "a"))
    assert [runtime.working_dir for runtime in group] == [str(tmp_path / "a")]
    make_group(group.runtimes, working_dir=str(tmp_path / "b"))
    assert [runtime.working_dir for runtime in group] == [str(tmp_path / "b")]


def test_a_group_closes_only_what_it_has_opened(make_group):
    whole = make_group(hosts=["web1", "web2"])
    with make_group(hosts=["web3"]) as part:
        for runtime in whole:
            part.add_runtime(runtime=runtime)
        third = part.get_runtime("web3")
        assert third.is_valid_runtime()
    assert third._closed
    assert not any(runtime._closed for runtime in whole)
    assert [result.stdout for result in whole.run("echo on").results.values()] == ["on\n"] * 2


def test_the_end_of_a_group_ends_what_it_has_started_on_runtimes_of_others(make_group):
    whole = make_group(hosts=["web1"])
    runtime = whole.get_runtime("web1")
    own = runtime.execute_task(RuntimeTask("own").run_command("sleep 600"))
    with make_group([runtime]) as part:
        task = part.execute_task(RuntimeTask("a").run_command("sleep 600"))
        await_step(task)
    assert task.process.exitcode == -15
    assert own.process.is_alive()


def test_hosts_and_runtimes_can_be_added_and_removed(make_group, caplog):
    group = make_group(hosts=["web1"])
    other = make_group(hosts=["web2"]).get_runtime()
    group.add_runtime(runtime=other)
    group.add_runtime("web3")
    assert group.hosts == HOSTS
    for arguments in ({"host": "web1"}, {"runtime": other}, {}, {"host": "a", "runtime": other}):
        with pytest.raises(ValueError, match=r"already|one of both"):
            group.add_runtime(**arguments)
    with pytest.raises(TypeError):
        group.add_runtime(runtime="web9")
    group.remove_runtime("web2")
    assert group.hosts == ["web1", "web3"]
    group.remove_runtime("web2")
    assert "'web2' is not in the group, which has web[1,3]" in caplog.text
    group.cleanup()
    assert not other._closed


def test_a_second_cleanup_does_nothing(make_group):
    group = make_group(hosts=["web1"])
    group.cleanup()
    group.close()


def test_a_group_cannot_be_pickled(group):
    import pickle

    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(group)


def test_more_hosts_than_threads_all_get_their_login(make_group, monkeypatch):
    monkeypatch.setattr(opening, "MOST_LOGINS", 2)
    assert len(make_group(hosts=HOSTS)) == 3
