from __future__ import annotations

import pytest

from orchestrator.clock import Clock
from orchestrator.transport.caps import SocketCaps


def caps(**changes: int) -> SocketCaps:
    limits = {"total": 10, "per_address": 2, "unwelcomed": 10, **changes}
    return SocketCaps(clock=Clock(), **limits)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("203.0.113.5", "203.0.113.5", True),
        ("203.0.113.5", "203.0.113.6", False),
        ("203.0.113.5", "::ffff:203.0.113.5", True),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", True),
        ("2001:db8:1:1::1", "2001:db8:1:2::1", False),
    ],
)
def test_a_network_is_counted_as_its_provider_hands_it_out(
    first: str, second: str, same: bool
) -> None:
    counted = caps(per_address=1)

    assert counted.enter(first) is not None
    assert (counted.enter(second) is None) == same


def test_a_place_given_back_is_free_again() -> None:
    counted = caps(total=1)
    place = counted.enter("203.0.113.5")
    assert place is not None
    assert counted.enter("203.0.113.9") is None

    counted.leave(place)

    assert counted.enter("203.0.113.9") is not None


def test_a_good_hello_makes_room_for_the_next_stranger() -> None:
    counted = caps(unwelcomed=1)
    place = counted.enter("203.0.113.5")
    assert place is not None
    assert counted.enter("203.0.113.9") is None

    counted.welcome(place)

    assert counted.enter("203.0.113.9") is not None
