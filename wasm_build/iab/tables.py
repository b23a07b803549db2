"""Reads the tables beside it into typed rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Class10:
    """A class of content taxonomy 1.0; ``content_2`` may lie below tier 2."""

    code: str
    parent: str | None
    name: str
    content_2: int | None


@dataclass(frozen=True, slots=True)
class Class22:
    """A class of content taxonomy 2.2; ``code`` is the class of 1.0 that stands for it."""

    id: int
    parent: int | None
    name: str
    code: str
    description: str


@dataclass(frozen=True, slots=True)
class Interest:
    """A node of audience taxonomy 1.1: either ``content`` or, tier 1 apart, ``description``."""

    id: int
    parent: int | None
    name: str
    content: int | None
    description: str


@dataclass(frozen=True, slots=True)
class Seed:
    """A line for a class of content 2.2."""

    content: int
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A text and what may be said of it, best first; ``tier1`` is None where it says nothing."""

    tier1: int | None
    tier2: tuple[int, ...]
    intents: tuple[str, ...]
    text: str

    @property
    def is_about_nothing(self) -> bool:
        return self.tier1 is None and not self.intents


@dataclass(frozen=True, slots=True)
class Intent:
    """What a reader may want of a text."""

    id: str
    category: str
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class IntentSeed:
    """A line for an intent."""

    intent: str
    text: str


def content_1_0() -> list[Class10]:
    return [
        Class10(code, parent or None, name, _number(content_2))
        for code, parent, name, content_2 in _rows(FOLDER / "content_1_0.tsv")
    ]


def content_2_2() -> list[Class22]:
    return [
        Class22(int(key), _number(parent), name, code, description)
        for key, parent, name, code, description in _rows(FOLDER / "content_2_2.tsv")
    ]


def audience_1_1() -> list[Interest]:
    return [
        Interest(int(key), _number(parent), name, _number(content), description)
        for key, parent, name, content, description in _rows(FOLDER / "audience_1_1.tsv")
    ]


def seeds() -> list[Seed]:
    return [Seed(int(content), text) for content, text in _rows(FOLDER / "seeds.tsv")]


def intents() -> list[Intent]:
    return [Intent(*row) for row in _rows(FOLDER / "intents.tsv")]


def intent_seeds() -> list[IntentSeed]:
    return [IntentSeed(*row) for row in _rows(FOLDER / "intent_seeds.tsv")]


def paragraphs() -> list[Example]:
    return examples(FOLDER / "paragraphs.tsv")


def calibration() -> list[Example]:
    return examples(FOLDER / "calibration.tsv")


def examples(path: Path) -> list[Example]:
    """Return the labelled texts in a table of tier 1, tiers 2, intents and text."""
    return [
        Example(
            _number(tier1),
            tuple(int(key) for key in tier2.split(",") if key),
            tuple(key for key in intent_ids.split(",") if key),
            text,
        )
        for tier1, tier2, intent_ids, text in _rows(path)
    ]


def _rows(path: Path) -> list[list[str]]:
    """Return the rows under the header of a tab-separated table without quoting."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def _number(cell: str) -> int | None:
    return int(cell) if cell else None
