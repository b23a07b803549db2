"""IAB classification: content taxonomies 1.0 and 2.2, audience 1.1, topics, keywords and intent.

The text is encoded in windows of whole sentences, because the head's examples are sentences: a
window of several topics is near to none of them. The mean of their vectors, weighted by words,
stands for the text, and is what the head scores. Classes of 1.0 follow from those of 2.2 by the
published mapping.

Output: the JSON of `Classification`. Evidence: the windows' vectors, then the keyword candidates'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from browser_node.models import Manifest
from browser_node.pipelines import keywords
from browser_node.pipelines import sentences as splitter
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.iab_head import Category, Head, Interest, Scorer, decode_head
from browser_node.pipelines.plan import Plan, Vector, counted
from browser_node.protocol import Answer, Task
from browser_node.tokenizer import Tokenizer

WINDOW_WORDS: Final = 40
MAX_ITEMS: Final = 5
MIN_SCORE: Final = 0.1
_WINDOW_TOKENS: Final = 256
_CANDIDATE_TOKENS: Final = 16
# The vocabulary is ordered by frequency; its words begin here ("the") and end here.
_FIRST_WORD_ID: Final = 1996
_LAST_WORD_ID: Final = 30521
_DIGITS: Final = 4
# What is less probable than this is less than `MIN_SCORE` when rounded, too.
_LISTED: Final = MIN_SCORE - 10**-_DIGITS


class AudienceItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An interest of audience taxonomy 1.1."""

    id: int
    parent_id: int
    name: str
    tier1_name: str
    tier2_name: str
    score: float
    tier3_name: str | None = None


class Content10Item(msgspec.Struct, frozen=True):
    """A class of content taxonomy 1.0."""

    code: str
    name: str
    tier: int
    parent_code: str | None
    score: float


class Content22Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """A class of content taxonomy 2.2."""

    id: int
    parent_id: int | None
    name: str
    tier1_name: str
    score: float
    tier2_name: str | None = None


class Topic(msgspec.Struct, frozen=True):
    """A content class by its lower-case name."""

    name: str
    score: float


class UserIntent(msgspec.Struct, frozen=True):
    """What a reader of the text most probably wants."""

    name: str
    category: str
    score: float


class Content(msgspec.Struct, frozen=True):
    """Both content taxonomies, each best first."""

    iab_1_0: tuple[Content10Item, ...] = ()
    iab_2_2: tuple[Content22Item, ...] = ()


class Classification(msgspec.Struct, frozen=True):
    """The output. Every list is best first; ``user_intent`` is null for a text without words."""

    audience: tuple[AudienceItem, ...] = ()
    content: Content = Content()
    topics: tuple[Topic, ...] = ()
    keywords: tuple[str, ...] = ()
    user_intent: UserIntent | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """What `finish` needs of the text: the keyword candidates."""

    candidates: tuple[str, ...]


def windows(text: str) -> list[str]:
    """Return the text in stretches of whole sentences of at most `WINDOW_WORDS`, if they are."""
    groups: list[list[str]] = []
    words = WINDOW_WORDS
    for sentence in splitter.split(text):
        size = splitter.word_count(sentence)
        words += size
        if words > WINDOW_WORDS:
            groups.append([])
            words = size
        groups[-1].append(sentence)
    return [splitter.joined(group) for group in groups]


def weight(window: str) -> int:
    """Return how much a window counts in the text's mean."""
    return max(1, splitter.word_count(window))


