"""Who is still there: which nodes to probe and which to give up, within a budget of probes.

A node that holds work is lost after twenty seconds without a frame. An idle one is probed when it
has been silent for long, and lost when it answers nothing for twenty seconds after that, as TCP may
not notice a machine that is gone. At most 200 probes a second go out, those with work first: a
large fleet's idle nodes are probed less often, and before they are used.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

from browser_node.protocol import NodeId
from orchestrator.domain.model import Node

SILENCE_S: Final = 20.0
PROBE_BUSY_S: Final = 5.0
PROBE_IDLE_S: Final = 25.0
PROBES_PER_TICK: Final = 200
TICK_S: Final = 1.0


class Liveness:
    """Looks, once a second, at the nodes whose time to be looked at has come."""

    def __init__(self, nodes: dict[NodeId, Node]) -> None:
        self._nodes = nodes
        self._due: list[tuple[float, NodeId]] = []
        self._watched: set[NodeId] = set()
        # Idle nodes whose probe had to wait for the next second's budget.
        self._waiting: deque[NodeId] = deque()
        self._left = PROBES_PER_TICK
        self.next_tick_at = 0.0

    def watch(self, node_id: NodeId, *, now: float) -> None:
        """Look at a node from now on; it is among the nodes already."""
        # While there is no node nothing ticks: the first to come starts that anew, as if no time
        # had passed. Only the first: nodes that keep coming must not put off what is due.
        if len(self._nodes) == 1 and self.next_tick_at <= now:
            self.next_tick_at = now + TICK_S
        if node_id not in self._watched:
            self._watched.add(node_id)
            self._look_again(node_id, now + PROBE_BUSY_S, now=now)

    def may_probe(self, node: Node, *, now: float) -> bool:
        """Whether a node found silent may be probed now, within the second's budget."""
        if self._left <= 0 or node.probed_at > node.last_frame_at:
            return False
        self._left -= 1
        node.probed_at = now
        return True

    def tick(self, *, now: float) -> tuple[list[NodeId], list[tuple[NodeId, float]]]:
        """Return whom to probe, and who is lost with the seconds of their silence."""
        probes: list[NodeId] = []
        lost: list[tuple[NodeId, float]] = []
        if now < self.next_tick_at:
            return probes, lost
        self.next_tick_at = now + TICK_S
        self._left = PROBES_PER_TICK
        while self._due and self._due[0][0] <= now:
            _, node_id = heapq.heappop(self._due)
            node = self._nodes.get(node_id)
            if node is None:
                self._watched.discard(node_id)
                continue
            # What it was given it may be silent about for as long as any other.
            held = next(iter(node.attempts.values()), None)
            since = node.last_frame_at if held is None else max(node.last_frame_at, held.started_at)
            silent_s = now - since
            # The CPU worker is everybody's fallback: a hung one is replaced without work, too.
            watched = node.attempts or node.trusted
            probed = node.probed_at > node.last_frame_at
            if (watched and silent_s > SILENCE_S) or (probed and now - node.probed_at > SILENCE_S):
                lost.append((node_id, silent_s))
                self._watched.discard(node_id)
            elif watched:
                if silent_s >= PROBE_BUSY_S and self.may_probe(node, now=now):
                    probes.append(node_id)
                over_at = since + SILENCE_S + TICK_S / 2
                self._look_again(node_id, min(now + PROBE_BUSY_S, over_at), now=now)
            elif silent_s < PROBE_IDLE_S:
                self._look_again(node_id, node.last_frame_at + PROBE_IDLE_S, now=now)
            elif probed:
                self._look_again(node_id, node.probed_at + SILENCE_S + TICK_S / 2, now=now)
            else:
                self._waiting.append(node_id)
        while self._waiting and self._left > 0:
            node_id = self._waiting.popleft()
            node = self._nodes.get(node_id)
            if node is None:
                self._watched.discard(node_id)
                continue
            if now - node.last_frame_at >= PROBE_IDLE_S and self.may_probe(node, now=now):
                probes.append(node_id)
            self._look_again(node_id, now + PROBE_BUSY_S, now=now)
        return probes, lost

    def _look_again(self, node_id: NodeId, at: float, *, now: float) -> None:
        # Never at this tick again: sums of floats may fall short of what they were compared with.
        at = max(at, now + TICK_S / 2)
        heapq.heappush(self._due, (at, node_id))
