"""What travels: each case of the table that `docs/what-travels.md` shows, from each place."""

from __future__ import annotations

import pytest

from support.matrix.places import Host, check, parameters
from support.separate_host import why_not_separate

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]


@pytest.mark.parametrize(("case", "place"), parameters(libraries=False))
def test_it_travels(runtime, case, place, tmp_path, monkeypatch):
    if case.name == "Files beside a module" and case.kind == "cannot" and why_not_separate():
        pytest.skip("the host has the manager's files")
    check(case, place, Host(runtime), tmp_path, monkeypatch)
