"""Functions: called in a forked process that has nothing of the supervisor's."""

from __future__ import annotations

import atexit
import faulthandler
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from lazycluster._conversation.host_sources import cloudpickle_sources
from lazycluster._remote.sessions import out_of_memory_kills
from lazycluster._shared import archive, frames
from support.interpreters import OWN_VERSION
from support.pipe_host import command, function
from support.processes import await_gone, is_alive, memory_peak

BIG = 64 << 20
FLAT = 32 << 20


def echo(value):
    return value


class Unpicklable:
    def __reduce__(self):
        raise TypeError("this one stays here")


@pytest.fixture
def calling_host(own_host):
    """A supervisor that functions can be called with, and that has cloudpickle."""
    own_host.send_modules()
    return own_host


# --- Another version ---


class TouchWhenUnpickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_another_minor_version_is_told_and_nothing_is_unpickled(host, host_python, tmp_path):
    """A pickle of another Python's is not touched, and the host's version is named."""
    payload = pickle.dumps((TouchWhenUnpickled(str(tmp_path / "made")), {}), protocol=0)
    version = host.wait_for_hello()["python"]
    other = (version[0], version[1] + 1)
    host.send_modules()
    asked = host.run(function(payload, python=other), payload=payload)
    (ended,) = asked.ended
    assert ended["failure"] == "python_version"
    assert ended["python"] == ".".join(map(str, version))
    assert not (tmp_path / "made").exists()


def test_functions_of_the_managers_version_work_only_there(host, host_python):
    """The tests' own version calls; each other says that it is another."""
    ended = host.call(echo, value=1).ended[0]
    if host.wait_for_hello()["python"][:2] == list(sys.version_info[:2]):
        assert ended == {"step": 0, "returned": True, "exit_status": 0}
    else:
        assert ended["failure"] == "python_version"


def test_a_big_argument_for_another_version_holds_nothing_up(host):
    """Input that the step never reads is thrown away; the next request works."""
    payload = bytes(2 * frames.WINDOW)
    asked = host.run(function(payload, python=(3, 99)), payload=payload)
    assert asked.ended[0]["failure"] == "python_version"
    assert host.run_command("echo next").text == "next\n"


def test_commands_work_whatever_version_it_is(host):
    """A step before a function of another version has been done."""
    asked = host.run(command("echo before"), function(b"", python=(3, 99)))
    assert asked.output[0] == b"before\n"
    assert asked.ended[1]["failure"] == "python_version"


# --- cloudpickle ---


def test_without_cloudpickle_a_function_says_so(new_own_host):
    """It is not looked for on the host."""
    asked = new_own_host.run(function(b""))
    assert asked.ended[0]["failure"] == "python_modules"


def broken_modules(first_lines):
    sources = dict(cloudpickle_sources())
    name = "cloudpickle.cloudpickle"
    sources[name] = f"{first_lines}\n{sources[name]}"
    return archive.pack(sources)


def own_class():
    class Own:
        """Cannot be pickled without cloudpickle."""

    return Own


def given(kind):
    return kind.__name__


def test_a_python_that_lacks_a_module_says_which(new_own_host):
    """Some distributions split the standard library; what needs no such module works."""
    new_own_host.send_modules()
    new_own_host.send(frames.MODULES, 0, broken_modules("import nosuchmodule_x"))
    for _ in range(2):
        for asked in (new_own_host.call(own_class), new_own_host.call(given, kind=own_class())):
            assert asked.ended[0]["failure"] == "python_modules"
            assert "nosuchmodule_x" in asked.ended[0]["message"]
        assert new_own_host.call(echo, value=[1, "two"]).returned == [1, "two"]


@pytest.mark.parametrize("line", ["1 / 0", "raise RuntimeError('no')", "exec('no syntax')"])
def test_a_cloudpickle_that_fails_in_any_way_fails_the_function_only(line, new_own_host):
    """Commands work all the same."""
    new_own_host.send_modules()
    new_own_host.send(frames.MODULES, 0, broken_modules(line))
    asked = new_own_host.call(own_class)
    assert asked.ended[0]["failure"] == "python_modules"
    assert new_own_host.run_command("echo next").text == "next\n"


HEAVY = ["cloudpickle", "inspect", "dataclasses", "typing", "logging", "traceback"]


