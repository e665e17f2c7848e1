"""From a login shell to a supervisor that says hello, or the reason why there is none."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycluster._conversation import bootstrap
from lazycluster._shared import frames
from lazycluster._ssh import errors as _ssh_errors
from support.interpreters import OWN_VERSION, find_python_2
from support.pipe_host import command

LOGIN_SHELLS = ["sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh"]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# --- The hello ---


def test_hello_names_the_version(host, host_python):
    """The supervisor says which Python runs it, to the last number."""
    hello = host.wait_for_hello()
    text = host.run_command(f"{shlex.quote(host_python)} -c 'import sys; print(sys.version)'").text
    assert ".".join(map(str, hello["python"])) == text.split()[0].rstrip("+")


def test_hello_names_the_pid(host, host_python):
    """The pid is that of the parent of the steps."""
    pid = host.wait_for_hello()["pid"]
    assert int(host.run_command("echo $PPID").text) == pid


def test_requests_need_not_wait_for_the_hello(new_host):
    """What is written together with the bootstrap is done."""
    assert new_host.run_command("echo done").text == "done\n"


@pytest.mark.parametrize("name", LOGIN_SHELLS)
def test_f17_login_shells_read_the_bootstrap_alike(name, make_host, own_python):
    """The one line means the same to each shell that an account may have."""
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"there is no {name}")
    make_host(own_python, login_shell=shell).wait_for_hello()


def test_f17_busybox_can_be_the_login_shell(make_host, own_python):
    """Its sh, too, reads byte by byte from a pipe."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is no busybox")
    make_host(own_python, login_shell="sh", under=[busybox]).wait_for_hello()


