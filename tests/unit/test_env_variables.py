"""EnvVariables: a dictionary that holds only what a host can set, however it is changed."""

from __future__ import annotations

import copy
import json
import pickle

import cloudpickle
import pytest

from lazycluster._tasks.env_variables import EnvVariables

RESERVED = {"WORKING_DIR": "/w"}


@pytest.fixture
def variables():
    """Variables as a Runtime has them."""
    variables = EnvVariables()
    variables.reserve("WORKING_DIR", "/w")
    variables["A"] = "1"
    return variables


def in_place_or(variables, name, value):
    variables |= {name: value}


SETTERS = {
    "[]=": lambda v, name, value: v.__setitem__(name, value),
    "update": lambda v, name, value: v.update({name: value}),
    "update-pairs": lambda v, name, value: v.update([(name, value)]),
    "update-keywords": lambda v, name, value: v.update(**{name: value}),
    "setdefault": lambda v, name, value: v.setdefault(name, value),
    "|=": in_place_or,
    "|=-pairs": lambda v, name, value: v.__ior__([(name, value)]),
    "replace": lambda v, name, value: v.replace({name: value}),
    "constructor": lambda v, name, value: v.update(EnvVariables({name: value})),
}
REMOVERS = {
    "del": lambda v, name: v.__delitem__(name),
    "pop": lambda v, name: v.pop(name),
    "pop-default": lambda v, name: v.pop(name, None),
}
every_setter = pytest.mark.parametrize("set_variable", SETTERS.values(), ids=SETTERS)
every_remover = pytest.mark.parametrize("remove", REMOVERS.values(), ids=REMOVERS)


def test_every_method_that_changes_a_dictionary_is_checked():
    """A method that a later Python adds is to be looked at."""
    changing = {"__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault"}
    reading = {"copy", "fromkeys", "get", "items", "keys", "values"}
    public = {name for name in vars(dict) if not name.startswith("_")}
    assert public == {n for n in changing if not n.startswith("_")} | {"update"} | reading
    assert changing | {"update"} <= vars(EnvVariables).keys()


@every_setter
@pytest.mark.parametrize(
    ("value", "text"),
    [("x", "x"), ("", ""), ("a\nb'", "a\nb'"), (5, "5"), (-1.5, "-1.5"), (True, "True")],
)
def test_numbers_and_booleans_become_strings(variables, set_variable, value, text):
    """As `str()` makes them."""
    set_variable(variables, "NEW", value)
    assert variables["NEW"] == text
    assert type(variables["NEW"]) is str


@every_setter
@pytest.mark.parametrize(
    "value", ["my-secret\0", "my-secret\ud800", None, b"my-secret", ["my-secret"]]
)
def test_bad_value_is_refused_and_not_shown(variables, set_variable, value):
    """A ValueError with the name; nothing has changed."""
    before = dict(variables)
    with pytest.raises(ValueError, match="PASSWORD") as caught:
        set_variable(variables, "PASSWORD", value)
    assert "my-secret" not in str(caught.value)
    assert variables == before


@every_setter
@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "Ä", "A\n"])
def test_bad_name_is_refused(variables, set_variable, name):
    """A ValueError without the value; nothing has changed."""
    before = dict(variables)
    with pytest.raises(ValueError, match="name") as caught:
        set_variable(variables, name, "my-secret")
    assert "my-secret" not in str(caught.value)
    assert variables == before


def test_one_bad_name_among_good_ones_changes_nothing(variables):
    """Neither before it nor behind it."""
    for change in (variables.update, variables.replace):
        with pytest.raises(ValueError, match="name"):
            change({"B": "2", "1": "x", "C": "3"})
        assert variables == {**RESERVED, "A": "1"}


@pytest.mark.parametrize("variables_given", [5, None, ["A"], "text"])
def test_what_is_not_names_and_values_is_refused(variables, variables_given):
    """A TypeError or a ValueError."""
    for change in (variables.update, variables.replace):
        with pytest.raises((TypeError, ValueError)):
            change(variables_given)
    assert variables == {**RESERVED, "A": "1"}


