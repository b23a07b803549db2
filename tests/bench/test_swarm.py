"""The swarm: what it counts, and that a small one loses nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from bench import swarm, swarm_customer
from bench.stub import vector_of
from bench.swarm import Found, Joining, Phase, Plan
from bench.swarm_customer import Asked, Customer, Order, Outcome, text_of
from bench.swarm_nodes import Kill, Served, number_of

DIMENSIONS = 4
PLAN = Plan(idle=10, busy=5, per_s=5, still_s=1, calm_s=1, kills=1, every_s=1)

Reply = Callable[[int], bytes]


def answer(number: int, *, text: str | None = None, times: int = 1) -> bytes:
    """Return the right answer to a text, or the one to ``text`` instead."""
    vector = vector_of(text or text_of(number), DIMENSIONS)
    body = json.dumps({"data": [{"embedding": base64.b64encode(vector).decode()}]}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nx-inference-type: edge\r\n\r\n"
    return (head.encode() + body) * times


@contextlib.asynccontextmanager
async def answering(reply: Reply, lines: list[int]) -> AsyncIterator[int]:
    """Run a server that answers text n with ``reply(n)``, or cuts the line at nothing.

    ``lines`` gets a number for each connection.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(len(lines))
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                if not (data := reply(number_of(asked["input"]))):
                    break
                writer.write(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def ask(reply: Reply, *, patience_s: float = 5.0, lines: list[int] | None = None) -> Outcome:
    """Ask for texts 7 to 11."""
    async with answering(reply, [] if lines is None else lines) as port:
        order = Order(
            port=port,
            api_key="k",
            per_s=20_000,
            seconds=0.000_25,
            first=7,
            dimensions=DIMENSIONS,
            patience_s=patience_s,
        )
        return await Customer(order).run()


def test_every_text_is_another_and_says_its_number() -> None:
    texts = [text_of(number) for number in range(500)]

    assert len(set(texts)) == 500
    assert [number_of(text) for text in texts] == list(range(500))
    assert number_of("A cold front crosses the coast.") == -1


async def test_the_customer_asks_each_text_once_and_knows_the_right_answer() -> None:
    outcome = await ask(answer)

    assert [one.number for one in outcome.asked] == [7, 8, 9, 10, 11]
    assert all(one.is_right and one.place == "edge" for one in outcome.asked)
    assert all(0 < one.sent_at <= one.answered_at for one in outcome.asked)
    assert outcome.strays == 0


async def test_the_answer_to_another_text_is_wrong() -> None:
    outcome = await ask(lambda n: answer(n, text=text_of(8)))

    assert [one.is_right for one in outcome.asked] == [False, True, False, False, False]


async def test_a_second_answer_to_one_request_is_a_stray() -> None:
    outcome = await ask(lambda n: answer(n, times=2 if n == 11 else 1))

    assert [one.status for one in outcome.asked] == ["200"] * 5
    assert outcome.strays == 1


async def test_what_no_line_is_left_for_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_customer, "_LINES_MAX", 1)
    lines: list[int] = []

    outcome = await ask(answer, lines=lines)

    assert len(lines) == 1
    assert [(one.number, one.is_right) for one in outcome.asked] == [
        (n, True) for n in range(7, 12)
    ]


async def test_a_request_whose_line_is_cut_stays_without_an_answer() -> None:
    outcome = await ask(lambda n: b"" if n == 9 else answer(n))

    assert [one.status for one in outcome.asked] == ["200", "200", "closed", "200", "200"]


async def test_a_request_that_nobody_answers_is_not_waited_for_without_end() -> None:
    outcome = await ask(lambda n: answer(n)[: -1 if n == 9 else None], patience_s=0.1)

    assert [one.status for one in outcome.asked if one.number == 9] == [""]


def asked(number: int, *, sent_at: float, answered_at: float, status: str = "200") -> Asked:
    return Asked(number, sent_at, answered_at, status, "edge", is_right=status == "200")


