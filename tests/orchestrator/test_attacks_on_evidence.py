"""Attacks on what answers rest on: nodes that lie and are asked to show how they came to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from browser_node import protocol as p
from orchestrator.domain.model import Answered
from tests.arena import Arena, frames, manifest
from tests.fakes import ScriptedNode, Shelf, answer_of
from tests.orchestrator.attackers import (
    EVERY_ANSWER,
    HARDLY_ANY,
    RUNTIME,
    ask,
    identity_of,
    level,
    quiet,
    stage,
    trusted,
)

SUMMARIES = manifest("extractive-summary")
OnReveal = Callable[[ScriptedNode, p.Reveal], None]


def right(number: int) -> bytes:
    return answer_of(SUMMARIES, p.Task(input=f"text {number}")).output


def wrong(answers: list[Answered]) -> list[Answered]:
    return [one for number, one in enumerate(answers) if one.output != right(number)]


def lies(node: ScriptedNode, frame: p.Jobs) -> None:
    """Answer something else, and commit to the evidence of the right answer."""
    for item in frame.items:
        honest = answer_of(SUMMARIES, item)
        lie = p.Answer(output=b"Buy more pills.", evidence=honest.evidence)
        node.send(p.Results(items=(node.result(item, lie),)))


def lies_without_computing(node: ScriptedNode, frame: p.Jobs) -> None:
    """Answer something else and commit to nothing that exists: right evidence takes work."""
    for item in frame.items:
        lie = p.Answer(output=b"Buy more pills.", evidence=b"nothing of the kind")
        node.send(p.Results(items=(node.result(item, lie),)))
        node.evidence[item.attempt_id] = answer_of(SUMMARIES, item).evidence


def shows_it(node: ScriptedNode, frame: p.Reveal) -> None:
    node.show(frame.attempt_ids)


def has_lost_it(node: ScriptedNode, frame: p.Reveal) -> None:
    items = tuple(p.Shown(attempt_id=one, evidence=None) for one in frame.attempt_ids)
    node.send(p.Revealed(items=items))


def runs_away(node: ScriptedNode, _: p.Reveal) -> None:
    node.drop()


def shows_what_nobody_asked_for(node: ScriptedNode, _: p.Reveal) -> None:
    node.show(["att_other"], b"look here")


async def found_out(a: Arena, shelf: Shelf, liar: ScriptedNode) -> None:
    """Wait until a disagreement stands in the node's record."""
    await a.until(lambda: shelf.records[identity_of(liar), RUNTIME].disagreed > 0)


async def test_an_honest_node_is_asked_for_what_is_audited_and_keeps_its_trust() -> None:
    async with stage(EVERY_ANSWER, models=[SUMMARIES]) as (a, shelf):
        honest = await trusted(a, shelf)

        answers = await ask(a, 5)
        await a.until(lambda: shelf.records[identity_of(honest), RUNTIME].agreed == 1005)

        assert wrong(answers) == []
        assert {answer.place for answer in answers} == {"edge"}
        assert len(frames(honest, p.Reveal)) == 5


async def test_a_node_that_is_not_audited_uploads_no_evidence() -> None:
    async with stage(HARDLY_ANY, models=[SUMMARIES]) as (a, shelf):
        honest = await trusted(a, shelf)

        answers = await ask(a, 5)
        await quiet(a)

        assert {answer.place for answer in answers} == {"edge"}
        assert frames(honest, p.Reveal) == []


@pytest.mark.parametrize(
    "when_asked", [shows_it, has_lost_it, runs_away, shows_what_nobody_asked_for]
)
async def test_a_lie_is_found_whatever_its_node_does_when_it_is_asked(when_asked: OnReveal) -> None:
    async with stage(EVERY_ANSWER, models=[SUMMARIES]) as (a, shelf):
        liar = await trusted(a, shelf, on_jobs=lies, on_reveal=when_asked)

        first = await ask(a, 1)
        await found_out(a, shelf, liar)

        assert len(wrong(first)) == 1
        assert shelf.evidence[0].kind == "audit"


async def test_the_right_evidence_does_not_help_who_had_committed_to_other() -> None:
    async with stage(EVERY_ANSWER, models=[SUMMARIES]) as (a, shelf):
        liar = await trusted(a, shelf, on_jobs=lies_without_computing)

        await ask(a, 1)
        await found_out(a, shelf, liar)

        assert "other evidence than it had committed to" in shelf.evidence[0].reason


async def test_who_runs_away_from_every_audit_is_out_after_the_second() -> None:
    async with stage(EVERY_ANSWER, models=[SUMMARIES]) as (a, shelf):
        liar = await trusted(a, shelf, on_jobs=lies, on_reveal=runs_away)
        await ask(a, 1)
        await found_out(a, shelf, liar)

        again = a.node(on_jobs=lies, on_reveal=runs_away)
        again.key = liar.key
        await again.join(a.url)
        await a.until(lambda: level(a, again) == "newcomer")
        answers = await ask(a, 5)

        # It is believed no more: what it says is compared, and not delivered.
        assert {answer.place for answer in answers} == {"cloud"}
        assert wrong(answers) == []


async def test_an_honest_node_that_leaves_while_it_is_asked_keeps_its_trust() -> None:
    async with stage(EVERY_ANSWER, models=[SUMMARIES]) as (a, shelf):
        honest = await trusted(a, shelf, on_reveal=runs_away)

        await ask(a, 1)
        await a.until(lambda: shelf.records[identity_of(honest), RUNTIME].agreed == 1001)

        assert shelf.records[identity_of(honest), RUNTIME].disagreed == 0
        assert shelf.evidence == []


async def test_a_node_from_before_commitments_is_judged_by_what_it_sends_along() -> None:
    async with stage(EVERY_ANSWER, models=[SUMMARIES]) as (a, shelf):

        def sends_it_along(node: ScriptedNode, frame: p.Jobs) -> None:
            for item in frame.items:
                right = answer_of(SUMMARIES, item)
                result = p.Result(
                    attempt_id=item.attempt_id,
                    output=right.output,
                    evidence=right.evidence,
                    compute_s=0.001,
                )
                node.send(p.Results(items=(result,)))

        old = await trusted(a, shelf, on_jobs=sends_it_along)

        await ask(a, 3)
        await a.until(lambda: shelf.records[identity_of(old), RUNTIME].agreed == 1003)

        assert frames(old, p.Reveal) == []
