"""Files and folders to all hosts of a group, and from them."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

from lazycluster._checks import check_flags, checked_path
from lazycluster._group.progress import GroupProgress
from lazycluster._group.tasks import GroupTasks
from lazycluster._tasks.contents import describe_contents, is_contents
from lazycluster._tasks.log_files import safe_name
from lazycluster._tasks.progress import checked_progress
from lazycluster._tracebacks import short_tracebacks
from lazycluster.runtimes import Runtime
from lazycluster.tasks import RuntimeTask


@short_tracebacks
class GroupFiles(GroupTasks):
    """Copy files to and from all hosts of a group; see `RuntimeGroup`."""

    def send_file(
        self,
        local_path: str | PathLike[str] | bytes,
        remote_path: str | PathLike[str] | None = None,
        execute_async: bool | None = True,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
        exclude: Sequence[str] = (),
        only_changed: bool = False,
        delete: bool = False,
        on_error: str = "raise",
        mode: int | None = None,
        in_place: bool = False,
    ) -> list[RuntimeTask]:
        """Send a file or folder to all hosts at the same time; see `RuntimeTask.send_file`.

        Args:
            local_path: The file or folder, or bytes.
            remote_path: The target on each host. Defaults to the working directory.
            execute_async: If True, return at once. If False, return when all copies have ended.
                Defaults to True.
            progress: A callable that gets the bytes done and the bytes in total of all copies
                together, or True for a line on the terminal. Defaults to None, no report.
            exclude: Patterns of what is left out.
            only_changed: If True, leave out what the target has already.
            delete: If True, remove from the target what the source does not have.
            on_error: "raise" or "skip", for files that cannot be copied.
            mode: The permission bits of the file, or of each file in the folder.
            in_place: If True, overwrite files that exist.

        Returns:
            The task of each host, in the order of the group.

        Raises:
            GroupError: If a synchronous copy failed on a host, after all have ended. Its `errors`
                are FileTransferErrors.
            ValueError: If a path or another argument is invalid.
            TypeError: If an argument has a wrong type. A file object is one, because it can be read
                once only.
        """
        check_flags(execute_async=execute_async)
        if is_contents(local_path) and not isinstance(local_path, bytes):
            raise TypeError("A file object can be read once only; give its path, or bytes.")
        options = {
            "exclude": exclude,
            "only_changed": only_changed,
            "delete": delete,
            "on_error": on_error,
            "mode": mode,
            "in_place": in_place,
        }

        def make(runtime: Runtime, report: Any) -> RuntimeTask:
            return runtime._send_task(local_path, remote_path, progress=report, **options)

        shown = describe_contents(local_path) if isinstance(local_path, bytes) else local_path
        return self._copy(f"send {shown}", make, progress, bool(execute_async))

    def get_file(
        self,
        remote_path: str | PathLike[str],
        local_path: str | PathLike[str] | None = None,
        execute_async: bool | None = True,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
        exclude: Sequence[str] = (),
        only_changed: bool = False,
        delete: bool = False,
        on_error: str = "raise",
        mode: int | None = None,
        in_place: bool = False,
    ) -> list[RuntimeTask]:
        """Get a file or folder from all hosts, into a folder for each host.

        `get_file("app.log", "logs")` makes `logs/web1/app.log`, `logs/web2/app.log` and so on.
        Characters of a host other than letters, digits and `._@-` become `_` in the name of its
        folder. See `send_file` for the other arguments.

        Args:
            remote_path: The file or folder on each host, relative to the working directory.
            local_path: The folder in which the folders of the hosts are made. Defaults to the
                manager's current folder.
            execute_async: If True, return at once. Defaults to True.
            progress: A callable, True or None.
            exclude: Patterns of what is left out.
            only_changed: If True, leave out what the target has already.
            delete: If True, remove from the target what the source does not have.
            on_error: "raise" or "skip".
            mode: The permission bits of the copied files.
            in_place: If True, overwrite files that exist.
        """
        check_flags(execute_async=execute_async)
        top = ""
        if local_path is not None and local_path != "":
            top = checked_path(local_path, "The local path")
        folders = folders_of(self.hosts)
        options = {
            "exclude": exclude,
            "only_changed": only_changed,
            "delete": delete,
            "on_error": on_error,
            "mode": mode,
            "in_place": in_place,
        }

        def make(runtime: Runtime, report: Any) -> RuntimeTask:
            target = os.path.join(top, folders[runtime.host], "")
            return runtime._get_task(remote_path, target, progress=report, **options)

        return self._copy(f"get {remote_path}", make, progress, bool(execute_async))

    def _copy(
        self,
        name: str,
        make: Callable[[Runtime, Any], RuntimeTask],
        progress: Callable[[int, int], object] | bool | None,
        execute_async: bool,
    ) -> list[RuntimeTask]:
        """Execute a task on each host that reports its progress to one for all."""
        runtimes = self.get_runtimes()
        whole = None
        if checked_progress(progress):
            assert progress is not None
            whole = GroupProgress(progress, f"{name} ({len(runtimes)} hosts)", runtimes)
        tasks = {
            host: make(runtime, None if whole is None else whole.of(host))
            for host, runtime in runtimes.items()
        }
        work = {
            host: functools.partial(_execute, runtime, tasks[host], execute_async, whole)
            for host, runtime in runtimes.items()
        }
        try:
            done = self._execute_all(work, tasks, execute_async)
        finally:
            if whole is not None and not execute_async:
                whole.close()
        if whole is not None and execute_async:
            threading.Thread(
                target=_follow, args=(tasks, whole), name="lazycluster progress", daemon=True
            ).start()
        return done


def _execute(
    runtime: Runtime, task: RuntimeTask, execute_async: bool, progress: GroupProgress | None
) -> None:
    try:
        runtime.execute_task(task, execute_async)
    finally:
        if progress is not None and not execute_async:
            progress.end(runtime.host)


def _follow(tasks: dict[str, RuntimeTask], progress: GroupProgress) -> None:
    """Wait for the ends of asynchronous copies, and end their line on the terminal."""
    for host, task in tasks.items():
        if task.process is not None:
            task.process.join()
        progress.end(host)
    progress.close()


def folders_of(hosts: Iterable[str]) -> dict[str, str]:
    """Return a name of a folder for each host; no two are equal, whatever their case."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for host in hosts:
        name = unique = safe_name(host)
        count = 1
        while unique.lower() in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique.lower())
        names[host] = unique
    return names
