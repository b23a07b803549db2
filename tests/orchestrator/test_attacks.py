"""Known attacks over real sockets: what each kind of liar achieves, and what it costs.

The CPU worker is honest; `Shelf` is the database. Speeds and lies are scripted, the rest is real.
"""

from __future__ import annotations

import asyncio

import pytest

from browser_node import protocol as p
from orchestrator.domain.model import Answered
from orchestrator.domain.trust import Policy
from tests.arena import frames
from tests.fakes import ScriptedNode, vector_of
from tests.orchestrator.attackers import (
    ALWAYS,
    EVERY_ANSWER,
    HARDLY_ANY,
    RUNTIME,
    Lie,
    agreed,
    another_jobs_result,
    ask,
    done,
    garbage,
    gone,
    identity_of,
    level,
    of_customers,
    out_of_shape,
    quiet,
    stage,
    tells,
    the_same_always,
    trusted,
    twice_as_long,
    wrong,
)

# ── liars from the first job on ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lie", [garbage, twice_as_long, the_same_always, another_jobs_result])
async def test_a_node_that_lies_after_an_honest_calibration_is_never_delivered(lie: Lie) -> None:
    async with stage() as (a, shelf):
        liar = await a.join(on_jobs=tells(lie))

        answers = await ask(a, 10)
        await gone(a, liar)

        assert wrong(answers) == []
        assert {answer.place for answer in answers} == {"cloud"}
        assert shelf.records[identity_of(liar), RUNTIME].disagreed == 2
        assert len(shelf.evidence) == 2
        [notice] = frames(liar, p.Notice)
        assert "no work" in notice.text


async def test_who_is_honest_on_texts_it_can_know_and_lies_to_customers_is_found_out() -> None:
    async with stage() as (a, shelf):
        liar = await a.join(on_jobs=tells(garbage, when=of_customers))
        await a.until(lambda: agreed(shelf, liar) >= 3)

        answers = await ask(a, 10)
        await gone(a, liar)

        assert wrong(answers) == []
        assert any(of_customers(item) for item in liar.jobs_seen)


@pytest.mark.parametrize(("honest", "place"), [(True, "edge"), (False, "cloud")])
async def test_a_newcomers_answer_that_comes_first_waits_for_the_cpu_workers(
    honest: bool, place: str
) -> None:
    late: list[tuple[ScriptedNode, p.Jobs]] = []

    def hold(node: ScriptedNode, frame: p.Jobs) -> None:
        late.append((node, frame))

    async with stage(worker={"on_jobs": hold}) as (a, shelf):
        lies = tells(garbage, when=lambda item: of_customers(item) and not honest)
        newcomer = await a.join(on_jobs=lies)
        await a.until(lambda: agreed(shelf, newcomer) >= 3)
        await quiet(a)

        asked = asyncio.create_task(ask(a, 1))
        await a.until(lambda: any(of_customers(item) for item in newcomer.jobs_seen))
        await a.until(lambda: done(a, newcomer) == len(newcomer.jobs_seen))
        assert not asked.done()
        for worker, frame in late:
            worker.answer(*frame.items)

        [answer] = await asked
        assert (answer.output, answer.place) == (vector_of("text 0"), place)


async def test_answers_out_of_shape_are_delivered_to_nobody_and_earn_a_pause() -> None:
    async with stage() as (a, shelf):
        liar = await trusted(a, shelf, on_jobs=tells(out_of_shape))

        answers = await ask(a, 10)

        assert wrong(answers) == []
        assert answers[0].attempts == 2
        assert [answer.attempts for answer in answers[1:]] == [1] * 9
        assert len(liar.jobs_seen) == 1


async def test_an_honest_newcomer_is_delivered_as_edge_once_it_is_trusted() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        honest = await a.join()
        await a.until(lambda: agreed(shelf, honest) >= 3)
        before = level(a, honest)
        await ask(a, 1)
        await a.until(lambda: level(a, honest) == "trusted")

        [answer] = await ask(a, 1, first=1)

        assert before == "newcomer"
        assert (answer.place, answer.node_id) == ("edge", honest.node_id)
        assert shelf.records[identity_of(honest), RUNTIME].real >= 1


# ── liars that were trusted ──────────────────────────────────────────────────────────────────────


