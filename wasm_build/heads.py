"""Fits the IAB head: `head.json` (labels, structure, temperatures) and `head.onnx` (its columns).

    build(encode, encoder_sha256=…, tokenizer_sha256=…) -> {"head.json": bytes, "head.onnx": bytes}

``encode`` is called once with all texts, in order and without repeats, and returns one unit vector
a text: it must be the very model, tokenizer and cut (256 tokens) that the nodes run.

    graph    vectors float32 [n, 384]  ->  scores float32 [n, columns]
             scores = vectors · float32(int8 weights) · a scale for each column

Columns: the example lines of each class of tier 1; its prototype (nine parts their mean, one its
description); each class of tier 2 (one part name, two description, two the mean of its lines); each
interest that no class stands for (name and description); the intents (ridge regression on all that
is labelled with one). Temperatures and the floor are fitted on the calibration set, with the scorer
that the nodes use; nothing else is, but the constants (window size, shares) were chosen on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

from browser_node.pipelines.iab import weight, windows
from browser_node.pipelines.iab_head import (
    Category,
    Code,
    Head,
    Intent,
    Interest,
    Rating,
    Scorer,
    Temperatures,
    softmax,
)
from wasm_build.iab import tables

Encode = Callable[[list[str]], Sequence[Sequence[float]]]
Vectors = npt.NDArray[np.float64]

VERSION: Final = "1"
RATING: Final = Rating(example_temperature=1 / 15, prototype_share=0.3, child_share=0.5)
OPSET: Final = 20
IR_VERSION: Final = 10
_RIDGE: Final = 3.0
# So much of what is about nothing is recognised as such. More would refuse odd pages that are about
# something: at 95, 3 % of the evaluation set.
_NOTHING_PERCENTILE: Final = 75


@dataclass(frozen=True)
class _Tables:
    """All tables, read once."""

    content: list[tables.Class22]
    codes: list[tables.Class10]
    audience: list[tables.Interest]
    seeds: list[tables.Seed]
    paragraphs: list[tables.Example]
    intents: list[tables.Intent]
    intent_seeds: list[tables.IntentSeed]
    calibration: list[tables.Example]

    def texts(self) -> list[str]:
        """Return every text that has to be encoded."""
        labels = [(item.name, item.description) for item in self.content]
        labels += [(item.name, item.description) for item in self.audience if item.description]
        return [
            *(item.description for item in self.content),
            *(text for label in labels for text in _label_texts(*label)),
            *(intent.description for intent in self.intents),
            *(seed.text for seed in self.seeds),
            *(seed.text for seed in self.intent_seeds),
            *(example.text for example in self.paragraphs),
            *(
                window
                for example in [*self.paragraphs, *self.calibration]
                for window in windows(example.text)
            ),
        ]


class _Space:
    """The vectors of all texts."""

    def __init__(self, encode: Encode, texts: Sequence[str]) -> None:
        unique = list(dict.fromkeys(texts))
        vectors: Vectors = np.asarray(encode(unique), np.float64)
        self._vectors: dict[str, Vectors] = dict(zip(unique, vectors, strict=True))

    def of(self, text: str) -> Vectors:
        return self._vectors[text]

    def label(self, name: str, description: str) -> Vectors:
        """Return the sum for a label: one part name, two description."""
        bare, described = map(self.of, _label_texts(name, description))
        sum_: Vectors = bare + 2 * described
        return sum_

    def read(self, text: str) -> Vectors:
        """Return the unit vector the pipeline would take for a whole text."""
        found = windows(text)
        return _unit(np.sum([weight(part) * self.of(part) for part in found], axis=0))


class _Columns:
    """The head's columns as they are added."""

    def __init__(self) -> None:
        self._rows: list[Vectors] = []

    def add(self, row: Vectors) -> int:
        self._rows.append(row)
        return len(self._rows) - 1

    def weights(self) -> Vectors:
        """Return the columns side by side: [dimensions, columns]."""
        return np.stack(self._rows, axis=1)