# PipeHost makes a process session for the login shell, as OpenSSH does.
@pytest.mark.parametrize(
    ("shell", "environment", "under", "can"),
    [
        ("bash", {}, [], True),
        ("zsh", {}, [], True),
        ("dash", {"SHELL": "/bin/bash"}, [], False),
        ("bash", {"SHELLOPTS": "monitor"}, [], False),
        ("bash", {"SHELLOPTS": "errexit:monitor:nounset:noglob"}, [], False),
        ("bash", {"SHELLOPTS": "errexit:nounset:noglob"}, [], True),
        ("bash", {}, ["/bin/sh", "-c", '"$@"; exit "$?"', "sh"], False),
    ],
    ids=["bash", "zsh", "dash", "jobs", "strict jobs", "strict", "no group"],
)
def test_f17_a_login_shell_that_can_run_a_command_itself_is_found(
    shell, environment, under, can, make_host, own_python
):
    """It is bash or zsh, and leads the process group of all that it starts."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell}")
    host = make_host(own_python, login_shell=path, environment=environment, under=under)
    host.wait_for_hello()
    assert host._handshake.bash_or_zsh is can


def test_one_socket_can_be_both_standard_input_and_output(make_host, host_python):
    """sshd gives no pipes but one socket."""
    host = make_host(host_python, one_socket=True)
    assert host.run_command("echo done").text == "done\n"


# --- Noise ---


def test_f18_noise_before_the_answer_is_skipped(make_host, host_python):
    """Start files may print a lot, and need not end their last line."""
    noise = "seq 5000; printf 'lazycluster-'; printf '\\377\\000 no end'"
    host = make_host(host_python, under=["/bin/sh", "-c", noise + '; exec "$@"', "sh"])
    assert host.wait_for_reply().kind == "python"
    host.wait_for_hello()


@settings(deadline=None)
@given(st.binary(max_size=5000), st.binary(max_size=50), st.lists(st.integers(1, 3000)))
def test_the_answer_is_found_in_any_split(noise, rest, lengths):
    """How the bytes were cut does not matter; what is behind the line is kept."""
    token = bootstrap.make_token()
    preamble = bootstrap.Handshake(token)
    data = noise + token.encode() + b" old 2.7.18\n" + rest
    answer = None
    for length in lengths:
        answer, data = preamble.feed(data[:length]), data[length:]
        if answer is not None:
            break
    else:
        answer, data = preamble.feed(data), b""
    assert answer is not None
    assert answer[:2] == ("old", "2.7.18")
    assert answer.rest + data == rest


def test_noise_is_kept_for_the_message_of_an_error():
    """Its end is, when there is no answer."""
    preamble = bootstrap.Handshake("token")
    assert preamble.feed(b"x" * 10000 + b"\nThis account is closed.\xff\n") is None
    assert preamble.noise.endswith("\nThis account is closed.\\xff")
    assert len(preamble.noise) < 3000


def test_f18_an_endless_line_is_not_kept():
    """Nor is one that begins like the answer."""
    preamble = bootstrap.Handshake("token")
    for _ in range(100):
        assert preamble.feed(b"token old " + b"1" * 10000) is None
    assert len(preamble.noise) < 3000
    assert preamble.feed(b"\ntoken python\nrest") == ("python", "", b"rest")


# --- What start files do to standard input ---


def after(commands, make_host, own_python):
    """A host on which a start file has run some commands before our line."""
    return make_host(own_python, under=["/bin/sh", "-c", commands + '; exec "$@"', "sh"])


def test_f18_a_start_file_may_read_eight_lines(make_host, own_python):
    """There are some to spare."""
    after("for i in 1 2 3 4 5 6 7 8; do read -r line; done", make_host, own_python).wait_for_hello()


@pytest.mark.parametrize(
    "commands",
    {
        "nine lines": "for i in 1 2 3 4 5 6 7 8 9; do read -r line; done",
        "ten lines": "for i in 1 2 3 4 5 6 7 8 9 10; do read -r line; done",
        "ten bytes": "dd bs=1 count=10 of=/dev/null 2>/dev/null",
        "thirty bytes": "dd bs=1 count=30 of=/dev/null 2>/dev/null",
        "a hundred bytes": "dd bs=1 count=100 of=/dev/null 2>/dev/null",
        "four thousand bytes": "dd bs=1 count=4000 of=/dev/null 2>/dev/null",
        "all, which is closed": "exec </dev/null",
    }.items(),
    ids=lambda item: item[0],
)
def test_f18_a_start_file_that_reads_more_ends_the_login(commands, make_host, own_python):
    """At once, with an exit status that says so: nothing of ours is taken for something else."""
    host = after(commands[1], make_host, own_python)
    assert host.wait_for_end() == _ssh_errors.INPUT_TAKEN
    assert host.reply is None
    assert host.errors() == ""


@pytest.mark.parametrize("name", LOGIN_SHELLS)
def test_f18_a_shell_that_takes_our_input_for_its_script_ends(name, make_host, tmp_path):
    """A start file may `exec` it; nothing that we send is run by it."""
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"there is no {name}")
    host = make_host(line="touch here; python3", under=["/bin/sh", "-c", f"exec {shell}"])
    host.ask(command("touch there"))
    if name == "fish":  # it reads a whole script before it runs any of it, and ours is none
        host.wait(lambda: not host._to_write, "room in the pipe")
        host.close_stdin()
        assert host.wait_for_end() != 0
    else:
        assert host.wait_for_end() == _ssh_errors.OTHER_SHELL
        assert host.errors() == ""
    assert host.reply is None
    assert not {"here", "there"} & set(os.listdir(tmp_path))


def test_f18_what_is_sent_back_as_it_came_is_no_answer(make_host):
    """A forced command may be `cat`."""
    host = make_host("python", under=["/bin/sh", "-c", "exec cat"])
    host.wait(lambda: not host._to_write, "room in the pipe")
    host.close_stdin()
    assert host.wait_for_end() == 0
    assert host.reply is None


# --- Other interpreters ---


def test_f20_an_old_python_says_that_it_is_old(make_host):
    """One before 3.6 answers with its version; what comes after is read and thrown away."""
    old = find_python_2()
    if old is None:
        pytest.skip("there is no Python 2.7")
    host = make_host(old)
    answer = host.wait_for_reply()
    assert answer.kind == "old"
    assert answer.detail.startswith("2.7.")
    for _ in range(20000):  # more than any pipe holds
        host.send(frames.HEARTBEAT)
    host.wait_until_written()
    host.close_stdin()
    assert host.wait_for_end() == 0
    assert host.errors() == ""


@pytest.mark.parametrize("reason", ["missing", "not executable", "a folder"])
def test_f20_without_a_python_the_session_waits_for_its_end(reason, make_host, tmp_path):
    """The answer is "none"; what comes after it is read and thrown away until there is no more."""
    path = tmp_path / "python"
    if reason == "not executable":
        path.write_text("")
    elif reason == "a folder":
        path.mkdir()
    host = make_host(str(path), environment={"PATH": "/nonexistent"})
    assert host.wait_for_reply().kind == "none"
    for _ in range(20000):  # more than any pipe holds
        host.send(frames.HEARTBEAT)
    host.wait_until_written()
    host.close_stdin()
    assert host.wait_for_end() == 0


def test_f20_an_interpreter_that_fails_is_told_with_its_exit_status(make_host, tmp_path):
    """The one that `python=` names; no other is tried then, but those that are there are named."""
    script(tmp_path / "python3", "exit 0")
    own = script(tmp_path / "own", "exit 3")
    host = make_host(str(own), environment={"PATH": str(tmp_path)})
    assert host.wait_for_reply()[:2] == ("none", "3 python3")


@pytest.mark.parametrize("status", [0, 5])
def test_f20_an_interpreter_that_has_read_its_program_is_the_last(
    status, make_host, own_python, tmp_path
):
    """What comes next would be read as something else by the one after it."""
    script(tmp_path / f"python{OWN_VERSION}", f"read -r line; exit {status}")
    os.symlink(own_python, tmp_path / "python3")
    host = make_host(environment={"PATH": str(tmp_path)})
    assert host.wait_for_end() == status
    assert host.reply is None


def test_f20_a_python_that_lacks_a_module_of_ours_says_so(make_host, own_python, tmp_path):
    """It has read its program by then; the exit status and standard error tell."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['select'] = None\n")
    host = make_host(own_python, environment={"PYTHONPATH": str(tmp_path)})
    assert host.wait_for_end() == _ssh_errors.PROGRAM_FAILED
    assert "select" in host.errors().splitlines()[-1]


