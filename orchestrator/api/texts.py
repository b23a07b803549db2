"""From messages to the one text that a task model reads.

The text is what the conversation says: the contents of all turns but those of ``system`` and
``developer``, in order. Those two (and ``instructions``) tell a generative model what to do; the
task models do one thing and are not billed for reading them. An unknown role counts as ``user``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orchestrator.api.bodies import ContentPart, Message
from orchestrator.errors import BadRequest

_DIRECTING: Final = frozenset({"system", "developer"})
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


def conversation_text(messages: Sequence[Message], *, param: str) -> str:
    """Join what is said; raises `BadRequest` naming the part that is not text, or if nothing is."""
    said = []
    for index, message in enumerate(messages):
        if message.role in _DIRECTING:
            continue
        text = _text(message, param, index)
        if text and not text.isspace():
            said.append(text)
    if not said:
        raise BadRequest(
            f"{param} holds no text to work on: add a message of role user with the text.",
            code="invalid_value",
            param=param,
        )
    return said[0] if len(said) == 1 else "\n\n".join(said)


def _text(message: Message, param: str, index: int) -> str:
    if message.type is not None and message.type != "message":
        raise BadRequest(
            f"{param}[{index}] is of type {_shown(message.type)}; only messages can be read here.",
            code="unsupported_value",
            param=f"{param}[{index}].type",
        )
    content = message.content
    if isinstance(content, list):
        return "\n".join(
            part_text(part, f"{param}[{index}].content[{at}]") for at, part in enumerate(content)
        )
    return content or ""


def part_text(part: ContentPart, param: str) -> str:
    """Return the text of a part; raises `BadRequest` where it is none."""
    if part.type not in _TEXT_PARTS:
        raise BadRequest(
            f"{param} is of type {_shown(part.type)}; this model reads text only:"
            " use input_text or text.",
            code="unsupported_value",
            param=f"{param}.type",
        )
    if part.text is None:
        raise BadRequest(
            f"{param}.text is missing; it is required.",
            code="missing_required_parameter",
            param=f"{param}.text",
        )
    return part.text


def check_count(count: int, most: int) -> None:
    """Raise `BadRequest` unless there are 1 to ``most`` inputs."""
    if not 1 <= count <= most:
        raise BadRequest(
            f"input has {count:,} items; from 1 to {most:,} are taken.",
            code="invalid_value",
            param="input",
        )


def check_not_empty(text: str, name: str) -> None:
    """Raise `BadRequest` for a text without a character."""
    if not text:
        raise BadRequest(
            f"{name} is empty; it must have at least one character.",
            code="invalid_value",
            param=name,
        )


def check_not_blank(text: str, name: str) -> None:
    """Raise `BadRequest` for a text that holds nothing but white space."""
    if not text or text.isspace():
        raise BadRequest(
            f"{name} holds no text to work on: it is empty, or white space only.",
            code="invalid_value",
            param=name,
        )


def _shown(word: str | None) -> str:
    """Quote a word of the customer's own, as long as it is a word."""
    return repr(word) if word is not None and len(word) <= 40 else "unknown"