def test_the_first_function_waits_for_no_module_that_it_does_not_need(make_host, own_python):
    """They take 20 ms; after it they are imported once, for all that follow."""

    def imported(names):
        import sys

        return [name for name in names if name in sys.modules]

    # Without site: what is installed here may import any of these when Python starts.
    host = make_host(line=f"{shlex.quote(own_python)} -S")
    assert host.call(imported, names=HEAVY).returned == []
    host.finish(host.ask_call(imported, names=HEAVY))
    names = ["cloudpickle", "logging", "subprocess", "socket"]
    assert host.call(imported, names=names).returned == names


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda: 5,
        lambda: [own_class()],
        lambda: bytes(1 << 20),
        lambda: list(range(100_000)),
        lambda: {"nested": [1.5, (None, True), {b"x", "y"}]},
        lambda: float,
    ],
    ids=["function", "class", "bytes", "numbers", "plain", "name"],
)
def test_the_first_function_returns_any_value(make, new_own_host):
    """With cloudpickle where the value needs it."""
    value, expected = new_own_host.call(make).returned, make()
    if callable(expected) and expected is not float:
        assert value() == expected()
    elif isinstance(expected, list) and isinstance(expected[0], type):
        assert value[0].__name__ == "Own"
    else:
        assert value == expected


def test_the_first_function_raises_with_its_own_lines(new_own_host):
    """traceback and linecache are imported then."""

    def fail():
        raise ValueError("this one")

    failure = new_own_host.call(fail).ended[0]
    assert 'raise ValueError("this one")' in failure["traceback"]
    assert failure["type"] == "ValueError"


def test_f21_the_hosts_own_cloudpickle_is_not_used(make_host, own_python, tmp_path):
    """Ours is, also where a start hook has imported another."""
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('the wrong one')\n")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['cloudpickle'] = None\n")
    host = make_host(own_python, environment={"PYTHONPATH": str(tmp_path)})
    assert host.call(echo, value=1).returned == 1


# --- Values ---


def test_the_value_comes_back(calling_host):
    """With what it is made of."""
    value = {"numbers": [1, 2.5, None], "text": "Zoë ☃"}
    assert calling_host.call(echo, value=value).returned == value


def test_a_closure_comes_with_what_it_closes_over(calling_host):
    """And a lambda can be called, and be the value."""
    factor = 3
    asked = calling_host.call(lambda value: lambda: value * factor, value=2)
    assert asked.returned() == 6


def test_functions_are_steps_like_others(calling_host):
    """Each takes its own part of the input, in order, between commands."""
    calls = [calling_host.prepare_call(echo, value=[number] * 100_000) for number in (1, 2)]
    (one, two), payloads = zip(*calls)
    asked = calling_host.run(
        command("sleep 0.05"), one, command("echo between"), two, payload=b"".join(payloads)
    )
    assert [ended["exit_status"] for ended in asked.ended] == [0, 0, 0, 0]
    values = [pickle.loads(bytes(value))[0] for value in asked.value if value]
    assert values == [1, 2]


def test_a_step_stops_at_a_function_that_raises(calling_host, tmp_path):
    """What follows does not start."""
    asked = calling_host.ask_call(lambda: 1 / 0, before=[command("echo before")])
    calling_host.finish(asked)
    assert [ended["exit_status"] for ended in asked.ended] == [0, 1]


def test_f26_big_arguments_and_values_leave_the_memory_flat(new_own_host):
    """64 MB each way pass through the supervisor and do not stay."""
    pid = new_own_host.wait_for_hello()["pid"]
    assert new_own_host.call(echo, value=1).returned == 1
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc")
    before = memory_peak(pid)
    value = os.urandom(1 << 20) * (BIG >> 20)
    returned = new_own_host.call(echo, value=value).returned
    assert hashlib.sha256(returned).digest() == hashlib.sha256(value).digest()
    assert memory_peak(pid) - before < FLAT


def test_a_big_argument_may_come_while_a_command_runs(calling_host):
    """Only so much of it is asked for before it is wanted, and then all of it."""
    value = os.urandom(1 << 20) * 16
    asked = calling_host.ask_call(echo, before=[command("sleep 0.1")], value=value)
    calling_host.finish(asked)
    assert asked.returned == value


def test_many_calls_at_once_are_all_served(calling_host):
    """Each gets its own argument back."""
    asked = [calling_host.ask_call(echo, value=[number] * 1000) for number in range(100)]
    calling_host.finish(*asked)
    assert [one.returned[0] for one in asked] == list(range(100))


# --- Output ---


def print_everywhere():
    print("print")
    os.write(1, b"write 1\n")
    os.write(2, b"write 2\n")
    subprocess.check_call(["echo", "child"])
    subprocess.check_call(["sh", "-c", "echo child 2 >&2"])
    sys.stderr.write("stderr")


def test_f24_output_comes_in_order_from_wherever_it_is_printed(calling_host):
    """Python's own, the descriptors' and that of children, without a flush."""
    asked = calling_host.call(print_everywhere)
    assert asked.text == "print\nwrite 1\nwrite 2\nchild\nchild 2\nstderr"


