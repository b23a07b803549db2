"""Do two nodes' answers to one task agree, and by what evidence? Pure.

Honest runtimes differ by rounding, so outputs are not compared byte by byte. First the evidence:
every vector's cosine and length against the trusted node's, and the head's scores within a
tolerance that grows with the vectors' distance. Then the output: it must be the trusted one, or
follow from the answer's own evidence when the pipeline's pure half runs on it again. So a label,
keyword or sentence may differ exactly when evidence within the tolerance makes it differ.

Evidence is little-endian float32: one vector a sequence of the plan, then the head's rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import sub
from typing import Final, NamedTuple

from browser_node import pipelines
from browser_node.models import Manifest
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.plan import Headed, InputError, Pipeline, Vector
from browser_node.protocol import Answer, Task

# A cosine alone would let a scaled vector through.
_MAX_LENGTH_CHANGE: Final = 0.01
# A head is linear: its scores move by at most the vectors' distance times the length of a column (1
# for a cosine), and their spread stands for that length. Honest tabs against native nodes: distance
# at most 0.03, scores within 0.008 of each other where the spread is 0.4. The cap is what keeps a
# liar from spending the whole tolerance of the vectors on one label.
_SCORE_SLACK: Final = 3.0
_SCORE_FLOOR: Final = 0.005
_SCORE_CAP: Final = 0.1


class Verdict(NamedTuple):
    """``min_cosine`` is the worst vector's (1 without vectors, -1 for what is no evidence)."""

    agrees: bool
    min_cosine: float
    reason: str


class Judge:
    """Compares answers of one model, with the model's own pipeline to derive outputs again."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """``files`` are the model's by path, ONNX left out; raises as `pipelines.build` does."""
        self._manifest = manifest
        self._pipeline = pipelines.build(manifest, files)

    def agree(self, task: Task, trusted: Answer, answer: Answer) -> Verdict:
        """Return whether ``answer`` is as good as the trusted one to the same task."""
        return agree(self._manifest, trusted, answer, task=task, pipeline=self._pipeline)


def agree(
    manifest: Manifest,
    trusted: Answer,
    answer: Answer,
    *,
    task: Task | None = None,
    pipeline: Pipeline | None = None,
) -> Verdict:
    """Return whether ``answer`` agrees with the ``trusted`` one to the same task.

    Without ``task`` and ``pipeline`` an output that differs cannot be derived again and counts as
    disagreement (an embedding is its own evidence and needs neither). How many vectors a pipeline
    with a head has is what the trusted answer says.
    """
    expected, given = _blob(manifest, trusted), _blob(manifest, answer)
    # Before it is read: a stranger says how long it is.
    if len(given) != len(expected):
        return Verdict(
            False, -1.0, f"evidence has {len(given):,} bytes, {len(expected):,} expected"
        )
    try:
        form = _form(task, pipeline)
        ours = _evidence(expected, form, manifest.dimensions)
        theirs = _evidence(given, form, manifest.dimensions)
    except (InputError, ValueError) as error:
        return Verdict(False, -1.0, str(error))
    pairs = [_Pair.of(a, b) for a, b in zip(ours.vectors, theirs.vectors, strict=True)]
    worst = min([pair.cosine for pair in pairs], default=1.0)
    reason = _difference(manifest, ours, theirs, pairs)
    if not reason and manifest.pipeline != "embeddings" and answer.output != trusted.output:
        reason = _derivation(task, pipeline, theirs, answer.output)
    return Verdict(not reason, worst if math.isfinite(worst) else -1.0, reason)


class _Evidence(NamedTuple):
    vectors: list[Vector]
    scores: list[Vector]


class _Form(NamedTuple):
    """How many vectors evidence has, and how many rows of how many scores; None where unknown."""

    vectors: int | None
    rows: int
    columns: int | None


class _Pair(NamedTuple):
    """One of their vectors beside ours: the cosine, and by what part of ours it is longer."""

    cosine: float
    change: float

    @classmethod
    def of(cls, ours: Vector, theirs: Vector) -> _Pair:
        own, other = vector_math.length(ours), vector_math.length(theirs)
        cosine = vector_math.dot(ours, theirs) / (own * other) if own and other else 0.0
        return cls(cosine, other / own - 1 if own else -1.0)


