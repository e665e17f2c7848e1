"""Define the steps of a task: frozen dataclasses, each of which describes itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from lazycluster._conversation.outcome import OsFailure, Outcome
from lazycluster._functions.payload import dump_by_value
from lazycluster._functions.pickled_call import PickledCall
from lazycluster._shared import frames
from lazycluster._shared.paths import absolute
from lazycluster._spool import Spool
from lazycluster._tasks.contents import ContentsDownload, ContentsUpload, Source
from lazycluster._tasks.copy_options import DEFAULTS, CopyOptions
from lazycluster._tasks.crashes import crash_stack, likely_reason
from lazycluster._tasks.log_records import levels
from lazycluster._tasks.outcomes import ending, failure_error
from lazycluster._tasks.progress import Meter, Progress
from lazycluster._tasks.transfers import Download, Transfer, Upload, own_name
from lazycluster._text import command_message, escaped, one_line
from lazycluster.exceptions import (
    CommandError,
    FileTransferError,
    LazyclusterError,
    RemoteFunctionError,
    TaskExecutionError,
)

HEADING_LIMIT = 100


@dataclass(frozen=True)
class Step:
    """Hold what all kinds of steps have in common.

    Attributes:
        name: The name of the step in messages.
        timeout: The most seconds that it may take; None for no bound.
        copies: True if the step copies a file or folder, and is a request of its own.
        returns: True if the step has a value that the task yields.
        kind: What the step is, for messages.
    """

    name: str
    timeout: float | None = None

    copies: ClassVar[bool] = False
    returns: ClassVar[bool] = False
    kind: ClassVar[str] = "command"

    def bound(self) -> Step:
        """Return the step with its local path as an execution that begins now takes it."""
        return self

    @property
    def heading(self) -> str:
        """Return what the step does, on one line of at most `HEADING_LIMIT` characters."""
        first, _, rest = self.name.strip().partition("\n")
        return one_line(f"{first.rstrip()} …" if rest else first, HEADING_LIMIT)

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        raise NotImplementedError

    @property
    def contents(self) -> Mapping[str, bytes]:
        """Return what the step refers to, by key; a host gets each content once."""
        return {}

    @property
    def shared(self) -> Mapping[str, Any]:
        """Return the SharedValues that the step uses, by key."""
        return {}

    def forks_from_branch(self, preloads: bool) -> bool:
        """Return True if a branch must run the step; `preloads` is True if there are modules."""
        return False

    def by_value(self, outcome: Outcome) -> Step | None:
        """Return the step in the form that must be sent after an outcome; None if none must."""
        return None

    def transfer(self) -> Transfer | None:
        """Return what one execution of a copy needs on the manager; None for another step."""
        return None

    def describe_list(self) -> dict[str, Any] | None:
        """Return the step that lists the destination before the copy; None if none does."""
        return None

    def chunks(self, transfer: Transfer | None) -> Iterator[bytes]:
        """Yield the input of the step's process; `transfer` is what `self.transfer` returned."""
        return iter(())

    def error(self, host: str, outcome: Outcome, output: Callable[[], str]) -> Exception | None:
        """Return the error that an outcome means; None for a success.

        `output` returns the end of what the step printed; it is called only if needed.
        """
        raise NotImplementedError

    def execution_error(
        self, message: str, cause: BaseException, **details: Any
    ) -> TaskExecutionError:
        """Return the error of an execution that this step ends; `details` are its attributes."""
        return TaskExecutionError(message, **details)


