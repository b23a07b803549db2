"""Do two nodes' answers to one task agree, and by what evidence? Pure.

Honest runtimes differ by rounding, so outputs are not compared byte by byte. First the evidence:
every vector's cosine and length against the trusted node's, and the head's scores within a
tolerance that grows with the distance of what they are of. Then the output: it must be the trusted
one, or follow from the answer's own evidence when the pipeline's pure half runs on it again. So a
label, keyword or sentence may differ exactly when evidence within the tolerance makes it differ.

Evidence is little-endian float16: one vector a sequence of the plan, then the head's scores. An
embedding, float32, is its own.
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
    read = _floats if manifest.pipeline == "embeddings" else vector_math.halves
    try:
        form = _form(task, pipeline)
        ours = _evidence(read(expected), form, manifest.dimensions)
        theirs = _evidence(read(given), form, manifest.dimensions)
    except (InputError, ValueError) as error:
        return Verdict(False, -1.0, str(error))
    pairs = [_Pair.of(a, b) for a, b in zip(ours.vectors, theirs.vectors, strict=True)]
    worst = min([pair.cosine for pair in pairs], default=1.0)
    reason = _difference(manifest, ours, theirs, pairs, form.weights)
    if not reason and manifest.pipeline != "embeddings" and answer.output != trusted.output:
        reason = _derivation(task, pipeline, theirs, answer.output)
    return Verdict(not reason, worst if math.isfinite(worst) else -1.0, reason)


class _Evidence(NamedTuple):
    vectors: list[Vector]
    scores: Vector


class _Form(NamedTuple):
    """What evidence is made of.

    How many vectors (None: as many as there are whole ones before the scores), how many scores
    (None: what is left behind the vectors), and the weights of the vectors whose mean they are of.
    """

    vectors: int | None
    scores: int | None
    weights: tuple[int, ...] = ()


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
        # What is no whole vector is taken for scores of the first.
        return _Form(None, None, (1,))
    if isinstance(pipeline, Headed):
        weights = pipeline.head_weights(task)
        return _Form(None, pipeline.head_columns if weights else 0, weights)
    return _Form(len(pipeline.plan(task).sequences), 0)


def _blob(manifest: Manifest, answer: Answer) -> bytes:
    return answer.output if manifest.pipeline == "embeddings" else answer.evidence


def _floats(blob: bytes) -> Sequence[float]:
    # A list, as it is gone through three times: an array would make each of its floats anew.
    return vector_math.floats(blob).tolist()


def _evidence(flat: Sequence[float], form: _Form, dimensions: int) -> _Evidence:
    """Return an answer's evidence; raises `ValueError` for numbers that cannot be that."""
    scores = len(flat) % dimensions if form.scores is None else form.scores
    end = len(flat) - scores
    found = end // dimensions
    # Scores are of vectors that are there.
    if (
        end % dimensions
        or (form.vectors is not None and found != form.vectors)
        or (scores and found < len(form.weights))
    ):
        of = "vectors" if form.vectors is None else f"{form.vectors} vectors"
        raise ValueError(f"{len(flat):,} numbers are no evidence for {of} of {dimensions}")
    vectors: list[Vector] = [flat[at : at + dimensions] for at in range(0, end, dimensions)]
    return _Evidence(vectors, flat[end:])


def _difference(
    manifest: Manifest,
    ours: _Evidence,
    theirs: _Evidence,
    pairs: Sequence[_Pair],
    weights: tuple[int, ...],
) -> str:
    """Return how the evidence differs by more than the tolerance, or nothing."""
    # Every comparison is written so that a NaN fails it.
    for at, (value, change) in enumerate(pairs):
        if not value >= manifest.min_cosine:
            return f"vector {at} has cosine {value:.4f}, less than {manifest.min_cosine}"
        if not abs(change) <= _MAX_LENGTH_CHANGE:
            return f"vector {at} is {1 + change:.3f} times as long"
    if not ours.scores:
        return ""
    mean = sum(ours.scores) / len(ours.scores)
    spread = max(max(ours.scores) - mean, mean - min(ours.scores))
    allowed = spread * min(_SCORE_CAP, _SCORE_FLOOR + _SCORE_SLACK * _apart(ours, theirs, weights))
    if not _furthest(ours.scores, theirs.scores) <= allowed:
        return f"head scores differ by more than {allowed:.4f}"
    return ""


def _apart(ours: _Evidence, theirs: _Evidence, weights: tuple[int, ...]) -> float:
    """Return the distance of what the two heads were given."""
    count = len(weights)
    own, other = (vector_math.mean(one.vectors[:count], weights) for one in (ours, theirs))
    return math.sqrt(max(0.0, 2 - 2 * vector_math.dot(own, other)))


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
