"""Find what keeps a call or a value from being pickled, and name the way to it.

It is used after pickling has failed. The objects are visited in the order of pickling, by the
pickler's own rules, but without recursion and without writing anything. So what fails here is what
has failed there, and the objects on the way to it are known.
"""

import copyreg
import pickle
import re
import sys
import time
import types

from .cures import cure, known_kind
from .referents import ATOMS, GLOBAL, find_place, item, key_text, kind_of, referents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Callable

    Step = tuple[str, Any]  # the name of an object, and the object

SECONDS = 5  # for the search; then the message says less
_AHEAD = 24  # objects that pickling makes between an object and what it holds, at most
_NAMELESS = (type(None), type(NotImplemented), type(Ellipsis))  # pickle has rules for them
# Says no more than the type.
_PLAIN = re.compile(r"(cannot|can't) pickle \S+( objects?| instances)?$")


class Nowhere:
    """A file that drops what is written."""

    def write(self, data: "Any") -> "int":
        return len(data)


class _TooLongError(Exception):
    """The search has used up its time."""


def explain(
    roots: "Iterable[Step]", error: "BaseException", make_pickler: "Callable[[Any], Any]"
) -> "str | None":
    """Return the way to what cannot be pickled, and the cure; None if it cannot be found.

    Args:
        roots: What was pickled, with the names to begin with, in the order of pickling.
        error: What pickling raised.
        make_pickler: Makes the pickler for a file.
    """
    try:
        return _explain(roots, error, _Search(make_pickler(Nowhere())))
    except Exception:  # the objects are a user's, and may raise anything when they are looked at
        return None


def _explain(roots: "Iterable[Step]", error: "BaseException", search: "_Search") -> "str | None":
    # cloudpickle makes a PicklingError of a RecursionError.
    deep = isinstance(error, RecursionError) or "recursion" in _text_of(error)
    count = ""
    try:
        for name, root in roots:
            chain = search.visit(root)
            if chain is not None:
                return _tell(_steps(name, chain), error)
    except _TooLongError:
        if not deep:
            return None
        count = "more than "
    if deep and search.deepest:
        return _tell_deep(name, search.deepest, search.levels, count)
    return None


class _Search:
    """Visit objects as a pickler does.

    Attributes:
        deepest: The first objects on the way to the one that is nested deepest.
        levels: How deep that is, without objects that only pickling makes.
    """

    def __init__(self, pickler: "Any") -> "None":
        self._override = getattr(pickler, "reducer_override", None)
        self._table = getattr(pickler, "dispatch_table", copyreg.dispatch_table)
        self._seen = {}  # type: dict[int, Any]  # keeps the objects, so that no id comes twice
        self._end = time.monotonic() + SECONDS
        self.deepest = []  # type: list[Step]
        self.levels = 0

    def visit(self, root: "Any") -> "list[Step] | None":
        """Return the objects from the root to the first that fails, with names; None if none."""
        chain = [("", root)]  # type: list[Step]
        waiting = [self._children(root)]
        depth = [1]
        self._seen[id(root)] = root
        while waiting:
            try:
                name, child = next(waiting[-1])
            except StopIteration:
                waiting.pop()
                chain.pop()
                depth.pop()
                continue
            except Exception:  # a user's __reduce__ may raise anything
                return chain
            if type(child) in ATOMS or id(child) in self._seen:
                continue
            if time.monotonic() > self._end:
                raise _TooLongError
            self._seen[id(child)] = child
            chain.append((name, child))
            waiting.append(self._children(child))
            depth.append(depth[-1] + (name not in _MADE and type(child) is not types.CodeType))
            if depth[-1] > self.levels:
                self.levels, self.deepest = depth[-1], chain[:_AHEAD]
        return None

    def _children(self, obj: "Any") -> "Iterator[Step]":
        kind = type(obj)
        if kind.__name__ == "PickleBuffer":  # pickle has a rule for it
            return
        if kind is list or kind is tuple:
            for index, value in enumerate(obj):
                if type(value) not in ATOMS:
                    yield item(index), value
        elif kind is dict:
            yield from _items(obj.items())
        elif kind is set or kind is frozenset:
            for value in obj:
                yield "a member", value
        else:
            yield from self._reduced(obj)

    def _reduced(self, obj: "Any") -> "Iterator[Step]":
        kind = type(obj)
        reduced = NotImplemented if self._override is None else self._override(obj)
        if reduced is NotImplemented:
            reducer = self._table.get(kind)
            if kind is type or kind is types.FunctionType:
                reduced = obj.__qualname__
            elif reducer is not None:
                reduced = reducer(obj)
            elif issubclass(kind, type):
                reduced = obj.__qualname__
            else:
                reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduced, str):
            _check_name(obj, reduced)
            return
        make, arguments, state, items, pairs, setter = (list(reduced) + [None] * 4)[:6]
        if not callable(make) or not isinstance(arguments, tuple):
            raise pickle.PicklingError("its __reduce__ returns neither a string nor a call")
        if getattr(make, "__name__", "") in ("__newobj__", "__newobj_ex__"):
            yield _CLASS, arguments[0]
            arguments = arguments[1:]
        else:
            yield _MAKER, make
        yield _REDUCED, arguments
        for index, value in enumerate(items or ()):
            yield item(index), value
        yield from _items(pairs or ())
        yield _MAKER, setter
        yield _STATE, state


