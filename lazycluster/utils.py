"""Environment: where lazycluster keeps its files on the manager."""

from __future__ import annotations

import os

from lazycluster._tasks import log_files

__all__ = ["Environment"]


class _EnvironmentType(type):
    """Make `main_directory` a property of the class `Environment`."""

    @property
    def main_directory(cls) -> str:
        """Return the absolute path of the main directory, which has the files of execution logs."""
        return log_files.main_directory()

    @main_directory.setter
    def main_directory(cls, path: str | os.PathLike[str]) -> None:
        log_files.set_main_directory(path)


class Environment(metaclass=_EnvironmentType):
    """Where lazycluster keeps its files on the manager; a class that is used without instances.

    `Environment.main_directory` is the absolute path of the main directory. It can be assigned and
    then counts for later executions. By default it is `$LAZYCLUSTER_HOME`, else
    `$XDG_STATE_HOME/lazycluster`, else `~/.local/state/lazycluster`. Without a home directory that
    can be written, logs are in a temporary directory, which is removed at exit.

    Log files are in `execution_log/<host>/` below it.
    """

    @classmethod
    def set_main_directory(cls, dir: str | os.PathLike[str]) -> None:  # noqa: A002  # 0.2's name
        """Set the main directory for later executions.

        Args:
            dir: The path, absolute or relative to the current folder; a leading `~` is expanded. It
                is made when it is needed.

        Raises:
            ValueError: If the path is empty or invalid.
        """
        cls.main_directory = dir

    @classmethod
    def set_third_party_log_level(cls, log_level: int) -> None:
        """Do nothing: lazycluster uses no library that logs. Scripts for 0.2 call this.

        Args:
            log_level: A level of the module `logging`.
        """
