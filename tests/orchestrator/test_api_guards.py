"""Rate limits and Idempotency-Keys as clients meet them, over real sockets."""

from __future__ import annotations

import asyncio
import collections
import json
from pathlib import Path

import httpx2 as httpx

from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.recorder import Recorder
from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import NoCapacity
from orchestrator.storage.keys import Principal, revoke_key
from orchestrator.storage.request_log import RequestLog
from tests.orchestrator.fakes import SUMMARY, Backend, backend_in, caller, error_of

# Ten tokens.
ASK: dict[str, object] = {"model": SUMMARY, "input": "the cat sat. a dog ran home"}
NAMES = [
    f"x-ratelimit-{what}-{unit}"
    for what in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
]
ONCE = {"idempotency-key": "once"}


# ── rate limits ──────────────────────────────────────────────────────────────────────────────────


async def test_every_answer_to_a_known_key_says_what_is_left_and_others_say_nothing(
    tmp_path: Path,
) -> None:
    # So few that none comes back while we look.
    limits = {"key_requests_per_minute": 60, "key_tokens_per_minute": 60}
    async with caller(tmp_path, **limits) as (_, client):
        replies = [
            await client.post("/v1/responses", json=ASK),
            await client.post("/v1/responses", json=ASK | {"stream": True}),
            await client.post("/v1/responses", json=ASK | {"model": "none"}),
            await client.get("/v1/models"),
            await client.get("/v1/files"),
            await client.post("/v1/responses", content=b"x" * 9_000_000),
            await client.get("/v1/nothing"),
            await client.get("/v1/responses"),
        ]
        strangers = [
            await client.get("/v1/models", headers={"x-api-key": "zgpu-api-no"}),
            await client.get("/v1/nothing", headers={"x-api-key": "zgpu-api-no"}),
            await client.get("/healthz"),
        ]

    assert [reply.status_code for reply in replies] == [200, 200, 404, 200, 200, 413, 404, 405]
    assert [reply.status_code for reply in strangers] == [401, 404, 200]
    for reply in replies:
        assert [name in reply.headers for name in NAMES] == [True] * 6
        assert reply.headers["x-ratelimit-limit-requests"] == "60"
        assert reply.headers["x-ratelimit-limit-tokens"] == "60"
    assert replies[0].headers["x-ratelimit-remaining-requests"] == "59"
    assert replies[0].headers["x-ratelimit-reset-requests"] in {"1s", *_almost_a_second()}
    assert replies[0].headers["x-ratelimit-remaining-tokens"] == "50"
    for reply in strangers:
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


def _almost_a_second() -> list[str]:
    return [f"{ms}ms" for ms in range(1_000)]


async def test_one_request_too_many_is_429_and_another_key_goes_on(tmp_path: Path) -> None:
    async with caller(tmp_path, key_requests_per_minute=2) as (backend, client):
        fine = [(await client.post("/v1/responses", json=ASK)).status_code for _ in range(2)]
        refused = await client.post("/v1/responses", json=ASK)
        other = await client.get("/v1/models", headers={"x-api-key": backend.new_key().api_key})

        assert fine == [200, 200]
        assert (refused.status_code, other.status_code) == (429, 200)
        error = error_of(refused)
        assert (error["type"], error["code"]) == ("rate_limit_exceeded",) * 2
        assert "2 requests per minute" in error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(backend.engine.jobs) == 2
        assert sorted(str(row["status"]) for row in backend.rows()) == ["200", "200", "200", "429"]


async def test_too_many_tokens_are_429_before_anything_runs(tmp_path: Path) -> None:
    async with caller(tmp_path, project_tokens_per_minute=15) as (backend, client):
        fine = await client.post("/v1/responses", json=ASK)
        refused = await client.post("/v1/responses", json=ASK)
        streamed = await client.post("/v1/responses", json=ASK | {"stream": True})

        assert (fine.status_code, refused.status_code, streamed.status_code) == (200, 429, 429)
        assert "15 per minute of this project" in error_of(refused)["message"]
        assert fine.headers["x-ratelimit-limit-tokens"] == "15"
        assert len(backend.engine.jobs) == 1
        assert [row["input_tokens"] for row in backend.rows()][1:] == [0]


async def test_what_a_key_asks_beyond_its_limit_does_not_fill_the_log(tmp_path: Path) -> None:
    limits = {"key_requests_per_minute": 5, "key_cache_ttl_s": 0.0}
    async with caller(tmp_path, **limits) as (backend, client):
        revoked = backend.new_key()
        revoke_key(backend.database, revoked.key_id, now=1.0)
        old = {"x-api-key": revoked.api_key}
        strays = [(await client.get("/v1/nowhere")).status_code for _ in range(30)]
        others = [(await client.delete("/v1/models")).status_code for _ in range(10)]
        refused = [(await client.get("/v1/models", headers=old)).status_code for _ in range(30)]

        assert strays == [404] * 5 + [429] * 25
        assert others == [429] * 10
        assert refused == [401] * 30
        # A row a second and key of those that are not counted, whatever a second is here.
        told = collections.Counter(row["status"] for row in backend.rows())
        assert told[404] == 5
        assert 1 <= told[429] < 35
        assert 1 <= told[401] < 30
        metrics = backend.metrics.render().decode()
        assert 'endpoint="other",place="",status="429"} 25.0' in metrics


