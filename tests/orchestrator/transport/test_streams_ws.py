"""Answers in pieces over real sockets: from nodes, through the engine, to whoever asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from browser_node import protocol as p
from browser_node.models import Manifest, decode_manifest, digest_of
from orchestrator import errors
from orchestrator.domain.model import Answered
from tests.arena import Arena, arena, frames, manifest
from tests.browser_node.graphs import hungry_backbone
from tests.browser_node.processes import ROOT
from tests.browser_node.tiny import build
from tests.fakes import ScriptedNode

SUMMARY = manifest("extractive-summary")
TEXT = "The first of the words. The second of them."
Stream = AsyncGenerator[str | Answered, None]


def keep(node: ScriptedNode, frame: p.Jobs) -> None:
    """Leave the jobs to the test."""


def tell(node: ScriptedNode, *texts: str, since: int = 0) -> None:
    """Send pieces of the one answer that the node was asked for."""
    [item] = node.jobs_seen
    for seq, text in enumerate(texts, start=since):
        node.send(p.Delta(attempt_id=item.attempt_id, seq=seq, text=text))


async def piece(stream: Stream) -> str:
    got = await asyncio.wait_for(anext(stream), 10)
    assert isinstance(got, str)
    return got


async def rest(stream: Stream) -> tuple[str, Answered]:
    """Return the text that is still to come, and the answer at its end."""
    texts: list[str] = []
    async with asyncio.timeout(10):
        async for got in stream:
            if isinstance(got, Answered):
                assert [more async for more in stream] == []
                return "".join(texts), got
            texts.append(got)
    raise AssertionError("the stream ended without an answer")


async def begun(a: Arena, stream: Stream, text: str) -> ScriptedNode:
    """Let whichever node got the job tell ``text``, take that, and return the node."""
    first = asyncio.create_task(piece(stream))
    await a.until(lambda: any(node.jobs_seen for node in a.nodes))
    [node] = [node for node in a.nodes if node.jobs_seen]
    tell(node, text)
    assert await first == text
    return node


async def taking_over(a: Arena, lost: ScriptedNode) -> ScriptedNode:
    """Take a node down; return the one that gets its job."""
    lost.drop()
    await a.until(lambda: any(node.jobs_seen for node in a.nodes if node is not lost))
    [node] = [node for node in a.nodes if node is not lost and node.jobs_seen]
    return node


def nothing_is_held(a: Arena) -> bool:
    totals = a.engine.totals()
    return not totals.queued and not totals.running


# ── pieces and answers ───────────────────────────────────────────────────────────────────────────


async def test_pieces_are_handed_on_as_they_come_and_the_answer_last() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)

        node = await begun(a, stream, "The first")
        tell(node, " of the", since=1)
        assert await piece(stream) == " of the"
        node.answer(*node.jobs_seen)
        text, answered = await rest(stream)

        assert f"The first of the{text}" == answered.output.decode() == TEXT
        assert (answered.place, answered.node_id) == ("edge", node.node_id)


async def test_pieces_that_came_while_the_customer_was_busy_are_one() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        node = await begun(a, stream, "The")

        tell(node, " first", " of", " the", since=1)
        node.answer(*node.jobs_seen)
        assert await a.engine.drain(10)

        assert await piece(stream) == TEXT.removeprefix("The")
        assert (await rest(stream))[0] == ""


async def test_an_answer_without_pieces_comes_alone() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.join()

        text, answered = await rest(a.stream("hello world"))

        assert text == ""
        assert answered.node_id == node.node_id
        assert [item.stream for item in node.jobs_seen] == [True]


async def test_who_did_not_ask_for_pieces_gets_none() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        node = await a.join()

        [answered] = await a.answer(TEXT)

        assert answered.output.decode() == TEXT
        assert [item.stream for item in node.jobs_seen] == [False]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_that_nobody_can_take_fails_before_the_first_piece() -> None:
    async with arena(SUMMARY) as a:
        with pytest.raises(errors.NoCapacity):
            await piece(a.stream(TEXT))


async def test_a_job_may_fail_after_pieces_with_its_own_error() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT, deadline_s=0.5)
        await begun(a, stream, "The")

        with pytest.raises(errors.DeadlineExceeded):
            await rest(stream)
        assert nothing_is_held(a)


async def test_when_a_node_dies_another_goes_on_without_repeating_anything() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        lost = await begun(a, stream, "The first of")

        node = await taking_over(a, lost)
        tell(node, "The first", " of the words.")
        assert await piece(stream) == " the words."
        node.answer(*node.jobs_seen)
        text, answered = await rest(stream)

        assert text == " The second of them."
        assert (answered.output.decode(), answered.node_id) == (TEXT, node.node_id)


async def test_when_the_last_node_dies_the_cpu_workers_whole_answer_goes_on() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        lost = await begun(a, stream, "The first of")

        lost.drop()
        text, answered = await rest(stream)

        assert (text, answered.place) == (TEXT.removeprefix("The first of"), "cloud")


async def test_pieces_that_begin_otherwise_end_the_stream_and_take_the_job_back() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        lost = await begun(a, stream, "The first of")

        node = await taking_over(a, lost)
        tell(node, "The last of")
        with pytest.raises(errors.InternalError, match="Send the request again") as error:
            await rest(stream)

        assert (error.value.code, error.value.retry_after_s) == ("stream_interrupted", None)
        assert nothing_is_held(a)
        await a.until(lambda: len(frames(node, p.Cancel)) == 1)


async def test_an_answer_that_begins_otherwise_ends_the_stream() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        node = await begun(a, stream, "What is not there.")

        node.answer(*node.jobs_seen)

        with pytest.raises(errors.InternalError) as error:
            await rest(stream)
        assert error.value.code == "stream_interrupted"


# ── leaving ──────────────────────────────────────────────────────────────────────────────────────


async def test_who_closes_the_stream_takes_the_job_back() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        node = await begun(a, stream, "The")
        assert not nothing_is_held(a)

        await stream.aclose()

        assert nothing_is_held(a)
        await a.until(lambda: len(frames(node, p.Cancel)) == 1)
        assert await a.engine.drain(10)


@pytest.mark.parametrize("pieces", [0, 1])
async def test_who_is_cancelled_while_waiting_takes_the_job_back(pieces: int) -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        node = await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        if pieces:
            await begun(a, stream, "The")
        waiting = asyncio.create_task(rest(stream))
        await asyncio.sleep(0)
        await a.until(lambda: bool(node.jobs_seen))

        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

        assert nothing_is_held(a)
        await a.until(lambda: len(frames(node, p.Cancel)) == 1)
        tell(node, "too late", since=pieces)
        node.on_jobs = None
        assert (await a.answer("and another"))[0].node_id == node.node_id


async def test_a_stream_that_nobody_begins_asks_nobody() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        node = await a.join()

        await a.stream(TEXT).aclose()

        assert not node.jobs_seen
        assert nothing_is_held(a)


async def test_a_failure_that_nobody_hears_is_no_news() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        await begun(a, stream, "The")
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        assert not await a.engine.drain(0.0)
        await stream.aclose()
        del stream
        await asyncio.sleep(0)  # its callbacks have run: nothing holds it any more

        assert told == []


async def test_a_stream_is_waited_for_when_the_server_goes_down_but_not_for_ever() -> None:
    async with arena(SUMMARY) as a:
        await a.join_worker()
        await a.join(on_jobs=keep)
        stream = a.stream(TEXT)
        await begun(a, stream, "The")

        assert not await a.engine.drain(0.05)

        with pytest.raises(errors.ShuttingDown):
            await rest(stream)
        assert nothing_is_held(a)


# ── a real node ──────────────────────────────────────────────────────────────────────────────────


def summary_model(folder: Path) -> Manifest:
    """Write a summary model that onnxruntime can open; return its manifest."""
    backbone = hungry_backbone()
    build(folder, "tiny", backbone=backbone, pipeline="extractive-summary", max_tokens=4000)
    [path] = (folder / "models" / "manifests").iterdir()
    return decode_manifest(path.read_bytes(), digest=digest_of(path.read_bytes()))


@contextlib.asynccontextmanager
async def real_worker(a: Arena, folder: Path) -> AsyncIterator[None]:
    """Run the CPU worker's own process until it has calibrated, and end it on leaving."""
    (folder / "run").mkdir()
    (folder / "run" / "worker.json").write_text(json.dumps(a.worker))
    folders = f"data_dir=Path({str(folder)!r}), build_dir=Path({str(folder)!r})"
    code = f"from pathlib import Path; from browser_node.runtimes import native; \
native.run_worker({folders}, threads=1)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await a.until(a.engine.worker_ready, 60)
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_the_cpu_worker_streams_a_summary_that_is_the_one_it_gives_whole(
    tmp_path: Path,
) -> None:
    text = " ".join(f"Sentence number {n} of this text has its own words." for n in range(9))
    model = summary_model(tmp_path)
    async with arena(model) as a, real_worker(a, tmp_path):
        [whole] = await a.answer(text, params={"sentences": 4})

        streamed, answered = await rest(a.stream(text, params={"sentences": 4}))

        assert streamed == answered.output.decode() == whole.output.decode()
        assert whole.output.count(b"Sentence number") == 4
        assert (whole.place, answered.place) == ("cloud", "cloud")
