"""plain_json: what it writes and reads is what `json` does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycluster._remote import plain_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_it_is_the_json_of_json(value):
    assert plain_json.dumps(value) == json.dumps(value)
    assert plain_json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": {"b": 1', "nonsense", "[1] [2]", "[1]x", "{'a': 1}", '{"a": 1,}', '"\n"'],
)
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        plain_json.loads(text)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), {(1, 2): 3}])
def test_what_json_refuses_is_a_type_error(value):
    with pytest.raises(TypeError):
        plain_json.dumps(value)


def test_it_imports_neither_json_nor_re():
    program = (
        "import sys; before = set(sys.modules); from lazycluster._remote import plain_json; "
        "sys.exit(bool({'json', 're'} & (set(sys.modules) - before)))"
    )
    subprocess.run([sys.executable, "-S", "-c", program], check=True)
