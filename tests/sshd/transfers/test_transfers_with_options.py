"""The options of copies, the same in both directions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lazycluster import FileTransferError, RuntimeTask
from support.transfers import both_ways


def make(root):
    (root / "sub").mkdir(parents=True)
    for name in ("a.py", "a.pyc", "sub/b.pyc", "sub/c"):
        (root / name).write_text(name)
    os.mkfifo(root / "fifo")
    return root


def copy(way, of, source, target, **options):
    method = of.send_file if way == "send" else of.get_file
    return method(source, target, **options)


@both_ways
def test_patterns_leave_out(way, runtime, elsewhere, base):
    """By a Runtime and by a task."""
    source = make(elsewhere / "source")
    copy(way, runtime, source, "new", exclude=["*.pyc", "!b.pyc"])
    task = copy(way, RuntimeTask(), source, "other", exclude=["*.pyc", "!b.pyc"])
    runtime.execute_task(task, execute_async=False)
    for name in ("new", "other"):
        found = sorted(str(path.relative_to(base / name)) for path in (base / name).rglob("*"))
        assert found == ["a.py", "sub", "sub/b.pyc", "sub/c"]


@both_ways
def test_what_is_excluded_does_not_count_for_the_progress(way, runtime, elsewhere, base):
    (elsewhere / "source").mkdir()
    (elsewhere / "source/big").write_bytes(bytes(1_000_000))
    (elsewhere / "source/small").write_bytes(bytes(10))
    reports = []
    copy(
        *(way, runtime, elsewhere / "source", "new"),
        exclude=["big"],
        progress=lambda done, total: reports.append((done, total)),
    )
    assert reports[-1] == (10, 10)


@both_ways
def test_what_is_skipped_is_on_the_task(way, runtime, elsewhere, base):
    """With its reason, and in the execution log."""
    source = make(elsewhere / "source")
    task = RuntimeTask()
    assert task.skipped == []
    runtime.execute_task(copy(way, task, source, "new"), execute_async=False)
    assert task.skipped == [(str(source / "fifo"), "FIFO")]
    assert task.execution_log == [f"skipped {str(source / 'fifo')!r}: FIFO\n"]
    runtime.execute_task(RuntimeTask().run_command("true"), execute_async=False)
    assert task.skipped == [(str(source / "fifo"), "FIFO")]


@both_ways
def test_what_cannot_be_read_is_skipped(way, runtime, here, base):
    """Root can read all but what the system itself refuses."""
    source = Path(f"/proc/{os.getpid()}/attr")
    try:
        (source / "current").read_bytes()
        pytest.skip("this system lets read all that there is")
    except OSError as error:
        reason = error.strerror
    with pytest.raises(FileTransferError, match=reason):
        copy(way, runtime, source, "attr")
    assert list(base.iterdir()) == []
    task = copy(way, runtime, source, "attr", on_error="skip")
    assert (str(source / "current"), reason) in task.skipped
    assert f"skipped {str(source / 'current')!r}: {reason}\n" in task.execution_log[0]
    assert (base / "attr").is_dir()
