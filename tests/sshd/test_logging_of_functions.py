"""What a function logs is handled by the manager's loggers of the same names."""

# ruff: noqa: LOG015 - the functions log as short scripts do

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import multiprocessing
import os
import sys
import threading
import time

import pytest

from lazycluster import RuntimeTask
from support.hosts import call, cause
from support.waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.usefixtures("stays_good"), pytest.mark.every_python]


@pytest.fixture
def records():
    """Handle the records of the manager's root logger, which has no other handler meanwhile."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            found.append(record)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [Handler()]
    yield found
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def levels():
    """Set levels of loggers for one test."""
    changed = []

    def set_level(name, level):
        logger = logging.getLogger(name)
        changed.append((logger, logger.level))
        logger.setLevel(level)

    yield set_level
    for logger, level in changed:
        logger.setLevel(level)


def texts(records):
    return [f"{record.name} {record.levelname} {record.getMessage()}" for record in records]


def log_everything(name="app.part"):
    logger = logging.getLogger(name)
    logger.debug("debug %d", 1)
    logger.info("info %s", "two")
    logger.warning("warning")
    logger.error("error %(x)s", {"x": 4})
    logging.critical("critical")
    return "value"


WARNINGS = ["app.part WARNING warning", "app.part ERROR error 4", "root CRITICAL critical"]


def test_the_first_function_logs(own_runtime, records, levels):
    """Also where the function imports logging itself, with the manager's levels."""

    def log():
        import logging

        logging.getLogger("app.part").info("info")
        logging.getLogger("app.other").info("not this")

    levels("app.part", logging.INFO)
    own_runtime.call(log)
    assert texts(records) == ["app.part INFO info"]


def test_what_is_enabled_here_comes(runtime, records, levels):
    """By default that is from WARNING on; with levels it is what they say."""
    assert runtime.call(log_everything) == "value"
    assert texts(records) == WARNINGS
    del records[:]
    levels("app", logging.INFO)
    assert runtime.call(log_everything) == "value"
    assert texts(records) == ["app.part INFO info two", *WARNINGS]
    del records[:]
    levels(None, logging.DEBUG)
    levels("app.part", logging.ERROR)
    runtime.call(log_everything)
    assert texts(records) == WARNINGS[1:]
    del records[:]
    runtime.call(log_everything, "other")
    assert texts(records)[:2] == ["other DEBUG debug 1", "other INFO info two"]


def test_every_way_to_call(runtime, records):
    """Futures, tasks of both kinds, coroutines, and functions that fail."""
    runtime.submit(log_everything).result()
    assert texts(records) == WARNINGS
    call(runtime, log_everything)
    assert texts(records) == WARNINGS * 2
    task = runtime.execute_task(RuntimeTask().run_function(log_everything))
    task.join()
    assert texts(records) == WARNINGS * 3
    assert task.execution_log == [""]

    async def log():
        await asyncio.sleep(0)
        logging.getLogger("async").warning("warning")

    runtime.call(log)
    assert texts(records)[-1] == "async WARNING warning"

    def fail():
        logging.getLogger("fails").warning("warning")
        raise KeyError

    cause(runtime, fail)
    assert "fails WARNING warning" in texts(records)


def test_a_record_has_what_the_formats_of_handlers_use(runtime, records):
    """Its place, process, thread, time, traceback, and the fields of `extra`."""

    def log():
        try:
            1 / 0  # noqa: B018 - it raises
        except ZeroDivisionError:
            extra = {"number": 3, "text": "é", "other": [1]}
            logging.getLogger("a").exception("failed", extra=extra, stack_info=True)
        return os.getpid()

    before = time.time()
    pid = runtime.call(log)
    (record,) = records
    assert (record.pathname, record.funcName, record.process) == (__file__, "log", pid)
    assert record.lineno == log.__code__.co_firstlineno + 5
    assert (record.filename, record.module) == (os.path.basename(__file__), __name__)
    assert (record.threadName, record.processName) == ("MainThread", "MainProcess")
    assert before <= record.created <= time.time()
    assert (record.number, record.text, record.other) == (3, "é", "[1]")
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith("failed\nTraceback")
    assert "ZeroDivisionError: division by zero" in text
    assert "Stack (most recent call last)" in text


def test_objects_of_the_function_do_not_travel(runtime, records):
    """Neither arguments nor messages; what cannot be formatted is reported as ever."""

    class Odd:
        def __str__(self):
            return "odd"

    def log():
        logging.warning(Odd())
        logging.warning("%s", Odd())
        logging.warning("%s", threading.Lock(), extra={"lock": threading.Lock()})
        logging.warning("%d %d", 1)

    lines = []
    runtime.with_options(on_output=lines.append).call(log)
    assert [record.getMessage()[:4] for record in records] == ["odd", "odd", "<unl"]
    assert "--- Logging error ---\n" in lines


