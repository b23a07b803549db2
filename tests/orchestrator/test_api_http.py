"""The API over real sockets: keys and projects, routes, bodies and limits, errors."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2 as httpx
import pytest
from structlog.testing import capture_logs

from orchestrator import errors
from orchestrator.domain.model import DEFAULT_RULES, Rules
from orchestrator.storage import keys, projects
from tests.orchestrator.fakes import (
    EMBEDDINGS,
    IAB,
    SUMMARY,
    backend_in,
    caller,
    client_of,
    error_of,
    serving,
)

ASK: dict[str, object] = {"model": SUMMARY, "input": "the cat sat. a dog ran"}


async def raw(client: httpx.AsyncClient, sent: bytes) -> bytes:
    """Send bytes as they are and return what comes back until the end of the answer's body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(sent)
    await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    [length] = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    ]
    body = await asyncio.wait_for(reader.readexactly(length), 10)
    writer.close()
    await writer.wait_closed()
    return head + body


# ── keys and projects ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x"),
        ("GET", "/v1/requests/req_0/decisions"),
    ],
)
async def test_every_route_wants_a_key(tmp_path: Path, method: str, path: str) -> None:
    with backend_in(tmp_path) as backend:
        async with serving(backend) as url, client_of(url) as client:
            missing = await client.request(method, path)
            unknown = await client.request(method, path, headers={"x-api-key": "zgpu-api-no"})
            long = await client.request(method, path, headers={"x-api-key": "z" * 5_000})

    assert [missing.status_code, unknown.status_code, long.status_code] == [401, 401, 401]
    assert error_of(missing)["code"] == "missing_api_key"
    assert error_of(unknown)["code"] == "invalid_api_key"
    assert error_of(unknown)["type"] == "authentication_error"
    assert missing.headers["www-authenticate"] == "Bearer"


