"""Commands and functions without a task: what a Runtime and its views have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lazycluster._checks import (
    checked_command,
    checked_environment,
    checked_input,
    checked_path,
    checked_timeout,
    checked_words,
)
from lazycluster._functions.payload import check_call, dump_call
from lazycluster._functions.preload import checked_preload
from lazycluster._functions.selection import NONE_NAMED, Modules
from lazycluster._runtime.host import Host
from lazycluster._runtime.sharing import Sharing
from lazycluster._tasks.execution import Target
from lazycluster._tasks.invocation import ERRORS, OUTPUT, Invocation
from lazycluster._tasks.outcomes import own_exception
from lazycluster._tasks.steps import RunCommand, RunFunction
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import CommandResult
from lazycluster.exceptions import (
    CommandError,
    ConnectionLostError,
    RemoteFunctionError,
    StepTimeoutError,
)

if TYPE_CHECKING:
    from lazycluster.actors import Actor
    from lazycluster.futures import RemoteFuture

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How commands and functions run; see `Calls.with_options`."""

    timeout: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    shell: tuple[str, ...] | None = None
    on_output: Callable[[str], object] | None = None
    modules: Modules = NONE_NAMED
    preload: tuple[str, ...] = ()

    def replaced(
        self,
        timeout: float | None = None,
        env: Mapping[str, str | float] | None = None,
        cwd: str | PathLike[str] | None = None,
        shell: str | PathLike[str] | None = None,
        on_output: Callable[[str], object] | None = None,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
        preload: Collection[str] | None = None,
    ) -> Options:
        """Return these options with others, after a check; None leaves one, and `env` adds."""
        if on_output is not None and not callable(on_output):
            raise TypeError(f"on_output must be callable, not {type(on_output).__name__}.")
        return Options(
            self.timeout if timeout is None else checked_timeout(timeout),
            self.env if env is None else {**self.env, **_checked_env(env)},
            self.cwd if cwd is None else checked_path(cwd, "cwd"),
            self.shell if shell is None else checked_words(shell, "The shell"),
            self.on_output if on_output is None else on_output,
            self.modules.replaced(modules, installed),
            self.preload if preload is None else checked_preload(preload),
        )


def _with_options(target: Target, options: Options) -> Target:
    if options.cwd is None and not options.preload and not target.preload.names:
        return target
    preload = target.preload._replace(names=options.preload, modules=options.modules)
    return target._replace(cwd=options.cwd, preload=preload)


def _checked_env(env: Mapping[str, str | float]) -> dict[str, str]:
    checked = checked_environment(env)
    name = Host.WORKING_DIR_ENV_VAR_NAME
    if name in checked:
        raise ValueError(f"{name} is the path of the working directory; cwd= starts in another.")
    return checked


class CommandInvocation(Invocation):
    """A command, whose value is its CommandResult, also if it has failed."""

    def load_value(self) -> CommandResult:
        """Return how the command ended and what it printed."""
        outcome = self.outcome
        assert outcome is not None
        output, errors = (bytes(self.output[stream]) for stream in (OUTPUT, ERRORS))
        return CommandResult(self.name, output, errors, outcome.exit_status, outcome.signal)


