"""Known attacks over real sockets: on identities, sessions, attempts of others, and time."""

from __future__ import annotations

import asyncio
from typing import Any

from browser_node import protocol as p
from browser_node.protocol import CloseCode
from orchestrator.domain.model import Answered
from tests.arena import Arena, arena
from tests.fakes import ScriptedNode, vector_of
from tests.orchestrator.attackers import (
    HARDLY_ANY,
    POLICY,
    RUNTIME,
    agreed,
    ask,
    garbage,
    gone,
    identity_of,
    level,
    of_customers,
    quiet,
    send,
    stage,
    tells,
    trusted,
    wrong,
)

# ── sessions and identities ──────────────────────────────────────────────────────────────────────


async def rejoin(a: Arena, node: ScriptedNode, **options: Any) -> ScriptedNode:
    """Connect again with the key of ``node``; return without waiting for more than a welcome."""
    again = a.node(**options)
    again.key = node.key
    await again.join(a.url)
    await asyncio.wait_for(again.welcomed.wait(), 10)
    return again


async def quarantined(a: Arena) -> ScriptedNode:
    liar = await a.join(on_jobs=tells(garbage))
    await gone(a, liar)
    return liar


async def test_a_quarantine_outlives_the_session_and_the_server() -> None:
    async with stage() as (a, shelf):
        liar = await quarantined(a)
        await liar.leave()
        again = await rejoin(a, liar)
        await gone(a, again)
    async with arena(policy=POLICY, standings=shelf, find_standing=shelf.find) as restarted:
        await restarted.join_worker()
        later = await rejoin(restarted, liar)
        await restarted.until(lambda: level(restarted, later) == "quarantined")

        answers = await ask(restarted, 5)

    assert {answer.place for answer in answers} == {"cloud"}
    assert again.jobs_seen == later.jobs_seen == []


async def test_an_operators_release_gives_a_quarantined_node_another_start() -> None:
    async with stage() as (a, shelf):
        liar = await quarantined(a)
        liar.on_jobs = None  # and from now on it is honest
        record = shelf.find(identity_of(liar), RUNTIME)

        known_here = a.engine.order_standing(identity_of(liar), RUNTIME, "release", record)
        await a.until(lambda: agreed(shelf, liar) >= 3)

        assert known_here
        assert level(a, liar) == "newcomer"
        assert not shelf.records[identity_of(liar), RUNTIME].quarantined


async def test_a_release_lifts_what_only_the_records_know_of() -> None:
    async with stage() as (a, shelf):
        node = await a.join()
        await a.until(lambda: agreed(shelf, node) >= 3)
        kept = shelf.records[identity_of(node), RUNTIME]
        kept.quarantined = True  # by the command line, while the server was running

        a.engine.order_standing(identity_of(node), RUNTIME, "release", kept)

        assert not shelf.records[identity_of(node), RUNTIME].quarantined


async def test_a_banned_identity_is_refused_at_the_door_with_a_code() -> None:
    async with stage() as (a, shelf):
        node = await a.join()
        identity = identity_of(node)
        a.engine.order_standing(identity, RUNTIME, "ban", shelf.find(identity, RUNTIME))
        await asyncio.wait_for(node.closed.wait(), 10)

        again = await rejoin(a, node)
        await asyncio.wait_for(again.closed.wait(), 10)

        assert node.close_code == again.close_code == CloseCode.BANNED
        assert len(a.engine.fleet().nodes) == 1  # the CPU worker


async def test_a_session_ticket_is_worth_nothing_to_another_key() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        victim = await trusted(a, shelf)
        thief = a.node(on_jobs=tells(garbage))
        thief.ticket = victim.ticket
        await thief.join(a.url)
        await asyncio.wait_for(thief.calibrated.wait(), 10)
        await a.settled()

        answers = await ask(a, 3)

        assert thief.node_id != victim.node_id
        assert level(a, thief) != "trusted"
        assert not victim.closed.is_set()
        assert {answer.node_id for answer in answers} == {victim.node_id}


async def test_who_reconnects_under_new_identities_starts_as_a_newcomer_each_time() -> None:
    async with stage() as (a, shelf):
        answers: list[Answered] = []
        for _ in range(5):
            liar = await a.join(on_jobs=tells(garbage, when=of_customers))
            answers += await ask(a, 6, first=len(answers))
            await gone(a, liar)
            await liar.leave()

        assert wrong(answers) == []
        assert len(shelf.records) == 5


async def test_a_swarm_from_one_network_sees_only_so_many_customers_texts_at_once() -> None:
    async with stage(newcomers_per_network=2) as (a, _):
        held: list[p.JobItem] = []

        def hoard(node: ScriptedNode, frame: p.Jobs) -> None:
            for item in frame.items:
                if of_customers(item):
                    held.append(item)
                else:
                    node.answer(item)

        for _number in range(6):
            await a.join(on_jobs=hoard)
        await quiet(a)

        answers = await ask(a, 12)

        assert wrong(answers) == []
        assert len(held) == 2


# ── what was never asked for ─────────────────────────────────────────────────────────────────────


async def test_results_for_attempts_that_were_never_given_change_nothing() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        liar = await trusted(a, shelf)
        before = shelf.records[identity_of(liar), RUNTIME]
        for number in range(200):
            send(liar, f"att_{number:016x}", vector_of("never asked"))

        answers = await ask(a, 5)

        assert wrong(answers) == []
        assert a.engine.totals().late == 200
        assert shelf.records[identity_of(liar), RUNTIME] == before
        assert not liar.closed.is_set()


async def test_results_for_another_nodes_attempt_change_nothing() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        victim = await trusted(a, shelf, tokens_per_s=1e6, on_jobs=lambda _node, _frame: None)
        thief = await trusted(a, shelf, tokens_per_s=10.0)
        asked = asyncio.create_task(ask(a, 1))
        await asyncio.wait_for(victim.got_jobs.wait(), 10)
        [item] = victim.jobs_seen

        send(thief, item.attempt_id, vector_of("not its own"))
        await a.until(lambda: a.engine.totals().late == 1)
        victim.answer(item)

        [answer] = await asked
        assert (answer.node_id, answer.output) == (victim.node_id, vector_of("text 0"))


async def test_the_same_attempt_answered_again_is_delivered_once_and_for_good() -> None:
    def twice(node: ScriptedNode, frame: p.Jobs) -> None:
        node.answer(*frame.items)
        for item in frame.items:
            send(node, item.attempt_id, garbage(node, item))

    async with stage(HARDLY_ANY) as (a, shelf):
        await trusted(a, shelf, on_jobs=twice)

        answers = await ask(a, 5)

        assert wrong(answers) == []
        assert a.engine.totals().answered_edge == 5


# ── time ─────────────────────────────────────────────────────────────────────────────────────────


async def test_who_takes_jobs_and_stalls_costs_one_lease_and_gets_no_more() -> None:
    async with stage(HARDLY_ANY) as (a, shelf):
        staller = await trusted(a, shelf, on_jobs=lambda _node, _frame: None)

        answers = await ask(a, 10)

        assert wrong(answers) == []
        assert [answer.attempts for answer in answers] == [2] + [1] * 9
        assert len(staller.jobs_seen) == 1


async def test_newcomers_that_stall_delay_no_customer_at_all() -> None:
    async with stage() as (a, _):
        await a.join(on_jobs=lambda _node, _frame: None)

        answers = await ask(a, 10)

        assert wrong(answers) == []
        assert a.engine.totals().rerouted == 0