@dataclass(frozen=True)
class RunCommand(Step):
    """Run a command, which is the name of the step, in a shell.

    Attributes:
        shell: The words of the shell; None for the account's own.
        input: The standard input; None for `/dev/null`.
        separate: True if the standard error is not part of the output.
    """

    shell: tuple[str, ...] | None = None
    input: bytes | None = field(default=None, repr=False)  # it may be a secret
    separate: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {
            "kind": "command",
            "command": self.name,
            "shell": self.shell,
            "input": None if self.input is None else len(self.input),
            "separate": self.separate,
        }

    def chunks(self, transfer: Transfer | None) -> Iterator[bytes]:
        """Yield the standard input."""
        data = memoryview(self.input or b"")
        for start in range(0, len(data), frames.CHUNK):
            yield bytes(data[start : start + frames.CHUNK])

    def error(self, host: str, outcome: Outcome, output: Callable[[], str]) -> Exception | None:
        """Return the error of any end but exit status 0."""
        if outcome.failure is not None:
            return failure_error(host, self.name, outcome, output)
        if outcome.exit_status == 0:
            return None
        end: dict[str, Any] = {"exit_status": outcome.exit_status, "signal": outcome.signal}
        printed = output()
        message = command_message(host=host, command=self.name, output=printed, **end)
        return CommandError(message, host=host, command=self.name, output=printed, **end)


@dataclass(frozen=True)
class RunFunction(Step):
    """Call a function that is pickled already."""

    call: PickledCall = field(default_factory=lambda: PickledCall(Spool(), {}))

    returns: ClassVar[bool] = True
    kind: ClassVar[str] = "function"

    @property
    def heading(self) -> str:
        """Return what the step does, on one line of at most `HEADING_LIMIT` characters."""
        return one_line(f"call of {self.name}", HEADING_LIMIT)

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        call = self.call
        return {
            "kind": "function",
            "input": len(call.payload),
            "python": list(sys.version_info[:2]),
            "contents": list(call.contents),
            "levels": levels(),
            **({"shared": list(call.shared)} if call.shared else {}),
        }

    def chunks(self, transfer: Transfer | None) -> Iterator[bytes]:
        """Return the pickled call, in chunks."""
        payload = self.call.payload
        starts = range(0, len(payload), frames.CHUNK)
        if len(starts) == 1:  # as of most calls, for which a generator takes longer
            return iter((payload.read_at(0, frames.CHUNK),))
        return (payload.read_at(start, frames.CHUNK) for start in starts)

    @property
    def contents(self) -> Mapping[str, bytes]:
        """Return the local modules and the texts, by key."""
        return self.call.contents

    @property
    def shared(self) -> Mapping[str, Any]:
        """Return the SharedValues that the call uses, by key."""
        return self.call.shared

    def forks_from_branch(self, preloads: bool) -> bool:
        """Return True if a branch must run the step; `preloads` is True if there are modules."""
        return preloads or bool(self.call.shared)

    def by_value(self, outcome: Outcome) -> RunFunction | None:
        """Return the step with a module by value that the host could not import; else None.

        The function has not started then.

        Raises:
            SerializationError: If it cannot travel by value either.
        """
        module = outcome.failed_module
        call = None if module is None else dump_by_value(self.call, module)
        return None if call is None else replace(self, call=call)

    def error(self, host: str, outcome: Outcome, output: Callable[[], str]) -> Exception | None:
        """Return the error of a function that has not returned."""
        if outcome.failure is not None:
            return failure_error(host, self.name, outcome, output)
        if outcome.returned:
            return None
        when = "before the function returned"
        if outcome.ending:
            when = "after the function had returned, before its threads and exit functions ended"
        message = f"The process of {self.name} ended {ending(outcome)} on {host} {when}"
        reason, stack = None, None
        if outcome.signal is not None:
            reason, stack = likely_reason(outcome), crash_stack(output())
        message += f": {reason}." if reason else "."
        return RemoteFunctionError(
            f"{message}\n{stack}" if stack else message,
            host=host,
            function=self.name,
            traceback=stack,
            exit_status=outcome.exit_status,
            signal=outcome.signal,
        )


