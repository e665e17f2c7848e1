"""Pickle a value that a host is to hold for many calls."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lazycluster._functions.payload import explain_refusal, is_refusal
from lazycluster._functions.selection import NONE_NAMED, Modules
from lazycluster._shared import frames
from lazycluster._spool import Spool
from lazycluster.exceptions import SerializationError

BESIDE = 1 << 20
"""Bytes of a buffer from which on it is not part of the pickle, such as the data of an array."""


class PickledValue(NamedTuple):
    """A value as it travels; what changes in it later does not matter.

    Attributes:
        type: The name of its type.
        pickled: Its pickle.
        beside: The buffers that are not part of the pickle, one after the other.
        sizes: Bytes of each of these buffers.
        contents: What it refers to, by key: local modules and texts, see `sources`.
        required: The local modules that the host must import to load it.
        modules: What the user said about modules.
    """

    type: str
    pickled: Spool
    beside: Spool
    sizes: tuple[int, ...]
    contents: Mapping[str, bytes]
    required: frozenset[str]
    modules: Modules

    @property
    def size(self) -> int:
        """Return the number of bytes that travel."""
        return len(self.pickled) + len(self.beside)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes that travel."""
        for spool in (self.pickled, self.beside):
            for start in range(0, len(spool), frames.CHUNK):
                yield spool.read_at(start, frames.CHUNK)


EMPTY = PickledValue("", Spool(), Spool(), (), {}, frozenset(), NONE_NAMED)


def dump_value(value: object, modules: Modules) -> PickledValue:
    """Pickle a value.

    Raises:
        SerializationError: If something in it cannot be pickled; the message names the way.
    """
    from lazycluster._functions.pickler import CallPickler
    from lazycluster._functions.sources import Sources

    pickled, beside = Spool(), Spool()
    sizes: list[int] = []

    def put_beside(buffer: pickle.PickleBuffer) -> bool:
        """Take a large buffer; True leaves it in the pickle."""
        try:
            data = buffer.raw()
        except BufferError:  # it is not contiguous
            return True
        with data:
            if data.nbytes < BESIDE:
                return True
            beside.write(data)
            sizes.append(data.nbytes)
            return False

    kind = type(value).__qualname__
    pickler = CallPickler(pickled, modules, buffer_callback=put_beside)
    try:
        pickler.note_used(value)
        pickler.dump(value)
    except Exception as error:
        if not is_refusal(error):
            raise
        reason = explain_refusal("shared value", value, modules, error)
        raise SerializationError(f"The {kind} cannot be shared: {reason}") from error
    if pickler.shared:
        raise SerializationError(
            f"The {kind} cannot be shared: a SharedValue is in it. Give both to the function."
        )
    required = frozenset(pickler.modules)
    contents = {**Sources.of(modules).contents(required), **pickler.texts}
    return PickledValue(kind, pickled, beside, tuple(sizes), contents, required, modules)


def dump_by_value(value: PickledValue, module: str) -> PickledValue | None:
    """Pickle a value once more after a host could not import a local module.

    Returns:
        None if the value did not have the module as source.

    Raises:
        SerializationError: If it cannot be pickled by value.
    """
    from lazycluster._functions.pickler import ValueUnpickler
    from lazycluster._functions.sources import Sources

    if module not in value.required:
        return None
    Sources.of(value.modules).note_failure(module)
    buffers = []
    start = 0
    for size in value.sizes:
        buffers.append(bytearray(value.beside.read_at(start, size)))
        start += size
    again = ValueUnpickler(value.pickled.open(), buffers=buffers).load()
    return dump_value(again, value.modules)
