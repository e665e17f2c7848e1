"""The log of one execution: in memory while it is small, in a private file if there is any."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lazycluster._tasks import log_files
from lazycluster._tasks.log import MEMORY_LIMIT, READ_LIMIT, REST_LIMIT, ExecutionLog
from lazycluster._tasks.log_files import FILES_PER_HOST

pytestmark = pytest.mark.every_python


@pytest.fixture
def main_directory(tmp_path, monkeypatch):
    """A main directory that LAZYCLUSTER_HOME names, not made yet."""
    path = tmp_path / "home"
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(path))
    return path


@pytest.fixture
def log(main_directory):
    log = ExecutionLog("host-1", "train")
    yield log
    log.close()


PRINTS_SOMETHING = """
import os
from lazycluster._tasks.log import ExecutionLog

log = ExecutionLog('h', 't')
log.append(0, b'x')
"""


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def in_new_process(source, **environment):
    """Run Python source without a main directory that is set; return the lines that it printed."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "LAZYCLUSTER_HOME", "XDG_STATE_HOME")
    }
    result = subprocess.run(
        [sys.executable, "-c", PRINTS_SOMETHING + source],
        env={**variables, **environment},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return result.stdout.splitlines()


# --- Entries ---------------------------------------------------------------------------------


def test_each_step_begun_has_an_entry(log):
    """Entry i is step i, and a step that printed nothing has an empty one."""
    log.begin_step(0)
    log.begin_step(1)
    log.append(1, b"one\n")
    log.begin_step(2)
    assert log.entries() == ["", "one\n", ""]


def test_entry_of_a_step_to_come_is_empty(log):
    """Asking early is no error."""
    assert log.entry(5) == ""
    assert log.entries() == []


def test_beginning_a_step_twice_changes_nothing(log):
    """begin_step keeps what is there."""
    log.append(0, b"x")
    log.begin_step(0)
    assert log.entries() == ["x"]


def test_an_entry_grows(log):
    """What has come can be read while the step runs."""
    log.append(0, b"a")
    assert log.entry(0) == "a"
    log.append(0, b"b")
    assert log.entry(0) == "ab"


def test_late_output_belongs_to_its_own_step(log):
    """What an earlier step left behind may print while a later one runs."""
    log.append(0, b"0a ")
    log.append(1, b"1a ")
    log.append(0, b"0b ")
    log.append(1, b"1b ")
    assert log.entries() == ["0a 0b ", "1a 1b "]
    assert log.tail(0, 4) == "a 0b "[-4:]


def test_a_character_in_two_pieces_is_one(log):
    """Bytes are put together before they are decoded."""
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    log.append(0, first)
    log.append(0, second)
    assert log.entry(0) == "ä"


def test_what_is_not_utf8_is_shown_with_backslashes(log):
    """No output is lost and none is an error."""
    log.append(0, b"\xffok")
    assert log.entry(0) == "\\xffok"


def test_entries_beyond_memory_come_from_the_file(log):
    """A large log is read by offsets, also of steps that begin in memory."""
    log.append(0, b"a" * (MEMORY_LIMIT - 1))
    log.append(1, b"bcd")
    log.append(2, b"e" * MEMORY_LIMIT)
    assert log.entry(0) == "a" * (MEMORY_LIMIT - 1)
    assert log.entry(1) == "bcd"
    assert log.entry(2) == "e" * MEMORY_LIMIT


def test_memory_holds_no_more_than_its_limit(log):
    """The rest is only in the file."""
    for _ in range(10):
        log.append(0, bytes(MEMORY_LIMIT // 3))
    assert len(log._memory) == MEMORY_LIMIT


def test_file_holds_all_output_in_order(log):
    """The file is the log, steps one after another."""
    log.append(0, b"one\n")
    log.append(1, b"\xfftwo\n")
    assert Path(log.path).read_bytes() == b"one\n\xfftwo\n"


def test_vanished_file_is_an_error_that_names_it(log):
    """What memory still has can be read, for the rest there is a reason."""
    log.append(0, b"small")
    log.append(1, bytes(MEMORY_LIMIT))
    os.unlink(log.path)
    assert log.entry(1) == "\0" * MEMORY_LIMIT  # its writer has the file open
    log.close()
    assert log.entry(0) == "small"
    with pytest.raises(FileNotFoundError, match="execution log cannot be read") as raised:
        log.entry(1)
    assert raised.value.filename == log.path


def test_shortened_file_is_an_error_that_names_it(log):
    """Half an entry is not passed off as one."""
    log.append(0, bytes(2 * MEMORY_LIMIT))
    os.truncate(log.path, MEMORY_LIMIT + 1)
    with pytest.raises(OSError, match="cut short") as raised:
        log.entry(0)
    assert log.path in str(raised.value)


# --- Tail and live output ---------------------------------------------------------------------


def test_tail_is_the_end(log):
    """For a message the last bytes are enough."""
    log.append(0, b"0123456789")
    assert log.tail(0, 4) == "6789"
    assert log.tail(0, 100) == "0123456789"
    assert log.tail(0, 0) == ""
    assert log.tail(3, 10) == ""


def test_tail_begins_with_a_whole_character(log):
    """A character that the cut goes through is left out."""
    log.append(0, "aä€b".encode())
    assert log.tail(0, 3) == "b"
    assert log.tail(0, 4) == "€b"


def test_tail_of_a_large_step_reads_only_the_end(log, monkeypatch):
    """A gigabyte is not read for ten lines."""
    log.append(0, bytes(MEMORY_LIMIT) + b"the end")
    sizes = []
    read = log._read
    monkeypatch.setattr(
        log, "_read", lambda start, end: sizes.append(end - start) or read(start, end)
    )
    assert log.tail(0, 7) == "the end"
    assert sizes == [7]


def test_read_new_gives_what_has_come_since(log):
    """Each byte is given once, with its step."""
    log.append(1, b"ab")
    data, position, index = log.read_new(0)
    assert (data, index) == (b"ab", 1)
    assert log.read_new(position) == (b"", position, 0)
    log.append(1, b"c")
    log.append(0, b"d")
    log.append(0, b"e")
    assert log.read_new(position) == (b"c", position + 1, 1)
    assert log.read_new(position + 1) == (b"de", position + 3, 0)
    assert log.read_new(position + 2) == (b"e", position + 3, 0)


def test_read_new_is_bounded(log):
    """However much has come, little of it is held at once."""
    log.append(0, bytes(READ_LIMIT + 5))
    data, position, _ = log.read_new(0)
    assert len(data) == READ_LIMIT
    assert len(log.read_new(position)[0]) == 5


def test_readers_see_a_growing_log_whole(log):
    """While one thread writes, what another reads is a beginning of it."""
    expected = b"".join(b"%06d\n" % number for number in range(30000))
    wrong = []

    def read():
        position, seen = 0, b""
        while len(seen) < len(expected):
            data, position, _ = log.read_new(position)
            seen += data
            text = log.entry(0).encode()
            if not expected.startswith(text) or not expected.startswith(seen):
                wrong.append(len(seen))
                return

    thread = threading.Thread(target=read)
    thread.start()
    for start in range(0, len(expected), 700):
        log.append(0, expected[start : start + 700])
    thread.join()
    assert wrong == []


# --- The file ---------------------------------------------------------------------------------


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_file_appears_with_the_first_byte(log, main_directory):
    """A task that prints nothing leaves nothing."""
    log.begin_step(0)
    log.append(0, b"")
    log.close(2)
    assert log.entries() == ["", ""]
    assert [log.tail(0, 10), log.read_new(0)[0], *log.read_step(1)] == ["", b""]
    assert not main_directory.exists()


@pytest.mark.parametrize("ended", [False, True])
def test_whoever_gets_the_path_gets_a_file(log, main_directory, ended):
    """It is private, empty, and the same each time; what is printed later is in it."""
    if ended:
        log.close()
    path = log.path
    assert mode_of(path) == 0o600
    assert os.path.getsize(path) == 0
    if not ended:
        log.append(0, b"x")
        log.close()
        assert Path(path).read_bytes() == b"x"
    assert log.path == path
    assert files_below(main_directory) == [Path(path)]


def test_path_that_many_threads_ask_for_is_one(log, main_directory):
    """And of one file, while another thread writes the first byte."""
    barrier = threading.Barrier(9)
    found = []

    def ask():
        barrier.wait()
        found.append(log.path)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    barrier.wait()
    log.append(0, b"x")
    for thread in threads:
        thread.join()
    assert set(found) == {log.path}
    assert [path.read_bytes() for path in files_below(main_directory)] == [b"x"]


def test_main_directory_is_the_one_of_the_beginning(log, main_directory, tmp_path, monkeypatch):
    """Another one is for later executions."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path / "later"))
    assert Path(log.path).is_relative_to(main_directory)


def test_relative_main_directory_whose_start_was_removed(tmp_path, monkeypatch, caplog):
    """It is like one that cannot be written; a silent execution does not need it."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("LAZYCLUSTER_HOME", "logs")
    monkeypatch.setattr("lazycluster._tasks.log._warned_of", set())
    log = ExecutionLog("h", "t")
    log.close()
    assert caplog.records == []
    assert [log.path, log.path] == [None, None]
    assert len(caplog.records) == 1


def test_file_lies_under_host_and_task(log, main_directory):
    """Main directory, execution_log, host; then task, time and something unique."""
    log.append(0, b"x")
    path = Path(log.path)
    assert path.parent == main_directory / "execution_log" / "host-1"
    assert path.name.startswith("train_")
    assert path.suffix == ".log"


def test_file_and_folders_are_private(log, main_directory):
    """Output is private."""
    old = os.umask(0)
    try:
        log.append(0, b"x")
    finally:
        os.umask(old)
    assert mode_of(log.path) == 0o600
    for folder in (main_directory, *list(Path(log.path).parents)[:2]):
        assert mode_of(folder) == 0o700


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("user@host.example-1_x", "user@host.example-1_x"),
        ("ssh://h:22/../x", "ssh___h_22_.._x"),
        ("", "_"),
        (".", "_"),
        ("..", "_"),
        ("a b\nc\0ü", "a_b_c__"),
    ],
)
def test_names_are_made_safe(name, safe):
    """No name leads to another folder."""
    assert log_files.safe_name(name) == safe


def test_names_are_bounded(main_directory):
    """A task may have any name, a file may not."""
    log = ExecutionLog("h" * 1000, "t" * 1000)
    log.append(0, b"x")
    log.close()
    assert os.path.isfile(log.path)


def test_no_descriptor_after_close(log):
    """One while it runs, none afterwards, and reading goes on."""
    before = len(os.listdir("/dev/fd"))
    log.append(0, bytes(2 * MEMORY_LIMIT))
    assert len(os.listdir("/dev/fd")) == before + 1
    log.close()
    log.close()
    assert len(os.listdir("/dev/fd")) == before
    assert len(log.entry(0)) == 2 * MEMORY_LIMIT


def test_closed_log_takes_nothing_more(log):
    """A finished log does not change."""
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append(0, b"x")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda log: pickle.loads(pickle.dumps(log))])
def test_copy_reads_the_same_and_is_closed(log, again):
    """A task is copied and pickled with its log."""
    log.append(0, b"a" * MEMORY_LIMIT)
    log.append(1, b"b")
    twin = again(log)
    log.append(1, b"c")
    assert twin.entries() == ["a" * MEMORY_LIMIT, "b"]
    assert twin.path == log.path
    with pytest.raises(ValueError, match="closed"):
        twin.append(1, b"d")


