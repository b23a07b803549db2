"""What customers send: parsed and validated in one pass; what does not fit becomes a sentence.

Unknown fields are ignored, as OpenAI's clients send more than any one model reads.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec

from orchestrator.errors import BadRequest

_T = TypeVar("_T")

TokenLimit = Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]


class ContentPart(msgspec.Struct, frozen=True, gc=False):
    """A piece of a message; only those of text can be read."""

    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn. ``type`` is there in the Responses API only."""

    role: str = "user"
    content: str | list[ContentPart] | None = None
    type: str | None = None


class TextFormat(msgspec.Struct, frozen=True, gc=False):
    type: str = "text"


class TextOptions(msgspec.Struct, frozen=True, gc=False):
    format: TextFormat | None = None


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/responses``."""

    model: str
    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    temperature: float | None = None
    text: TextOptions | None = None
    top_p: float | None = None
    user: str | None = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    model: str
    messages: list[Message]
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    metadata: dict[str, Any] | None = None
    n: int | None = None
    stream: bool | None = None


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/embeddings``. Arrays of token ids are parsed only to be refused in words."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


RESPONSES: Final = msgspec.json.Decoder(ResponsesBody)
CHAT: Final = msgspec.json.Decoder(ChatBody)
EMBEDDINGS: Final = msgspec.json.Decoder(EmbeddingsBody)


def parse(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    """Return what ``body`` holds; raises `BadRequest` with what is wrong and where."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The body is not UTF-8: byte {error.start} cannot be read.", code="invalid_json"
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(
            f"The body is not valid JSON: {_lower_first(str(error))}. Send a JSON object with"
            " content-type application/json.",
            code="invalid_json",
        ) from None


_AT: Final = re.compile(r" - at `\$\.?(?P<param>.*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>\w+)`")
_EXPECTED: Final = re.compile(r"^Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
_NAMES: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def _misfit(message: str) -> BadRequest:
    """Turn msgspec's message into one for a customer, with the parameter and a code."""
    at = _AT.search(message)
    param = at["param"] if at else ""
    if missing := _MISSING.match(message):
        name = f"{param}.{missing['name']}" if param else missing["name"]
        return BadRequest(
            f"{name} is missing; it is required.", code="missing_required_parameter", param=name
        )
    if expected := _EXPECTED.match(message):
        # The union's null only says that the field may be left out: no one needs to be told.
        wanted = [name for name in expected["wanted"].split(" | ") if name != "null"]
        allowed = " or ".join(_NAMES.get(name, name) for name in wanted)
        got = _NAMES.get(expected["got"], expected["got"])
        subject = param or "The body"
        return BadRequest(
            f"{subject} must be {allowed}, not {got}.", code="invalid_type", param=param or None
        )
    return BadRequest(
        f"{param or 'The body'} is not valid: {_lower_first(_AT.sub('', message))}.",
        code="invalid_value",
        param=param or None,
    )


def _lower_first(text: str) -> str:
    return text if text[:4] == "JSON" else text[:1].lower() + text[1:]
