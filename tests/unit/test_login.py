"""Login: which conversation a Connection uses, with no ssh."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lazycluster import Connection
from lazycluster._conversation import conversation
from lazycluster.exceptions import ConnectionLostError


@pytest.fixture
def made(monkeypatch):
    """Return the fake conversations that were made; `while_made` is called within each of them."""
    found = []

    class FakeConversation:
        while_made = staticmethod(lambda: None)

        def __init__(self, settings, config, lost, spent, on_login_over):
            self.token, self.lost, self.closed = f"token-{len(found)}", lost, False
            self._on_login_over = on_login_over
            self.transport = SimpleNamespace(
                ended=False,
                was_lost=False,
                begin_close=self._close,
                close=self._close,
                answer_questions=lambda: None,
            )
            found.append(self)
            FakeConversation.while_made()

        def _close(self):
            self.closed = self.transport.ended = True
            self._on_login_over()

    monkeypatch.setattr(conversation, "Conversation", FakeConversation)
    found_and_class = SimpleNamespace(found=found, cls=FakeConversation)
    yield found_and_class
    for fake in found:
        fake._close()


def test_a_live_conversation_is_used_again(made):
    connection = Connection("host")
    assert connection._start() is connection._start()


def test_a_signal_handler_that_closes_while_a_login_begins_ends_it(made):
    connection = Connection("host")
    made.cls.while_made = staticmethod(connection.close)
    assert connection._start().closed


def test_a_login_names_the_lost_ones_whose_steps_may_still_run(made):
    """One that was open has ended the steps of those before it."""
    connection = Connection("host")
    first = connection._start()
    first.transport.ended = True  # it failed before it was open
    second = connection._start()
    assert second.lost == ["token-0"]
    second.transport.ended = True
    assert connection._start().lost == ["token-0", "token-1"]
    made.found[-1].transport.ended = made.found[-1].transport.was_lost = True
    assert connection._start().lost == ["token-2"]


def test_after_a_close_no_connection_is_lost(made):
    connection = Connection("host")
    connection._start()
    connection.close()
    assert connection._start().lost == []


def test_a_close_ends_the_wait_for_a_host_that_is_to_come_back(made):
    """It does not log in again."""
    connection = Connection("host")
    transport = connection._start().transport
    transport.wait_until_ended = lambda timeout: connection.close() is None
    with pytest.raises(ConnectionLostError, match="was closed"):
        connection.wait_until_back(60)
    assert len(made.found) == 1
