"""Read files of this package: its shell scripts, which shellcheck reads too, and its sources."""

from __future__ import annotations

import os
from functools import cache
from importlib.abc import ResourceLoader
from typing import cast

from lazycluster.exceptions import LazyclusterError

SPARE_LINES = "\n" * 8  # before what a script reads, for start files that read a line or two


@cache
def read_file(name: str) -> bytes:
    """Return the content of a file of this package, which may be in a zip.

    Args:
        name: The path of the file below the package, like "_ssh/guard.sh".

    Raises:
        LazyclusterError: If the file is missing, because a packed program was made without it.
    """
    spec = __spec__
    assert spec is not None and spec.origin is not None  # noqa: PT018 - this is not a test
    path = os.path.join(os.path.dirname(os.path.dirname(spec.origin)), *name.split("/"))
    try:
        return cast(ResourceLoader, spec.loader).get_data(path)
    except OSError as error:
        raise LazyclusterError(
            f"lazycluster/{name} was not packed into this program. Collect the files of the "
            "packages too (PyInstaller: `--collect-all lazycluster --collect-all cloudpickle`)."
        ) from error


@cache
def read_script(name: str) -> str:
    """Return the text of a script without its comments.

    Args:
        name: The file's name without `.sh`.
    """
    lines = (line.strip() for line in read_file(f"_ssh/{name}.sh").decode().splitlines())
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
