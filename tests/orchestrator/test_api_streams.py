"""Streamed answers over a real socket: OpenAI's events, their errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import APIError, AsyncOpenAI

from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.inference import Pieces
from orchestrator.domain.model import Answered
from orchestrator.errors import NoCapacity
from tests.orchestrator.fakes import IAB, SUMMARY, Backend, backend_in, caller, error_of

TEXT = "The cat sat on the mat. A dog ran home."
CHAT = {"model": SUMMARY, "messages": [{"role": "user", "content": TEXT}], "stream": True}
ASK = {"model": SUMMARY, "input": TEXT, "stream": True}


def sdk(client: httpx.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{client.base_url}/v1", api_key=client.headers["x-api-key"], max_retries=0
    )


async def test_a_chat_stream_has_a_role_then_text_then_an_end(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        reply = await client.post("/v1/chat/completions", json=CHAT)

        events = reply.text.split("\n\n")
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["x-request-id"].startswith("req_")
        assert events[-2:] == ["data: [DONE]", ""]
        chunks = [json.loads(one.removeprefix("data: ")) for one in events[:-2]]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(delta.get("content", "") for delta in deltas) == "The cat sat on the mat "
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 7 + ["stop"]
        assert {chunk["id"] for chunk in chunks} == {
            reply.headers["x-request-id"].replace("req_", "chatcmpl-")
        }
        assert not any("usage" in chunk for chunk in chunks)
        [row] = backend.rows()
        assert (row["status"], row["output_tokens"]) == (200, 6)


async def test_the_usage_comes_in_a_last_chunk_for_those_who_ask(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client), sdk(client) as api:
        stream = await api.chat.completions.create(
            model=SUMMARY,
            messages=[{"role": "user", "content": TEXT}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (14, 6)


async def test_a_response_streams_openai_s_events_in_their_order(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client), sdk(client) as api:
        stream = await api.responses.create(
            model=SUMMARY, input=TEXT, stream=True, instructions="Be brief.", user="u"
        )
        events = [event async for event in stream]

    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas == 6
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = events[-1]
    assert done.type == "response.completed"
    assert done.response.output_text == "The cat sat on the mat "
    assert done.response.instructions == "Be brief."
    assert done.response.usage is not None
    assert done.response.usage.output_tokens == 6


async def test_the_sdk_s_stream_helper_ends_with_the_whole_response(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client), sdk(client) as api:
        async with api.responses.stream(model=SUMMARY, input=TEXT) as stream:
            final = await stream.get_final_response()
        async with api.chat.completions.stream(
            model=SUMMARY, messages=[{"role": "user", "content": TEXT}]
        ) as chat:
            completion = await chat.get_final_completion()

    assert final.status == "completed"
    assert final.output_text == "The cat sat on the mat "
    assert completion.choices[0].message.content == "The cat sat on the mat "


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_model_that_answers_in_one_piece_streams_that_piece(
    tmp_path: Path, path: str
) -> None:
    body = {"responses": ASK, "chat/completions": CHAT}[path] | {"model": IAB}
    async with caller(tmp_path) as (_, client):
        reply = await client.post(f"/v1/{path}", json=body)

    assert reply.status_code == 200
    assert reply.headers["x-inference-type"] == "edge"
    assert json.dumps(json.dumps({"audience": [], "keywords": ["The", "cat", "sat"]})) in reply.text


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_what_fails_before_the_first_piece_is_no_stream(tmp_path: Path, path: str) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.failure = NoCapacity("Nobody is here.", retry_after_s=5)
        reply = await client.post(
            f"/v1/{path}", json={"responses": ASK, "chat/completions": CHAT}[path]
        )

    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/json"
    assert error_of(reply)["code"] == "no_capacity"


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_an_answer_that_breaks_off_ends_with_an_error_event(
    tmp_path: Path, path: str
) -> None:
    text = "The cat break sat on."
    asked: dict[str, dict[str, Any]] = {
        "responses": ASK | {"input": text},
        "chat/completions": CHAT | {"messages": [{"content": text}]},
    }
    async with caller(tmp_path) as (backend, client), sdk(client) as api:
        reply = await client.post(f"/v1/{path}", json=asked[path])
        assert '"code":"stream_interrupted"' in reply.text.split("data: ")[-1]
        asking: Any = (
            api.responses.create(model=SUMMARY, input=text, stream=True)
            if path == "responses"
            else api.chat.completions.create(
                model=SUMMARY, messages=[{"role": "user", "content": text}], stream=True
            )
        )
        with pytest.raises(APIError, match="The answer broke off"):
            [event async for event in await asking]

        rows = backend.rows()
        assert [(row["status"], row["error_code"]) for row in rows] == [
            (500, "stream_interrupted")
        ] * 2
        assert [row["output_tokens"] for row in rows] == [2, 2]


async def left_early(backend: Backend, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        async for piece in reply.aiter_text():
            assert "The" in piece
            break
    await asyncio.wait_for(backend.engine.cancelled.wait(), 10)


async def test_a_client_that_leaves_ends_the_job_and_pays_for_what_was_said(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.paced.clear()
        await left_early(backend, client, CHAT)

        while not (rows := await asyncio.to_thread(backend.rows)):
            pass
        assert [(row["status"], row["input_tokens"], row["output_tokens"]) for row in rows] == [
            (499, 14, 1)
        ]
        assert backend.metrics.render().count(b'direction="output",model="zlm-v1-summary-cloud"} 1')


async def test_who_leaves_while_their_output_is_counted_pays_for_it(tmp_path: Path) -> None:
    said = "the cat sat on a mat " * 4_000

    async def source() -> AsyncGenerator[str | Answered]:
        yield said
        await asyncio.Event().wait()

    async def relay(pieces: Pieces) -> None:
        try:
            async for _ in pieces:
                break
            counting.set()
            await pieces.aclose()
        finally:
            await pieces.aclose()

    with backend_in(tmp_path) as backend:
        model = backend.catalogue.find(SUMMARY)
        assert model is not None
        exchange = Exchange(
            gate=Gate(backend.settings, backend.keyring), number="0", endpoint="", started_s=0, ts=0
        )
        pieces, counting = Pieces(exchange, model, source()), asyncio.Event()
        await pieces.begin()
        relaying = asyncio.create_task(relay(pieces))
        await counting.wait()
        # As the watch does: so long a text is counted in a thread, and that is under way.
        relaying.cancel()
        await asyncio.wait({relaying})

    assert relaying.cancelled()
    assert exchange.output_tokens == 24_000
