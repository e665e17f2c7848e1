"""Write the names of many hosts shortly, and equal texts once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_NUMBER = re.compile(r"([0-9]+)")


def folded_hosts(hosts: Iterable[str]) -> str:
    """Return the names of hosts on one line; numbers in a row become a range: `web[1-3,7],db`.

    Leading zeros are kept: `web[08-11]`.
    """
    names = list(dict.fromkeys(hosts))
    most = max((len(_NUMBER.findall(name)) for name in names), default=0)
    # Of names with several numbers, such as r1n7, the number counts that makes the text short.
    ways = [_grouped(names, place) for place in range(1, most + 1)]
    shortest = min(ways, key=len, default=names)
    return ",".join(shortest)


def folded_texts(texts: Mapping[str, str]) -> str:
    """Return each different text once, behind the names of its hosts, in the order of the hosts.

    A text of one line stands behind the names. The lines of a longer one stand below them.
    """
    hosts: dict[str, list[str]] = {}
    for host, text in texts.items():
        hosts.setdefault(text, []).append(host)
    return "\n".join(_entry(folded_hosts(names), text) for text, names in hosts.items())


def _entry(names: str, text: str) -> str:
    lines = text.split("\n")
    if len(lines) == 1:
        return f"{names}: {text}".rstrip()
    return "\n".join([f"{names}:", *(f"  {line}".rstrip() for line in lines)])


def _grouped(names: list[str], place: int) -> list[str]:
    """Return the names, those together that differ in the number at a place from their end."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name in names:
        parts = _NUMBER.split(name)  # texts at even places, numbers at odd ones
        index = len(parts) - 2 * place
        if index < 1:  # It has no number there.
            groups[name, None] = []
        else:
            around = "".join(parts[:index]), "".join(parts[index + 1 :])
            groups.setdefault(around, []).append(parts[index])
    found = []
    for (before, after), numbers in groups.items():
        found += [before] if after is None else _with_ranges(before, after, numbers)
    return found


def _with_ranges(before: str, after: str, numbers: list[str]) -> list[str]:
    """Return the names with these numbers: one for each width that leading zeros make."""
    padded = {len(number) for number in numbers if number.startswith("0") and len(number) > 1}
    by_width: dict[int, list[int]] = {}
    for number in numbers:
        width = len(number) if len(number) in padded else 0
        by_width.setdefault(width, []).append(int(number))
    found = []
    for width, values in by_width.items():
        ranges = _ranges(sorted(values), width)
        text = ranges if len(values) == 1 else f"[{ranges}]"
        found.append(f"{before}{text}{after}")
    return found


def _ranges(values: list[int], width: int) -> str:
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    ends = [[part[0]] if len(part) == 1 else [part[0], part[-1]] for part in parts]
    return ",".join("-".join(f"{value:0{width}}" for value in part) for part in ends)
