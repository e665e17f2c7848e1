"""share(): a host unpickles a value once, and functions find it by copy-on-write."""

from __future__ import annotations

import copy
import gc
import importlib
import os
import pickle
import sys
import threading
import weakref

import pytest

from lazycluster import RuntimeTask, SharedValue
from lazycluster.exceptions import (
    RemoteFunctionError,
    SerializationError,
    StepTimeoutError,
    TaskExecutionError,
)
from support.waiting import TIMEOUT, wait_until

pytestmark = [
    pytest.mark.every_python,
    pytest.mark.separate_host,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc"),
]


def identity(*args, **kwargs):
    return args, kwargs


def pids(*_):
    """Return the pids of the function, of the branch, and of the supervisor."""
    branch = os.getppid()
    with open(f"/proc/{branch}/stat") as file:
        return os.getpid(), branch, int(file.read().rpartition(")")[2].split()[1])


class Counted:
    """Knows in which process it was unpickled."""

    def __init__(self):
        self.pid = None

    def __setstate__(self, state):
        self.pid = os.getpid()

    def __getstate__(self):
        return {"any": "thing"}


class Unlucky:
    """Cannot be unpickled."""

    def __reduce__(self):
        return fail, ()


def fail():
    raise ValueError("mine")


# --- What a function gets ---


def test_a_value_arrives_wherever_it_stands_in_the_arguments(own_runtime):
    table = own_runtime.share({1: "one"})
    assert own_runtime.call(identity, table, key=table) == (({1: "one"},), {"key": {1: "one"}})
    inside = own_runtime.call(identity, [table, (table,)], {"a": {"b": table}})
    assert inside == (([{1: "one"}, ({1: "one"},)], {"a": {"b": {1: "one"}}}), {})
    assert own_runtime.submit(identity, table).result(TIMEOUT) == (({1: "one"},), {})


def test_a_function_may_name_it_as_a_variable_of_its_own(own_runtime):
    table = own_runtime.share("text")
    assert own_runtime.call(lambda: table) == "text"


def test_tasks_use_it_too(own_runtime):
    table = own_runtime.share([1, 2])
    assert list(own_runtime.execute_function(identity, x=table).function_returns) == [
        ((), {"x": [1, 2]})
    ]
    task = RuntimeTask("mixed").run_command("echo before").run_function(identity, x=table)
    task.run_command("echo after")
    again = copy.deepcopy(task)
    for each in (task, again):
        own_runtime.execute_task(each, execute_async=False)
        assert each.execution_log == ["before\n", "", "after\n"]
        assert list(each.function_returns) == [((), {"x": [1, 2]})]


def test_it_is_unpickled_once_in_the_parent_of_the_functions(own_runtime):
    table = own_runtime.share(Counted())
    first, second = own_runtime.call(lambda x: (x.pid, *pids()), table), None
    second = own_runtime.call(lambda x: (x.pid, *pids()), table)
    assert first[0] == first[2] == second[0] == second[2]
    assert first[1] != second[1]
    assert first[3] == own_runtime.call(os.getppid)  # the supervisor runs what shares nothing


def test_functions_do_not_see_what_others_change(own_runtime):
    def change(value):
        value.append(1)
        return value

    table = own_runtime.share([])
    assert [own_runtime.call(change, table) for _ in range(3)] == [[1]] * 3


def test_what_changes_after_share_does_not_matter(own_runtime):
    value = [1, bytearray(b"x" * (3 << 20))]
    table = own_runtime.share(value)
    value[0], value[1][:1] = 2, b"y"
    assert own_runtime.call(lambda x: (x[0], bytes(x[1][:2])), table) == (1, b"xx")


