"""What is different between two looks at the fleet."""

from __future__ import annotations

import msgspec

from orchestrator.console.feed import (
    SharedFleet,
    change,
    change_frame,
    newest,
    snapshot_frame,
)
from orchestrator.domain.fleet import (
    FleetEvent,
    FleetSnapshot,
    ModelRow,
    NodeRow,
    ProjectRow,
    Totals,
)

IDLE = NodeRow(id="n_1", kind="browser", backend="wasm", state="active")
BUSY = msgspec.structs.replace(IDLE, slots_used=1)
OTHER = NodeRow(id="n_2", kind="native", backend="onnxruntime", state="paused")


def at(seconds: float, *rows: NodeRow, events: int = 0) -> FleetSnapshot:
    happened = tuple(
        FleetEvent(seq=seq, at=0.0, kind="joined", text=f"event {seq}")
        for seq in range(1, events + 1)
    )
    return FleetSnapshot(at=seconds, totals=Totals(), nodes=rows, events=happened)


def test_only_rows_that_changed_are_named() -> None:
    assert change(at(1, IDLE, OTHER), at(2, BUSY, OTHER)).nodes == (BUSY,)


def test_the_passing_of_time_changes_no_row() -> None:
    older = msgspec.structs.replace(IDLE, connected_s=60.0)

    assert change(at(1, IDLE), at(2, older)).nodes == ()


def test_a_newcomer_is_a_change_and_a_leaver_is_gone() -> None:
    difference = change(at(1, IDLE), at(2, OTHER))

    assert (difference.nodes, difference.gone) == ((OTHER,), ("n_1",))


def test_only_new_events_are_told() -> None:
    difference = change(at(1, events=2), at(2, events=4))

    assert [event.seq for event in difference.events] == [3, 4]


def test_nothing_has_happened_before_the_first_event() -> None:
    assert newest(at(1)) == 0
    assert change(at(1), at(2, events=1)).events[0].seq == 1


def test_a_frame_is_one_event_of_one_line() -> None:
    frame = snapshot_frame(at(1, IDLE, events=1), epoch="e", last_event_id=None)

    lines = frame.decode().split("\n")
    assert lines[:2] == ["event: snapshot", "id: e-1"]
    assert lines[3:] == ["", ""]
    body = msgspec.json.decode(lines[2].removeprefix("data: "), type=FleetSnapshot)
    assert body == at(1, IDLE, events=1)


def test_many_operators_cost_one_look_a_second() -> None:
    now = 0.0
    looks = 0

    def look() -> FleetSnapshot:
        nonlocal looks
        looks += 1
        return at(now)

    shared = SharedFleet(look, monotonic=lambda: now, max_age_s=0.9)
    first, second = shared.get(), shared.get()
    now = 0.9
    third = shared.get()

    assert (first, looks) == (second, 2)
    assert third.at == 0.9


def test_a_node_that_is_no_longer_listed_is_gone_for_the_page() -> None:
    difference = change(at(1, IDLE, OTHER), at(2, OTHER))

    assert (difference.nodes, difference.gone) == ((), (IDLE.id,))


MODEL = ModelRow(id="all-minilm-l6-v2", ready=2)
PROJECT = ProjectRow(id="prj_1", queued=4)


def test_models_and_projects_are_sent_again_only_when_they_changed() -> None:
    before = msgspec.structs.replace(at(1), models=(MODEL,), projects=(PROJECT,))
    queued = msgspec.structs.replace(PROJECT, queued=5)
    after = msgspec.structs.replace(before, projects=(PROJECT, queued))

    frame = change_frame(before, after, epoch="e").decode()

    body = msgspec.json.decode(frame.split("data: ")[1])
    assert "models" not in body
    assert [row["queued"] for row in body["projects"]] == [4, 5]
