"""Keep the login that was made for a `fabric.Connection` as long as that object is used."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from lazycluster._fabric.connection import given_kwargs
from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster.connection import Connection

# By the id of the object: fabric takes two objects for equal that have the same user and host.
# Without a lock, which a fork could leave locked: each step of its use is atomic.
_logins: dict[int, Connection] = {}


def login_of(fabric_connection: Any) -> Connection:
    """Return the Connection to the host of a fabric Connection, which opens at its first use.

    It is made at the first call and kept, so that the next call needs no login. It ends with the
    object's `close()` or `with` block, when the object is freed, or at exit.

    After a change of the object that concerns the login, the next call makes another Connection.

    Raises:
        ValueError: If the object has something that ssh cannot do; the message has the cure.
    """
    kwargs = translate_connection_kwargs(given_kwargs(fabric_connection))
    made = Connection(fabric_connection.original_host, **kwargs)
    key = id(fabric_connection)
    kept = _logins.setdefault(key, made)
    if kept is made:
        weakref.finalize(fabric_connection, _logins.pop, key, None)
        kind: Any = type(fabric_connection)
        # fabric's own __setattr__ would take it for a setting.
        object.__setattr__(fabric_connection, "__class__", _closing_both(kind))
    elif not kept._is_owner or kept._settings != made._settings:
        # In a forked child the parent's login cannot be used. An old one of this process ends when
        # no thread uses it any more.
        _logins[key] = kept = made
    return kept


@functools.cache
def _closing_both(base: Any) -> Any:
    """Return a subclass of fabric's class whose `close` ends the login that was made here, too.

    The object gets this class, so that no other object is affected; a copy gets fabric's class.
    """
    if getattr(base, "_lazycluster_closes_both", False):
        return base

    def close(self: Any) -> None:
        login = _logins.get(id(self))
        try:
            if login is not None:
                login.close()
        finally:
            base.close(self)

    def reduce_ex(self: Any, protocol: Any) -> Any:
        _, (_, *arguments), *rest = base.__reduce_ex__(self, protocol)
        return base.__new__, (base, *arguments), *rest

    attributes = {
        "_lazycluster_closes_both": True,
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__reduce_ex__": reduce_ex,
        "close": close,
    }
    return type(base.__name__, (base,), attributes)
