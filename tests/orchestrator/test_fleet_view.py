"""Which nodes of a large fleet an operator is shown."""

from __future__ import annotations

from typing import Any

import pytest

from browser_node.protocol import NodeId
from orchestrator.domain.model import Node
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from orchestrator.fleet_view import ROWS_SHOWN, foremost


def node(name: str, *, disagreed: int = 0, **fields: object) -> Node:
    standing = Standing(Identity(name), RuntimeClass("browser/wasm"), disagreed=disagreed)
    made = Node(NodeId(name), False, None, 0.0, 0.0, standing)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def crowd(*others: Node) -> list[Node]:
    """More trusted nodes than are shown, the later ones the busier, and ``others``."""
    usual = range(2 * ROWS_SHOWN)
    return [*(node(f"n_{n:04}", level="trusted", jobs_done=n) for n in usual), *others]


def test_of_a_large_fleet_the_busiest_are_shown() -> None:
    shown = foremost(crowd())

    assert [one.jobs_done for one in shown] == list(range(2 * ROWS_SHOWN - 1, ROWS_SHOWN - 1, -1))


@pytest.mark.parametrize(
    "fields",
    [
        {"level": "quarantined"},
        {"level": "banned"},
        {"level": "newcomer", "disagreed": 1},
        {"trusted": True, "level": "trusted"},
    ],
)
def test_who_is_in_doubt_is_shown_however_idle(fields: dict[str, Any]) -> None:
    doubted = node("idle", **fields)

    shown = list(foremost(crowd(doubted)))

    assert len(shown) == ROWS_SHOWN
    assert shown[0] is doubted


def test_an_idle_newcomer_whom_nobody_doubts_waits_its_turn() -> None:
    idle = node("idle")

    assert all(one is not idle for one in foremost(crowd(idle)))


def test_a_small_fleet_is_shown_whole() -> None:
    nodes = [node("a"), node("b")]

    assert list(foremost(nodes)) == nodes
