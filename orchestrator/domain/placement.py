"""Which node has which model: follow demand, keep replicas, respect memory and data savers.

A node is told to load one model at a time, and only while it has nothing to do: prefetching never
competes with work. What it has cached comes first, then what is short of supply. A model that
nobody asked for in half an hour is unloaded where enough other nodes have it.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import Final

from browser_node.protocol import ModelDigest, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import router
from orchestrator.domain.board import Board
from orchestrator.domain.index import within
from orchestrator.domain.model import Job, ModelSpec, Node
from orchestrator.domain.references import References

MIN_REPLICAS: Final = 8
# Supply is to be so many times what is asked for: fleets come and go.
HEADROOM: Final = 2.0
UNUSED_S: Final = 1800.0
DEMAND_MEMORY_S: Final = 300.0
# Nodes looked at in a second.
REVIEWED: Final = 50
# Those that have gone meanwhile do not count.
_LOOKED_THROUGH: Final = 2_000
# Of a device's memory, models may take half; one takes about twice its files.
_MEMORY_SHARE: Final = 0.5
_UNKNOWN_MEMORY_MB: Final = 1024
# A load that takes longer than this has gone wrong silently.
LOAD_TIMEOUT_S: Final = 300.0


class Demand:
    """Tokens a second asked of a model: an exponential average over five minutes."""

    __slots__ = ("_at", "_rate", "last_at")

    def __init__(self) -> None:
        self._rate = 0.0
        self._at = 0.0
        self.last_at = -math.inf

    def add(self, tokens: int, now: float) -> None:
        self._rate = self.rate(now) + tokens / DEMAND_MEMORY_S
        self._at = self.last_at = now

    def rate(self, now: float) -> float:
        if now <= self._at:
            return self._rate
        return self._rate * math.exp((self._at - now) / DEMAND_MEMORY_S)


class Placement:
    def __init__(self, board: Board, *, references: References | None) -> None:
        self._board = board
        self._references = references
        self.demand: dict[ModelDigest, Demand] = {digest: Demand() for digest in board.models}
        self._round: deque[NodeId] = deque()
        self._in_round: set[NodeId] = set()
        self._joined_first_at: float | None = None

    def joined(self, node: Node, now: float) -> None:
        """A node is here: give it what it is to have first."""
        if self._joined_first_at is None:
            self._joined_first_at = now
        if node.node_id not in self._in_round:
            self._in_round.add(node.node_id)
            self._round.append(node.node_id)
        self.settle(node, now)

    def settle(self, node: Node, now: float) -> None:
        """Load the next model on a node that has nothing to do, if it should have another."""
        if node.trusted or node.loading or node.attempts or node.draining:
            return
        if len(node.speeds) == len(self._board.models):
            return  # it has them all
        if node.level in ("quarantined", "banned"):
            return
        wanted = self._wanted(node, now)
        if wanted is not None:
            self._load(node, wanted, now)

    def tick(self, now: float) -> None:
        """Look at some of the nodes, in turn."""
        for node_id in self._some():
            node = self._board.nodes[node_id]
            self._round.append(node_id)
            if node.loading and now - node.load_began_at > LOAD_TIMEOUT_S:
                for digest in node.loading:
                    self._board.lose_model(node, digest)
            self._tidy(node, now)
            self.settle(node, now)

    def load_for(self, job: Job, now: float) -> Node | None:
        """Have an idle trusted node load the model of a job that nobody could take."""
        digest = job.spec.digest
        model = self._board.models[digest]
        if self._references is None or not self._references.has(digest):
            return None  # nobody could be calibrated
        for node_id in itertools.islice(self._round, REVIEWED):
            node = self._board.nodes.get(node_id)
            if (
                node is not None
                and node.level == "trusted"
                and within(node.region, job.spec.rules.region)
                and not node.attempts
                and not node.loading
                and digest not in node.speeds
                and digest not in node.lost
                and node.slots
                and self._fits(node, model)
                and now + router.cold_load_s(node, model) < job.deadline_at
            ):
                self._load(node, digest, now, begun=True)
                return node
        return None

    def _some(self) -> list[NodeId]:
        found: list[NodeId] = []
        for _ in range(min(_LOOKED_THROUGH, len(self._round))):
            node_id = self._round.popleft()
            if node_id in self._board.nodes:
                found.append(node_id)
                if len(found) >= REVIEWED:
                    break
            else:
                self._in_round.discard(node_id)
        return found

    def _load(self, node: Node, digest: ModelDigest, now: float, *, begun: bool = False) -> None:
        self._board.loading(node, digest, now=now, begun=begun)
        self._board.effects.append(fx.LoadModel(node.node_id, digest))

    def _wanted(self, node: Node, now: float) -> ModelDigest | None:
        """Return the model that the node should load next, or None."""
        best: tuple[float, float, int, ModelDigest] | None = None
        for number, (digest, model) in enumerate(self._board.models.items()):
            if digest in node.speeds or digest in node.lost or not self._fits(node, model):
                continue
            cached = digest in node.cached
            first = not node.speeds
            if node.data_saver and not cached and not (first and not node.cached):
                continue
            short = self._shortage(digest, now)
            if short <= 0.0 and not first:
                continue
            # What is on its disk costs nothing; then what is needed most.
            asked = self.demand[digest].rate(now)
            rank = (-math.inf if cached else -short, -asked, number, digest)
            if best is None or rank < best:
                best = rank
        return None if best is None else best[3]

    def _shortage(self, digest: ModelDigest, now: float) -> float:
        """Return how much a further replica is needed; 0 or less when it is not."""
        fleet = self._board.index.fleets[digest]
        replicas = len(fleet.ready) + len(fleet.loading)
        if replicas < MIN_REPLICAS:
            return 1.0 + (MIN_REPLICAS - replicas) / MIN_REPLICAS
        if now - self.demand[digest].last_at > UNUSED_S:
            return 0.0
        asked = self.demand[digest].rate(now) * HEADROOM
        return 0.0 if asked <= 0.0 else 1.0 - fleet.supply_tokens_per_s / asked

    def _fits(self, node: Node, model: ModelSpec) -> bool:
        memory_mb = _UNKNOWN_MEMORY_MB if node.memory_mb is None else node.memory_mb
        if node.memory_mb is not None and memory_mb < model.min_memory_mb:
            return False
        if not node.speeds:
            return True
        held = sum(_footprint_mb(self._board.models[digest]) for digest in node.speeds)
        return held + _footprint_mb(model) <= memory_mb * _MEMORY_SHARE

    def _tidy(self, node: Node, now: float) -> None:
        """Unload one model that nobody asks for and enough others have."""
        if node.trusted or node.attempts or node.loading or len(node.speeds) < 2:
            return
        since = self._joined_first_at or 0.0
        for digest in node.speeds:
            unused_s = now - max(self.demand[digest].last_at, since)
            if unused_s > UNUSED_S and len(self._board.index.fleets[digest].ready) > MIN_REPLICAS:
                self._board.lose_model(node, digest, unloaded=True)
                self._board.changed(node, now)
                self._board.effects.append(fx.UnloadModel(node.node_id, digest))
                return


def _footprint_mb(model: ModelSpec) -> float:
    return 2 * model.size_bytes / 1e6
