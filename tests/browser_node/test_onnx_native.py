"""The native sessions with the built backbone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession

from browser_node import pipelines
from browser_node.agreement import Judge
from browser_node.executor import Executor
from browser_node.pipelines import vectors as vector_math
from browser_node.protocol import Answer, JobItem, ModelDigest, Result, Task
from browser_node.runtimes.clock import LoopClock
from browser_node.runtimes.disk import DiskFiles
from browser_node.runtimes.onnx_native import OnnxBackend, StoredOnnx
from browser_node.runtimes.opening import OpenModels
from browser_node.runtimes.store import Store
from browser_node.work import Interrupted
from tests.browser_node import built
from tests.browser_node.fake_orchestrator import recipe
from tests.browser_node.graphs import head_of, hungry_backbone
from tests.browser_node.tiny import build

NEWS = (
    "The city council voted on Tuesday night to close the harbour bridge to private cars from next "
    "spring, ending a dispute that has split the town for three years. Buses, bicycles and "
    "ambulances will still be able to cross. Dr. Helen Marsh, who chairs the transport committee, "
    "said the decision would cut journey times for the 11,000 people who cross by bus every day. "
    "Opponents argued that the closure would push traffic into residential streets. A study found "
    "that traffic on nearby roads would rise by 4.5 percent in the first year. It rained."
)
CORALS = (
    "Corals host algae in their tissue, and the algae feed them. When the water becomes too warm, "
    "corals expel their algae and turn white. Researchers bred corals from a warm lagoon with "
    "corals from a cooler reef. Their offspring survived a heatwave twice as long."
)


@pytest.fixture
async def backend() -> AsyncIterator[OnnxBackend]:
    backend = OnnxBackend(threads=1)
    yield backend
    backend.close()


def sessions(*, but: Sequence[InferenceSession] = ()) -> list[InferenceSession]:
    """Return the sessions that are in memory ``but`` for those of other tests."""
    gc.collect()
    others = set(map(id, but))
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, InferenceSession) and id(found) not in others
    ]


async def test_a_head_scores_every_vector_in_order(backend: OnnxBackend) -> None:
    head = await backend.open_head(head_of(np.eye(2, 3, dtype=np.float32)))
    assert await head.score([[1.0, 2.0], [3.0, 4.0]]) == [[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]


async def test_bytes_that_are_no_model_are_refused(backend: OnnxBackend) -> None:
    with pytest.raises(Exception, match="protobuf"):
        await backend.open_encoder(b"not a model")


async def test_all_computing_is_done_in_one_thread_beside_the_loop(backend: OnnxBackend) -> None:
    threads = await asyncio.gather(*(backend.compute(threading.get_ident) for _ in range(8)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_closing_a_model_frees_its_session(backend: OnnxBackend, tmp_path: Path) -> None:
    build_dir = build(tmp_path, "tiny", backbone=hungry_backbone())
    store = Store(DiskFiles(build_dir / "models", download=None))
    digest = ModelDigest(recipe(build_dir, "tiny").digest)
    executor = Executor(clock=time.perf_counter, budget_tokens=64)
    models = OpenModels(
        executor,
        store=store,
        onnx=StoredOnnx(backend, store),
        clock=LoopClock(),
        turn=contextlib.nullcontext,
        computing=contextlib.nullcontext,
        log=lambda event, **fields: None,
    )
    # Kept, as one that went meanwhile would be counted against ours.
    before = sessions()

    for _ in range(2):
        await models.open(digest, await store.manifest(digest))
        executor.add(
            [JobItem(attempt_id="a", digest=digest, lease_s=9, tokens=1, input="good news")]
        )
        assert isinstance((await executor.run_next())[0], Result)
        assert len(sessions(but=before)) == 1

        models.close(digest)
        await models.release()
        # Its thread lets go of a computation after telling the result, but before the next one.
        await backend.compute(int)

        assert sessions(but=before) == []


@pytest.mark.slow
async def test_a_vector_does_not_depend_on_its_batch_mates(backend: OnnxBackend) -> None:
    manifest, files = built.model("all-minilm-l6-v2")
    pipeline = pipelines.build(manifest, files)
    encoder = await backend.open_encoder(files["model.onnx"])
    texts = ["short", CORALS, "a text of middle length about nothing at all", NEWS]
    sequences = [pipeline.plan(Task(input=text)).sequences[0] for text in texts]
    together = await encoder.encode(sequences)
    for sequence, vector in zip(sequences, together, strict=True):
        (alone,) = await encoder.encode([sequence])
        assert len(alone) == manifest.dimensions
        assert vector_math.dot(alone, alone) == pytest.approx(1, abs=1e-5)
        assert vector_math.cosine(alone, vector) > 0.9999


@pytest.mark.slow
async def test_three_kinds_of_work_on_one_backbone_agree_with_a_node_that_does_one_at_a_time(
    backend: OnnxBackend,
) -> None:
    embedding, files = built.model("all-minilm-l6-v2")
    summary, _ = built.model("zlm-v1-summary-cloud")
    encoder = await backend.open_encoder(files["model.onnx"])
    models = {"e" * 64: embedding, "5" * 64: summary}
    judges = {digest: Judge(manifest, files) for digest, manifest in models.items()}
    jobs = [
        JobItem(attempt_id=f"{at} {digest}", digest=digest, lease_s=9, tokens=1, input=text)
        for at, text in enumerate((NEWS, CORALS, "One sentence.", NEWS[:200]))
        for digest in models
    ]

    async def answers(together: bool) -> dict[str, Answer]:
        executor = Executor(clock=time.perf_counter, budget_tokens=600)
        for digest, manifest in models.items():
            executor.load(digest, pipelines.build(manifest, files), encoder)
        found = {}
        for some in [jobs] if together else [[job] for job in jobs]:
            executor.add(some)
            while executor.held:
                for result in await executor.run_next():
                    assert isinstance(result, Result)
                    found[result.attempt_id] = Answer(
                        output=result.output, evidence=result.evidence
                    )
        return found

    alone, mixed = await answers(together=False), await answers(together=True)

    assert alone.keys() == mixed.keys() == {job.attempt_id for job in jobs}
    for job in jobs:
        task = Task(input=job.input)
        assert judges[job.digest].agree(task, alone[job.attempt_id], mixed[job.attempt_id]).agrees


async def test_a_run_that_is_cut_off_leaves_the_session_as_it_was(backend: OnnxBackend) -> None:
    _, files = built.model("all-minilm-l6-v2")
    encoder = await backend.open_encoder(files["model.onnx"])
    texts = [[101, *range(2000, 2000 + length), 102] for length in (10, 200, 30)]
    expected = await encoder.encode(texts)

    for _ in range(5):
        run = asyncio.ensure_future(encoder.encode(texts * 8))
        # So that it is under way: the thread takes it when the loop runs.
        await asyncio.sleep(0)
        encoder.interrupt()
        with pytest.raises(Interrupted):
            await run
    # Nothing is under way: what is cut off is not the next run.
    encoder.interrupt()

    assert await encoder.encode(texts) == expected


async def test_a_request_goes_before_the_line_that_computes(backend: OnnxBackend) -> None:
    manifest, files = built.model("all-minilm-l6-v2")
    executor = Executor(clock=time.perf_counter, budget_tokens=600)
    encoder = await backend.open_encoder(files["model.onnx"])
    digest = "e" * 64
    executor.load(digest, pipelines.build(manifest, files), encoder)
    line = JobItem(
        attempt_id="line", digest=digest, lease_s=9, tokens=1, input=NEWS * 2, background=True
    )
    request = JobItem(attempt_id="request", digest=digest, lease_s=9, tokens=1, input="good news")

    executor.add([line])
    run = asyncio.ensure_future(executor.run_next())
    await asyncio.sleep(0)
    executor.add([request])

    assert await run == []
    assert [found.attempt_id for found in await executor.run_next()] == ["request"]
    assert [found.attempt_id for found in await executor.run_next()] == ["line"]


@pytest.mark.slow
async def test_a_summary_says_what_the_text_is_about(backend: OnnxBackend) -> None:
    manifest, files = built.model("zlm-v1-summary-cloud")
    pipeline = pipelines.build(manifest, files)
    encoder = await backend.open_encoder(files["model.onnx"])
    plan = pipeline.plan(Task(input=NEWS, params={"sentences": 2}))
    answer = pipeline.finish(plan, await encoder.encode(plan.sequences), [])
    said = answer.output.decode()
    assert said.startswith("The city council voted on Tuesday night")
    assert "It rained." not in said
