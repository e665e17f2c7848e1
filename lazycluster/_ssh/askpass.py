"""What ssh asks at a login, and who answers: the manager's half of SSH_ASKPASS.

ssh starts a program for each question (`SSH_ASKPASS`), also the ssh of a jump host. Ours is a few
lines of sh in the control folder that hand the question to the manager by one named pipe and read
the answer from another, so that no secret is in an argv, in an environment or in a file. A person
is asked at /dev/tty by the manager itself: ssh has no terminal, which is why Ctrl-C does not end it
later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import termios
import time
from typing import Callable, NamedTuple

from lazycluster._ssh import argv as _openssh
from lazycluster._ssh.settings import Settings
from lazycluster._text import escaped
from lazycluster.exceptions import AuthenticationError

# $PPID is the ssh that asks. Its notice of a security key is "none": ssh ends the program itself.
SCRIPT = """#!/bin/sh
folder=${0%/*}
printf '%s %s %s\\0' "$PPID" "${SSH_ASKPASS_PROMPT:-secret}" "$1" >"$folder/question"
IFS= read -r answer <"$folder/answer" && printf '%s\\n' "$answer"
"""
QUESTION_LIMIT = 1 << 16  # bytes; a host may word its questions as it likes
LISTENER_PATIENCE = 10.0  # seconds until a program that has asked listens; it does so at once
PAUSE = 0.005  # seconds between two looks

_HOST_KEY = re.compile(r"\(yes/no(?:/\[fingerprint\])?\)\?|type 'yes', 'no'")
_PASSPHRASE = re.compile(r"Enter passphrase for key '")
_PASSWORD = re.compile(r"password(?: for [^:]*)?: ?$", re.IGNORECASE)
_ANOTHER_PASSWORD = re.compile(r"\b(?:new|old|current|retype|again|one.time)\b", re.IGNORECASE)


class Question(NamedTuple):
    """What ssh asks: which ssh (its pid), the kind that it gives, and its words."""

    asker: int
    kind: str
    prompt: str


class Askpass:
    """Answers what ssh asks for one login, by what the user gave or by asking a person.

    Args:
        folder: The control folder; the guard writes there which ssh is ours.
        settings: Whose `password`, `passphrase` and `interactive` count.

    Attributes:
        path: The program for SSH_ASKPASS.
        answered: What the user gave and ssh was told: "password", "passphrase", or "".
    """

    def __init__(self, folder: str, settings: Settings) -> None:
        self.path = os.path.join(folder, "askpass")
        self.answered = ""
        self._folder = folder
        self._settings = settings
        self._told: set[str] = set()
        self._over = False
        self._buffer = b""
        for name in ("question", "answer"):
            os.mkfifo(os.path.join(folder, name), 0o600)
        # To read and to write: so it has no end, and the program never waits for a reader.
        self._questions = os.open(os.path.join(folder, "question"), os.O_RDWR | os.O_NONBLOCK)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        with open(fd, "w") as script:
            script.write(SCRIPT)

    def finish(self) -> None:
        """The login is over; `attend` returns then. From any thread."""
        self._over = True
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes `attend` as well
            os.write(self._questions, b"\0")

    def close(self) -> None:
        """After `finish`: nobody asks any more."""
        os.close(self._questions)
        for name in ("askpass", "question", "answer"):
            with contextlib.suppress(OSError):  # the guard has removed them
                os.unlink(os.path.join(self._folder, name))

    def attend(self, on_person: Callable[[bool], None]) -> None:
        """Answer questions until the login is over.

        Args:
            on_person: Told when a person is about to be asked (True), and when that is over.

        Raises:
            AuthenticationError: A question that nobody can answer.
            KeyboardInterrupt: From the person who was asked.
        """
        while True:
            question = self._next_question()
            if question is None:
                return
            own = self._answer(question)
            if own is None and self._settings.interactive:
                on_person(True)
                try:
                    own = self._ask_person(question)
                finally:
                    on_person(False)
                if own is None and not self._pending():
                    raise self._error(question, "it was not answered")
            if question.kind != "none":
                self._give(own)

    # Who answers

    def _answer(self, question: Question) -> str | None:
        """What the user has given for this; None for no answer, which ssh takes for a no."""
        settings, prompt = self._settings, question.prompt
        ours = question.asker == self._our_ssh()
        if _HOST_KEY.search(prompt):  # never answered by us; ssh then says what is wrong
            return None
        if _PASSPHRASE.match(prompt) and settings.passphrase is not None:
            # An older ssh shows what a host asks as if ssh itself asked. On ours we forbid that.
            if ours or _openssh.ssh_version() >= _openssh.PROMPTS_NAME_HOSTS:
                # A wrong one is not repeated; another ssh may ask for the same key.
                once = f"{question.asker} {prompt}"
                return self._tell("passphrase", once, settings.passphrase)
        elif _PASSWORD.search(prompt) and not _ANOTHER_PASSWORD.search(prompt):
            if settings.password is not None and ours:
                if "password" in self._told and not settings.interactive:
                    raise self._error(question, "the password that was given was not accepted")
                if "password" not in self._told:
                    return self._tell("password", "password", settings.password)
            elif settings.password is not None and not settings.interactive:
                raise self._error(
                    question,
                    "that is a jump host or a ProxyCommand, and password=… is for the host alone; "
                    "use a key there, or interactive=True",
                )
        if settings.interactive:
            return None
        if _PASSPHRASE.match(prompt):  # another key may do
            return None
        raise self._error(question, "nobody can be asked for that here; give interactive=True")

    def _tell(self, what: str, once: str, secret: str) -> str | None:
        if once in self._told:
            return None
        self._told.add(once)
        self.answered = what
        return secret

    def _our_ssh(self) -> int:
        """The pid of the ssh that goes to the host itself, and not to a jump host."""
        deadline = time.monotonic() + LISTENER_PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), open(os.path.join(self._folder, "pid")) as file:
                text = file.read()
                if text.endswith("\n"):
                    return int(text)
            time.sleep(PAUSE)
        return -1

    def _error(self, question: Question, why: str) -> AuthenticationError:
        host = self._settings.host
        return AuthenticationError(
            f"Cannot connect to {host}: the login asks {question.prompt.strip()!r}, and {why}.",
            host=host,
        )

    # The two pipes

    def _pending(self) -> bool:
        poller = select.poll()
        poller.register(self._questions, select.POLLIN)
        return bool(self._buffer or poller.poll(0))

    def _next_question(self) -> Question | None:
        """The next question; None if the login is over."""
        poller = select.poll()
        poller.register(self._questions, select.POLLIN)
        while not self._over and b"\0" not in self._buffer:
            poller.poll()  # the login has its deadline, and then `finish` is called
            with contextlib.suppress(BlockingIOError):
                self._buffer += os.read(self._questions, QUESTION_LIMIT)
            if len(self._buffer) > QUESTION_LIMIT:
                raise AuthenticationError(
                    f"Cannot connect to {self._settings.host}: the login asks more than anybody "
                    f"can read ({QUESTION_LIMIT} bytes and more).",
                    host=self._settings.host,
                )
        if self._over:
            return None
        said, _, self._buffer = self._buffer.partition(b"\0")
        asker, kind, prompt = said.decode("utf-8", "backslashreplace").split(" ", 2)
        return Question(int(asker), kind, prompt)

    def _give(self, answer: str | None) -> None:
        """Hand over an answer to the program that has asked, or the end of its input."""
        deadline = time.monotonic() + LISTENER_PATIENCE
        while time.monotonic() < deadline and not self._pending():
            try:
                # Only to somebody who listens: what nobody has read is gone when this is closed.
                fd = os.open(os.path.join(self._folder, "answer"), os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return  # ssh has ended, and the folder has gone
                time.sleep(PAUSE)
                continue
            with contextlib.suppress(OSError):  # likewise
                if answer is not None:
                    os.write(fd, os.fsencode(answer) + b"\n")
            os.close(fd)
            return

    # A person

    def _ask_person(self, question: Question) -> str | None:
        """Show the question at the terminal; the line that was typed, None if there is none."""
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        except OSError:
            raise self._error(question, "there is no terminal to ask at") from None
        try:
            if question.kind == "none":
                _write(terminal, question.prompt + "\n")
                return ""
            return _read_line(terminal, question.prompt, until=self._questions)
        finally:
            os.close(terminal)


def _write(terminal: int, text: str) -> None:
    os.write(terminal, escaped(text).encode())  # the host may have worded it


def _read_line(terminal: int, prompt: str, until: int) -> str | None:
    """Read a line that a person types; None at the end, or when `until` has something to read."""
    echo = bool(_HOST_KEY.search(prompt))
    before = termios.tcgetattr(terminal)
    quiet = list(before)
    if not echo:
        quiet[3] &= ~termios.ECHO
        quiet[3] |= termios.ECHONL
    line = b""
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)  # before anybody is asked to type
        _write(terminal, prompt)
        poller = select.poll()
        poller.register(terminal, select.POLLIN)
        poller.register(until, select.POLLIN)
        while not line.endswith(b"\n"):
            ready = {fd for fd, _ in poller.poll()}
            if until in ready:
                return None
            data = os.read(terminal, 4096)
            if not data:
                return None
            line += data
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    return os.fsdecode(line[:-1])
