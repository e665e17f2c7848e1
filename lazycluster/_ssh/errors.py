"""Make the exception of a failed login from what ssh printed; see `error_table`."""

from __future__ import annotations

import re
import shlex
from typing import Any

from lazycluster._ssh.error_table import (
    BEHIND_PROXY,
    CURES_OF_SECRETS,
    DROPPED_CURES,
    KEY_CURE,
    LOCKED_KEY_CURE,
    OPTIONS_OF_ALGORITHMS,
    PASSWORD_CURE,
    TAKES_PASSWORD,
    Row,
    find_row,
)
from lazycluster._text import last_lines, quoted
from lazycluster.exceptions import AuthenticationError, ConnectError, HostKeyError

# What ssh prints although nothing failed.
NOISE = re.compile(
    r"^(?:\*\* |Pseudo-terminal will not be allocated|Warning: Permanently added )"
    r"|already exists, disabling multiplexing"
)

# Exit statuses of bootstrap.sh and session.sh; ssh's own is 255.
OTHER_SHELL = 93  # a start file replaced the shell by another, which reads stdin as a script
INPUT_TAKEN = 94  # another program read some of stdin, or all of it
PROGRAM_FAILED = 95  # Python could not run the supervisor
NO_INPUT = 96  # the input of a command could not be stored (session.sh)

_CURES_OF_EXIT_STATUSES = {
    OTHER_SHELL: (
        "a start file of the account's shell starts another shell (`exec`), which reads standard "
        "input as its script{printed}. Make it do so only in interactive shells."
    ),
    INPUT_TAKEN: (
        "a program on the host read or closed standard input before lazycluster's own program came "
        "through it{printed}. If a start file of the account's shell runs that program, redirect "
        "its input from /dev/null, or run it only in interactive shells."
    ),
}


def login_error(
    stderr: str,
    *,
    host: str,
    exit_status: int | None,
    noise: str = "",
    python: str | None = None,
    given: str = "",
    ssh_command: str,
    jump_host: str = "",
    locked_key: str = "",
) -> ConnectError:
    """Return the exception for a failed login.

    Args:
        stderr: All that ssh printed.
        host: The host as the user typed it.
        exit_status: The exit status of the ssh process; None if lazycluster ended it.
        noise: What came on stdout before the handshake reply, which did not come.
        python: The user's `python=` if the shell has started it, "" if the shell has started
            another Python, None if it has not come that far.
        given: The secret that ssh got: "password", "passphrase", or "".
        ssh_command: The command that logs in by hand, for the cure.
        jump_host: The jump host, if it is known.
        locked_key: A key that ssh could not offer because of its passphrase.
    """
    attributes: dict[str, Any] = {"host": host, "exit_status": exit_status, "stderr": stderr}
    text = _plain(stderr)
    message = f"Cannot connect to {host}"
    if BEHIND_PROXY.search(text):
        proxy = f"the jump host {jump_host}" if jump_host else "a jump host or ProxyCommand"
        message += f" (behind {proxy})"
    # Any other exit status is the shell's, and then a start file may have printed `text`.
    found = find_row(text) if exit_status in (None, 255) else None
    if found is None:
        # ssh ends its own lines with a carriage return; programs on the host end theirs without.
        own = [line for line in re.findall(r"^(.*)\r\n", stderr, re.M) if not NOISE.search(line)]
        if exit_status == 255 and own:
            message += f": {quoted(own[-1])}. ssh itself prints that; try `{ssh_command} true`."
        elif exit_status is not None and (python is not None or exit_status == PROGRAM_FAILED):
            reason = _python_failure(host, python or "", exit_status, _last_words(text, noise))
            message = reason if python else f"{message}: {reason}"
        else:
            message += f": {_unknown_reason(exit_status, text, noise, ssh_command)}"
        return ConnectError(message, **attributes)
    row, match = found
    groups = {name: quoted(value or "…") for name, value in match.groupdict().items()}
    message += f": {quoted(match.groupdict().get('reason') or match[0])}. "
    message += _cure(row, given, locked_key, text).format(
        **groups,
        ssh=ssh_command,
        key=shlex.quote(locked_key),
        option=OPTIONS_OF_ALGORITHMS.get(groups.get("algorithm", "")),
    )
    if row.error is HostKeyError:
        file, line, hint = _known_hosts(text)
        message += hint
        attributes.update(known_hosts_file=file, known_hosts_line=line)
    return row.error(message, **attributes)


