"""A command's shell is started in the same way by `os.posix_spawn` and by `subprocess`."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest

from lazycluster._remote.commands import start_program

SHELL = b"/bin/sh"


def refuse_sessions(*args, **kwargs):
    raise NotImplementedError("setsid")


@pytest.fixture(params=["posix_spawn", "no posix_spawn", "no sessions"], autouse=True)
def python(request, monkeypatch):
    """Python 3.7 has no posix_spawn, and an old C library's makes no sessions."""
    if request.param == "no posix_spawn":
        monkeypatch.delattr(os, "posix_spawn", raising=False)
    elif request.param == "no sessions":
        monkeypatch.setattr(os, "posix_spawn", refuse_sessions, raising=False)
    return request.param


def run(argv, working_dir=None, **environment):
    """Return what a program prints, and its status."""
    variables = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    null = os.open(os.devnull, os.O_RDWR)
    reader, writer = os.pipe()
    before = os.getcwd()
    with open(reader, "rb") as file:
        try:
            pid = start_program(argv, variables, working_dir, null, writer, writer)
        finally:
            assert os.getcwd() == before
            os.close(null)
            os.close(writer)
        printed = file.read()
    return printed.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sh(command, **arguments):
    return run([SHELL, b"-c", command.encode()], **arguments)


def test_what_it_prints_and_its_status():
    assert sh("echo out; echo err >&2; exit 3") == ("out\nerr\n", 3)


def test_its_directory_and_variables(tmp_path):
    assert sh('pwd; echo "$X"', working_dir=bytes(tmp_path), X="é") == (f"{tmp_path}\né\n", 0)


def test_it_leads_a_session_and_has_three_descriptors():
    program = "import os; print(os.getsid(0) == os.getpid(), os.listdir('/proc/self/fd'))"
    printed, _ = run([os.fsencode(sys.executable), b"-I", b"-c", program.encode()])
    assert printed.startswith("True ['0', '1', '2', ")


def test_a_closed_pipe_ends_it():
    """Python ignores SIGPIPE, and a shell's programs must not."""
    assert sh("(while :; do echo; done; echo no >&2) | head -n 1") == ("\n", 0)


def test_it_is_found_in_its_own_path(tmp_path):
    """And not in that of the supervisor; what is no program is passed over, as by execvp."""
    folders = [tmp_path / name for name in ("missing", "file/x", "refused", "right")]
    (tmp_path / "file").write_text("")
    for folder in folders[2:]:
        folder.mkdir()
        (folder / "lc-shell").symlink_to(SHELL.decode())
    (folders[2] / "lc-shell").unlink()
    (folders[2] / "lc-shell").mkdir()
    path = ":".join(map(str, folders))
    assert run([b"lc-shell", b"-c", b"echo found"], PATH=path) == ("found\n", 0)


@pytest.mark.parametrize(
    ("program", "number"),
    [
        (b"lc-missing", errno.ENOENT),
        (b"/lc-missing/sh", errno.ENOENT),
        (b"/etc/passwd/sh", errno.ENOTDIR),
        (b"/etc", errno.EACCES),
        (b"lc-folder", errno.EACCES),
    ],
)
def test_what_cannot_be_started_is_named(program, number, tmp_path):
    (tmp_path / "lc-folder").mkdir()
    with pytest.raises((FileNotFoundError, NotADirectoryError, PermissionError)) as caught:
        run([program, b"-c", b"true"], PATH=f"{tmp_path}:/lc-nowhere")
    assert (caught.value.errno, os.fsencode(caught.value.filename)) == (number, program)


def test_a_directory_that_cannot_be_entered_is_named(tmp_path):
    missing = bytes(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        sh("true", working_dir=missing)
    assert os.fsencode(caught.value.filename) == missing


@pytest.mark.parametrize("variables", [{"A=B": "x"}, {"A": "x\0y"}])
def test_what_no_process_can_have_is_an_error(variables):
    with pytest.raises(ValueError, match=r"illegal|null"):
        sh("true", **variables)


def test_it_starts_also_where_the_supervisor_cannot_come_back_to(tmp_path, monkeypatch):
    """Its own directory may have been removed."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(os, "getcwd", lambda: "")
    gone.rmdir()
    assert sh("echo started", working_dir=bytes(tmp_path)) == ("started\n", 0)


def test_it_starts_also_where_the_supervisor_could_not_come_back_to(tmp_path, monkeypatch):
    """Its own directory cannot be opened any more, as on NFS with a ticket that has run out."""
    real = os.open

    def refuse(path, *args, **kwargs):
        if path == ".":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert sh("pwd", working_dir=bytes(tmp_path)) == (f"{tmp_path}\n", 0)


def test_a_supervisor_that_does_not_come_back_ends(python, tmp_path, monkeypatch):
    """As by SIGTERM, for which it ends its steps: what follows must not run elsewhere."""
    if python != "posix_spawn":
        pytest.skip("the supervisor stays where it is")
    signals = []
    real = os.fchdir

    def fail(fd):
        real(fd)  # for the other tests
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fchdir", fail)
    monkeypatch.setattr(os, "kill", lambda *args: signals.append(args))
    assert sh("echo started", working_dir=bytes(tmp_path)) == ("started\n", 0)
    assert signals == [(os.getpid(), signal.SIGTERM)]