class IabPipeline:
    """Encodes windows and keyword candidates; the head scores the windows' mean."""

    head_path: str | None = "head.onnx"

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, files: Mapping[str, bytes]
    ) -> None:
        """Raise `KeyError` without `head.json`, `HeadError` when it does not suit the model."""
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._head = decode_head(
            files["head.json"],
            encoder_sha256=manifest.file("model.onnx").sha256,
            tokenizer_sha256=manifest.file("tokenizer.json").sha256,
        )
        self.head_columns = self._head.columns
        self._scorer = Scorer(self._head)
        self._report = _Report(self._head)

    def head_weights(self, task: Task) -> tuple[int, ...]:
        return tuple(map(weight, windows(task.input)))

    def plan(self, task: Task) -> Plan:
        """Return the windows' sequences, then the keyword candidates'; raises `InputError`."""
        tokens = counted(self._manifest, self._tokenizer, task.input)
        found = windows(task.input)
        candidates = keywords.candidates(task.input, rarity=self._rarity)
        sequences = [self._tokenizer.encode(window, max_tokens=_WINDOW_TOKENS) for window in found]
        sequences += [
            self._tokenizer.encode(candidate, max_tokens=_CANDIDATE_TOKENS)
            for candidate in candidates
        ]
        weights = tuple(map(weight, found))
        read = _Read(tuple(candidates))
        return Plan(tuple(sequences), head_weights=weights, tokens=tokens, state=read)

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        """Return the classification."""
        read = plan.state
        if not isinstance(read, _Read):
            raise TypeError("the plan is another pipeline's")
        # As whoever judges the answer reads them.
        vectors, evidence = vector_math.halved(vectors)
        found = Classification()
        if plan.head_weights:
            count = len(plan.head_weights)
            center = vector_math.mean(vectors[:count], plan.head_weights)
            words = keywords.select(read.candidates, vectors[count:], center)
            found = self._classify(scores, words)
        return Answer(output=msgspec.json.encode(found), evidence=evidence)

    def _classify(self, scores: Sequence[float], words: Sequence[str]) -> Classification:
        intent, intent_score = self._scorer.intent(scores)
        found = Classification(
            keywords=tuple(words),
            user_intent=UserIntent(intent.name, intent.category, _rounded(intent_score)),
        )
        ratings = self._scorer.ratings(scores)
        if max(ratings.values()) < self._head.reject_below:
            return found
        probabilities = self._scorer.probabilities(ratings, scores, at_least=_LISTED)
        content = self._report.content_2_2(probabilities.content)
        return msgspec.structs.replace(
            found,
            audience=self._report.audience(probabilities.audience),
            content=Content(self._report.content_1_0(content), content),
            topics=_topics(content),
        )

    def _rarity(self, word: str) -> float:
        """Return how rare a word is by its place in the vocabulary; pieced words are the rarest."""
        ids = self._tokenizer.encode(word, max_tokens=4)[1:-1]
        if len(ids) != 1:
            return 1.0
        rank = max(2, ids[0] - _FIRST_WORD_ID)
        return min(1.0, math.log(rank) / math.log(_LAST_WORD_ID - _FIRST_WORD_ID))


class _Report:
    """Puts probabilities into the words of the taxonomies."""

    def __init__(self, head: Head) -> None:
        self._categories: dict[int, Category] = {item.id: item for item in head.categories}
        self._interests: dict[int, Interest] = {item.id: item for item in head.interests}
        self._codes = {item.code: item for item in head.codes}

    def content_2_2(self, scores: Mapping[int, float]) -> tuple[Content22Item, ...]:
        """Return the best class, and the next best that are probable enough."""
        return tuple(self._content_2_2_item(key, scores[key]) for key in _best(scores, at_least=1))

    def content_1_0(self, found: Iterable[Content22Item]) -> tuple[Content10Item, ...]:
        """Return the classes of 1.0 for those of 2.2, and their parents, with the best scores."""
        scores: dict[str, float] = {}
        for item in found:
            code = self._codes[self._categories[item.id].code]
            for name in (code.parent, code.code):
                if name is not None:
                    scores[name] = max(item.score, scores.get(name, 0.0))
        order = sorted(scores, key=lambda name: (-scores[name], self._codes[name].parent or ""))
        return tuple(self._content_1_0_item(name, scores[name]) for name in order[:MAX_ITEMS])

    def audience(self, scores: Mapping[int, float]) -> tuple[AudienceItem, ...]:
        """Return the interests that are probable enough."""
        return tuple(self._audience_item(key, scores[key]) for key in _best(scores, at_least=0))

    def _content_2_2_item(self, key: int, score: float) -> Content22Item:
        category = self._categories[key]
        parent = None if category.parent is None else self._categories[category.parent]
        return Content22Item(
            id=key,
            parent_id=category.parent,
            name=category.name,
            tier1_name=category.name if parent is None else parent.name,
            tier2_name=None if parent is None else category.name,
            score=_rounded(score),
        )

    def _content_1_0_item(self, name: str, score: float) -> Content10Item:
        code = self._codes[name]
        tier = 1 if code.parent is None else 2
        return Content10Item(code.code, code.name, tier, code.parent, score)

    def _audience_item(self, key: int, score: float) -> AudienceItem:
        path = [self._interests[key]]
        while path[0].parent is not None:
            path.insert(0, self._interests[path[0].parent])
        return AudienceItem(
            id=key,
            parent_id=path[-2].id,
            name=path[-1].name,
            tier1_name=path[0].name,
            tier2_name=path[1].name,
            tier3_name=path[2].name if len(path) > 2 else None,
            score=_rounded(score),
        )


def _best(scores: Mapping[int, float], *, at_least: int) -> list[int]:
    """Return the `MAX_ITEMS` most probable ids over `MIN_SCORE`, or ``at_least`` so many."""
    # Sorting is stable: of equal scores the parent's, which comes first, stays before its child's.
    order = sorted(scores, key=lambda key: -_rounded(scores[key]))
    enough = sum(score >= MIN_SCORE for score in scores.values())
    return order[: min(MAX_ITEMS, max(at_least, enough))]


def _topics(content: Iterable[Content22Item]) -> tuple[Topic, ...]:
    scores: dict[str, float] = {}
    for item in content:
        scores.setdefault(item.name.lower(), item.score)
    return tuple(Topic(name, score) for name, score in scores.items())


def _rounded(score: float) -> float:
    return round(score, _DIGITS)
