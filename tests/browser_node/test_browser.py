"""The browser runtime in a real Chromium: the tab downloads, computes and behaves."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext

from browser_node import pipelines
from browser_node import protocol as p
from browser_node.agreement import Judge
from browser_node.executor import Executor
from browser_node.runtimes.onnx_native import OnnxBackend
from tests.browser_node.built import BUILD, model
from tests.browser_node.fake_orchestrator import FakeOrchestrator, Peer, recipe
from tests.browser_node.tab import Site, browser, tab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TEXTS = (
    "The central bank raised interest rates again. Markets fell. Analysts expect another rise.",
    "The goalkeeper saved two penalties and the city celebrated its first cup in thirty years.",
)


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[BrowserContext]:
    async with browser(tmp_path / "profile") as context:
        yield context


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def server(site: Site) -> AsyncIterator[FakeOrchestrator]:
    server = FakeOrchestrator(BUILD)
    async with server.running(*site.routes()):
        yield server


def model_ids() -> list[str]:
    return [row["id"] for row in json.loads((BUILD / "index.json").read_text())["models"]]


async def load(peer: Peer, model_id: str, *texts: str) -> p.Ready:
    challenge = tuple(p.Task(input=text) for text in texts or TEXTS)
    await peer.send(p.Load(recipe=recipe(BUILD, model_id), challenge=challenge))
    return await peer.expect(p.Ready, 90)


async def joined(server: FakeOrchestrator) -> Peer:
    _, peer = await server.accept(60)
    await peer.welcome()
    await load(peer, "all-minilm-l6-v2")
    return peer


def jobs(count: int, words: int = 18) -> p.Jobs:
    digest = recipe(BUILD, "all-minilm-l6-v2").digest
    return p.Jobs(
        items=tuple(
            p.JobItem(
                attempt_id=f"a{n}",
                digest=digest,
                lease_s=60,
                tokens=words + 4,
                input=f"number {n} " + "word " * words,
            )
            for n in range(count)
        )
    )


async def native_answers(model_id: str, *texts: str) -> list[p.Answer]:
    """Return what the same pipeline makes of the texts on this machine."""
    manifest, files = model(model_id)
    backend = OnnxBackend(threads=1)
    pipeline = pipelines.build(manifest, files)
    head = None
    if pipeline.head_path is not None:
        head = await backend.open_head(files[pipeline.head_path])
    executor = Executor(clock=asyncio.get_running_loop().time, budget_tokens=512)
    executor.load("m", pipeline, await backend.open_encoder(files["model.onnx"]), head)
    executor.add(
        p.JobItem(attempt_id=str(n), digest="m", lease_s=9, tokens=1, input=text)
        for n, text in enumerate(texts)
    )
    answers: dict[str, p.Answer] = {}
    while executor.held:
        for outcome in await executor.run_next():
            assert isinstance(outcome, p.Result)
            answers[outcome.attempt_id] = p.Answer(output=outcome.output, evidence=outcome.evidence)
    backend.close()
    return [answers[str(n)] for n in range(len(texts))]


async def test_a_tab_runs_every_model_as_a_native_node_does_and_a_second_visit_downloads_nothing(
    chromium: BrowserContext, server: FakeOrchestrator, site: Site
) -> None:
    async with tab(chromium, server.url) as first:
        hello, peer = await server.accept(60)
        await peer.welcome()
        ready = {model_id: await load(peer, model_id) for model_id in model_ids()}
        status = await first.until(
            "m.phase === 'ready' && m.models.every(x => x.state === 'ready')"
        )
        await first.post(type="stop")
        assert (await peer.expect(p.Bye)).reason == "the volunteer stopped"
        await first.until("m.phase === 'stopped'")

    assert (hello.runtime.kind, hello.runtime.backend) == ("browser", "wasm")
    assert (hello.device.time_zone, hello.cached) == ("UTC", ())
    assert status["progress"]["doneBytes"] == status["progress"]["totalBytes"] > 20e6
    assert status["nodeId"] == "node_1"
    assert status["tokensPerS"] > 0
    for model_id, entry in ready.items():
        judge = Judge(*model(model_id))
        native = await native_answers(model_id, *TEXTS)
        for text, ours, theirs in zip(TEXTS, native, entry.answers, strict=True):
            verdict = judge.agree(p.Task(input=text), ours, theirs)
            assert verdict.agrees, (model_id, verdict.reason)
    assert len({entry.calibration for entry in ready.values()}) == 1
    urls = [url for url, _ in server.served]
    assert len(urls) == len(set(urls)), "a file was downloaded twice"

    server.served.clear()
    site.requests.clear()
    async with tab(chromium, server.url):
        again, peer = await server.accept(60)
        await peer.welcome()
        await load(peer, "all-minilm-l6-v2")

    assert again.public_key == hello.public_key
    assert set(again.cached) == {recipe(BUILD, model_id).digest for model_id in model_ids()}
    assert server.served == []
    assert site.requests == []


async def test_a_tab_streams_a_summary_sentence_by_sentence(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    [model_id] = [name for name in model_ids() if model(name)[0].pipeline == "extractive-summary"]
    async with tab(chromium, server.url):
        _, peer = await server.accept(60)
        await peer.welcome()
        ready = await load(peer, model_id)
        item = p.JobItem(
            attempt_id="a",
            digest=ready.digest,
            lease_s=60,
            tokens=40,
            input=" ".join(TEXTS),
            params={"sentences": 3},
            stream=True,
        )
        await peer.send(p.Jobs(items=(item,)))
        pieces = [await peer.expect(p.Delta, 60) for _ in range(3)]
        [result] = (await peer.expect(p.Results, 60)).items

    assert [(piece.attempt_id, piece.seq) for piece in pieces] == [("a", 0), ("a", 1), ("a", 2)]
    assert "".join(piece.text for piece in pieces).encode() == result.output
    assert all(piece.text.strip() in item.input for piece in pieces)


async def test_a_model_unloaded_by_a_tab_can_be_loaded_again_and_computes(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    model_id = "zlm-v1-iab-classify-edge"
    async with tab(chromium, server.url) as opened:
        _, peer = await server.accept(60)
        await peer.welcome()
        first = await load(peer, model_id)
        server.served.clear()

        await peer.send(p.Unload(digest=first.digest))
        await opened.until("m.models?.length === 0 && m.nodeId !== null && m.progress.totalBytes")
        again = await load(peer, model_id)

    assert again.answers == first.answers
    assert all(answer.evidence for answer in again.answers)
    assert server.served == []


async def test_a_busy_tab_answers_pings_between_two_batches_and_does_not_flood_its_page(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    async with tab(chromium, server.url) as opened:
        peer = await joined(server)
        await peer.send(jobs(160))
        answered = batches = 0
        busy: list[float] = []
        while answered < 160:
            match await peer.next(60):
                case p.Results(items=items):
                    answered += len(items)
                    batches += 1
                    await peer.send(p.Ping(n=batches))
                case p.Pong(busy_s=busy_s):
                    busy.append(busy_s)
                case p.Capacity():
                    pass
                case other:
                    raise AssertionError(other)

        await opened.until("m.jobsDone === 160")
        times = [m["at"] for m in await opened.said() if m["type"] == "status"]

    # The last pings cannot come back before the last answers.
    assert batches >= 4
    assert len(busy) >= (batches - 1) // 2
    # A ping that is read a while after a batch has waited for none.
    assert max(busy) > 0.0
    # Four a second; a message may be handed over late and the next one on time.
    assert all(later - earlier > 900 for earlier, later in zip(times, times[5:], strict=False))


async def test_a_tab_says_why_it_pauses_and_goes_on(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    async with tab(chromium, server.url) as opened:
        peer = await joined(server)
        await peer.next()

        for change, state, reason in (
            ({"hidden": True}, "hidden", "This tab is hidden"),
            ({"hidden": False, "battery": 0.5, "charging": False}, "paused", "battery"),
            ({"charging": True, "pressure": "critical"}, "throttled", "very busy"),
        ):
            await opened.post(type="signals", **change)
            capacity = await peer.next()
            assert isinstance(capacity, p.Capacity)
            assert (capacity.state, capacity.slots) == (state, 0)
            assert reason in capacity.reason
            assert reason in (await opened.until(f"m.state === '{state}'"))["reason"]

        await opened.post(type="signals", pressure="nominal")
        capacity = await peer.next()
        assert isinstance(capacity, p.Capacity)
        assert (capacity.state, capacity.reason) == ("active", "")
        await opened.post(type="pause")
        await opened.until("m.phase === 'paused' && m.reason === 'You paused this node.'")
        await opened.post(type="resume")
        await opened.post(type="limits", cpuShare=0.25)
        while capacity.limits != p.Limits(cpu_share=0.25):
            capacity = await peer.expect(p.Capacity)
        await peer.send(jobs(4))
        answered = 0
        while answered < 4:
            answered += len((await peer.expect(p.Results)).items)
        done = await opened.until("m.jobsDone === 4")
        assert done["tokensDone"] > 40


async def test_an_interrupted_download_goes_on_in_the_next_visit(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    manifest, _ = model("all-minilm-l6-v2")
    last = manifest.file("model.onnx").parts[-1].sha256
    wordpiece = manifest.file("wordpiece.json").parts[0].sha256
    server.hold |= {last, wordpiece}
    async with tab(chromium, server.url) as opened:
        _, peer = await server.accept(60)
        await peer.welcome()
        await peer.send(p.Load(recipe=recipe(BUILD, "all-minilm-l6-v2")))
        arrived = sum(part.size_bytes for part in manifest.file("model.onnx").parts[:-1])
        await opened.until(f"m.progress?.doneBytes === {arrived}", 60)
    server.release.set()
    server.served.clear()

    async with tab(chromium, server.url):
        await joined(server)

    assert {url for url, _ in server.served} == {
        f"/models/parts/{last}",
        f"/models/parts/{wordpiece}",
    }


async def test_a_part_that_arrives_wrong_is_refused_and_fetched_again(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    manifest, _ = model("all-minilm-l6-v2")
    spoiled = manifest.file("model.onnx").parts[3].sha256
    server.spoil.add(spoiled)

    async with tab(chromium, server.url):
        await joined(server)

    assert [url for url, _ in server.served].count(f"/models/parts/{spoiled}") == 2


async def test_two_threads_compute_the_same_vectors(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    async with tab(chromium, server.url, limits={"threads": 2}):
        hello, peer = await server.accept(60)
        await peer.welcome()
        ready = await load(peer, "all-minilm-l6-v2")

    assert hello.runtime.threads == 2
    (native,) = await native_answers("all-minilm-l6-v2", TEXTS[0])
    ours, theirs = array("f", native.output), array("f", ready.answers[0].output)
    assert sum(a * b for a, b in zip(ours, theirs, strict=True)) > 0.99


async def test_a_lost_connection_is_resumed_with_the_ticket(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    async with tab(chromium, server.url) as opened:
        peer = await joined(server)
        await peer.close(p.CloseCode.GOING_AWAY)
        await opened.until("m.phase === 'reconnecting'")
        hello, again = await server.accept(60)
        await again.welcome()
        await load(again, "all-minilm-l6-v2")

    assert hello.ticket == "ticket-node_1"


async def test_a_browser_that_saves_data_says_so_and_takes_no_work_unless_it_may(
    chromium: BrowserContext, server: FakeOrchestrator
) -> None:
    async with tab(chromium, server.url, signals={"saveData": True}):
        hello, peer = await server.accept(60)
        await peer.welcome()
        capacity = await peer.expect(p.Capacity)

    assert hello.device.data_saver
    assert (capacity.state, capacity.slots) == ("paused", 0)


async def test_a_runtime_that_cannot_be_fetched_is_told_to_the_page(
    chromium: BrowserContext, server: FakeOrchestrator, site: Site
) -> None:
    site.missing.add("ort.wasm.min.mjs")
    async with tab(chromium, server.url) as opened:
        error = await opened.until("m.type === 'error'")
        # The browser itself complains of the 404.
        opened.errors.clear()

    assert error["code"] == "boot_failed"
