"""Answers that are joined of pieces made before: byte for byte what encoding all of one gives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.api.bodies import CHAT, RESPONSES
from orchestrator.api.chat import whole_completion
from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.replies import ChatCompletion, ResponseReply, encode
from orchestrator.api.responses import Envelope, completed_response, echoes_nothing
from orchestrator.clock import Clock
from orchestrator.settings import Settings
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.keys import Pepper
from orchestrator.storage.token_counter import Limit

TEXTS = ["A cat sat.", "", '"quoted" \\ {"id":1}', "100 % of %b\x00\x1f\n", "schön, 猫 🐈"]
NAMES = ["zlm-v1-summary-cloud", 'an "odd" % näme']
CLOCK = Clock(wall=lambda: 1_790_000_001.9)
# What a request may say that the answer repeats.
ECHOED: dict[str, Any] = {
    "instructions": "Be brief.",
    "max_output_tokens": 7,
    "max_tokens": 7,
    "max_tool_calls": 0,
    "metadata": {"order": "7"},
    "parallel_tool_calls": False,
    "prompt_cache_key": "k",
    "reasoning": {"effort": "low"},
    "safety_identifier": "s",
    "temperature": 0,
    "text": {"verbosity": "low"},
    "tool_choice": "none",
    "top_p": 0.5,
    "user": "u",
}
# Fields of both that the answer does not take from the request.
NOT_ECHOED = {
    "background",
    "model",
    "previous_response_id",
    "service_tier",
    "store",
    "tools",
    "top_logprobs",
    "truncation",
}


@pytest.fixture
def exchange() -> Exchange:
    keyring = Keyring(Pepper(b"x"), lambda _: None, monotonic=lambda: 0.0, ttl_s=1.0, max_entries=1)
    made = Exchange(
        gate=Gate(Settings.from_env({}), keyring),
        number="1a201856ad1c9dc2588e6d8b",
        endpoint="/v1/responses",
        started_s=0.0,
        ts=1_790_000_000.5,
    )
    made.input_tokens, made.output_tokens = 181, 22
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cuts", [True, False])
def test_a_completed_response_is_the_same_joined_as_encoded(
    exchange: Exchange, text: str, name: str, cuts: bool
) -> None:
    asked = RESPONSES.decode(msgspec.json.encode({"model": name, "input": "x"}))
    limit = Limit(max_tokens=400, cuts=cuts)
    envelope = Envelope(exchange, asked, limit, CLOCK)

    joined = completed_response(exchange, asked, limit, CLOCK, text)

    assert joined == encode(envelope.whole("completed", text))


@pytest.mark.parametrize("field", ECHOED)
def test_a_response_that_echoes_something_is_not_joined(field: str) -> None:
    plain = {"model": "m", "input": "x"}

    assert echoes_nothing(RESPONSES.decode(msgspec.json.encode(plain)))
    assert not echoes_nothing(RESPONSES.decode(msgspec.json.encode(plain | {field: ECHOED[field]})))


def test_every_field_that_a_response_echoes_is_known() -> None:
    both = set(RESPONSES.type.__struct_fields__) & set(ResponseReply.__struct_fields__)

    assert both - NOT_ECHOED == set(ECHOED) - {"max_tokens"}  # as max_output_tokens


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ended", ["stop", "length"])
def test_a_chat_completion_is_the_same_joined_as_encoded(
    exchange: Exchange, text: str, name: str, ended: Any
) -> None:
    body = {"model": name, "messages": [{"content": "x"}]}
    plain = CHAT.decode(msgspec.json.encode(body))
    noted = CHAT.decode(msgspec.json.encode(body | {"metadata": {"order": "7"}}))

    joined = whole_completion(exchange, plain, text, ended)
    encoded = whole_completion(exchange, noted, text, ended)

    reply = msgspec.json.decode(encoded, type=ChatCompletion)
    assert joined == encode(msgspec.structs.replace(reply, metadata=msgspec.UNSET))
    assert encoded == joined[:-1] + b',"metadata":{"order":"7"}}'


def test_an_exchange_does_not_show_the_key_it_came_with(exchange: Exchange) -> None:
    exchange.headers = {b"x-api-key": b"zgpu-api-secret"}

    assert repr(exchange) == "<Exchange req_1a201856ad1c9dc2588e6d8b>"
