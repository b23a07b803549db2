"""``POST /summary``, ``/usecase/classify/iab`` and ``/gliner``: a task each, in its own words.

The same models as behind ``/v1/responses``, with what they give back as an object instead of text.
"""

from __future__ import annotations

import msgspec

from orchestrator.api.bodies import CLASSIFY, GLINER, SUMMARY, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference
from orchestrator.api.options import was_cut
from orchestrator.api.replies import (
    ClassificationReply,
    ExtractionReply,
    SummaryReply,
    TaskUsage,
    encode,
)
from orchestrator.api.texts import check_not_blank
from orchestrator.domain.model import ParamValue
from orchestrator.storage.catalogue import Model


class TaskRoutes:
    """Each handler takes a text, and a model's name where it need not be the first of its kind."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def summary(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(SUMMARY, body)
        model = self._inference.first_of(exchange, asked.model)
        params: dict[str, ParamValue] = {}
        if asked.sentences is not None:
            params["sentences"] = asked.sentences
        if asked.max_tokens is not None:
            params["max_tokens"] = asked.max_tokens
        summary = (await self._run(exchange, model, asked.text, params)).decode()
        return encode(
            SummaryReply(
                id=exchange.request_id,
                created=int(exchange.ts),
                model=asked.model or model.id,
                summary=summary,
                finish_reason="length" if await was_cut(exchange.read, summary, params) else "stop",
                usage=_usage(exchange),
            )
        )

    async def classify(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(CLASSIFY, body)
        model = self._inference.first_of(exchange, asked.model)
        output = await self._run(exchange, model, asked.text, {})
        return encode(
            ClassificationReply(
                id=exchange.request_id,
                created=int(exchange.ts),
                model=asked.model or model.id,
                result=msgspec.json.decode(output),
                usage=_usage(exchange),
            )
        )

    async def gliner(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(GLINER, body)
        model = self._inference.first_of(exchange, asked.model)
        # A job's options are flat, and no label holds a line feed that matters.
        params: dict[str, ParamValue] = {"labels": "\n".join(asked.labels)}
        if asked.threshold is not None:
            params["threshold"] = asked.threshold
        output = await self._run(exchange, model, asked.text, params)
        return encode(
            ExtractionReply(
                id=exchange.request_id,
                created=int(exchange.ts),
                model=asked.model or model.id,
                result=msgspec.json.decode(output),
                usage=_usage(exchange),
            )
        )

    async def _run(
        self, exchange: Exchange, model: Model, text: str, params: dict[str, ParamValue]
    ) -> bytes:
        check_not_blank(text, "text")
        answer = await self._inference.answer_one(exchange, model, text, name="text", params=params)
        exchange.output_tokens = await model.counter.count_output(answer.output.decode())
        return answer.output


def _usage(exchange: Exchange) -> TaskUsage:
    return TaskUsage(
        input_tokens=exchange.input_tokens,
        output_tokens=exchange.output_tokens,
        total_tokens=exchange.input_tokens + exchange.output_tokens,
    )
