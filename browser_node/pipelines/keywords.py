"""Keywords: candidates cut from the text between stop words, chosen by their vectors.

`candidates` proposes phrases of one to three words, most promising first; whoever has encoded them
asks `select` for those nearest to the text that do not repeat each other (maximal marginal
relevance, λ = 0.6).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.plan import Vector
from browser_node.pipelines.stopwords import (
    STOPWORDS,
    is_adverb,
    is_plural,
    is_superlative,
    is_verb_form,
    is_weak,
)

MAX_CANDIDATES: Final = 20
MAX_KEYWORDS: Final = 10
MAX_WORDS: Final = 3
_RELEVANCE: Final = 0.6
# Further from the text than this is a word that only happens to stand in it.
_MIN_COSINE: Final = 0.2

_TOKEN: Final = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]|\n")
_POSSESSIVE: Final = re.compile(r"'s$")
_LONGEST_WORD: Final = 32
# What stands before an object: a word with an "s" before one of these is a verb ("calms the").
_BEFORE_OBJECTS: Final = frozenset({
    "the", "a", "an", "to", "its", "his", "her", "my", "your", "our", "their", "him", "them",
    "me", "us", "you", "it", "that", "how", "what", "whether",
})  # fmt: skip


@dataclass(slots=True)
class _Phrase:
    """A phrase as counted so far: where it first stood and how often it was found."""

    words: tuple[str, ...]
    first: int
    count: int = field(default=0)


def candidates(text: str, *, rarity: Callable[[str], float]) -> list[str]:
    """Return at most `MAX_CANDIDATES` lower-case phrases of ``text``, most promising first.

    ``rarity`` rates a word from 0 (everywhere) to 1 (nowhere but here), in place of an IDF table.
    """
    phrases: dict[tuple[str, ...], _Phrase] = {}
    runs = _runs(text)
    total = sum(map(len, runs)) or 1
    at = 0
    for run in runs:
        for words in _phrases_of(run):
            phrase = phrases.setdefault(words, _Phrase(words, at))
            phrase.count += 1
        at += len(run)
    rarities = {word: rarity(word) for words in phrases for word in words}

    def promise(phrase: _Phrase) -> float:
        rare = [rarities[word] for word in phrase.words]
        specific = 0.5 * max(rare) + 0.5 * sum(rare) / len(rare)
        length = 1.0 if len(phrase.words) == 1 else 1.35
        early = 1.0 - 0.3 * phrase.first / total
        return length * early * specific * (1 + math.log(phrase.count))

    ranked = sorted(
        (
            phrase
            for phrase in phrases.values()
            if phrase.count > 1 or not all(map(is_weak, phrase.words))
        ),
        key=lambda phrase: (-round(promise(phrase), 9), phrase.first),
    )
    chosen: list[tuple[frozenset[str], _Phrase]] = []
    for phrase in ranked:
        if len(chosen) == MAX_CANDIDATES:
            break
        stems = _stems(phrase.words)
        # What says what a better one says: its plural, or a part of it. A part that is found much
        # oftener than the whole stands for itself.
        if not any(
            stems == other or (stems < other and phrase.count < better.count + 2)
            for other, better in chosen
        ):
            chosen.append((stems, phrase))
    return [" ".join(phrase.words) for _, phrase in chosen]


def select(
    phrases: Sequence[str], vectors: Sequence[Vector], center: Vector, *, limit: int = MAX_KEYWORDS
) -> list[str]:
    """Return at most ``limit`` of the ``phrases``, best first, by their ``vectors``.

    ``center`` is the text's vector. Of two phrases of which one contains the other only the better
    is taken.
    """
    relevance = [vector_math.cosine(vector, center) for vector in vectors]
    left = [at for at, value in enumerate(relevance) if value >= _MIN_COSINE]
    stems = [_stems(phrase.split()) for phrase in phrases]
    nearest = [0.0] * len(phrases)
    chosen: list[str] = []

    def preference(at: int) -> tuple[float, int]:
        value = _RELEVANCE * relevance[at] - (1 - _RELEVANCE) * nearest[at]
        # Rounded, so that the last bit of a sum does not decide differently in another runtime.
        return round(value, 6), -at

    while left and len(chosen) < limit:
        best = max(left, key=preference)
        chosen.append(phrases[best])
        own = stems[best]
        left = [at for at in left if at != best and not (own <= stems[at] or stems[at] <= own)]
        for at in left:
            nearest[at] = max(nearest[at], vector_math.dot(vectors[at], vectors[best]))
    return chosen


def _runs(text: str) -> list[list[str]]:
    """Return the stretches of words without a stop word, verb or punctuation, in lower case."""
    tokens = [token.replace("’", "'").lower() for token in _TOKEN.findall(text)]
    runs: list[list[str]] = [[]]
    for token, following in pairwise([*tokens, ""]):
        word = _POSSESSIVE.sub("", token)
        if _is_boundary(word) or (runs[-1] and _is_verb(word, runs[-1][-1], following)):
            runs.append([])
            continue
        if runs[-1] and is_plural(runs[-1][-1]) and not is_plural(word):
            runs.append([])
        runs[-1].append(word)
        if word != token:
            # A possessor and what it has are two phrases: "the company's earnings".
            runs.append([])
    return [run for run in runs if run]


def _is_verb(word: str, before: str, after: str) -> bool:
    """Return whether ``word`` seems to be what the noun ``before`` it does to what comes after."""
    if is_plural(word):
        return after in _BEFORE_OBJECTS
    return is_plural(before) and _is_boundary(after)


def _is_boundary(word: str) -> bool:
    return (
        len(word) < 2
        or len(word) > _LONGEST_WORD
        or word in STOPWORDS
        or not any(map(str.isalpha, word))
        or "'" in word
        or is_adverb(word)
        or is_superlative(word)
    )


def _phrases_of(run: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the phrases a run offers: itself, its end if it is long, and its single nouns."""
    while run and is_verb_form(run[-1]):
        run = run[:-1]
    while run and is_verb_form(run[0]):
        run = run[1:]
    if not run:
        return []
    # English puts what matters last: "quarterly revenue growth forecast" is a forecast.
    found = [tuple(run[-MAX_WORDS:])]
    if len(run) > MAX_WORDS:
        found.append(tuple(run[:MAX_WORDS]))
    if len(run) > 1:
        found += [(first, second) for first, second in pairwise(run) if len(run) > 2]
        found += [(word,) for word in run if not is_verb_form(word)]
    return [
        words
        for words in dict.fromkeys(found)
        if not is_verb_form(words[-1]) and not is_verb_form(words[0])
    ]


def _stems(words: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_stem, words))


def _stem(word: str) -> str:
    """Return ``word`` without its plural ending."""
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
