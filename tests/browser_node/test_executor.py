"""Micro-batches: what goes into one, what comes out, and in what order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.executor import PLAN_BUDGET_S, SLACK_TOKENS, Executor, neighbours
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.embeddings import EmbeddingsPipeline
from browser_node.pipelines.summary import SummaryPipeline
from browser_node.protocol import Result
from tests.browser_node.arithmetic import (
    ArithmeticEncoder,
    ManualClock,
    WordTokenizer,
    manifest_of,
)
from tests.browser_node.bench import (
    CLASSIFY,
    EMBED,
    SUMMARISE,
    Bench,
    StuckEncoder,
    ids,
    job,
    words,
)

# ── batches ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_takes_what_is_nearly_as_long_as_the_oldest_and_leaves_the_rest() -> None:
    bench = Bench(budget_tokens=200)
    for attempt_id, length in (("old", 20), ("like", 24), ("long", 60), ("short", 3)):
        bench.add(attempt_id, words(length))

    first = await bench.executor.run_next()

    assert sorted(map(str, ids(first))) == ["like", "old"]
    assert bench.encoder.batches == [[22, 26]]


async def test_a_batch_keeps_to_the_budget_of_padded_tokens() -> None:
    bench = Bench(budget_tokens=100)
    for at in range(40):
        bench.add(str(at), words(8 + at % 9))
    await bench.run_all()
    assert all(max(batch) * len(batch) <= 100 for batch in bench.encoder.batches)
    assert sum(map(len, bench.encoder.batches)) == 40
    assert len(bench.encoder.batches) <= 12


async def test_no_budget_makes_a_batch_that_falls_out_of_the_cache() -> None:
    bench = Bench(budget_tokens=100_000)
    for at in range(100):
        bench.add(str(at), words(30))
    await bench.run_all()
    assert max(max(batch) * len(batch) for batch in bench.encoder.batches) == 1024


async def test_one_sequence_goes_through_however_small_the_budget() -> None:
    bench = Bench(budget_tokens=1)
    bench.add("a", words(30))
    assert ids(await bench.executor.run_next()) == ["a"]


async def test_the_budget_can_change_between_batches() -> None:
    bench = Bench(budget_tokens=10)
    for at in range(6):
        bench.add(str(at), words(3))
    await bench.executor.run_next()
    bench.executor.budget_tokens = 100
    await bench.executor.run_next()
    assert bench.encoder.batches == [[5, 5], [5, 5, 5, 5]]


async def test_models_on_one_encoder_share_a_batch() -> None:
    bench = Bench()
    bench.add("embedding", words(3))
    bench.add("classes", "word word word", CLASSIFY)
    await bench.run_all()
    assert bench.encoder.batches == [[3, 5, 5]]


async def test_models_on_two_encoders_do_not() -> None:
    bench = Bench()
    other = ArithmeticEncoder(bench.clock)
    bench.executor.load(
        SUMMARISE, SummaryPipeline(manifest_of("extractive-summary"), WordTokenizer()), other
    )
    bench.add("embedding", words(3))
    bench.add("summary", "One here. Two here. Three here.", SUMMARISE)
    await bench.run_all()
    assert bench.encoder.batches == [[5]]
    assert other.batches == [[4, 4, 4]]


async def test_the_oldest_attempt_advances_in_every_batch() -> None:
    bench = Bench(budget_tokens=20)
    text = " ".join(f"{words(2 * at + 1).capitalize()} end." for at in range(8))
    bench.add("old", text, SUMMARISE)
    batches = 0
    while "old" in bench.executor.held:
        bench.add(f"new-{batches}", words(3))
        await bench.executor.run_next()
        batches += 1
    assert batches <= 8


async def test_a_result_comes_as_soon_as_its_last_sequence_is_done() -> None:
    bench = Bench(budget_tokens=30)
    bench.add(
        "first", "One is here. Two is now and here and there and all over the place.", SUMMARISE
    )
    bench.add("second", words(25))
    assert ids(await bench.executor.run_next()) == []
    assert ids(await bench.executor.run_next()) == ["first"]
    assert ids(await bench.executor.run_next()) == ["second"]


async def test_what_needs_no_vectors_is_answered_without_a_batch() -> None:
    bench = Bench()
    bench.add("a", "Only one sentence.", SUMMARISE)
    (result,) = await bench.executor.run_next()
    assert isinstance(result, Result)
    assert result.output == b"Only one sentence."
    assert bench.encoder.batches == []


async def test_nothing_held_is_nothing_done() -> None:
    assert await Bench().executor.run_next() == []


@given(st.lists(st.integers(1, 300), min_size=1), st.data(), st.integers(1, 4000))
def test_a_run_of_neighbours_holds_its_anchor_within_slack_and_budget(
    lengths: list[int], data: st.DataObject, budget: int
) -> None:
    lengths.sort()
    around = data.draw(st.integers(0, len(lengths) - 1))
    chosen = neighbours(lengths, around=around, budget_tokens=budget)
    run = lengths[chosen.start : chosen.stop]
    assert around in chosen
    assert max(run) - min(run) <= SLACK_TOKENS
    assert len(run) == 1 or max(run) * len(run) <= budget


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_does_not_depend_on_what_shared_its_batch() -> None:
    texts = [words(at % 5 + 1) + f" {at}. And {at} more." for at in range(12)]
    alone = []
    for at, text in enumerate(texts):
        bench = Bench()
        bench.add(str(at), text, (EMBED, SUMMARISE, CLASSIFY)[at % 3])
        (result,) = await bench.run_all()
        assert isinstance(result, Result)
        alone.append((result.attempt_id, result.output, result.evidence))
    bench = Bench(budget_tokens=50)
    for at, text in enumerate(texts):
        bench.add(str(at), text, (EMBED, SUMMARISE, CLASSIFY)[at % 3])
    together = [r for r in await bench.run_all() if isinstance(r, Result)]
    assert sorted((r.attempt_id, r.output, r.evidence) for r in together) == sorted(alone)


async def test_the_head_is_applied_to_the_mean_that_each_plan_asks_for_in_one_run() -> None:
    bench = Bench()
    for at in range(5):
        bench.add(str(at), f"words {at} here", CLASSIFY)
    outcomes = await bench.run_all()
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    assert [result.output for result in results] == [b"True"] * 5
    for result in results:
        flat = vector_math.halves(result.evidence)
        mean = vector_math.mean((flat[:8], flat[8:16]), (3, 1))
        assert flat[16:] == pytest.approx(mean[:3], rel=1e-2)
    assert sum(bench.head.runs) == 5
    assert len(bench.head.runs) < 5


async def test_compute_time_is_shared_by_padded_tokens() -> None:
    bench = Bench(budget_tokens=100)
    bench.add("a", words(8))
    bench.add("b", words(6))
    bench.add("c", "eight words are in this text for it", CLASSIFY)
    outcomes = await bench.run_all()
    taken = {o.attempt_id: o.compute_s for o in outcomes if isinstance(o, Result)}
    # Four rows of 3, 8, 10 and 10 tokens take 40 s, two of them for "c", whose head takes 3 s.
    assert taken == {"a": 10.0, "b": 10.0, "c": 23.0}


async def test_the_node_counts_the_tokens_of_the_input() -> None:
    bench = Bench()
    bench.add("a", words(5))
    (result,) = await bench.run_all()
    assert isinstance(result, Result)
    assert result.tokens == 7


async def test_busy_is_the_time_in_the_running_batch_and_afterwards_that_of_the_last() -> None:
    seen = []
    clock = ManualClock()
    encoder = ArithmeticEncoder(clock, meanwhile=lambda: seen.append(executor.busy_s()))
    executor = Executor(clock=clock, budget_tokens=9)
    executor.load(EMBED, EmbeddingsPipeline(manifest_of("embeddings"), WordTokenizer()), encoder)
    executor.add([job("a", words(2))])
    await executor.run_next()
    assert seen == [0.0]
    assert executor.busy_s() == 4.0


async def test_two_batches_at_once_are_refused() -> None:
    bench = Bench(encoder=StuckEncoder())
    bench.add("a", words(2))
    running = asyncio.ensure_future(bench.executor.run_next())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already running"):
        await bench.executor.run_next()
    running.cancel()


async def test_a_batch_broken_off_by_the_caller_is_computed_again() -> None:
    bench = Bench(encoder=StuckEncoder())
    bench.add("a", words(2))
    running = asyncio.ensure_future(bench.executor.run_next())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    pipeline = EmbeddingsPipeline(manifest_of("embeddings"), WordTokenizer())
    bench.executor.load(EMBED, pipeline, bench.encoder)
    assert ids(await bench.executor.run_next()) == ["a"]


async def test_planning_leaves_the_loop_free_when_there_is_much_to_plan() -> None:
    class SlowTokenizer(WordTokenizer):
        def count(self, text: str) -> int:
            bench.clock.now_s += PLAN_BUDGET_S
            return super().count(text)

    bench = Bench(budget_tokens=1000)
    pipeline = EmbeddingsPipeline(manifest_of("embeddings"), SlowTokenizer())
    bench.executor.load(EMBED, pipeline, bench.encoder)
    for at in range(7):
        bench.add(str(at), words(3))
    await bench.run_all()
    assert list(map(len, bench.encoder.batches)) == [2, 2, 2, 1]
