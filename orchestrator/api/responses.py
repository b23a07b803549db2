"""``POST /v1/responses``: the primary inference route, whole or as a stream of events."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from itertools import count
from typing import Final, Literal

import msgspec
import orjson

from orchestrator.api import replies, sse
from orchestrator.api.bodies import RESPONSES, ResponsesBody, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference, Pieces
from orchestrator.api.options import check_responses, echoed, limit_of, text_params, was_cut
from orchestrator.api.replies import (
    JSON,
    WORDS,
    Incomplete,
    OutputMessage,
    OutputText,
    ReasoningReply,
    ResponseError,
    ResponseReply,
    ResponseUsage,
    TextReply,
    around,
    encode,
    value,
)
from orchestrator.api.reply import Reply, Streamed
from orchestrator.api.texts import check_not_blank, conversation_text
from orchestrator.clock import Clock
from orchestrator.domain.model import ParamValue
from orchestrator.errors import ApiError
from orchestrator.storage.token_counter import Limit

Ended = Literal["completed", "incomplete"]

# A completed answer to a request with nothing that it would echo: each piece is named for what
# comes after it.
(
    _NUMBER,
    _CREATED,
    _CREATED_AT,
    _COMPLETED_AT,
    _MODEL,
    _ITEM,
    _TEXT,
    _TRUNCATION,
    _INPUT,
    _OUTPUT,
    _TOTAL,
    _END,
) = around(
    ResponseReply(
        id=f"resp_{WORDS}",
        created=JSON,
        created_at=JSON,
        status="completed",
        completed_at=JSON,
        instructions=None,
        max_output_tokens=None,
        model=JSON,
        output=(OutputMessage(id=f"msg_{WORDS}", content=(OutputText(text=JSON),)),),
        temperature=None,
        top_p=None,
        truncation=WORDS,
        usage=ResponseUsage(input_tokens=JSON, output_tokens=JSON, total_tokens=JSON),
        user=None,
        metadata={},
    )
)
# What nearly all texts have of tokens, as JSON.
_COUNTS: Final = [b"%d" % number for number in range(1_000)]
_DELTA_NUMBER, _DELTA_PLACE, _DELTA_TEXT, _DELTA_END = around(
    replies.ResponseTextDeltaEvent(sequence_number=JSON, item_id=WORDS, delta=JSON)
)


class ResponsesRoute:
    """Answers with a whole Responses envelope, the documentation's ``created`` included."""

    def __init__(self, inference: Inference, clock: Clock) -> None:
        self._inference = inference
        self._clock = clock

    async def __call__(self, exchange: Exchange, body: bytes) -> Reply:
        asked = parse(RESPONSES, body)
        model = self._inference.model(exchange, asked.model)
        check_responses(asked, model)
        max_tokens = asked.max_output_tokens or asked.max_tokens
        text = _text(asked)
        params = text_params(model, max_tokens=max_tokens, metadata=asked.metadata)
        limit = limit_of(model, asked.truncation)
        if asked.stream:
            envelope = Envelope(exchange, asked, limit, self._clock)
            pieces = await self._inference.stream(
                exchange, model, text, name="input", params=params, limit=limit
            )
            # Not a function within this one: compiled, that is a cycle with the other's frame.
            ended = functools.partial(_ended, exchange, params)
            return Streamed(
                sse.CONTENT_TYPE, _events(envelope, pieces, ended), sse.HEADERS, tells_errors=True
            )
        answer = await self._inference.answer_one(
            exchange, model, text, name="input", params=params, limit=limit
        )
        output = answer.output.decode()
        counted = model.counter.count_output_now(output)
        tokens = counted or await model.counter.count_output(output)
        if echoes_nothing(asked):
            exchange.output_tokens = tokens
            return completed_response(exchange, asked, limit, self._clock, output)
        status = await _ended(exchange, params, output)
        # Billed from here on: who leaves before it gets no answer.
        exchange.output_tokens = tokens
        envelope = Envelope(exchange, asked, limit, self._clock)
        return encode(envelope.whole(status, output))


async def _ended(exchange: Exchange, params: Mapping[str, ParamValue], output: str) -> Ended:
    return "incomplete" if await was_cut(exchange.read, output, params) else "completed"


def completed_response(
    exchange: Exchange, asked: ResponsesBody, limit: Limit, clock: Clock, output: str
) -> bytes:
    """Return the JSON of a completed response that echoes nothing, as `Envelope` would make it."""
    number, began, ended = exchange.number.encode(), int(exchange.ts), int(clock.wall())
    created_at = value(began)
    tokens, written = exchange.input_tokens, exchange.output_tokens
    return b"".join(
        (
            _NUMBER, number,
            _CREATED, created_at,
            _CREATED_AT, created_at,
            _COMPLETED_AT, created_at if ended == began else value(ended),
            _MODEL, value(asked.model),
            _ITEM, number,
            _TEXT, value(output),
            _TRUNCATION, b"auto" if limit.cuts else b"disabled",
            _INPUT, _count(tokens),
            _OUTPUT, _count(written),
            _TOTAL, _count(tokens + written),
            _END,
        )
    )  # fmt: skip


def _count(number: int) -> bytes:
    return _COUNTS[number] if number < len(_COUNTS) else value(number)


def echoes_nothing(asked: ResponsesBody) -> bool:
    """Whether the answer says nothing of the request but its model."""
    echoed = (
        asked.instructions,
        asked.max_output_tokens,
        asked.max_tokens,
        asked.max_tool_calls,
        asked.parallel_tool_calls,
        asked.prompt_cache_key,
        asked.reasoning,
        asked.safety_identifier,
        asked.temperature,
        asked.text,
        asked.tool_choice,
        asked.top_p,
        asked.user,
        asked.metadata,
    )
    return echoed.count(None) == len(echoed)