class Large:
    """Has a buffer that is not part of the pickle, as arrays have."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Large, (pickle.PickleBuffer(self.data),)


def change_large(value):
    view = memoryview(value[0].data)
    found = bytes(view[:1]), bytes(view[-1:]), len(view), memoryview(value[1].data).readonly
    view[:1] = b"?"
    return found


def test_large_buffers_arrive_whole_and_can_be_written(own_runtime):
    size = (5 << 20) + 3
    data = bytearray(size)
    data[0], data[-1] = ord("a"), ord("z")
    table = own_runtime.share([Large(data), Large(bytes(size)), Large(bytearray(10))])
    for _ in range(2):
        assert own_runtime.call(change_large, table) == (b"a", b"z", size, True)


def test_several_values_in_one_call(own_runtime):
    tables = [own_runtime.share(number) for number in range(5)]
    assert own_runtime.call(identity, *tables) == ((0, 1, 2, 3, 4), {})
    assert len({own_runtime.call(pids, table)[1] for table in tables}) == 1


def test_a_class_is_the_same_one_for_the_function(own_runtime):
    """An instance of a class of the script, and a function that names that class."""
    made = Counted()
    table = own_runtime.share(made)
    assert own_runtime.call(lambda x: (type(x) is Counted, isinstance(x, Counted)), table) == (
        True,
        True,
    )
    assert type(own_runtime.call(lambda x: x, table)) is Counted


MODULE = """
class Mine:
    def __init__(self, x):
        self.x = x
"""


def test_a_class_of_a_local_module_is_the_same_one_too(own_runtime, local):
    """Also if the function needs more of the package than the value does."""
    sources = {"__init__": "", "kinds": MODULE, "uses": USES}
    local(**{f"sharing_package/{name}": source for name, source in sources.items()})
    kinds = importlib.import_module("sharing_package.kinds")
    table = own_runtime.share(kinds.Mine(5))
    uses = importlib.import_module("sharing_package.uses")
    assert own_runtime.call(uses.look, table) == (True, 5)
    assert own_runtime.call(lambda x: (isinstance(x, kinds.Mine), x.x), table) == (True, 5)


USES = """
from sharing_package.kinds import Mine
def look(x):
    return isinstance(x, Mine), x.x