def test_a_long_record_is_cut(runtime, records):
    def log():
        logging.warning("x" * 10_000_000, extra={f"x{i}": "\U0001f994" * 5000 for i in range(500)})
        logging.warning("\U0001f994" * 1_000_000)

    runtime.call(log)
    assert 1000 < len(records[0].getMessage()) < 100_000
    assert records[1].getMessage()[0] == "\U0001f994"


def test_without_handlers_here_warnings_are_printed_here(runtime, records, capsys):
    """As of a local call."""
    logging.getLogger().handlers.clear()
    lines = []
    runtime.with_options(on_output=lines.append).call(log_everything)
    assert lines == []
    assert capsys.readouterr().err == "warning\nerror 4\ncritical\n"


def test_a_null_handler_of_a_library_changes_nothing(runtime, records):
    """Libraries have one, so that they print nothing."""

    def log():
        logger = logging.getLogger("library")
        logger.addHandler(logging.NullHandler())
        logger.warning("warning")

    runtime.call(log)
    assert texts(records) == ["library WARNING warning"]


def test_a_function_that_configures_logging_does_it_itself(runtime, records):
    """Its handlers print on the host, and nothing is handled twice."""

    def log():
        logging.basicConfig(format="there %(message)s", level=logging.INFO, stream=sys.stdout)
        logging.getLogger("a").info("info")

    lines = []
    runtime.with_options(on_output=lines.append).call(log)
    assert lines == ["there info\n"]
    assert records == []


def test_a_logger_that_does_not_propagate_is_left_alone(runtime, records):
    def log():
        logger = logging.getLogger("alone")
        logger.propagate = False
        logger.warning("warning")

    lines = []
    runtime.with_options(on_output=lines.append).call(log)
    assert (lines, records) == (["warning\n"], [])


def test_threads_may_log_at_once(runtime, records):
    """No record is lost or mixed with another; one that comes too late is dropped."""

    def log():
        def work(number):
            for count in range(200):
                logging.warning("%d %d %s", number, count, "x" * 5000)

        def go_on():
            while True:
                logging.warning("late %s", "x" * 10_000)

        threads = [threading.Thread(target=work, args=[number]) for number in range(5)]
        threading.Thread(target=go_on, daemon=True).start()
        for thread in threads:
            thread.start()
        return "value"

    assert runtime.call(log) == "value"
    messages = [record.getMessage() for record in records]
    found = sorted(tuple(map(int, m.split()[:2])) for m in messages if not m.startswith("late"))
    assert found == [(number, count) for number in range(5) for count in range(200)]


def test_processes_of_a_function_log_to_their_standard_error(runtime, records):
    """Their lines would mix with the function's in its pipe."""

    def log():
        process = multiprocessing.get_context("fork").Process(
            target=logging.warning, args=["child"]
        )
        process.start()
        process.join()
        logging.warning("parent")

    lines = []
    runtime.with_options(on_output=lines.append).call(log)
    assert lines == ["WARNING:root:child\n"]
    assert texts(records) == ["root WARNING parent"]


def test_many_records(runtime, records):
    """All come, in order."""

    def log():
        for number in range(30_000):
            logging.warning("%d", number)

    runtime.call(log)
    assert [record.msg for record in records] == [str(number) for number in range(30_000)]


def test_records_come_while_the_function_runs(runtime, records):
    def log():
        logging.warning("begun")
        time.sleep(600)

    future = runtime.submit(log)
    wait_until(lambda: records)
    future.cancel()
    assert texts(records) == ["root WARNING begun"]


def test_what_is_logged_at_the_end_comes(runtime, records):
    """By exit functions and `__del__`; when Python collects a cycle is its own affair."""

    def log():
        import atexit

        class Node:
            def __del__(self):
                logging.warning("del")

        node = Node()
        node.self = node
        atexit.register(logging.warning, "exit")

    runtime.call(log)
    assert sorted(texts(records)) == ["root WARNING del", "root WARNING exit"]


def test_a_handler_that_raises_costs_nothing(runtime, records, capsys):
    class Fails(logging.Handler):
        def emit(self, record):
            raise ValueError("no")

    def refuse(record):
        raise ValueError("no")

    logger = logging.getLogger("fails")
    handler = Fails()
    logger.addHandler(handler)
    logger.addFilter(refuse)
    try:
        assert runtime.call(log_everything, "fails") == "value"
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(refuse)
    assert texts(records)[-1] == "root CRITICAL critical"


def test_a_callback_may_wait_for_a_task_that_logs(runtime, records):
    """The thread of callbacks handles the records, too: both go on."""
    done = threading.Event()

    def wait(_future):
        runtime.execute_task(RuntimeTask().run_function(log_everything)).join()
        concurrent.futures.wait([runtime.submit(log_everything)])
        done.set()

    runtime.submit(pow, 2, 3).add_done_callback(wait)
    assert done.wait(TIMEOUT)
    wait_until(lambda: len(records) == 6)


def test_commands_log_nothing(runtime, records):
    """Whatever they print."""
    assert runtime.run("""echo 'log {"name": "a", "levelno": 50, "msg": "x"}'""").stdout
    assert records == []
