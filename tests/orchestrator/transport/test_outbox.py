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


def never(_: bytes) -> bool:
    """Write nothing at once, as a socket whose peer does not read."""
    return False


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
    outbox = Outbox(lambda _: None, write_now=never)
    outbox.hand((job("a"),))
    outbox.hand((job("b"), job("c")))
    outbox.close(CloseCode.NORMAL, "")

    frame, code = await written(outbox)

    assert frame == p.Jobs(items=(job("a"), job("b"), job("c")))
    assert code == CloseCode.NORMAL


async def test_a_cancel_goes_behind_the_job_that_it_cancels_and_before_the_next() -> None:
    outbox = Outbox(lambda _: None, write_now=never)
    cancel = p.Cancel(attempt_ids=(AttemptId("a"),))
    outbox.hand((job("a"),))
    outbox.send(p.encode(cancel))
    outbox.hand((job("b"),))
    outbox.close(CloseCode.NORMAL, "")

    first, second, third, _ = await written(outbox)

    assert (first, second, third) == (p.Jobs(items=(job("a"),)), cancel, p.Jobs(items=(job("b"),)))


async def test_jobs_too_many_for_one_frame_go_in_several() -> None:
    outbox = Outbox(lambda _: None, write_now=never)
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
    outbox = Outbox(reasons.append, write_now=never)
    text = "x" * 100_000
    while not reasons:
        outbox.hand(tuple(job("a", text) for _ in range(pieces)))
        outbox.send(p.encode(p.Ping(n=1)))

    assert reasons[0].endswith("bytes are waiting to be read")
    assert await written(outbox) == [CloseCode.SLOW_READER]


async def test_what_was_written_counts_as_waiting_no_more() -> None:
    reasons: list[str] = []
    outbox = Outbox(reasons.append, write_now=never)
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


async def test_what_can_be_written_at_once_needs_no_writer_and_counts_as_waiting_no_more() -> None:
    reasons: list[str] = []
    sent: list[p.OrchestratorFrame] = []
    frames = asyncio.Event()

    def at_once(data: bytes) -> bool:
        sent.append(p.decode_from_orchestrator(data))
        frames.set()
        return True

    outbox = Outbox(reasons.append, write_now=at_once)
    big = "x" * 100_000
    for n in range(MAX_QUEUED_BYTES // len(big) + 2):
        frames.clear()
        outbox.hand((job(f"a{n}", big),))
        outbox.hand((job(f"b{n}"),))
        await asyncio.wait_for(frames.wait(), 5)
        assert sent[-1] == p.Jobs(items=(job(f"a{n}", big), job(f"b{n}")))

    assert reasons == []


async def test_nothing_goes_ahead_of_a_frame_that_waits_for_its_reader() -> None:
    sent: list[int] = []
    reads = True
    reading = asyncio.Event()

    def at_once(data: bytes) -> bool:
        if reads:
            keep(data)
        return reads

    def keep(data: bytes) -> None:
        frame = p.decode_from_orchestrator(data)
        assert isinstance(frame, p.Ping)
        sent.append(frame.n)

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            await reading.wait()
            keep(message["bytes"])

    outbox = Outbox(lambda _: None, write_now=at_once)
    writer = asyncio.create_task(outbox.write(send))
    for n in range(6):
        reads = n != 2
        outbox.send(p.encode(p.Ping(n=n)))
        # Two turns: one to write, one for the writer to take what could not be written.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert sent == [0, 1]
    reading.set()
    outbox.close(CloseCode.NORMAL, "")
    await writer

    assert sent == [0, 1, 2, 3, 4, 5]
