"""The pages read like technical English: short lines, and the words of the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_LINE = 140
COINED = r"\b(whoever|somebody|nobody|heirs?|riders?|rooms?|patience|spare)\b"
"""Words that the glossary of docs/architecture.md replaces."""

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose_lines(page):
    """Return the lines outside of code blocks with their numbers."""
    text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
    return list(enumerate(text.splitlines(), 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_is_long(page):
    """A sentence has its own line, so a long line is a long sentence."""
    assert [number for number, line in prose_lines(page) if len(line) > LONGEST_LINE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_word_is_coined(page):
    """One thing has one name on all pages."""
    assert [line for _, line in prose_lines(page) if re.search(COINED, line, re.IGNORECASE)] == []


def test_the_architecture_names_each_module():
    """The tree on the page has every module and no others."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page[page.index("\n├── groups.py") : page.index("Each package has one rule")]
    named = set(re.findall(r"── ([\w-]+\.(?:py|sh))", tree))
    modules = {path.name for path in (ROOT / "lazycluster").rglob("*.[ps][yh]")} - {"__init__.py"}
    assert modules == named


def test_each_term_is_defined_once():
    """The glossary is in alphabetical order, so that a term is found and not defined twice."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    terms = re.findall(r"^- \*\*(.+?)\*\*: ", text.partition("## Glossary")[2], re.MULTILINE)
    assert terms == sorted(set(terms))
    assert {"guard", "lifeline", "supervisor", "frame", "cleanup process"} <= set(terms)
