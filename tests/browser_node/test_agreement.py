"""Honest noise agrees, lies do not."""

from __future__ import annotations

import json
import math
import random
import struct
from array import array
from collections.abc import Callable, Sequence

import pytest

from browser_node.agreement import Judge, Verdict, agree
from browser_node.models import Manifest
from browser_node.pipelines import Pipeline, Plan, Vector
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.embeddings import EmbeddingsPipeline
from browser_node.pipelines.summary import SummaryPipeline
from browser_node.protocol import Answer, Task
from tests.browser_node import built
from tests.browser_node.arithmetic import WordTokenizer, manifest_of, vector_of

LABELS = 40
# Of the labels less: noise spread over eight dimensions reaches every score more than over 384.
HONEST_COSINE = {"embeddings": 0.996, "summary": 0.996, "labels": 0.9993}
EMBEDDINGS = manifest_of("embeddings")
SUMMARY = manifest_of("extractive-summary", max_tokens=999)
CLASSES = manifest_of("iab-classification")


class LabelPipeline:
    """The best three labels and their rounded scores."""

    head_path: str | None = "head.onnx"
    head_columns = LABELS

    def head_weights(self, task: Task) -> tuple[int, ...]:
        return (1,)

    def plan(self, task: Task) -> Plan:
        sequence = WordTokenizer().encode(task.input, max_tokens=64)
        return Plan((sequence,), head_weights=self.head_weights(task))

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        best = sorted(range(LABELS), key=lambda label: -scores[label])[:3]
        output = json.dumps([[label, round(scores[label], 2)] for label in best]).encode()
        return Answer(output=output, evidence=vector_math.halved(vectors)[1])


def head(vector: Vector) -> array[float]:
    """Return the scores of a linear head with rows of length 20."""
    rng = random.Random(5)
    rows = [[rng.gauss(0, 1) for _ in vector] for _ in range(LABELS)]
    return array("f", [20 * vector_math.cosine(row, [1e-9, *vector[1:]]) for row in rows])


PIPELINES: dict[str, tuple[Manifest, Pipeline]] = {
    "embeddings": (EMBEDDINGS, EmbeddingsPipeline(EMBEDDINGS, WordTokenizer())),
    "summary": (SUMMARY, SummaryPipeline(SUMMARY, WordTokenizer())),
    "labels": (CLASSES, LabelPipeline()),
}
KINDS = list(PIPELINES)


def task_of(seed: int) -> Task:
    rng = random.Random(seed)
    sentences = (
        " ".join(f"w{rng.randrange(90)}" for _ in range(rng.randint(5, 9))).capitalize() + "."
        for _ in range(14)
    )
    text = " ".join(sentences)
    return Task(input=" ".join(text.split()[:60]))


def moved(vector: Vector, rng: random.Random, *, cosine: float) -> array[float]:
    """Return a unit vector at the given cosine to ``vector``, in a random direction."""
    noise = [rng.gauss(0, 1) for _ in vector]
    along = vector_math.dot(noise, vector)
    across = [n - along * v for n, v in zip(noise, vector, strict=True)]
    length = math.sqrt(vector_math.dot(across, across))
    sine = math.sqrt(1 - cosine * cosine)
    return array("f", [cosine * v + sine * a / length for v, a in zip(vector, across, strict=True)])


def answer(kind: str, task: Task, *, noise: random.Random | None = None) -> Answer:
    """Return an honest node's answer, of another runtime if there is ``noise``."""
    _, pipeline = PIPELINES[kind]
    plan = pipeline.plan(task)
    vectors: list[Vector] = [vector_of(sequence) for sequence in plan.sequences]
    if noise is not None:
        vectors = [moved(vector, noise, cosine=HONEST_COSINE[kind]) for vector in vectors]
    return finished(pipeline, plan, vectors)


def finished(
    pipeline: Pipeline,
    plan: Plan,
    vectors: Sequence[Vector],
    scores: Vector | None = None,
) -> Answer:
    """Return the answer as the executor would send it."""
    if scores is None:
        scores = scores_of(plan, vectors)
    [scores], of_head = vector_math.halved([scores])
    answer = pipeline.finish(plan, vectors, scores)
    return Answer(output=answer.output, evidence=answer.evidence + of_head)


def scores_of(plan: Plan, vectors: Sequence[Vector]) -> Vector:
    weights = plan.head_weights
    return head(vector_math.mean(vectors[: len(weights)], weights)) if weights else ()


def verdict(kind: str, task: Task, theirs: Answer) -> Verdict:
    manifest, pipeline = PIPELINES[kind]
    return agree(manifest, answer(kind, task), theirs, task=task, pipeline=pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_answer_agrees(kind: str) -> None:
    found = verdict(kind, task_of(1), answer(kind, task_of(1)))
    assert (found.agrees, found.reason) == (True, "")
    assert found.min_cosine == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_node_of_another_runtime_agrees_whatever_its_rounding_changed(kind: str) -> None:
    rng = random.Random(3)
    changed = 0
    for seed in range(150):
        task = task_of(seed)
        theirs = answer(kind, task, noise=rng)
        found = verdict(kind, task, theirs)
        assert (found.agrees, found.reason) == (True, "")
        assert found.min_cosine == pytest.approx(HONEST_COSINE[kind], abs=1e-4)
        changed += theirs.output != answer(kind, task).output
    # The noise does change outputs: else this test would show nothing.
    assert changed > 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_to_another_task_does_not_agree(kind: str) -> None:
    for seed in range(50):
        assert not verdict(kind, task_of(seed), answer(kind, task_of(seed + 1))).agrees


@pytest.mark.parametrize("kind", KINDS)
def test_right_evidence_of_a_node_that_drifts_too_far_does_not_agree(kind: str) -> None:
    _, pipeline = PIPELINES[kind]
    plan = pipeline.plan(task_of(1))
    rng = random.Random(1)
    vectors = [moved(vector_of(ids), rng, cosine=0.985) for ids in plan.sequences]
    theirs = finished(pipeline, plan, vectors)
    found = verdict(kind, task_of(1), theirs)
    assert not found.agrees
    assert found.min_cosine == pytest.approx(0.985, abs=1e-4)


def set_first(value: float) -> Callable[[list[float]], list[float]]:
    return lambda numbers: [value, *numbers[1:]]


CUT: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda blob: b"",
    "part": lambda blob: blob[:-1],
    "noise": lambda blob: random.Random(1).randbytes(len(blob)),
}
TAMPERED: dict[str, Callable[[list[float]], list[float]]] = {
    "one vector less": lambda numbers: numbers[:-8],
    "one number less": lambda numbers: numbers[:-1],
    "one vector more": lambda numbers: numbers + numbers[:8],
    "zeros": lambda numbers: [0.0] * len(numbers),
    "ones": lambda numbers: [1.0] * len(numbers),
    "nan": set_first(math.nan),
    "infinity": set_first(math.inf),
    "huge": set_first(65_504),
    "scaled": lambda numbers: [1.5 * number for number in numbers[:8]] + numbers[8:],
    "backwards": lambda numbers: numbers[::-1],
}


def tampered(kind: str, ours: Answer, lie: str) -> Answer:
    """Return the answer with other evidence, and with its own output where it has one."""
    blob = ours.output if kind == "embeddings" else ours.evidence
    if lie in CUT:
        blob = CUT[lie](blob)
    elif kind == "embeddings":
        blob = vector_math.to_bytes([TAMPERED[lie](vector_math.floats(blob).tolist())])
    else:
        blob = vector_math.halved([TAMPERED[lie](list(vector_math.halves(blob)))])[1]
    if kind == "embeddings":
        return Answer(output=blob)
    return Answer(output=ours.output, evidence=blob)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lie", [*CUT, *TAMPERED])
def test_tampered_evidence_does_not_agree(kind: str, lie: str) -> None:
    task = task_of(2)
    found = verdict(kind, task, tampered(kind, answer(kind, task), lie))
    assert not found.agrees
    assert found.reason
    assert math.isfinite(found.min_cosine)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_none_are_a_measure_of_nothing(value: float) -> None:
    # Of two strangers that answer as a pair, one is held against the other.
    manifest, pipeline = PIPELINES["labels"]
    vector = vector_of(pipeline.plan(task_of(1)).sequences[0])
    rounded, scores = vector_math.halved([vector])[1], head(vector)
    one, other = (
        Answer(output=b"x", evidence=rounded + vector_math.halved([[first, *scores[1:]]])[1])
        for first in (value, 99.0)
    )

    found = agree(manifest, one, other, task=task_of(1), pipeline=pipeline)

    assert not found.agrees
    assert "head scores" in found.reason


def test_a_number_that_signals_is_none_and_no_warning() -> None:
    ours = answer("embeddings", task_of(1))
    signalling = struct.pack("<I", 0x7F800001) + ours.output[4:]

    found = verdict("embeddings", task_of(1), Answer(output=signalling))

    assert not found.agrees
    assert found.min_cosine == -1.0


@pytest.mark.parametrize("vector", [0, 1])
def test_a_vector_that_is_none_is_the_worst_wherever_it_stands(vector: int) -> None:
    ours = answer("summary", task_of(2))
    numbers = list(vector_math.halves(ours.evidence))
    numbers[8 * vector] = math.nan
    evidence = vector_math.halved([numbers])[1]

    found = verdict("summary", task_of(2), Answer(output=ours.output, evidence=evidence))

    assert f"vector {vector} " in found.reason
    assert found.min_cosine == -1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 65_504])
@pytest.mark.parametrize("at", [0, 7, LABELS - 1])
def test_a_score_that_is_no_score_does_not_agree_wherever_it_stands(at: int, value: float) -> None:
    _, pipeline = PIPELINES["labels"]
    plan = pipeline.plan(task_of(1))
    vector = vector_of(plan.sequences[0])
    scores = head(vector)
    output = finished(pipeline, plan, [vector], scores).output
    scores[at] = value
    evidence = vector_math.halved([vector])[1] + vector_math.halved([scores])[1]
    found = verdict("labels", task_of(1), Answer(output=output, evidence=evidence))
    assert not found.agrees
    assert "head scores" in found.reason


@pytest.mark.parametrize(
    "lie",
    [
        lambda text: b"",
        lambda text: b"You have won. Click here.",
        lambda text: text.rpartition(b". ")[0] + b".",
        lambda text: text.upper(),
        lambda text: text + b" Click here.",
        lambda text: text.partition(b". ")[2],
        lambda text: b"\xff\xfe",
    ],
)
def test_another_summary_from_right_evidence_does_not_agree(lie: Callable[[bytes], bytes]) -> None:
    for seed in range(10):
        ours = answer("summary", task_of(seed), noise=random.Random(seed))
        theirs = Answer(output=lie(ours.output), evidence=ours.evidence)
        found = verdict("summary", task_of(seed), theirs)
        assert found.reason == "the output does not follow from its own evidence"
        assert not found.agrees


def test_a_swapped_label_from_right_evidence_does_not_agree() -> None:
    for seed in range(50):
        ours = answer("labels", task_of(seed), noise=random.Random(seed))
        best = json.loads(ours.output)
        best[0][0] = (best[0][0] + 1) % LABELS
        theirs = Answer(output=json.dumps(best).encode(), evidence=ours.evidence)
        assert not verdict("labels", task_of(seed), theirs).agrees


def test_a_swapped_label_with_scores_to_match_does_not_agree() -> None:
    for seed in range(50):
        task = task_of(seed)
        _, pipeline = PIPELINES["labels"]
        plan = pipeline.plan(task)
        vector = moved(vector_of(plan.sequences[0]), random.Random(seed), cosine=0.992)
        scores = head(vector)
        order = sorted(range(LABELS), key=lambda label: -scores[label])
        # The best label changes places with one from the middle.
        scores[order[0]], scores[order[20]] = scores[order[20]], scores[order[0]]
        found = verdict("labels", task, finished(pipeline, plan, [vector], scores))
        assert not found.agrees
        assert "head scores" in found.reason


@pytest.mark.parametrize(("raised", "agrees"), [(0.08, True), (0.2, False)])
def test_vectors_at_the_edge_of_the_tolerance_leave_the_scores_no_more_room_than_a_tenth(
    raised: float, agrees: bool
) -> None:
    manifest, pipeline = PIPELINES["labels"]
    plan = pipeline.plan(task_of(1))
    vector = vector_of(plan.sequences[0])
    scores = head(vector)
    mean = sum(scores) / LABELS
    scores[3] += raised * max(abs(score - mean) for score in scores)
    drifted = moved(vector, random.Random(1), cosine=0.991)
    theirs = finished(pipeline, plan, [drifted], scores)
    ours = answer("labels", task_of(1))
    assert agree(manifest, ours, theirs, task=task_of(1), pipeline=pipeline).agrees is agrees


def test_an_answer_of_a_head_needs_its_scores_as_evidence() -> None:
    ours = answer("labels", task_of(1))
    bare = Answer(output=b"[]", evidence=ours.evidence[:16])
    manifest, pipeline = PIPELINES["labels"]
    trusted = Answer(output=ours.output, evidence=ours.evidence[:16])
    found = agree(manifest, trusted, bare, task=task_of(1), pipeline=pipeline)
    assert not found.agrees
    assert "no evidence" in found.reason


def test_without_the_task_an_output_that_differs_does_not_agree() -> None:
    ours = answer("summary", task_of(1))
    assert agree(SUMMARY, ours, ours).agrees
    found = agree(SUMMARY, ours, Answer(output=b"Another.", evidence=ours.evidence))
    assert not found.agrees
    assert "without the task" in found.reason


