"""Share a value with a host: what a Runtime and its views have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from lazycluster._functions import rebuild
from lazycluster._functions.selection import Modules
from lazycluster._functions.shared import dump_value
from lazycluster._runtime.host import Host
from lazycluster._tasks.completion import completion
from lazycluster._tasks.execution import Target
from lazycluster._tasks.invocation import Invocation
from lazycluster._tasks.sharing import HeldValue, ShareValue
from lazycluster._tracebacks import short_tracebacks
from lazycluster.shared_values import SharedValue

T = TypeVar("T")


def hold(value: T, modules: Modules, owner: object, host: str) -> tuple[HeldValue, SharedValue[T]]:
    """Pickle a value, and return it with what stands for it in calls; nothing is sent yet.

    Args:
        value: The value.
        modules: What the user said about modules.
        owner: Identifies the Runtime or Pool whose calls may use it.
        host: The host, for messages.

    Raises:
        SerializationError: If it cannot be pickled.
    """
    completion.start()  # it frees what the garbage collector finds
    step = ShareValue("share()", key=os.urandom(8).hex(), value=dump_value(value, modules))
    held = HeldValue(step, owner, host)
    shared: SharedValue[T] = SharedValue(held)
    rebuild.remember(step.key, shared)
    return held, shared


@short_tracebacks
class Sharing:
    """Send values to a host once, for many calls."""

    _options: Any
    _target_for: Callable[[Any], Target]

    @property
    def _base(self) -> Host:
        raise NotImplementedError

    def share(self, value: T) -> SharedValue[T]:
        """Send a value to the host, which unpickles and holds it for all functions to come.

        It is pickled now, so later changes of it do not matter. A function that gets the result as
        an argument finds the value itself there, by copy-on-write.

        The value is in the process that has imported what `preload` names. A function with another
        `preload` sends it once more, as does the first function after a lost connection. Until
        `close`, the manager keeps the pickle, in a temporary file if it is large.

        Args:
            value: What can be pickled. It must not start a thread when it is unpickled.

        Returns:
            What stands for the value in calls of this Runtime and its views. The value is freed on
            the host when it is closed or garbage.

        Raises:
            SerializationError: If the value cannot be pickled here or unpickled on the host, or
                starts a thread there.
            StepTimeoutError: If it took longer than the `timeout` of `with_options`.
            ConnectionLostError: If the connection ended meanwhile.
            LazyclusterError: If the host cannot hold the value, for example for lack of memory.

        Examples:
            >>> with runtime.share(list(range(1_000_000))) as numbers:
            ...     runtime.call(sum, numbers)
            499999500000
        """
        options = self._options
        held, shared = hold(value, options.modules, self._base._shares, self._base.host)
        step = held.check_open()

        def find_target() -> Target:
            target = self._target_for(options)
            held.note(target.conversation)
            return target

        invocation = Invocation(step, self._base.host, timeout=options.timeout)
        try:
            error = invocation.run(find_target)
        except BaseException:
            held.close()
            raise
        if error is not None:
            held.close()
            raise error
        if isinstance(invocation.step, ShareValue):
            held.update(invocation.step)
        return shared
