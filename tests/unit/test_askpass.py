"""The manager's half of SSH_ASKPASS, without an ssh: its end, and what is too long."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest

from lazycluster._ssh.askpass import QUESTION_LIMIT, Askpass
from lazycluster._ssh.settings import Settings
from lazycluster.exceptions import AuthenticationError


@pytest.fixture
def askpass(tmp_path):
    (tmp_path / "pid").write_text("1\n")
    made = Askpass(str(tmp_path), Settings("host", interactive=True))
    yield made
    made.close()


def fill(askpass, count):
    """Write so many bytes to the pipe of questions; the last of them may stay unread."""
    fd = os.open(os.path.join(os.path.dirname(askpass.path), "question"), os.O_RDWR)
    thread = threading.Thread(target=os.write, args=(fd, b"x" * count), daemon=True)
    thread.start()
    return fd, thread


def test_f47_a_question_without_end_ends_the_login(askpass):
    """No person is asked, and no thread waits."""
    fd, thread = fill(askpass, QUESTION_LIMIT + 1)
    with pytest.raises(AuthenticationError, match="more than 65536 bytes"):
        askpass.attend(lambda asked: pytest.fail("a person was asked"))
    thread.join()
    os.close(fd)


def test_the_end_is_seen_though_the_pipe_is_full(askpass):
    fd, thread = fill(askpass, 1)
    thread.join()
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x" * 4096)
    askpass.finish()
    askpass.attend(lambda asked: pytest.fail("a person was asked"))
    os.close(fd)


def test_the_end_comes_before_a_question_that_is_left(askpass):
    """Its ssh has gone."""
    fd, thread = fill(askpass, 100)
    thread.join()
    os.write(fd, b"\0")
    askpass.finish()
    askpass.attend(lambda asked: pytest.fail("a person was asked"))
    os.close(fd)
