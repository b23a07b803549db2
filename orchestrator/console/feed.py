"""The fleet as a stream of server-sent events: a snapshot first, then once a second what changed.

    event: snapshot   {at, totals, nodes, events: those not seen yet, models, projects}
    event: change     {at, totals, nodes: rows that changed, gone: ids, events: new ones,
                       models and projects: all of them, where any of them changed}
    event: closing    {}   the server is going down; come back
    event: signed-out {}   the session has ended; do not come back

The id of an event is ``<epoch>-<seq of the newest fleet event>``; sent back as Last-Event-ID it
spares the client the events it has. The epoch is this server start: sequence numbers begin anew.

Of a large fleet the source gives the rows that matter; ``totals`` count all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from orchestrator.domain.fleet import (
    FleetEvent,
    FleetSnapshot,
    ModelRow,
    NodeRow,
    ProjectRow,
    Totals,
)

CLOSING: Final = b"event: closing\ndata: {}\n\n"
SIGNED_OUT: Final = b"event: signed-out\ndata: {}\n\n"
# A lost connection is tried again after this time.
RETRY: Final = b"retry: 2000\n\n"


class Change(msgspec.Struct, frozen=True):
    """What is different between two snapshots; left out is what would be the same."""

    at: float
    totals: Totals
    nodes: tuple[NodeRow, ...]
    gone: tuple[str, ...]
    events: tuple[FleetEvent, ...]
    models: tuple[ModelRow, ...] | msgspec.UnsetType = msgspec.UNSET
    projects: tuple[ProjectRow, ...] | msgspec.UnsetType = msgspec.UNSET


def change(before: FleetSnapshot, after: FleetSnapshot) -> Change:
    """Compare two snapshots of one server; the passing of time alone changes no row."""
    old = {row.id: _timeless(row) for row in before.nodes}
    new = {row.id for row in after.nodes}
    return Change(
        at=after.at,
        totals=after.totals,
        nodes=tuple(row for row in after.nodes if old.get(row.id) != _timeless(row)),
        gone=tuple(node_id for node_id in old if node_id not in new),
        events=_after(after, newest(before)),
        models=msgspec.UNSET if after.models == before.models else after.models,
        projects=msgspec.UNSET if after.projects == before.projects else after.projects,
    )


def newest(snapshot: FleetSnapshot) -> int:
    """Return the sequence number of the latest event; 0 when nothing has happened yet."""
    return snapshot.events[-1].seq if snapshot.events else 0


def snapshot_frame(snapshot: FleetSnapshot, *, epoch: str, last_event_id: str | None) -> bytes:
    """Return the first frame for a client, without the events it says it has."""
    seen_epoch, _, seen = (last_event_id or "").rpartition("-")
    known = int(seen) if seen_epoch == epoch and seen.isascii() and seen.isdigit() else 0
    fresh = msgspec.structs.replace(snapshot, events=_after(snapshot, known))
    return _frame("snapshot", fresh, f"{epoch}-{newest(snapshot)}")


def change_frame(before: FleetSnapshot, after: FleetSnapshot, *, epoch: str) -> bytes:
    """Return the frame that takes a client from one snapshot to the next."""
    return _frame("change", change(before, after), f"{epoch}-{newest(after)}")


class SharedFleet:
    """Asks ``source`` at most once per ``max_age_s``, however many operators watch."""

    def __init__(
        self,
        source: Callable[[], FleetSnapshot],
        *,
        monotonic: Callable[[], float],
        max_age_s: float,
    ) -> None:
        self._source = source
        self._monotonic = monotonic
        self._max_age_s = max_age_s
        self._held: tuple[float, FleetSnapshot] | None = None

    def get(self) -> FleetSnapshot:
        now = self._monotonic()
        if self._held is None or now - self._held[0] >= self._max_age_s:
            self._held = (now, self._source())
        return self._held[1]


def _timeless(row: NodeRow) -> NodeRow:
    return msgspec.structs.replace(row, connected_s=0.0)


def _after(snapshot: FleetSnapshot, seq: int) -> tuple[FleetEvent, ...]:
    return tuple(event for event in snapshot.events if event.seq > seq)


def _frame(event: str, body: FleetSnapshot | Change, event_id: str) -> bytes:
    # JSON has no line breaks of its own, so one data line holds it.
    return b"event: %b\nid: %b\ndata: %b\n\n" % (
        event.encode(),
        event_id.encode(),
        msgspec.json.encode(body),
    )
