#!/usr/bin/env python3
"""List the faults of docs/faults.md that no test has in its name.

    python scripts/list_faults.py          the numbers without a test
    python scripts/list_faults.py --all    every number, with its tests

The exit status is 1 if a number has no test, or if docs/faults.md lacks the number of a test.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def faults() -> dict[int, str]:
    """Return the cases of docs/faults.md by their numbers."""
    text = (PROJECT / "docs" / "faults.md").read_text(encoding="utf-8")
    return {int(n): case for n, case in re.findall(r"^\| F(\d+) \| (.*?) \|", text, re.MULTILINE)}


def tests() -> dict[int, list[str]]:
    """Return the tests that have a number in their name, as `file::test`, by the number."""
    found = defaultdict(list)
    for path in sorted((PROJECT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        for name, number in re.findall(r"^ *def (test_f(\d+)_\w+)", text, re.MULTILINE):
            found[int(number)].append(f"{path.relative_to(PROJECT)}::{name}")
    return found


def main(arguments: list[str]) -> int:
    """Print the list and return the exit status."""
    if arguments not in ([], ["--all"]):
        print(__doc__, file=sys.stderr)
        return 2
    known, tested = faults(), tests()
    for number, case in sorted(known.items()):
        names = tested.get(number, [])
        if names and not arguments:
            continue
        print(f"F{number:<3} {len(names):3} {case}")
        for name in names:
            print(f"        {name}")
    for number in sorted(tested.keys() - known.keys()):
        print(f"F{number} is unknown to docs/faults.md: {', '.join(tested[number])}")
    return 0 if known.keys() == tested.keys() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
