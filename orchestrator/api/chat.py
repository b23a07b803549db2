"""``POST /v1/chat/completions``."""

from __future__ import annotations

import orjson

from orchestrator.api.bodies import CHAT, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference, refuse_stream, text_params
from orchestrator.api.texts import conversation_text
from orchestrator.errors import BadRequest


class ChatRoute:
    """Answers with a chat completion of one choice."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(CHAT, body)
        model = self._inference.model(exchange, asked.model)
        refuse_stream(asked.stream)
        if asked.n not in {None, 1}:
            raise BadRequest(
                f"n is {asked.n}; this model has one answer to a text: send n=1 or leave it out.",
                code="unsupported_parameter",
                param="n",
            )
        max_tokens = asked.max_completion_tokens or asked.max_tokens
        [answer] = await self._inference.answer(
            exchange,
            model,
            (conversation_text(asked.messages, param="messages"),),
            names=("messages",),
            params=text_params(model, max_tokens=max_tokens, metadata=asked.metadata),
        )
        text = answer.output.decode()
        exchange.output_tokens = await model.counter.count_output(text)
        return orjson.dumps(_completion(exchange, asked.model, text))


def _completion(exchange: Exchange, model: str, text: str) -> dict[str, object]:
    return {
        "id": f"chatcmpl-{exchange.number}",
        "object": "chat.completion",
        "created": int(exchange.ts),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": [],
                },
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": exchange.input_tokens,
            "completion_tokens": exchange.output_tokens,
            "total_tokens": exchange.input_tokens + exchange.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }
