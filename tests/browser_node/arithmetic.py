"""Arithmetic in place of a model: sessions whose numbers a test can foresee."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections.abc import Awaitable, Callable, Sequence

from browser_node.models import Manifest, Pipeline, Price
from browser_node.pipelines import Vector

DIMENSIONS = 8


def manifest_of(pipeline: Pipeline, *, max_tokens: int = 64, cuts: bool = False) -> Manifest:
    """Return a manifest of eight dimensions without files."""
    return Manifest(
        id=f"arithmetic-{pipeline}",
        version="1",
        name="Arithmetic",
        pipeline=pipeline,
        files=(),
        dimensions=DIMENSIONS,
        max_tokens=max_tokens,
        error_on_max_token=not cuts,
        min_cosine=0.99,
        min_memory_mb=1,
        price=Price(input_microusd=1, output_microusd=1),
        languages=("en",),
        licence="Apache-2.0",
        created=0,
        parameters=1,
    )


class WordTokenizer:
    """One id a word, from the word alone; 1 and 2 stand for [CLS] and [SEP]."""

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        digests = [hashlib.sha256(word.encode(errors="replace")).digest() for word in text.split()]
        return [1, *(int.from_bytes(digest[:3]) for digest in digests[: max_tokens - 2]), 2]

    def count(self, text: str) -> int:
        return len(text.split()) + 2


def vector_of(sequence: Sequence[int]) -> array[float]:
    """Return a unit vector near that of any sequence with many of the same ids."""
    total = [0.0] * DIMENSIONS
    for token in sequence:
        digest = hashlib.sha256(str(token).encode()).digest()
        for at in range(DIMENSIONS):
            total[at] += digest[at] - 127.5
    length = math.sqrt(math.fsum(value * value for value in total))
    return array("f", [value / length for value in total])


class ManualClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class ArithmeticEncoder:
    """Takes one second a padded token; ``pace``, ``meanwhile`` run in the middle of a batch."""

    def __init__(
        self, clock: ManualClock | None = None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        self.batches: list[list[int]] = []
        self.meanwhile = meanwhile
        self.pace: Callable[[], Awaitable[None]] | None = None
        self._clock = clock

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        lengths = [len(sequence) for sequence in sequences]
        self.batches.append(lengths)
        if self.pace is not None:
            await self.pace()
        if self.meanwhile is not None:
            self.meanwhile()
        if self._clock is not None:
            self._clock.now_s += max(lengths) * len(lengths)
        return [vector_of(sequence) for sequence in sequences]


def near_ties(count: int, seed: int) -> list[Vector]:
    """Return vectors that differ by less than their evidence can tell."""
    rng = random.Random(seed)
    return [
        array("f", [0.9 + rng.gauss(0, 2e-5), *(rng.gauss(0.1, 2e-5) for _ in range(7))])
        for _ in range(count)
    ]


class ArithmeticHead:
    """Scores a vector by its first three numbers; takes three seconds a row."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.runs: list[int] = []
        self._clock = clock

    async def score(self, vectors: Sequence[Vector]) -> list[list[float]]:
        self.runs.append(len(vectors))
        if self._clock is not None:
            self._clock.now_s += 3.0 * len(vectors)
        return [[vector[0], vector[1], vector[2]] for vector in vectors]
