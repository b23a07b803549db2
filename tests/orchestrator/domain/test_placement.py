"""Which node is told to hold which model, and when."""

from __future__ import annotations

import pytest

from browser_node.protocol import ModelDigest, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.placement import LOAD_TIMEOUT_S, MIN_REPLICAS, UNUSED_S, Demand
from orchestrator.domain.scheduler import Scheduler
from orchestrator.domain.trust import Identity
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    OTHER,
    RUNTIME,
    SPARE,
    TAB,
    WORKER,
    failures,
    job,
    join,
    proven,
    scheduler,
    submit,
)
from tests.orchestrator.domain.stage import Stage, known_answers


def come(
    s: Scheduler,
    node_id: NodeId,
    *,
    now: float = 0.0,
    memory_mb: int | None = 4000,
    cached: tuple[ModelDigest, ...] = (),
    data_saver: bool = False,
) -> list[fx.Effect]:
    """Let a trusted node without any model join; return what it is told."""
    identity = Identity(node_id)
    effects = s.handle(
        ev.NodeJoined(
            node_id,
            False,
            memory_mb,
            identity=identity,
            runtime=RUNTIME,
            cached=cached,
            data_saver=data_saver,
        ),
        now=now,
    )
    effects += s.handle(ev.StandingRecalled(identity, RUNTIME, proven(node_id)), now=now)
    return effects + s.handle(ev.CapacityChanged(node_id, 8, "active", ""), now=now)


def ready(s: Scheduler, node_id: NodeId, digest: ModelDigest, *, now: float) -> list[fx.Effect]:
    """Let a node load what it was told to; return what it is told next."""
    effects = s.handle(ev.ModelLoading(node_id, digest), now=now)
    return effects + s.handle(ev.ModelReady(node_id, digest, 1000.0), now=now)


def loads(effects: list[fx.Effect]) -> list[ModelDigest]:
    return [e.digest for e in effects if isinstance(e, fx.LoadModel)]


def unloads(effects: list[fx.Effect]) -> list[ModelDigest]:
    return [e.digest for e in effects if isinstance(e, fx.UnloadModel)]


def ticks(s: Scheduler, *, start: float, seconds: int) -> list[fx.Effect]:
    """Let time pass with every node heard; return what was told meanwhile."""
    effects: list[fx.Effect] = []
    for second in range(seconds):
        now = start + second
        for node_id in list(s.board.nodes):
            effects += s.handle(ev.NodeHeard(node_id), now=now)
        effects += s.handle(ev.Tick(), now=now)
    return effects


# ── loading ──────────────────────────────────────────────────────────────────────────────────────


def test_a_node_that_joins_loads_one_model_and_then_the_next() -> None:
    s = scheduler()

    first = loads(come(s, TAB))
    second = loads(ready(s, TAB, first[0], now=3.0))

    assert len(first) == len(second) == 1
    assert {*first, *second} == {MODEL, OTHER}
    assert loads(ready(s, TAB, second[0], now=6.0)) == []


def test_what_a_node_has_on_its_disk_comes_first() -> None:
    assert loads(come(scheduler(), TAB, cached=(OTHER,))) == [OTHER]


def test_a_node_loads_what_is_asked_for_before_what_is_not() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    s.handle(ev.ModelReady(WORKER, OTHER, 5000), now=0)
    submit(s, *(job(f"j{number}", digest=OTHER) for number in range(20)))

    assert loads(come(s, TAB)) == [OTHER]


def test_a_model_without_replicas_is_loaded_before_one_with_many() -> None:
    s = scheduler()
    for number in range(MIN_REPLICAS):
        join(s, NodeId(f"n{number}"), memory_mb=600)

    assert loads(come(s, TAB)) == [OTHER]


def test_enough_replicas_without_demand_are_enough() -> None:
    s = scheduler()
    for number in range(MIN_REPLICAS):
        node_id = NodeId(f"n{number}")
        join(s, node_id)
        ready(s, node_id, OTHER, now=0.0)
    first = loads(come(s, TAB))

    assert len(first) == 1  # it is to have one
    assert loads(ready(s, TAB, first[0], now=1.0)) == []


