"""The records of identities, while this process knows them: looked up, kept, acted on.

Connections of one identity and runtime class share a record. What is learnt while it is being
looked up elsewhere counts; what an operator says holds whatever the lookup brings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from browser_node.protocol import ModelDigest
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import trust
from orchestrator.domain.board import Board
from orchestrator.domain.model import Node
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing

STANDINGS_KEPT: Final = 10_000
# One is added at a time; more are looked at, as some are of nodes that are here.
_FORGOTTEN_AT_ONCE: Final = 8

Key = tuple[Identity, RuntimeClass]
# One for all: an empty set of its own would be a tenth of a node's memory.
_NOTHING: Final[frozenset[int]] = frozenset()


class Habits(msgspec.Struct):
    """What a reconnect must not clear: back-off, an operator's drain, how fast the node really is.

    ``speeds`` are measured tokens per second by model.
    """

    failures: int = 0
    retry_at: float = 0.0
    draining: bool = False
    speeds: dict[ModelDigest, float] = msgspec.field(default_factory=dict)


class Records:
    def __init__(self, board: Board, *, policy: Policy) -> None:
        self._board = board
        self.policy = policy
        self.standings: OrderedDict[Key, Standing] = OrderedDict()
        self._recalled: set[Key] = set()
        self._habits: dict[Key, Habits] = {}
        # A ban is on a key, whatever runtime it says it has.
        self._banned: set[Identity] = set()
        # Released here: what was read of a ban before that is out of date.
        self._freed: set[Identity] = set()
        # Told when a node may be believed no more, and when one may have something to show.
        self.on_distrusted: Callable[[Node, float], None] = lambda node, now: None
        self.on_news: Callable[[Node, float], None] = lambda node, now: None

    def join(self, identity: Identity, runtime: RuntimeClass) -> tuple[Standing, bool]:
        """Return the record of an identity, and whether it is complete or being looked up."""
        key = (identity, runtime)
        standing = self.standings.get(key)
        if standing is None:
            standing = self.standings[key] = Standing(identity, runtime)
            self._forget_some()
        self.standings.move_to_end(key)
        if key not in self._recalled and identity:
            self._board.effects.append(fx.RecallStanding(identity, runtime))
        return standing, key in self._recalled or not identity

    def remember(self, node: Node) -> None:
        """A node has gone: keep how it behaved."""
        if node.standing.identity:
            habits = self._habits.setdefault(_key(node.standing), Habits())
            habits.failures, habits.retry_at = node.consecutive_failures, node.retry_at
            habits.draining = node.draining
            for digest, speed in node.speeds.items():
                if speed.samples:
                    habits.speeds[digest] = speed.tokens_per_s

    def resume(self, node: Node) -> None:
        """A node is here (again): it is treated as it was when it went."""
        habits = self._habits.get(_key(node.standing))
        if habits is not None:
            node.consecutive_failures, node.retry_at = habits.failures, habits.retry_at
            node.draining = habits.draining
        if node.standing.identity in self._banned:
            node.standing.banned = True

    def believable(self, node: Node, digest: ModelDigest, tokens_per_s: float) -> float:
        """Return a claimed speed, or twice what was measured of the node before if that is less."""
        habits = self._habits.get(_key(node.standing))
        known = None if habits is None else habits.speeds.get(digest)
        return tokens_per_s if known is None else min(tokens_per_s, 2 * known)

    def recalled(self, event: ev.StandingRecalled, now: float) -> None:
        """Take over what the records say, unless something was learnt meanwhile."""
        key = (event.identity, event.runtime)
        standing = self.standings.get(key)
        if standing is None or key in self._recalled:
            return
        self._recalled.add(key)
        if event.standing is not None:
            # What an operator said while the record was being looked up holds.
            quarantined, banned, reason = standing.quarantined, standing.banned, standing.reason
            _copy(event.standing, standing)
            standing.quarantined |= quarantined
            standing.banned |= banned
            standing.reason = reason or standing.reason
            if standing.identity in self._freed:
                standing.banned = banned
        if standing.banned:
            self._ban(standing.identity, now)
        for node in list(self._board.nodes_of(standing)):
            node.recalled = True
            self.relevel(node, now)
            self.on_news(node, now)

    def ordered(self, event: ev.StandingOrdered, now: float) -> None:
        """Do what an operator says of an identity."""
        key = (event.identity, event.runtime)
        standing = self.standings.get(key)
        if standing is None:
            standing = self.standings[key] = Standing(event.identity, event.runtime)
        if key not in self._recalled and event.standing is not None:
            _copy(event.standing, standing)
            self._recalled.add(key)
        before = trust.level(standing, self.policy)
        if event.order == "release":
            trust.release(standing)
            self._banned.discard(event.identity)
            self._freed.add(event.identity)
            for (identity, _), other in self.standings.items():
                if identity == event.identity:
                    other.banned = False
        elif event.order == "ban":
            standing.banned, standing.reason = True, "banned by an operator"
            self._banned.add(event.identity)
            self._freed.discard(event.identity)
        else:
            standing.quarantined, standing.reason = True, "quarantined by an operator"
        self.changed(standing, before, None, now)
        if standing.banned:
            self._ban(event.identity, now)
        for node in list(self._board.nodes_of(standing)):
            node.recalled = key in self._recalled
            self.on_news(node, now)

    def _ban(self, identity: Identity, now: float) -> None:
        """Show every connection of a banned key the door."""
        self._banned.add(identity)
        for node in list(self._board.sessions.get(identity, ())):
            node.standing.banned = True
            self.relevel(node, now)

    def relevel(self, node: Node, now: float) -> None:
        """Let the node be used as its record allows."""
        level = trust.level(node.standing, self.policy)
        if level == node.level:
            return
        before, node.level = node.level, level
        if level == "trusted":
            node.seen = _NOTHING
        self._board.changed(node, now)
        if before == "trusted" or level in ("quarantined", "banned"):
            self.on_distrusted(node, now)

    def erred(self, node: Node, now: float) -> None:
        """Count a failure that was the node's own."""
        before = trust.level(node.standing, self.policy)
        if node.standing.consecutive:
            trust.erred(node.standing)
            self.changed(node.standing, before, None, now)

    def changed(
        self, standing: Standing, before: trust.Level, evidence: fx.Evidence | None, now: float
    ) -> None:
        after = trust.level(standing, self.policy)
        copy = msgspec.structs.replace(standing)
        nodes = list(self._board.nodes_of(standing))
        node_id = nodes[0].node_id if nodes else None
        self._board.effects.append(fx.StandingChanged(copy, before, after, evidence, node_id))
        for node in nodes:
            self.relevel(node, now)

    def _forget_some(self) -> None:
        """Keep the records of who is here and of a number of others, the latest."""
        for _ in range(_FORGOTTEN_AT_ONCE):
            if len(self.standings) <= STANDINGS_KEPT + len(self._board.nodes):
                return
            key, standing = next(iter(self.standings.items()))
            if self._board.nodes_of(standing):
                self.standings.move_to_end(key)
            else:
                del self.standings[key]
                self._recalled.discard(key)
                self._habits.pop(key, None)


def _key(standing: Standing) -> Key:
    return standing.identity, standing.runtime


def _copy(source: Standing, target: Standing) -> None:
    for name in target.__struct_fields__:
        setattr(target, name, getattr(source, name))