async def test_a_key_that_was_revoked_takes_nothing_from_its_project(tmp_path: Path) -> None:
    limits = {"project_requests_per_minute": 5, "key_cache_ttl_s": 0.0}
    async with caller(tmp_path, **limits) as (backend, client):
        leaked = backend.new_key()
        revoke_key(backend.database, leaked.key_id, now=1.0)
        old = {"x-api-key": leaked.api_key}
        for path in ["/v1/models", "/v1/nowhere"] * 10:
            assert (await client.get(path, headers=old)).status_code in {401, 404}
        reply = await client.get("/v1/models")

        assert reply.status_code == 200
        assert reply.headers["x-ratelimit-remaining-requests"] == "4"


def test_refusals_that_no_limit_bounds_are_one_row_a_second_and_key(tmp_path: Path) -> None:
    now_s = 100.0
    with backend_in(tmp_path) as backend:
        recorder = Recorder(RequestLog(backend.writer), backend.metrics, monotonic=lambda: now_s)
        for number, (key_id, status, now_s) in enumerate(
            [("a", 429, 100.0), ("a", 401, 100.9), ("b", 403, 100.9), ("a", 404, 100.9),
             ("a", 429, 101.0), ("b", 429, 101.8), ("a", 200, 101.9), ("b", 401, 101.9)]
        ):  # fmt: skip
            exchange = Exchange(
                gate=Gate(backend.settings, backend.keyring),
                number=str(number),
                endpoint="",
                started_s=now_s,
                ts=number,
            )
            exchange.principal = Principal(ProjectId("p"), KeyId(key_id))
            recorder.record(exchange, status, None)
        kept = [str(row["id"]) for row in backend.rows()]

    assert kept == ["req_0", "req_2", "req_3", "req_4", "req_6", "req_7"]


