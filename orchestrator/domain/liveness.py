"""Who is still there: which nodes to probe and which to give up, within a budget of probes.

A node that holds work is lost after twenty seconds without a frame; an idle one when three probes
in a row went unanswered, as TCP may not notice a machine that is gone.
"""

from __future__ import annotations

from typing import Final

from browser_node.protocol import NodeId
from orchestrator.domain.board import Board
from orchestrator.domain.model import Node

SILENCE_S: Final = 20.0
IDLE_SILENCE_S: Final = 90.0
PROBE_BUSY_S: Final = 5.0
PROBE_IDLE_S: Final = 25.0
PROBES_PER_TICK: Final = 200
TICK_S: Final = 1.0


class Liveness:
    """Goes round the nodes once a second, at most 200 probes a round."""

    def __init__(self, board: Board) -> None:
        self._board = board
        # A dict for its order and its keys: a node that came back is watched once.
        self._order: dict[NodeId, None] = {}
        self.next_tick_at = 0.0

    def watch(self, node_id: NodeId, *, now: float) -> None:
        if not self._order:
            self.next_tick_at = now + TICK_S
        self._order[node_id] = None

    def tick(self, *, now: float) -> tuple[list[NodeId], list[tuple[NodeId, float]]]:
        """Return whom to probe, and who is lost with the seconds of their silence."""
        probes: list[NodeId] = []
        lost: list[tuple[NodeId, float]] = []
        if now < self.next_tick_at:
            return probes, lost
        self.next_tick_at = now + TICK_S
        for node_id in list(self._order):
            node = self._board.nodes.get(node_id)
            if node is None:
                del self._order[node_id]
                continue
            silent_s = now - node.last_frame_at
            # The CPU worker is everybody's fallback: a hung one is replaced without work, too.
            watched = node.attempts or node.trusted
            if silent_s > (SILENCE_S if watched else IDLE_SILENCE_S):
                lost.append((node_id, silent_s))
            elif len(probes) < PROBES_PER_TICK and _due(node, silent_s):
                probes.append(node_id)
                # To the end, so that with many nodes the others' turn comes in the next rounds.
                del self._order[node_id]
                self._order[node_id] = None
        return probes, lost


def _due(node: Node, silent_s: float) -> bool:
    return silent_s > (PROBE_BUSY_S if node.attempts or node.trusted else PROBE_IDLE_S)
