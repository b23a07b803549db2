"""What customers get: one struct a JSON object, encoded as it stands and documented by it.

Constant fields have their value as the default, so that an answer is made of what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from orchestrator.domain.fleet import DecisionRow

_ENCODER: Final = msgspec.json.Encoder()

# What stands for what differs, in a reply that `around` is made of: any JSON, words of a string.
_GAP: Final = "\x00"
JSON: Final[Any] = msgspec.Raw(_GAP.encode())
WORDS: Final[Any] = _GAP

UnixTime = Annotated[int, Meta(description="Unix time, in seconds.")]


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all answers."""


def encode(reply: msgspec.Struct) -> bytes:
    """Return the JSON of ``reply``."""
    return _ENCODER.encode(reply)


# A text or a number as JSON: what goes between the pieces that `around` gives.
value: Final[Callable[[str | int], bytes]] = _ENCODER.encode


def around(reply: msgspec.Struct) -> list[bytes]:
    """Return the JSON of ``reply`` in pieces, without its gaps (`JSON` and `WORDS`).

    Answers that differ in those only are joined of the pieces and what belongs between them: to
    write out what is always the same takes most of the time of an encoding.
    """
    return _ENCODER.encode(reply).replace(b"\\u0000", _GAP.encode()).split(_GAP.encode())


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


class ErrorDetail(Reply, frozen=True, kw_only=True, omit_defaults=True):
    """What was wrong. ``line`` and ``batch_id`` are there for refused batch files only."""

    message: Annotated[str, Meta(description="A sentence: what was wrong and what to do.")]
    type: str
    code: str | None
    param: str | None
    line: int | None = None
    batch_id: str | None = None
    skipped: Annotated[
        dict[str, int] | None,
        Meta(description="With `no_capacity`: how many nodes could not take it, by reason."),
    ] = None


class ErrorReply(Reply, frozen=True, kw_only=True):
    error: ErrorDetail


# ── /v1/responses ────────────────────────────────────────────────────────────────────────────────


class OutputText(Reply, frozen=True, kw_only=True):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[Any, ...] = ()
    logprobs: tuple[Any, ...] = ()


class OutputMessage(Reply, frozen=True, kw_only=True):
    type: Literal["message"] = "message"
    id: str
    status: Literal["completed", "in_progress", "incomplete"] = "completed"
    role: Literal["assistant"] = "assistant"
    content: tuple[OutputText, ...]


class ReasoningReply(Reply, frozen=True, kw_only=True):
    effort: str | None = None
    summary: str | None = None


class FormatReply(Reply, frozen=True, kw_only=True):
    type: Literal["text"] = "text"


class TextReply(Reply, frozen=True, kw_only=True):
    format: FormatReply = FormatReply()
    verbosity: Literal["low", "medium", "high"] | None = None


class InputDetails(Reply, frozen=True, kw_only=True):
    cache_write_tokens: int = 0
    cached_tokens: int = 0


