"""Answers that come in pieces: before the result, in order, and only where they were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from browser_node.pipelines import Plan, Vector
from browser_node.protocol import MAX_DELTA_CHARS, Answer, Delta, Failed, Result
from browser_node.work import Emission
from tests.browser_node.bench import CLASSIFY, EMBED, SUMMARISE, Bench, HeadedPipeline, job

TEXT = "One ship left the harbour at dawn. Two came back in the evening. The sea was calm."


class Wordy(HeadedPipeline):
    """Answers with what it is told, in the pieces it is told."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def finish_in_pieces(
        self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]
    ) -> tuple[Answer, Sequence[str]]:
        return Answer(output="".join(self.pieces).encode()), self.pieces


def add(bench: Bench, attempt_id: str, text: str, digest: str, *, stream: bool = True) -> None:
    bench.executor.add([msgspec.structs.replace(job(attempt_id, text, digest), stream=stream)])


def pieces_of(emissions: Sequence[Emission], attempt_id: str) -> list[str]:
    """Return the texts of an attempt's deltas; fails unless they count from 0 before the result."""
    own = [emission for emission in emissions if emission.attempt_id == attempt_id]
    *deltas, last = own
    assert isinstance(last, Result)
    texts = []
    for seq, delta in enumerate(deltas):
        assert isinstance(delta, Delta)
        assert delta.seq == seq
        texts.append(delta.text)
    return texts


async def test_a_summary_that_is_streamed_comes_sentence_by_sentence_before_its_result() -> None:
    bench = Bench()
    add(bench, "streamed", TEXT, SUMMARISE)
    add(bench, "whole", TEXT, SUMMARISE, stream=False)
    emissions = await bench.run_all()

    outputs = {e.attempt_id: e.output for e in emissions if isinstance(e, Result)}
    pieces = pieces_of(emissions, "streamed")
    assert outputs["streamed"] == outputs["whole"]
    assert "".join(pieces).encode() == outputs["whole"]
    assert [piece.strip() in TEXT for piece in pieces] == [True] * len(pieces)
    assert pieces_of(emissions, "whole") == []


@pytest.mark.parametrize("digest", [EMBED, CLASSIFY])
async def test_what_is_no_text_comes_whole_however_it_is_asked_for(digest: str) -> None:
    bench = Bench()
    add(bench, "a", "some words here", digest)

    assert pieces_of(await bench.run_all(), "a") == []


async def test_a_piece_too_long_for_one_frame_takes_several() -> None:
    bench = Bench()
    long = "x" * MAX_DELTA_CHARS + "y"
    bench.executor.load(CLASSIFY, Wordy("begin ", long), bench.encoder, bench.head)
    add(bench, "a", "some words", CLASSIFY)

    pieces = pieces_of(await bench.run_all(), "a")

    assert pieces == ["begin ", long[:-1], "y"]


async def test_a_piece_of_nothing_is_not_sent() -> None:
    bench = Bench()
    bench.executor.load(CLASSIFY, Wordy("", "all", ""), bench.encoder, bench.head)
    add(bench, "a", "some words", CLASSIFY)

    assert pieces_of(await bench.run_all(), "a") == ["all"]


async def test_an_attempt_that_cannot_be_finished_sends_no_pieces() -> None:
    class Broken(Wordy):
        def finish_in_pieces(
            self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]
        ) -> tuple[Answer, Sequence[str]]:
            raise LookupError("no such word")

    bench = Bench()
    bench.executor.load(CLASSIFY, Broken("a"), bench.encoder, bench.head)
    add(bench, "a", "some words", CLASSIFY)

    [failed] = await bench.run_all()
    assert isinstance(failed, Failed)
    assert (failed.blame, failed.code) == ("model", "finish_failed")


def test_an_attempt_cancelled_in_the_middle_sends_no_pieces() -> None:
    bench = Bench()
    add(bench, "a", TEXT, SUMMARISE)
    bench.encoder.meanwhile = lambda: bench.executor.cancel(["a"])

    assert asyncio.run(bench.run_all()) == []