def test_demand_beyond_supply_calls_for_more_replicas() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, tokens_per_s=1e6, slots=1000)
    s.handle(ev.ModelReady(WORKER, OTHER, 1e6), now=0)
    for number in range(MIN_REPLICAS):
        node_id = NodeId(f"n{number}")
        join(s, node_id, tokens_per_s=10)
        ready(s, node_id, OTHER, now=0.0)
        s.handle(ev.ModelReady(node_id, OTHER, 10.0), now=0.0)
    come(s, TAB)
    submit(s, *(job(f"j{number}", tokens=500, digest=OTHER) for number in range(200)))

    assert loads(ready(s, TAB, MODEL, now=1.0)) == [OTHER]


def test_a_node_with_work_is_not_told_to_load() -> None:
    s = scheduler()
    join(s, TAB, memory_mb=4000)
    s.handle(ev.ModelLost(TAB, OTHER), now=0)
    s.board.nodes[TAB].lost = ()
    s.board.nodes[TAB].loading = ()
    submit(s, job("j", tokens=400))

    working = loads(s.handle(ev.Tick(), now=1.0))

    assert working == []


def test_a_drained_or_quarantined_node_is_not_told_to_load() -> None:
    s = scheduler()
    first = loads(come(s, TAB))
    come(s, SPARE)
    s.handle(ev.NodeOrdered(TAB, "drain"), now=0)
    s.handle(ev.StandingOrdered(Identity(SPARE), RUNTIME, "quarantine"), now=0)

    effects = ready(s, TAB, first[0], now=1.0) + ready(s, SPARE, first[0], now=1.0)

    assert loads(effects + ticks(s, start=2.0, seconds=5)) == []


@pytest.mark.parametrize(
    ("memory_mb", "expected"),
    [(256, 0), (512, 2), (100_000, 2), (None, 2)],
    ids=["too small", "enough for both", "large", "unknown"],
)
def test_a_node_holds_what_fits_its_memory(memory_mb: int | None, expected: int) -> None:
    s = scheduler()
    held = loads(come(s, TAB, memory_mb=memory_mb))
    for digest in list(held):
        held += loads(ready(s, TAB, digest, now=1.0))

    assert len(held) == expected


def test_models_take_at_most_half_of_a_devices_memory() -> None:
    st = Stage()
    # Two models of 300 MB take 600 MB each when loaded.
    for digest, spec in list(st.s.board.models.items()):
        st.s.board.models[digest] = type(spec)(digest, spec.model_id, 300_000_000, 512)  # type: ignore[index]
    first = loads(come(st.s, TAB, memory_mb=2000))
    small = loads(ready(st.s, TAB, first[0], now=1.0))
    first = loads(come(st.s, SPARE, memory_mb=2400))
    large = loads(ready(st.s, SPARE, first[0], now=1.0))

    assert (small, len(large)) == ([], 1)


def test_a_data_saver_loads_what_it_has_and_else_one_model_at_most() -> None:
    s = scheduler()
    having = loads(come(s, TAB, cached=(OTHER,), data_saver=True))
    nothing = loads(come(s, SPARE, data_saver=True))

    assert having == [OTHER]
    assert loads(ready(s, TAB, OTHER, now=1.0)) == []
    assert len(nothing) == 1
    assert loads(ready(s, SPARE, nothing[0], now=1.0)) == []


def test_a_model_that_a_node_could_not_load_is_not_tried_there_again() -> None:
    s = scheduler()
    [first] = loads(come(s, TAB))
    s.handle(ev.ModelLoading(TAB, first), now=0.0)

    following = loads(s.handle(ev.ModelLost(TAB, first), now=1.0))
    ready(s, TAB, following[0], now=2.0)

    assert following == [OTHER if first == MODEL else MODEL]
    assert loads(ticks(s, start=3.0, seconds=10)) == []


def test_a_load_that_ends_in_silence_is_given_up_and_the_next_model_tried() -> None:
    s = scheduler()
    [first] = loads(come(s, TAB))
    s.handle(ev.ModelLoading(TAB, first), now=0.0)

    before = loads(ticks(s, start=LOAD_TIMEOUT_S - 2, seconds=2))
    after = loads(ticks(s, start=LOAD_TIMEOUT_S + 1, seconds=2))

    assert before == []
    assert after == [OTHER if first == MODEL else MODEL]
    assert TAB not in s.board.index.fleets[first].loading


def test_what_was_downloaded_once_is_cheap_the_next_time() -> None:
    s = scheduler()
    [first] = loads(come(s, TAB))
    s.handle(ev.ModelLoading(TAB, first), now=0.0)
    s.handle(ev.ModelReady(TAB, first, 1000), now=10.0)

    node = s.board.nodes[TAB]
    assert first in node.cached
    assert node.download_bytes_per_s == 23_000_000 / 10.0


