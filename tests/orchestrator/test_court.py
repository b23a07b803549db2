"""How answers are judged whose evidence was not shown, or is not what was committed to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from browser_node.agreement import Verdict
from browser_node.protocol import Answer, ModelDigest, Task
from orchestrator.clock import Clock
from orchestrator.court import Court
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import CheckId, Fault
from tests.arena import manifest

MODELS = {
    ModelDigest("1" * 64): manifest("iab-classification"),
    ModelDigest("2" * 64): manifest("extractive-summary"),
    ModelDigest("3" * 64): manifest("embeddings"),
}
LABELS, SUMMARY, EMBEDDING = MODELS
BY_EVIDENCE = Verdict(False, 0.5, "the evidence says so")


async def judged(digest: ModelDigest, ours: bytes, theirs: bytes, fault: Fault | None) -> ev.Judged:
    """Have an answer judged as the scheduler asks for it; its evidence alone would not agree."""
    told: asyncio.Queue[ev.Event] = asyncio.Queue()
    court = Court(
        models=MODELS,
        clock=Clock(),
        agree=lambda *_: BY_EVIDENCE,
        standings=None,
        find_standing=None,
        apply=told.put_nowait,
        record=lambda *_: None,
    )
    task = Task(input="text")
    answers = Answer(output=ours), Answer(output=theirs)
    court.compare(fx.Compare(CheckId(1), digest, task, *answers, fault))
    event = await told.get()
    court.close()
    assert isinstance(event, ev.Judged)
    return event


def labels(first: int, **changes: Any) -> bytes:
    content = {"iab_1_0": [], "iab_2_2": [{"id": first, "score": 0.5}]}
    return json.dumps({"content": content, "keywords": ["cup"], **changes}).encode()


@pytest.mark.parametrize("digest", [LABELS, SUMMARY])
async def test_the_trusted_output_agrees_without_evidence(digest: ModelDigest) -> None:
    event = await judged(digest, labels(1), labels(1), "unshown")

    assert (event.agrees, event.undecided) == (True, False)


@pytest.mark.parametrize(
    ("digest", "theirs"), [(LABELS, labels(2)), (LABELS, b"{}"), (SUMMARY, b"Buy more pills.")]
)
async def test_an_output_that_says_something_else_does_not(
    digest: ModelDigest, theirs: bytes
) -> None:
    event = await judged(digest, labels(1), theirs, "unshown")

    assert (event.agrees, event.undecided) == (False, False)
    assert "was not shown" in event.reason


async def test_a_classification_that_differs_in_what_rounding_may_change_is_not_decided() -> None:
    event = await judged(LABELS, labels(1), labels(1, keywords=["match"]), "unshown")

    assert (event.agrees, event.undecided) == (False, True)


async def test_an_embedding_is_its_own_evidence() -> None:
    event = await judged(EMBEDDING, b"same", b"same", "unshown")

    assert event.reason == BY_EVIDENCE.reason


@pytest.mark.parametrize("digest", MODELS)
async def test_forged_evidence_agrees_with_nothing(digest: ModelDigest) -> None:
    event = await judged(digest, b"same", b"same", "forged")

    assert (event.agrees, event.undecided) == (False, False)
    assert "committed to" in event.reason


async def test_what_was_shown_is_judged_by_it() -> None:
    event = await judged(LABELS, b"same", b"same", None)

    assert event.reason == BY_EVIDENCE.reason
