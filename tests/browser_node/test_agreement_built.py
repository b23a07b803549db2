"""Agreement on the built classifier: its labels, scores and keywords under noise and under lies."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from browser_node import pipelines
from browser_node.agreement import Judge
from browser_node.pipelines import Pipeline, Plan, Vector
from browser_node.pipelines import vectors as vector_math
from browser_node.protocol import Answer, Task
from browser_node.runtimes.onnx_native import OnnxBackend, OnnxHead
from tests.browser_node import built

pytestmark = pytest.mark.slow

TASK = Task(
    input="The midfielder scored twice in the second half as the home side won the cup final "
    "after extra time. Fans had queued since dawn for tickets. The coach praised his goalkeeper, "
    "who saved a penalty in the last minute and will have surgery on his knee next week."
)


@dataclass
class Node:
    """The classifier, its head and the vectors of `TASK`."""

    judge: Judge
    pipeline: Pipeline
    head: OnnxHead
    plan: Plan
    vectors: list[Vector]

    async def answer(self, vectors: Sequence[Vector], scores: list[float] | None = None) -> Answer:
        """Return the answer as the executor would send it."""
        [rounded], of_head = vector_math.halved([scores or await self.scores(vectors)])
        answer = self.pipeline.finish(self.plan, vectors, rounded)
        return Answer(output=answer.output, evidence=answer.evidence + of_head)

    async def scores(self, vectors: Sequence[Vector]) -> list[float]:
        weights = self.plan.head_weights
        (found,) = await self.head.score([vector_math.mean(vectors[: len(weights)], weights)])
        return found

    def noisy(self, rng: random.Random) -> list[Vector]:
        """Return the vectors as far off as the worst that honest runtimes were seen to be."""
        return [moved(vector, rng, cosine=0.996) for vector in self.vectors]


def moved(vector: Vector, rng: random.Random, *, cosine: float) -> array[float]:
    noise = [rng.gauss(0, 1) for _ in vector]
    along = vector_math.dot(noise, vector)
    across = [n - along * v for n, v in zip(noise, vector, strict=True)]
    length = math.sqrt(vector_math.dot(across, across))
    sine = math.sqrt(1 - cosine * cosine)
    return array("f", [cosine * v + sine * a / length for v, a in zip(vector, across, strict=True)])


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    backend = OnnxBackend(threads=1)
    manifest, files = built.model("zlm-v1-iab-classify-edge")
    encoder = await backend.open_encoder(files["model.onnx"])
    pipeline = pipelines.build(manifest, files)
    plan = pipeline.plan(TASK)
    vectors = [(await encoder.encode([sequence]))[0] for sequence in plan.sequences]
    head = await backend.open_head(files["head.onnx"])
    yield Node(Judge(manifest, files), pipeline, head, plan, vectors)
    backend.close()


async def test_honest_noise_changes_the_classification_and_agrees(node: Node) -> None:
    ours = await node.answer(node.vectors)
    rng = random.Random(1)
    for _ in range(20):
        theirs = await node.answer(node.noisy(rng))
        assert theirs.output != ours.output
        found = node.judge.agree(TASK, ours, theirs)
        assert (found.agrees, found.reason) == (True, "")


async def test_a_class_raised_to_the_top_does_not_agree(node: Node) -> None:
    ours = await node.answer(node.vectors)
    best = json.loads(ours.output)["content"]["iab_2_2"][0]["tier1_name"]
    _, files = built.model("zlm-v1-iab-classify-edge")
    rng = random.Random(2)
    lies = 0
    for category in json.loads(files["head.json"])["categories"]:
        if category["examples"] is None or category["name"] == best:
            continue
        vectors = node.noisy(rng)
        scores = await node.scores(vectors)
        for column in (category["column"], *range(*category["examples"])):
            scores[column] += 0.8
        theirs = await node.answer(vectors, scores)
        said = json.loads(theirs.output)["content"]["iab_2_2"][0]["tier1_name"]
        lies += said == category["name"]
        assert not node.judge.agree(TASK, ours, theirs).agrees
    assert lies > 20


async def test_an_edited_classification_does_not_agree(node: Node) -> None:
    ours = await node.answer(node.vectors)
    honest = await node.answer(node.noisy(random.Random(3)))
    changes: list[dict[str, object]] = [
        {"content": {"iab_1_0": [], "iab_2_2": []}},
        {"keywords": ["casino"]},
        {"user_intent": None},
        {"audience": []},
    ]
    for change in changes:
        edited = json.dumps({**json.loads(honest.output), **change}).encode()
        theirs = Answer(output=edited, evidence=honest.evidence)
        assert not node.judge.agree(TASK, ours, theirs).agrees
