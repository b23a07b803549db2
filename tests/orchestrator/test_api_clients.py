"""The API and its clients: pages elsewhere, those that leave, and what the log keeps of all."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Send

from tests.orchestrator.fakes import (
    EMBEDDINGS,
    SUMMARY,
    backend_in,
    caller,
    vector_of,
)

ASK: dict[str, object] = {"model": SUMMARY, "input": "the cat sat. a dog ran"}


async def test_a_page_elsewhere_may_call_and_may_read_our_headers(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        preflight = await client.options(
            "/v1/responses",
            headers={
                "origin": "https://shop.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-api-key, x-stainless-os",
                "x-api-key": "",
            },
        )
        reply = await client.post(
            "/v1/responses", json=ASK, headers={"origin": "https://shop.example"}
        )
        refused = await client.post("/v1/responses", headers={"origin": "https://shop.example"})
        plain = await client.post("/v1/responses", json=ASK)

    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "x-api-key, x-stainless-os"
    for answer in (reply, refused):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-inference-type" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in plain.headers


async def test_a_client_that_leaves_ends_its_jobs_and_frees_its_place(tmp_path: Path) -> None:
    async with caller(tmp_path, key_concurrency=1) as (backend, client):
        backend.engine.waits = True
        leaving = asyncio.create_task(client.post("/v1/responses", json=ASK))
        await asyncio.wait_for(backend.engine.started.wait(), 10)
        leaving.cancel()
        await asyncio.wait_for(backend.engine.cancelled.wait(), 10)
        backend.engine.waits = False
        reply = await client.post("/v1/responses", json=ASK)

        assert reply.status_code == 200
        left, answered = backend.rows()
        assert (left["status"], left["error_code"]) == (499, "client_disconnected")
        assert (answered["status"], answered["error_code"]) == (200, None)
        # Nothing came of the first, so that it is not billed.
        assert [left["input_tokens"], left["output_tokens"]] == [0, 0]
        assert answered["input_tokens"]


async def test_a_slow_answer_comes_although_we_listen_for_the_client(tmp_path: Path) -> None:
    listening = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps(ASK).encode()}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        listening.set()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    with backend_in(tmp_path) as backend:
        backend.engine.waits = True
        headers = [(b"x-api-key", backend.new_key().api_key.encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/responses",
            "query_string": b"",
            "headers": headers,
        }
        answering = asyncio.create_task(run(backend.app, scope, receive, send))
        await asyncio.wait_for(listening.wait(), 10)
        backend.engine.released.set()
        await asyncio.wait_for(answering, 10)

    assert sent[0]["status"] == 200


async def run(app: ASGIApp, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def test_every_request_is_logged_without_its_text(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        reply = await client.post("/v1/responses", json=ASK)
        await client.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "a cloud"})
        await client.get("/v1/models/unknown")
        answered, embedded, unknown = backend.rows()
        stored = b"".join(
            path.read_bytes() for path in backend.settings.data_dir.glob("zerogpu.db*")
        )

    assert answered["id"] == reply.headers["x-request-id"]
    assert answered["model"] == SUMMARY
    assert (answered["endpoint"], answered["status"]) == ("/v1/responses", 200)
    assert (answered["place"], answered["node_id"], answered["attempts"]) == ("edge", "node_1", 1)
    assert (answered["input_tokens"], answered["output_tokens"]) == (9, 3)
    assert (embedded["place"], embedded["node_id"]) == ("cloud", "worker")
    assert unknown["endpoint"] == "/v1/models/{model}"
    assert (unknown["status"], unknown["error_code"]) == (404, "model_not_found")
    # Two of one millisecond may stand either way.
    times = [str(row["id"])[: len("req_") + 11] for row in (answered, embedded, unknown)]
    assert times == sorted(times)
    assert b"dog ran" not in stored
    assert client.headers["x-api-key"].encode() not in stored


async def test_strangers_leave_no_rows(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        await client.get("/v1/models", headers={"x-api-key": "zgpu-api-guess"})
        await client.get("/v1/nowhere", headers={"x-api-key": "zgpu-api-guess"})

        assert backend.rows() == []
        metrics = backend.metrics.render().decode()
        assert 'zerogpu_requests_total{endpoint="/v1/models",place="",status="401"} 1.0' in metrics
        assert 'zerogpu_requests_total{endpoint="other",place="",status="404"} 1.0' in metrics


async def test_a_customer_s_wrong_path_is_in_their_log(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        reply = await client.get("/v1/nowhere")
        await client.get("/v1/responses")

        rows = [(row["endpoint"], row["status"], row["error_code"]) for row in backend.rows()]
    assert rows == [("other", 404, "not_found"), ("/v1/responses", 405, "method_not_allowed")]
    assert reply.headers["x-request-id"].startswith("req_")


async def test_base64_is_the_node_s_own_bytes(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        reply = await client.post(
            "/v1/embeddings",
            json={"model": EMBEDDINGS, "input": "the cat", "encoding_format": "base64"},
        )

    body = reply.json()
    assert base64.b64decode(body["data"][0]["embedding"]) == vector_of("the cat")
    assert body["object"] == "list"
    assert body["data"][0]["object"] == "embedding"
