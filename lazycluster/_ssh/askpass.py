"""Answer what ssh asks at a login; the manager's half of SSH_ASKPASS.

ssh starts a program for each question (`SSH_ASKPASS`), and so does the ssh of a jump host. The
program is a few lines of sh in the control folder. It writes the question to one named pipe and
reads the answer of the manager from another, so that no secret is in an argv, an environment or a
file. A person is asked at /dev/tty by the manager itself: ssh has no terminal, which is why Ctrl-C
does not end it later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posix
import re
import termios
import time
from typing import Callable, NamedTuple

from lazycluster._ssh.options import ASKPASS_REQUIRE, PROMPTS_NAME_HOSTS, Version, ssh_version
from lazycluster._ssh.scripts import read_script
from lazycluster._ssh.settings import Settings
from lazycluster._ssh.waiting import readable, wait_readable
from lazycluster._text import escaped
from lazycluster.exceptions import AuthenticationError

QUESTION_LIMIT = 1 << 16  # bytes; the host chooses the words of a question
READER_TIMEOUT = 10.0  # seconds until a program that has asked opens its pipe; it does so at once
POLL_INTERVAL = 0.005  # seconds

_HOST_KEY = re.compile(r"\(yes/no(?:/\[fingerprint\])?\)\?|type 'yes', 'no'")
_PASSPHRASE = re.compile(r"Enter passphrase for key '")
# ssh does not report whether the host wants the answer hidden. So a password is the answer to any
# question of the host, in any language, unless a word in it stands for something else.
_OF_A_KEY = re.compile(r"(?:Enter|Bad) passphrase|Enter PIN for |Allow use of key |Confirm user ")
_FROM_HOST = re.compile(r"\([^()]*@[^()]*\) ")  # ssh 8.5 and newer; see PROMPTS_NAME_HOSTS
_ANOTHER_SECRET = re.compile(
    r"\b(?:new|old|current|retype|again|one.time|pin|user ?name|login)\b"
    r"|code|código|codice|token|otp|einmal|verif|factor|验证|驗證|確認",
    re.IGNORECASE,
)


def login_environment(version: Version, askpass: str | None) -> dict[str, str]:
    """Return the environment for the ssh of a login.

    Without SSH_ASKPASS_REQUIRE, the ssh of a jump host would open a window: BatchMode does not
    reach it, and with a DISPLAY it asked three times for a password (tried with 9.2).

    Args:
        version: The version of ssh.
        askpass: The program that answers questions; None if no question can be answered.
    """
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "force" if askpass else "never"}
    if askpass:
        environment["SSH_ASKPASS"] = askpass
    if version < ASKPASS_REQUIRE:
        environment["SSH_ASKPASS"] = askpass or "false"
        environment.setdefault("DISPLAY", ":")  # without one, ssh does not run the program
    return environment


class Question(NamedTuple):
    """One question of ssh: the pid of the ssh that asks, the kind that it gives, and the text."""

    asker: int
    kind: str
    prompt: str


class Askpass:
    """Answer the questions of one login, with the user's secrets or by asking a person.

    Args:
        folder: The control folder, in which the guard writes the pid of its ssh.
        settings: The `password`, `passphrase` and `interactive` to use.

    Attributes:
        path: The program for SSH_ASKPASS.
        answered: The last secret that ssh got: "password", "passphrase", or "" if none.
    """

    def __init__(self, folder: str, settings: Settings) -> None:
        self.path: str = os.path.join(folder, "askpass")
        self.answered: str = ""
        self._folder = folder
        self._settings = settings
        self._given: set[str] = set()
        self._pipes = _Pipes(folder, settings.host)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        with open(fd, "w") as script:
            script.write("#!/bin/sh\n" + read_script("askpass"))

    def finish(self) -> None:
        """Make `attend` return, because the login is over. Any thread may call this."""
        self._pipes.finish()

    def close(self) -> None:
        """Remove the program and its pipes; call this after `attend` has returned."""
        self._pipes.close()
        with contextlib.suppress(OSError):  # the guard has removed it
            os.unlink(self.path)

    def attend(self, on_person: Callable[[bool], None]) -> None:
        """Answer questions until the login is over.

        Args:
            on_person: Called with True before a person is asked, and with False afterwards.

        Raises:
            AuthenticationError: If a question cannot be answered.
            KeyboardInterrupt: If the person who is asked presses Ctrl-C.
        """
        while True:
            question = self._pipes.next_question()
            if question is None:
                return
            answer = self._own_answer(question)
            if answer is None and self._settings.interactive:
                on_person(True)
                try:
                    answer = self._ask_person(question)
                finally:
                    on_person(False)
                if answer is None and not self._pipes.pending():
                    raise self._error(question, "it was not answered")
            if question.kind != "none":
                self._pipes.give(answer)

    def _own_answer(self, question: Question) -> str | None:
        """Return the user's secret for a question; None for no answer, which ssh takes for a no.

        Raises:
            AuthenticationError: If the login cannot go on without a person.
        """
        settings, prompt = self._settings, question.prompt
        if _HOST_KEY.search(prompt):  # only a person may accept one; ssh prints what is wrong
            return None
        if _PASSPHRASE.match(prompt):
            return self._passphrase(question)
        if settings.password is not None and self._is_for_password(prompt):
            return self._password(question, settings.password)
        if settings.interactive:
            return None
        problem = "no person can be asked for that; give interactive=True"
        if settings.password is not None and not _OF_A_KEY.match(prompt):
            problem = (
                "that is not recognised as the question for the password; give password_prompt=…, "
                "a regular expression that is found in it, or interactive=True"
            )
        raise self._error(question, problem)

    def _is_for_password(self, prompt: str) -> bool:
        if _OF_A_KEY.match(prompt):
            return False
        pattern = self._settings.password_prompt
        if pattern is not None:
            return bool(re.search(pattern, prompt))
        from_host = bool(_FROM_HOST.match(prompt)) or ssh_version() < PROMPTS_NAME_HOSTS
        words = _FROM_HOST.sub("", prompt, count=1)
        own = words.endswith("'s password: ")  # of ssh itself; the name of the host may be any
        return own or (from_host and not _ANOTHER_SECRET.search(words))

    def _passphrase(self, question: Question) -> str | None:
        """Return the passphrase, once for each ssh and key; None lets ssh try another key."""
        secret = self._settings.passphrase
        # An older ssh shows a host's question as if ssh itself asked. On the ssh to the host the
        # options forbid such questions; on a jump host's ssh they do not.
        if secret is None or not (
            ssh_version() >= PROMPTS_NAME_HOSTS or question.asker == self._ssh_to_the_host()
        ):
            return None
        return self._give_once("passphrase", f"{question.asker} {question.prompt}", secret)

    def _password(self, question: Question, secret: str) -> str | None:
        """Return the password, once, if the ssh to the host itself asks for it."""
        if question.asker == self._ssh_to_the_host():
            answer = self._give_once("password", "password", secret)
            problem = "the password that was given was not accepted"
        else:
            answer = None
            problem = (
                "that is a jump host or a ProxyCommand, and password=… is for the host alone; use "
                "a key there, or interactive=True"
            )
        if answer is None and not self._settings.interactive:
            raise self._error(question, problem)
        return answer

    def _give_once(self, what: str, key: str, secret: str) -> str | None:
        """Return the secret; None the next time, because ssh asks again only if it was wrong."""
        if key in self._given:
            return None
        self._given.add(key)
        self.answered = what
        return secret

    def _ssh_to_the_host(self) -> int:
        """Return the pid of the ssh that goes to the host itself, not to a jump host; else -1."""
        deadline = time.monotonic() + READER_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), open(os.path.join(self._folder, "pid")) as file:
                text = file.read()
                if text.endswith("\n"):
                    return int(text)
            time.sleep(POLL_INTERVAL)
        return -1

    def _error(self, question: Question, why: str) -> AuthenticationError:
        host = self._settings.host
        return AuthenticationError(
            f"Cannot connect to {host}: the login asks {question.prompt.strip()!r}, and {why}.",
            host=host,
        )

    def _ask_person(self, question: Question) -> str | None:
        """Show the question at the terminal; return the line typed, None if there is none."""
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        except OSError:
            raise self._error(question, "there is no terminal to ask at") from None
        try:
            if question.kind == "none":
                _write(terminal, question.prompt + "\n")
                return ""
            return _read_line(terminal, question.prompt, until=self._pipes.questions)
        finally:
            posix.close(terminal)


class _Pipes:
    """The two named pipes between the programs that ask and the manager.

    Args:
        folder: The control folder.
        host: The host as the user typed it.

    Attributes:
        questions: The descriptor that can be read when a question comes or the login is over.
    """

    def __init__(self, folder: str, host: str) -> None:
        self._folder = folder
        self._host = host
        self._over = False
        self._buffer = b""
        for name in ("question", "answer"):
            os.mkfifo(os.path.join(folder, name), 0o600)
        # Open for writing too, so the pipe has no end and a program never waits for a reader.
        self.questions = os.open(os.path.join(folder, "question"), os.O_RDWR | os.O_NONBLOCK)

    def finish(self) -> None:
        self._over = True
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes `next_question` as well
            os.write(self.questions, b"\0")

    def close(self) -> None:
        posix.close(self.questions)
        for name in ("question", "answer"):
            with contextlib.suppress(OSError):  # the guard has removed them
                os.unlink(os.path.join(self._folder, name))

    def pending(self) -> bool:
        return bool(self._buffer) or wait_readable(self.questions, 0)

    def next_question(self) -> Question | None:
        """Wait for the next question; return None if the login is over."""
        while not self._over and b"\0" not in self._buffer:
            wait_readable(self.questions, None)  # `finish` is called at the login's deadline
            with contextlib.suppress(BlockingIOError):
                self._buffer += os.read(self.questions, QUESTION_LIMIT)
            if len(self._buffer) > QUESTION_LIMIT:
                raise AuthenticationError(
                    f"Cannot connect to {self._host}: the login asks a question of more than "
                    f"{QUESTION_LIMIT} bytes. Try `ssh` by hand.",
                    host=self._host,
                )
        if self._over:
            return None
        line, _, self._buffer = self._buffer.partition(b"\0")
        asker, kind, prompt = line.decode("utf-8", "backslashreplace").split(" ", 2)
        return Question(int(asker), kind, prompt)

    def give(self, answer: str | None) -> None:
        """Give the program that has asked its answer, or the end of its input."""
        deadline = time.monotonic() + READER_TIMEOUT
        while time.monotonic() < deadline and not self.pending():
            try:
                # Fails without a reader. Data that was not read is lost when this end is closed.
                fd = os.open(os.path.join(self._folder, "answer"), os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return  # ssh has ended, and the folder is removed
                time.sleep(POLL_INTERVAL)
                continue
            with contextlib.suppress(OSError):  # ssh has ended the program
                if answer is not None:
                    os.write(fd, os.fsencode(answer) + b"\n")
            posix.close(fd)
            return


def _write(terminal: int, text: str) -> None:
    os.write(terminal, escaped(text).encode())  # the host may have chosen the text


def _read_line(terminal: int, prompt: str, until: int) -> str | None:
    """Read a line that a person types; None at the end, or when `until` becomes readable."""
    echo = bool(_HOST_KEY.search(prompt))
    before = termios.tcgetattr(terminal)
    quiet = list(before)
    if not echo:
        quiet[3] &= ~termios.ECHO
        quiet[3] |= termios.ECHONL
    line = b""
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)  # before the person starts to type
        _write(terminal, prompt)
        while not line.endswith(b"\n"):
            if until in readable((terminal, until), None):
                return None
            data = os.read(terminal, 4096)
            if not data:
                return None
            line += data
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    return os.fsdecode(line[:-1])