async def test_a_key_made_by_another_process_works_at_once(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = backend.new_key()
        reply = await client.post(
            "/v1/responses",
            json=ASK,
            headers={"x-api-key": made.api_key, "x-project-id": made.project_id},
        )

    assert reply.status_code == 200


async def test_a_revoked_key_is_refused_and_its_project_sees_it(tmp_path: Path) -> None:
    async with caller(tmp_path, key_cache_ttl_s=0.0) as (backend, client):
        made = backend.new_key()
        mine = {"x-api-key": made.api_key}
        before = await client.get("/v1/models", headers=mine)
        keys.revoke_key(backend.database, made.key_id, now=1.0)
        after = await client.get("/v1/models", headers=mine)

        assert (before.status_code, after.status_code) == (200, 401)
        assert error_of(after)["code"] == "revoked_api_key"
        assert backend.rows()[-1]["error_code"] == "revoked_api_key"


async def test_a_project_may_be_named_empty_or_in_capitals(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = backend.new_key()
        for name in ("", made.project_id.upper()):
            sent = {"x-api-key": made.api_key, "x-project-id": name}
            assert (await client.get("/v1/models", headers=sent)).status_code == 200, name


async def test_an_operator_may_want_projects_named(tmp_path: Path) -> None:
    async with caller(tmp_path, require_project_id=True) as (backend, client):
        made = backend.new_key()
        key = {"x-api-key": made.api_key}
        for name in ({}, {"x-project-id": ""}):
            refused = await client.get("/v1/models", headers=key | name)
            assert refused.status_code == 401
            assert error_of(refused)["code"] == "missing_project_id"
        named = await client.get("/v1/models", headers=key | {"x-project-id": made.project_id})

    assert named.status_code == 200


async def test_another_project_is_forbidden(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        reply = await client.post("/v1/responses", json=ASK, headers={"x-project-id": "another"})

    assert reply.status_code == 403
    assert error_of(reply)["code"] == "project_mismatch"


# ── routes, bodies, limits ───────────────────────────────────────────────────────────────────────


async def test_unknown_paths_and_wrong_methods_are_told_what_there_is(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        unknown = await client.get("/v1/completions")
        wrong = await client.get("/v1/responses")
        posted = await client.post("/v1/models")
        deep = [await client.get(f"/v1/{path}") for path in ("files/a/b", "batches/a/b")]
        model = await client.get("/v1/models/openai/gpt-4")

    assert [(one.status_code, error_of(one)["code"]) for one in deep] == [(404, "not_found")] * 2
    assert error_of(model)["code"] == "model_not_found"
    assert unknown.status_code == 404
    assert "/v1/embeddings" in error_of(unknown)["message"]
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, OPTIONS")
    assert error_of(wrong)["code"] == "method_not_allowed"


MISTAKES: list[tuple[str, Mapping[str, object], int, str, str]] = [
    ("responses", {"model": "gpt-4", "input": "x"}, 404, "model_not_found", "model"),
    ("responses", {"model": EMBEDDINGS, "input": "x"}, 400, "model_route_mismatch", "model"),
    ("embeddings", {"model": IAB, "input": "x"}, 400, "model_route_mismatch", "model"),
    ("responses", ASK | {"background": True}, 400, "unsupported_parameter", "background"),
    ("responses", ASK | {"tools": [{"type": "web_search"}]}, 400, "unsupported_parameter", "tools"),
    ("responses", ASK | {"top_logprobs": 3}, 400, "unsupported_parameter", "top_logprobs"),
    ("responses", ASK | {"conversation": "conv_1"}, 400, "unsupported_parameter", "conversation"),
    ("responses", ASK | {"truncation": "middle"}, 400, "invalid_value", "truncation"),
    ("responses", ASK | {"categories": ["a", "b"]}, 400, "unsupported_parameter", "categories"),
    ("responses", ASK | {"temperature": 3}, 400, "invalid_value", "temperature"),
    ("responses", ASK | {"top_k": 3}, 400, "unknown_parameter", "top_k"),
    ("responses", ASK | {"text": {"formatt": {}}}, 400, "unknown_parameter", "text.formatt"),
    ("responses", ASK | {"reasoning": {"bar": 1}}, 400, "unknown_parameter", "reasoning.bar"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "stream": True,
     "stream_options": {"include_usge": True}}, 400, "unknown_parameter",
     "stream_options.include_usge"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}],
     "stream_options": {"include_usage": True}}, 400, "unsupported_parameter", "stream_options"),
    ("responses", ASK | {"metadata": {"a": 1}}, 400, "invalid_type", "metadata.a"),
    ("responses", ASK | {"metadata": {"a": "x" * 513}}, 400, "string_above_max_length",
     "metadata.a"),
    ("responses", ASK | {"metadata": {"x" * 65: ""}}, 400, "string_above_max_length", "metadata"),
    ("responses", ASK | {"metadata": {str(at): "" for at in range(17)}}, 400, "invalid_value",
     "metadata"),
    ("responses", ASK | {"input": ""}, 400, "invalid_value", "input"),
    ("responses", ASK | {"text": {"format": {"type": "json_schema"}}}, 400,
     "unsupported_parameter", "text.format.type"),
    ("responses", ASK | {"previous_response_id": "resp_1"}, 400, "unsupported_parameter",
     "previous_response_id"),
    ("responses", ASK | {"metadata": {"sentences": "many"}}, 400, "invalid_value",
     "metadata.sentences"),
    ("responses", ASK | {"metadata": {"sentences": True}}, 400, "invalid_value",
     "metadata.sentences"),
    ("chat/completions", {"model": IAB, "messages": []}, 400, "invalid_value", "messages"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "n": 2}, 400,
     "unsupported_parameter", "n"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "stop": ["."]}, 400,
     "unsupported_parameter", "stop"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "logprobs": True}, 400,
     "unsupported_parameter", "logprobs"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "functions": [{}]}, 400,
     "unsupported_parameter", "functions"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "modalities": ["audio"]},
     400, "unsupported_parameter", "modalities"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}],
     "audio": {"voice": "alloy", "format": "mp3"}}, 400, "unsupported_parameter", "audio"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "top_logprobs": 5}, 400,
     "unsupported_parameter", "top_logprobs"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "service_tier": "gold"},
     400, "invalid_value", "service_tier"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}],
     "reasoning_effort": "some"}, 400, "invalid_value", "reasoning_effort"),
    ("responses", ASK | {"service_tier": "gold"}, 400, "invalid_value", "service_tier"),
    ("responses", ASK | {"tool_choice": "some"}, 400, "invalid_value", "tool_choice"),
    ("responses", ASK | {"include": ["everything"]}, 400, "invalid_value", "include[0]"),
    ("responses", ASK | {"image": "data:,"}, 400, "unsupported_parameter", "image"),
    ("responses", ASK | {"include": ["message.output_text.logprobs"]}, 400,
     "unsupported_parameter", "include"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}], "web_search_options": {}},
     400, "unsupported_parameter", "web_search_options"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}],
     "response_format": {"type": "json_object"}}, 400, "unsupported_parameter",
     "response_format.type"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}],
     "function_call": {"name": "f"}}, 400, "unsupported_parameter", "function_call"),
    ("chat/completions", {"model": IAB, "messages": [{"content": "x"}],
     "logit_bias": {"5": 1_000}}, 400, "invalid_value", "logit_bias"),
    ("responses", ASK | {"stream_options": {"include_usage": True}}, 400, "unknown_parameter",
     "stream_options.include_usage"),
    ("responses", ASK | {"stream_options": {"include_obfuscation": True}}, 400,
     "unsupported_parameter", "stream_options"),
    ("responses", ASK | {"reasoning": {"summary": "some"}}, 400, "invalid_value",
     "reasoning.summary"),
    ("moderations", {"input": "x"}, 404, "model_not_found", "model"),
    ("moderations", {"input": "x", "model": "omni-moderation-latest"}, 404, "model_not_found",
     "model"),
    ("moderations", {"input": "x", "model": IAB}, 400, "model_route_mismatch", "model"),
    ("moderations", {"input": ""}, 400, "invalid_value", "input"),
    ("moderations", {"input": []}, 400, "invalid_value", "input"),
    ("moderations", {"input": ["a", ""]}, 400, "invalid_value", "input[1]"),
    ("moderations", {"input": ["a", {"type": "text", "text": "b"}]}, 400, "invalid_type", "input"),
    ("moderations", {"input": [{"type": "image_url"}]}, 400, "unsupported_value", "input[0].type"),
    ("moderations", {"input": "x", "metadata": {"threshold": 2}}, 400, "invalid_value",
     "metadata.threshold"),
    ("embeddings", {"model": EMBEDDINGS, "input": []}, 400, "invalid_value", "input"),
    ("embeddings", {"model": EMBEDDINGS, "input": ["a", ""]}, 400, "invalid_value", "input[1]"),
    ("embeddings", {"model": EMBEDDINGS, "input": [100_257, 2]}, 400, "invalid_value", "input"),
    ("embeddings", {"model": EMBEDDINGS, "input": [-1]}, 400, "invalid_value", "input"),
    ("embeddings", {"model": EMBEDDINGS, "input": [[9], [100_257]]}, 400, "invalid_value",
     "input[1]"),
    ("embeddings", {"model": EMBEDDINGS, "input": ["a", [9]]}, 400, "invalid_type", "input"),
    ("embeddings", {"model": EMBEDDINGS, "input": [9, [9]]}, 400, "invalid_type", "input"),
    ("embeddings", {"model": EMBEDDINGS, "input": "x", "dimensions": 64}, 400,
     "unsupported_parameter", "dimensions"),
    ("embeddings", {"model": EMBEDDINGS, "input": "x", "encoding_format": "hex"}, 400,
     "invalid_value", "encoding_format"),
    ("embeddings", {"model": EMBEDDINGS, "input": ["x"] * 2_049}, 400, "invalid_value", "input"),
    ("responses", {"model": IAB, "input": "cat " * 39}, 420, "context_length_exceeded", "input"),
    ("responses", {"model": IAB, "input": "cat " * 50_000}, 420, "context_length_exceeded",
     "input"),
    ("responses", {"model": IAB, "input": f"{' ' * 140_000}x"}, 400, "string_above_max_length",
     "input"),
]  # fmt: skip