_CLASS, _MAKER = "its class", "what makes it again"
_REDUCED, _STATE = "what `__reduce__` returns", "its state"
_MADE = (_CLASS, _MAKER, _REDUCED, _STATE)


def _items(pairs: "Iterable[tuple[Any, Any]]") -> "Iterator[Step]":
    for key, value in pairs:
        if type(key) not in ATOMS:
            yield "a key", key
        if type(value) not in ATOMS:
            yield "key {}".format(key_text(key)), value


def _check_name(obj: "Any", name: "str") -> "None":
    """Raise what pickle raises if an object is not found under its name."""
    if any(obj is kind for kind in _NAMELESS):
        return
    module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
    __import__(module)
    found = sys.modules[module]  # type: Any
    for part in name.split("."):
        found = getattr(found, part)
    if found is not obj:
        raise pickle.PicklingError("it is not the same object as {}.{}".format(module, name))


# --- From objects to words ---


def _steps(name: "str", chain: "list[Step]") -> "list[Step]":
    """Return the objects on the way that a user knows, with their names.

    Pickling makes other objects between a function and its globals, for example.
    """
    steps = [(name, chain[0][1])]
    at = 0
    while at < len(chain) - 1:
        obj = chain[at][1]
        named = {}  # type: dict[int, str]
        kept = []  # an id is of an object only while the object is there
        if type(obj) not in (list, tuple, dict, set, frozenset):
            for text, held in referents(obj):
                kept.append(held)
                named.setdefault(id(held), text)
        if isinstance(obj, types.FunctionType):  # a global may be named by an annotation only
            for text, held in obj.__globals__.copy().items():
                named.setdefault(id(held), "{} `{}`".format(GLOBAL, text))
        for after in range(at + 1, min(len(chain), at + 1 + _AHEAD)):
            if id(chain[after][1]) in named:
                steps.append((named[id(chain[after][1])], chain[after][1]))
                break
        else:
            after = at + 1
            text = chain[after][0]
            if text == _STATE and hasattr(type(obj), "__getstate__"):
                text = "what `__getstate__` returns"
            steps.append((text, chain[after][1]))
        at = after
    return steps


def _tell(steps: "list[Step]", error: "BaseException") -> "str":
    # What is within a lock's owner, such as an Event, says less than the owner.
    for number, (_, obj) in enumerate(steps):
        if known_kind(obj) not in (None, "module", "iterator"):
            del steps[number + 1 :]
            break
    text = _way(steps)
    if isinstance(error, pickle.PicklingError) and _text_of(error).endswith("."):
        return "{}: {}".format(text, _text_of(error))  # a sentence of ours, which has the cure
    reason = _reason(error)
    if reason and known_kind(steps[-1][1]) != "ours":
        text += ": {}".format(reason)
    return "{}. {}".format(text.rstrip("."), cure(steps))


def _way(steps: "list[Step]") -> "str":
    text = " → ".join(name for name, _ in steps if name)
    last = steps[-1][1]
    if len(steps) > 1 or not isinstance(last, types.FunctionType):
        text += " ({})".format(kind_of(last))
    found = find_place(steps)
    return "{}, {}".format(text, found) if found else text


def _reason(error: "BaseException") -> "str":
    """Return an error as one line; "" if it says no more than the type of the object."""
    text = _text_of(error)
    if _PLAIN.match(text):
        return ""
    return "{}: {}".format(type(error).__name__, text) if text else type(error).__name__


def _text_of(error: "BaseException") -> "str":
    try:
        return " ".join(str(error).split())
    except Exception:  # a user's __str__ may raise anything
        return ""


def _tell_deep(name: "str", chain: "list[Step]", levels: "int", count: "str") -> "str":
    steps = _steps(name, chain)
    kinds = [type(obj) for _, obj in steps]
    for number, kind in enumerate(kinds):
        if kind in kinds[number + 1 : number + 3]:  # here it begins to be in itself
            del steps[number + 1 :]
            break
    levels -= len(steps) - 1
    text = "{} is nested too deeply: {}{} levels. Make it flatter."
    return text.format(_way(steps), count, levels)