class OutputDetails(Reply, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class ResponseUsage(Reply, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class ResponseError(Reply, frozen=True, kw_only=True):
    code: str
    message: str


class Incomplete(Reply, frozen=True, kw_only=True):
    """Why a response is ``incomplete``: its longest output ended it in mid-sentence."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseReply(Reply, frozen=True, kw_only=True):
    """A response; ``created`` is the documentation's older name of ``created_at``."""

    id: str
    object: Literal["response"] = "response"
    created: UnixTime
    created_at: UnixTime
    status: Literal["completed", "failed", "in_progress", "incomplete"]
    completed_at: UnixTime | None
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    model: str
    output: tuple[OutputMessage, ...]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningReply = ReasoningReply()
    safety_identifier: str | None = None
    service_tier: str = "default"
    # Nothing of a response is kept, whatever was asked for.
    store: bool = False
    temperature: float | None
    text: TextReply = TextReply()
    tool_choice: Literal["none", "auto"] = "auto"
    tools: tuple[Any, ...] = ()
    top_logprobs: int = 0
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: Annotated[
        dict[str, str], Meta(description="The request's; what was no string there, as its JSON.")
    ]


# ── /v1/responses, streamed: in the order in which they come ─────────────────────────────────────


class ResponseEvent(Reply, frozen=True, kw_only=True, tag_field="type"):
    """Base of all events; ``sequence_number`` counts those of one stream, from 0."""

    sequence_number: int


class ResponseCreatedEvent(ResponseEvent, frozen=True, kw_only=True, tag="response.created"):
    """The first event: the response as it begins, without output."""

    response: ResponseReply


class ResponseInProgressEvent(ResponseEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    response: ResponseReply


class ResponseOutputItemAddedEvent(
    ResponseEvent, frozen=True, kw_only=True, tag="response.output_item.added"
):
    """The one message begins; it has no content yet."""

    output_index: int = 0
    item: OutputMessage


class ResponseContentPartAddedEvent(
    ResponseEvent, frozen=True, kw_only=True, tag="response.content_part.added"
):
    """The message's one text begins; it is empty yet."""

    item_id: str
    output_index: int = 0
    content_index: int = 0
    part: OutputText


class ResponseTextDeltaEvent(
    ResponseEvent, frozen=True, kw_only=True, tag="response.output_text.delta"
):
    """A piece of the text, as soon as the model has it."""

    item_id: str
    output_index: int = 0
    content_index: int = 0
    delta: str
    logprobs: tuple[Any, ...] = ()


class ResponseTextDoneEvent(
    ResponseEvent, frozen=True, kw_only=True, tag="response.output_text.done"
):
    """The whole text."""

    item_id: str
    output_index: int = 0
    content_index: int = 0
    text: str
    logprobs: tuple[Any, ...] = ()


class ResponseContentPartDoneEvent(
    ResponseEvent, frozen=True, kw_only=True, tag="response.content_part.done"
):
    item_id: str
    output_index: int = 0
    content_index: int = 0
    part: OutputText


class ResponseOutputItemDoneEvent(
    ResponseEvent, frozen=True, kw_only=True, tag="response.output_item.done"
):
    """The whole message."""

    output_index: int = 0
    item: OutputMessage


class ResponseCompletedEvent(ResponseEvent, frozen=True, kw_only=True, tag="response.completed"):
    """The last event of a stream that went well: the whole response."""

    response: ResponseReply


class ResponseIncompleteEvent(ResponseEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    """The last event where a limit cut a sentence: the response with what there is."""

    response: ResponseReply


class ResponseFailedEvent(ResponseEvent, frozen=True, kw_only=True, tag="response.failed"):
    """The response could not be ended: what there is of it, and why; an `error` follows."""

    response: ResponseReply


class ResponseErrorEvent(ResponseEvent, frozen=True, kw_only=True, tag="error"):
    """The last event of a stream that failed; ``error`` is what OpenAI's SDKs raise."""

    code: str | None
    message: str
    param: str | None
    error: ErrorDetail


# ── /v1/chat/completions ─────────────────────────────────────────────────────────────────────────


class PromptDetails(Reply, frozen=True, kw_only=True):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(Reply, frozen=True, kw_only=True):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class ChatUsage(Reply, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()
    completion_tokens_details: CompletionDetails = CompletionDetails()


class ChatMessage(Reply, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: tuple[Any, ...] = ()


class Choice(Reply, frozen=True, kw_only=True):
    index: int = 0
    message: ChatMessage
    finish_reason: Literal["stop", "length"] = "stop"
    logprobs: None = None


class ChatCompletion(Reply, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: UnixTime
    model: str
    choices: tuple[Choice, ...]
    usage: ChatUsage
    service_tier: Literal["default"] = "default"
    system_fingerprint: None = None
    metadata: Annotated[
        dict[str, str] | msgspec.UnsetType,
        Meta(description="As in a response, if there is some; in a whole answer, not in a stream."),
    ] = msgspec.UNSET


class ChunkDelta(Reply, frozen=True, kw_only=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Reply, frozen=True, kw_only=True):
    index: int = 0
    delta: ChunkDelta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletionChunk(Reply, frozen=True, kw_only=True):
    """One ``data:`` of a streamed chat completion; ``[DONE]`` is the last."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: UnixTime
    model: str
    service_tier: Literal["default"] = "default"
    system_fingerprint: None = None
    choices: tuple[ChunkChoice, ...]
    usage: Annotated[
        ChatUsage | msgspec.UnsetType | None,
        Meta(description="With `include_usage` only: null in all chunks but the last."),
    ] = msgspec.UNSET


# ── the others ───────────────────────────────────────────────────────────────────────────────────


class Embedding(Reply, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: Annotated[
        list[float] | str, Meta(description="The vector, or base64 of its little-endian float32.")
    ]


class EmbeddingsUsage(Reply, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Reply, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class Moderation(Reply, frozen=True, kw_only=True):
    """Of one input: what was found in it, and how sure the model is (0 to 1)."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class ModerationReply(Reply, frozen=True, kw_only=True):
    id: str
    model: str
    results: list[Moderation]


class Pricing(Reply, frozen=True, kw_only=True):
    currency: Literal["USD"] = "USD"
    input_per_1m_tokens: float
    output_per_1m_tokens: float


class ModelReply(Reply, frozen=True, kw_only=True):
    """A model, or an alias of one. ``max_tokens``: its longest input."""

    id: str
    object: Literal["model"] = "model"
    created: UnixTime
    owned_by: Literal["zerogpu"] = "zerogpu"
    name: str
    version: str
    task: str
    routes: list[str]
    max_tokens: int
    error_on_max_token: bool
    parameters: int
    languages: list[str]
    licence: str
    pricing: Pricing
    alias_of: str | msgspec.UnsetType = msgspec.UNSET


class ModelList(Reply, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelReply]


class TaskUsage(Reply, frozen=True, kw_only=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class SummaryReply(Reply, frozen=True, kw_only=True):
    id: str
    object: Literal["summary"] = "summary"
    created: UnixTime
    model: str
    summary: str
    finish_reason: Annotated[
        Literal["stop", "length"],
        Meta(description="`length` where `max_tokens` ended it inside a sentence."),
    ]
    usage: TaskUsage


class ClassificationReply(Reply, frozen=True, kw_only=True):
    """``result`` is the object that `/v1/responses` has as a JSON string."""

    id: str
    object: Literal["iab.classification"] = "iab.classification"
    created: UnixTime
    model: str
    result: dict[str, Any]
    usage: TaskUsage


class ExtractionReply(Reply, frozen=True, kw_only=True):
    """``result`` is what the extraction model found."""

    id: str
    object: Literal["gliner.extraction"] = "gliner.extraction"
    created: UnixTime
    model: str
    result: dict[str, Any]
    usage: TaskUsage


class DecisionList(Reply, frozen=True, kw_only=True):
    """Placements of a request's jobs, oldest first."""

    object: Literal["list"] = "list"
    data: list[DecisionRow]