def build(encode: Encode, *, encoder_sha256: str, tokenizer_sha256: str) -> dict[str, bytes]:
    """Return the head's files by path; see the module."""
    data = _Tables(
        tables.content_2_2(),
        tables.content_1_0(),
        tables.audience_1_1(),
        tables.seeds(),
        tables.paragraphs(),
        tables.intents(),
        tables.intent_seeds(),
        tables.calibration(),
    )
    space = _Space(encode, data.texts())
    columns = _Columns()
    categories = _categories(data, space, columns)
    interests = _interests(data, space, columns, categories)
    intents = _intents(data, space, columns)
    quantised, scales = _quantised(columns.weights())
    used = {category.code for category in categories}
    used |= {code.parent for code in data.codes if code.code in used and code.parent is not None}
    head = Head(
        head_id="iab",
        version=VERSION,
        encoder_sha256=encoder_sha256,
        tokenizer_sha256=tokenizer_sha256,
        dimensions=quantised.shape[0],
        columns=quantised.shape[1],
        rating=RATING,
        temperatures=Temperatures(tier1=1, tier2=1, intent=1),
        reject_below=0,
        categories=categories,
        codes=tuple(
            Code(code=code.code, parent=code.parent, name=code.name)
            for code in data.codes
            if code.code in used
        ),
        interests=interests,
        intents=intents,
        fitted={},
    )
    head = _calibrated(head, data, space, weights=np.multiply(quantised, scales, dtype=np.float64))
    return {"head.json": msgspec.json.encode(head), "head.onnx": graph(quantised, scales)}


# ── columns ──────────────────────────────────────────────────────────────────────────────────────


def _categories(data: _Tables, space: _Space, columns: _Columns) -> tuple[Category, ...]:
    """Add the columns of content 2.2; returns its classes in the table's order."""
    tier1_of = {item.id: item.parent or item.id for item in data.content}
    of_tier1: dict[int, list[Vectors]] = {item.id: [] for item in data.content}
    of_tier2: dict[int, list[Vectors]] = {item.id: [] for item in data.content}
    for seed in data.seeds:
        of_tier1[tier1_of[seed.content]].append(space.of(seed.text))
        of_tier2[seed.content].append(space.of(seed.text))
    for example in data.paragraphs:
        of_tier1[example.tier1 or 0].append(space.of(example.text))
        of_tier2[example.tier2[0]].append(space.of(example.text))
    found = []
    for item in data.content:
        examples = None
        if item.parent is None:
            lines = [columns.add(vector) for vector in of_tier1[item.id]]
            examples = (lines[0], lines[-1] + 1)
            mean = np.mean(of_tier1[item.id], axis=0)
            column = columns.add(_unit(0.9 * mean + 0.1 * space.of(item.description)))
        else:
            mean = np.mean(of_tier2[item.id], axis=0)
            column = columns.add(_unit(space.label(item.name, item.description) + 2 * mean))
        found.append(
            Category(
                id=item.id,
                parent=item.parent,
                name=item.name,
                code=item.code,
                column=column,
                examples=examples,
            )
        )
    return tuple(found)


def _interests(
    data: _Tables, space: _Space, columns: _Columns, categories: Sequence[Category]
) -> tuple[Interest, ...]:
    """Add columns for the interests that no class of content stands for; returns all interests."""
    known = {category.id: category for category in categories}
    tier1: dict[int, int] = {}
    found = []
    for item in data.audience:
        column = None
        if item.content is not None:
            same = known[item.content]
            tier1[item.id] = same.parent or same.id
            column = None if same.parent is None else same.column
        elif item.parent in tier1:
            tier1[item.id] = tier1[item.parent]
            column = columns.add(_unit(space.label(item.name, item.description)))
        found.append(
            Interest(
                id=item.id,
                parent=item.parent,
                name=item.name,
                content=tier1.get(item.id),
                column=column,
            )
        )
    return tuple(found)


def _intents(data: _Tables, space: _Space, columns: _Columns) -> tuple[Intent, ...]:
    """Add the intents' columns: ridge regression to one for its own texts and zero for others."""
    order = [intent.id for intent in data.intents]
    labelled = [
        *((intent.id, space.of(intent.description)) for intent in data.intents),
        *((seed.intent, space.of(seed.text)) for seed in data.intent_seeds),
        *((example.intents[0], space.read(example.text)) for example in data.paragraphs),
    ]
    texts = np.stack([vector for _, vector in labelled])
    targets = np.array([[float(key == intent) for key in order] for intent, _ in labelled])
    targets -= 1 / len(order)
    gram = texts.T @ texts + _RIDGE * np.eye(texts.shape[1])
    weights = np.linalg.solve(gram, texts.T @ targets)
    return tuple(
        Intent(name=intent.name, category=intent.category, column=columns.add(weights[:, at]))
        for at, intent in enumerate(data.intents)
    )