def test_f24_output_without_an_end_of_line_is_not_lost(calling_host):
    """What a function has printed last comes before its end."""
    assert calling_host.call(lambda: print("no end", end="")).text == "no end"


def test_f24_output_that_is_no_unicode_does_not_fail(calling_host):
    """A name of a file may hold such characters."""
    assert calling_host.call(lambda: print("Zoë \udcff")).text == "Zoë \\udcff\n"


def replace_stdout():
    sys.stdout = io.StringIO()
    print("into a string")
    return sys.stdout.getvalue()


def test_f24_a_function_may_replace_standard_output(calling_host):
    """It is its own."""
    asked = calling_host.call(replace_stdout)
    assert (asked.text, asked.returned) == ("", "into a string\n")


def close_standard_streams():
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
    for fd in range(3):
        os.close(fd)
    return "closed"


def test_f24_a_function_may_close_the_standard_descriptors(calling_host):
    """Its value comes all the same."""
    assert calling_host.call(close_standard_streams).returned == "closed"


def read_standard_input():
    try:
        input()
    except EOFError:
        return sys.stdin.read(), os.read(0, 10)


def test_f15_standard_input_is_at_its_end(calling_host):
    """A function that reads it reads nothing of the lifeline."""
    assert calling_host.call(read_standard_input).returned == ("", b"")


# --- Endings ---


def raise_error(value):
    raise ValueError("not " + value)


def test_f22_an_exception_is_told_as_text(calling_host):
    """Its type, message and traceback, which begins with the function."""
    (ended,) = calling_host.call(raise_error, value="Zoë").ended
    assert ended["failure"] == "raised"
    assert ended["stage"] == "call"
    assert (ended["type"], ended["message"]) == ("ValueError", "not Zoë")
    assert ended["traceback"].endswith("ValueError: not Zoë\n")
    assert "in raise_error" in ended["traceback"].splitlines()[1]
    assert ended["exit_status"] == 1


def raise_from():
    try:
        json.loads("{")
    except ValueError as error:
        raise RuntimeError from error


def test_f22_the_causes_are_in_the_traceback(calling_host):
    """And types of other modules are told with their module."""
    (ended,) = calling_host.call(raise_from).ended
    assert "json.decoder.JSONDecodeError" in ended["traceback"]
    assert ended["traceback"].rstrip().endswith("RuntimeError")


class StrangeError(Exception):
    def __str__(self):
        raise ValueError("no text")


def raise_this(error):
    raise error()


@pytest.mark.parametrize("error", [StrangeError, KeyboardInterrupt, GeneratorExit])
def test_f22_any_exception_is_told(error, calling_host):
    """Also one that has no text, or is no Exception."""
    (ended,) = calling_host.call(raise_this, error=error).ended
    assert ended["failure"] == "raised"
    assert ended["type"].endswith(error.__qualname__)


def raise_of_no_module():
    raise type("Stranger", (Exception,), {"__module__": None})("made by exec")


def test_f22_an_exception_of_no_module_is_told(calling_host):
    """By its name alone."""
    (ended,) = calling_host.call(raise_of_no_module).ended
    assert (ended.get("type"), ended.get("message")) == ("Stranger", "made by exec")


def raise_long():
    raise ValueError("🦔" * 1_000_000)


def test_f22_a_long_message_is_cut(calling_host):
    """What is told of an exception has a bound; the conversation goes on."""
    (ended,) = calling_host.call(raise_long).ended
    assert ended["failure"] == "raised"
    assert ended["message"].startswith("🦔")
    assert len(ended["message"]) < 100_000
    assert calling_host.call(echo, value=1).returned == 1


@pytest.mark.parametrize(
    ("code", "status"), [(3, 3), (None, 0), ("text", 1), (-1, 255), (True, 1)], ids=ascii
)
def test_f23_sys_exit_is_an_exit_status(code, status, calling_host):
    """As it would be of a program; it is told as an exception too."""
    (ended,) = calling_host.call(lambda: sys.exit(code)).ended
    assert (ended["type"], ended["exit_status"]) == ("SystemExit", status)


def test_f23_a_process_that_exits_has_not_returned(calling_host):
    """Its exit status is told, also 0."""
    for status in (3, 0):
        (ended,) = calling_host.call(lambda status: os._exit(status), status=status).ended
        assert ended == {"step": 0, "exit_status": status}