@dataclass(frozen=True)
class _Copy(Step):
    """Copy between a path on the manager, absolute if it is bound, and a path on the host."""

    local_path: str = ""
    remote_path: str = ""
    progress: Progress | None = None
    options: CopyOptions = DEFAULTS

    copies: ClassVar[bool] = True
    kind: ClassVar[str] = "copy"

    def __deepcopy__(self, memo: object) -> _Copy:
        # A deep copy of a bound method would report the progress to a copy of its object.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A callback belongs to this process, and a lambda cannot even be pickled.
        return {**self.__dict__, "progress": None}

    def transfer(self) -> Transfer:
        """Return what one execution of the copy needs on the manager."""
        raise NotImplementedError

    def chunks(self, transfer: Transfer | None) -> Iterator[bytes]:
        """Yield what the host gets."""
        assert transfer is not None
        return transfer.chunks()

    def _meter(self) -> Meter | None:
        return Meter(self.progress, self.name) if self.progress else None

    def error(self, host: str, outcome: Outcome, output: Callable[[], str]) -> Exception | None:
        """Return the error of a copy that was not completed."""
        failure = outcome.failure
        if isinstance(failure, OsFailure):
            side = "the manager" if failure.on_sender else host
            message = escaped(f"{failure.message} (on {side})")
            if failure.errno is None:
                return LazyclusterError(message)
            return OSError(failure.errno, message, failure.path or self.remote_path)
        if failure is not None:
            return failure_error(host, self.name, outcome, output)
        if outcome.completed:
            return None
        return LazyclusterError(f"The process that copied ended {ending(outcome)} on {host}.")

    def execution_error(
        self, message: str, cause: BaseException, **details: Any
    ) -> TaskExecutionError:
        """Return a FileTransferError with the paths, and the errno of an OSError."""
        return FileTransferError(
            message,
            **details,
            local_path=self.local_path or None,
            remote_path=self.remote_path,
            errno=cause.errno if isinstance(cause, OSError) else None,
            filename=cause.filename if isinstance(cause, OSError) else None,
        )


@dataclass(frozen=True)
class SendFile(_Copy):
    """Send a file or folder to the host."""

    def bound(self) -> SendFile:
        """Return the step with an absolute path, which its name shows."""
        path = absolute(os.path.expanduser(self.local_path))
        return replace(self, local_path=path, name=f"send {path}")

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {"kind": "unpack", **self._destination, "options": self.options.for_receiver()}

    @property
    def _destination(self) -> dict[str, Any]:
        return {"target": self.remote_path, "name": own_name(self.local_path)}

    def describe_list(self) -> dict[str, Any] | None:
        """Return the step that lists the destination before the copy; None if none does."""
        return {"kind": "list", **self._destination} if self.options.only_changed else None

    def transfer(self) -> Upload:
        """Return what one execution of the copy needs on the manager."""
        return Upload(self._meter(), self.local_path, self.options)


@dataclass(frozen=True)
class SendContents(_Copy):
    """Send bytes, or what a file object has, to a file on the host."""

    contents_source: Any = field(default=None, repr=False)  # it may be a secret

    def bound(self) -> SendContents:
        """Return the step with what this execution reads."""
        return replace(self, contents_source=Source(self.contents_source))

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {
            "kind": "unpack",
            "target": self.remote_path,
            "name": None,
            "options": self.options.for_receiver(),
        }

    def transfer(self) -> ContentsUpload:
        """Read the file object, once."""
        return ContentsUpload(self._meter(), self.contents_source)


@dataclass(frozen=True)
class GetContents(_Copy):
    """Get a file from the host into a file object."""

    file: Any = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {
            "kind": "pack",
            "path": self.remote_path,
            "measured": bool(self.progress),
            "options": {"only_file": True},
        }

    def transfer(self) -> ContentsDownload:
        """Return what one execution of the copy needs on the manager."""
        return ContentsDownload(self._meter(), self.file)


@dataclass(frozen=True)
class GetFile(_Copy):
    """Get a file or folder from the host."""

    def bound(self) -> GetFile:
        """Return the step with an absolute path; a slash at the end stays."""
        return replace(self, local_path=absolute(os.path.expanduser(self.local_path)))

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {
            "kind": "pack",
            "path": self.remote_path,
            "measured": bool(self.progress),
            "options": self.options.for_sender(),
        }

    def transfer(self) -> Transfer:
        """Return what one execution of the copy needs on the manager."""
        return Download(self._meter(), self.local_path, self.remote_path, self.options)
