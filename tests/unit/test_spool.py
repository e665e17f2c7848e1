"""Spools: append-only bytes, in memory or in an unlinked file."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import threading

import pytest

from lazycluster._spool import MEMORY_LIMIT, READ_LIMIT, Spool

pytestmark = pytest.mark.every_python


@pytest.fixture(params=["memory", "file"])
def spool(request):
    """A spool that holds "0123456789" at its end, once in memory and once in a file."""
    spool = Spool()
    if request.param == "file":
        spool.write(bytes(MEMORY_LIMIT))
    spool.write(b"0123456789")
    yield spool
    spool.close()


def open_files():
    return len(os.listdir("/dev/fd"))


def test_what_was_written_is_read(spool):
    """Offsets count from the first byte written."""
    assert spool.read_at(len(spool) - 10, 10) == b"0123456789"


def test_read_across_the_end_gives_what_there_is(spool):
    """A read is short at the end and empty beyond it."""
    assert spool.read_at(len(spool) - 2, 10) == b"89"
    assert spool.read_at(len(spool) + 5, 10) == b""


def test_negative_offset_is_refused(spool):
    """A negative number is an error, not a position from the end."""
    with pytest.raises(ValueError, match="negative"):
        spool.read_at(-1, 1)


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
    assert open_files() == before
    spool.close()


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
    spool.close()
    assert open_files() == before


def test_reader_reads_a_part(spool):
    """Each reader reads from its start to its end."""
    start = len(spool) - 10
    first, second = spool.open(start, start + 4), spool.open(start)
    assert first.read() == b"0123"
    assert second.read() == b"0123456789"


def test_reader_without_end_sees_what_comes_later(spool):
    """The end of an open reader is the end of the spool at that moment."""
    reader = spool.open(len(spool))
    assert reader.read(1) == b""
    spool.write(b"more")
    assert reader.read(4) == b"more"


def test_reader_asks_for_bounded_chunks(monkeypatch):
    """A large read is many bounded reads, so that nothing is in memory twice."""
    spool = Spool(bytes(3 * READ_LIMIT))
    sizes = []
    read_at = spool.read_at
    monkeypatch.setattr(
        spool, "read_at", lambda offset, size: sizes.append(size) or read_at(offset, size)
    )
    assert len(spool.open().read(3 * READ_LIMIT)) == 3 * READ_LIMIT
    assert max(sizes) <= READ_LIMIT


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


def test_spool_can_be_closed_twice_and_is_not_used_afterwards(spool):
    """Reads and writes raise a ValueError."""
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool.read_at(0, 1)
    with pytest.raises(ValueError, match="closed"):
        spool.write(b"x")


def test_empty_spool_is_true():
    """An empty spool is not mistaken for None."""
    assert Spool()


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


def test_forked_child_reads_what_the_parent_reads(spool):
    """A child has its own position and takes no lock."""
    with spool._lock:  # as if another thread were writing at the fork
        pid = os.fork()
        if pid == 0:
            os._exit(0 if spool.read_at(len(spool) - 10, 10) == b"0123456789" else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert spool.open(len(spool) - 10).read() == b"0123456789"


def test_full_disk_names_the_folder_and_appends_nothing(spool, monkeypatch):
    """The error has the folder, and the spool is unchanged."""
    spool.write(bytes(MEMORY_LIMIT))
    length = len(spool)

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    with pytest.raises(OSError, match="No space left") as raised:
        spool.write(b"more")
    assert raised.value.filename == spool._file.folder
    assert len(spool) == length