async def test_each_mistake_has_its_status_code_and_parameter(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        for path, body, status, code, param in MISTAKES:
            reply = await client.post(f"/v1/{path}", json=body)

            error = error_of(reply)
            assert (reply.status_code, error["code"], error["param"]) == (status, code, param)
            assert error["message"].endswith(".")
        assert backend.engine.jobs == []
        assert [row["error_code"] for row in backend.rows()] == [one[3] for one in MISTAKES]


async def test_an_input_just_at_the_limit_is_answered(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        reply = await client.post("/v1/responses", json={"model": IAB, "input": "cat " * 38})

    assert reply.status_code == 200
    assert reply.json()["usage"]["input_tokens"] == 40


async def test_over_long_bodies_are_refused_by_length_and_by_count(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    async with caller(tmp_path, body_max_bytes=20_000) as (backend, client):
        declared = await client.post("/v1/responses", content=b" " * 3_000_000)
        chunked = await client.post("/v1/responses", content=pieces())
        after = await client.post("/v1/responses", json=ASK)

        assert (declared.status_code, chunked.status_code, after.status_code) == (413, 413, 200)
        assert error_of(declared)["code"] == "request_too_large"
        assert "at most 20,000" in error_of(chunked)["message"]
        assert [row["status"] for row in backend.rows()] == [413, 413, 200]


async def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        packed = [
            await client.post(
                path, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}
            )
            for path in ("/v1/responses", "/summary", "/v1/files", "/v1/batches")
        ]
        plain = await client.post(
            "/v1/responses", json=ASK, headers={"content-encoding": "Identity"}
        )
        rows = backend.rows()

    for reply in packed:
        assert (reply.status_code, reply.headers["accept-encoding"]) == (415, "identity")
        assert error_of(reply)["code"] == "unsupported_content_encoding"
        assert error_of(reply)["message"].startswith("The body's content-encoding is 'gzip'; ")
    assert plain.status_code == 200
    assert [row["status"] for row in rows] == [415, 415, 415, 415, 200]


async def test_a_body_in_pieces_is_put_together(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(ASK).encode():
            yield bytes([byte])

    async with caller(tmp_path) as (_, client):
        reply = await client.post("/v1/responses", content=pieces())

    assert reply.status_code == 200


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with caller(tmp_path, body_timeout_s=0.1) as (_, client):
        head = (
            f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nx-api-key: {client.headers['x-api-key']}"
            "\r\ncontent-length: 100\r\n\r\n{"
        )
        reply = await raw(client, head.encode())

    assert reply.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in reply


async def test_a_key_s_concurrency_is_bounded_and_given_back(tmp_path: Path) -> None:
    # Three a minute: what is refused takes none of them.
    bounds = {"key_concurrency": 2, "key_requests_per_minute": 3}
    async with caller(tmp_path, **bounds) as (backend, client):
        backend.engine.waits = True
        held = [asyncio.create_task(client.post("/v1/responses", json=ASK)) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(backend.engine.jobs) < 2:
                backend.engine.started.clear()
                await backend.engine.started.wait()
        refused = await client.post("/v1/responses", json=ASK)
        other = await client.get("/v1/models", headers={"x-api-key": backend.new_key().api_key})
        backend.engine.released.set()
        answered = await asyncio.gather(*held)
        again = await client.post("/v1/responses", json=ASK)

    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert error_of(refused)["type"] == "rate_limit_exceeded"
    assert [reply.status_code for reply in (other, *answered, again)] == [200] * 4


async def test_bodies_held_at_once_are_bounded(tmp_path: Path) -> None:
    async with caller(tmp_path, queue_max_bytes=1 << 16) as (_, client):
        big = await client.post("/v1/responses", json=ASK | {"user": "x" * 70_000})
        small = await client.post("/v1/responses", json=ASK)

    assert (big.status_code, small.status_code) == (503, 200)
    assert error_of(big)["code"] == "overloaded"


@pytest.mark.parametrize(
    ("failure", "status", "code", "retry_after"),
    [
        (errors.NoCapacity("None.", retry_after_s=2.2), 503, "no_capacity", "3"),
        (errors.Overloaded("Full.", retry_after_s=0.1), 503, "overloaded", "1"),
        (errors.DeadlineExceeded("Late."), 503, "deadline_exceeded", None),
        (errors.InvalidInput("Blank.", param="input"), 400, "invalid_input", None),
        (errors.InternalError("Ours."), 500, "internal_error", None),
    ],
)
async def test_what_the_engine_says_reaches_the_customer(
    tmp_path: Path, failure: errors.ApiError, status: int, code: str, retry_after: str | None
) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.failure = failure
        reply = await client.post("/v1/responses", json=ASK)

        assert (reply.status_code, error_of(reply)["code"]) == (status, code)
        assert reply.headers.get("retry-after") == retry_after
        assert "x-inference-type" not in reply.headers
        assert backend.rows()[-1]["status"] == status


async def test_who_could_not_take_a_job_is_told_to_programs_too(tmp_path: Path) -> None:
    skipped = {"region": 3, "newcomer": 2}
    async with caller(tmp_path) as (backend, client):
        backend.engine.failure = errors.NoCapacity("None.", retry_after_s=2, skipped=skipped)
        told = await client.post("/v1/responses", json=ASK)
        backend.engine.failure = errors.NoCapacity("None.", retry_after_s=2, skipped={})
        empty = await client.post("/v1/responses", json=ASK)

    assert told.status_code == 503
    assert told.json()["error"]["skipped"] == skipped
    assert told.json()["error"]["code"] == "no_capacity"
    # Where there is nothing to say, the envelope is that of every other error.
    assert error_of(empty)["code"] == "no_capacity"


async def test_a_request_of_many_inputs_that_got_late_is_told_to_send_fewer(
    tmp_path: Path,
) -> None:
    many, few = (
        {"model": EMBEDDINGS, "input": [f"text {n}" for n in range(count)]} for count in (40, 2)
    )
    told = []
    async with caller(tmp_path) as (backend, client):
        for asked in (few, many):
            backend.engine.failure = errors.DeadlineExceeded("Late.", retry_after_s=30)
            reply = await client.post("/v1/embeddings", json=asked)
            told.append((reply.json()["error"]["message"], reply.headers.get("retry-after")))

    assert told == [
        ("Late.", "30"),
        ("Late. The 40 inputs may be too many for one request: send fewer at a time.", "30"),
    ]


async def test_the_first_job_of_a_request_tells_the_tokens_of_all(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        asked = {"model": EMBEDDINGS, "input": ["the cat", "the cat sat"]}
        reply = await client.post("/v1/embeddings", json=asked)
        one = await client.post("/v1/responses", json=ASK)

    jobs = backend.engine.jobs
    assert [job.request_tokens for job in jobs] == [
        reply.json()["usage"]["total_tokens"], 0, one.json()["usage"]["input_tokens"]
    ]  # fmt: skip


async def test_a_project_s_rules_go_with_every_job_and_change_while_we_run(tmp_path: Path) -> None:
    async with caller(tmp_path, key_cache_ttl_s=0.0) as (backend, client):
        [project] = projects.list_projects(backend.database)
        await client.post("/v1/responses", json=ASK)
        projects.change_rules(
            backend.database,
            project.project_id,
            {"placement": "cloud", "region": "EU-DE"},
            who="test",
            now=1.0,
        )
        await client.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": ["a", "b"]})

    strict = Rules(placement="cloud", region="EU-DE")
    assert [job.rules for job in backend.engine.jobs] == [DEFAULT_RULES, strict, strict]


async def test_a_fault_of_ours_is_logged_and_told_without_its_details(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.failure = RuntimeError("the cat sat")
        with capture_logs() as logged:
            reply = await client.post("/v1/responses", json=ASK)

    error = error_of(reply)
    assert (reply.status_code, error["code"]) == (500, "internal_error")
    assert reply.headers["x-request-id"] in error["message"]
    assert "cat" not in error["message"]
    assert [event["request_id"] for event in logged] == [reply.headers["x-request-id"]]