def test_f20_other_interpreters_are_named(make_host, tmp_path):
    """Where neither of the two is good; with exit statuses, and a dash for what is not there."""
    for name in ("python2", "python"):
        script(tmp_path / name, "exit 1")
    script(tmp_path / "python3", "exit 4")
    host = make_host(environment={"PATH": str(tmp_path)})
    assert host.wait_for_reply()[:2] == ("none", "- 4 python python2")


# --- python= ---


def test_python_can_be_a_command_line(make_host, host_python):
    """`python=` may have words before and after the interpreter."""
    host = make_host(line=f"env COLOUR=blue {shlex.quote(host_python)} -s")
    assert host.run_command("echo $COLOUR").text == "blue\n"


def test_python_can_be_a_script(make_host, host_python, tmp_path):
    """A wrapper may set things up and then become the interpreter."""
    (tmp_path / "a folder").mkdir()
    path = script(
        tmp_path / "a folder" / "my $python",
        f'COLOUR="dark blue" exec {shlex.quote(host_python)} "$@"',
    )
    assert make_host(str(path)).run_command('echo "$COLOUR"').text == "dark blue\n"


def test_python_can_be_a_script_that_stays(make_host, host_python, tmp_path):
    """A wrapper may also wait for the interpreter, as `uv run` does."""
    path = script(tmp_path / "python", f'{shlex.quote(host_python)} "$@"; exit $?')
    assert make_host(str(path)).run_command("echo done").text == "done\n"


def test_f20_the_managers_version_is_looked_for_first(make_host, own_python, tmp_path):
    """Without `python=`, `pythonX.Y` of the manager is better than `python3`."""
    script(tmp_path / "python3", "exit 3")
    os.symlink(own_python, tmp_path / f"python{OWN_VERSION}")
    host = make_host(environment={"PATH": str(tmp_path)})
    assert host.wait_for_hello()["python"][:2] == list(sys.version_info[:2])


