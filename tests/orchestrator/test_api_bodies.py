"""Bodies: what is parsed, and which sentence answers what is not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.bodies import (
    CHAT,
    EMBEDDINGS,
    GLINER,
    RESPONSES,
    SUMMARY,
    Message,
    parse,
)
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


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a", "x` - at `$.evil": 1}, "x` - at `$.evil"),
        ({"input": "a", "x`y": 1}, "x`y"),
        ({"input": "a", "stream_options": {"x` - at `$.evil": 1}},
         "stream_options.x` - at `$.evil"),
        ({"input": "a", "stream_options": {"x": 1}, "x": 1}, "stream_options.x"),
        ({"input": "a", "truncation": "q' - at `$.input`"}, "truncation"),
    ],
)  # fmt: skip
def test_a_name_or_value_that_looks_like_a_path_is_none(
    body: dict[str, object], param: str
) -> None:
    assert refusal(RESPONSES, {"model": "m"} | body).param == param


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
         "max_output_tokens", "max_output_tokens is 0; it must be at least 1."),
        ([], "invalid_type", None, "The body must be an object, not an array."),
        (b"", "invalid_json", None, "The body is empty."),
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


@pytest.mark.parametrize(
    ("decoder", "rest", "param", "sentence"),
    [
        (CHAT, b'"temperature":3', "temperature", "temperature is 3; it must be at most 2."),
        (CHAT, b'"top_p":-0.5', "top_p", "top_p is -0.5; it must be at least 0."),
        (CHAT, b'"max_tokens":99999999999', "max_tokens",
         "max_tokens is 99,999,999,999; it must be at most 1,073,741,824."),
        (CHAT, b'"seed":1e400', "seed",
         "seed is a number of more than 64 bits: send a smaller one."),
        (CHAT, b'"messages":[]', "messages", "messages is empty; it must have at least one item."),
        (CHAT, b'"messages":[{"content":[' + b",".join([b"{}"] * 2_049) + b"]}]",
         "messages[0].content", "messages[0].content has 2,049 items; at most 2,048 are taken."),
        (SUMMARY, b'"text":""', "text", "text is empty; it must have at least one character."),
        (GLINER, b'"labels":["a","' + b"x" * 65 + b'"]', "labels[1]",
         "labels[1] has 65 characters; at most 64 are taken."),
        (RESPONSES, b'"truncation":"middle"', "truncation",
         "truncation is 'middle'; it must be auto or disabled."),
        (RESPONSES, b'"reasoning":{"effort":"it\'s"}', "reasoning.effort",
         'reasoning.effort is "it\'s"; it must be none, minimal, low, medium, high, xhigh or max.'),
        (RESPONSES, b'"text":{"verbosity":"' + b"x" * 99 + b'"}', "text.verbosity",
         f"text.verbosity is '{'x' * 39}…'; it must be low, medium or high."),
        (EMBEDDINGS, b'"encoding_format":"hex"', "encoding_format",
         "encoding_format is 'hex'; it must be float or base64."),
        # What cannot be told is left out: the other value, or one behind which the JSON breaks off.
        (CHAT, b'"temperature":3,"temperature":1', "temperature", "temperature must be at most 2."),
        (CHAT, b'"temperature":3,', "temperature", "temperature must be at most 2."),
        (CHAT, b'"temperature":3,"user":"' + b"x" * 2**20 + b'"', "temperature",
         "temperature must be at most 2."),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_named_beside_the_range(
    decoder: Any, rest: bytes, param: str, sentence: str
) -> None:
    error = refusal(decoder, b"{" + rest + b"}")

    assert (error.code, error.param, error.message) == ("invalid_value", param, sentence)


def test_bytes_that_are_no_utf_8_are_counted_from_the_start_of_the_body() -> None:
    error = refusal(EMBEDDINGS, b'{"model":"all-minilm-l6-v2","input":"\xfc"}')

    assert error.message == "The body is not UTF-8: byte 37 cannot be read."


@pytest.mark.parametrize("end", [b'"}', b' x"}', b'\\n"}', b'"\n}\n'])
def test_half_a_surrogate_pair_at_the_end_is_not_called_a_cut(end: bytes) -> None:
    error = refusal(EMBEDDINGS, b'{"model":"m","input":"\\ud800' + end)

    assert "the escape \\ud800 at byte 22 is half of a surrogate pair" in error.message


@pytest.mark.parametrize(
    "end", [b"\\ud83d", b"\\ud83d\\", b"\\ud83d\\ude0", b"\\\\ud83d x", b"\\ud83d\\ude00 x"]
)
def test_a_body_that_was_cut_is_called_so(end: bytes) -> None:
    error = refusal(EMBEDDINGS, b'{"model":"m","input":"' + end)

    assert "input data was truncated" in error.message


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


@pytest.mark.parametrize(
    ("input_", "found"),
    [
        (b"[" + b"[]," * 200_000 + b"[]]", "200,003 arrays and objects"),
        (b"[" + b"{}," * 200_000 + b"{}]", "200,003 arrays and objects"),
        (b"[" + b"1," * 1_100_000 + b"1]", "1,100,001 commas between values"),
    ],
)
def test_a_body_that_would_take_long_to_read_is_refused_unread(input_: bytes, found: str) -> None:
    for decoder in (RESPONSES, EMBEDDINGS):
        error = refusal(decoder, b'{"model":"m","input":%b}' % input_)
        assert found in error.message
        assert error.code == "invalid_value"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty."),
        (b" \n", "The body is empty."),
        (b'\xef\xbb\xbf{"model":"m"}', "begins with a byte order mark."),
        (b'{"metadata":{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}}", "is nested too deeply"),
        (b'{"model":"m","input":"x","max_tokens":5.5}', "not one with a decimal point"),
        (b'{"model":"m","input":"x","max_tokens":"5"}', "a whole number, not a string"),
    ],
)
def test_what_cannot_be_read_is_told_in_words_of_json(body: bytes, sentence: str) -> None:
    assert sentence in refusal(RESPONSES, body).message


def test_what_stands_in_texts_is_not_counted_as_values() -> None:
    code = 'if (a[0] == "{") { b[i][j] = "\\"; }, [, {, \\\\'
    texts = [code * 90] * 500

    asked = parse(EMBEDDINGS, json.dumps({"model": "m", "input": texts}).encode())

    assert asked.input == texts


def test_as_many_token_ids_as_there_may_be_are_read() -> None:
    ids = [[1] * 512] * 2_048

    asked = parse(EMBEDDINGS, json.dumps({"model": "m", "input": ids}).encode())

    assert asked.input == ids


def test_too_many_short_texts_are_refused_as_such() -> None:
    error = refusal(EMBEDDINGS, b'{"model":"m","input":[%b""]}' % (b'"",' * 1_200_000))

    assert "1,200,004 texts and names" in error.message
