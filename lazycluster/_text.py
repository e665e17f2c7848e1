"""What a host said, on its way to a person: no terminal obeys anything in it."""

from __future__ import annotations

import re
import sys

# Text needs tabs and line feeds. The rest of C0, DEL and C1 move the cursor, hide what stands
# before, or have a terminal answer as if somebody typed; half a surrogate pair cannot be written.
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""A text in which control characters, but tab and line feed, stand as `\x1b` does here."""
    return _NO_TEXT.sub(lambda found: ascii(found[0])[1:-1], text)


def show(text: str) -> None:
    """Write a text to standard output: escaped if that is a terminal, else as it is.

    What the encoding of standard output lacks is shown by backslashes. Without a standard output
    nothing happens, as with `print`.
    """
    stdout = sys.stdout
    if stdout is None:  # it was closed when Python started
        return
    isatty = getattr(stdout, "isatty", None)
    if isatty is not None and isatty():
        text = escaped(text)
    try:
        stdout.write(text)
    except UnicodeEncodeError:
        encoding = stdout.encoding or "ascii"
        stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