def test_f20_python3_is_looked_for_next(make_host, host_python, tmp_path):
    """Without `python=` and without the manager's version it is `python3`."""
    os.symlink(host_python, tmp_path / "python3")
    host = make_host(environment={"PATH": str(tmp_path)})
    assert host.wait_for_reply().kind == "python"


@pytest.mark.parametrize(
    "ending", ["exit 1", "exit 2", "exit 126", "exit 127", "kill -s ABRT $$", "kill -s ILL $$"]
)
def test_f20_an_interpreter_that_does_not_start_is_passed_over(
    ending, make_host, own_python, tmp_path
):
    """A shim of pyenv is in PATH for versions that are not chosen; a library may be missing."""
    script(tmp_path / f"python{OWN_VERSION}", f"ulimit -c 0; {ending}")
    os.symlink(own_python, tmp_path / "python3")
    host = make_host(environment={"PATH": str(tmp_path)})
    assert host.run_command("echo done").text == "done\n"


# --- What surrounds it ---


def test_f20_modules_in_the_current_folder_are_not_imported(make_host, host_python, tmp_path):
    """A json.py in the home directory is not the standard library's."""
    for name in ("json", "struct", "selectors", "subprocess", "signal", "pwd", "shutil"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    assert make_host(host_python).run_command("echo done").text == "done\n"


def test_f20_modules_in_pythonpath_are_not_imported_by_us(make_host, own_python, tmp_path):
    """They are there for functions, which find the folder in its place."""
    names = "json struct selectors subprocess socket pwd shutil uuid _json"
    for name in names.split():
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "mine.py").write_text("value = 7\n")
    # Without site: what is installed here may import any of these when Python starts.
    line = f"{shlex.quote(own_python)} -S"
    host = make_host(line=line, environment={"PYTHONPATH": str(tmp_path)})
    assert host.run_command("echo done").text == "done\n"

    def use_mine():
        import sys

        import mine

        return mine.value, sys.path

    value, path = host.call(use_mine).returned
    assert value == 7
    assert len(path) == len(set(path))


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONINSPECT": "1"},
        {"PYTHONSTARTUP": "/no/such/file"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-16"},
        {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"},
        {"PYTHONUTF8": "0", "LC_ALL": "C"},
    ],
    ids=lambda variables: "+".join(variables),
)
def test_f20_variables_of_python_disturb_nothing(variables, make_host, host_python):
    """And are there for commands."""
    host = make_host(host_python, environment=variables)
    name, value = next(iter(variables.items()))
    assert host.run_command(f"echo ${name}").text == f"{value}\n"
    os.kill(host.hello["pid"], signal.SIGTERM)  # its input is not at its end then
    assert host.wait_for_end() == 0
    assert host.errors() == ""


@pytest.mark.parametrize("options", ["-I", "-S", "-E", "-I -S", "-B -O"])
def test_f20_an_interpreter_may_be_isolated(options, make_host, own_python):
    """By `python=`; a function needs nothing of site-packages."""
    host = make_host(line=f"{shlex.quote(own_python)} {options}")
    assert host.call(lambda: 8).returned == 8


def test_commands_do_not_see_what_python_would_set(make_host, host_python):
    """Where the locale is not set, it is not set for a command either."""
    host = make_host(host_python, environment={"LANG": None})
    names = {line.partition("=")[0] for line in host.run_command("env").text.splitlines()}
    assert names.isdisjoint(["PYTHONCOERCECLOCALE", "LC_CTYPE", "LC_ALL", "LANG"])
    assert "HOME" in names


def test_f20_what_a_start_hook_prints_disturbs_nothing(make_host, host_python, tmp_path):
    """A sitecustomize may print before the answer."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text("print('hooked', flush=True)\n")
    host = make_host(host_python, environment={"PYTHONPATH": str(tmp_path / "hooks")})
    assert host.run_command("echo done").text == "done\n"


def test_its_standard_error_stays_empty(make_host, host_python):
    """No warning goes to the user's eyes, not even with all of them switched on."""
    host = make_host(host_python, environment={"PYTHONWARNINGS": "always", "PYTHONDEVMODE": "1"})
    host.run_command("echo done")
    host.close_stdin()
    host.wait_for_end()
    assert host.errors() == ""
