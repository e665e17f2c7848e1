"""Make text from a host safe to show: a terminal must not obey anything in it.

Also the table that says how a command failed.
"""

from __future__ import annotations

import re
import signal as signals
import sys

# Text needs tabs and line feeds. The rest of C0, DEL and C1 move the cursor, hide what was printed
# before, or make a terminal send input of its own. Half a surrogate pair cannot be written.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# Of these nothing reaches another line: colours and the like (SGR), erase to the end of the line
# (EL), and back to its start. No other parameters: "\x1b[>4;2m" makes the terminal send other keys.
_HARMLESS = re.compile("(\x1b\\[(?:[0-9;:]*m|0?K)|\r)")
_RESET = "\x1b[0m"


def escaped(text: str) -> str:
    r"""Return `text` with control characters as escapes like `\x1b`; keep tabs and line feeds."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str, limit: int = 300) -> str:
    """Return `text` as one line of at most `limit` characters, before escapes are written.

    Escape all that cannot be printed, line breaks too. A longer text ends in an ellipsis.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quoted(text: str) -> str:
    """Return printed text for use inside a sentence: one line, single blanks, no full stop."""
    return one_line(" ".join(text.split()).rstrip("."))


def last_lines(text: str, noise: re.Pattern[str] | None = None) -> str:
    """Return the last three lines that are not empty, joined with slashes, as `quoted` text.

    Args:
        text: What a program printed.
        noise: Leave out the lines in which this is found.
    """
    lines = [s for s in text.splitlines() if s.strip() and not (noise and noise.search(s))]
    return " / ".join(quoted(line) for line in lines[-3:])


def decoded(data: bytes) -> str:
    """Return bytes from a host as UTF-8, others as backslash escapes."""
    return data.decode("utf-8", "backslashreplace")


def decoded_end(data: bytes | bytearray, limit: int) -> str:
    """Return the last `limit` bytes as text that begins with a whole character."""
    end = bytes(data[-limit:])
    if len(end) < len(data):
        end = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", end)
    return decoded(end)


def output_line(line: str, margin: str = "") -> str:
    r"""Return a line of a step's output as a terminal may show it, behind a margin.

    Colours pass, and end with the line. Carriage returns pass too, so that a progress bar is one,
    and erasing to the end of the line, which gcc and grep print with each colour. None of these
    reaches another line, or the margin. Other control characters are escaped.

    Args:
        line: The line. A line feed or a carriage return at its end stays.
        margin: Text to write before it, and again behind each carriage return.
    """
    body = line.rstrip("\r\n")
    end = "\n" if line.endswith("\n") else line[len(body) :][:1]
    parts = _HARMLESS.split(body)
    parts[::2] = map(escaped, parts[::2])
    colours = [part for part in parts[1::2] if part.endswith("m")]
    reset = _RESET if colours and colours[-1] not in ("\x1b[m", _RESET) else ""
    text = "".join(f"\r{margin}" if part == "\r" else part for part in parts)
    return f"{margin if body else margin.rstrip()}{text}{reset}{end}"


def stdout_is_terminal() -> bool:
    """Return True if standard output says so; many things can be in its place."""
    isatty = getattr(sys.stdout, "isatty", None)
    try:
        return isatty is not None and bool(isatty())
    except ValueError:  # It is closed.
        return False


def show(text: str) -> None:
    """Write a text to standard output: escaped if that is a terminal, else unchanged."""
    write(escaped(text) if stdout_is_terminal() else text)


def write(text: str) -> None:
    """Write a text to standard output.

    Characters that the encoding of standard output lacks are shown as backslash escapes. Without a
    standard output, do nothing, like `print`.
    """
    stdout = sys.stdout
    if stdout is None:  # standard output was closed when Python started
        return
    try:
        stdout.write(text)
    except UnicodeEncodeError:
        encoding = stdout.encoding or "ascii"
        stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def command_message(
    *,
    host: str,
    command: str,
    exit_status: int | None = None,
    signal: int | None = None,
    timeout: float | None = None,
    output: str = "",
    kind: str = "command",
) -> str:
    """Return the message of a CommandError or StepTimeoutError, a small table.

    A long command or line is shortened to 200 characters, and the output to its last 5 lines.
    `kind` is what `command` is, if it is not a command: a function for example.
    """
    headline = f"A {kind} failed" if timeout is None else f"A {kind} took too long"
    rows: list[tuple[str, str]] = []
    if timeout is not None:
        rows.append(("timeout", f"{timeout:g} seconds"))
    if exit_status is not None:
        rows.append(("exit status", str(exit_status)))
    if signal is not None:
        rows.append(("signal", signal_name(signal)))
    rows += [(kind, one_line(command, 200)), ("host", one_line(host, 200))]
    lines = last_output(output)
    rows += [("output" if i == 0 else "", line) for i, line in enumerate(lines)]
    return "\n".join([f"{headline}.", *(f"  {name:<12}{value}" for name, value in rows)])


def last_output(output: str) -> list[str]:
    """Return the last 5 lines that are not empty, each of at most 200 characters."""
    lines = [line for line in output[-4096:].splitlines() if line.strip()]
    return [one_line(line, 200) for line in lines[-5:]]


def signal_name(number: int) -> str:
    """Return a signal as "9 (SIGKILL)"; the number alone if it has no name here."""
    try:
        return f"{number} ({signals.Signals(number).name})"
    except ValueError:
        return str(number)
