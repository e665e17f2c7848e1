"""What travels: each case of the table that `docs/what-travels.md` shows, from each place."""

from __future__ import annotations

import sys

import pytest

from support.matrix.cases import read_cases
from support.matrix.places import Host, check

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]

CASES = [
    pytest.param(
        case,
        place,
        id=case.id(place),
        marks=pytest.mark.skipif(
            sys.version_info < case.since,
            reason="the syntax is new in Python {}.{}".format(*case.since),
        ),
    )
    for case in read_cases()
    for place in case.places
]


@pytest.mark.parametrize(("case", "place"), CASES)
def test_it_travels(runtime, case, place, tmp_path, monkeypatch):
    check(case, place, Host(runtime), tmp_path, monkeypatch)
