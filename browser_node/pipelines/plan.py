"""What a pipeline is: one input becomes a plan of sequences to encode, vectors become an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from browser_node.models import Manifest
from browser_node.protocol import Answer, Task
from browser_node.tokenizer import Tokenizer

# One embedding: an ``array('f')`` (or float memoryview) of `Manifest.dimensions` floats,
# L2-normalised.
Vector: TypeAlias = Sequence[float]


class InputError(ValueError):
    """No node can answer this input; ``code`` travels in `protocol.Failed`, blame "input"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compute for one task.

    ``sequences`` are token ids with [CLS] and [SEP], encoded one by one and answered in this order.
    The head is applied to the mean of the first vectors, weighted by ``head_weights`` and of length
    1 (`vectors.mean`); without weights it is not needed. ``tokens`` is the node's own count of the
    input; ``state`` is what the same pipeline's `finish` needs.
    """

    sequences: tuple[list[int], ...]
    head_weights: tuple[int, ...] = ()
    tokens: int = 0
    state: object = None


class Pipeline(Protocol):
    """One model's task: pure Python around the ONNX session, the same in every runtime."""

    @property
    def head_path(self) -> str | None:
        """The manifest path of the head's ONNX file, or None when the vectors are all it takes."""

    def plan(self, task: Task) -> Plan:
        """Return what to encode for ``task``; raises `InputError`."""

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        """Return the answer, given a vector a sequence and the head's scores, if it was needed.

        Its evidence are all the vectors (none for an embedding, which is its own), in half
        precision, as which they are also used; the executor does the same with the scores.
        """


@runtime_checkable
class Headed(Protocol):
    """What a pipeline with a head has beside `Pipeline`."""

    head_columns: int
    """How many scores the head gives."""

    def head_weights(self, task: Task) -> tuple[int, ...]:
        """Return `Plan.head_weights` of the plan for ``task``, in a tenth of the time."""


@runtime_checkable
class Streaming(Protocol):
    """What a pipeline has beside `Pipeline` when its answer is a text of several pieces."""

    def finish_in_pieces(
        self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]
    ) -> tuple[Answer, Sequence[str]]:
        """Return what `finish` does, and its output in pieces that joined are a prefix of it."""


def counted(manifest: Manifest, tokenizer: Tokenizer, text: str) -> int:
    """Return the input's tokens as they are billed: uncut, or cut where the model cuts.

    Raises `InputError` where a longer input than ``manifest.max_tokens`` is an error.
    """
    tokens = tokenizer.count(text)
    if manifest.error_on_max_token and tokens > manifest.max_tokens:
        raise InputError(
            "too_many_tokens", f"{tokens} tokens; {manifest.id} takes at most {manifest.max_tokens}"
        )
    return min(tokens, manifest.max_tokens)