def end_by(number):
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number == signal.SIGABRT:
        os.abort()
    os.kill(os.getpid(), number)
    time.sleep(1000)


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL", "SIGTERM", "SIGHUP"])
def test_f23_a_process_that_a_signal_ends_is_told_as_such(name, calling_host):
    """Also by os.abort(), and by signals that the supervisor has actions of its own for."""
    number = getattr(signal, name)
    (ended,) = calling_host.call(end_by, number=number).ended
    ended.pop("killer", None)
    assert ended == {"step": 0, "signal": int(number)}


def test_f23_the_kernel_says_whether_it_was_out_of_memory(calling_host):
    """If it does, a process that was killed was killed for another reason."""
    (ended,) = calling_host.call(end_by, number=signal.SIGKILL).ended
    assert ended.get("killer") == (None if out_of_memory_kills() is None else "other")


def test_f23_a_crash_is_printed_with_the_lines_of_python(calling_host):
    """Whatever the function has done to its standard error."""
    asked = calling_host.call(crash)
    assert "Fatal Python error: Segmentation fault" in asked.text
    assert " in crash" in asked.text


def crash():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stderr.close()
    sys.stderr = None
    faulthandler._sigsegv()


def interrupt_itself():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1000)


def test_f23_sigint_is_a_keyboard_interrupt(calling_host):
    """As in any Python."""
    assert calling_host.call(interrupt_itself).ended[0]["type"] == "KeyboardInterrupt"


def close_all_descriptors():
    os.closerange(0, 1024)


def test_f24_a_function_that_closes_everything_ends(calling_host):
    """Its value has nowhere to go; nothing waits for it."""
    (ended,) = calling_host.call(close_all_descriptors).ended
    assert "returned" not in ended
    assert calling_host.call(echo, value=1).returned == 1


def test_f27_a_value_that_cannot_be_pickled_is_told(calling_host):
    """As a failure of that stage, with the reason."""
    (ended,) = calling_host.call(lambda: Unpicklable()).ended
    assert (ended["failure"], ended["stage"]) == ("raised", "dump")
    assert ended["message"] == "this one stays here"


def test_a_payload_that_cannot_be_unpickled_is_told(calling_host):
    """As a failure of that stage."""
    payload = b"no pickle"
    (ended,) = calling_host.run(function(payload), payload=payload).ended
    assert (ended["failure"], ended["stage"]) == ("raised", "load")


def leave_thread():
    threading.Thread(target=time.sleep, args=[1000], daemon=True).start()
    return "returned"


def test_f25_a_daemon_thread_that_is_left_does_not_hold_the_step_up(calling_host):
    """It ends with the process."""
    assert calling_host.call(leave_thread).returned == "returned"


def work_in_a_thread(gate):
    def work():
        while not os.path.exists(gate):
            time.sleep(0.01)
        print("worked")

    threading.Thread(target=work).start()
    print("returned")
    return "value"


def test_f25_a_thread_that_is_no_daemon_is_waited_for(calling_host, tmp_path):
    """As at the end of a program; its output belongs to the step."""
    gate = tmp_path / "gate"
    asked = calling_host.ask_call(work_in_a_thread, gate=str(gate))
    calling_host.wait_for_output(asked, 1)
    assert not asked.finished
    gate.touch()
    calling_host.finish(asked)
    assert asked.returned == "value"
    assert asked.text == "returned\nworked\n"


def leave_children():
    one = multiprocessing.get_context("fork").Process(target=time.sleep, args=[1000], daemon=True)
    one.start()
    other = subprocess.Popen(["sleep", "1000"])
    return [one.pid, other.pid]


def test_f25_children_that_are_left_do_not_hold_the_step_up(calling_host):
    """Though they have its descriptors. A daemonic process ends with the function."""
    one, other = calling_host.call(leave_children).returned
    await_gone([one])
    assert is_alive(other)
    os.kill(other, signal.SIGKILL)
    await_gone([other])


def exit_late(how):
    def leave():
        print("leaves")
        if how == "exit":
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    atexit.register(leave)
    return "value"


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_f23_a_process_that_dies_after_its_function_has_not_returned(calling_host, how):
    """The outcome says what was the last that is known, and no later step starts."""
    asked = calling_host.ask_call(exit_late, before=[command("true")], how=how)
    calling_host.finish(asked)
    ended = asked.ended[1]
    assert ended["ending"] is True
    assert "returned" not in ended
    assert (ended.get("exit_status"), ended.get("signal")) == (
        (0, None) if how == "exit" else (None, 9)
    )


def test_f23_nothing_follows_a_function_that_has_exited(calling_host):
    """Its exit status may be 0."""
    step, payload = calling_host.prepare_call(lambda: os._exit(0))
    asked = calling_host.run(step, command("echo next"), payload=payload)
    assert [ended["exit_status"] for ended in asked.ended] == [0]
    assert asked.text == ""


