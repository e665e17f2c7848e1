"""Spools: append-only bytes, in memory or in an unlinked file."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import tempfile
import threading
import weakref

import pytest

from lazycluster import _spool
from lazycluster._spool import BLOCK, MEMORY_LIMIT, Spool

pytestmark = pytest.mark.every_python


@pytest.fixture(autouse=True)
def _own_file(monkeypatch):
    """Give each test a file of its own: a spool that an earlier test left alive keeps its file."""
    monkeypatch.setattr("lazycluster._spool._files", weakref.WeakValueDictionary())


@pytest.fixture(params=["memory", "file"])
def spool(request):
    """A spool that holds "0123456789" at its end, once in memory and once in a file."""
    spool = Spool()
    if request.param == "file":
        spool.write(bytes(MEMORY_LIMIT))
    spool.write(b"0123456789")
    return spool


def open_files():
    return len(os.listdir("/dev/fd"))


def test_what_was_written_is_read(spool):
    """Offsets count from the first byte written."""
    assert spool.read_at(len(spool) - 10, 10) == b"0123456789"


def test_read_across_the_end_gives_what_there_is(spool):
    """A read is short at the end and empty beyond it."""
    assert spool.read_at(len(spool) - 2, 10) == b"89"
    assert spool.read_at(len(spool) + 5, 10) == b""


def test_write_returns_the_number_of_bytes():
    """A buffer of larger items counts in bytes too."""
    spool = Spool()
    assert spool.write(memoryview(bytes(12)).cast("I")) == 12
    assert len(spool) == 12


def test_written_buffer_is_not_kept():
    """The caller may change a bytearray after writing it."""
    data = bytearray(b"before")
    spool = Spool()
    spool.write(data)
    data[:] = b"after!"
    assert spool.read_at(0, 6) == b"before"


def test_few_bytes_open_no_file():
    """A small spool needs no file."""
    before = open_files()
    spool = Spool(b"tiny")
    assert len(spool) == 4
    assert open_files() == before


def test_many_bytes_are_in_one_unlinked_private_file(tmp_path, monkeypatch):
    """It leaves no name behind, and no other account can read it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = open_files()
    spool = Spool(bytes(MEMORY_LIMIT + 1))
    assert open_files() == before + 1
    assert list(tmp_path.iterdir()) == []
    status = os.fstat(spool._file.fd)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == MEMORY_LIMIT + 1
    del spool
    assert open_files() == before


def test_spools_share_one_descriptor_and_reuse_each_others_blocks(monkeypatch):
    """Any number of large values takes one descriptor, and no more disk than they need at once."""
    before = open_files()
    first, second = Spool(b"1" * 2 * MEMORY_LIMIT), Spool(b"2" * 2 * MEMORY_LIMIT)
    assert open_files() == before + 1
    size = os.fstat(second._file.fd).st_size
    for _ in range(10):
        first = Spool(b"3" * 2 * MEMORY_LIMIT)
    assert os.fstat(second._file.fd).st_size <= size + 3 * MEMORY_LIMIT
    assert first.read_at(0, len(first)) == b"3" * 2 * MEMORY_LIMIT
    assert second.read_at(BLOCK - 1, 2 * BLOCK) == b"2" * 2 * BLOCK


def test_reader_reads_a_part(spool):
    """Each reader reads from its start to its end."""
    start = len(spool) - 10
    first, second = spool.open(start, start + 4), spool.open(start)
    assert first.read() == b"0123"
    assert second.read() == b"0123456789"


def test_reader_asks_for_bounded_chunks(monkeypatch):
    """A large read is many bounded reads, so that nothing is in memory twice."""
    spool = Spool(bytes(3 * MEMORY_LIMIT))
    sizes = []
    read_at = spool.read_at
    monkeypatch.setattr(
        spool, "read_at", lambda offset, size: sizes.append(size) or read_at(offset, size)
    )
    assert len(spool.open().read(3 * MEMORY_LIMIT)) == 3 * MEMORY_LIMIT
    assert max(sizes) <= MEMORY_LIMIT


@pytest.mark.parametrize("size", [3, 5 * MEMORY_LIMIT])
def test_pickler_dumps_into_it_and_unpickler_loads_from_it(size):
    """pickle uses a spool like a file."""
    spool = Spool()
    value = {"small": 1, "bytes": os.urandom(size), "text": "ä" * size}
    pickle.Pickler(spool, 5).dump(value)
    assert pickle.load(spool.open()) == value


def test_pickles_as_its_contents(spool):
    """The unpickled spool has equal bytes."""
    again = pickle.loads(pickle.dumps(spool))
    assert again.read_at(0, len(spool)) == spool.read_at(0, len(spool))


def test_deep_copy_is_the_spool_itself(spool):
    """What was written never changes, so it need not be there twice."""
    assert copy.deepcopy(spool) is spool


def test_threads_write_whole_chunks():
    """Chunks of several writers never mix, also while memory becomes a file."""
    spool = Spool()
    count, size = 64, MEMORY_LIMIT // 64

    def write(letter):
        for _ in range(count):
            spool.write(letter * size)

    threads = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spool) == 4 * count * size
    chunks = [spool.read_at(offset, size) for offset in range(0, len(spool), size)]
    assert all(chunk == chunk[:1] * size for chunk in chunks)
    assert {chunk[:1] for chunk in chunks} == {b"A", b"B", b"C", b"D"}


def test_reads_are_right_while_memory_becomes_a_file():
    """A reader always sees the bytes while a writer moves them."""
    wrong = []
    for _ in range(20):
        spool = Spool(b"x" * MEMORY_LIMIT)
        done = threading.Event()

        def read(spool=spool, done=done):
            while not done.is_set():
                if spool.read_at(1000, 3) != b"xxx":
                    wrong.append(spool)

        thread = threading.Thread(target=read)
        thread.start()
        spool.write(b"y")
        done.set()
        thread.join()
    assert wrong == []


def exit_status_of_child(function):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if function() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_forked_child_reads_what_is_in_memory():
    """A child takes no lock."""
    spool = Spool(b"0123456789")
    with spool._lock:  # as if another thread were writing at the fork
        assert exit_status_of_child(lambda: spool.read_at(0, 10) == b"0123456789") == 0


def test_forked_child_has_a_file_of_its_own():
    """The parent may give a block to another value, so a child that reads it gets an error."""
    spool = Spool(b"1" * 2 * MEMORY_LIMIT)

    def use_spools():
        with pytest.raises(OSError, match="only in process"):
            spool.read_at(0, 1)
        return Spool(b"2" * 2 * MEMORY_LIMIT).read_at(0, 1) == b"2"

    assert exit_status_of_child(use_spools) == 0
    assert spool.read_at(0, len(spool)) == b"1" * 2 * MEMORY_LIMIT


def test_full_disk_names_the_folder_and_appends_nothing(spool, monkeypatch):
    """The error has the folder, and the spool is unchanged."""
    spool.write(bytes(MEMORY_LIMIT))
    length = len(spool)

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    with pytest.raises(OSError, match="No space left") as raised:
        spool.write(b"more")
    assert raised.value.filename == tempfile.gettempdir()
    assert len(spool) == length


def test_a_file_is_not_found_while_it_is_closed(monkeypatch):
    """Another thread may look for it then, and would write to a descriptor that is another's."""
    found = []

    def close(fd):
        found.append(_spool._files.get(os.getpid()))
        os.close(fd)

    monkeypatch.setattr("posix.close", close)
    spool = Spool(bytes(2 * MEMORY_LIMIT))
    del spool
    assert found == [None]
