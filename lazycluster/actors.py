"""Actor: an object in a process that stays on a host."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from lazycluster._functions.payload import check_is_no_generator, dump_call
from lazycluster._functions.selection import Modules
from lazycluster._tasks.actor import ActorCall, ActorProcess
from lazycluster._tasks.completion import timers
from lazycluster._tasks.outcomes import own_exception
from lazycluster._tracebacks import short_tracebacks
from lazycluster.exceptions import RemoteFunctionError
from lazycluster.futures import RemoteFuture

if TYPE_CHECKING:
    from typing_extensions import Self  # of the standard library only from Python 3.11 on

__all__ = ["Actor"]

T = TypeVar("T")


@short_tracebacks
class Actor(Generic[T]):
    """An object of a class, in a process that stays on a host; `Runtime.actor` makes it.

    `actor.predict(x)` calls the object's method there and waits for its value, as `Runtime.call`
    does. Calls run in order, one at a time, whichever threads make them. Only `submit` and `close`
    belong to the actor: every other name without an underscore is a method of the object. A method
    with one of these two names is called as `actor.submit("close")`.

    What a method prints is in a log file, and goes to `on_output=`. The `timeout` of `with_options`
    bounds each call; a method that takes longer ends the actor, since nothing can interrupt it
    safely. After Ctrl-C the method that runs goes on, and later calls wait for it.

    The actor ends at `close`, when it is freed, and with the connection; a later login does not
    make it again. After its end each use raises an ActorLostError with the reason.

    Examples:
        >>> with runtime.actor(Model, "weights.pt") as model:
        ...     labels = [model.predict(image) for image in images]
    """

    def __init__(self, class_: type[T], process: ActorProcess, modules: Modules, owner: object):
        self._class = class_
        self._process = process
        self._modules = modules
        self._owner = owner  # a Runtime that is freed closes its connection
        self._checked: set[str] = set()
        # Not in this thread, which may hold any lock when it collects garbage.
        weakref.finalize(self, _close_later, process).atexit = False  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"<Actor {self._class.__qualname__} on {self._process.host!r}>"

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An Actor cannot be pickled or copied: its process belongs to this program. Send what "
            "its methods return, or make an actor where it is needed."
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}; methods with an "
                "underscore belong to the object on the host."
            )
        return _Method(self, name)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Call a method, and do not wait for its value.

        The arguments are pickled now. The call is sent when those before it have ended.

        Args:
            method: The name of the method.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A future. Its `cancel` drops a call that waits, and returns False for one that runs.

        Raises:
            ActorLostError: If the actor has ended.
            SerializationError: If an argument cannot be pickled, or is a shared value that the
                class did not get, or the method is a generator function.
            AttributeError: If the name begins with an underscore.
            TypeError: If the name is not a string.
            LazyclusterError: In a child forked from the process that made the actor.
        """
        if not isinstance(method, str):
            raise TypeError(f"The method must be a name, not {type(method).__name__}.")
        if method.startswith("_"):
            raise AttributeError(f"{method!r} begins with an underscore and cannot be called.")
        call = self._pickle(method, args, kwargs)
        future: RemoteFuture[Any] = RemoteFuture(call)
        try:
            self._process.submit(call)
        except BaseException:  # The caller does not get the future.
            call.end(None)
            raise
        return future

    def close(self) -> None:
        """End the process, and wait for its end; a second call does nothing.

        Calls that wait are dropped: their futures raise ActorLostError. A call that runs has 5
        seconds to end, together with the functions of `atexit` and what else Python does at its
        end. What is left then gets SIGTERM, and SIGKILL five seconds later.
        """
        self._process.close(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _pickle(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorCall:
        self._process.check_owner()
        if name not in self._checked:
            method = inspect.getattr_static(self._class, name, None)
            if isinstance(method, FunctionType):
                check_is_no_generator(method)
            self._checked.add(name)
        full = f"{self._class.__qualname__}.{name}".rpartition("<locals>.")[2]
        call = dump_call(name, args, kwargs, modules=self._modules, name=full)
        return ActorCall(self._process, call, self)


@short_tracebacks
class _Method:
    """Calls a method of an actor, and waits for its value."""

    def __init__(self, actor: Actor[Any], name: str) -> None:
        self._actor = actor
        self._name = name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        actor = self._actor
        try:
            return actor._process.call(actor._pickle(self._name, args, kwargs))
        except RemoteFunctionError as error:
            own = own_exception(error)
        raise own


def _close_later(process: ActorProcess) -> None:
    timers.post(lambda: process.close(wait=False))
