"""``POST /v1/responses``: the primary inference route."""

from __future__ import annotations

import orjson

from orchestrator.api.bodies import RESPONSES, ResponsesBody, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference, refuse_stream, text_params
from orchestrator.api.texts import conversation_text
from orchestrator.clock import Clock
from orchestrator.errors import BadRequest


class ResponsesRoute:
    """Answers with a whole Responses envelope, the documentation's ``created`` included."""

    def __init__(self, inference: Inference, clock: Clock) -> None:
        self._inference = inference
        self._clock = clock

    async def __call__(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(RESPONSES, body)
        model = self._inference.model(exchange, asked.model)
        _refuse_unsupported(asked)
        max_tokens = asked.max_output_tokens or asked.max_tokens
        [answer] = await self._inference.answer(
            exchange,
            model,
            (_text(asked),),
            names=("input",),
            params=text_params(model, max_tokens=max_tokens, metadata=asked.metadata),
        )
        text = answer.output.decode()
        exchange.output_tokens = await model.counter.count_output(text)
        return orjson.dumps(self._envelope(exchange, asked, text))

    def _envelope(self, exchange: Exchange, asked: ResponsesBody, text: str) -> dict[str, object]:
        created_at = int(exchange.ts)
        return {
            "id": f"resp_{exchange.number}",
            "object": "response",
            "created": created_at,
            "created_at": created_at,
            "status": "completed",
            "completed_at": int(self._clock.wall()),
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": asked.model,
            "output": [
                {
                    "type": "message",
                    "id": f"msg_{exchange.number}",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": text, "annotations": []}],
                }
            ],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            # Nothing of a response is kept, whatever was asked for.
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": {
                "input_tokens": exchange.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": exchange.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": exchange.input_tokens + exchange.output_tokens,
            },
            "user": asked.user,
            "metadata": asked.metadata or {},
        }


def _text(asked: ResponsesBody) -> str:
    if not isinstance(asked.input, str):
        return conversation_text(asked.input, param="input")
    if not asked.input:
        raise BadRequest(
            "input is empty; it must have at least one character.",
            code="invalid_value",
            param="input",
        )
    return asked.input


def _refuse_unsupported(asked: ResponsesBody) -> None:
    refuse_stream(asked.stream)
    wanted = asked.text.format.type if asked.text and asked.text.format else "text"
    if wanted != "text":
        raise BadRequest(
            "text.format.type must be text. A classifier's answer is JSON in that text.",
            code="unsupported_parameter",
            param="text.format.type",
        )
    if asked.previous_response_id is not None:
        raise BadRequest(
            "previous_response_id names a stored response, and none are stored here: send the"
            " whole conversation in input.",
            code="unsupported_parameter",
            param="previous_response_id",
        )
