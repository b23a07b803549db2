"""What customers send: parsed and validated in one pass; what does not fit becomes a sentence.

A field that the API does not know is refused, as OpenAI does: it is a typing error more often than
not. Fields that OpenAI's clients send and that change nothing for a task model are taken and, where
the envelope has them, echoed. `orchestrator.api.options` says which of the rest a model can serve.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from orchestrator.api.misfits import misfit, not_json
from orchestrator.errors import BadRequest

_T = TypeVar("_T")

# Nobody else has a turn while a body is read: one that is mostly brackets or commas takes half a
# second. So many arrays and objects, or values, take a tenth of that. (2,048 token arrays of 512
# are a million values.)
_LARGE_BYTES: Final = 256 << 10
_OPENINGS_MAX: Final = 200_000
_COMMAS_MAX: Final = 1_100_000
_TEXTS_MAX: Final = 250_000
# Messages of a conversation, parts of a message.
_PIECES_MAX: Final = 2_048

TokenLimit = Annotated[
    int,
    Meta(ge=1, le=1 << 30, description="Longest summary, in tokens; no effect on classifiers."),
]
Temperature = Annotated[float, Meta(ge=0, le=2, description="No effect on task models.")]
TopP = Annotated[float, Meta(ge=0, le=1, description="No effect on task models.")]
Penalty = Annotated[float, Meta(ge=-2, le=2, description="No effect on task models.")]
Metadata = Annotated[
    dict[str, Any],
    Meta(
        description="Up to 16 string pairs that the answer echoes, and options of the model, such"
        " as `sentences` of a summary."
    ),
]
ModelName = Annotated[str, Meta(description="Id or alias of a model, see `GET /v1/models`.")]
Categories = Annotated[
    list[str], Meta(description="Candidate labels, for models that classify into labels given.")
]
# As the types of OpenAI's own clients have them.
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
ToolChoice = Literal["none", "auto", "required"] | dict[str, Any]
Included = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
_ECHOED: Final = Meta(description="Comes back in the answer, and changes nothing.")
_IDLE: Final = Meta(description="Taken, and changes nothing.")
_STORED: Final = Meta(description="Refused: nothing is stored here. Send the whole conversation.")
_EMPTY: Final = Meta(description="Empty or left out: task models call no tools.")
_NO_CHOICE: Final = Meta(description="`none` or `auto`: task models call no tools.")
_UNTOLD: Final = Meta(description="0 or false: task models have no token probabilities.")
_TEXT_ONLY: Final = Meta(description="Text only.")
_TEXT_READ: Final = Meta(description="Null: a model reads nothing but the text it is sent.")


class ContentPart(msgspec.Struct, frozen=True, gc=False):
    """A piece of a message; only those of text can be read."""

    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn: role user, assistant, system, developer or tool. Others count as user.

    ``type`` is there in the Responses API only.
    """

    role: str = "user"
    content: str | Annotated[list[ContentPart], Meta(max_length=_PIECES_MAX)] | None = None
    type: str | None = None


class Format(msgspec.Struct, frozen=True, gc=False):
    """Of text: a classifier's answer is JSON in that text, whatever is asked."""

    type: str = "text"


