"""What waits in the background: it makes way, in short batches, and is never left behind."""

from __future__ import annotations

from browser_node.executor import (
    BACKGROUND_SHARE,
    FOREGROUND_RUNS,
    MIN_BACKGROUND_TOKENS,
)
from browser_node.pipelines import Plan
from browser_node.protocol import Task
from tests.browser_node.bench import EMBED, SUMMARISE, Bench, HeadedPipeline, ids, words

HEADED = "d" * 64


class CountedPlans(HeadedPipeline):
    """Says how often it was asked to plan; a plan takes a second."""

    def __init__(self, bench: Bench) -> None:
        self.planned: list[str] = []
        self._bench = bench

    def plan(self, task: Task) -> Plan:
        self.planned.append(task.input)
        self._bench.clock.now_s += 1.0
        return super().plan(task)


async def test_what_is_not_in_the_background_goes_before_what_is() -> None:
    bench = Bench()
    bench.add("line", words(5), background=True)
    bench.add("request", words(5))

    assert ids(await bench.executor.run_next()) == ["request"]
    assert ids(await bench.executor.run_next()) == ["line"]


async def test_background_attempts_do_not_ride_along() -> None:
    bench = Bench()
    for number in range(3):
        bench.add(f"line-{number}", words(5), background=True)
    bench.add("request", words(5))

    await bench.executor.run_next()

    assert bench.encoder.batches == [[7]]


async def test_a_request_that_comes_while_a_line_computes_is_in_the_next_batch() -> None:
    bench = Bench()
    for number in range(20):
        bench.add(f"line-{number}", words(20), background=True)
    bench.encoder.meanwhile = lambda: bench.add("request", words(60))
    await bench.executor.run_next()
    bench.encoder.meanwhile = None

    await bench.executor.run_next()

    assert "request" not in bench.executor.held


async def test_a_batch_of_the_background_is_short() -> None:
    bench = Bench(budget_tokens=128)
    for number in range(60):
        bench.add(f"line-{number}", words(6), background=True)

    await bench.run_all()

    assert {sum(batch) for batch in bench.encoder.batches} == {MIN_BACKGROUND_TOKENS}


async def test_on_a_fast_node_it_holds_more_within_the_same_time() -> None:
    bench = Bench(budget_tokens=8 * MIN_BACKGROUND_TOKENS * BACKGROUND_SHARE)
    for number in range(60):
        bench.add(f"line-{number}", words(14), background=True)

    await bench.run_all()

    assert sum(bench.encoder.batches[0]) == 8 * MIN_BACKGROUND_TOKENS


async def test_on_a_slow_node_it_keeps_to_the_budget_of_any_batch() -> None:
    bench = Bench(budget_tokens=8)
    for number in range(10):
        bench.add(f"line-{number}", words(2), background=True)

    await bench.run_all()

    assert {sum(batch) for batch in bench.encoder.batches} == {8}


async def test_the_background_gets_a_batch_after_a_few_others() -> None:
    bench = Bench()
    bench.add("line", words(5), background=True)
    order: list[str | None] = []

    for number in range(2 * FOREGROUND_RUNS):
        bench.add(f"request-{number}", words(5))
        order += ids(await bench.executor.run_next())

    assert order.index("line") == FOREGROUND_RUNS
    assert len(order) == 2 * FOREGROUND_RUNS + 1


async def test_the_oldest_line_advances_in_every_batch_of_the_background() -> None:
    bench = Bench(budget_tokens=20)
    text = " ".join(f"{words(2 * at + 1).capitalize()} end." for at in range(8))
    bench.add("old", text, SUMMARISE, background=True)
    batches = 0
    while "old" in bench.executor.held:
        bench.add(f"new-{batches}", words(3), background=True)
        await bench.executor.run_next()
        batches += 1
    assert batches <= 8


async def test_a_request_does_not_wait_for_the_plans_of_lines() -> None:
    bench = Bench()
    pipeline = CountedPlans(bench)
    bench.executor.load(HEADED, pipeline, bench.encoder, bench.head)
    for number in range(5):
        bench.add(f"line-{number}", f"{number} line", HEADED, background=True)
    bench.add("request", "a request", HEADED)

    await bench.executor.run_next()

    assert pipeline.planned == ["a request"]
    await bench.executor.run_next()
    # However many wait, the next batch is not kept waiting for what they would say.
    assert pipeline.planned == ["a request", "0 line"]


async def test_a_request_does_not_wait_until_lines_are_finished() -> None:
    bench = Bench()
    bench.add("line", "Only one sentence.", SUMMARISE, background=True)
    bench.add("request", "Only one sentence.", SUMMARISE)

    assert ids(await bench.executor.run_next()) == ["request"]


async def test_a_line_is_cancelled_as_any_other_attempt() -> None:
    bench = Bench()
    bench.add("line", words(5), background=True)
    bench.add("kept", words(5), EMBED, background=True)
    bench.encoder.meanwhile = lambda: bench.executor.cancel(["line"])

    assert ids(await bench.executor.run_next()) == ["kept"]
    assert bench.executor.held == ()
