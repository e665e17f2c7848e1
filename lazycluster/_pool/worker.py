"""A host of a Pool: its login, its free slots, and its rest after a failure."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lazycluster._pool.call import PoolCall
from lazycluster._runtime.calls import RuntimeView

if TYPE_CHECKING:
    from lazycluster.runtimes import Runtime

FIRST_REST = 1.0  # seconds after the first failure; each further one doubles them
LONGEST_REST = 60.0

LOGGING_IN, READY, RESTING = "logging in", "ready", "resting"


@dataclass(frozen=True)
class HostStatus:
    """What a host of a Pool does now.

    Attributes:
        state: `"ready"`, `"logging in"` or `"resting"`.
        slots: How many calls it runs at once; 0 before its first login, if that was not given.
        running: How many it runs now.
        gpus: How many GPUs it has.
        free_gpus: How many of them no call has for itself.
        reason: Why it rests, or why it last did; an empty string if it never failed.
        rest: Seconds until the next login.
    """

    state: str
    slots: int
    running: int
    gpus: int
    free_gpus: int
    reason: str
    rest: float


class Worker:
    """A host that runs calls; used by the thread of its Pool alone, except `log_in`.

    Args:
        host: The host.
        make: Returns its Runtime; called once.
        slots: How many calls run at once; None for the usable cores.
        owns: True if the Pool closes the Runtime.
    """

    def __init__(
        self, host: str, make: Callable[[], Runtime], slots: int | None, owns: bool
    ) -> None:
        self.host = host
        self.owns = owns
        self.runtime: Runtime | None = None
        self.state = LOGGING_IN
        self.login_failed = False
        self.error: Exception | None = None
        self.rests_until = 0.0
        self.running: set[PoolCall] = set()
        self.last_number = -1  # of its newest call
        self._make = make
        self._given_slots = slots
        self._slots = slots or 0
        self._info_is_read = False
        self._gpus: list[str] = []
        self._free_gpus: list[str] = []
        self._held_gpus: dict[PoolCall, list[str]] = {}
        self._failures = 0
        self._closed = threading.Event()

    @property
    def is_known(self) -> bool:
        """Return True after the first login."""
        return self._info_is_read

    @property
    def gpu_count(self) -> int:
        """Return how many GPUs it has."""
        return len(self._gpus)

    @property
    def free_slots(self) -> int:
        """Return how many calls can start there now."""
        return self._slots - len(self.running) if self.state == READY else 0

    def can_take(self, gpus: int) -> bool:
        """Return True if a call that needs so many GPUs can start there now."""
        return self.free_slots > 0 and len(self._free_gpus) >= gpus

    def log_in(self, on_end: Callable[[Exception | None], object]) -> None:
        """Log in, in a thread of its own.

        Args:
            on_end: Called in that thread, with the error or None.
        """
        self.state = LOGGING_IN

        def run() -> None:
            try:
                self._open()
            except Exception as error:
                on_end(error)
            else:
                on_end(None)

        name = f"lazycluster pool {self.host}"
        threading.Thread(target=run, name=name, daemon=True).start()

    def _open(self) -> None:
        if self.runtime is None:
            self.runtime = self._make()
        closed = self.runtime._connection._closed  # what `close` ends is not opened again
        if self._closed.is_set():
            self.close()
        target = self.runtime._find_target({}, closed)
        if not self._info_is_read:
            info = self.runtime._read_info(target)
            self._gpus = [str(gpu["id"]) for gpu in info.gpus]
            self._free_gpus = list(self._gpus)
            self._slots = self._given_slots or info.cpu_cores
            self._info_is_read = True

    def take(self, call: PoolCall) -> RuntimeView:
        """Give a slot and GPUs to a call; return what runs it."""
        runtime = self.runtime
        assert runtime is not None
        self.running.add(call)
        self.last_number = call.number
        options = call.need.options
        env = dict(options.env)
        count = call.need.gpus
        if count:
            held, self._free_gpus = self._free_gpus[:count], self._free_gpus[count:]
            self._held_gpus[call] = held
            env["CUDA_VISIBLE_DEVICES"] = ",".join(held)
        options = replace(options, env=env, preload=options.preload or runtime._options.preload)
        return RuntimeView(runtime, options)

    def give_back(self, call: PoolCall, has_succeeded: bool = False) -> None:
        """Take the slot and the GPUs of a call back."""
        if has_succeeded:
            self._failures = 0
        self.running.discard(call)
        self._free_gpus = sorted(
            [*self._free_gpus, *self._held_gpus.pop(call, [])], key=self._gpus.index
        )

    def come_back(self) -> None:
        """Note a login."""
        self.state, self.login_failed = READY, False

    def rest(self, error: Exception) -> None:
        """Rest after a failure, longer after each further one."""
        if self.state == RESTING:
            return
        pause = min(LONGEST_REST, FIRST_REST * 2**self._failures) * random.uniform(0.8, 1.2)
        self._failures += 1
        self.state, self.error = RESTING, error
        self.rests_until = time.monotonic() + pause

    def status(self) -> HostStatus:
        """Return what it does now; may be called in any thread."""
        rest = max(0.0, self.rests_until - time.monotonic()) if self.state == RESTING else 0.0
        return HostStatus(
            self.state,
            self._slots,
            len(self.running),
            len(self._gpus),
            len(self._free_gpus),
            "" if self.error is None else str(self.error),
            rest,
        )

    def close(self) -> None:
        """Close the Runtime if the Pool has made it, also if that is about to be made."""
        self._closed.set()
        if self.owns and self.runtime is not None:
            self.runtime.close()
