"""Pool: an executor of `concurrent.futures` over many hosts."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import time
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NoReturn, TypeVar, overload

from lazycluster._checks import checked_wait
from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster._functions.chunks import call_each
from lazycluster._functions.payload import check_call, dump_call
from lazycluster._functions.pickled_call import describe
from lazycluster._pool.call import Need, PoolCall
from lazycluster._pool.mapping import Chunk, map_in_chunks
from lazycluster._pool.scheduler import Scheduler
from lazycluster._pool.worker import HostStatus, Worker
from lazycluster._runtime.calls import Options
from lazycluster._runtime.sharing import hold
from lazycluster._tasks.steps import RunFunction
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import Connection
from lazycluster.exceptions import LazyclusterError
from lazycluster.futures import RemoteFuture
from lazycluster.runtimes import Runtime
from lazycluster.shared_values import SharedValue

__all__ = ["HostStatus", "Pool", "PoolView"]

T = TypeVar("T")


@short_tracebacks
class PoolView(concurrent.futures.Executor):
    """A Pool with other options; see `Pool.with_options`."""

    def __init__(self, pool: Pool, need: Need) -> None:
        self._pool_of_view = pool
        self._need = need

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool!r}>"

    @property
    def _pool(self) -> Pool:
        return self._pool_of_view

    @overload
    def submit(
        self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> RemoteFuture[T]: ...

    @overload
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> RemoteFuture[T]: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Call a function on a host that has a free slot, and do not wait for its value.

        It is pickled now, so later changes of the arguments do not travel; see `Runtime.call` for
        what travels. A call that was lost before it started goes to another host by itself.

        Args:
            fn: The function, or another callable.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A future. Its `host` is an empty string until the call is sent to a host, and its
            `cancel` also ends a function that runs.

        Raises:
            SerializationError: If the function or an argument cannot be pickled.
            TypeError: If the arguments do not fit the function.
            ValueError: If the function cannot be called.
            RuntimeError: After `shutdown`.
            LazyclusterError: In a child forked from the process that made the Pool.
        """
        check_call(fn, kwargs, {}, args)
        return self._submit(describe(fn), fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call a function with each tuple of inputs, and yield the values in their order.

        Args:
            fn: The function.
            *iterables: Its arguments; the shortest decides how many calls there are.
            timeout: The most seconds from now until a value is there when it is asked for.
                Defaults to None, no bound.
            chunksize: How many inputs one call has. Defaults to 1.
            buffersize: The most inputs that are read before their values were yielded, so that
                memory stays flat. Defaults to None: all inputs are read now.

        Yields:
            The values. Closing the iterator cancels what is left.

        Raises:
            Exception: What the function has raised, when its value is asked for.
            concurrent.futures.TimeoutError: If a value is late.
            ValueError: If a number is less than 1.
            TypeError: If a number is none.
        """
        chunksize = _checked_count("chunksize", chunksize)
        if buffersize is not None:
            buffersize = _checked_count("buffersize", buffersize)
        wait = checked_wait(timeout)
        check_call(fn, {}, {}, [None] * len(iterables))
        name = describe(fn)

        def submit(chunk: Chunk) -> RemoteFuture[list[T]]:
            return self._submit(name, call_each, (fn, chunk), {})

        deadline = None if wait is None else time.monotonic() + wait
        return map_in_chunks(submit, iterables, chunksize, buffersize, deadline)

    def share(self, value: T) -> SharedValue[T]:
        """Let the hosts hold a value; each gets it with the first call that uses it.

        It is pickled now, so later changes of it do not matter. See `Runtime.share`.

        Args:
            value: What can be pickled. It must not start a thread when it is unpickled.

        Returns:
            What stands for the value in calls of this Pool. The hosts free the value when it is
            closed or garbage.

        Raises:
            SerializationError: If the value cannot be pickled. A call raises it if the value cannot
                be unpickled on its host.
        """
        pool = self._pool
        pool._check_open()
        hosts = ", ".join(pool._hosts)
        return hold(value, self._need.options.modules, pool._scheduler.shares, hosts)[1]

    def with_options(
        self,
        *,
        gpus: int | None = None,
        timeout: float | None = None,
        env: Mapping[str, str | float] | None = None,
        cwd: str | PathLike[str] | None = None,
        on_output: Callable[[str], object] | None = None,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
        preload: Collection[str] | None = None,
        retries: int | None = None,
    ) -> PoolView:
        """Return an executor over the same hosts and slots whose calls have other options.

        What is not given stays as it is. Shutting the view down shuts the Pool down.

        Args:
            gpus: How many GPUs a call has for itself; `CUDA_VISIBLE_DEVICES` names them. 0 leaves
                the variable as it is.
            timeout: The most seconds of each call, from when it is sent to a host.
            env: Environment variables, in addition.
            cwd: The directory to start in.
            on_output: Called with each line that a call prints.
            modules: Names of packages that functions send to the hosts although they are installed
                here, in addition; see `Runtime`.
            installed: Names of packages that the hosts have, in addition.
            preload: Names of modules that each host imports once; see `Runtime`.
            retries: How often a call that may have started is called again after its host was lost.

        Raises:
            ValueError: If an argument is invalid.
            TypeError: If an argument has a wrong type.
        """
        need = self._need
        options = need.options.replaced(
            timeout, env, cwd, None, on_output, modules, installed, preload
        )
        gpus = need.gpus if gpus is None else _checked_count("gpus", gpus, least=0)
        retries = need.retries if retries is None else _checked_count("retries", retries, least=0)
        return PoolView(self._pool, Need(options, gpus, retries))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close the connections after the last one.

        A RuntimeGroup or a Runtime that was given stays open.

        Args:
            wait: If True, return when all calls have ended. Defaults to True.
            cancel_futures: If True, cancel the calls that wait for a host. Defaults to False.
        """
        self._pool._shut_down(wait, cancel_futures)

    def _submit(
        self, name: str, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> RemoteFuture[Any]:
        self._pool._check_open()
        call = dump_call(fn, args, kwargs, modules=self._need.options.modules)
        return self._pool._submit_step(RunFunction(name, call=call), self._need)


class Pool(PoolView):
    """An executor of `concurrent.futures` that runs functions on many hosts.

    A call goes to the host with the most free slots; a host that is slow gets less. Logins run in
    the background. A host that fails rests, longer each time, and comes back. What may have
    started is never called again, unless `retries` allows it.

    Args:
        hosts: A RuntimeGroup, or a list of hosts as `ssh` takes them and of Runtimes. Runtimes that
            are given stay open.
        slots: How many calls a host runs at once, one number for all or a dictionary by host.
            Defaults to None, the CPU cores that a process there can use.
        preload: Names of modules that each host imports once; see `Runtime`.
        modules: Names of packages that functions send although they are installed here.
        env: Environment variables of all calls.
        retries: How often a call that may have started is called again after its host was lost.
            Defaults to 0.
        connection_kwargs: Parameters of `Connection` for the hosts that are given by name.

    Raises:
        ValueError: If there are no hosts, if one is there twice, or if a number is too small;
            checked before any login.
        TypeError: If an argument has a wrong type.
    """

    def __init__(
        self,
        hosts: Iterable[str | Runtime],
        *,
        slots: int | Mapping[str, int] | None = None,
        preload: Collection[str] = (),
        modules: Collection[str] = (),
        env: Mapping[str, str | float] | None = None,
        retries: int = 0,
        connection_kwargs: dict[str, Any] | None = None,
    ) -> None:
        options = Options().replaced(env=env, modules=list(modules), preload=preload)
        # Not by PoolView: a Pool that refers to itself would live until Python looks for cycles.
        self._need = Need(options, 0, _checked_count("retries", retries, least=0))
        workers = _make_workers(hosts, slots, connection_kwargs)
        self._hosts = [worker.host for worker in workers]
        self._numbers = itertools.count()
        self._pid = os.getpid()
        self._is_shut_down = False
        self._scheduler = Scheduler(workers)
        # Python's own executors end what is waiting when nothing refers to them.
        self._finalizer = weakref.finalize(self, self._scheduler.shut_down)
        self._finalizer.atexit = False  # type: ignore[misc]  # unfinished calls are told about, and ended
        self._scheduler.start()

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Pool cannot be pickled or copied; make one where it is needed.")

    def __repr__(self) -> str:
        return f"<Pool of {len(self._hosts)} hosts>"

    @property
    def _pool(self) -> Pool:
        return self

    @property
    def _max_workers(self) -> int:
        """Return how many calls can run at once, as dask asks an executor."""
        return max(1, sum(max(1, status.slots) for status in self.status().values()))

    def status(self) -> dict[str, HostStatus]:
        """Return what each host does now: works, logs in or rests, and why."""
        return self._scheduler.status()

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            raise LazyclusterError(
                f"The Pool belongs to process {self._pid}; this is a child forked from it. "
                "Make a new Pool in the child."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _submit_step(self, step: RunFunction, need: Need) -> RemoteFuture[Any]:
        scheduler = self._scheduler
        call = PoolCall(step, need, next(self._numbers), scheduler.look_at_stopped)
        future: RemoteFuture[Any] = RemoteFuture(call)
        call.cancel = future.cancel
        try:
            scheduler.submit(call)
        except RuntimeError as error:  # shut down since `_check_open`
            call.end(error)
            raise
        return future

    def _shut_down(self, wait: bool, cancel_futures: bool) -> None:
        if self._pid != os.getpid():
            return
        self._is_shut_down = True
        self._scheduler.shut_down(cancel_futures)
        if wait:
            self._scheduler.await_end()


def _make_workers(
    hosts: Iterable[str | Runtime],
    slots: int | Mapping[str, int] | None,
    connection_kwargs: dict[str, Any] | None,
) -> list[Worker]:
    """Return the hosts of a Pool after a check of everything that needs no login."""
    if isinstance(hosts, str):
        raise TypeError(f"hosts must be a list of hosts, not a string: [{hosts!r}].")
    given = list(hosts)
    names = [each.host if isinstance(each, Runtime) else each for each in given]
    if not given:
        raise ValueError("A Pool needs at least one host.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"A host must be a string or a Runtime, not {name!r}.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"The host {name!r} is there twice.")
    by_host: Mapping[str, int | None]
    if isinstance(slots, Mapping):
        for name in slots:
            if name not in names:
                raise ValueError(f"slots names {name!r}, which is no host of the Pool.")
        by_host = {name: _checked_count("slots", number) for name, number in slots.items()}
    else:
        number = None if slots is None else _checked_count("slots", slots)
        by_host = dict.fromkeys(names, number)
    keywords = translate_connection_kwargs(connection_kwargs or {}, {})
    workers = []
    for each, name in zip(given, names):
        if isinstance(each, Runtime):
            workers.append(Worker(name, functools.partial(_same, each), by_host.get(name), False))
        else:
            Connection(name, **keywords)  # raises if the name or a parameter is invalid
            make = functools.partial(Runtime, name, connection_kwargs=connection_kwargs)
            workers.append(Worker(name, make, by_host.get(name), True))
    return workers


def _same(runtime: Runtime) -> Runtime:
    return runtime


def _checked_count(name: str, value: object, least: int = 1) -> int:
    """Return a number of things.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return value
