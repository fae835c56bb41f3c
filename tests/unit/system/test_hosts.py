"""Whom a listener answers."""

from __future__ import annotations

import pytest

from esper.system.hosts import is_own


@pytest.mark.parametrize(
    "named",
    ["localhost", "LOCALHOST:7780", "localhost.", "127.0.0.1", "127.0.0.1:80", "127.9.8.7:1", "[::1]", "[::1]:7780"],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "10.0.0.5"])
def test_who_asks_for_loopback_is_answered(named: str, host: str) -> None:
    assert is_own(named, host)


@pytest.mark.parametrize(
    "named",
    [
        *("evil.example", "evil.example:7780", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0"),
        *("10.0.0.6", "[::2]", "::1", "", ":7780", "localhost:7780,evil.example", "evil@localhost", "localhost/evil"),
        *("[::1", "localhost:port", "localhost ", "2130706433", "127.1"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "10.0.0.5"])
def test_who_asks_for_another_name_is_not(named: str, host: str) -> None:
    assert not is_own(named, host)


def test_a_listener_is_called_by_what_it_was_told_to_listen_at() -> None:
    assert is_own("10.0.0.5:7780", "10.0.0.5")
    assert is_own("Worker-1:7780", "worker-1")
    assert not is_own("worker-2:7780", "worker-1")
    assert is_own("[2001:db8::1]:7780", "2001:db8::1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_who_listens_at_all_addresses_has_any_name(host: str) -> None:
    assert is_own("worker.example:7780", host)


def test_who_is_no_browser_may_leave_the_name_out() -> None:
    assert is_own(None, "127.0.0.1")
