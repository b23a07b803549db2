"""Bodies: what is parsed, and which sentence answers what is not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.bodies import CHAT, EMBEDDINGS, RESPONSES, Message, parse
from orchestrator.api.texts import conversation_text
from orchestrator.errors import BadRequest


def refusal(decoder: Any, body: object) -> BadRequest:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(BadRequest) as error:
        parse(decoder, encoded)
    return error.value


def test_fields_of_openai_s_api_are_taken_and_unknown_ones_refused_by_name() -> None:
    asked = parse(RESPONSES, b'{"model":"m","input":"x","seed":3,"tools":[{}],"store":true}')

    assert (asked.model, asked.input) == ("m", "x")
    decoders: tuple[Any, ...] = (RESPONSES, CHAT, EMBEDDINGS)
    for decoder in decoders:
        with pytest.raises(BadRequest, match="Unknown parameter: 'top_k'") as caught:
            parse(decoder, b'{"model":"m","top_k":3}')
        assert caught.value.code == "unknown_parameter"


def test_an_input_is_a_string_or_messages_of_strings_or_parts() -> None:
    asked = parse(
        RESPONSES,
        json.dumps(
            {
                "model": "m",
                "input": [
                    {"type": "message", "role": "user", "content": "one"},
                    {"content": [{"type": "input_text", "text": "two"}]},
                ],
            }
        ).encode(),
    )

    assert not isinstance(asked.input, str)
    assert [message.role for message in asked.input] == ["user", "user"]


@pytest.mark.parametrize(
    ("body", "code", "param", "sentence"),
    [
        ({"input": "x"}, "missing_required_parameter", "model", "model is missing; it is required"),
        ({"model": "m", "input": 3}, "invalid_type", "input",
         "input must be a string or an array, not a whole number."),
        ({"model": "m", "input": [{"content": 1}]}, "invalid_type", "input[0].content",
         "input[0].content must be a string or an array, not a whole number."),
        ({"model": None, "input": "x"}, "invalid_type", "model",
         "model must be a string, not null."),
        ({"model": "m", "input": "x", "stream": "yes"}, "invalid_type", "stream",
         "stream must be true or false, not a string."),
        ({"model": "m", "input": "x", "max_output_tokens": 0}, "invalid_value",
         "max_output_tokens", "max_output_tokens is not valid: expected `int` >= 1."),
        ([], "invalid_type", None, "The body must be an object, not an array."),
        (b"", "invalid_json", None, "The body is not valid JSON: input data was truncated."),
        (b'{"model": "m",}', "invalid_json", None, "The body is not valid JSON: JSON is malformed"),
        (b'{"model": "\xff"}', "invalid_json", None, "The body is not UTF-8: byte"),
        (b'{"model":"m","input":"\\ud800 x"}', "invalid_json", None, "The body is not valid JSON"),
        (b"[" * 100_000, "invalid_type", None, "The body must be an object, not an array."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_would(
    body: object, code: str, param: str | None, sentence: str
) -> None:
    error = refusal(RESPONSES, body)

    assert (error.code, error.param) == (code, param)
    assert error.message.startswith(sentence)


def test_nested_parameters_are_named_by_their_path() -> None:
    chat = {"model": "m", "messages": [{"content": [{"type": "text", "text": 5}]}]}

    assert refusal(CHAT, chat).param == "messages[0].content[0].text"
    assert refusal(EMBEDDINGS, {"model": "m", "input": [1.5]}).param == "input[0]"


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_in_words(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse(CHAT, body)


def test_the_text_is_what_is_said_in_order_without_directions() -> None:
    said = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="one"),
        Message(role="assistant", content="two"),
        Message(role="developer", content="Be kind."),
        Message(role="tool", content="three"),
        Message(role="martian", content="four"),
        Message(role="user", content=None),
    ]

    assert conversation_text(said, param="messages") == "one\n\ntwo\n\nthree\n\nfour"


def test_nothing_said_is_refused() -> None:
    with pytest.raises(BadRequest, match="messages holds no text") as error:
        conversation_text([Message(role="system", content="x")], param="messages")

    assert error.value.param == "messages"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (b'{"content":[{"type":"input_image","image_url":"x"}]}', "input[0].content[0].type"),
        (b'{"content":[{"type":"text"}]}', "input[0].content[0].text"),
        (b'{"type":"function_call_output","output":"x"}', "input[0].type"),
    ],
)
def test_what_is_not_text_is_refused_by_its_place(message: bytes, param: str) -> None:
    asked = parse(RESPONSES, b'{"model":"m","input":[' + message + b"]}")
    assert not isinstance(asked.input, str)

    with pytest.raises(BadRequest) as error:
        conversation_text(asked.input, param="input")

    assert error.value.param == param
