"""Which nodes could take a job of a model now, found without a scan: the fleet's indexes.

For each model every edge node that is ready for it is in one group: ``open``, or why it is not. The
open ones are kept in steps of the expected finish time of a standard job, one set for the trusted
and one for newcomers, and one more for each region that some project asks for.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Final, Literal

from browser_node.protocol import ModelDigest, NodeId
from orchestrator.domain.model import ModelSpec, Node, Speed

Tier = Literal["trusted", "newcomer"]

# A node without a measured round trip or a known place is taken to be a continent away.
UNKNOWN_RTT_S: Final = 0.15
PENALTY_PER_FAILURE_S: Final = 0.5
# Outstanding work per node: two micro-batches of 250 ms, so that one is computing while one waits.
WINDOW_S: Final = 0.5
# In the background a node holds a part of that, beside what it computes during a round trip: as it
# makes way for all else, more would only be lost with the node.
BACKGROUND_S: Final = WINDOW_S / 5
# What a node in the background has begun is waited for: one short micro-batch (`executor`).
BACKGROUND_RUN_S: Final = 0.01
BACKGROUND_RUN_TOKENS: Final = 64
STANDARD_TOKENS: Final = 64
# Each step is a quarter slower than the one before it.
_STEP: Final = math.log(1.25)
_floor_of: Final = itemgetter(0)


def rtt_s(node: Node) -> float:
    """Return the node's round trip: measured, else guessed from its place, else a continent's."""
    if node.rtt_s is not None:
        return node.rtt_s
    return UNKNOWN_RTT_S if node.rtt_guess_s is None else node.rtt_guess_s


def ahead_tokens(node: Node, tokens_per_s: float) -> float:
    """Return the tokens that ``node`` computes before those of an interactive job."""
    background = node.background_tokens
    if not background:
        return node.outstanding_tokens
    begun = max(BACKGROUND_RUN_TOKENS, tokens_per_s * BACKGROUND_RUN_S)
    return node.outstanding_tokens - background + min(background, begun)


def is_full(node: Node, tokens_per_s: float, *, tokens: int = 0) -> bool:
    """Whether interactive work fills the node's window, or would with a job of ``tokens`` more.

    One job may always be there, however long it is.
    """
    if node.outstanding_tokens == node.background_tokens:
        return False
    ahead, window = ahead_tokens(node, tokens_per_s), tokens_per_s * WINDOW_S
    return ahead + tokens > window if tokens else ahead >= window


def has_background_room(node: Node, tokens_per_s: float, *, tokens: int) -> bool:
    """Whether a node with a free slot may hold a job of ``tokens`` more in the background.

    No more than half of its slots hold; at least two jobs, so that one is computed while one waits.
    """
    if node.background >= max(node.slots // 2, 1):
        return False
    if node.background < 2:
        return True
    share = tokens_per_s * min(BACKGROUND_S + rtt_s(node), WINDOW_S)
    return node.background_tokens + tokens <= share


def guessed_rtt_s(distance_km: float | None) -> float | None:
    """Return the round trip that a distance suggests.

    Light takes 1 ms for 100 km of fibre and back; cables run half as long again as the crow flies,
    and the last mile costs 20 ms.
    """
    return None if distance_km is None else 0.02 + distance_km * 1.5e-5


def floor_s(step: int) -> float:
    """Return the least expected finish time of a standard job in a step."""
    return math.exp(step * _STEP)


class OpenSet:
    """Nodes with room for one model, by step; adding and removing take constant time.

    ``in_order`` has the nodes of each step behind its least expected finish time in seconds.
    """

    __slots__ = ("_at", "_steps", "in_order")

    def __init__(self) -> None:
        self._steps: dict[int, list[Node]] = {}
        self.in_order: list[tuple[float, list[Node]]] = []
        self._at: dict[NodeId, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._at

    def __iter__(self) -> Iterator[Node]:
        for _, nodes in self.in_order:
            yield from nodes

    def any(self, rng: random.Random) -> Node:
        """Return a random node, whatever its step; there must be one."""
        at = int(rng.random() * len(self._at))
        for nodes in self._steps.values():
            if at < len(nodes):
                return nodes[at]
            at -= len(nodes)
        raise IndexError("no node is open")

    def add(self, node: Node, step: int) -> None:
        nodes = self._steps.get(step)
        if nodes is None:
            nodes = self._steps[step] = []
            insort(self.in_order, (floor_s(step), nodes), key=_floor_of)
        self._at[node.node_id] = (step, len(nodes))
        nodes.append(node)

    def discard(self, node: Node) -> None:
        found = self._at.pop(node.node_id, None)
        if found is None:
            return
        step, position = found
        nodes = self._steps[step]
        last = nodes.pop()
        if last is not node:
            nodes[position] = last
            self._at[last.node_id] = (step, position)
        if not nodes:
            del self._steps[step]
            del self.in_order[bisect_left(self.in_order, floor_s(step), key=_floor_of)]


class Fleet:
    """The nodes of one model."""

    __slots__ = (
        "_passed_over", "busy", "groups", "late", "loading", "open", "ready", "supply_tokens_per_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ready: dict[NodeId, Node] = {}
        self.loading: dict[NodeId, Node] = {}
        self.groups: dict[str, int] = {}
        # What `passed_over` returned last, until a node changes its group.
        self._passed_over: Mapping[str, int] | None = None
        self.open: dict[tuple[Tier, str], OpenSet] = {
            ("trusted", ""): OpenSet(),
            ("newcomer", ""): OpenSet(),
        }
        # Trusted nodes that will have room again.
        self.busy = OpenSet()
        # Trusted nodes that will if they have not stalled: no forecast counts on them.
        self.late: dict[NodeId, Node] = {}
        # What trusted nodes that are working or could work would do together.
        self.supply_tokens_per_s = 0.0

    def passed_over(self) -> Mapping[str, int]:
        """Return how many nodes are in each group but the open one; what is returned stays so."""
        if self._passed_over is None:
            self._passed_over = {g: count for g, count in self.groups.items() if g != "open"}
        return self._passed_over

    def count(self, *, left: str, joined: str) -> None:
        """Count a node that goes from one group to another; either may be empty for none."""
        if left == joined:
            return
        self._passed_over = None
        if left:
            self.groups[left] -= 1
            if not self.groups[left]:
                del self.groups[left]
        if joined:
            self.groups[joined] = self.groups.get(joined, 0) + 1


class Index:
    """Keeps every node in the group it belongs to; `update` after anything about a node changed."""

    def __init__(self, models: Mapping[ModelDigest, ModelSpec]) -> None:
        self.fleets: dict[ModelDigest, Fleet] = {digest: Fleet() for digest in models}
        self._needed_mb = {digest: model.min_memory_mb for digest, model in models.items()}
        self.edge_nodes = 0
        self._memory_mb: dict[int, int] = {}
        # Where the CPU worker is away, nobody is left out for failing: it might be the last one.
        self.forgiving = False

    def open_set(self, digest: ModelDigest, tier: Tier, region: str = "") -> OpenSet:
        """Return the open nodes of a tier, within a region if one is named."""
        sets = self.fleets[digest].open
        found = sets.get((tier, region))
        if found is None:
            found = sets[tier, region] = OpenSet()
            for node in sets[tier, ""]:
                if within(node.region, region):
                    found.add(node, node.speeds[digest].step)
        return found

    # ── changes ──────────────────────────────────────────────────────────────────────────────────

    def join(self, node: Node) -> None:
        self.edge_nodes += 1
        if node.memory_mb is not None:
            self._memory_mb[node.memory_mb] = self._memory_mb.get(node.memory_mb, 0) + 1

    def leave(self, node: Node) -> None:
        self.edge_nodes -= 1
        if node.memory_mb is not None:
            self._memory_mb[node.memory_mb] -= 1
            if not self._memory_mb[node.memory_mb]:
                del self._memory_mb[node.memory_mb]
        for digest in node.loading:
            self.fleets[digest].loading.pop(node.node_id, None)
        for digest in list(node.speeds):
            self.drop(node, digest)

    def host(self, node: Node, digest: ModelDigest) -> None:
        """The node is ready for a model; its speed is in ``node.speeds``."""
        self.fleets[digest].ready[node.node_id] = node

    def drop(self, node: Node, digest: ModelDigest) -> None:
        """The node has a model no more; called while its speed is still in ``node.speeds``."""
        fleet = self.fleets[digest]
        if fleet.ready.pop(node.node_id, None) is not None:
            self._regroup(fleet, node, node.speeds[digest], group="")

    def update(self, node: Node, now: float) -> None:
        """Put the node where it belongs; cheap when nothing changed."""
        whole = self._group(node, now)
        tier: Tier = "trusted" if node.level == "trusted" else "newcomer"
        outstanding = node.outstanding_tokens
        for digest, speed in node.speeds.items():
            group = whole
            if node.memory_mb is not None and node.memory_mb < self._needed_mb[digest]:
                group = "no_memory"
            elif not group:
                full = outstanding >= speed.tokens_per_s * WINDOW_S
                # The first says no most times, and costs no call.
                group = "busy" if full and is_full(node, speed.tokens_per_s) else "open"
            if group == "open":
                step = _step(node, speed)
                if speed.group == "open" and speed.step == step and speed.tier == tier:
                    continue
                self._regroup(self.fleets[digest], node, speed, group=group, tier=tier, step=step)
            elif speed.group != group or speed.tier != tier:
                self._regroup(
                    self.fleets[digest], node, speed, group=group, tier=tier, step=speed.step
                )

    def took(self, node: Node, now: float) -> None:
        """The node was given work, and nothing else about it has changed since `update`.

        The same as `update`, which is needed only where the work is as much as the node may have.
        """
        outstanding = node.outstanding_tokens
        if node.alone or len(node.attempts) >= node.slots:
            self.update(node, now)
            return
        for speed in node.speeds.values():
            if (
                outstanding >= speed.tokens_per_s * WINDOW_S
                and speed.group == "open"
                and is_full(node, speed.tokens_per_s)
            ):
                self.update(node, now)
                return

    def _group(self, node: Node, now: float) -> str:
        """Return why the node takes nothing at all, or nothing."""
        if node.draining or node.state == "draining":
            return "draining"
        if node.level in ("quarantined", "banned"):
            return "quarantined"
        if node.stale:
            return "silent"
        if node.state in ("paused", "hidden"):
            return node.state
        if not node.slots:
            return "no_slots"
        if node.retry_at > now and not self.forgiving:
            return "backing_off"
        if node.late or node.owing:
            return "late"
        if node.alone or len(node.attempts) >= node.slots:
            return "busy"
        return ""

    def _regroup(
        self, fleet: Fleet, node: Node, speed: Speed, *, group: str, tier: str = "", step: int = 0
    ) -> None:
        fleet.count(left=speed.group, joined=group)
        if speed.group == "open":
            for (of_tier, _), nodes in fleet.open.items():
                if of_tier == speed.tier:
                    nodes.discard(node)
        elif speed.group == "busy":
            fleet.busy.discard(node)
        elif speed.group == "late":
            fleet.late.pop(node.node_id, None)
        fleet.supply_tokens_per_s -= speed.supply
        speed.group, speed.tier, speed.step, speed.supply = group, tier, step, 0.0
        if group == "open":
            for (of_tier, region), nodes in fleet.open.items():
                if of_tier == tier and (not region or within(node.region, region)):
                    nodes.add(node, step)
        elif group == "busy" and tier == "trusted":
            fleet.busy.add(node, 0)
        elif group == "late" and tier == "trusted":
            fleet.late[node.node_id] = node
        if tier == "trusted" and group in ("open", "busy"):
            speed.supply = speed.tokens_per_s
            fleet.supply_tokens_per_s += speed.supply

    # ── questions ────────────────────────────────────────────────────────────────────────────────

    def skipped(self, digest: ModelDigest, *, min_memory_mb: int) -> dict[str, int]:
        """Return, for a job that nobody can take, how many nodes are in each group."""
        fleet = self.fleets[digest]
        found = dict(fleet.passed_over())
        newcomers = len(fleet.open["newcomer", ""])
        if newcomers:
            found["newcomer"] = newcomers
        if fleet.loading:
            found["loading"] = len(fleet.loading)
        small = sum(n for memory_mb, n in self._memory_mb.items() if memory_mb < min_memory_mb)
        if small:
            found["no_memory"] = small
        loadless = small - fleet.groups.get("no_memory", 0)
        other = self.edge_nodes - len(fleet.ready) - len(fleet.loading) - loadless
        if other > 0:
            found["not_loaded"] = other
        return found


def within(region: str, wanted: str) -> bool:
    """Whether a node's region ("EU-DE") lies in the wanted one ("EU", "EU-DE" or anywhere)."""
    return not wanted or region == wanted or region.startswith(f"{wanted}-")


def _step(node: Node, speed: Speed) -> int:
    finish_s = (
        rtt_s(node)
        + speed.overhead_s
        + STANDARD_TOKENS / speed.tokens_per_s
        + node.consecutive_failures * PENALTY_PER_FAILURE_S
    )
    return math.floor(math.log(finish_s) / _STEP)
