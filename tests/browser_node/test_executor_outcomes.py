"""Failures and their blame, cancelling, and that no attempt is lost, doubled or starved."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.pipelines import Vector
from browser_node.protocol import Failed, Result
from browser_node.work import Emission
from tests.browser_node.arithmetic import (
    ArithmeticEncoder,
)
from tests.browser_node.bench import (
    BROKEN,
    CLASSIFY,
    EMBED,
    POISON,
    SUMMARISE,
    Bench,
    FailingEncoder,
    HeadedPipeline,
    ids,
    words,
)

# ── failures and their blame ─────────────────────────────────────────────────────────────────────


def failure_of(outcomes: Sequence[Emission]) -> tuple[str | None, str, str]:
    (failed,) = outcomes
    assert isinstance(failed, Failed)
    return failed.attempt_id, failed.blame, failed.code


async def test_an_input_that_is_too_long_is_the_inputs_fault() -> None:
    bench = Bench()
    bench.add("a", words(100))
    assert failure_of(await bench.executor.run_next()) == ("a", "input", "too_many_tokens")


async def test_an_input_that_breaks_its_pipeline_fails_alone() -> None:
    bench = Bench()
    bench.add("a", f"{POISON} here", CLASSIFY)
    bench.add("b", "all well", CLASSIFY)
    outcomes = await bench.run_all()
    assert failure_of(outcomes[:1]) == ("a", "input", "plan_failed")
    assert ids(outcomes[1:]) == ["b"]


async def test_a_pipeline_that_cannot_finish_is_the_models_fault() -> None:
    bench = Bench()
    bench.add("a", "some text", BROKEN)
    assert failure_of(await bench.run_all()) == ("a", "model", "finish_failed")


async def test_a_model_that_is_not_loaded_is_the_nodes_fault() -> None:
    bench = Bench()
    bench.add("a", "some text", "f" * 64)
    bench.add("b", "some text", SUMMARISE)
    bench.executor.unload(SUMMARISE)
    outcomes = await bench.executor.run_next()
    assert {failure_of([outcome]) for outcome in outcomes} == {
        ("a", "node", "model_not_loaded"),
        ("b", "node", "model_not_loaded"),
    }


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (None, "session_failed"),
        (lambda vectors: vectors[1:], "session_failed"),
        (lambda vectors: [array("f", [math.nan] * 8) for _ in vectors], "not_finite"),
        (lambda vectors: [array("f", [math.inf, *v[1:]]) for v in vectors], "not_finite"),
    ],
)
async def test_a_session_that_fails_is_the_nodes_fault(
    wrong: Callable[[list[Vector]], list[Vector]] | None, code: str
) -> None:
    bench = Bench(encoder=FailingEncoder(wrong))
    bench.add("a", words(3))
    bench.add("b", words(3))
    outcomes = await bench.run_all()
    assert {failure_of([outcome]) for outcome in outcomes} == {
        ("a", "node", code),
        ("b", "node", code),
    }


async def test_a_vector_that_is_not_finite_fails_only_its_own_attempt() -> None:
    bench = Bench(encoder=FailingEncoder(lambda vs: [array("f", [math.nan] * 8), *vs[1:]]))
    bench.add("a", words(3))
    bench.add("b", words(3))
    failed, result = await bench.run_all()
    assert failure_of([failed]) == ("a", "node", "not_finite")
    assert isinstance(result, Result)


async def test_a_head_that_fails_is_the_nodes_fault() -> None:
    class FailingHead:
        async def score(self, vectors: Sequence[Vector]) -> list[list[float]]:
            return [[math.nan] for _ in vectors]

    bench = Bench()
    bench.executor.load(CLASSIFY, HeadedPipeline(), bench.encoder, FailingHead())
    bench.add("a", words(3), CLASSIFY)
    bench.add("b", words(3))
    outcomes = await bench.run_all()
    assert failure_of([o for o in outcomes if o.attempt_id == "a"]) == (
        "a", "node", "session_failed",
    )  # fmt: skip
    assert isinstance(next(o for o in outcomes if o.attempt_id == "b"), Result)


def test_a_model_with_a_head_is_not_loaded_without_it() -> None:
    with pytest.raises(ValueError, match=r"head\.onnx"):
        Bench().executor.load(CLASSIFY, HeadedPipeline(), ArithmeticEncoder())


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────


async def test_a_cancelled_attempt_yields_nothing() -> None:
    bench = Bench()
    bench.add("a", words(3))
    bench.add("b", words(3))
    bench.executor.cancel(["a", "unknown"])
    assert bench.executor.held == ("b",)
    assert ids(await bench.run_all()) == ["b"]


async def test_nothing_more_is_computed_for_what_was_cancelled() -> None:
    bench = Bench()
    bench.add("gone", "one two", CLASSIFY)
    bench.encoder.meanwhile = lambda: bench.executor.cancel(["gone"])

    assert await bench.executor.run_next() == []
    assert bench.head.runs == []


async def test_an_attempt_cancelled_in_the_middle_of_its_batch_yields_nothing() -> None:
    bench = Bench()
    bench.add("a", words(3))
    bench.add("b", words(3))
    bench.encoder.meanwhile = lambda: bench.executor.cancel(["a"])
    assert ids(await bench.run_all()) == ["b"]


async def test_an_attempt_added_again_in_the_middle_of_its_batch_is_computed_anew() -> None:
    bench = Bench()
    bench.add("a", words(3))

    def again() -> None:
        bench.encoder.meanwhile = None
        bench.executor.cancel(["a"])
        bench.add("a", words(9))

    bench.encoder.meanwhile = again
    assert await bench.executor.run_next() == []
    (result,) = await bench.executor.run_next()
    assert isinstance(result, Result)
    assert result.tokens == 11


async def test_an_attempt_added_again_does_not_fail_with_its_old_batch() -> None:
    def again(vectors: list[Vector]) -> list[Vector]:
        bench.executor.cancel(["a"])
        bench.add("a", words(9))
        raise OSError("out of memory")

    bench = Bench(encoder=FailingEncoder(again))
    bench.add("a", words(3))
    assert await bench.executor.run_next() == []
    assert bench.executor.held == ("a",)


async def test_an_attempt_added_twice_is_computed_and_answered_once() -> None:
    bench = Bench()
    bench.add("a", words(3))
    bench.add("a", words(3))
    bench.encoder.meanwhile = lambda: bench.add("a", words(3))
    assert ids(await bench.run_all()) == ["a"]
    assert bench.encoder.batches == [[5]]


# ── the law ──────────────────────────────────────────────────────────────────────────────────────

Step = tuple[str | int, ...]
inputs = st.sampled_from(
    ["one", words(9), words(30), words(80), "One here. Two here now. Three.", "", f"{POISON} x"]
)
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("add"), inputs, st.sampled_from([EMBED, SUMMARISE, CLASSIFY, "f" * 64])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("unload"), st.sampled_from([EMBED, CLASSIFY])),
        st.tuples(st.just("run")),
    ),
    max_size=40,
)


@given(between=steps, within=steps, budget_tokens=st.integers(1, 200))
def test_every_attempt_that_is_not_cancelled_has_exactly_one_outcome(
    between: list[Step], within: list[Step], budget_tokens: int
) -> None:
    bench = Bench(budget_tokens=budget_tokens)
    added: list[str] = []
    cancelled: set[str] = set()
    outcomes: list[Emission] = []

    def act(step: Step) -> None:
        match step:
            case ("add", str(text), str(digest)):
                added.append(f"attempt {len(added)}")
                bench.add(added[-1], text, digest)
            case ("cancel", int(at)) if at < len(added):
                if added[at] in bench.executor.held:
                    cancelled.add(added[at])
                bench.executor.cancel([added[at]])
            case ("unload", str(digest)):
                bench.executor.unload(digest)

    async def play() -> None:
        inner = iter([step for step in within if step != ("run",)])
        bench.encoder.meanwhile = lambda: act(next(inner, ("nothing",)))
        for step in between:
            if step == ("run",):
                outcomes.extend(await bench.executor.run_next())
            else:
                act(step)
        outcomes.extend(await bench.run_all())

    asyncio.run(play())

    assert Counter(ids(outcomes)) == Counter(set(added) - cancelled)
