"""Write docs/what-travels.md from the table of tests/support/matrix, whose cases are tests.

.venv/bin/python scripts/write_what_travels.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.matrix.cases import KINDS, PLACES, Case, read_cases  # noqa: E402

PAGE = ROOT / "docs" / "what-travels.md"


def page() -> str:
    """Return the text of the page: its opening as it is, and the tables."""
    opening = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    parts = [opening]
    cases = list(read_cases())
    for kind, heading in KINDS.items():
        own = [case for case in cases if case.kind == kind]
        parts.append("\n".join(["", f"## {heading}", "", *_table(kind, own), ""]))
    return "".join(parts)


def _table(kind: str, cases: list[Case]) -> Iterator[str]:
    if kind == "cannot":
        yield "| what | why | instead |"
        yield "| --- | --- | --- |"
        for case in cases:
            yield f"| {' | '.join(_code([case.name, *case.notes]))} |"
        return
    has_places = kind != "projects"
    yield "| what | from | Python |" if has_places else "| what | Python |"
    yield "| --- | --- | --- |" if has_places else "| --- | --- |"
    for case in cases:
        cells = _code([case.name])
        if has_places:
            cells.append("everywhere" if case.places == PLACES else ", ".join(case.places))
        yield f"| {' | '.join([*cells, '{}.{}'.format(*case.since)])} |"


def _code(texts: list[str]) -> list[str]:
    """Put words with an underscore, a bracket or a dot within into code."""
    return [" ".join(map(_word, text.split(" "))) for text in texts]


def _word(word: str) -> str:
    bare = word.rstrip(",.:")
    is_code = "_" in bare or "(" in bare or "." in bare or "*" in bare
    return f"`{bare}`{word[len(bare) :]}" if is_code and "`" not in bare else word


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