class TextOptions(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    format: Format | None = None
    verbosity: Annotated[Verbosity | None, _ECHOED] = None


class StreamOptions(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    include_usage: Annotated[
        bool | None, Meta(description="One more chunk before the end, with the usage.")
    ] = None
    include_obfuscation: Annotated[bool | None, _IDLE] = None


class ResponsesStreamOptions(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The last event of a streamed response has the usage, whether it is asked for or not."""

    include_obfuscation: Annotated[bool | None, _IDLE] = None


class Reasoning(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Of models that reason; the task models do not."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    context: Annotated[Any, _IDLE] = None
    generate_summary: Annotated[Any, _IDLE] = None
    mode: Annotated[Any, _IDLE] = None


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/responses``."""

    model: ModelName
    input: Annotated[
        str | Annotated[list[Message], Meta(max_length=_PIECES_MAX)],
        Meta(
            description="A text of 1 to 131,072 characters, or messages.",
            extra_json_schema={"minLength": 1, "minItems": 1},
        ),
    ]
    background: Annotated[
        bool | None,
        Meta(description="False: answers come at once; what may take its time goes into a batch."),
    ] = None
    categories: Categories | None = None
    access_programs: Annotated[Any, _IDLE] = None
    context_management: Annotated[Any, _IDLE] = None
    conversation: Annotated[Any, _STORED] = None
    image: Annotated[Any, _TEXT_READ] = None
    include: Annotated[
        list[Included] | None, Meta(description="Empty or left out: task models have none of it.")
    ] = None
    instructions: Annotated[str | None, _ECHOED] = None
    max_output_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    max_tool_calls: Annotated[int | None, _ECHOED] = None
    metadata: Metadata | None = None
    moderation: Annotated[Any, _IDLE] = None
    multilingual: Annotated[bool | None, _IDLE] = None
    parallel_tool_calls: Annotated[bool | None, _ECHOED] = None
    previous_response_id: Annotated[str | None, _STORED] = None
    prompt: Annotated[Any, _STORED] = None
    prompt_cache_key: Annotated[str | None, _ECHOED] = None
    prompt_cache_options: Annotated[Any, _IDLE] = None
    prompt_cache_retention: Annotated[str | None, _IDLE] = None
    reasoning: Annotated[Reasoning | None, _ECHOED] = None
    safety_identifier: Annotated[str | None, _ECHOED] = None
    seed: Annotated[int | None, _IDLE] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None, _IDLE
    ] = None
    store: Annotated[bool | None, Meta(description="Nothing is stored, whatever is sent.")] = None
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    stream_options: Annotated[
        ResponsesStreamOptions | None, Meta(description="With `stream` only.")
    ] = None
    temperature: Temperature | None = None
    text: Annotated[TextOptions | None, _TEXT_ONLY] = None
    tool_choice: Annotated[ToolChoice | None, _NO_CHOICE] = None
    tools: Annotated[list[Any] | None, _EMPTY] = None
    top_logprobs: Annotated[int | None, _UNTOLD] = None
    top_p: TopP | None = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Meta(
            description="`auto` cuts a text that is too long, `disabled` refuses it; left out, the"
            " model's `error_on_max_token` decides."
        ),
    ] = None
    user: Annotated[str | None, _ECHOED] = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/chat/completions``."""

    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1, max_length=_PIECES_MAX)]
    audio: Annotated[Any, _TEXT_ONLY] = None
    categories: Categories | None = None
    frequency_penalty: Penalty | None = None
    function_call: Annotated[Literal["none", "auto"] | dict[str, Any] | None, _NO_CHOICE] = None
    functions: Annotated[list[Any] | None, _EMPTY] = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None, _IDLE] = None
    logprobs: Annotated[bool | None, _UNTOLD] = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    metadata: Metadata | None = None
    modalities: Annotated[list[str] | None, _TEXT_ONLY] = None
    moderation: Annotated[Any, _IDLE] = None
    multilingual: Annotated[bool | None, _IDLE] = None
    n: Annotated[int | None, Meta(description="1: a task model has one answer to a text.")] = None
    parallel_tool_calls: Annotated[bool | None, _IDLE] = None
    prediction: Annotated[Any, _IDLE] = None
    presence_penalty: Penalty | None = None
    prompt_cache_key: Annotated[str | None, _IDLE] = None
    prompt_cache_options: Annotated[Any, _IDLE] = None
    prompt_cache_retention: Annotated[str | None, _IDLE] = None
    reasoning_effort: Annotated[Effort | None, _IDLE] = None
    response_format: Annotated[Format | None, _TEXT_ONLY] = None
    safety_identifier: Annotated[str | None, _IDLE] = None
    seed: Annotated[int | None, _IDLE] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast"] | None, _IDLE
    ] = None
    stop: Annotated[
        str | list[str] | None,
        Meta(description="Empty: no task model writes on until a word stops it."),
    ] = None
    store: Annotated[bool | None, Meta(description="Nothing is stored, whatever is sent.")] = None
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    stream_options: Annotated[StreamOptions | None, Meta(description="With `stream` only.")] = None
    temperature: Temperature | None = None
    tool_choice: Annotated[ToolChoice | None, _NO_CHOICE] = None
    tools: Annotated[list[Any] | None, _EMPTY] = None
    top_logprobs: Annotated[int | None, _UNTOLD] = None
    top_p: TopP | None = None
    user: Annotated[str | None, _IDLE] = None
    verbosity: Annotated[Verbosity | None, _IDLE] = None
    web_search_options: Annotated[Any, _TEXT_READ] = None


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/embeddings``."""

    model: ModelName
    input: Annotated[
        str | list[str | int | list[int]],
        Meta(
            description="A text, texts, the token ids of a text, or those of several, in the"
            " vocabulary of the model.",
            extra_json_schema={"minLength": 1, "minItems": 1},
        ),
    ]
    dimensions: Annotated[
        int | None, Meta(description="Only the length that the model's vectors have.")
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Meta(description="`float` (default), or `base64` of little-endian float32."),
    ] = None
    user: str | None = None


class ModerationsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/moderations``."""

    input: Annotated[
        str | list[str | ContentPart],
        Meta(description="A text, texts (a result each), or text parts that make one input."),
    ]
    model: Annotated[
        str | None, Meta(description="`zlm-v1-moderation-edge` unless another is named.")
    ] = None
    metadata: Metadata | None = None


class SummaryBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /summary``."""

    text: Annotated[str, Meta(min_length=1, description="What to sum up.")]
    model: Annotated[str | None, Meta(description="A summary model; by default the first.")] = None
    sentences: (
        Annotated[int, Meta(ge=1, le=1_000, description="How many; by default the length decides.")]
        | None
    ) = None
    max_tokens: TokenLimit | None = None


class ClassifyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /usecase/classify/iab``."""

    text: Annotated[str, Meta(min_length=1, description="What to classify.")]
    model: Annotated[str | None, Meta(description="An IAB model; by default the first.")] = None


class GlinerBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /gliner``."""

    text: Annotated[str, Meta(min_length=1, description="Where to look for entities.")]
    labels: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=64)]],
        Meta(min_length=1, max_length=64, description="What kinds of entities to look for."),
    ]
    threshold: Annotated[float, Meta(ge=0, le=1, description="Least score.")] | None = None
    model: Annotated[str | None, Meta(description="An extraction model.")] = None


