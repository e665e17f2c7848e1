"""Which process is the sshd of one connection."""

from __future__ import annotations

import pytest

from lazycluster._remote.predecessors import serves_one_user


@pytest.mark.parametrize(
    ("title", "serves_one"),
    [
        (b"sshd: joe@notty", True),
        (b"sshd: joe@notty\0\0\0", True),
        (b"sshd-session: joe@notty", True),
        (b"sshd: joe@pts/0", False),
        (b"sshd: joe [priv]", False),
        (b"sshd-session: joe [priv]", False),
        (b"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", False),
        (b"/usr/sbin/sshd\0-D\0", False),
        (b"sshd\0-D\0", False),
        (b"dropbear\0-F\0", False),
        (b"vi\0sshd: joe@notty\0", False),
        (b"", False),
    ],
)
def test_only_the_sshd_of_a_session_without_terminal_is_ended(title, serves_one):
    """The one that listens may be process 1 of a container."""
    assert serves_one_user(title) == serves_one
