"""Read the table of what travels; needs the standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent

KINDS = {
    "functions": "Functions",
    "classes": "Classes",
    "typing": "Annotations",
    "values": "Values",
    "errors": "Exceptions and sources",
    "processes": "Processes that a function starts",
    "projects": "Projects of several files",
    "libraries": "Libraries",
    "cannot": "What does not travel",
}
"""The headings of the files, in their order on the page."""

PLACES = ("script", "module", "notebook")
"""Where the code of a case can stand; a project's is a script with files beside it."""


class Case(NamedTuple):
    """One row of the table."""

    kind: str
    name: str
    since: tuple[int, int]
    places: tuple[str, ...]
    files: dict[str, str]
    code: str
    checks: list[tuple[str, str]]
    notes: list[str]
    """Of what does not travel: why, and what to do instead."""

    def id(self, place: str) -> str:
        """Return the name of the case for pytest."""
        words = re.findall(r"\w+", self.name)
        return f"{self.kind}-{'_'.join(words)}-{place}"


def read_cases() -> Iterator[Case]:
    """Yield all cases in the order of the page."""
    for kind in KINDS:
        text = (FOLDER / f"{kind}.txt").read_text(encoding="utf-8")
        for part in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
            yield _parse(kind, part)


def _parse(kind: str, part: str) -> Case:
    title, _, rest = part.rstrip("\n").partition("\n")
    name, *options = title.split(" | ")
    since, notes = (3, 9), []
    places: tuple[str, ...] = PLACES
    if kind in ("projects", "cannot"):
        places = ("script",)
    elif kind == "processes":
        places = ("script", "module")  # a notebook's __main__ is a script's
    for option in options:
        word, _, value = option.partition(" ")
        if kind == "cannot":
            notes.append(option)
        elif word == "since":
            major, minor = value.split(".")
            since = int(major), int(minor)
        else:
            assert word == "from", title
            places = tuple(value.split(", "))
    code, *checks = re.split(r"^>>> ", rest, flags=re.MULTILINE)
    files = {}
    if code.startswith("+++ "):
        for file in re.split(r"^\+\+\+ ", code, flags=re.MULTILINE)[1:]:
            path, _, text = file.partition("\n")
            files[path] = text
        code = files.pop("main")
    expected = [(check.partition("\n")[0], check.partition("\n")[2]) for check in checks]
    assert expected, title
    return Case(kind, name, since, places, files, code, expected, notes)
