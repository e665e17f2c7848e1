"""Read the shell scripts of this package, which are files so that shellcheck can see them."""

from __future__ import annotations

from functools import cache
from importlib.abc import ResourceLoader
from pathlib import Path
from typing import cast


@cache
def read_script(name: str) -> str:
    """Return the text of a script without its comments.

    Args:
        name: The file's name without `.sh`.
    """
    spec = __spec__
    assert spec is not None and spec.origin is not None  # noqa: PT018 - this is not a test
    path = Path(spec.origin).with_name(f"{name}.sh")
    text = cast(ResourceLoader, spec.loader).get_data(str(path)).decode()
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))


@cache
def read_line(name: str, **values: int) -> str:
    """Return a script as one line, with numbers instead of its `@NAME@` placeholders.

    Args:
        name: The file's name without `.sh`. Each of its lines must be able to end in a blank.
        **values: The numbers, by the name of the placeholder.
    """
    text = " ".join(read_script(name).splitlines())
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text
