"""What came out by host, and the errors that hold all failures."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest

from lazycluster import RuntimeTask
from lazycluster._group.results import GroupResult, group_error, invalid_hosts_error, reason
from lazycluster._group.started import Started
from lazycluster._tasks.record import Record
from lazycluster.exceptions import (
    CommandError,
    ConnectError,
    GroupError,
    InvalidRuntimeError,
    LazyclusterError,
    TaskExecutionError,
)


def test_a_result_is_a_mapping_in_the_order_of_the_group():
    error = ValueError("no")
    result = GroupResult({"a": 1, "c": 3}, {"b": error}, ["c", "b", "a"])
    assert isinstance(result, Mapping)
    assert list(result.items()) == [("c", 3), ("b", error), ("a", 1)]
    assert list(result.ok.items()) == list(result.results.items()) == [("c", 3), ("a", 1)]
    assert dict(result.failed) == dict(result.errors) == {"b": error}
    assert "b" in result
    assert len(result) == 3
    assert result.get("d") is None
    for part in (result.ok, result.failed, result.results, result.errors):
        with pytest.raises(TypeError):
            part["d"] = 1


def test_a_result_that_failed_counts_as_failed():
    result = GroupResult({"a": 1, "b": 2}, {"b": ValueError("no")})
    assert dict(result.ok) == {"a": 1}
    assert dict(result.failed) == {"b": 2}
    assert dict(result.results) == {"a": 1, "b": 2}
    with pytest.raises(GroupError, match="1 of 2 hosts failed") as caught:
        result.check()
    assert caught.value.results == {"a": 1, "b": 2}


def test_a_result_without_hosts_is_empty():
    result: GroupResult[int] = GroupResult({}, {})
    assert result.check() is result
    assert (len(result), result.folded(), dict(result.ok)) == (0, "", {})


def test_the_text_of_values_is_safe_to_print():
    assert GroupResult({"a": "\x1b[2J", "b": [1]}, {}).folded() == "a: \\x1b[2J\nb: [1]"


def test_errors_by_host_survive_pickle_and_copy():
    class OwnError(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    error = group_error({"a": 1}, {"b": ValueError("v"), "c": OwnError(1, 2)}, 3)
    again = pickle.loads(pickle.dumps(error))
    assert again.results == {"a": 1}
    assert repr(again.errors["b"]) == "ValueError('v')"
    assert isinstance(again.errors["c"], LazyclusterError)  # it cannot be unpickled
    assert copy.copy(error).errors["c"] is error.errors["c"]


def test_a_reason_is_one_short_line():
    command = CommandError("m", host="h", command="c", exit_status=2, output="one\ntwo\n\n")
    assert reason(command) == "exit status 2: two"
    step = TaskExecutionError(
        "m", command, task=None, task_step_index=0, host="h", execution_log_file_path=None
    )
    assert reason(step) == "exit status 2: two"
    assert reason(KeyError("x")) == "KeyError: 'x'"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("a\nb\x1b")) == "ValueError: a"
    assert len(reason(ValueError("x" * 1000))) == 400


def test_many_reasons_are_counted():
    errors = {f"h{n}x{n}y": ValueError(n) for n in range(15)}
    lines = str(group_error({}, errors, 20)).splitlines()
    assert lines[0] == "15 of 20 hosts failed."
    assert lines[-1] == "  and 5 other reasons; `errors` has all of them"
    assert len(lines) == 12


def test_the_error_of_hosts_that_cannot_be_used_has_their_reasons():
    def unusable(host):
        text = f"{host} cannot be used as a Runtime: Connection refused."
        return InvalidRuntimeError(text, ConnectError("c", host=host), host=host)

    error = invalid_hosts_error({h: unusable(h) for h in ("web1", "web2")}, 2)
    assert str(error) == (
        "2 of 2 hosts cannot be used as Runtimes.\n  web[1-2]: Connection refused"
    )
    assert error.host == "web1"
    assert str(error.__cause__) == "web1 cannot be used as a Runtime."


def test_what_a_group_has_started_is_kept_by_others(monkeypatch):
    monkeypatch.setattr("lazycluster._group.started.PRUNED_AT", 3)
    started = Started()
    task = RuntimeTask()
    kept = [Record("h", str(n), task) for n in range(2)]
    for record in (kept[1], Record("h", "lost", task), kept[0]):
        started.add(record)
    assert list(started) == kept  # in the order in which they began
    assert started.has_lost
    started.clear()
    assert list(started) == []
    assert not started.has_lost
