"""Extractive summary: the sentences that stand for the text, in the order they stand in it.

Score of a sentence: z(cosine to the centroid of all) + z(1/√(1+i)) + 0.7 z(min(words, 30)), then
maximal marginal relevance with λ = 0.8 against repetition. Long summaries (more than a third of the
sentences) leave the position out: what opens a text is no longer worth more there.

Params: ``sentences`` (how many, at least 1; by default the text's length decides) and
``max_tokens`` (the longest output, in tokens). Of a text of more than `MAX_VECTORS` sentences short
neighbours share a vector, which bounds compute and evidence; each is still taken by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from browser_node.models import Manifest
from browser_node.pipelines import sentences as splitter
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.plan import InputError, Plan, Vector, counted
from browser_node.protocol import Answer, Task
from browser_node.tokenizer import Tokenizer, longest_start

MAX_VECTORS: Final = 128
MAX_DEFAULT_SENTENCES: Final = 8
_MAX_SENTENCE_TOKENS: Final = 128
_RELEVANCE: Final = 0.8
# Two sentences of this cosine say the same thing; at λ = 0.8 both could be taken.
_SAME: Final = 0.95
_FEW_WORDS: Final = 4
_FEW_WORDS_UNFINISHED: Final = 8


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What `finish` selects from, and how much to take.

    ``units`` are the texts that have a vector each; the sentences of unit i are those from
    ``firsts[i]`` up to ``firsts[i + 1]``.
    """

    units: tuple[str, ...]
    firsts: tuple[int, ...]
    sentences: tuple[str, ...]
    tokens: tuple[int, ...]
    count: int
    max_tokens: int | None


class SummaryPipeline:
    """Encodes every sentence and selects some; evidence are the sentences' vectors."""

    head_path: str | None = None

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer

    def plan(self, task: Task) -> Plan:
        """Return a sequence a sentence, none if there is no choice to make; raises `InputError`."""
        tokens = counted(self._manifest, self._tokenizer, task.input)
        sentences = splitter.split(task.input)
        groups = splitter.grouped(sentences, limit=MAX_VECTORS)
        units = tuple(map(splitter.joined, groups))
        wanted = _Wanted(
            units=units,
            firsts=tuple(accumulate(map(len, groups), initial=0)),
            sentences=tuple(sentences),
            tokens=tuple(self._tokenizer.count(sentence) - 2 for sentence in sentences),
            count=_positive(task, "sentences") or default_count(len(sentences)),
            max_tokens=_positive(task, "max_tokens"),
        )
        sequences = tuple(
            self._tokenizer.encode(unit, max_tokens=_MAX_SENTENCE_TOKENS) for unit in units
        )
        return Plan(sequences if len(units) > 1 else (), tokens=tokens, state=wanted)

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        """Return the selected sentences joined by spaces."""
        return self.finish_in_pieces(plan, vectors, scores)[0]

    def finish_in_pieces(
        self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]
    ) -> tuple[Answer, Sequence[str]]:
        """Return the selected sentences joined by spaces, and one by one."""
        wanted = plan.state
        if not isinstance(wanted, _Wanted):
            raise TypeError("the plan is another pipeline's")
        # As whoever judges the answer reads them.
        vectors, evidence = vector_math.halved(vectors)
        chosen = self._chosen(wanted, _order(wanted, vectors)) if wanted.sentences else []
        output = splitter.joined(chosen).encode(errors="replace")
        pieces = [
            piece.encode(errors="replace").decode() for piece in splitter.in_pieces(chosen) if piece
        ]
        return Answer(output=output, evidence=evidence), pieces

    def _chosen(self, wanted: _Wanted, order: Iterator[int]) -> list[str]:
        """Return the best sentences that fit together, or the start of the best if none does."""
        room = math.inf if wanted.max_tokens is None else wanted.max_tokens
        smallest = min(wanted.tokens)
        taken: list[int] = []
        best = None
        for at in order:
            best = at if best is None else best
            if wanted.tokens[at] <= room:
                taken.append(at)
                room -= wanted.tokens[at]
            if len(taken) == wanted.count or room < smallest:
                break
        if taken:
            return [wanted.sentences[at] for at in sorted(taken)]
        best_of_all = wanted.sentences[best or 0]
        return [longest_start(best_of_all, int(room) + 2, self._tokenizer.count)]


