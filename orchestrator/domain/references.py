"""Known answers: what the CPU worker made of texts composed at start, to hold strangers against.

A node computes nothing for a customer before it has answered a random draw from the pool as the CPU
worker did. The texts are recombined at every start, so that a table of answers cannot be prepared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from browser_node.models import Pipeline
from browser_node.protocol import Answer, ModelDigest, Task
from orchestrator.domain.passages import PASSAGES

# Pool and draw sizes per pipeline. Classification answers carry some twenty vectors each, and a
# `ready` frame holds a whole pool within a megabyte.
POOL_SIZES: Final[dict[Pipeline, int]] = {
    "embeddings": 32,
    "iab-classification": 8,
    "extractive-summary": 16,
}
DRAW_SIZES: Final[dict[Pipeline, int]] = {
    "embeddings": 6,
    "iab-classification": 2,
    "extractive-summary": 3,
}


def compose(pipeline: Pipeline, rng: random.Random) -> tuple[Task, ...]:
    """Return a pool of tasks for ``pipeline``: one to eight sentences each, no two pools alike."""
    shortest = 1 if pipeline == "embeddings" else 3
    tasks = []
    for _ in range(POOL_SIZES[pipeline]):
        passage = list(rng.choice(PASSAGES))
        extra = list(rng.choice(PASSAGES))
        rng.shuffle(extra)
        sentences = (passage + extra)[: rng.randint(shortest, 8)]
        tasks.append(Task(input=" ".join(sentences)))
    return tuple(tasks)


class References:
    """The pool of each model, filled by the CPU worker's own calibration."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pools: dict[ModelDigest, list[tuple[Task, Answer]]] = {}

    def fill(self, digest: ModelDigest, tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
        """Replace the pool of ``digest``; ``answers`` are in the order of ``tasks``."""
        if len(tasks) != len(answers):
            raise ValueError(f"{len(tasks)} tasks cannot have {len(answers)} answers")
        self._pools[digest] = list(zip(tasks, answers, strict=True))

    def pool(self, pipeline: Pipeline) -> tuple[Task, ...]:
        """Return new tasks for the CPU worker to answer."""
        return compose(pipeline, self._rng)

    def has(self, digest: ModelDigest) -> bool:
        return bool(self._pools.get(digest))

    def draw(self, digest: ModelDigest, count: int) -> list[tuple[Task, Answer]]:
        """Return ``count`` random known answers, or all when the pool is smaller."""
        pool = self._pools.get(digest, [])
        return self._rng.sample(pool, min(count, len(pool)))
