"""``POST /v1/chat/completions``, whole or streamed in chunks."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Literal

import msgspec
import orjson

from orchestrator.api import sse
from orchestrator.api.asgi import error_body
from orchestrator.api.bodies import CHAT, ChatBody, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference, Pieces
from orchestrator.api.options import check_chat, echoed, text_params, was_cut
from orchestrator.api.replies import (
    JSON,
    WORDS,
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    ChatUsage,
    Choice,
    ChunkChoice,
    ChunkDelta,
    around,
    encode,
    value,
)
from orchestrator.api.reply import Reply, Streamed
from orchestrator.api.texts import conversation_text
from orchestrator.domain.model import ParamValue
from orchestrator.errors import ApiError

# What stands for the text of a chunk while the bytes around it are made.
_MARK = "\x00"
# A whole answer to a request without metadata: each piece is named for what comes after it.
_NUMBER, _CREATED, _MODEL, _CONTENT, _ENDED, _PROMPT, _COMPLETION, _TOTAL, _END = around(
    ChatCompletion(
        id=f"chatcmpl-{WORDS}",
        created=JSON,
        model=JSON,
        choices=(Choice(message=ChatMessage(content=JSON), finish_reason=WORDS),),
        usage=ChatUsage(prompt_tokens=JSON, completion_tokens=JSON, total_tokens=JSON),
    )
)


class ChatRoute:
    """Answers with a chat completion of one choice."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, exchange: Exchange, body: bytes) -> Reply:
        asked = parse(CHAT, body)
        model = self._inference.model(exchange, asked.model)
        check_chat(asked, model)
        max_tokens = asked.max_completion_tokens or asked.max_tokens
        text = conversation_text(asked.messages, param="messages")
        params = text_params(model, max_tokens=max_tokens, metadata=asked.metadata)
        ended = functools.partial(_ended, exchange, params)
        if asked.stream:
            pieces = await self._inference.stream(
                exchange, model, text, name="messages", params=params
            )
            return Streamed(
                sse.CONTENT_TYPE,
                _chunks(exchange, asked, pieces, ended=ended),
                sse.HEADERS,
                tells_errors=True,
            )
        answer = await self._inference.answer_one(
            exchange, model, text, name="messages", params=params
        )
        output = answer.output.decode()
        counted = model.counter.count_output_now(output)
        tokens = counted or await model.counter.count_output(output)
        reason = await ended(output)
        # Billed from here on: who leaves before it gets no answer.
        exchange.output_tokens = tokens
        return whole_completion(exchange, asked, output, reason)


async def _ended(
    exchange: Exchange, params: Mapping[str, ParamValue], output: str
) -> Literal["stop", "length"]:
    return "length" if await was_cut(exchange.read, output, params) else "stop"


def whole_completion(
    exchange: Exchange, asked: ChatBody, output: str, ended: Literal["stop", "length"]
) -> bytes:
    """Return the JSON of a whole answer; joined of pieces where it has no metadata to echo."""
    if asked.metadata is None:
        tokens, written = exchange.input_tokens, exchange.output_tokens
        return b"".join(
            (
                _NUMBER, exchange.number.encode(),
                _CREATED, value(int(exchange.ts)),
                _MODEL, value(asked.model),
                _CONTENT, value(output),
                _ENDED, ended.encode(),
                _PROMPT, value(tokens),
                _COMPLETION, value(written),
                _TOTAL, value(tokens + written),
                _END,
            )
        )  # fmt: skip
    return encode(
        ChatCompletion(
            id=f"chatcmpl-{exchange.number}",
            created=int(exchange.ts),
            model=asked.model,
            choices=(Choice(message=ChatMessage(content=output), finish_reason=ended),),
            usage=_usage(exchange),
            metadata=echoed(asked.metadata),
        )
    )


async def _chunks(
    exchange: Exchange,
    asked: ChatBody,
    pieces: Pieces,
    *,
    ended: Callable[[str], Awaitable[Literal["stop", "length"]]],
) -> AsyncGenerator[bytes]:
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage

    def chunk(*choices: ChunkChoice, usage: ChatUsage | None = None) -> bytes:
        return sse.data(
            encode(
                ChatCompletionChunk(
                    id=f"chatcmpl-{exchange.number}",
                    created=int(exchange.ts),
                    model=asked.model,
                    choices=choices,
                    usage=usage if wants_usage else msgspec.UNSET,
                )
            )
        )

    opening = chunk(ChunkChoice(delta=ChunkDelta(role="assistant", content="")))
    # All that differs between chunks is their text: what is around it is made once.
    marked = chunk(ChunkChoice(delta=ChunkDelta(content=_MARK)))
    before, after = marked.split(orjson.dumps(_MARK))
    try:
        async for piece in pieces:
            yield opening + before + orjson.dumps(piece) + after
            opening = b""
        await pieces.aclose()
        closing = opening + chunk(
            ChunkChoice(delta=ChunkDelta(), finish_reason=await ended(pieces.text))
        )
        if wants_usage:
            closing += chunk(usage=_usage(exchange))
        yield closing + b"data: [DONE]\n\n"
    except ApiError as error:
        yield sse.data(error_body(error))
        raise
    finally:
        await pieces.aclose()


def _usage(exchange: Exchange) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=exchange.input_tokens,
        completion_tokens=exchange.output_tokens,
        total_tokens=exchange.input_tokens + exchange.output_tokens,
    )
