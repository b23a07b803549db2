"""The taxonomies' facts, our texts beside them, and the head fitted on them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from browser_node.pipelines.iab_head import Head, Scorer, decode_head
from wasm_build import heads
from wasm_build.iab import tables

EVALUATION = Path(__file__).resolve().parents[1] / "data" / "iab_evaluation.tsv"
DIMENSIONS = 16
ENCODER, TOKENIZER = "a" * 64, "b" * 64


def encode(texts: list[str]) -> Sequence[Sequence[float]]:
    """Return a unit vector a text, near those of texts with the same words."""
    found = []
    for text in texts:
        total = np.full(DIMENSIONS, 1e-6)
        for word in text.lower().split():
            digest = hashlib.sha256(word.encode()).digest()[:DIMENSIONS]
            total += np.frombuffer(digest, np.uint8) - 127.5
        found.append((total / np.linalg.norm(total)).tolist())
    return found


@cache
def built() -> dict[str, bytes]:
    return heads.build(encode, encoder_sha256=ENCODER, tokenizer_sha256=TOKENIZER)


def head() -> Head:
    return decode_head(built()["head.json"], encoder_sha256=ENCODER, tokenizer_sha256=TOKENIZER)


# ── facts ────────────────────────────────────────────────────────────────────────────────────────


def test_the_taxonomies_have_all_their_classes() -> None:
    codes, content, audience = tables.content_1_0(), tables.content_2_2(), tables.audience_1_1()
    assert Counter(item.parent is None for item in codes) == {True: 26, False: 366}
    assert Counter(item.parent is None for item in content) == {True: 29, False: 341}
    assert [item.name for item in audience if item.parent is None] == ["Interest"]
    assert Counter(item.parent == 206 for item in audience if item.parent) == {True: 27, False: 264}


def test_ids_are_unique_and_every_parent_stands_before_its_children() -> None:
    for ids in (
        [(item.code, item.parent) for item in tables.content_1_0()],
        [(item.id, item.parent) for item in tables.content_2_2()],
        [(item.id, item.parent) for item in tables.audience_1_1()],
    ):
        seen: set[int | str | None] = {None}
        for key, parent in ids:
            assert parent in seen
            assert key not in seen
            seen.add(key)


@pytest.mark.parametrize(
    ("key", "parent", "name"),
    [
        (1, None, "Automotive"),
        (596, None, "Technology & Computing"),
        (225, 223, "Fitness and Exercise"),
        (472, 464, "Space and Astronomy"),
        (497, None, None),  # Horse Racing is tier 3
        (328, 324, "Special Interest Movies"),
        (685, 680, "Video Game Genres"),
    ],
)
def test_classes_of_2_2_are_the_published_ones(
    key: int, parent: int | None, name: str | None
) -> None:
    known = {item.id: (item.parent, item.name) for item in tables.content_2_2()}
    assert known.get(key) == (None if name is None else (parent, name))


@pytest.mark.parametrize(
    ("code", "parent", "name"),
    [
        ("IAB1", None, "Arts & Entertainment"),
        ("IAB7-1", "IAB7", "Exercise"),
        ("IAB19-6", "IAB19", "Cell Phones"),
        ("IAB17-44", "IAB17", "World Soccer"),
        ("IAB26-4", "IAB26", "Copyright Infringement"),
    ],
)
def test_classes_of_1_0_are_the_published_ones(code: str, parent: str | None, name: str) -> None:
    known = {item.code: (item.parent, item.name) for item in tables.content_1_0()}
    assert known[code] == (parent, name)


@pytest.mark.parametrize(
    ("key", "parent", "name"),
    [(687, 206, "Technology & Computing"), (544, 541, "Dogs"), (722, 719, "Asia Travel")],
)
def test_interests_are_the_published_ones(key: int, parent: int, name: str) -> None:
    known = {item.id: (item.parent, item.name) for item in tables.audience_1_1()}
    assert known[key] == (parent, name)


def test_codes_invert_the_published_mapping() -> None:
    codes = {item.code: item for item in tables.content_1_0()}
    content = {item.id: item for item in tables.content_2_2()}
    mapped = {item.content_2 for item in codes.values()}
    for item in content.values():
        code = codes[item.code]
        if code.content_2 == item.id:
            continue
        # It stands for the class only by inheritance: from the parent in either taxonomy.
        siblings = [other for other in codes.values() if other.content_2 == item.id]
        inherited = item.parent is not None and item.code == content[item.parent].code
        covers = code.parent is None and {other.parent for other in siblings} == {code.code}
        assert (
            (inherited and (item.id not in mapped or len(siblings) > 1))
            or covers
            or (
                # No class of 1.0 maps to these two; most that map to their children are in these.
                (item.id, item.code) in {(150, "IAB1"), (286, "IAB7")}
            )
        ), item


def test_an_interest_is_told_by_a_class_or_by_a_description() -> None:
    content = {item.id for item in tables.content_2_2()}
    for item in tables.audience_1_1():
        if item.parent is not None:
            assert (item.content in content) != bool(item.description)


# ── texts ────────────────────────────────────────────────────────────────────────────────────────


def test_every_class_of_tier_1_has_many_lines_and_every_class_of_tier_2_has_one() -> None:
    counts = Counter(seed.content for seed in tables.seeds())
    for item in tables.content_2_2():
        assert counts[item.id] >= (4 if item.parent is None else 1)
        assert item.description


def test_labels_of_texts_exist_and_fit_each_other() -> None:
    parents = {item.id: item.parent for item in tables.content_2_2()}
    intents = {intent.id for intent in tables.intents()}
    assert {seed.intent for seed in tables.intent_seeds()} == intents
    for example in [
        *tables.paragraphs(),
        *tables.calibration(),
        *tables.examples(EVALUATION),
    ]:
        assert set(example.intents) <= intents
        if example.tier1 is not None:
            assert parents[example.tier1] is None
            assert parents[example.tier2[0]] == example.tier1
            assert all(parents[key] for key in example.tier2)


def test_calibration_and_evaluation_texts_are_used_for_nothing_else() -> None:
    used = [
        {seed.text for seed in tables.seeds()},
        {seed.text for seed in tables.intent_seeds()},
        {example.text for example in tables.paragraphs()},
        {example.text for example in tables.calibration()},
        {example.text for example in tables.examples(EVALUATION)},
    ]
    assert len(set.union(*used)) == sum(map(len, used))


def test_the_evaluation_has_texts_for_every_class_of_tier_1() -> None:
    counts = Counter(example.tier1 for example in tables.examples(EVALUATION))
    assert set(counts) == {item.id for item in tables.content_2_2() if item.parent is None}
    assert min(counts.values()) >= 3


# ── head ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_vectors_give_the_same_files() -> None:
    again = heads.build(encode, encoder_sha256=ENCODER, tokenizer_sha256=TOKENIZER)
    assert again == built()


def test_texts_are_encoded_in_one_call_without_repeats() -> None:
    calls: list[list[str]] = []

    def counting(texts: list[str]) -> Sequence[Sequence[float]]:
        calls.append(texts)
        return encode(texts)

    heads.build(counting, encoder_sha256=ENCODER, tokenizer_sha256=TOKENIZER)
    (texts,) = calls
    assert len(set(texts)) == len(texts)


def test_the_head_names_all_classes_and_interests_and_binds_itself_to_its_encoder() -> None:
    found = head()
    assert (found.encoder_sha256, found.tokenizer_sha256) == (ENCODER, TOKENIZER)
    assert found.dimensions == DIMENSIONS
    assert [item.id for item in found.categories] == [item.id for item in tables.content_2_2()]
    assert [item.id for item in found.interests] == [item.id for item in tables.audience_1_1()]
    assert {item.code for item in found.categories} <= {item.code for item in found.codes}
    assert {item.parent for item in found.codes} <= {None, *(item.code for item in found.codes)}
    assert len({intent.category for intent in found.intents}) == 5


def test_every_column_belongs_to_something() -> None:
    found = head()
    used = {item.column for item in found.categories}
    used |= {item.column for item in found.intents}
    used |= {item.column for item in found.interests if item.column is not None}
    used |= {at for item in found.categories if item.examples for at in range(*item.examples)}
    assert used == set(range(found.columns))


def test_the_graph_scores_by_int8_columns_with_a_scale_each() -> None:
    model = onnx.load_from_string(built()["head.onnx"])
    weights, scales = (numpy_helper.to_array(item) for item in model.graph.initializer)
    assert weights.dtype == np.int8
    assert {node.op_type for node in model.graph.node} == {"Cast", "MatMul", "Mul"}

    vectors = np.asarray(encode(["a dog", "two trains to Rome"]), np.float32)
    session = onnxruntime.InferenceSession(built()["head.onnx"])
    (scores,) = session.run(None, {"vectors": vectors})

    assert scores.shape == (2, head().columns)
    assert np.allclose(scores, vectors @ weights * scales, atol=1e-5)


def test_a_seed_is_nearest_to_itself_and_rounding_is_small() -> None:
    found = head()
    session = onnxruntime.InferenceSession(built()["head.onnx"])
    first = found.categories[0]
    seed = next(seed for seed in tables.seeds() if seed.content == first.id)
    (scores,) = session.run(None, {"vectors": np.asarray(encode([seed.text]), np.float32)})

    start, stop = first.examples or (0, 0)
    assert scores[0][start:stop].max() == pytest.approx(1, abs=0.01)
    ratings = Scorer(found).ratings(scores[0].tolist())
    assert max(ratings, key=ratings.__getitem__) == first.id


def test_a_lower_temperature_loses_when_confident_answers_are_wrong() -> None:
    right = heads.Choice({1: 0.9, 2: 0.1}, (1,))
    wrong = heads.Choice({1: 0.9, 2: 0.1}, (2,))
    sure = heads.temperature([right] * 50 + [wrong])
    unsure = heads.temperature([right] * 3 + [wrong])
    assert sure < unsure
    # The odds of a logistic model that is right three times in four.
    assert unsure == pytest.approx(0.8 / np.log(3), rel=0.05)
