"""What waits in the background: it makes way, in short batches, and is never left behind."""

from __future__ import annotations

from collections.abc import Sequence

from browser_node.executor import (
    BACKGROUND_PYTHON_S,
    BACKGROUND_SHARE,
    FOREGROUND_RUNS,
    MIN_BACKGROUND_TOKENS,
)
from browser_node.pipelines import Plan, Vector
from browser_node.protocol import Answer, Failed, Task
from browser_node.work import Interrupted
from tests.browser_node.arithmetic import ArithmeticEncoder
from tests.browser_node.bench import CLASSIFY, EMBED, SUMMARISE, Bench, HeadedPipeline, ids, words

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


class SlowAnswers(HeadedPipeline):
    """An answer takes a second, or so many."""

    def __init__(self, bench: Bench, takes_s: float = 1.0) -> None:
        self._bench = bench
        self._takes_s = takes_s

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        self._bench.clock.now_s += self._takes_s
        return super().finish(plan, vectors, scores)


class InterruptibleEncoder(ArithmeticEncoder):
    """Can be cut off in the middle of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = 0
        self._is_cut = False

    def interrupt(self) -> None:
        self._is_cut = True

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        self._is_cut = False
        vectors = await super().encode(sequences)
        if self._is_cut:
            self.cut += 1
            raise Interrupted
        return vectors


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
    for line in ("line", "next line"):
        bench.add(line, words(MIN_BACKGROUND_TOKENS - 2), background=True)
    order: list[str | None] = []

    for number in range(2 * FOREGROUND_RUNS + 2):
        bench.add(f"request-{number}", words(5))
        order += ids(await bench.executor.run_next())

    assert order.index("line") == FOREGROUND_RUNS
    # As many batches later, of which the first had two requests: one had waited for the line.
    assert order.index("next line") == 2 * FOREGROUND_RUNS + 2
    assert len(order) == 2 * FOREGROUND_RUNS + 3


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


async def test_a_request_does_not_wait_for_the_answers_of_lines_either() -> None:
    bench = Bench(budget_tokens=4 * MIN_BACKGROUND_TOKENS * BACKGROUND_SHARE)
    bench.executor.load(HEADED, SlowAnswers(bench), bench.encoder, bench.head)
    for number in range(3):
        bench.add(f"line-{number}", "one line", HEADED, background=True)

    answered = ids(await bench.executor.run_next())
    bench.add("late line", "one line", HEADED, background=True)
    bench.add("request", words(5))
    for _ in range(3):
        answered += ids(await bench.executor.run_next())

    assert answered == ["line-0", "request", "line-1", "line-2"]
    # What the head has said is kept until there is time for the answer.
    assert bench.head.runs == [3]
    # And until then no other lines are encoded.
    assert len(bench.encoder.batches) == 2


async def test_a_request_cuts_off_the_lines_that_compute() -> None:
    encoder = InterruptibleEncoder()
    bench = Bench(encoder=encoder)
    bench.add("line", words(5), background=True)
    encoder.meanwhile = lambda: bench.add("request", words(7))

    assert await bench.executor.run_next() == []
    encoder.meanwhile = None
    assert ids(await bench.executor.run_next()) == ["request"]
    assert ids(await bench.executor.run_next()) == ["line"]
    assert encoder.batches == [[7], [9], [7]]
    assert bench.executor.held == ()


async def test_a_request_cuts_off_no_other_request_and_a_line_nothing() -> None:
    encoder = InterruptibleEncoder()
    bench = Bench(encoder=encoder)
    bench.add("request", words(5))
    encoder.meanwhile = lambda: bench.add("another", words(60))
    assert ids(await bench.executor.run_next()) == ["request"]
    assert ids(await bench.executor.run_next()) == ["another"]

    bench.add("line", words(5), background=True)
    encoder.meanwhile = lambda: bench.add("other line", words(60), background=True)
    assert ids(await bench.executor.run_next()) == ["line"]
    assert encoder.cut == 0


async def test_lines_are_cut_off_a_few_times_in_a_row_and_then_go_to_their_end() -> None:
    encoder = InterruptibleEncoder()
    bench = Bench(encoder=encoder)
    bench.add("line", words(5), background=True)
    requests = 0

    def request() -> None:
        nonlocal requests
        requests += 1
        bench.add(f"request-{requests}", words(60))

    order: list[str | None] = []
    for _ in range(2 * FOREGROUND_RUNS):
        # One comes whenever a batch of lines has begun.
        encoder.meanwhile = request
        order += ids(await bench.executor.run_next())
        encoder.meanwhile = None
        order += ids(await bench.executor.run_next())

    assert order.index("line") == FOREGROUND_RUNS
    assert encoder.cut == FOREGROUND_RUNS


async def test_a_request_that_is_cancelled_at_once_does_not_cut_off_lines_for_ever() -> None:
    encoder = InterruptibleEncoder()
    bench = Bench(encoder=encoder)
    bench.add("line", words(5), background=True)

    def come_and_go() -> None:
        bench.add("request", words(5))
        bench.executor.cancel(["request"])

    encoder.meanwhile = come_and_go

    assert ids(await bench.run_all()) == ["line"]
    assert encoder.cut == FOREGROUND_RUNS


async def turns_beside_requests(bench: Bench, count: int, *, line: str = "") -> str:
    """Return whose turn it was: "b"ackground or "f"oreground; a ``line`` comes before each."""
    turns = ""
    for number in range(count):
        bench.add(f"request-{number}", words(5))
        if line:
            bench.add(f"line-{number}", line, SUMMARISE, background=True)
        await bench.executor.run_next()
        turns += "b" if bench.executor.ran_background else "f"
    return turns


async def test_lines_that_are_not_encoded_keep_to_their_share() -> None:
    turns = await turns_beside_requests(Bench(), 25, line="A summary of one sentence.")
    assert turns == ("f" * FOREGROUND_RUNS + "b") * 5


async def test_answers_that_were_left_over_keep_to_their_share() -> None:
    bench = Bench(budget_tokens=8 * MIN_BACKGROUND_TOKENS * BACKGROUND_SHARE)
    bench.executor.load(HEADED, SlowAnswers(bench), bench.encoder, bench.head)
    for number in range(12):
        bench.add(f"line-{number}", "one line", HEADED, background=True)

    assert await turns_beside_requests(bench, 25) == ("f" * FOREGROUND_RUNS + "b") * 5


async def test_answers_of_lines_that_were_due_have_more_time() -> None:
    bench = Bench(budget_tokens=4 * MIN_BACKGROUND_TOKENS * BACKGROUND_SHARE)
    quick = SlowAnswers(bench, BACKGROUND_PYTHON_S)
    bench.executor.load(HEADED, quick, bench.encoder, bench.head)

    async def answered_in_a_turn() -> int:
        for number in range(4):
            bench.add(f"line-{number}", "one line", HEADED, background=True)
        answered = ids(await bench.executor.run_next())
        bench.executor.cancel([f"line-{number}" for number in range(4)])
        assert bench.executor.ran_background
        return len(answered)

    assert await answered_in_a_turn() < 4
    bench.add("waits", words(30), background=True)
    assert await turns_beside_requests(bench, FOREGROUND_RUNS) == "f" * FOREGROUND_RUNS
    bench.executor.cancel(["waits"])
    assert await answered_in_a_turn() == 4


async def test_lines_that_are_not_encoded_do_not_starve_those_that_are() -> None:
    bench = Bench()
    bench.add("line", words(5), background=True)
    answered: list[str | None] = []
    for number in range(5):
        bench.add(f"other-{number}", "A summary of one sentence.", SUMMARISE, background=True)
        answered += ids(await bench.executor.run_next())
    assert "line" in answered


async def test_a_line_that_was_cut_off_may_be_cancelled_or_lose_its_model() -> None:
    encoder = InterruptibleEncoder()
    bench = Bench(encoder=encoder)
    bench.add("cancelled", words(5), background=True)
    bench.add("stranded", words(5), CLASSIFY, background=True)
    encoder.meanwhile = lambda: bench.add("request", words(7))
    assert await bench.executor.run_next() == []
    encoder.meanwhile = None

    bench.executor.cancel(["cancelled"])
    bench.executor.unload(CLASSIFY)

    outcomes = await bench.run_all()
    assert ids(outcomes) == ["request", "stranded"]
    assert isinstance(outcomes[1], Failed)


async def test_a_line_is_cancelled_as_any_other_attempt() -> None:
    bench = Bench()
    bench.add("line", words(5), background=True)
    bench.add("kept", words(5), EMBED, background=True)
    bench.encoder.meanwhile = lambda: bench.executor.cancel(["line"])

    assert ids(await bench.executor.run_next()) == ["kept"]
    assert bench.executor.held == ()