"""


def test_a_function_is_shared_with_what_it_names(own_runtime):
    base = 5
    table = own_runtime.share(lambda x: x + base)
    assert own_runtime.call(lambda f: f(1), table) == 6


def test_the_manager_gets_the_value_back_as_a_copy(own_runtime):
    assert own_runtime.call(lambda x: x, own_runtime.share({"a": 1})) == {"a": 1}


# --- preload= and with_options ---


def test_it_is_with_the_modules_of_the_preload(own_runtime):
    view = own_runtime.with_options(preload=["wave"])
    table = view.share("x")
    assert view.call(lambda x: (x, "wave" in sys.modules), table) == ("x", True)
    assert view.call(pids, table)[1] == view.call(pids)[1]


def test_another_preload_gets_it_as_well(own_runtime):
    table = own_runtime.share(Counted())
    view = own_runtime.with_options(preload=["wave"])
    unpickled, branch = view.call(lambda x: (x.pid, os.getppid()), table)
    assert unpickled == branch != own_runtime.call(pids, table)[1]
    assert view.submit(identity, table).result(TIMEOUT)


def test_many_calls_at_once_that_lack_it_send_it_once(own_runtime, requests):
    table = own_runtime.share([5])
    view = own_runtime.with_options(preload=["wave"])
    del requests[:]
    futures = [view.submit(identity, table) for _ in range(30)]
    assert all(future.result(TIMEOUT) == (([5],), {}) for future in futures)
    assert [kinds for kinds in requests if "share" in kinds] == [["share"]]


def test_variables_of_the_call_are_there(own_runtime):
    table = own_runtime.share(1)
    view = own_runtime.with_options(env={"MINE": "yes"})
    assert view.call(lambda x: (x, os.environ["MINE"]), table) == (1, "yes")


def test_a_variable_that_needs_a_new_python_is_an_error_by_its_name(own_runtime):
    table = own_runtime.share(1)
    view = own_runtime.with_options(env={"PYTHONHASHSEED": "5"})
    with pytest.raises(RemoteFunctionError, match="PYTHONHASHSEED"):
        view.call(identity, table)
    assert view.call(identity, 1) == ((1,), {})


def test_a_function_can_use_a_pool_of_forks(own_runtime):
    def fork_all(value):
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(value.__getitem__, [0, 1])

    assert own_runtime.call(fork_all, own_runtime.share([5, 6])) == [5, 6]


class Keeper:
    """An actor with a value."""

    def __init__(self, value):
        self.value = value

    def look(self, *_):
        return self.value, os.getppid()


@pytest.mark.parametrize("preload", [[], ["wave"]])
def test_an_actor_is_made_with_it(own_runtime, preload):
    """Also where it has still to be sent."""
    table = own_runtime.share(["x"])
    with own_runtime.with_options(preload=preload).actor(Keeper, table) as actor:
        value, parent = actor.look()
        assert value == ["x"]
        assert (parent == own_runtime.call(pids, table)[1]) is (not preload)
        table.close()
        assert actor.look()[0] == ["x"]


# --- Closing ---


@pytest.mark.parametrize("use", ["call", "submit", "task"])
def test_a_closed_one_is_an_error_before_anything_is_sent(own_runtime, requests, use):
    table = own_runtime.share("x")
    task = RuntimeTask("late").run_function(identity, x=table)
    table.close()
    table.close()
    assert table.closed
    del requests[:]
    with pytest.raises(ValueError, match="was closed"):
        own_runtime.execute_function(identity, x=table)
    if use == "task":
        with pytest.raises(TaskExecutionError, match="was closed") as raised:
            own_runtime.execute_task(task, execute_async=False)
        assert isinstance(raised.value.__cause__, ValueError)
    else:
        with pytest.raises(ValueError, match="was closed"):
            getattr(own_runtime, use)(identity, [table])
    assert requests == []


def test_calls_that_were_sent_before_the_close_get_it(own_runtime):
    table = own_runtime.share("x")
    futures = [own_runtime.submit(identity, table) for _ in range(100)]
    table.close()
    assert all(future.result(TIMEOUT) == (("x",), {}) for future in futures)


def test_with_closes_it(own_runtime):
    with own_runtime.share("x") as table:
        assert own_runtime.call(identity, table) == (("x",), {})
    assert table.closed


def test_a_task_keeps_it(own_runtime):
    task = RuntimeTask("keeps").run_function(identity, x=own_runtime.share("x"))
    gc.collect()
    own_runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [((), {"x": "x"})]


def test_a_call_keeps_it_until_its_end(own_runtime):
    future = own_runtime.submit(identity, own_runtime.share("x"))
    gc.collect()
    assert future.result(TIMEOUT) == (("x",), {})


def test_nothing_keeps_it_after_that(own_runtime):
    table = own_runtime.share("x")
    own_runtime.call(identity, table)
    own_runtime.submit(identity, table).result(TIMEOUT)
    dead = weakref.ref(table)
    del table
    assert dead() is None


# --- What is refused ---


def test_another_runtime_cannot_use_it(own_runtime, make_runtime, requests):
    other = make_runtime()
    table = own_runtime.share("x")
    del requests[:]
    with pytest.raises(ValueError, match="belongs to another Runtime"):
        other.call(identity, table)
    with pytest.raises(ValueError, match="belongs to another Runtime"):
        other.submit(identity, table)
    assert requests == []


def test_it_cannot_be_pickled_or_shared_itself(own_runtime):
    table = own_runtime.share("secret-content")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(table)
    with pytest.raises(SerializationError, match="SharedValue is in it"):
        own_runtime.share([table])
    assert copy.copy(table) is copy.deepcopy(table) is table
    assert "secret" not in repr(table)
    assert "str" in repr(table)
    assert isinstance(table, SharedValue)
    assert table.host == own_runtime.host


def test_what_cannot_be_pickled_is_named(own_runtime, requests):
    del requests[:]
    with pytest.raises(SerializationError, match=r"dict cannot be shared.*lock"):
        own_runtime.share({"a": threading.Lock()})
    assert requests == []


def test_what_cannot_be_unpickled_there_is_an_error_at_once(own_runtime):
    good = own_runtime.share("good")
    with pytest.raises(SerializationError, match=r"Unlucky cannot be shared.*ValueError: mine"):
        own_runtime.share(Unlucky())
    assert own_runtime.call(identity, good) == (("good",), {})


class UnluckyWithDecimal:
    """Can be unpickled where nothing has imported `decimal`."""

    def __reduce__(self):
        return eval, ("[1 / ('decimal' not in __import__('sys').modules)]",)


def test_what_another_preload_cannot_unpickle_has_the_reason(own_runtime):
    table = own_runtime.share(UnluckyWithDecimal())
    assert own_runtime.call(identity, table) == (([1.0],), {})
    other = own_runtime.with_options(preload=["decimal"])
    for _ in range(3):
        with pytest.raises(RemoteFunctionError, match="ZeroDivisionError"):
            other.call(identity, table)
    assert own_runtime.call(identity, table) == (([1.0],), {})


class ReadsFile:
    """Reads a file when it is unpickled where `decimal` has been imported."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        text = "open({!r}).read() if 'decimal' in __import__('sys').modules else 'x'"
        return eval, (text.format(self.path),)