def _label_texts(name: str, description: str) -> tuple[str, str]:
    return name, f"{name}: {description}"


def _unit(vector: Vectors) -> Vectors:
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit


# ── calibration ──────────────────────────────────────────────────────────────────────────────────


def _calibrated(head: Head, data: _Tables, space: _Space, *, weights: Vectors) -> Head:
    """Return the head with its temperatures, its floor and what they achieve on the set."""
    scorer = Scorer(head)
    siblings: dict[int, dict[int, int]] = {}
    for category in head.categories:
        if category.parent is not None:
            siblings.setdefault(category.parent, {})[category.id] = category.column
    tier1: list[Choice] = []
    tier2: list[Choice] = []
    intents: list[Choice] = []
    nothing: list[float] = []
    for example in data.calibration:
        row = (space.read(example.text) @ weights).tolist()
        ratings = scorer.ratings(row)
        if example.is_about_nothing:
            nothing.append(max(ratings.values()))
        if example.tier1 is not None:
            tier1.append(Choice(ratings, (example.tier1,)))
            own = siblings[example.tier1]
            tier2.append(
                Choice(
                    {key: row[column] for key, column in own.items()},
                    tuple(key for key in example.tier2 if key in own),
                )
            )
        if example.intents:
            outputs = {at: row[intent.column] for at, intent in enumerate(head.intents)}
            right = (at for at, item in enumerate(data.intents) if item.id in example.intents)
            intents.append(Choice(outputs, tuple(right)))
    floor = round(float(np.percentile(nothing, _NOTHING_PERCENTILE)), 3)
    kept = [max(choice.values.values()) >= floor for choice in tier1]
    return msgspec.structs.replace(
        head,
        temperatures=Temperatures(
            tier1=temperature(tier1), tier2=temperature(tier2), intent=temperature(intents)
        ),
        reject_below=floor,
        fitted={
            "examples": float(len(data.seeds) + len(data.paragraphs)),
            "calibration_texts": float(len(data.calibration)),
            "tier1_top1": _accuracy(tier1),
            "tier2_top1_given_tier1": _accuracy(tier2),
            "intent_top1": _accuracy(intents),
            "accepted": round(sum(kept) / len(kept), 3),
        },
    )


@dataclass(frozen=True)
class Choice:
    """What a softmax chooses from, and which choices are right."""

    values: Mapping[int, float]
    right: tuple[int, ...]

    def loss(self, temperature: float) -> float:
        shares = softmax(self.values, temperature)
        return -math.log(max(sum(shares[key] for key in self.right), 1e-12))


def temperature(choices: Sequence[Choice]) -> float:
    """Return the temperature of least mean log-loss, to three digits."""
    grid = [float(f"{value:.3g}") for value in np.geomspace(0.005, 1.0, 120)]
    return min(grid, key=lambda value: (round(sum(c.loss(value) for c in choices), 6), value))


def _accuracy(choices: Sequence[Choice]) -> float:
    hits = sum(max(c.values, key=c.values.__getitem__) in c.right for c in choices)
    return round(hits / len(choices), 3)


# ── graph ────────────────────────────────────────────────────────────────────────────────────────


def _quantised(weights: Vectors) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 weights and each column's scale."""
    scales = (np.abs(weights).max(axis=0) / 127).astype(np.float32)
    return np.clip(np.round(weights / scales), -127, 127).astype(np.int8), scales


def graph(weights: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> bytes:
    """Return the ONNX file; only operators every build of ONNX Runtime has."""
    dimensions, columns = weights.shape

    def constant(name: str, value: npt.NDArray[Any]) -> Any:
        return numpy_helper.from_array(np.ascontiguousarray(value), name)

    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Cast", ["weights"], ["columns"], to=TensorProto.FLOAT),
                helper.make_node("MatMul", ["vectors", "columns"], ["products"]),
                helper.make_node("Mul", ["products", "scales"], ["scores"]),
            ],
            "iab_head",
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", dimensions])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", columns])],
            [constant("weights", weights), constant("scales", scales)],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="zerogpu",
    )
    checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