def test_added_time_is_what_the_delivering_node_did_not_work() -> None:
    # Text 1 was answered a second time, later: that answer was not the customer's.
    work_s = swarm.work_of([Served(1, 10.4, 0.3), Served(1, 10.9, 0.8), Served(2, 10.5, 0.5)])

    found = swarm.waits(
        [
            asked(1, sent_at=10.0, answered_at=10.5),
            asked(2, sent_at=10.0, answered_at=10.6),
            asked(3, sent_at=10.0, answered_at=0.0, status=""),
        ],
        work_s,
    )

    assert found.added_s == pytest.approx([0.1, 0.2])
    assert (found.sent, found.right, found.others) == (3, 2, {"none": 1})


def test_a_job_hit_by_a_kill_is_timed_from_the_last_one_that_hit_it() -> None:
    kills = [Kill(10.0, 3, [1, 2, 3]), Kill(11.0, 3, [2])]
    answers = [
        asked(1, sent_at=9.9, answered_at=10.5),
        asked(2, sent_at=9.9, answered_at=11.6),
        asked(3, sent_at=9.0, answered_at=9.99),  # its answer left just before
        asked(4, sent_at=9.9, answered_at=10.1),
    ]

    assert swarm.moves(kills, answers, {1: 0.3, 2: 0.3}) == pytest.approx([0.2, 0.3])


def found_with(
    asked: Sequence[Asked], *, dropped: int = 0, strays: int = 0, kills: Sequence[Kill] = ()
) -> Found:
    return Found(
        joining=Joining(
            nodes=10,
            seconds=2,
            cpu_s=0.1,
            before_mb=90,
            after_mb=90.5,
            still_cpu=0.01,
            probes_per_s=8,
        ),
        phases=[Phase("warm-up", [], 0, 0.1), Phase("kills", asked, strays, 0.2)],
        kills=kills,
        served=[Served(1, 1.5, 0.5)],
        dropped=dropped,
        failed_joins=0,
        counters={"jobs_rerouted": 3},
        last_mb=91,
    )


def test_the_report_says_what_was_lost() -> None:
    answers = [
        asked(1, sent_at=1.0, answered_at=1.6),
        asked(2, sent_at=1.0, answered_at=0.0, status=""),
        asked(3, sent_at=1.0, answered_at=1.2, status="503"),
    ]

    section = swarm.report(PLAN, found_with(answers, dropped=4, strays=1))

    figures = {figure.name: figure for figure in section.figures}
    lost = figures["requests without the one right answer"]
    assert (lost.value, lost.met) == (2, False)
    assert figures["answers that nobody waited for"].value == 1
    assert figures["connections lost without a kill"].value == 4
    assert figures["memory per idle connection"].value == pytest.approx(50)
    assert figures["CPU per joining node"].value == pytest.approx(10)
    assert figures["added p50, kills"].value == pytest.approx(100)
    assert section.tables[1].rows == [("1", "0", "0", "0", "3", "–", "–", "–")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8, and /proc")
def test_a_small_swarm_loses_nothing_while_its_nodes_are_killed() -> None:
    plan = Plan(
        idle=30,
        busy=10,
        per_s=10,
        warm_up_s=0.5,
        still_s=0.5,
        calm_s=0.5,
        kills=3,
        every_s=1,
        share=0.3,
    )

    found = swarm.run(plan)

    requests = [one for phase in found.phases for one in phase.asked]
    assert [one.number for one in requests] == list(range(len(requests)))
    assert all(one.is_right for one in requests)
    assert not any(phase.strays for phase in found.phases)
    assert found.dropped == 0
    # Of the nodes that are there: one or the other may be on its way back.
    assert sum(kill.nodes for kill in found.kills) in range(30, 37)
    assert any(kill.held for kill in found.kills)
    assert found.counters["requests_total"] == len(requests)
    assert found.counters["jobs_failed"] == 0
    assert found.counters["nodes"] == plan.idle + plan.busy
