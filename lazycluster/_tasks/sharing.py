"""Send a value to the process on a host from which the functions are forked that use it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lazycluster._conversation.outcome import OsFailure, Outcome, RaisedFailure, SharedFailure
from lazycluster._functions.shared import EMPTY, PickledValue, dump_by_value
from lazycluster._tasks.outcomes import failure_error, load_failure
from lazycluster._tasks.steps import Step
from lazycluster.exceptions import LazyclusterError, SerializationError

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster._tasks.execution import Target


@dataclass(frozen=True)
class ShareValue(Step):
    """Let a host unpickle and hold a value.

    Attributes:
        key: The key of the value.
        value: The value, pickled.
    """

    key: str = ""
    value: PickledValue = field(default=EMPTY, repr=False)  # it may be a secret

    kind: ClassVar[str] = "value"

    def forks_from_branch(self, preloads: bool) -> bool:
        """Return True: a branch holds the value."""
        return True

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {
            "kind": "share",
            "key": self.key,
            "pickle": len(self.value.pickled),
            "buffers": self.value.sizes,
            "input": self.value.size,
            "python": list(sys.version_info[:2]),
            "contents": list(self.value.contents),
        }

    @property
    def contents(self) -> Mapping[str, bytes]:
        """Return the local modules and the texts, by key."""
        return self.value.contents

    def chunks(self, transfer: object) -> Iterator[bytes]:
        """Yield the value."""
        return self.value.chunks()

    def by_value(self, outcome: Outcome) -> ShareValue | None:
        """Return the step with a module by value that the host could not import; else None."""
        module = outcome.failed_module
        value = None if module is None else dump_by_value(self.value, module)
        return None if value is None else replace(self, value=value)

    def error(self, host: str, outcome: Outcome, output: Callable[[], str]) -> Exception | None:
        """Return the error of a value that the host does not hold then."""
        if outcome.completed:
            return None
        failure = outcome.failure
        headline = f"The {self.value.type} cannot be shared with {host}"
        if isinstance(failure, RaisedFailure):
            return SerializationError(
                f"{headline}: it cannot be unpickled there. {load_failure(host, failure)}"
            )
        if isinstance(failure, SharedFailure):
            return SerializationError(f"{headline}: {failure.message}.")
        if failure is None or isinstance(failure, OsFailure):
            reason = "the host does not say why" if failure is None else failure.message
            return LazyclusterError(f"{headline}: {reason}.")
        return failure_error(host, self.name, outcome, output)


class HeldValue:
    """A value that the hosts of one Runtime hold, and that is sent again where it is lost.

    Args:
        step: Sends it.
        owner: Identifies the Runtime.
        host: The host of the Runtime.
    """

    def __init__(self, step: ShareValue, owner: object, host: str) -> None:
        self.host: str = host
        self.key: str = step.key
        self.type: str = step.value.type
        self._step: ShareValue | None = step
        self._owner = owner
        # By the connection's token. No weak references: the garbage collector clears those of what
        # it frees before `close` is called.
        self._frees: dict[str, Callable[[str], None]] = {}
        # The number of the last request that has sent it, by the connection's token and what the
        # process that holds it was told to import.
        self._sent: dict[tuple[str, str], int] = {}

    @property
    def is_closed(self) -> bool:
        """Return True after `close`."""
        return self._step is None

    def check_open(self) -> ShareValue:
        """Return the step that sends it.

        Raises:
            ValueError: If it was closed.
        """
        step = self._step
        if step is None:
            raise ValueError(
                f"The SharedValue of type {self.type} was closed, and {self.host} does not hold it "
                "any more. Share the value again."
            )
        return step

    def check(self, owner: object) -> ShareValue:
        """Return the step that sends it, after a check that the functions of a Runtime can use it.

        Raises:
            ValueError: If it was closed, or is another Runtime's.
        """
        step = self.check_open()
        if owner is not self._owner:
            raise ValueError(
                f"The SharedValue of type {self.type} belongs to another Runtime, of "
                f"{self.host!r}. Share the value with this one, too."
            )
        return step

    def note(self, conversation: Conversation) -> None:
        """Note a connection on which it is sent."""
        self._frees.setdefault(conversation.token, conversation.find_free())

    def update(self, step: ShareValue) -> None:
        """Take the step in the form in which the host could take it."""
        self._step = step

    def send_again(self, target: Target, after: int) -> None:
        """Send it to where a call lacked it, unless it was sent there since.

        Nothing waits for its arrival here: the host lets calls wait that come behind it.

        Args:
            target: Where the call runs.
            after: The number of the request of the call.

        Raises:
            ValueError: If it was closed.
            ConnectionLostError: If the connection has ended.
        """
        step = self.check(target.owner)
        described, contents = target.describe([step])
        preload = json.dumps(described[0]["preload"], sort_keys=True)
        place = target.conversation.token, preload
        if self._sent.get(place, 0) > after:
            return
        self.note(target.conversation)
        request = target.conversation.request(
            described,
            working_dir=target.working_dir,
            environment=target.environment,
            chunks=step.chunks(None),
            contents=contents,
        )
        self._sent[place] = request.number

    def close(self) -> None:
        """Let the host free it, after the calls that were sent before; a second call does nothing.

        It does not wait for the host.
        """
        self._step = None
        for free in list(self._frees.values()):
            free(self.key)
        self._frees.clear()