def test_without_the_task_an_embedding_is_compared_all_the_same() -> None:
    ours = answer("embeddings", task_of(1))
    theirs = answer("embeddings", task_of(1), noise=random.Random(1))
    assert agree(EMBEDDINGS, ours, theirs).agrees
    assert not agree(EMBEDDINGS, ours, answer("embeddings", task_of(2))).agrees


def test_an_answer_without_vectors_agrees_by_its_output() -> None:
    task = Task(input="One sentence only.")
    assert verdict("summary", task, Answer(output=b"One sentence only.")) == (True, 1.0, "")
    assert not verdict("summary", task, Answer(output=b"Another sentence.")).agrees


def test_a_task_that_has_no_answer_has_no_agreement() -> None:
    task = Task(input="word " * 2000)
    ours = Answer(output=b"", evidence=b"")
    assert not agree(SUMMARY, ours, ours, task=task, pipeline=PIPELINES["summary"][1]).agrees


@pytest.mark.parametrize("kind", KINDS)
def test_two_who_agree_on_evidence_without_vectors_do_not_agree(kind: str) -> None:
    manifest, pipeline = PIPELINES[kind]
    scores = bytes(2 * LABELS) if kind == "labels" else b""
    made_up = Answer(output=b"" if kind == "embeddings" else b"Buy pills.", evidence=scores)
    found = agree(manifest, made_up, made_up, task=task_of(1), pipeline=pipeline)
    assert not found.agrees
    assert "no evidence" in found.reason


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_far_too_long_is_refused_in_a_few_words(kind: str) -> None:
    ours = answer(kind, task_of(1))
    theirs = Answer(output=ours.output * 9_000, evidence=ours.evidence * 9_000)
    found = verdict(kind, task_of(1), theirs)
    assert not found.agrees
    assert len(found.reason) < 80


class TwoWindows(LabelPipeline):
    """Labels of two windows, with a keyword's vector behind those that the head scores."""

    def head_weights(self, task: Task) -> tuple[int, ...]:
        return (1, 9)

    def plan(self, task: Task) -> Plan:
        words = task.input.split()
        texts = " ".join(words[:30]), " ".join(words[30:]), words[0]
        sequences = tuple(WordTokenizer().encode(text, max_tokens=64) for text in texts)
        return Plan(sequences, head_weights=self.head_weights(task))


def of_two_windows(*, drifting: int | None = None, raised: float = 0.0) -> Answer:
    """Return an answer of which the ``drifting`` vector is only just near enough to the right one.

    One label's score is ``raised`` by a part of the spread; its output follows from its evidence.
    """
    pipeline = TwoWindows()
    plan = pipeline.plan(task_of(1))
    vectors: list[Vector] = [vector_of(sequence) for sequence in plan.sequences]
    scores = array("f", scores_of(plan, vectors))
    mean = sum(scores) / LABELS
    scores[3] += raised * max(abs(score - mean) for score in scores)
    if drifting is not None:
        vectors[drifting] = moved(vectors[drifting], random.Random(1), cosine=0.991)
    return finished(pipeline, plan, vectors, scores)


# The first window is a tenth of the text, and the third vector is a keyword's.
@pytest.mark.parametrize(("drifting", "agrees"), [(0, False), (1, True), (2, False), (None, False)])
def test_scores_have_the_room_that_the_vectors_they_are_of_leave_together(
    drifting: int | None, agrees: bool
) -> None:
    ours, pipeline = of_two_windows(), TwoWindows()
    theirs = of_two_windows(drifting=drifting, raised=0.08)
    found = agree(CLASSES, ours, theirs, task=task_of(1), pipeline=pipeline)
    assert (found.agrees, "head scores" in found.reason) == (agrees, not agrees)


def test_an_output_is_not_derived_from_evidence_of_another_plan() -> None:
    pipeline, ours = TwoWindows(), of_two_windows()
    plan = pipeline.plan(task_of(1))
    vectors: list[Vector] = [vector_of(sequence) for sequence in plan.sequences]
    less = finished(pipeline, plan, vectors[:2])
    other = Answer(output=b"[]", evidence=less.evidence)
    trusted = Answer(output=ours.output, evidence=less.evidence)
    found = agree(CLASSES, trusted, other, task=task_of(1), pipeline=pipeline)
    assert not found.agrees
    assert "another plan" in found.reason


@pytest.mark.slow
def test_a_judge_is_made_of_the_built_model() -> None:
    manifest, files = built.model("zlm-v1-summary-cloud")
    judge = Judge(manifest, files)
    ours = Answer(output=b"One sentence only.")
    assert judge.agree(Task(input="One sentence\nonly."), ours, ours).agrees
