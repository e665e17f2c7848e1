"""What travels: each case of the table that `docs/what-travels.md` shows, from each place."""

from __future__ import annotations

import pytest

from support.matrix.places import Host, check, parameters

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]


@pytest.mark.parametrize(("case", "place"), parameters(libraries=False))
def test_it_travels(runtime, case, place, tmp_path, monkeypatch):
    check(case, place, Host(runtime), tmp_path, monkeypatch)
