"""What the laws know: nodes, open jobs and attempts, from what went over the wires alone."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

import msgspec

from bench.fleet.behaviours import Conduct
from browser_node.protocol import AttemptId, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.board import Board, Counters
from orchestrator.domain.model import NewJob
from orchestrator.domain.trust import Identity, RuntimeClass

REMEMBERED: Final = 40_000

Key = tuple[Identity, RuntimeClass]
_K = TypeVar("_K")
_V = TypeVar("_V")


class Decider(Protocol):
    """A scheduler, or one with a bug planted in it."""

    @property
    def board(self) -> Board: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def queued(self) -> int: ...
    @property
    def running(self) -> int: ...
    def handle(self, event: ev.Event, *, now: float) -> list[fx.Effect]: ...
    def next_wakeup(self) -> float | None: ...


class Peer(msgspec.Struct):
    """A node, for good: what is found out of one that left may matter."""

    node_id: NodeId
    key: Key
    cpu: bool
    region: str
    behaviour: str
    conduct: Conduct
    here: bool = True
    slots: int = 0
    held: set[AttemptId] = msgspec.field(default_factory=set)

    def leave(self) -> None:
        self.here = False
        self.slots = 0
        self.held.clear()


class Record(msgspec.Struct):
    """A job that has not ended. ``due_at`` is in the loop's time, ``clock_due_at`` in the
    orchestrator's, which may have jumped ahead."""

    job: NewJob
    due_at: float
    clock_due_at: float
    sent: int = 0
    results: list[tuple[NodeId, bytes]] = msgspec.field(default_factory=list)
    agreed: set[bytes] = msgspec.field(default_factory=set)


class Given(msgspec.Struct):
    """An attempt as it was sent."""

    node_id: NodeId
    text: str
    record: Record | None


class Recent(Generic[_K, _V]):
    """A mapping that forgets what is older than its last few ten thousand entries."""

    def __init__(self) -> None:
        self._new: dict[_K, _V] = {}
        self._old: dict[_K, _V] = {}

    def put(self, key: _K, value: _V) -> None:
        self._new[key] = value
        if len(self._new) >= REMEMBERED:
            self._old, self._new = self._new, {}

    def get(self, key: _K) -> _V | None:
        found = self._new.get(key)
        return self._old.get(key) if found is None else found
