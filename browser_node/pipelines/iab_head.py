"""The IAB head: its labels and structure (`head.json`), and how its columns become probabilities.

A row of the head's scores holds the cosines of one text to every column of `head.onnx`: example
lines and a prototype for each class of tier 1, a label for each class of tier 2 and each interest;
and one linear output for each intent.

Rating of a class of tier 1: 0.7 log-mean-exp of the cosines to its examples + 0.3 cosine to its
prototype + half the best cosine among its children. A softmax over these ratings gives tier 1, a
softmax over the children of each class its tier 2: a child's probability is its share of its
parent's, so no child outranks its parent. Constants and temperatures are part of the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

SCHEMA: Final = 1


class HeadError(ValueError):
    """A head does not parse, contradicts itself, or belongs to another encoder."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a head is made of."""


class Category(_Part, frozen=True, kw_only=True):
    """A class of content taxonomy 2.2; ``parent`` is None in tier 1, ``code`` its class in 1.0.

    ``examples`` are the first column and the one after the last of a tier 1 class's example lines.
    """

    id: int
    parent: int | None = None
    name: str
    code: str
    column: int
    examples: tuple[int, int] | None = None


class Code(_Part, frozen=True, kw_only=True):
    """A class of content taxonomy 1.0."""

    code: str
    parent: str | None = None
    name: str


class Interest(_Part, frozen=True, kw_only=True):
    """A node of audience taxonomy 1.1 and the class of tier 1 whose probability it shares.

    It has all of that probability where it has no ``column`` of its own to compete with.
    """

    id: int
    parent: int | None = None
    name: str
    content: int | None = None
    column: int | None = None


class Intent(_Part, frozen=True, kw_only=True):
    """What a reader of the text wants, and the kind of that."""

    name: str
    category: str
    column: int


class Rating(_Part, frozen=True, kw_only=True):
    """Constants of the rating, as the module describes it."""

    example_temperature: float
    prototype_share: float
    child_share: float


class Temperatures(_Part, frozen=True, kw_only=True):
    """Divisors inside the softmaxes, fitted on the calibration set."""

    tier1: float
    tier2: float
    intent: float


class Head(_Part, frozen=True, kw_only=True):
    """All of `head.json`. A text whose best rating is under ``reject_below`` is about nothing."""

    schema: Literal[1] = SCHEMA
    head_id: str
    version: str
    encoder_sha256: str
    tokenizer_sha256: str
    dimensions: int
    columns: int
    rating: Rating
    temperatures: Temperatures
    reject_below: float
    categories: tuple[Category, ...]
    codes: tuple[Code, ...]
    interests: tuple[Interest, ...]
    intents: tuple[Intent, ...]
    fitted: dict[str, float]


def decode_head(head_json: bytes, *, encoder_sha256: str, tokenizer_sha256: str) -> Head:
    """Parse `head.json`; raises `HeadError`, also when it was fitted on another encoder."""
    try:
        head = msgspec.json.decode(head_json, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HeadError(f"head.json does not parse: {error}") from error
    for what, fitted_on, given in (
        ("model.onnx", head.encoder_sha256, encoder_sha256),
        ("tokenizer.json", head.tokenizer_sha256, tokenizer_sha256),
    ):
        if fitted_on != given:
            raise HeadError(f"the head was fitted on {what} {fitted_on[:12]}…, not {given[:12]}…")
    return head


@dataclass(frozen=True, slots=True)
class Probabilities:
    """One probability a class of content (both tiers) and an interest, by id."""

    content: dict[int, float]
    audience: dict[int, float]


class Scorer:
    """Turns one row of scores into ratings and probabilities."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._tier1 = [category for category in head.categories if category.parent is None]
        self._children: dict[int, list[Category]] = {category.id: [] for category in self._tier1}
        for category in head.categories:
            if category.parent is not None:
                self._children[category.parent].append(category)
        self._interests: dict[int, list[Interest]] = {category.id: [] for category in self._tier1}
        for interest in head.interests:
            if interest.content is not None:
                self._interests[interest.content].append(interest)

    def ratings(self, scores: Sequence[float]) -> dict[int, float]:
        """Return the rating of every class of tier 1, by id."""
        constants = self._head.rating
        ratings: dict[int, float] = {}
        for category in self._tier1:
            start, stop = category.examples or (category.column, category.column + 1)
            examples = _log_mean_exp(scores[start:stop], constants.example_temperature)
            prototype = scores[category.column]
            children = [scores[child.column] for child in self._children[category.id]]
            ratings[category.id] = (
                (1 - constants.prototype_share) * examples
                + constants.prototype_share * prototype
                + constants.child_share * max(children, default=0.0)
            )
        return ratings

    def probabilities(
        self, ratings: Mapping[int, float], scores: Sequence[float], *, at_least: float = 0.0
    ) -> Probabilities:
        """Return the probabilities of classes and interests, given tier 1's ratings.

        Tier 1 is always there. What is less probable than ``at_least`` may be left out below it:
        nothing is more probable than its class of tier 1, and most of those are out of the question
        (all 690 cost 0.5 ms natively, the likely ones a tenth of that).
        """
        content = softmax(ratings, self._head.temperatures.tier1)
        audience: dict[int, float] = {}
        for category in self._tier1:
            share = content[category.id]
            if share < at_least:
                continue
            children = self._children[category.id]
            parts = self._parts([child.column for child in children], scores)
            content |= {child.id: share * parts[child.column] for child in children}
            # Interests with a label of their own compete with the classes of tier 2.
            interests = self._interests[category.id]
            rivals = [interest.column for interest in interests if interest.column is not None]
            parts = self._parts([*parts, *rivals], scores)
            audience |= {
                interest.id: share if interest.column is None else share * parts[interest.column]
                for interest in interests
            }
        return Probabilities(content, audience)

    def intent(self, scores: Sequence[float]) -> tuple[Intent, float]:
        """Return the most probable intent with its probability."""
        intents = dict(enumerate(self._head.intents))
        probabilities = softmax(
            {at: scores[intent.column] for at, intent in intents.items()},
            self._head.temperatures.intent,
        )
        best = max(probabilities, key=lambda at: (round(probabilities[at], 6), -at))
        return intents[best], probabilities[best]

    def _parts(self, columns: Sequence[int], scores: Sequence[float]) -> dict[int, float]:
        """Return what part of their parent's probability each of the siblings' columns has."""
        values = {column: scores[column] for column in columns}
        return softmax(values, self._head.temperatures.tier2)


def softmax(values: Mapping[int, float], temperature: float) -> dict[int, float]:
    """Return the values' exponentials, divided by ``temperature`` first, as shares of their sum."""
    if not values:
        return {}
    highest = max(values.values())
    powers = {key: math.exp((value - highest) / temperature) for key, value in values.items()}
    total = sum(powers.values())
    return {key: power / total for key, power in powers.items()}


def _log_mean_exp(values: Sequence[float], temperature: float) -> float:
    """Return a mean that leans to the largest values, the more the lower the temperature."""
    highest = max(values)
    powers = [math.exp((value - highest) / temperature) for value in values]
    return highest + temperature * math.log(sum(powers) / len(powers))
