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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from browser_node import pipelines
from browser_node.models import Manifest
from browser_node.pipelines.plan import Headed, InputError, Pipeline
from browser_node.protocol import Answer, Task

if TYPE_CHECKING:
    from browser_node.evidence import Evidence, Pairs

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
        from browser_node import evidence  # noqa: F401, PLC0415 — now, not with the first answer

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
    from browser_node import evidence as ev  # noqa: PLC0415 — numpy is slow to import

    expected, given = _blob(manifest, trusted), _blob(manifest, answer)
    # Before it is read: a stranger says how long it is.
    if len(given) != len(expected):
        return Verdict(
            False, -1.0, f"evidence has {len(given):,} bytes, {len(expected):,} expected"
        )
    number = "<f4" if manifest.pipeline == "embeddings" else "<f2"
    try:
        form = ev.Form(*_form(task, pipeline))
        ours = ev.read(expected, number, form, manifest.dimensions)
        theirs = ev.read(given, number, form, manifest.dimensions)
    except (InputError, ValueError) as error:
        return Verdict(False, -1.0, str(error))
    pairs = ev.pairs(ours, theirs)
    reason = _difference(manifest, ours, theirs, pairs, form.weights)
    if not reason and manifest.pipeline != "embeddings" and answer.output != trusted.output:
        reason = _derivation(task, pipeline, theirs, answer.output)
    worst = pairs.worst
    return Verdict(not reason, worst if math.isfinite(worst) else -1.0, reason)


def _form(
    task: Task | None, pipeline: Pipeline | None
) -> tuple[int | None, int | None, tuple[int, ...]]:
    """Return what the evidence for ``task`` is made of (`evidence.Form`).

    Not from the plan where a head tells enough: its pipeline plans for as long as all the rest
    takes, and outputs are mostly equal. Raises `InputError` where there is none.
    """
    if task is None or pipeline is None:
        # What is no whole vector is taken for scores of the first.
        return None, None, (1,)
    if isinstance(pipeline, Headed):
        weights = pipeline.head_weights(task)
        return None, pipeline.head_columns if weights else 0, weights
    return len(pipeline.plan(task).sequences), 0, ()


def _blob(manifest: Manifest, answer: Answer) -> bytes:
    return answer.output if manifest.pipeline == "embeddings" else answer.evidence


def _difference(
    manifest: Manifest,
    ours: Evidence,
    theirs: Evidence,
    pairs: Pairs,
    weights: tuple[int, ...],
) -> str:
    """Return how the evidence differs by more than the tolerance, or nothing."""
    from browser_node import evidence as ev  # noqa: PLC0415 — as above

    # Every comparison is written so that a NaN fails it.
    like = pairs.cosines >= manifest.min_cosine
    good = like & (abs(pairs.changes) <= _MAX_LENGTH_CHANGE)
    if not good.all():
        at = int(good.argmin())
        if not like[at]:
            return (
                f"vector {at} has cosine {pairs.cosines[at]:.4f}, less than {manifest.min_cosine}"
            )
        return f"vector {at} is {1 + pairs.changes[at]:.3f} times as long"
    if not len(ours.scores):
        return ""
    slack = _SCORE_FLOOR + _SCORE_SLACK * ev.apart(ours, theirs, weights)
    allowed = ev.spread(ours.scores) * min(_SCORE_CAP, slack)
    if not ev.furthest(ours.scores, theirs.scores) <= allowed:
        return f"head scores differ by more than {allowed:.4f}"
    return ""


def _derivation(
    task: Task | None, pipeline: Pipeline | None, evidence: Evidence, output: bytes
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
    vectors, scores = evidence.vectors.tolist(), evidence.scores.tolist()
    if pipeline.finish(plan, vectors, scores).output != output:
        return "the output does not follow from its own evidence"
    return ""
