"""The names of many hosts on one line, and equal texts once."""

from __future__ import annotations

import pytest

from lazycluster._group.folding import folded_hosts, folded_texts


@pytest.mark.parametrize(
    ("hosts", "folded"),
    [
        ("", ""),
        ("web1", "web1"),
        ("db", "db"),
        ("web1 web2 web3", "web[1-3]"),
        ("web3 web1 web7 web2", "web[1-3,7]"),
        ("web1 db web2 cache", "web[1-2],db,cache"),
        ("web web1 web2", "web,web[1-2]"),
        ("web1 web web2", "web[1-2],web"),
        ("web08 web09 web10 web11", "web[08-11]"),
        ("web1 web01 web2 web02", "web[1-2],web[01-02]"),
        ("web0 web1", "web[0-1]"),
        ("n1.dc2 n2.dc2", "n[1-2].dc2"),
        ("n1.dc1 n1.dc2", "n1.dc[1-2]"),
        ("r1n1 r1n2 r2n1 r2n2", "r1n[1-2],r2n[1-2]"),
        ("10.0.0.1 10.0.0.2", "10.0.0.[1-2]"),
        ("joe@h:2201 joe@h:2202", "joe@h:[2201-2202]"),
        ("a² a³ ٣", "a²,a³,٣"),
        (
            "99999999999999999999 100000000000000000000",
            "[99999999999999999999-100000000000000000000]",
        ),
    ],
)
def test_numbers_in_a_row_are_a_range(hosts, folded):
    assert folded_hosts(hosts.split()) == folded


def test_forty_hosts_are_short():
    assert folded_hosts(f"web{n}" for n in range(1, 41)) == "web[1-40]"


def test_equal_texts_are_said_once_in_the_order_of_the_hosts():
    texts = {"db": "x", "web1": "6.1", "web2": "6.1", "a": "two\nlines", "b": "", "web3": "6.1"}
    assert folded_texts(texts) == "db: x\nweb[1-3]: 6.1\na:\n  two\n  lines\nb:"
    assert folded_texts({}) == ""
