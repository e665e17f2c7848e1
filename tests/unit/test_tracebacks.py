"""Errors leave the public classes with one frame of lazycluster."""

from __future__ import annotations

import traceback
import types

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster._runtime.calls import RuntimeView
from lazycluster._tracebacks import short_tracebacks
from lazycluster.exceptions import LazyclusterError, RemoteTraceback
from lazycluster.forwards import Forward
from lazycluster.futures import RemoteFuture
from lazycluster.processes import PortExposure, TaskProcess

HANDLES = {RuntimeView, Forward, RemoteFuture, PortExposure, TaskProcess}


def test_each_method_that_users_call_is_wrapped():
    """A class that is forgotten would show all frames."""
    classes = {Runtime, RuntimeTask, Connection, *HANDLES}
    bases = {base for cls in classes for base in cls.__mro__}
    bare = []
    for cls in (base for base in bases if base.__module__.startswith("lazycluster")):
        for name, member in vars(cls).items():
            method = member.fget if isinstance(member, property) else member
            is_public = isinstance(method, types.FunctionType) and not name.startswith("_")
            if is_public and not hasattr(method, "__wrapped__"):
                bare.append(f"{cls.__name__}.{name}")
    assert bare == []


# What is imported by this name stands for a module of lazycluster.
OURS = types.ModuleType("lazycluster._example")
exec(
    """
from lazycluster.exceptions import LazyclusterError

def fail(error):
    raise error

class Example:
    def call(self, function):
        return self._call(function)

    def _call(self, function):
        return function()

    def fail(self, error):
        fail(error)

    def wrap(self, function):
        try:
            function()
        except Exception as error:
            raise LazyclusterError("outer") from error

    def generate(self, error):
        yield 1
        fail(error)

    @property
    def value(self):
        "The value."
        fail(LazyclusterError("of the property"))
""",
    vars(OURS),
)
Example = short_tracebacks(OURS.Example)


def names(error):
    return [entry.name for entry in traceback.extract_tb(error.__traceback__)]


def raise_it(error):
    raise error


def test_one_frame_stays_and_has_no_source():
    with pytest.raises(LazyclusterError) as caught:
        Example().fail(LazyclusterError("m"))
    own, frame = traceback.extract_tb(caught.value.__traceback__)
    assert own.name == "test_one_frame_stays_and_has_no_source"
    assert (frame.filename, frame.name, frame.line) == ("<lazycluster._example>", "fail", "")


def test_properties_and_generators_are_wrapped():
    with pytest.raises(LazyclusterError) as caught:
        Example().value  # noqa: B018
    assert names(caught.value)[1:] == ["value"]
    assert Example.value.__doc__ == "The value."
    generator = Example().generate(LazyclusterError("m"))
    assert next(generator) == 1
    with pytest.raises(LazyclusterError) as caught:
        next(generator)
    assert names(caught.value)[1:] == ["generate"]


def test_the_exception_of_a_function_is_treated_as_an_error_of_ours():
    error = KeyError("k")
    error.__cause__ = RemoteTraceback("fail raised KeyError on h:", "Traceback …")
    with pytest.raises(KeyError) as caught:
        Example().fail(error)
    assert names(caught.value)[1:] == ["fail"]


def test_a_users_frames_stay_with_all_below():
    with pytest.raises(LazyclusterError) as caught:
        Example().call(lambda: raise_it(LazyclusterError("m")))
    assert names(caught.value)[1:] == ["call", "<lambda>", "raise_it"]


def test_a_cause_keeps_only_the_frames_of_a_user():
    with pytest.raises(LazyclusterError) as caught:
        Example().wrap(lambda: {}["k"])
    assert names(caught.value)[1:] == ["wrap"]
    assert names(caught.value.__cause__) == ["<lambda>"]
    with pytest.raises(LazyclusterError) as caught:
        Example().wrap(open)  # a mistake of ours, which no user's frame is part of
    assert names(caught.value.__cause__) == []


def test_another_exception_keeps_all_frames():
    with pytest.raises(ZeroDivisionError) as caught:
        Example().call(lambda: 1 / 0)
    assert names(caught.value)[1:] == ["call", "call", "_call", "<lambda>"]


def test_a_circle_of_causes_ends():
    first, second = LazyclusterError("1"), LazyclusterError("2")
    first.__cause__, second.__cause__ = second, first
    with pytest.raises(LazyclusterError):
        Example().call(lambda: raise_it(first))