RESPONSES: Final = msgspec.json.Decoder(ResponsesBody)
CHAT: Final = msgspec.json.Decoder(ChatBody)
EMBEDDINGS: Final = msgspec.json.Decoder(EmbeddingsBody)
MODERATIONS: Final = msgspec.json.Decoder(ModerationsBody)
SUMMARY: Final = msgspec.json.Decoder(SummaryBody)
CLASSIFY: Final = msgspec.json.Decoder(ClassifyBody)
GLINER: Final = msgspec.json.Decoder(GlinerBody)


def parse(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    """Return what ``body`` holds; raises `BadRequest` with what is wrong and where."""
    if len(body) > _LARGE_BYTES:
        _check_values(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(str(error), body, decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error, body) from None


def _check_values(body: bytes) -> None:
    """Raise `BadRequest` for a body of too many values."""
    if _openings(body) <= _OPENINGS_MAX and body.count(b",") <= _COMMAS_MAX:
        return
    # What is in a text is none; to look for texts takes a while, too.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = plain.count(b'"') // 2
    if texts > _TEXTS_MAX:
        raise _too_many_values(texts, "texts and names", _TEXTS_MAX)
    bare = b"".join(plain.split(b'"')[::2])
    if (openings := _openings(bare)) > _OPENINGS_MAX:
        raise _too_many_values(openings, "arrays and objects", _OPENINGS_MAX)
    if (commas := bare.count(b",")) > _COMMAS_MAX:
        raise _too_many_values(commas, "commas between values", _COMMAS_MAX)


def _openings(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _too_many_values(count: int, what: str, most: int) -> BadRequest:
    return BadRequest(
        f"The body has {count:,} {what}; at most {most:,} are read. Split it into several"
        " requests.",
        code="invalid_value",
    )
