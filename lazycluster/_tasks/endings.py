"""Make the error that the end of a step means, with what the step has sent as its value."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from lazycluster._conversation.outcome import Outcome, RaisedFailure
from lazycluster._shared import frames
from lazycluster._tasks.outcomes import attach_exception
from lazycluster._tasks.steps import Step
from lazycluster.exceptions import LazyclusterError, RemoteFunctionError


class SentValues(Protocol):
    """What steps have sent as their values."""

    def error(self, index: int, /) -> OSError | None:
        """Return the reason why a step's value could not be stored; None if it is stored."""

    def sent_by(self, index: int, limit: int, /) -> bytes:
        """Return what a step that has not returned has sent; empty if that is above the limit."""


def step_error(
    step: Step,
    host: str,
    outcome: Outcome,
    output: Callable[[], str],
    values: SentValues,
    index: int = 0,
) -> Exception | None:
    """Return the error that an outcome means; None for a success.

    Args:
        step: The step.
        host: The host, for the message.
        outcome: How the step ended.
        output: Returns the end of what the step printed; called only if needed.
        values: What the steps have sent as their values.
        index: The index of the step there.
    """
    if outcome.returned and step.returns and outcome.failure is None:
        reason = values.error(index)
        return None if reason is None else _lost_value_error(step, host, reason)
    error = step.error(host, outcome, output)
    failure = outcome.failure
    raised = isinstance(failure, RaisedFailure) and failure.pickled
    if raised and step.returns and isinstance(error, RemoteFunctionError):
        with contextlib.suppress(OSError):  # then its text has to do
            attach_exception(error, values.sent_by(index, frames.EXCEPTION_LIMIT))
    return error


def _lost_value_error(step: Step, host: str, reason: OSError) -> LazyclusterError:
    """Return the error of a value that could not be stored on the manager."""
    error = LazyclusterError(
        f"{step.name} has run to its end on {host}, but its value cannot be stored on the manager: "
        f"{reason}."
    )
    error.__cause__ = reason
    return error