def test_a_node_that_keeps_coming_back_is_looked_at_once_a_round() -> None:
    s = scheduler()
    for _ in range(100):
        come(s, TAB)
        s.handle(ev.NodeLeft(TAB, "closed"), now=0.0)
    come(s, TAB)

    ticks(s, start=1.0, seconds=3)

    assert list(s.placement._round) == [TAB]


# ── loading because a job waits ──────────────────────────────────────────────────────────────────


def holding_other_only(references: bool = True) -> Scheduler:
    """Return a fleet of one idle trusted node that lacks the model, and no CPU worker."""
    s = scheduler(references=known_answers(4) if references else None)
    come(s, TAB)
    ready(s, TAB, OTHER, now=0.0)
    s.board.nodes[TAB].loading = ()
    return s


def test_without_a_cpu_worker_a_job_has_an_idle_node_load_its_model_and_waits() -> None:
    s = holding_other_only()

    effects = submit(s, job("j"))
    answer = ready(s, TAB, MODEL, now=5.0)

    assert loads(effects) == [MODEL]
    assert [e.node_id for e in answer if isinstance(e, fx.SendJobs)] == [TAB]


def test_a_job_that_cannot_wait_for_the_download_fails_at_once() -> None:
    effects = submit(holding_other_only(), job("j", deadline_s=5.0))

    assert failures(effects) == [("j", "no_capacity")]
    assert loads(effects) == []


def test_nothing_is_loaded_that_could_not_be_calibrated() -> None:
    effects = submit(holding_other_only(references=False), job("j"))

    assert failures(effects) == [("j", "no_capacity")]


def test_a_job_of_a_region_has_no_node_elsewhere_load_its_model() -> None:
    effects = submit(holding_other_only(), job("j", region="EU"))

    assert failures(effects) == [("j", "no_capacity")]


# ── unloading ────────────────────────────────────────────────────────────────────────────────────


def both_everywhere(count: int) -> Scheduler:
    """Return a fleet of ``count`` nodes that have both models; only `MODEL` is asked for."""
    s = scheduler()
    for number in range(count):
        node_id = NodeId(f"n{number}")
        join(s, node_id)
        ready(s, node_id, OTHER, now=0.0)
    s.placement.demand[MODEL].add(10, UNUSED_S)
    return s


def test_what_nobody_asks_for_is_unloaded_where_enough_others_have_it() -> None:
    s = both_everywhere(MIN_REPLICAS + 3)

    told = ticks(s, start=UNUSED_S + 1, seconds=20)

    assert unloads(told) == [OTHER] * 3
    assert len(s.board.index.fleets[OTHER].ready) == MIN_REPLICAS
    assert len(s.board.index.fleets[MODEL].ready) == MIN_REPLICAS + 3


def test_what_is_unloaded_is_not_loaded_again_at_once() -> None:
    s = both_everywhere(MIN_REPLICAS + 1)
    s.placement.demand[OTHER].add(10, 0.0)
    for number in range(1, MIN_REPLICAS + 1):
        s.handle(ev.CapacityChanged(NodeId(f"n{number}"), 8, "hidden", ""), now=1.0)

    told = ticks(s, start=UNUSED_S + 1, seconds=20)

    assert unloads(told) == [OTHER]
    assert loads(told) == []


def test_a_model_asked_for_within_half_an_hour_stays() -> None:
    s = both_everywhere(MIN_REPLICAS + 3)
    s.placement.demand[OTHER].add(10, 100.0)

    assert unloads(ticks(s, start=UNUSED_S + 1, seconds=20)) == []


def test_a_nodes_only_model_stays() -> None:
    s = scheduler()
    for number in range(MIN_REPLICAS + 3):
        join(s, NodeId(f"n{number}"), memory_mb=600)
    s.placement._joined_first_at = 0.0
    for node in s.board.nodes.values():
        node.lost = (OTHER,)
        node.loading = ()

    assert unloads(ticks(s, start=UNUSED_S + 1, seconds=20)) == []


# ── demand ───────────────────────────────────────────────────────────────────────────────────────


def test_demand_is_what_was_asked_lately() -> None:
    demand = Demand()
    for second in range(1200):
        demand.add(100, second)

    assert demand.rate(1200.0) == pytest.approx(98, rel=0.02)
    assert demand.rate(1200.0 + 1800.0) < 1.0
