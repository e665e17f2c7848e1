"""The page of what travels has each case of the table, and each case has a name of its own."""

from __future__ import annotations

from collections import Counter

from support.matrix.cases import read_cases
from write_what_travels import PAGE, page


def test_the_page_agrees_with_the_table():
    """`python scripts/write_what_travels.py` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_each_case_has_a_name_of_its_own():
    ids = Counter(case.id(place) for case in read_cases() for place in case.places)
    assert [name for name, count in ids.items() if count > 1] == []


def test_what_does_not_travel_has_a_reason_and_a_cure():
    cases = [case for case in read_cases() if case.kind == "cannot"]
    assert [case.name for case in cases if len(case.notes) != 2] == []
