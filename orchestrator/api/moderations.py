"""``POST /v1/moderations``: how harmful texts are, in OpenAI's thirteen categories."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from orchestrator.api.bodies import MODERATIONS, ContentPart, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference
from orchestrator.api.replies import Moderation, ModerationReply, encode
from orchestrator.api.texts import check_count, check_not_empty, part_text
from orchestrator.errors import BadRequest

DEFAULT_MODEL: Final = "zlm-v1-moderation-edge"
# What OpenAI's clients send; all of them mean the one that is here.
_ALIASES: Final = frozenset(
    {
        "omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest",
        "text-moderation-stable", "text-moderation-007",
    }
)  # fmt: skip
CATEGORIES: Final = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit",
    "illicit/violent", "self-harm", "self-harm/intent", "self-harm/instructions", "sexual",
    "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
_FLAGGED_FROM: Final = 0.5
_SCORES: Final = msgspec.json.Decoder(dict[str, float])


class ModerationsRoute:
    """Answers a string with one result, an array of strings with as many, parts with one."""

    def __init__(self, inference: Inference, *, inputs_max: int) -> None:
        self._inference = inference
        self._inputs_max = inputs_max

    async def __call__(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(MODERATIONS, body)
        name = DEFAULT_MODEL if asked.model is None or asked.model in _ALIASES else asked.model
        texts, names = self._texts(asked.input)
        threshold = _threshold((asked.metadata or {}).get("threshold"))
        model = self._inference.model(exchange, name, asked=asked.model)
        answers = await self._inference.answer(exchange, model, texts, names=names, params={})
        results = [moderation(_SCORES.decode(one.output), threshold) for one in answers]
        return encode(
            ModerationReply(id=f"modr-{os.urandom(16).hex()}", model=name, results=results)
        )

    def _texts(self, input_: str | Sequence[str | ContentPart]) -> tuple[list[str], list[str]]:
        if isinstance(input_, str):
            texts, names = [input_], ["input"]
        else:
            texts = [item for item in input_ if isinstance(item, str)]
            names = [f"input[{at}]" for at in range(len(texts))]
            if texts and len(texts) != len(input_):
                raise BadRequest(
                    "input mixes strings and parts: send an array of strings, or of parts.",
                    code="invalid_type",
                    param="input",
                )
            if not texts:
                parts = [
                    part_text(part, f"input[{at}]")
                    for at, part in enumerate(input_)
                    if isinstance(part, ContentPart)
                ]
                texts, names = (["\n".join(parts)], ["input"]) if parts else ([], [])
        check_count(len(texts), self._inputs_max)
        for text, name in zip(texts, names, strict=True):
            check_not_empty(text, name)
        return texts, names


def moderation(scores: Mapping[str, float], threshold: float = _FLAGGED_FROM) -> Moderation:
    """Return the result for a text with these ``scores`` (0 to 1; a missing one counts as 0)."""
    by_category = {name: scores.get(name, 0.0) for name in CATEGORIES}
    found = {name: score >= threshold for name, score in by_category.items()}
    return Moderation(
        flagged=any(found.values()),
        categories=found,
        category_scores=by_category,
        category_applied_input_types={name: ["text"] for name in CATEGORIES},
    )


def _threshold(value: object) -> float:
    if value is None:
        return _FLAGGED_FROM
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRequest(
            "metadata.threshold must be a number from 0 to 1.",
            code="invalid_value",
            param="metadata.threshold",
        )
    return float(value)