def is_cut(text: str, summary: str) -> bool:
    """Return whether ``summary`` is only the start of a sentence of ``text``, for want of tokens.

    Then no sentence was short enough to be taken whole, so that none can be what it begins with.
    """
    sentences = tuple(splitter.split(text))
    return bool(sentences) and not summary.startswith(sentences)


def default_count(available: int) -> int:
    """Return how many of ``available`` sentences a summary has unless told: 1 of 3, 3 of 12, …"""
    return max(1, min(MAX_DEFAULT_SENTENCES, round(0.8 * math.sqrt(available))))


def _order(wanted: _Wanted, vectors: Sequence[Vector]) -> Iterator[int]:
    """Yield the indices of all sentences, best first; a unit's as they stand, fragments last."""
    # As part of the units what it is of the sentences.
    count = -(-wanted.count * len(wanted.units) // len(wanted.sentences))
    units = rank(wanted.units, vectors, count=count) if vectors else iter((0,))
    spans = list(pairwise(wanted.firsts))
    fragments: list[int] = []
    for unit in units:
        for at in range(*spans[unit]):
            if _is_quotable(wanted.sentences[at]):
                yield at
            else:
                fragments.append(at)
    yield from fragments


def rank(units: Sequence[str], vectors: Sequence[Vector], *, count: int) -> Iterator[int]:
    """Yield the indices of all units, best first, by maximal marginal relevance.

    ``count`` is how many will be used: the position counts unless they are many.
    """
    rows = [list(vector) for vector in vectors]
    # Headings, fragments and what was said already come only when nothing else is left.
    quotable = [_is_quotable(unit) for unit in units]
    places = accumulate(quotable[:-1], initial=0) if 3 * count <= max(9, len(units)) else None
    relevance = _scaled(_scores(units, rows, places))
    nearest = [0.0] * len(rows)

    def preference(at: int) -> tuple[bool, float, int]:
        value = _RELEVANCE * relevance[at] - (1 - _RELEVANCE) * nearest[at]
        # Rounded, so that the last bit of a sum does not decide differently in another runtime.
        return quotable[at] and nearest[at] < _SAME, round(value, 6), -at

    left = set(range(len(rows)))
    while left:
        best = max(left, key=preference)
        left.remove(best)
        yield best
        for at in left:
            nearest[at] = max(nearest[at], vector_math.dot(rows[at], rows[best]))


def _scores(
    units: Sequence[str], rows: Sequence[Sequence[float]], places: Iterable[int] | None
) -> list[float]:
    """Return the sum of the standardised signals; ``places`` is None to leave position out."""
    center = vector_math.centroid(rows)
    central = _standardised([vector_math.dot(row, center) for row in rows])
    length = _standardised([min(splitter.word_count(unit), 30) for unit in units])
    scores = [c + 0.7 * size for c, size in zip(central, length, strict=True)]
    if places is None:
        return scores
    early = _standardised([1 / math.sqrt(1 + place) for place in places])
    return [score + e for score, e in zip(scores, early, strict=True)]


def _is_quotable(unit: str) -> bool:
    words = splitter.word_count(unit)
    return words >= (_FEW_WORDS if splitter.is_finished(unit) else _FEW_WORDS_UNFINISHED)


def _standardised(values: Sequence[float]) -> list[float]:
    """Return the values with mean 0 and deviation 1 (all 0 if they are equal)."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / deviation if deviation > 1e-9 else 0.0 for value in values]


def _scaled(values: Sequence[float]) -> list[float]:
    """Return the values from 0 to 1, so that they weigh against a cosine."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _positive(task: Task, name: str) -> int | None:
    value = task.params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError("bad_param", f"{name} is {value!r}; a whole number from 1 is allowed")
    return value