async def test_lines_of_a_batch_are_not_counted(tmp_path: Path) -> None:
    line = {"method": "POST", "url": "/v1/chat/completions"}
    body = {"model": SUMMARY, "messages": [{"role": "user", "content": "the cat sat"}]}
    lines = [json.dumps(line | {"custom_id": str(at), "body": body}) for at in range(30)]
    limits = {"key_requests_per_minute": 5_000, "key_tokens_per_minute": 40}
    async with caller(tmp_path, **limits) as (_, client):
        file = await client.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", "\n".join(lines))}
        )
        made = await client.post(
            "/v1/batches",
            json={
                "input_file_id": file.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        async with asyncio.timeout(20):
            while made.json()["status"] != "completed":
                made = await client.get(f"/v1/batches/{made.json()['id']}")

        assert made.json()["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
        assert made.headers["x-ratelimit-remaining-tokens"] == "40"


# ── Idempotency-Key ──────────────────────────────────────────────────────────────────────────────


async def ask(client: httpx.AsyncClient, **changes: object) -> httpx.Response:
    return await client.post("/v1/responses", json=ASK | changes, headers=ONCE)


async def jobs(backend: Backend, count: int) -> None:
    """Wait until so many jobs have been started."""
    async with asyncio.timeout(10):
        while len(backend.engine.jobs) < count:
            backend.engine.started.clear()
            await backend.engine.started.wait()


async def test_a_request_sent_again_gets_the_same_answer_and_costs_nothing(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        first = await ask(client)
        second = await ask(client)
        other = await ask(client, user="someone else")
        elsewhere = await client.post(
            "/v1/chat/completions",
            json={"model": SUMMARY, "messages": [{"role": "user", "content": "a cat"}]},
            headers=ONCE,
        )

        assert (first.status_code, second.status_code) == (200, 200)
        assert second.content == first.content
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"
        assert second.headers["x-inference-type"] == first.headers["x-inference-type"] == "edge"
        assert second.headers["content-type"] == "application/json"
        assert second.headers["x-request-id"] != first.headers["x-request-id"]
        left = first.headers["x-ratelimit-remaining-tokens"]
        assert second.headers["x-ratelimit-remaining-tokens"] == left
        assert (other.status_code, error_of(other)["code"]) == (409, "idempotency_key_reused")
        assert elsewhere.status_code == 200
        assert len(backend.engine.jobs) == 2
        rows = backend.rows()
        assert [row["status"] for row in rows] == [200, 200, 409, 200]
        assert [bool(row["input_tokens"]) for row in rows] == [True, False, False, True]


async def test_requests_at_once_share_one_job_and_one_charge(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.waits = True
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        await jobs(backend, 1)
        other = await ask(client, user="someone else")
        backend.engine.released.set()
        replies = await asyncio.gather(*asking)

        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.content for reply in replies}) == 1
        assert sum("idempotent-replayed" in reply.headers for reply in replies) == 3
        assert other.status_code == 409
        assert len(backend.engine.jobs) == 1
        assert sum(bool(row["input_tokens"]) for row in backend.rows()) == 1


async def test_when_the_first_client_leaves_the_next_is_answered_all_the_same(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.waits = True
        first = asyncio.create_task(ask(client))
        await jobs(backend, 1)
        second = asyncio.create_task(ask(client))
        first.cancel()
        await backend.engine.cancelled.wait()
        await jobs(backend, 2)
        backend.engine.released.set()
        reply = await second

        assert reply.status_code == 200
        assert "idempotent-replayed" not in reply.headers
        billed = [row["status"] for row in backend.rows() if row["output_tokens"]]
        assert billed == [200]


async def test_a_refusal_that_would_be_repeated_is_kept_and_a_failure_of_ours_is_not(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (backend, client):
        refused = await ask(client, input="")
        again = await ask(client, input="")
        backend.engine.failure = NoCapacity("None.", retry_after_s=1)
        failed = await client.post("/v1/responses", json=ASK, headers={"idempotency-key": "two"})
        backend.engine.failure = None
        mended = await client.post("/v1/responses", json=ASK, headers={"idempotency-key": "two"})

        assert (refused.status_code, again.status_code) == (400, 400)
        assert error_of(again) == error_of(refused)
        assert again.headers["idempotent-replayed"] == "true"
        assert (failed.status_code, mended.status_code) == (503, 200)
        assert "idempotent-replayed" not in mended.headers
        assert backend.rows()[1]["error_code"] == "invalid_value"


async def test_a_stream_sent_again_comes_whole_and_the_same(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        first = await ask(client, stream=True)
        second = await ask(client, stream=True)

        assert "response.completed" in first.text
        assert second.content == first.content
        assert second.headers["content-type"] == first.headers["content-type"]
        assert second.headers["idempotent-replayed"] == "true"
        assert len(backend.engine.jobs) == 1
        assert [bool(row["output_tokens"]) for row in backend.rows()] == [True, False]


async def test_a_stream_that_broke_off_is_made_anew(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        broken = await ask(client, stream=True, input="the cat break sat")
        again = await ask(client, stream=True, input="the cat break sat")

        assert "response.completed" not in broken.text
        assert "idempotent-replayed" not in again.headers
        assert len(backend.engine.jobs) == 2


async def test_a_client_that_leaves_its_stream_holds_nobody_up(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.paced.clear()
        async with client.stream(
            "POST", "/v1/responses", json=ASK | {"stream": True}, headers=ONCE
        ) as leaving:
            await anext(leaving.aiter_bytes())
            waiting = asyncio.create_task(ask(client, stream=True))
        backend.engine.started.clear()
        await backend.engine.cancelled.wait()
        backend.engine.paced.set()
        reply = await waiting

        assert "response.completed" in reply.text
        assert len(backend.engine.jobs) == 2


async def test_a_stream_that_was_left_and_is_sent_again_costs_what_one_would(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.paced.clear()
        async with client.stream(
            "POST", "/v1/responses", json=ASK | {"stream": True}, headers=ONCE
        ) as leaving:
            await anext(leaving.aiter_bytes())
        await asyncio.wait_for(backend.engine.cancelled.wait(), 10)
        backend.engine.paced.set()
        again = await ask(client, stream=True)
        whole = await client.post("/v1/responses", json=ASK | {"stream": True})

        used = json.loads(again.text.split("data: ")[-1])["response"]["usage"]
        assert used == json.loads(whole.text.split("data: ")[-1])["response"]["usage"]
        while len(rows := await asyncio.to_thread(backend.rows)) < 3:
            pass
        left, rest, once = [(row["input_tokens"], row["output_tokens"]) for row in rows]
        assert once == (used["input_tokens"], used["output_tokens"])
        # What the first had not been billed for.
        assert (left, rest) == ((once[0], 1), (0, int(str(once[1])) - 1))


async def test_a_key_that_cannot_be_kept_is_400_and_readings_ignore_it(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        long = {"idempotency-key": "x" * 256}
        refused = await client.post("/v1/responses", json=ASK, headers=long)
        read = await client.get("/v1/models", headers=long)

        assert (refused.status_code, read.status_code) == (400, 200)
        assert error_of(refused)["code"] == "invalid_idempotency_key"
        assert backend.engine.jobs == []
