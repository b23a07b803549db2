"""The search for the best node: hard constraints, then the least expected finish time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from browser_node.protocol import NodeId
from orchestrator.domain import router
from orchestrator.domain.index import Index
from orchestrator.domain.model import Node
from tests.orchestrator.domain.fleet_of import MODEL
from tests.orchestrator.domain.test_index import SPECS, index_of, node


def choose(
    index: Index, *, tokens: int = 64, tier: Any = "trusted", region: str = "", **changes: Any
) -> tuple[str | None, router.Found, list[Node]]:
    """Return whom the search finds, what it saw, and who is to be probed."""
    silent: list[Node] = []
    options: dict[str, Any] = {
        "tried": (), "now": 0.0, "limit_s": 60.0, "rng": random.Random(1), **changes,
    }  # fmt: skip
    found, seen = router.choose(
        index.open_set(MODEL, tier, region), digest=MODEL, tokens=tokens, silent=silent, **options
    )
    return (None if found is None else str(found.node_id)), seen, silent


# ── the least finish time ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"rtt_s": 0.3}, {"rtt_s": 0.01}),
        ({"speed": 100.0}, {"speed": 2000.0}),
        ({"outstanding_tokens": 400}, {"outstanding_tokens": 50}),
        ({"consecutive_failures": 2}, {}),
        ({"rtt_s": None}, {"rtt_s": None, "rtt_guess_s": 0.03}),
    ],
    ids=["proximity", "capability", "load", "failures", "known place"],
)
def test_each_term_of_the_finish_time_decides_between_equals(
    worse: dict[str, Any], better: dict[str, Any]
) -> None:
    index = index_of(node("worse", **worse), node("better", **better))

    assert choose(index)[0] == "better"


def test_a_long_job_goes_to_the_faster_node_and_a_short_one_to_the_nearer() -> None:
    index = index_of(node("near", rtt_s=0.01, speed=500.0), node("fast", rtt_s=0.2, speed=5000.0))

    assert choose(index, tokens=8)[0] == "near"
    assert choose(index, tokens=2000)[0] == "fast"


def test_the_explained_terms_add_up() -> None:
    one = node(outstanding_tokens=100, consecutive_failures=1)

    why = router.explain(one, digest=MODEL, tokens=50, considered=1, skipped={}, cold_s=2.0)

    parts = why.rtt_s + why.backlog_s + why.service_s + why.cold_load_s + why.penalty_s
    assert why.finish_s == pytest.approx(parts) == pytest.approx(0.02 + 0.1 + 0.05 + 2.0 + 0.5)
    assert why.finish_s - 2.0 == pytest.approx(router.finish_s(one, digest=MODEL, tokens=50))


def test_equals_are_told_apart_by_their_names_whatever_the_order() -> None:
    names = ["c", "a", "b"]
    found = {choose(index_of(*(node(n) for n in order)))[0] for order in (names, names[::-1])}

    assert found == {"a"}


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 0.4), st.floats(20.0, 20_000.0), st.integers(0, 5)),
        min_size=1,
        max_size=router.PER_STEP,
    ),
    st.integers(1, 3000),
)
def test_of_a_few_nodes_none_is_better_than_the_one_found(
    fleet: list[tuple[float, float, int]], tokens: int
) -> None:
    nodes = [
        node(f"n{number}", rtt_s=rtt, speed=speed, outstanding_tokens=int(load * speed / 20))
        for number, (rtt, speed, load) in enumerate(fleet)
    ]
    index = index_of(*nodes)

    found, _, _ = choose(index, tokens=tokens, limit_s=1e9)

    able = [one for one in nodes if router.has_room(one, digest=MODEL, tokens=tokens)]
    best = min((router.finish_s(n, digest=MODEL, tokens=tokens) for n in able), default=None)
    if found is None:
        assert best is None
    else:
        [chosen] = [one for one in nodes if one.node_id == found]
        assert router.finish_s(chosen, digest=MODEL, tokens=tokens) == best


def test_a_large_fleet_is_not_searched_whole() -> None:
    rng = random.Random(5)
    index = index_of(
        *(
            node(f"n{number}", speed=rng.uniform(100, 5000), rtt_s=rng.uniform(0.01, 0.3))
            for number in range(2000)
        )
    )
    everyone = list(index.open_set(MODEL, "trusted"))
    best_s = min(router.finish_s(one, digest=MODEL, tokens=64) for one in everyone)

    found, seen, _ = choose(index)
    [chosen] = [one for one in everyone if one.node_id == found]

    assert seen.considered <= router.SAMPLE + router.PER_STEP
    assert router.finish_s(chosen, digest=MODEL, tokens=64) <= best_s * 1.25 * 1.25


def test_a_search_that_finds_nobody_ends_all_the_same() -> None:
    index = index_of(*(node(f"n{number}", speed=20.0 + 10 * number) for number in range(1000)))

    found, seen, silent = choose(index, now=router.STALE_S + 1, limit_s=1e9)

    assert found is None
    assert len(silent) == seen.considered <= router.SAMPLE + router.PER_STEP


# ── who is passed over ───────────────────────────────────────────────────────────────────────────


def test_who_has_tried_the_job_is_passed_over() -> None:
    index = index_of(node("a", rtt_s=0.001), node("b"))

    found, seen, _ = choose(index, tried=(NodeId("a"),))

    assert (found, seen.skipped) == ("b", {"already_tried": 1})


def test_nodes_of_excluded_networks_are_passed_over_and_unknown_ones_are_not() -> None:
    index = index_of(
        node("a", rtt_s=0.001, network="one"),
        node("b", rtt_s=0.002, network=""),
        node("c", network="two"),
    )

    assert choose(index, networks=("one",))[0] == "b"


def test_a_node_long_silent_is_to_be_probed_and_not_used() -> None:
    index = index_of(node("quiet", rtt_s=0.001), node("heard", last_frame_at=50.0))

    found, seen, silent = choose(index, now=router.STALE_S + 1)

    assert found == "heard"
    assert [one.node_id for one in silent] == ["quiet"]
    assert seen.skipped == {"silent": 1}


def test_a_node_that_could_not_answer_in_time_is_passed_over() -> None:
    index = index_of(node("slow", speed=10.0))

    found, seen, _ = choose(index, tokens=100, limit_s=5.0)

    assert found is None
    assert seen.skipped in ({"too_slow": 1}, {})  # or its whole step was


def test_a_node_whose_window_is_full_is_passed_over_and_told_when_it_could() -> None:
    index = index_of(node("full", outstanding_tokens=480))

    found, seen, _ = choose(index, tokens=100)

    assert found is None
    assert seen.skipped == {"busy": 1}
    assert seen.soonest_s == pytest.approx(0.02 + 0.58)


def test_a_job_beyond_any_window_goes_to_a_node_that_has_nothing_else() -> None:
    index = index_of(node("busy", outstanding_tokens=1, rtt_s=0.001), node("idle"))

    assert choose(index, tokens=5000)[0] == "idle"


def test_when_asked_only_idle_nodes_are_taken() -> None:
    index = index_of(node("busy", outstanding_tokens=1, rtt_s=0.001), node("idle", rtt_s=0.3))

    assert choose(index, idle_only=True)[0] == "idle"


def test_only_the_tier_and_the_region_asked_for_are_searched() -> None:
    index = index_of(
        node("newcomer", level="newcomer", rtt_s=0.001, region="EU-DE"),
        node("us", region="NA-US", rtt_s=0.001),
        node("de", region="EU-DE", rtt_s=0.2),
    )

    assert choose(index, region="EU")[0] == "de"
    assert choose(index, tier="newcomer", region="EU")[0] == "newcomer"
    assert choose(index, tier="newcomer", region="NA")[0] is None


# ── what it is measured against ──────────────────────────────────────────────────────────────────


def test_without_geography_the_nearer_node_is_not_preferred() -> None:
    index = index_of(node("near", rtt_s=0.01), node("fast", rtt_s=0.4, speed=1100.0))

    assert choose(index)[0] == "near"
    assert choose(index, geo=False)[0] == "fast"


def test_the_other_rules_choose_among_those_that_could() -> None:
    index = index_of(node("a"), node("b"), node("full", outstanding_tokens=499))

    for rule in ("random", "least_loaded"):
        found = {choose(index, rule=rule, rng=random.Random(seed))[0] for seed in range(30)}
        assert found <= {"a", "b"}


# ── cold starts ──────────────────────────────────────────────────────────────────────────────────


def test_a_cold_load_is_a_download_unless_it_is_on_the_disk() -> None:
    fresh, cached = node(), node(cached=(MODEL,))

    assert router.cold_load_s(cached, SPECS[MODEL]) == 1.0
    assert router.cold_load_s(fresh, SPECS[MODEL]) == 1.0 + 23_000_000 / 2.5e6