async def test_a_trusted_node_that_starts_to_lie_is_out_after_two_lies_that_audits_saw() -> None:
    async with stage(EVERY_ANSWER) as (a, shelf):
        sleeper = await trusted(a, shelf, on_jobs=tells(garbage))

        first = await ask(a, 1)
        await a.until(lambda: level(a, sleeper) != "trusted")
        rest = await ask(a, 20, first=1)
        await gone(a, sleeper)

        # What an audit finds was delivered: that one, and nothing after it.
        assert (len(wrong(first)), wrong(rest, first=1)) == (1, [])
        assert shelf.evidence[0].kind == "audit"
        assert len(shelf.evidence) == 2


async def test_what_a_sleeper_that_lies_now_and_then_delivers_is_bounded_by_the_audits() -> None:
    async with stage(Policy(audit_share=0.5)) as (a, shelf):
        sleeper = await trusted(
            a, shelf, on_jobs=tells(garbage, when=lambda item: item.input.endswith(("3", "7")))
        )
        delivered: list[Answered] = []
        while level(a, sleeper) != "quarantined":
            delivered += await ask(a, 1, first=len(delivered))
            await quiet(a)
            assert len(delivered) < 1000
        after = await ask(a, 20, first=len(delivered))

        # Half of its answers are looked at, and the second lie seen is its last.
        assert 1 <= len(wrong(delivered)) <= 30
        assert wrong(after, first=len(delivered)) == []


async def test_who_says_the_same_always_is_found_out_although_hardly_any_answer_is_audited() -> (
    None
):
    async with stage(HARDLY_ANY) as (a, shelf):
        honest = await trusted(a, shelf)
        await ask(a, 100)  # so that there is something to compare with
        await honest.leave()
        lazy = await trusted(a, shelf, on_jobs=tells(the_same_always))
        answers: list[Answered] = []
        while level(a, lazy) == "trusted" and len(answers) < 50:
            answers += await ask(a, 1, first=1000 + len(answers))
            await quiet(a)

        assert level(a, lazy) != "trusted"
        assert 0 < len(wrong(answers, first=1000)) <= 8


# ── colluders ────────────────────────────────────────────────────────────────────────────────────


async def test_two_liars_of_one_network_are_not_paired() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        for _ in range(2):
            await trusted(a, shelf, on_jobs=tells(the_same_always))

        answers = await ask(a, 5, rules=ALWAYS)

        assert wrong(answers) == []
        assert {answer.place for answer in answers} == {"cloud"}


async def test_two_tabs_of_one_key_are_not_paired_whatever_network_they_come_from() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        first = await trusted(a, shelf, on_jobs=tells(the_same_always))
        second = a.node(on_jobs=tells(the_same_always), address="127.0.0.2")
        second.key = first.key
        await second.join(a.url)
        await a.until(lambda: level(a, second) == "trusted")
        await a.settled()

        answers = await ask(a, 5, rules=ALWAYS)

        assert wrong(answers) == []


async def test_a_pair_with_one_liar_is_decided_by_the_cpu_worker_and_the_liar_pays() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        honest = await trusted(a, shelf)
        liar = await trusted(a, shelf, on_jobs=tells(garbage), address="127.0.0.2")

        answers = await ask(a, 1, rules=ALWAYS)
        await a.until(lambda: level(a, liar) != "trusted")

        assert wrong(answers) == []
        assert answers[0].place == "cloud"
        assert level(a, honest) == "trusted"


async def test_two_liars_of_different_networks_are_believed_until_an_audit_sees_them() -> None:
    """The known limit of asking two: who has two keys, two networks and patience is believed."""
    async with stage(EVERY_ANSWER) as (a, shelf):
        liars = [
            await trusted(a, shelf, on_jobs=tells(the_same_always), address=address)
            for address in ("127.0.0.2", "127.0.0.3")
        ]

        first = await ask(a, 1, rules=ALWAYS)
        await a.until(lambda: all(level(a, liar) != "trusted" for liar in liars))
        rest = await ask(a, 5, first=1, rules=ALWAYS)

        assert [answer.place for answer in wrong(first)] == ["edge"]
        assert wrong(rest, first=1) == []
        assert [evidence.kind for evidence in shelf.evidence[:2]] == ["audit", "audit"]


async def test_many_newcomers_that_tell_the_same_lie_do_not_vouch_for_each_other() -> None:
    async with stage() as (a, _):
        liars = [
            await a.join(on_jobs=tells(the_same_always, when=of_customers), address=f"127.0.1.{n}")
            for n in range(1, 5)
        ]

        answers = await ask(a, 20)
        await a.until(lambda: all(level(a, liar) == "quarantined" for liar in liars))

        assert wrong(answers) == []
