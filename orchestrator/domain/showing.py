"""What answers rest on is asked for: who is asked, who is late with it, and when it is settled.

A node shows the evidence of a claim, says that it cannot, leaves or is silent for too long; each
way what waits for it goes on. Who is slow to show it gets no work meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from browser_node.protocol import AttemptId, NodeId, commitment_to
from orchestrator.domain import effects as fx
from orchestrator.domain.board import Board
from orchestrator.domain.model import Claim

# A tab answers between two micro-batches: this late, it gets no more work and no customer waits.
OWING_S: Final = 1.0
# Nodes keep evidence for longer.
SHOW_WITHIN_S: Final = 5.0

W = TypeVar("W")


class Asked(msgspec.Struct, Generic[W]):
    """A claim whose evidence was asked for, and what waits for that."""

    claim: Claim
    is_owing: bool = False
    waiting: list[W] = []


class Showing(Generic[W]):
    """``on_settled`` is called when a claim has its evidence or a fault, for what waits.

    ``on_owing`` is called with the time, too, when its node should have shown it by now.
    """

    def __init__(
        self,
        board: Board,
        *,
        on_settled: Callable[[Asked[W]], None],
        on_owing: Callable[[Asked[W], float], None],
    ) -> None:
        self._board = board
        self._on_settled = on_settled
        self._on_owing = on_owing
        self._asked: dict[NodeId, dict[AttemptId, Asked[W]]] = {}
        # When it is late and too late, in the order of time.
        self._owing_at: deque[tuple[float, NodeId, AttemptId]] = deque()
        self._show_by: deque[tuple[float, NodeId, AttemptId]] = deque()

    def __len__(self) -> int:
        """How many claims are still to be settled."""
        return sum(map(len, self._asked.values()))

    def ask(self, claim: Claim, now: float) -> Asked[W] | None:
        """Ask for the evidence of ``claim``, once; None where it is there or will never be."""
        if not claim.pending:
            return None
        node_id, attempt_id = claim.node_id, claim.attempt_id
        node = self._board.nodes.get(node_id)
        if node is None or node.joined_at > claim.since:
            # It went with the connection that the answer came on.
            claim.pending, claim.fault = False, "unshown"
            return None
        of_node = self._asked.setdefault(node_id, {})
        asked = of_node.get(attempt_id)
        if asked is None:
            asked = of_node[attempt_id] = Asked(claim)
            self._owing_at.append((now + OWING_S, node_id, attempt_id))
            self._show_by.append((now + SHOW_WITHIN_S, node_id, attempt_id))
            self._board.timers.arm(now + OWING_S, node_id)
            self._board.effects.append(fx.Reveal(node_id, attempt_id))
        return asked

    def find_owing(self, now: float) -> None:
        """Give those nothing more that should have shown something by now; nobody waits for it."""
        while self._owing_at and self._owing_at[0][0] <= now:
            _, node_id, attempt_id = self._owing_at.popleft()
            asked = self._asked.get(node_id, {}).get(attempt_id)
            node = self._board.nodes.get(node_id)
            if asked is None or node is None:
                continue
            asked.is_owing = True
            node.owing += 1
            self._board.changed(node, now)
            self._on_owing(asked, now)

    def tick(self, now: float) -> None:
        """Wait no longer for what does not come."""
        self.find_owing(now)
        while self._show_by and self._show_by[0][0] <= now:
            _, node_id, attempt_id = self._show_by.popleft()
            self.settle(node_id, attempt_id, None, now)

    def forgive(self, late_s: float) -> None:
        """This process did not run for so long: nobody could show anything."""
        self._owing_at = deque((at + late_s, node, one) for at, node, one in self._owing_at)
        self._show_by = deque((by + late_s, node, one) for by, node, one in self._show_by)

    def left(self, node_id: NodeId, now: float) -> None:
        """A node has gone: it shows nothing more."""
        for attempt_id in list(self._asked.get(node_id, ())):
            self.settle(node_id, attempt_id, None, now)

    def settle(
        self, node_id: NodeId, attempt_id: AttemptId, evidence: bytes | None, now: float
    ) -> None:
        """Take what a node shows, or None where it cannot, if it was asked for it."""
        of_node = self._asked.get(node_id)
        asked = of_node.pop(attempt_id, None) if of_node is not None else None
        if asked is None:
            return
        if not of_node:
            del self._asked[node_id]
        node = self._board.nodes.get(node_id)
        if asked.is_owing and node is not None:
            node.owing -= 1
            self._board.changed(node, now)
        claim = asked.claim
        claim.pending = False
        if evidence is None:
            claim.fault = "unshown"
        elif commitment_to(evidence) != claim.commitment:
            claim.fault = "forged"
        else:
            claim.evidence = evidence
        self._on_settled(asked)
