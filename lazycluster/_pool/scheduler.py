"""Give calls to the hosts of a Pool, in one thread."""

from __future__ import annotations

import atexit
import collections
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

from lazycluster._interpreter_exit import wait_for
from lazycluster._pool.call import Loss, PoolCall, find_loss
from lazycluster._pool.worker import RESTING, HostStatus, Worker
from lazycluster._tasks import unfinished
from lazycluster._tasks.invocation import Invocation
from lazycluster.exceptions import InvalidRuntimeError

_Event = Callable[[], object]
_Waiting = collections.OrderedDict[PoolCall, None]

EXIT_TIMEOUT = 1.0  # seconds at the interpreter's exit for the thread to end


class Scheduler:
    """The waiting calls, and the hosts that run them.

    All attributes belong to one thread, which handles one event after the other. It logs in to
    nothing, unpickles nothing, and waits for nothing but events.

    Args:
        workers: The hosts.

    Attributes:
        shares: Identifies the Pool for the values that are shared with its hosts.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.shares = object()
        self._workers = workers
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        # By the number of GPUs that they need, so that what no host can take now holds up no other.
        # In order, and without a search for a call that is dropped: 20,000 of them took 5 s.
        self._waiting: dict[int, _Waiting] = collections.defaultdict(_Waiting)
        self._pid = os.getpid()
        self._taking = threading.RLock()  # reentrant for a signal handler, and for a finalizer
        self._takes_calls = True
        self._is_shut_down = False
        self._exits = False
        self._has_ended = False
        self._changed = threading.Condition()  # for the end

    def start(self) -> None:
        """Log in to all hosts, and start the thread."""
        threading.Thread(target=self._run, name="lazycluster pool", daemon=True).start()

    # In any thread

    def submit(self, call: PoolCall) -> None:
        """Run a call when a host has a free slot.

        Raises:
            RuntimeError: After `shut_down`, or at the interpreter's exit.
        """
        with self._taking:  # A call behind the event of a shutdown would never end.
            if not self._takes_calls:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._events.put(lambda: self._waiting[call.need.gpus].setdefault(call))

    def look_at_stopped(self, call: PoolCall) -> None:
        """Drop a call that has been stopped, if it still waits."""
        self._events.put(lambda: self._drop(call))

    def shut_down(self, cancel_waiting: bool = False) -> None:
        """Take no more calls, close the Runtimes after the last one, and end the thread.

        In a forked child, which has neither, it does nothing.
        """
        if os.getpid() != self._pid:
            return
        with self._taking:
            self._takes_calls = False
            self._events.put(lambda: self._shut_down(cancel_waiting))

    def await_end(self) -> None:
        """Wait for the end of the thread.

        Raises:
            LazyclusterError: If the main thread has ended, so that Python waits for this one.
        """
        wait_for(self._changed, lambda: self._has_ended)

    def status(self) -> dict[str, HostStatus]:
        """Return what each host does now."""
        return {worker.host: worker.status() for worker in self._workers}

    # In the thread

    def _run(self) -> None:
        try:
            for worker in self._workers:
                self._log_in(worker)
            while not self._exits and not (self._is_shut_down and self._is_idle()):
                self._handle_events()
                self._end_rests()
                self._start_calls()
            atexit.unregister(self._exit)
            if not self._exits:
                self._close()
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _exit(self) -> None:
        """Start nothing more at the interpreter's exit, which closes the connections."""
        if os.getpid() != self._pid:  # a forked child has no thread to wait for
            return
        with self._taking:
            self._takes_calls = False
        self._exits = True
        self._events.put(lambda: None)
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended, EXIT_TIMEOUT)

    def _is_idle(self) -> bool:
        return not any(self._waiting.values()) and not any(w.running for w in self._workers)

    def _handle_events(self) -> None:
        """Wait for an event, until the next rest is over at most, and handle all that are there."""
        rests = [worker.rests_until for worker in self._workers if worker.state == RESTING]
        timeout = max(0.0, min(rests) - time.monotonic()) if rests else None
        try:
            self._events.get(timeout=timeout)()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            pass

    def _drop(self, call: PoolCall) -> None:
        self._waiting[call.need.gpus].pop(call, None)

    def _shut_down(self, cancel_waiting: bool) -> None:
        self._is_shut_down = True
        if cancel_waiting:
            for call in self._take_waiting():
                call.cancel()

    def _take_waiting(self) -> list[PoolCall]:
        calls = [call for waiting in self._waiting.values() for call in waiting]
        self._waiting.clear()
        return calls

    def _end_rests(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.state == RESTING and worker.rests_until <= now:
                self._log_in(worker)

    def _log_in(self, worker: Worker) -> None:
        def take_end(error: Exception | None) -> None:
            self._events.put(lambda: self._take_login(worker, error))

        try:
            worker.log_in(take_end)
        except RuntimeError as error:  # The process may have no thread left.
            self._take_login(worker, error)

    def _take_login(self, worker: Worker, error: Exception | None) -> None:
        if error is None:
            worker.come_back()
            # The last handler comes first, and a login has registered one that closes it.
            atexit.unregister(self._exit)
            atexit.register(self._exit)
            unfinished.come_first()
        else:
            worker.login_failed = True
            worker.rest(error)
            self._fail_if_none_is_left()

    def _fail_if_none_is_left(self) -> None:
        """Fail what waits if no host could be used when that was last tried."""
        if not all(worker.login_failed for worker in self._workers):
            return
        errors = {worker.host: worker.error for worker in self._workers if worker.error is not None}
        reasons = "\n  ".join(str(error) for error in errors.values())
        for call in self._take_waiting():
            message = f"{call.name} was not called, because no host is left.\n  {reasons}"
            call.end(InvalidRuntimeError(message, host=next(iter(errors)), errors=errors))

    def _start_calls(self) -> None:
        """Start the calls that came first, as long as there are free slots for one of them."""
        while True:
            heads = sorted(
                (next(iter(waiting)) for waiting in self._waiting.values() if waiting),
                key=lambda call: call.number,
            )
            for call in heads:
                worker = self._find_worker(call.need.gpus)
                if worker is not None:
                    del self._waiting[call.need.gpus][call]
                    self._start_call(call, worker)
                    break
                self._refuse_if_hopeless(call)
            else:
                return

    def _find_worker(self, gpus: int) -> Worker | None:
        """Return the host with the most free slots; of several, the one that waited longest."""
        able = [worker for worker in self._workers if worker.can_take(gpus)]
        return max(able, key=lambda worker: (worker.free_slots, -worker.last_number), default=None)

    def _refuse_if_hopeless(self, call: PoolCall) -> None:
        """Fail a call that needs more GPUs than any host has."""
        if any(
            not worker.is_known or worker.gpu_count >= call.need.gpus for worker in self._workers
        ):
            return
        del self._waiting[call.need.gpus][call]
        most = max(worker.gpu_count for worker in self._workers)
        call.end(
            ValueError(
                f"{call.name} needs {call.need.gpus} GPUs, and no host has more than {most}."
            )
        )

    def _start_call(self, call: PoolCall, worker: Worker) -> None:
        if call.is_stopped or call.step is None:
            return
        view = worker.take(call)
        try:
            target = view._open_target()
            if target is None:  # the connection was lost while nothing ran
                worker.give_back(call)
                self._wait_again(call)
                self._log_in(worker)
                return
            options = call.need.options
            invocation = Invocation(
                call.step, worker.host, timeout=options.timeout, on_output=options.on_output
            )
            invocation.owner = worker.runtime
            invocation.on_end = lambda error: self._take_end(call, worker, error)
            if call.assign(invocation):
                invocation.start(target._replace(owner=self.shares))
            else:
                worker.give_back(call)
        except Exception as error:
            self._take_end(call, worker, error)

    def _take_end(self, call: PoolCall, worker: Worker, error: BaseException | None) -> None:
        """Report the end of a call at once, in any thread; a loss is the scheduler's to judge."""
        loss = find_loss(error)
        if loss is None or call.is_stopped:
            call.end(error)
            self._events.put(lambda: worker.give_back(call, has_succeeded=loss is None))
        else:
            self._events.put(lambda: self._take_loss(call, worker, loss))

    def _take_loss(self, call: PoolCall, worker: Worker, loss: Loss) -> None:
        worker.give_back(call)
        worker.rest(loss.error)
        if loss.never_started:
            self._wait_again(call)
        elif call.retries_left:
            call.retries_left -= 1
            self._wait_again(call)
        else:
            call.end(loss.error)
        if loss.host_is_unusable:
            worker.login_failed = True
            self._fail_if_none_is_left()

    def _wait_again(self, call: PoolCall) -> None:
        if call.is_stopped:  # the event that drops it may have come before
            return
        waiting = [*self._waiting[call.need.gpus], call]
        in_order = sorted(waiting, key=lambda each: each.number)
        self._waiting[call.need.gpus] = collections.OrderedDict.fromkeys(in_order)

    def _close(self) -> None:
        closing = [
            threading.Thread(target=worker.close, name="lazycluster pool close", daemon=True)
            for worker in self._workers
        ]
        started = []
        for thread in closing:
            try:
                thread.start()
            except RuntimeError:  # The process may have no thread left.
                thread.run()
            else:
                started.append(thread)
        for thread in started:
            thread.join()
