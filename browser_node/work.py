"""What an executor holds and runs: attempts, what became of them so far, and the ONNX sessions.

The sessions are seams: each runtime has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from browser_node.pipelines.plan import Pipeline, Plan, Vector
from browser_node.protocol import MAX_DELTA_CHARS, Delta, Failed, JobItem, Result

Outcome = Result | Failed
"""How an attempt ends."""
Emission = Delta | Outcome
"""What a call of `Executor.run_next` has to say of an attempt."""


class Encoder(Protocol):
    """The backbone's ONNX session: one thread of work, awaited."""

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        """Return one vector a sequence, in order: pads to the longest and runs once."""


class Interrupted(Exception):
    """A run was cut off by `Interruptible.interrupt`."""


@runtime_checkable
class Interruptible(Protocol):
    """An encoder whose runs can be cut off."""

    def interrupt(self) -> None:
        """Have the `encode` under way raise `Interrupted` soon, unless it is done before."""


class Head(Protocol):
    """A small ONNX session over finished vectors."""

    async def score(self, vectors: Sequence[Vector]) -> list[list[float]]:
        """Return one row of scores a vector."""


class Model(NamedTuple):
    """A model that can be run; those of one backbone have the same encoder."""

    pipeline: Pipeline
    encoder: Encoder
    head: Head | None


@dataclass(slots=True, eq=False)
class Work:
    """A planned attempt: its model, its plan, the vectors so far and what the head said of them."""

    model: Model
    plan: Plan
    vectors: list[Vector | None]
    compute_s: float
    scores: Sequence[float] = ()

    def pending(self) -> list[int]:
        return [row for row, vector in enumerate(self.vectors) if vector is None]


@dataclass(slots=True, eq=False)
class Attempt:
    """What came in a job's frame; ``work`` is None until it is planned."""

    item: JobItem
    work: Work | None = None
    deltas: int = 0

    def told(self, text: str) -> list[Delta]:
        """Return the next piece of the answer's text, in frames that hold it."""
        starts = range(0, len(text), MAX_DELTA_CHARS)
        frames = [
            Delta(
                attempt_id=self.item.attempt_id,
                seq=self.deltas + number,
                text=text[at : at + MAX_DELTA_CHARS],
            )
            for number, at in enumerate(starts)
        ]
        self.deltas += len(frames)
        return frames


class Row(NamedTuple):
    """One sequence of one attempt, as it stood when the batch was formed."""

    attempt: Attempt
    work: Work
    at: int

    @property
    def tokens(self) -> list[int]:
        return self.work.plan.sequences[self.at]