def silence_error(
    stderr: str,
    *,
    host: str,
    connect_timeout: float,
    noise: str,
    python: str | None = None,
    ssh_command: str,
    jump_host: str,
) -> ConnectError:
    """Return the exception for a host that did not answer in time; see `login_error`."""
    behind = f", behind the jump host {jump_host}," if jump_host else ""
    printed = last_lines(noise, NOISE) or last_lines(stderr, NOISE)
    if python is not None:
        return ConnectError(
            f"{_named(python)} on {host}{behind} did not answer within {connect_timeout:g} s"
            f"{f'; it printed: {printed}' if printed else ''}. {_LAUNCHERS} If it starts slowly, "
            "raise connect_timeout.",
            host=host,
            stderr=stderr,
        )
    return ConnectError(
        f"{host}{behind} did not answer within {connect_timeout:g} s"
        f"{f'; it printed: {printed}' if printed else ''}. If `{ssh_command} true` ends by itself "
        "and prints nothing, raise connect_timeout. Otherwise a start file of the account's shell "
        "waits for something, reads standard input or starts another program, which it may do only "
        "in interactive shells; or a forced command runs instead of lazycluster's command.",
        host=host,
        stderr=stderr,
    )


# What `python=` may name besides an interpreter.
_LAUNCHERS = (
    "A program that starts Python must leave standard input to it, and pass its output on at once; "
    "`conda run` does so with --no-capture-output."
)


def _named(python: str) -> str:
    return f"python={python!r}" if python else "Python"


def _python_failure(host: str, python: str, exit_status: int, printed: str) -> str:
    """Return the message of a Python that has ended without running our program."""
    printed = f" (printed: {printed})" if printed else ""
    if exit_status == PROGRAM_FAILED:
        what = f"could not run lazycluster's program{printed}"
        cure = "Name a complete Python" if python else "Name a complete Python with python=…"
        return f"{_named(python)} on {host} {what}. {cure}."
    ending = f"with exit status {exit_status}" + " or by a signal" * (exit_status > 128)
    cure = _LAUNCHERS if python else "Name another Python with python=…."
    return f"{_named(python)} on {host} ended {ending} before it answered{printed}. {cure}"


def was_dropped(stderr: str) -> bool:
    """Return True if sshd, of the host or a jump host, dropped the login before authentication."""
    found = find_row(_plain(stderr))
    return found is not None and found[0].cure in DROPPED_CURES


def _plain(stderr: str) -> str:
    return stderr.replace("\r", "").replace("\0", "")


def _cure(row: Row, given: str, locked_key: str, text: str) -> str:
    if row.error is not AuthenticationError:
        return row.cure
    if given:
        return CURES_OF_SECRETS[given]
    cure = LOCKED_KEY_CURE if locked_key and row.cure == KEY_CURE else row.cure
    # A jump host gets no password.
    if "password=" in cure or not TAKES_PASSWORD.search(text) or BEHIND_PROXY.search(text):
        return cure
    return cure + PASSWORD_CURE


def _known_hosts(text: str) -> tuple[str | None, int | None, str]:
    """Return the known_hosts file and the line, if ssh printed them, and a sentence about them."""
    offending = re.search(r"^Offending .*?key .*?in (.+):(\d+)$", text, re.M)
    if offending:
        file, line = offending[1], int(offending[2])
        return file, line, f" The old key is in line {line} of {file}."
    correct = re.search(r"^Add correct host key in (.+) to get rid of this", text, re.M)
    if correct:
        return correct[1], None, f" The right key belongs in {correct[1]}."
    return None, None, ""


def _last_words(text: str, noise: str) -> str:
    return " / ".join(filter(None, (last_lines(text, NOISE), last_lines(noise, NOISE))))


def _unknown_reason(exit_status: int | None, text: str, noise: str, ssh: str) -> str:
    """Return the reason and the cure for a login of which ssh itself gave no reason.

    The exit status is then the shell's; or 255, if a signal ended the shell.
    """
    last = _last_words(text, noise)
    if exit_status is None:
        return f"{last or 'no reason given'} (lazycluster had to end ssh). Try `{ssh} true`."
    printed = f" (printed: {last})" if last else ""
    if exit_status in _CURES_OF_EXIT_STATUSES:
        return _CURES_OF_EXIT_STATUSES[exit_status].format(printed=printed)
    ending = f"with exit status {exit_status}" + " or by a signal" * (exit_status > 128)
    return (
        f"the account's shell ended {ending} instead of running lazycluster's command{printed}. If "
        f"`{ssh} true` ends so too, a start file of the shell exits, or the account has no login "
        "shell, a restricted one or a forced command (nologin, rbash, sftp only): ask the owner of "
        "the host for one that runs commands."
    )
