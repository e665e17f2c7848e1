"""Commands and functions on all hosts of a group at once."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lazycluster._checks import check_flags
from lazycluster._functions.selection import Modules
from lazycluster._group.results import GroupResult
from lazycluster._runtime.calls import Calls, call_step
from lazycluster._tasks.execution import INTERRUPT_TIMEOUT
from lazycluster._tasks.steps import RunFunction
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import CommandResult
from lazycluster.exceptions import CommandError, StepTimeoutError

if TYPE_CHECKING:
    from lazycluster._tasks.invocation import Invocation
    from lazycluster.futures import RemoteFuture

T = TypeVar("T")


@short_tracebacks
class GroupCalls:
    """Run commands and functions on all hosts of a group."""

    _check = True

    def _find_calls(self) -> dict[str, Calls]:
        """Return what runs commands and functions, by host, in the order of the group."""
        raise NotImplementedError

    def run(
        self,
        command: str,
        *,
        input: str | bytes | None = None,
        check: bool | None = None,
        timeout: float | None = None,
        env: Mapping[str, str | float] | None = None,
        cwd: str | PathLike[str] | None = None,
        shell: str | PathLike[str] | None = None,
        on_output: Callable[[str, str], object] | None = None,
    ) -> GroupResult[CommandResult]:
        """Run a shell command on all hosts at once, and wait for all ends; see `Runtime.run`.

        Args:
            command: The command.
            input: Its standard input. Defaults to None, `/dev/null`.
            check: If True, raise if a host failed. If False, the result says which, and a command
                with an exit status other than 0 or a signal counts as failed, too. Defaults to
                None, the `check` of `with_options`, or True.
            timeout: The most seconds on each host. Defaults to None, no bound.
            env: Environment variables, in addition to those of each Runtime.
            cwd: The directory to start in. Defaults to None, the working directory.
            shell: The shell to use. Defaults to None, the account's own shell.
            on_output: Called with the host and each line that it prints, in the thread of
                callbacks. Lines of several hosts come as they are printed, one at a time.

        Returns:
            The CommandResult of each host, by host.

        Raises:
            GroupError: If a host failed, after all have ended. Its `errors` have what `Runtime.run`
                raises, by host.
            ValueError: If an argument is invalid; checked before anything starts.
            TypeError: If an argument has a wrong type.
        """
        check_flags(check=check)
        calls = self.with_options(
            timeout=timeout, env=env, cwd=cwd, shell=shell, on_output=on_output
        )._find_calls()
        invocations = {
            host: one._command_invocation(command, input, one._options)
            for host, one in calls.items()
        }
        result: GroupResult[CommandResult] = _wait(_begin(calls, invocations, logs_in=True))
        # A command that failed has a result nevertheless, unless its time was up.
        results = {
            host: invocation.load_value()
            for host, invocation in invocations.items()
            if host in result.ok or _has_ended_badly(result.errors[host])
        }
        result = GroupResult(results, result.errors, calls)
        return result.check() if (self._check if check is None else check) else result

    @overload
    def call(
        self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> GroupResult[T]: ...

    @overload
    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> GroupResult[T]: ...

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult[Any]:
        """Call a Python function on all hosts at once, and wait for all values.

        It is pickled once. See `Runtime.call`.

        Args:
            function: The function, or another callable.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The value of each host, by host.

        Raises:
            GroupError: If a host failed, after all have ended. Its `errors` have what
                `Runtime.call` raises, by host. Not with `with_options(check=False)`.
            SerializationError: If the function or an argument cannot be pickled.
            TypeError: If the arguments do not fit the function.
            ValueError: If the function cannot be called.
        """
        calls = self._find_calls()
        result = _wait(_submit(calls, function, args, kwargs, logs_in=True))
        return result.check() if self._check else result

    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> Mapping[str, RemoteFuture[T]]: ...

    @overload
    def submit(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Mapping[str, RemoteFuture[T]]: ...

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Mapping[str, RemoteFuture[Any]]:
        """Call a Python function on all hosts, and do not wait; see `Runtime.submit`.

        Args:
            function: The function, or another callable.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A future of each host, by host, in the order of the group.

        Raises:
            SerializationError: If the function or an argument cannot be pickled.
            TypeError: If the arguments do not fit the function.
            ValueError: If the function cannot be called.
            RuntimeError: If a Runtime of the group was closed; nothing has started then.
        """
        calls = self._find_calls()
        for one in calls.values():
            one._check_open()
        return MappingProxyType(_submit(calls, function, args, kwargs, logs_in=False))

    def with_options(
        self,
        *,
        timeout: float | None = None,
        env: Mapping[str, str | float] | None = None,
        cwd: str | PathLike[str] | None = None,
        shell: str | PathLike[str] | None = None,
        on_output: Callable[[str, str], object] | None = None,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
        preload: Collection[str] | None = None,
        check: bool | None = None,
    ) -> GroupView:
        """Return a view of the group whose `run`, `call` and `submit` have other options.

        It has the hosts that the group has when it is used. See `Runtime.with_options`.

        Args:
            timeout: The most seconds of each command and function.
            env: Environment variables, in addition to those that it has already.
            cwd: The directory to start in.
            shell: The shell of commands.
            on_output: Called with the host and each line that a command or a function prints.
            modules: Names of packages that functions send to the hosts, in addition.
            installed: Names of packages that the hosts have, in addition.
            preload: Names of modules that each host imports once, in place of the Runtime's.
            check: If False, `run` and `call` do not raise if a host failed; the result says which.

        Raises:
            ValueError: If an argument is invalid.
            TypeError: If an argument has a wrong type.
        """
        check_flags(check=check)
        if on_output is not None and not callable(on_output):
            raise TypeError(f"on_output must be callable, not {type(on_output).__name__}.")
        options = {
            "timeout": timeout,
            "env": None if env is None else dict(env),
            "cwd": cwd,
            "shell": shell,
            "modules": modules,
            "installed": installed,
            "preload": preload,
        }
        view = GroupView(self, options, on_output, self._check if check is None else check)
        view._find_calls()  # It checks the options.
        return view


class GroupView(GroupCalls):
    """A group with other options for commands and functions; see `RuntimeGroup.with_options`."""

    def __init__(
        self,
        base: GroupCalls,
        options: Mapping[str, Any],
        on_output: Callable[[str, str], object] | None,
        check: bool,
    ) -> None:
        self._base = base
        self._options = options
        self._on_output = on_output
        self._check = check

    def __repr__(self) -> str:
        return f"<GroupView of {self._base!r}>"

    def _find_calls(self) -> dict[str, Calls]:
        return {
            host: self._with_options(host, one) for host, one in self._base._find_calls().items()
        }

    def _with_options(self, host: str, calls: Calls) -> Calls:
        on_line = None if self._on_output is None else functools.partial(self._on_output, host)
        return calls.with_options(on_output=on_line, **self._options)


def _submit(
    calls: Mapping[str, Calls],
    function: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    logs_in: bool,
) -> dict[str, RemoteFuture[Any]]:
    """Call a function on each host, pickled once."""
    for one in calls.values():
        one._base._connection._check_owner()
    steps: dict[Modules, RunFunction] = {}  # Runtimes may differ in the modules to send
    for one in calls.values():
        modules = one._options.modules
        if modules not in steps:
            steps[modules] = call_step(function, args, kwargs, modules)
    invocations = {
        host: one._step_invocation(steps[one._options.modules]) for host, one in calls.items()
    }
    return _begin(calls, invocations, logs_in=logs_in)


def _begin(
    calls: Mapping[str, Calls], invocations: Mapping[str, Invocation], *, logs_in: bool
) -> dict[str, RemoteFuture[Any]]:
    """Start an invocation on each host; if one cannot be started, stop the others.

    Args:
        calls: What runs it, by host.
        invocations: The invocations by host.
        logs_in: True to log in also to a host that the user has closed, as `Runtime.run` does.
    """
    futures: dict[str, RemoteFuture[Any]] = {}
    with _stopped_on_error(futures):
        for host, one in calls.items():
            find_target = functools.partial(one._target_for, one._options) if logs_in else None
            target = one._open_target()
            futures[host] = one._begin(invocations[host], target, find_target)
    return futures


def _wait(futures: Mapping[str, RemoteFuture[Any]]) -> GroupResult[Any]:
    """Wait for all ends, and return what came out; an interruption stops them."""
    results: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    with _stopped_on_error(futures):
        for host, future in futures.items():
            error = future.exception()
            if error is None:
                results[host] = future.result(0)  # it has ended
            elif isinstance(error, Exception):
                errors[host] = error
            else:
                raise error
    return GroupResult(results, errors, futures)


@contextmanager
def _stopped_on_error(futures: Mapping[str, RemoteFuture[Any]]) -> Iterator[None]:
    """If the block raises, stop what runs, and wait a while for that."""
    try:
        yield
    except BaseException:
        for future in futures.values():
            future._call.stop()
        concurrent.futures.wait(futures.values(), INTERRUPT_TIMEOUT)
        raise


def _has_ended_badly(error: Exception) -> bool:
    return isinstance(error, CommandError) and not isinstance(error, StepTimeoutError)