@pytest.mark.parametrize("again", [copy.copy, lambda log: pickle.loads(pickle.dumps(log))])
def test_copy_of_a_silent_log_has_its_path(log, main_directory, again):
    """The copy may be read where the main directory is another."""
    log.close()
    twin = again(log)
    (file,) = files_below(main_directory)
    assert twin.path == log.path == str(file)


def test_unwritable_main_directory_is_a_warning_that_names_it(tmp_path, monkeypatch, caplog):
    """The reason is not lost."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("lazycluster._tasks.log._warned_of", set())
    logs = [ExecutionLog("h", "t"), ExecutionLog("h", "t")]
    for log in logs:
        log.append(0, b"x")
    assert [(log.entries(), log.path) for log in logs] == [(["x"], None)] * 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(tmp_path / "file") in record.getMessage()


def fail(error):
    def write(*_):
        raise OSError(error, os.strerror(error))

    return write


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_output_behind_a_full_disk_is_kept_within_bounds(log, monkeypatch, error):
    """What was written, a mark for what was not kept, and the end of the output."""
    log.append(0, b"a" * MEMORY_LIMIT + b"in the file")
    log.append(1, b"first\n")
    monkeypatch.setattr(os, "write", fail(error))
    log.append(1, b"b" * 3 * REST_LIMIT)
    log.append(2, b"c" * REST_LIMIT + b"the end")
    position, live = 0, b""
    while chunk := log.read_new(position)[0]:
        position, live = log.read_new(position)[1], live + chunk
    assert log.entry(0) == "a" * MEMORY_LIMIT + "in the file"
    assert log.entry(1) == (
        f"first\n[{3 * REST_LIMIT} bytes were not kept: {os.strerror(error)}]\n"
    )
    assert log.entry(2) == (
        f"[7 bytes were not kept: {os.strerror(error)}]\n" + "c" * (REST_LIMIT - 7) + "the end"
    )
    assert log.tail(2, 7) == "the end"
    assert live.endswith(b"the end")
    assert len(log._rest) == REST_LIMIT


def test_file_that_cannot_be_made_leaves_a_whole_log_in_memory(log, monkeypatch):
    """No descriptor is left, for example; a log of a megabyte is complete."""
    monkeypatch.setattr(os, "open", fail(errno.EMFILE))
    log.append(0, b"a" * MEMORY_LIMIT)
    log.append(1, b"b" * (REST_LIMIT - MEMORY_LIMIT))
    assert log.entries() == ["a" * MEMORY_LIMIT, "b" * (REST_LIMIT - MEMORY_LIMIT)]
    twin = pickle.loads(pickle.dumps(log))
    assert twin.entries() == log.entries()


def test_part_that_a_full_disk_took_is_not_there_twice(log, monkeypatch):
    """A write may take some of its bytes before the disk is full."""
    write = os.write
    log.append(0, b"x" * MEMORY_LIMIT)
    monkeypatch.setattr(
        os, "write", lambda fd, data: write(fd, data[:2]) if len(data) > 2 else fail(28)()
    )
    log.append(0, b"1234"[:4])
    assert log.entry(0) == "x" * MEMORY_LIMIT + "1234"


def make_old_logs(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"old_{number}.log"
        path.write_bytes(b"")
        os.utime(path, (number + 1, number + 1))


def test_newest_files_of_a_host_are_kept(log, main_directory):
    """Old logs make room, the oldest first; other files stay."""
    folder = main_directory / "execution_log" / "host-1"
    make_old_logs(folder, FILES_PER_HOST + 5)
    (folder / "notes.txt").write_bytes(b"")
    (folder / "folder.log").mkdir()
    log.append(0, b"x")
    left = {path.name for path in folder.glob("*.log") if path.is_file()}
    assert len(left) == FILES_PER_HOST
    assert os.path.basename(log.path) in left
    assert "old_5.log" not in left
    assert "old_6.log" in left
    assert (folder / "notes.txt").exists()
    assert (folder / "folder.log").exists()


def test_pruning_happens_now_and_then(main_directory, monkeypatch):
    """Folders are not read through for each task."""
    pruned = []
    monkeypatch.setattr(log_files, "_prune", pruned.append)
    for _ in range(2 * log_files.PRUNE_INTERVAL):
        log = ExecutionLog("h", "t")
        log.append(0, b"x")
        log.close()
    assert len(pruned) == 2


# --- The main directory -----------------------------------------------------------------------


def test_state_home_is_used_where_there_is_no_own_variable(tmp_path, monkeypatch):
    """XDG_STATE_HOME/lazycluster, as the base directory specification has it."""
    monkeypatch.delenv("LAZYCLUSTER_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    log = ExecutionLog("h", "t")
    log.append(0, b"x")
    log.close()
    assert Path(log.path).parents[2] == tmp_path / "lazycluster"


def test_state_home_is_below_the_home_directory_by_default(tmp_path, monkeypatch):
    """~/.local/state, with private folders, which stay."""
    for name in ("LAZYCLUSTER_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    log = ExecutionLog("h", "t")
    log.append(0, b"x")
    log.close()
    assert Path(log.path).parents[2] == tmp_path / ".local/state/lazycluster"
    assert mode_of(tmp_path / ".local") == 0o700


def test_relative_state_home_is_ignored(tmp_path, monkeypatch):
    """The specification asks for it."""
    monkeypatch.delenv("LAZYCLUSTER_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    log = ExecutionLog("h", "t")
    log.append(0, b"x")
    log.close()
    assert Path(log.path).parents[2] == tmp_path / ".local/state/lazycluster"


@pytest.mark.parametrize("home", [None, "/no/such/folder", "a file in its way"])
def test_temporary_directory_is_used_where_no_home_can_be_written(tmp_path, home):
    """It is private, because the output may hold a secret, and is removed at exit."""
    environment = {"TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    (tmp_path / ".local").write_bytes(b"")
    if home is not None:
        environment["HOME"] = home if home.startswith("/") else str(tmp_path)
    path, mode = in_new_process(
        "folder = os.path.dirname(os.path.dirname(os.path.dirname(log.path)))\n"
        "print(folder)\n"
        "print(oct(os.stat(folder).st_mode & 0o777))\n",
        **environment,
    )
    assert os.path.dirname(path) == environment["TMPDIR"]
    assert mode == "0o700"
    assert os.listdir(tmp_path / "tmp") == []


def test_temporary_directory_that_was_swept_away_is_made_again(tmp_path):
    """A manager may run for longer than /tmp keeps things."""
    (tmp_path / "tmp").mkdir()
    output = in_new_process(
        "import shutil\n"
        "shutil.rmtree(os.environ['TMPDIR'])\n"
        "os.mkdir(os.environ['TMPDIR'])\n"
        "again = ExecutionLog('h', 't')\n"
        "again.append(0, b'x')\n"
        "print(os.path.exists(again.path), again.path != log.path)\n",
        TMPDIR=str(tmp_path / "tmp"),
    )
    assert output == ["True True"]
    assert os.listdir(tmp_path / "tmp") == []


def test_no_temporary_directory_is_made_after_the_exit(tmp_path):
    """Nothing would remove it."""
    (line,) = in_new_process(
        "from lazycluster._tasks import log_files\n"
        "log_files._remove_temporary(os.getpid())\n"
        "log = ExecutionLog('h', 't')\n"
        "log.append(0, b'x')\n"
        "print(log.path, log.entries())\n",
        TMPDIR=str(tmp_path),
    )
    assert line == "None ['x']"
    assert list(tmp_path.iterdir()) == []


def test_forked_child_has_a_temporary_directory_of_its_own(tmp_path):
    """Its exit takes nothing away from the parent."""
    exists, theirs, gone = in_new_process(
        "import sys\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    log = ExecutionLog('h', 't')\n"
        "    log.append(0, b'x')\n"
        "    os.write(write, log.path.encode())\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "theirs = os.read(read, 1000).decode()\n"
        "print(os.path.exists(log.path))\n"
        "print(os.path.dirname(theirs) != os.path.dirname(log.path))\n"
        "print(not os.path.exists(theirs))\n",
        TMPDIR=str(tmp_path),
    )
    assert (exists, theirs, gone) == ("True", "True", "True")
    assert list(tmp_path.iterdir()) == []