def _form(task: Task | None, pipeline: Pipeline | None) -> _Form:
    """Return what the evidence for ``task`` is made of; raises `InputError` where there is none.

    Not from the plan where a head tells enough: its pipeline plans for as long as all the rest
    takes, and outputs are mostly equal.
    """
    if task is None or pipeline is None:
        # What is no whole vector is taken for one row.
        return _Form(None, 1, None)
    if isinstance(pipeline, Headed):
        return _Form(None, pipeline.head_rows(task), pipeline.head_columns)
    plan = pipeline.plan(task)
    return _Form(len(plan.sequences), plan.head_rows, None)


def _blob(manifest: Manifest, answer: Answer) -> bytes:
    return answer.output if manifest.pipeline == "embeddings" else answer.evidence


def _evidence(blob: bytes, form: _Form, dimensions: int) -> _Evidence:
    """Read an answer's evidence; raises `ValueError` for bytes that cannot be that."""
    # A list, as it is gone through three times: an array would make each of its floats anew.
    flat = vector_math.floats(blob).tolist()
    if form.columns is not None:
        end = len(flat) - form.rows * form.columns
    elif form.vectors is not None:
        end = form.vectors * dimensions
    else:
        end = len(flat) // dimensions * dimensions
    scores = len(flat) - end
    whole = 0 <= end <= len(flat) and end % dimensions == 0
    # Every row of scores belongs to a vector.
    if not whole or (
        scores and not (0 < form.rows <= end // dimensions and not scores % form.rows)
    ):
        of = "vectors" if form.vectors is None else f"{form.vectors} vectors"
        raise ValueError(f"{len(flat):,} numbers are no evidence for {of} of {dimensions}")
    return _Evidence(
        _rows(flat[:end], dimensions), _rows(flat[end:], scores // form.rows) if scores else []
    )


def _rows(flat: list[float], size: int) -> list[Vector]:
    return [flat[at : at + size] for at in range(0, len(flat), size)]


def _difference(
    manifest: Manifest, ours: _Evidence, theirs: _Evidence, pairs: Sequence[_Pair]
) -> str:
    """Return how the evidence differs by more than the tolerance, or nothing."""
    # Every comparison is written so that a NaN fails it.
    for at, (value, change) in enumerate(pairs):
        if not value >= manifest.min_cosine:
            return f"vector {at} has cosine {value:.4f}, less than {manifest.min_cosine}"
        if not abs(change) <= _MAX_LENGTH_CHANGE:
            return f"vector {at} is {1 + change:.3f} times as long"
    for at, (expected, actual) in enumerate(zip(ours.scores, theirs.scores, strict=True)):
        mean = sum(expected) / len(expected)
        spread = max(max(expected) - mean, mean - min(expected))
        distance = math.sqrt(max(0.0, 2 - 2 * pairs[min(at, len(pairs) - 1)].cosine))
        allowed = spread * min(_SCORE_CAP, _SCORE_FLOOR + _SCORE_SLACK * distance)
        if not _furthest(expected, actual) <= allowed:
            return f"head scores of vector {at} differ by more than {allowed:.4f}"
    return ""


def _furthest(ours: Vector, theirs: Vector) -> float:
    """Return the largest distance of two scores in the same place; NaN where one is no number."""
    apart = list(map(abs, map(sub, ours, theirs)))
    # Of what holds a NaN `max` returns anything, a sum does not.
    return math.nan if math.isnan(sum(apart)) else max(apart)


def _derivation(
    task: Task | None, pipeline: Pipeline | None, evidence: _Evidence, output: bytes
) -> str:
    """Return why ``output`` does not follow from its evidence, or nothing."""
    if task is None or pipeline is None:
        return "outputs differ, and without the task they cannot be derived again"
    try:
        plan = pipeline.plan(task)
    except InputError as error:
        return f"outputs differ, and there should be none: {error}"
    if len(evidence.vectors) != len(plan.sequences):
        return "outputs differ, and the evidence is of another plan"
    if pipeline.finish(plan, evidence.vectors, evidence.scores).output != output:
        return "the output does not follow from its own evidence"
    return ""
