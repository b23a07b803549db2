"""An executor with every kind of model loaded, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from browser_node.executor import Executor
from browser_node.pipelines import Plan, Vector
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.embeddings import EmbeddingsPipeline
from browser_node.pipelines.summary import SummaryPipeline
from browser_node.protocol import Answer, JobItem, Task
from browser_node.work import Emission, Encoder
from tests.browser_node.arithmetic import (
    ArithmeticEncoder,
    ArithmeticHead,
    ManualClock,
    WordTokenizer,
    manifest_of,
    vector_of,
)

EMBED, SUMMARISE, CLASSIFY, BROKEN = "e" * 64, "5" * 64, "c" * 64, "b" * 64
POISON = "poison"


class HeadedPipeline:
    """Encodes the text and its first word, and applies the head to their weighted mean."""

    head_path: str | None = "head.onnx"

    def plan(self, task: Task) -> Plan:
        if POISON in task.input:
            raise ZeroDivisionError("poison")
        tokenizer = WordTokenizer()
        texts = (task.input, task.input.split()[0])
        sequences = tuple(tokenizer.encode(text, max_tokens=64) for text in texts)
        return Plan(sequences, head_weights=(3, 1))

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        assert len(vectors) == 2
        [expected], _ = vector_math.halved([vector_math.mean(vectors, plan.head_weights)[:3]])
        output = str(scores == expected).encode()
        return Answer(output=output, evidence=vector_math.halved(vectors)[1])


class BrokenPipeline(HeadedPipeline):
    """Cannot finish anything."""

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        raise LookupError("no such label")


class Bench:
    """An executor with every model loaded on one encoder."""

    def __init__(self, *, budget_tokens: int = 64, encoder: Encoder | None = None) -> None:
        self.clock = ManualClock()
        self.encoder = ArithmeticEncoder(self.clock)
        self.head = ArithmeticHead(self.clock)
        self.executor = Executor(clock=self.clock, budget_tokens=budget_tokens)
        backbone = encoder or self.encoder
        tokenizer = WordTokenizer()
        embeddings = EmbeddingsPipeline(manifest_of("embeddings"), tokenizer)
        summary = SummaryPipeline(manifest_of("extractive-summary", max_tokens=999), tokenizer)
        self.executor.load(EMBED, embeddings, backbone)
        self.executor.load(SUMMARISE, summary, backbone)
        self.executor.load(CLASSIFY, HeadedPipeline(), backbone, self.head)
        self.executor.load(BROKEN, BrokenPipeline(), backbone, self.head)

    def add(
        self, attempt_id: str, text: str, digest: str = EMBED, *, background: bool = False
    ) -> None:
        self.executor.add([job(attempt_id, text, digest, background=background)])

    async def run_all(self) -> list[Emission]:
        emissions: list[Emission] = []
        while self.executor.held:
            emissions += await self.executor.run_next()
        return emissions


def job(attempt_id: str, text: str, digest: str = EMBED, *, background: bool = False) -> JobItem:
    return JobItem(
        attempt_id=attempt_id,
        digest=digest,
        lease_s=30,
        tokens=1,
        input=text,
        background=background,
    )


def words(count: int) -> str:
    return " ".join(["word"] * count)


def ids(emissions: Sequence[Emission]) -> list[str | None]:
    return [emission.attempt_id for emission in emissions]


class StuckEncoder:
    """Never returns."""

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        await asyncio.get_running_loop().create_future()
        return []


class FailingEncoder:
    """Fails, or returns what it is told instead of vectors."""

    def __init__(self, wrong: Callable[[list[Vector]], list[Vector]] | None = None) -> None:
        self._wrong = wrong

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        if self._wrong is None:
            raise OSError("out of memory")
        return self._wrong([vector_of(sequence) for sequence in sequences])