# --- What surrounds a function ---


def draw():
    return random.random(), random.SystemRandom().random()


def test_random_numbers_differ_between_calls(make_host, own_python, tmp_path):
    """Though all are forked from one process that has imported random."""
    (tmp_path / "sitecustomize.py").write_text("import random\n")
    host = make_host(own_python, environment={"PYTHONPATH": str(tmp_path)})
    assert len({host.call(draw).returned[0] for _ in range(3)}) == 3


def signal_actions():
    names = ["SIGCHLD", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGINT"]
    actions = {name: signal.getsignal(getattr(signal, name)) for name in names}
    interrupt = actions.pop("SIGINT") is signal.default_int_handler
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return {name: int(action) for name, action in actions.items()}, interrupt, blocked


def test_signals_are_as_in_any_python(calling_host):
    """SIGPIPE is ignored: a closed socket is a BrokenPipeError, not the end."""
    actions, interrupt, blocked = calling_host.call(signal_actions).returned
    assert actions == {"SIGCHLD": 0, "SIGTERM": 0, "SIGHUP": 0, "SIGPIPE": 1}
    assert (interrupt, blocked) == (True, set())


def surroundings():
    variables = {name: os.environ.get(name) for name in ("VALUE", "PYTHONCOERCECLOCALE", "LC_ALL")}
    child = subprocess.check_output(["sh", "-c", 'printf %s "$VALUE"'])
    return os.getcwd(), variables, child


def test_directory_and_variables_are_the_requests(calling_host, tmp_path):
    """For the function and for its children."""
    step, payload = calling_host.prepare_call(surroundings)
    folder = tmp_path / "a folder, Zoë"
    folder.mkdir()
    asked = calling_host.run(
        step,
        payload=payload,
        working_dir=str(folder),
        environment={"VALUE": "a\n'b' \udcff"},
    )
    cwd, variables, child = asked.returned
    assert cwd == os.path.realpath(folder)
    assert variables == {"VALUE": "a\n'b' \udcff", "PYTHONCOERCECLOCALE": None, "LC_ALL": None}
    assert child == b"a\n'b' \xff"


def test_a_working_directory_that_is_none_is_named(calling_host, tmp_path):
    """The function is not called."""
    path = str(tmp_path / "missing")
    asked = calling_host.run(function(b""), working_dir=path)
    (ended,) = asked.ended
    assert (ended["failure"], ended["path"]) == ("os", path)


def change_surroundings():
    os.environ["VALUE"] = "changed"
    os.chdir("/")
    sys.path.append("changed")
    sys.modules["changed"] = sys


def see_surroundings():
    return os.environ.get("VALUE"), os.getcwd() == "/", "changed" in [*sys.path, *sys.modules]


def test_f25_what_a_function_changes_the_next_does_not_see(calling_host):
    """Each is called in a process of its own."""
    calling_host.call(change_surroundings)
    assert calling_host.call(see_surroundings).returned == (None, False, False)


def descriptors():
    with os.scandir("/proc/self/fd") as found:
        links = {int(entry.name): os.readlink(entry.path) for entry in found}
    return {fd: link for fd, link in links.items() if not link.startswith("/proc/")}


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")


@needs_proc
def test_a_function_has_nothing_of_the_supervisors(calling_host):
    """Not the lifeline, and no pipe of another step: it has the standard three and its channel."""
    others = [calling_host.ask(command("echo $$; exec sleep 1000")) for _ in range(3)]
    for other in others:
        calling_host.wait_for_output(other)
    found = calling_host.call(descriptors).returned
    assert len(found) == 4, found
    assert found[0] == "/dev/null"
    assert found[1] == found[2]
    for other in others:
        calling_host.kill(other, 0)
    calling_host.finish(*others)


def main_module():
    import __main__

    return __main__.__name__, hasattr(__main__, "load"), sys.argv


def test_main_is_not_the_supervisors(calling_host):
    """A function sees an empty __main__ and no arguments."""
    assert calling_host.call(main_module).returned == ("__main__", False, [""])


def use_processes():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def test_f25_multiprocessing_works(calling_host):
    """A pool starts, serves and ends."""
    assert calling_host.call(use_processes).returned == [1, 2, 3]


def test_the_interpreter_is_the_one_that_was_named(calling_host, own_python):
    """sys.executable is what a function may start children with."""
    assert calling_host.call(lambda: sys.executable).returned == own_python
    line = f"{shlex.quote(own_python)} -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'"
    assert calling_host.run_command(line).text.strip() == OWN_VERSION
