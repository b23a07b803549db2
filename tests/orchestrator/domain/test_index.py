"""The fleet's indexes: every node in one group, every open node in its step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from browser_node.protocol import AttemptId, NodeId
from orchestrator.domain import index as ix
from orchestrator.domain.index import Index, OpenSet, floor_s, guessed_rtt_s, rtt_s, within
from orchestrator.domain.model import Attempt, ModelSpec, Node, Speed
from orchestrator.domain.trust import Identity, Standing
from tests.orchestrator.domain.fleet_of import MODEL, OTHER, RUNTIME

SPECS = {
    MODEL: ModelSpec(MODEL, "model", 23_000_000, 512),
    OTHER: ModelSpec(OTHER, "other", 23_000_000, 2048),
}
ATTEMPT = Attempt(
    AttemptId("a"), None, NodeId("tab"), MODEL, 1, started_at=0.0, expected_s=1.0, lease_at=2.0,
    hard_at=2.0,
)  # fmt: skip


def node(name: str = "tab", *, speed: float = 1000.0, **changes: Any) -> Node:
    """Return a trusted node that could take a job now."""
    standing = Standing(Identity(name), RUNTIME)
    fields: dict[str, Any] = {
        "memory_mb": None, "joined_at": 0.0, "last_frame_at": 0.0, "standing": standing,
        "level": "trusted", "slots": 8, "rtt_s": 0.02, **changes,
    }  # fmt: skip
    return Node(NodeId(name), False, speeds={MODEL: Speed(speed)}, **fields)


def index_of(*nodes: Node) -> Index:
    index = Index(SPECS)
    for one in nodes:
        index.join(one)
        for digest in one.speeds:
            index.host(one, digest)
        index.update(one, now=0.0)
    return index


def ids(nodes: OpenSet) -> set[str]:
    return {one.node_id for one in nodes}


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "group"),
    [
        ({}, "open"),
        ({"draining": True}, "draining"),
        ({"state": "draining"}, "draining"),
        ({"level": "quarantined"}, "quarantined"),
        ({"level": "banned"}, "quarantined"),
        ({"stale": True}, "silent"),
        ({"state": "paused"}, "paused"),
        ({"state": "hidden"}, "hidden"),
        ({"state": "throttled"}, "open"),
        ({"slots": 0}, "no_slots"),
        ({"late": True}, "late"),
        ({"retry_at": 5.0}, "backing_off"),
        ({"retry_at": 0.0}, "open"),
        ({"alone": True}, "busy"),
        ({"outstanding_tokens": 499}, "open"),
        ({"outstanding_tokens": 500}, "busy"),
        ({"memory_mb": 511}, "no_memory"),
        ({"memory_mb": 512}, "open"),
    ],
    ids=str,
)
def test_a_node_is_in_the_group_that_says_why_it_takes_nothing(
    changes: dict[str, Any], group: str
) -> None:
    index = index_of(node(**changes))

    assert index.fleets[MODEL].groups == {group: 1}
    assert len(index.open_set(MODEL, "trusted")) == (group == "open")


def test_whom_a_search_passes_over_is_said_once_and_stays_said() -> None:
    one, other = node("a"), node("b")
    index = index_of(one, other, node("c", stale=True))
    fleet = index.fleets[MODEL]
    before = fleet.passed_over()
    one.stale = other.late = True
    for changed in (one, other):
        index.update(changed, now=0.0)

    assert before == {"silent": 1}
    assert fleet.passed_over() == {"silent": 2, "late": 1}
    assert fleet.passed_over() is fleet.passed_over()


def test_without_a_cpu_worker_nobody_is_left_out_for_failing() -> None:
    index = index_of()
    index.forgiving = True
    failing = node(retry_at=5.0)
    index.join(failing)
    index.host(failing, MODEL)
    index.update(failing, now=0.0)

    assert index.fleets[MODEL].groups == {"open": 1}


def test_newcomers_are_kept_apart_from_the_trusted() -> None:
    index = index_of(node("a"), node("b", level="newcomer"))

    assert ids(index.open_set(MODEL, "trusted")) == {"a"}
    assert ids(index.open_set(MODEL, "newcomer")) == {"b"}


def test_a_node_that_earns_trust_moves_over() -> None:
    one = node(level="newcomer")
    index = index_of(one)
    one.level = "trusted"
    index.update(one, now=0.0)

    assert ids(index.open_set(MODEL, "trusted")) == {"tab"}
    assert ids(index.open_set(MODEL, "newcomer")) == set()


def test_a_node_that_leaves_leaves_nothing_behind() -> None:
    one = node(region="EU-DE", memory_mb=4000)
    index = index_of(one)
    index.open_set(MODEL, "trusted", "EU")
    index.leave(one)

    fleet = index.fleets[MODEL]
    assert (fleet.ready, fleet.groups, fleet.supply_tokens_per_s) == ({}, {}, 0.0)
    assert not any(len(nodes) for nodes in fleet.open.values())
    assert index.skipped(MODEL, min_memory_mb=9999) == {}


def test_busy_newcomers_are_nobody_to_wait_for() -> None:
    index = index_of(
        node("a", outstanding_tokens=900), node("b", outstanding_tokens=900, level="newcomer")
    )

    assert ids(index.fleets[MODEL].busy) == {"a"}


def test_supply_is_what_trusted_nodes_at_work_could_do() -> None:
    index = index_of(
        node("open", speed=100.0),
        node("busy", speed=200.0, outstanding_tokens=900),
        node("hidden", speed=400.0, state="hidden"),
        node("newcomer", speed=800.0, level="newcomer"),
    )

    assert index.fleets[MODEL].supply_tokens_per_s == 300.0


# ── regions ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("region", "wanted", "inside"),
    [
        ("EU-DE", "", True),
        ("", "", True),
        ("EU-DE", "EU", True),
        ("EU-DE", "EU-DE", True),
        ("EU", "EU-DE", False),
        ("EU-DE", "EU-FR", False),
        ("NA-US", "EU", False),
        ("", "EU", False),
        ("EUX-DE", "EU", False),
    ],
)
def test_a_region_is_a_continent_or_a_country_in_one(
    region: str, wanted: str, inside: bool
) -> None:
    assert within(region, wanted) == inside


def test_a_region_asked_for_later_finds_who_is_open_and_follows_what_changes() -> None:
    german, american = node("de", region="EU-DE"), node("us", region="NA-US")
    index = index_of(german, american)
    europe = index.open_set(MODEL, "trusted", "EU")
    before = ids(europe)
    french = node("fr", region="EU-FR")
    index.join(french)
    index.host(french, MODEL)
    index.update(french, now=0.0)
    german.state = "paused"
    index.update(german, now=0.0)

    assert before == {"de"}
    assert ids(index.open_set(MODEL, "trusted", "EU")) == {"fr"}
    assert ids(index.open_set(MODEL, "trusted")) == {"fr", "us"}


# ── steps ────────────────────────────────────────────────────────────────────────────────────────


def test_steps_are_in_order_and_no_node_is_faster_than_its_step_says() -> None:
    nodes = [node(f"n{speed}", speed=float(speed)) for speed in (50, 5000, 200, 800, 20_000)]
    fleet = index_of(*nodes).open_set(MODEL, "trusted")

    floors_s = [floor_s for floor_s, _ in fleet.in_order]
    assert floors_s == sorted(floors_s)
    assert [one.node_id for one in fleet] == ["n20000", "n5000", "n800", "n200", "n50"]
    for least_s, members in fleet.in_order:
        for one in members:
            speed = one.speeds[MODEL].tokens_per_s
            assert least_s <= rtt_s(one) + ix.STANDARD_TOKENS / speed < 1.25 * least_s


def test_a_node_that_got_slower_moves_to_a_later_step() -> None:
    one, other = node("a"), node("b")
    index = index_of(one, other)
    one.speeds[MODEL].tokens_per_s = 100.0
    index.update(one, now=0.0)

    assert [n.node_id for n in index.open_set(MODEL, "trusted")] == ["b", "a"]


def test_a_round_trip_is_measured_or_guessed_from_the_distance_or_a_continents() -> None:
    far = node(rtt_s=None, rtt_guess_s=guessed_rtt_s(10_000.0))

    assert rtt_s(node(rtt_s=0.03, rtt_guess_s=9.0)) == 0.03
    assert rtt_s(far) == pytest.approx(0.17)
    assert rtt_s(node(rtt_s=None)) == ix.UNKNOWN_RTT_S


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 4), st.booleans()), max_size=60))
def test_an_open_set_holds_exactly_what_was_added_and_not_discarded(
    changes: list[tuple[int, int, bool]],
) -> None:
    nodes = [node(f"n{number}") for number in range(16)]
    fleet, held = OpenSet(), dict[str, int]()
    for number, step, adds in changes:
        one = nodes[number]
        if adds and one.node_id not in held:
            fleet.add(one, step)
            held[one.node_id] = step
        elif not adds:
            fleet.discard(one)
            held.pop(one.node_id, None)

    assert sorted(one.node_id for one in fleet) == sorted(held)
    assert len(fleet) == len(held)
    steps = sorted(set(held.values()))
    assert [least_s for least_s, _ in fleet.in_order] == [floor_s(step) for step in steps]
    for step, (_, members) in zip(steps, fleet.in_order, strict=True):
        assert all(held[one.node_id] == step for one in members)


# ── why nobody can take a job ────────────────────────────────────────────────────────────────────


def test_the_reasons_add_up_to_the_fleet() -> None:
    fleet = [
        node("paused", state="paused"),
        node("failing", retry_at=9.0),
        node("newcomer", level="newcomer"),
        node("small", memory_mb=256),
    ]
    index = index_of(*fleet)
    loading, other, tiny = node("loading"), node("other"), node("tiny", memory_mb=100)
    for one in (loading, other, tiny):
        one.speeds.clear()
        index.join(one)
    loading.loading = (MODEL,)
    index.fleets[MODEL].loading[loading.node_id] = loading

    why = index.skipped(MODEL, min_memory_mb=512)

    assert why == {
        "paused": 1,
        "backing_off": 1,
        "newcomer": 1,
        "no_memory": 2,
        "loading": 1,
        "not_loaded": 1,
    }
    assert sum(why.values()) == index.edge_nodes


def place_of(index: Index, one: Node) -> list[object]:
    return [
        [(speed.group, speed.tier, speed.step, speed.supply) for speed in one.speeds.values()],
        *((sorted(ids(fleet.busy)), fleet.groups) for fleet in index.fleets.values()),
    ]


@given(
    slots=st.integers(1, 3),
    speeds=st.tuples(st.sampled_from([10.0, 100.0, 1e4]), st.sampled_from([10.0, 100.0, 1e4])),
    work=st.lists(st.sampled_from([1, 4, 40, 400]), max_size=4),
    alone=st.booleans(),
)
def test_a_node_given_work_is_where_a_full_look_would_put_it(
    slots: int, speeds: tuple[float, float], work: list[int], alone: bool
) -> None:
    def given_work(look: str) -> list[object]:
        one = node(slots=slots, memory_mb=4096)
        one.speeds = {MODEL: Speed(speeds[0]), OTHER: Speed(speeds[1])}
        index = index_of(one)
        for number, tokens in enumerate(work):
            one.attempts[AttemptId(str(number))] = ATTEMPT
            one.outstanding_tokens += tokens
            one.alone = alone
            getattr(index, look)(one, now=0.0)
        return place_of(index, one)

    assert given_work("took") == given_work("update")
