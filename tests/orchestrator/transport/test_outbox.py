"""A socket's outbox: what is queued goes out in order, jobs in as few frames as may be."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from browser_node import protocol as p
from browser_node.protocol import AttemptId, CloseCode
from orchestrator.transport.nodes_ws import MAX_QUEUED_BYTES, Outbox

DIGEST = "a" * 64


def job(name: str, text: str = "hello") -> p.JobItem:
    return p.JobItem(attempt_id=name, digest=DIGEST, lease_s=2.0, tokens=3, input=text)


async def written(outbox: Outbox) -> list[p.OrchestratorFrame | int]:
    """Return the frames that the outbox writes until it is closed, then the close code."""
    sent: list[p.OrchestratorFrame | int] = []

    async def send(message: Message) -> None:
        if message["type"] == "websocket.close":
            sent.append(message["code"])
        else:
            sent.append(p.decode_from_orchestrator(message["bytes"]))

    await asyncio.wait_for(outbox.write(send), 5)
    return sent


async def test_jobs_handed_over_before_the_writer_comes_to_them_share_a_frame() -> None:
    outbox = Outbox(lambda _: None)
    outbox.hand((job("a"),))
    outbox.hand((job("b"), job("c")))
    outbox.close(CloseCode.NORMAL, "")

    frame, code = await written(outbox)

    assert frame == p.Jobs(items=(job("a"), job("b"), job("c")))
    assert code == CloseCode.NORMAL


async def test_a_cancel_goes_behind_the_job_that_it_cancels_and_before_the_next() -> None:
    outbox = Outbox(lambda _: None)
    cancel = p.Cancel(attempt_ids=(AttemptId("a"),))
    outbox.hand((job("a"),))
    outbox.send(p.encode(cancel))
    outbox.hand((job("b"),))
    outbox.close(CloseCode.NORMAL, "")

    first, second, third, _ = await written(outbox)

    assert (first, second, third) == (p.Jobs(items=(job("a"),)), cancel, p.Jobs(items=(job("b"),)))


async def test_jobs_too_many_for_one_frame_go_in_several() -> None:
    outbox = Outbox(lambda _: None)
    jobs = [job(f"a{n}", "\U0001f600" * 50_000) for n in range(9)]
    for one in jobs:
        outbox.hand((one,))
    outbox.close(CloseCode.NORMAL, "")

    *frames, _ = await written(outbox)

    sent = [frame.items for frame in frames if isinstance(frame, p.Jobs)]
    assert len(sent) == 2
    assert [item for items in sent for item in items] == jobs


@pytest.mark.parametrize("pieces", [1, 100])
async def test_a_node_that_does_not_read_is_closed_whatever_waits_for_it(pieces: int) -> None:
    reasons: list[str] = []
    outbox = Outbox(reasons.append)
    text = "x" * 100_000
    while not reasons:
        outbox.hand(tuple(job("a", text) for _ in range(pieces)))
        outbox.send(p.encode(p.Ping(n=1)))

    assert reasons[0].endswith("bytes are waiting to be read")
    assert await written(outbox) == [CloseCode.SLOW_READER]


async def test_what_was_written_counts_as_waiting_no_more() -> None:
    reasons: list[str] = []
    outbox = Outbox(reasons.append)
    written_bytes = 0
    ready = asyncio.Event()

    async def send(message: Message) -> None:
        nonlocal written_bytes
        written_bytes += len(message.get("bytes", b""))
        ready.set()

    writer = asyncio.create_task(outbox.write(send))
    while written_bytes < 2 * MAX_QUEUED_BYTES and not reasons:
        ready.clear()
        outbox.hand((job("a", "x" * 100_000),))
        await ready.wait()
    outbox.close(CloseCode.NORMAL, "")
    await writer

    assert reasons == [""]