class Envelope:
    """What is the same in every state of a response."""

    def __init__(
        self, exchange: Exchange, asked: ResponsesBody, limit: Limit, clock: Clock
    ) -> None:
        self.exchange = exchange
        self.item_id = f"msg_{exchange.number}"
        self._asked = asked
        self._truncation: Literal["auto", "disabled"] = "auto" if limit.cuts else "disabled"
        self._clock = clock

    def whole(
        self,
        status: Literal["completed", "failed", "in_progress", "incomplete"],
        text: str | None = None,
        error: ApiError | None = None,
    ) -> ResponseReply:
        """Return the response in ``status``, with its one message if there is a ``text``."""
        exchange, asked = self.exchange, self._asked
        created_at = int(exchange.ts)
        ended = status in {"completed", "incomplete"}
        reasoning = asked.reasoning
        usage = ResponseUsage(
            input_tokens=exchange.input_tokens,
            output_tokens=exchange.output_tokens,
            total_tokens=exchange.input_tokens + exchange.output_tokens,
        )
        return ResponseReply(
            id=f"resp_{exchange.number}",
            created=created_at,
            created_at=created_at,
            status=status,
            completed_at=int(self._clock.wall()) if status == "completed" else None,
            incomplete_details=Incomplete() if status == "incomplete" else None,
            error=None if error is None else ResponseError(code=error.code, message=error.message),
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens or asked.max_tokens,
            max_tool_calls=asked.max_tool_calls,
            model=asked.model,
            output=() if text is None else (self.message(text, status=_of_message(status)),),
            parallel_tool_calls=asked.parallel_tool_calls is not False,
            prompt_cache_key=asked.prompt_cache_key,
            reasoning=ReasoningReply()
            if reasoning is None
            else ReasoningReply(effort=reasoning.effort, summary=reasoning.summary),
            safety_identifier=asked.safety_identifier,
            temperature=asked.temperature,
            text=TextReply(verbosity=asked.text.verbosity if asked.text else None),
            # All that was let in.
            tool_choice="none" if asked.tool_choice == "none" else "auto",
            top_p=asked.top_p,
            truncation=self._truncation,
            usage=usage if ended else None,
            user=asked.user,
            metadata=echoed(asked.metadata),
        )

    def message(
        self,
        text: str,
        *,
        status: Literal["completed", "in_progress", "incomplete"] = "completed",
    ) -> OutputMessage:
        content = () if status == "in_progress" else (OutputText(text=text),)
        return OutputMessage(id=self.item_id, status=status, content=content)


async def _events(
    envelope: Envelope, pieces: Pieces, ended: Callable[[str], Awaitable[Ended]]
) -> AsyncGenerator[bytes]:
    """Yield the events of a response with one message of one part, in OpenAI's order."""
    numbers, item_id = count(), envelope.item_id
    begun = envelope.whole("in_progress")
    opening = (
        _event(replies.ResponseCreatedEvent(sequence_number=next(numbers), response=begun))
        + _event(replies.ResponseInProgressEvent(sequence_number=next(numbers), response=begun))
        + _event(
            replies.ResponseOutputItemAddedEvent(
                sequence_number=next(numbers), item=envelope.message("", status="in_progress")
            )
        )
        + _event(
            replies.ResponseContentPartAddedEvent(
                sequence_number=next(numbers), item_id=item_id, part=OutputText(text="")
            )
        )
    )
    # All that differs between deltas is their number and text: what is around them is made once.
    place = _DELTA_PLACE + item_id.encode() + _DELTA_TEXT
    try:
        async for piece in pieces:
            delta = _DELTA_NUMBER + b"%d" % next(numbers) + place + orjson.dumps(piece) + _DELTA_END
            yield opening + sse.event(b"response.output_text.delta", delta)
            opening = b""
        await pieces.aclose()
        text = pieces.text
        status = await ended(text)
        last = (
            replies.ResponseCompletedEvent
            if status == "completed"
            else replies.ResponseIncompleteEvent
        )
        yield (
            opening
            + _event(
                replies.ResponseTextDoneEvent(
                    sequence_number=next(numbers), item_id=item_id, text=text
                )
            )
            + _event(
                replies.ResponseContentPartDoneEvent(
                    sequence_number=next(numbers), item_id=item_id, part=OutputText(text=text)
                )
            )
            + _event(
                replies.ResponseOutputItemDoneEvent(
                    sequence_number=next(numbers), item=envelope.message(text, status=status)
                )
            )
            + _event(last(sequence_number=next(numbers), response=envelope.whole(status, text)))
        )
    except ApiError as error:
        whole = envelope.whole("failed", pieces.text or None, error)
        yield _event(
            replies.ResponseFailedEvent(sequence_number=next(numbers), response=whole)
        ) + _event(
            replies.ResponseErrorEvent(
                sequence_number=next(numbers),
                code=error.code,
                message=error.message,
                param=error.param,
                error=msgspec.convert(error.envelope()["error"], replies.ErrorDetail),
            )
        )
        raise
    finally:
        await pieces.aclose()


def _event(told: replies.ResponseEvent) -> bytes:
    """Return an event under the name that it has in its ``type``."""
    return sse.event(str(told.__struct_config__.tag).encode(), encode(told))


def _of_message(
    status: Literal["completed", "failed", "in_progress", "incomplete"],
) -> Ended:
    return "completed" if status == "completed" else "incomplete"


def _text(asked: ResponsesBody) -> str:
    if not isinstance(asked.input, str):
        return conversation_text(asked.input, param="input")
    check_not_blank(asked.input, "input")
    return asked.input
