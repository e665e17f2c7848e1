"""The manager's side of what functions log on a host."""

from __future__ import annotations

import json
import logging

import pytest

from lazycluster._tasks.completion import completion
from lazycluster._tasks.log_records import LogRecords, levels

pytestmark = pytest.mark.every_python


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '"name"',
        "{}",
        '{"name": "a"}',
        '{"name": "a", "levelno": null}',
        '{"name": "a", "levelno": "high"}',
        '{"name": "a", "levelno": Infinity}',
        '{"name": "a", "levelno": NaN}',
        "[" * 100_000,
    ],
)
def test_f47_what_is_no_record_is_dropped(line, caplog):
    records = LogRecords("host")
    records.append(memoryview(f"{line}\n".encode()))
    good = {"name": "log_records", "levelno": 40, "levelname": "ERROR", "msg": "good %s"}
    records.append(memoryview(json.dumps(good).encode() + b"\n"))
    records.wait()
    assert [record.getMessage() for record in caplog.records] == ["good %s"]


def test_f47_a_record_has_no_objects_but_those_of_json(caplog):
    """Arguments would be put into the message, and an exception into the traceback."""
    fields = {"name": "a", "levelno": 40, "msg": "%s", "args": [1], "exc_info": [1, 2, 3]}
    records = LogRecords("host")
    records.append(memoryview(json.dumps(fields).encode() + b"\n"))
    records.wait()
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info) == ("%s", None)


def test_nothing_is_waited_for_without_a_record():
    LogRecords("host").wait()


def test_a_thread_of_callbacks_that_is_stuck_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("lazycluster._tasks.log_records.STUCK_TIMEOUT", 0.01)
    import threading

    gate = threading.Event()
    completion.start()
    completion.post(gate.wait)
    records = LogRecords("host")
    records.append(memoryview(b"{}\n"))
    records.wait()
    gate.set()


def test_levels_are_those_that_differ():
    """A host without them has WARNING, and each logger that of its parent."""
    names = ["levels_4711", "levels_4711.same", "levels_4711.low", "levels_4711.made.later"]
    loggers = [logging.getLogger(name) for name in names]
    for logger, level in zip(loggers, (logging.INFO, logging.INFO, logging.DEBUG, 0)):
        logger.setLevel(level)
    try:
        found = {name: level for name, level in levels().items() if name.startswith("levels_4711")}
        assert found == {"levels_4711": logging.INFO, "levels_4711.low": logging.DEBUG}
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)