@pytest.mark.parametrize("name", sorted(SETTERS.keys() - {"setdefault"}))
def test_reserved_variable_cannot_be_set(variables, name):
    """A ValueError that says what to do."""
    with pytest.raises(ValueError, match="working_dir") as caught:
        SETTERS[name](variables, "WORKING_DIR", "/my-secret")
    assert "my-secret" not in str(caught.value)
    assert variables["WORKING_DIR"] == "/w"


@every_setter
def test_reserved_variable_may_be_set_to_what_it_is(variables, set_variable):
    """So that `{**variables, …}` can be assigned."""
    set_variable(variables, "WORKING_DIR", "/w")
    assert variables["WORKING_DIR"] == "/w"


@every_remover
def test_reserved_variable_cannot_be_removed(variables, remove):
    """A ValueError."""
    with pytest.raises(ValueError, match="WORKING_DIR"):
        remove(variables, "WORKING_DIR")
    assert variables["WORKING_DIR"] == "/w"


@every_remover
def test_other_variables_can_be_removed(variables, remove):
    """And nothing but them."""
    remove(variables, "A")
    assert variables == RESERVED


def test_missing_variable_is_a_key_error(variables):
    """Unless there is a default."""
    with pytest.raises(KeyError):
        del variables["B"]
    with pytest.raises(KeyError):
        variables.pop("B")
    assert variables.pop("B", "x") == "x"


def test_clear_and_replace_keep_the_reserved_variable(variables):
    """It is always there."""
    variables.replace({"B": "2"})
    assert variables == {**RESERVED, "B": "2"}
    variables.clear()
    assert variables == RESERVED


def test_popitem_takes_the_last_variable_but_the_reserved_one(variables):
    """A KeyError if there is none."""
    variables["B"] = "2"
    assert [variables.popitem(), variables.popitem()] == [("B", "2"), ("A", "1")]
    with pytest.raises(KeyError):
        variables.popitem()
    assert variables == RESERVED


def test_setdefault_sets_what_is_missing(variables):
    """And returns the value."""
    assert variables.setdefault("A", "2") == "1"
    assert variables.setdefault("B", 2) == "2"
    assert variables.setdefault("WORKING_DIR", "/x") == "/w"


def test_without_a_reserved_variable_every_name_is_free():
    """As for a task."""
    variables = EnvVariables({"WORKING_DIR": "/x"})
    variables["WORKING_DIR"] = "/y"
    variables.clear()
    assert variables == {}


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        dict,
        dict.copy,
        lambda variables: {**variables},
        lambda variables: variables | {},
        lambda variables: pickle.loads(pickle.dumps(variables)),
        lambda variables: cloudpickle.loads(cloudpickle.dumps(variables)),
        lambda variables: json.loads(json.dumps(variables)),
    ],
)
def test_a_copy_is_a_plain_dictionary(variables, copied):
    """Its changes are its own, and a host that unpickles it needs no lazycluster."""
    found = copied(variables)
    assert type(found) is dict
    assert found == {**RESERVED, "A": "1"}


class CountingLock:
    """A lock that counts how often it was taken."""

    def __init__(self):
        self.taken = 0

    def __enter__(self):
        self.taken += 1

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(A="2"),
        lambda v: v.pop("A"),
        lambda v: v.popitem(),
        lambda v: v.clear(),
        lambda v: v.setdefault("B", "2"),
        lambda v: v.__delitem__("A"),
        lambda v: v.__setitem__("A", "2"),
        lambda v: v.__ior__({"A": "2"}),
        lambda v: v.reserve("WORKING_DIR", "/w"),
        lambda v: v.snapshot(),
    ],
)
def test_changes_take_the_lock(change):
    """It may be the lock of more than the variables."""
    lock = CountingLock()
    variables = EnvVariables({"A": "1"}, lock)
    change(variables)
    assert lock.taken