@short_tracebacks
class Calls(Sharing):
    """Run commands and functions on a host."""

    _options = Options()

    @property
    def _base(self) -> Host:
        raise NotImplementedError

    def run(
        self,
        command: str,
        *,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: float | None = None,
        env: Mapping[str, str | float] | None = None,
        cwd: str | PathLike[str] | None = None,
        shell: str | PathLike[str] | None = None,
        on_output: Callable[[str], object] | None = None,
    ) -> CommandResult:
        """Run a shell command, and wait for its end.

        The account's own shell runs it, as with `ssh host command`. Its output is in memory. It
        makes no task and no log file; what its shell leaves in the background runs until the
        connection ends.

        Args:
            command: The command, any text that the shell takes.
            input: Its standard input, a string as UTF-8. The command need not read all of it.
                Defaults to None, `/dev/null`.
            check: If True, a command that fails raises. Defaults to True.
            timeout: The most seconds; then SIGTERM, and SIGKILL five seconds later. Defaults to
                None, no bound.
            env: Environment variables, in addition to the Runtime's. Numbers become strings.
            cwd: The directory to start in, relative to the working directory; a leading `~` is the
                home directory. Defaults to None, the working directory.
            shell: The shell to use, such as `/bin/sh` or `bash --norc`; it gets `-c` and the
                command. Defaults to None, the account's own shell.
            on_output: Called with each line of standard output and standard error while the command
                runs, as `str` with its line break, in the thread of callbacks. All lines are taken
                when this returns. An exception in it is logged once.

        Returns:
            How the command ended, and what it printed.

        Raises:
            CommandError: If the command ended with another exit status than 0 or by a signal. Not
                with `check=False`.
            StepTimeoutError: If it took longer than `timeout`; with `check=False` too.
            ConnectionLostError: If the connection ended meanwhile; the command was not repeated.
            LazyclusterError: If the command cannot start, for example in a missing `cwd`.
            ValueError: If an argument is invalid; checked before anything starts.
            TypeError: If an argument has a wrong type.
        """
        options = self._options.replaced(timeout, env, cwd, shell, on_output)
        invocation = self._command_invocation(command, input, options)
        error = invocation.run(functools.partial(self._target_for, options))
        if isinstance(error, CommandError) and not isinstance(error, StepTimeoutError):
            error = error if check else None
        if error is not None:
            raise error
        return invocation.load_value()

    @overload
    def call(
        self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> T: ...

    @overload
    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a Python function on the host, and wait for its value.

        It travels as with `RuntimeTask.run_function`. All arguments belong to the function; options
        come from `with_options`. What it prints is dropped, unless there is an `on_output`.

        Args:
            function: The function, or another callable. What a coroutine function returns is run on
                the host by `asyncio.run`. A generator function is refused.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            Its value.

        Raises:
            Exception: What the function has raised; its `__cause__` is the traceback on the host.
            RemoteFunctionError: If the function has ended in another way, or its exception cannot
                be pickled on the host or unpickled here.
            StepTimeoutError: If it took longer than the `timeout` of `with_options`.
            ConnectionLostError: If the connection ended meanwhile; the call was not repeated.
            SerializationError: If the function, an argument or the value cannot be pickled.
            TypeError: If the arguments do not fit the function.
            ValueError: If the function cannot be called.
        """
        invocation = self._call_invocation(function, args, kwargs)
        error = invocation.run(functools.partial(self._target_for, self._options))
        if isinstance(error, RemoteFunctionError):
            error = own_exception(error)
        if error is not None:
            raise error
        return invocation.load_value()

    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> RemoteFuture[T]: ...

    @overload
    def submit(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> RemoteFuture[T]: ...

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> RemoteFuture[Any]:
        """Call a Python function on the host, and do not wait for its value; see `call`.

        It is pickled now, so later changes of the arguments do not travel. With an open connection
        it is sent now; without one, a thread logs in first.

        Args:
            function: The function, or another callable.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A `concurrent.futures.Future` whose `cancel` ends the function.

        Raises:
            SerializationError: If the function or an argument cannot be pickled.
            TypeError: If the arguments do not fit the function.
            ValueError: If the function cannot be called.
            RuntimeError: If the Runtime was closed.
            LazyclusterError: In a child forked from the process that made the Runtime.
        """
        self._check_open()
        target = self._open_target()
        return self._begin(self._call_invocation(function, args, kwargs), target)

    def actor(self, class_: type[T], /, *args: Any, **kwargs: Any) -> Actor[T]:
        """Make an object of a class in a process on the host that stays, and return its handle.

        The process is made as for `call`, with the options of `with_options`. It holds the object
        until the actor is closed or freed, or the connection ends; see `lazycluster.actors.Actor`.

        Args:
            class_: The class.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The actor: `actor.method(...)` calls a method of the object on the host.

        Raises:
            Exception: What the class has raised; its `__cause__` is the traceback on the host.
            RemoteFunctionError: If its process has ended in another way, or its exception cannot
                be pickled on the host or unpickled here.
            StepTimeoutError: If it took longer than the `timeout` of `with_options`.
            ConnectionLostError: If the connection ended meanwhile; the call was not repeated.
            SerializationError: If the class or an argument cannot be pickled.
            TypeError: If it is not a class, or the arguments do not fit it.
        """
        from lazycluster._tasks.actor import ActorProcess
        from lazycluster.actors import Actor

        if not isinstance(class_, type):
            raise TypeError(
                f"actor() takes a class and the arguments of its constructor, not "
                f"{type(class_).__name__}."
            )
        check_call(class_, kwargs, {}, args)
        options, base = self._options, self._base
        call = dump_call(class_, args, kwargs, modules=options.modules)
        process = ActorProcess(
            call.name, base.host, timeout=options.timeout, on_output=options.on_output
        )
        try:
            process.start(lambda: self._target_for(options), call)
        except RemoteFunctionError as error:
            own = own_exception(error)
        else:
            return Actor(class_, process, options.modules, base)
        raise own

    def with_options(
        self,
        *,
        timeout: float | None = None,
        env: Mapping[str, str | float] | None = None,
        cwd: str | PathLike[str] | None = None,
        shell: str | PathLike[str] | None = None,
        on_output: Callable[[str], object] | None = None,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
        preload: Collection[str] | None = None,
    ) -> RuntimeView:
        """Return a view of the Runtime whose `run`, `call` and `submit` have other options.

        It shares the connection and the working directory. What is not given stays as it is. See
        `run` for the options.

        Args:
            timeout: The most seconds of each command and function.
            env: Environment variables, in addition to those that it has already.
            cwd: The directory to start in.
            shell: The shell of commands.
            on_output: Called with each line that a command or a function prints.
            modules: Names of packages that functions send to the host although they are installed
                here, in addition; see `Runtime`.
            installed: Names of packages that the host has, in addition.
            preload: Names of modules that the host imports once, before all functions of such
                views, in place of the Runtime's; see `Runtime`.

        Raises:
            ValueError: If an argument is invalid.
            TypeError: If an argument has a wrong type.
        """
        options = self._options.replaced(
            timeout, env, cwd, shell, on_output, modules, installed, preload
        )
        return RuntimeView(self._base, options)

    def _command_invocation(
        self, command: str, data: str | bytes | None, options: Options
    ) -> CommandInvocation:
        step = RunCommand(
            checked_command(command), None, options.shell, checked_input(data), separate=True
        )
        host, on_output = self._base._host, options.on_output
        return CommandInvocation(
            step, host, timeout=options.timeout, on_output=on_output, keeps_output=True
        )

    def _call_invocation(
        self, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> Invocation:
        return self._step_invocation(call_step(function, args, kwargs, self._options.modules))

    def _step_invocation(self, step: RunFunction) -> Invocation:
        options = self._options
        return Invocation(
            step, self._base._host, timeout=options.timeout, on_output=options.on_output
        )

    def _check_open(self) -> None:
        """Raise a RuntimeError if the Runtime was closed."""
        if self._base._closed:
            raise RuntimeError(f"cannot schedule new futures after shutdown of {self._base!r}")

    def _begin(
        self,
        invocation: Invocation,
        target: Target | None,
        find_target: Callable[[], Target] | None = None,
    ) -> RemoteFuture[Any]:
        """Start an invocation, on the open target or after a login, and return its future."""
        from lazycluster.futures import RemoteFuture

        invocation.owner = self._base
        future: RemoteFuture[Any] = RemoteFuture(invocation)
        try:
            self._base._starter.start(invocation, target, find_target or self._target_until_closed)
        except BaseException:  # The caller does not get the future.
            future.cancel()
            raise
        return future

    def _target_for(self, options: Options) -> Target:
        return _with_options(self._base._find_target(options.env), options)

    def _open_target(self) -> Target | None:
        target = self._base._find_open_target(self._options.env)
        return target and _with_options(target, self._options)

    def _target_until_closed(self) -> Target:
        base = self._base
        if base._closed:
            raise ConnectionLostError(
                f"The connection to {base.host} was closed.", host=base.host, started=False
            )
        return self._target_for(self._options)


def call_step(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    modules: Modules,
) -> RunFunction:
    """Return the step that calls a function, pickled now."""
    check_call(function, kwargs, {}, args)
    call = dump_call(function, args, kwargs, modules=modules)
    return RunFunction(call.name, call=call)


class CallingHost(Calls, Host):
    """A Host that runs commands and functions without tasks."""

    @property
    def _base(self) -> Host:
        return self


class RuntimeView(Calls):
    """A Runtime with other options for commands and functions; see `Runtime.with_options`."""

    def __init__(self, base: Host, options: Options) -> None:
        self._host_of_view = base
        self._options = options

    def __repr__(self) -> str:
        return f"<RuntimeView of {self._base!r}>"

    @property
    def _base(self) -> Host:
        return self._host_of_view
