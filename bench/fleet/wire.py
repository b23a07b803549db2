"""A socket in virtual time: frames arrive in order, half a round trip later, or never."""

from __future__ import annotations

import random
from typing import Protocol

import msgspec

from bench.fleet.loop import Loop
from browser_node import protocol as p
from orchestrator.domain.node_session import NodeSession

# The same bytes as `protocol.encode` (a test holds it to that) in a quarter of the time.
encode = msgspec.msgpack.Encoder().encode

CLOSE_SEEN_S = 0.02


class Server(Protocol):
    """The orchestrator's end."""

    def receive(self, wire: Wire, frame: bytes) -> None: ...
    def disconnected(self, wire: Wire, reason: str) -> None: ...


class Peer(Protocol):
    """The node's end."""

    def arrive(self, wire: Wire, frame: bytes) -> None: ...
    def closed(self, wire: Wire, code: int) -> None: ...


class Wire:
    """One connection. ``up`` is towards the orchestrator."""

    __slots__ = (
        "_down_at",
        "_loop",
        "_loss",
        "_rng",
        "_rtt_s",
        "_up_at",
        "at_node",
        "at_server",
        "frames",
        "peer",
        "server",
        "session",
    )

    def __init__(
        self,
        *,
        loop: Loop,
        rng: random.Random,
        rtt_s: float,
        loss: float,
        server: Server,
        peer: Peer,
        session: NodeSession,
    ) -> None:
        self._loop, self._rng, self._rtt_s, self._loss = loop, rng, rtt_s, loss
        self.server, self.peer, self.session = server, peer, session
        self.at_node = self.at_server = True
        """Whether each end still takes the connection for open."""
        self.frames = 0
        self._up_at = self._down_at = 0.0

    def up(self, frame: p.Frame) -> None:
        """Send a node's frame."""
        if not self.at_node or self._lost():
            return
        # Ordered as TCP orders: a frame never overtakes the one before.
        self._up_at = max(self._up_at, self._loop.now + self._delay_s())
        self._loop.at(self._up_at, self._rise, encode(frame))

    def down(self, frame: p.Frame) -> None:
        """Send an orchestrator's frame."""
        if not self.at_server or self._lost():
            return
        self._down_at = max(self._down_at, self._loop.now + self._delay_s())
        self._loop.at(self._down_at, self._fall, encode(frame))

    def leave(self, *, silently: bool = False) -> None:
        """The node's end goes: what it sent before still arrives, and nobody sees a silent end."""
        if self.at_node:
            self.at_node = False
            if not silently:
                seen_at = max(self._up_at, self._loop.now + CLOSE_SEEN_S + self._rtt_s / 2)
                self._loop.at(seen_at, self._seen)

    def shut(self, code: int) -> None:
        """The orchestrator's end goes."""
        if self.at_server:
            self.at_server = False
            self._loop.after(self._rtt_s / 2, self._told, code)

    def _lost(self) -> bool:
        lossy = self._loss and self.session.state == "serving"
        return bool(lossy and self._rng.random() < self._loss)

    def _delay_s(self) -> float:
        return self._rtt_s * (0.5 + 0.15 * self._rng.random())

    def _rise(self, data: bytes) -> None:
        if self.at_server:
            self.server.receive(self, data)

    def _fall(self, data: bytes) -> None:
        if self.at_node:
            self.peer.arrive(self, data)

    def _seen(self) -> None:
        if self.at_server:
            self.at_server = False
            self.server.disconnected(self, "closed")

    def _told(self, code: int) -> None:
        if self.at_node:
            self.at_node = False
            self.peer.closed(self, code)
