"""How many sockets there may be: counted alone, and over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from browser_node.protocol import CloseCode, NodeId, ProtocolError
from orchestrator.clock import Clock
from orchestrator.domain.model import Location
from orchestrator.transport.caps import SocketCaps
from orchestrator.transport.credentials import Gate, Nonces, Tickets
from tests.arena import Arena, arena
from tests.fakes import ScriptedNode

ORIGIN = "https://example.org"


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


# ── sockets of one key pair ──────────────────────────────────────────────────────────────────────


class Door:
    """A gate with the nonces it redeems: what a node does to be admitted, in one call."""

    def __init__(self, *, per_identity: int) -> None:
        clock = Clock()
        self._nonces = Nonces(clock)
        self._gate = Gate(
            nonces=self._nonces, tickets=Tickets(b"secret", clock), per_identity=per_identity
        )
        self.release = self._gate.release

    def admit(self, node: ScriptedNode) -> NodeId:
        nonce = self._nonces.issue(ORIGIN, b"who")
        assert nonce is not None
        admission = self._gate.admit(node.hello(nonce=nonce, origin=ORIGIN))
        node.ticket = admission.ticket
        return admission.node_id


def tab(*, of: ScriptedNode | None = None) -> ScriptedNode:
    """Return a node with a key pair of its own, or another tab of the same browser."""
    node = ScriptedNode({})
    node.key = node.key if of is None else of.key
    return node


def test_one_key_pair_has_only_so_many_sockets_whatever_others_do() -> None:
    door, mine = Door(per_identity=2), tab()
    door.admit(mine)
    door.admit(tab(of=mine))

    with pytest.raises(ProtocolError, match="2 nodes with this key are connected") as refusal:
        door.admit(tab(of=mine))

    assert refusal.value.close_code == CloseCode.TOO_MANY
    door.admit(tab())


def test_a_closed_tab_makes_room_for_another_of_its_key() -> None:
    door, mine = Door(per_identity=1), tab()
    first = door.admit(mine)

    door.release(first)

    second = door.admit(tab(of=mine))
    assert second != first
    with pytest.raises(ProtocolError):
        door.admit(tab(of=mine))


def test_a_resumed_session_is_no_further_socket() -> None:
    door, mine = Door(per_identity=1), tab()
    node_id = door.admit(mine)

    # The server has not noticed yet that the old connection is lost.
    assert door.admit(mine) == node_id
    door.release(node_id)
    with pytest.raises(ProtocolError):
        door.admit(tab(of=mine))
    door.release(node_id)
    door.admit(tab(of=mine))


def test_a_ticket_is_no_way_round_the_limit() -> None:
    door, mine = Door(per_identity=1), tab()
    door.release(door.admit(mine))
    door.admit(tab(of=mine))

    with pytest.raises(ProtocolError):
        door.admit(mine)


# ── over real sockets ────────────────────────────────────────────────────────────────────────────


async def join(
    a: Arena, *, of: ScriptedNode | None = None, ticket: str | None = None
) -> ScriptedNode:
    """Let a tab of a new browser, or another one of the browser ``of``, say hello."""
    node = a.node()
    node.key, node.ticket = (node if of is None else of).key, ticket
    return await node.join(a.url)


async def welcomed(node: ScriptedNode) -> None:
    await asyncio.wait_for(node.welcomed.wait(), 10)


async def test_one_tab_too_many_is_told_so_and_the_others_stay() -> None:
    async with arena(per_identity=2) as a:
        first = await join(a)
        second = await join(a, of=first)
        await welcomed(first)
        await welcomed(second)

        third = await join(a, of=first)
        await asyncio.wait_for(third.closed.wait(), 10)

        assert third.close_code == CloseCode.TOO_MANY
        assert third.close_reason == (
            "2 nodes with this key are connected already: close one of them"
        )
        assert not first.closed.is_set()
        assert not second.closed.is_set()
        await welcomed(await join(a))


async def test_a_resumed_session_takes_the_place_of_its_old_socket() -> None:
    async with arena(per_identity=1) as a:
        old = await join(a)
        await welcomed(old)

        new = await join(a, of=old, ticket=old.ticket)
        await welcomed(new)

        assert new.node_id == old.node_id
        await asyncio.wait_for(old.closed.wait(), 10)
        assert old.close_code == CloseCode.GOING_AWAY
        # The old socket's end has given back its own count, not the new one's.
        await a.until(lambda: a.sockets == 1)
        again = await join(a, of=old)
        await asyncio.wait_for(again.closed.wait(), 10)
        assert again.close_code == CloseCode.TOO_MANY


async def test_a_tab_that_crashed_leaves_its_place_to_the_next() -> None:
    async with arena(per_identity=1) as a:
        crashed = await join(a)
        await welcomed(crashed)
        crashed.drop()
        await a.until(lambda: a.sockets == 0)

        await welcomed(await join(a, of=crashed))


async def test_where_a_node_is_comes_from_the_address_of_its_socket() -> None:
    asked: list[str] = []

    def locate(address: str) -> Location:
        asked.append(address)
        return Location("EU-DE", 255.0)

    async with arena(locate=locate) as a:
        await welcomed(await join(a))

        [row] = a.engine.fleet().nodes

    assert asked == ["127.0.0.1"]
    assert row.region == "EU-DE"