def test_a_value_that_can_be_unpickled_later_is_tried_again(own_runtime, both_sides):
    table = own_runtime.share(ReadsFile(str(both_sides / "file")))
    other = own_runtime.with_options(preload=["decimal"])
    with pytest.raises(RemoteFunctionError, match="FileNotFoundError"):
        other.call(len, table)
    (both_sides / "file").write_text("there")
    wait_until(lambda: other.submit(len, table).exception() is None)
    assert other.call(len, table) == 5


def test_a_module_that_the_host_lacks_is_named_where_it_is_used(own_runtime):
    """As in an argument: only what is used must be there."""
    table = own_runtime.share([importlib.import_module("execnet").MultiChannel([]), 5])
    assert own_runtime.call(lambda x: x[1], table) == 5
    with pytest.raises(ModuleNotFoundError, match="execnet"):
        own_runtime.call(lambda x: x[0].send_each(1), table)


def test_a_module_whose_import_fails_there_travels_by_value(own_runtime, local):
    """As that of a function does."""
    text = f"open({__file__!r}).close()\nclass Mine:\n    x = 5\n"
    module = local(reads_itself=text)
    table = own_runtime.share(module.Mine())
    assert own_runtime.call(lambda it: it.x, table) == 5


class Threaded:
    """Starts a thread when it is unpickled."""

    def __setstate__(self, state):
        import threading

        threading.Thread(target=threading.Event().wait, name="mine", daemon=True).start()

    def __getstate__(self):
        return 1


def test_a_value_that_starts_a_thread_is_refused_by_name(own_runtime):
    good = own_runtime.share("good")
    branch = own_runtime.call(pids, good)[1]
    with pytest.raises(SerializationError, match=r"Threaded cannot be shared.*thread \(mine\)"):
        own_runtime.share(Threaded())
    assert own_runtime.call(identity, good) == (("good",), {})
    assert own_runtime.call(pids, good)[1] != branch  # no fork of that process is safe


def test_a_preload_that_fails_is_named(own_runtime):
    view = own_runtime.with_options(preload=["no_such_module_at_all"])
    with pytest.raises(RemoteFunctionError, match="no_such_module_at_all"):
        view.share("x")


class Slow:
    """Takes without end to be unpickled."""

    def __setstate__(self, state):
        import time

        time.sleep(1000)

    def __getstate__(self):
        return 1


def test_unpickling_without_end_is_ended_by_the_timeout(own_runtime, monkeypatch):
    monkeypatch.setattr("lazycluster._tasks.invocation.TERMINATE_GRACE", 0.2)
    with pytest.raises(StepTimeoutError, match="share"):
        own_runtime.with_options(timeout=1).share(Slow())
    assert own_runtime.call(identity, own_runtime.share("x")) == (("x",), {})
