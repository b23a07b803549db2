"""The four routes of batches, over a real socket, database and folder, and their lines."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import openai
import pytest

from orchestrator.api.batches import parse_new, parse_query, shown
from orchestrator.clock import Clock
from orchestrator.domain.model import KeyId
from orchestrator.errors import BadRequest, NoCapacity
from orchestrator.storage import keys
from orchestrator.storage.batches import BatchRow
from tests.orchestrator.fakes import IAB, SUMMARY, caller, error_of

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS_ROUTE: Final = "/v1/embeddings"
ENDED: Final = {"completed", "failed", "expired", "cancelled"}


def line(custom_id: str, text: str = "the cat", *, model: str = IAB, **more: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    return json.dumps(fields).encode() + b"\n"


async def upload(client: httpx.AsyncClient, content: bytes) -> str:
    reply = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}
    )
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


async def create(
    client: httpx.AsyncClient, content: bytes, *, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    wanted = {"input_file_id": await upload(client, content), "endpoint": CHAT}
    reply = await client.post("/v1/batches", json=wanted, headers=headers)
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()
    return made


async def ended(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            batch: dict[str, Any] = (await client.get(f"/v1/batches/{batch_id}")).json()
            if batch["status"] in ENDED:
                return batch


async def lines_of(client: httpx.AsyncClient, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    reply = await client.get(f"/v1/files/{file_id}/content")
    return [json.loads(one) for one in reply.content.splitlines()]


async def test_long_texts_of_lines_are_counted_where_no_request_waits(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with caller(tmp_path) as (_, client):
        content = line("a", "the cat " * 500, model=SUMMARY)
        await ended(client, (await create(client, content))["id"])
        counting = {
            one.name for one in threading.enumerate() if one not in before and "tokens" in one.name
        }

    assert counting == {"tokens-background_0"}


async def test_lines_are_answered_as_requests_are(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        text = "the cat sat. a dog ran"
        asked = json.loads(line("x", text, model=SUMMARY))["body"]
        wanted = (await client.post(CHAT, json=asked)).json()

        made = await create(
            client,
            line("a", text, model=SUMMARY)
            + line("b", model="no-such-model")
            + line("c", "the " * 50)
            + line("d", n=2),
        )
        assert made["object"] == "batch"
        assert made["status"] == "in_progress"
        assert made["request_counts"] == {"total": 4, "completed": 0, "failed": 0}
        assert made["metadata"] == {}
        assert made["errors"] is made["output_file_id"] is made["error_file_id"] is None
        assert made["expires_at"] == made["created_at"] + 86_400
        assert made["completion_window"] == "24h"
        batch = await ended(client, made["id"])

        assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
        [good] = await lines_of(client, batch["output_file_id"])
        assert good["custom_id"] == "a"
        assert good["response"]["status_code"] == 200
        got = good["response"]["body"]
        assert {**got, "id": 0, "created": 0} == {**wanted, "id": 0, "created": 0}
        assert good["response"]["request_id"].removeprefix("req_") in got["id"]
        bad = {
            one["custom_id"]: (one["error"]["code"], one["error"]["message"].split()[0])
            for one in await lines_of(client, batch["error_file_id"])
        }
        assert bad == {
            "b": ("not_found_error", "[legacy:http_404]"),
            "c": ("context_length_exceeded", "[legacy:http_400]"),
            "d": ("invalid_request_error", "[legacy:http_400]"),
        }
        file = (await client.get(f"/v1/files/{batch['error_file_id']}")).json()
        assert (file["purpose"], file["is_error"]) == ("batch_output", True)
        assert file["filename"] == f"{made['id']}_errors.jsonl"


async def test_each_line_is_a_row_of_the_log_and_has_batch_priority(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = await create(client, line("a") + line("b", model="no-such-model"))
        await ended(client, made["id"])

        rows = [row for row in backend.rows() if row["endpoint"] == CHAT]
        assert sorted((row["status"], row["error_code"]) for row in rows) == [
            (200, None),
            (404, "model_not_found"),
        ]
        assert len({row["id"] for row in rows}) == 2
        [job] = backend.engine.jobs
        assert job.priority == "batch"
        assert job.deadline_s == 600.0


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        (b"{}", 400, "input_file_id is required", "input_file_id"),
        (b'{"input_file_id":""}', 400, "endpoint is required", "endpoint"),
        (
            b'{"input_file_id":"","endpoint":"/v1/chat/completions"}',
            400,
            "input_file_id is required",
            "input_file_id",
        ),
        (b'{"input_file_id":"f"}', 400, "endpoint is required", "endpoint"),
        (
            b'{"input_file_id":null,"endpoint":"/v1/chat/completions"}',
            400,
            "input_file_id is required",
            "input_file_id",
        ),
        (b'{"input_file_id":"f","endpoint":null}', 400, "endpoint is required", "endpoint"),
        (
            b'{"input_file_id":"f","endpoint":5}',
            400,
            "endpoint must be a string, not a whole number.",
            "endpoint",
        ),
        (
            b'{"input_file_id":"f","endpoint":"e","completion_window":"1h"}',
            400,
            'completion_window must be "24h"',
            "completion_window",
        ),
        (
            b'{"input_file_id":"f","endpoint":"e","completion_window":5}',
            400,
            'completion_window must be "24h"',
            "completion_window",
        ),
        (
            b'{"input_file_id":"file-0","endpoint":"/v1/chat/completions"}',
            404,
            "Input file not found: file-0",
            "input_file_id",
        ),
        (
            b'{"input_file_id":"f","endpoint":"e","metadata":[]}',
            400,
            "metadata must be an object, not an array.",
            "metadata",
        ),
    ],
)
async def test_what_is_wrong_with_a_request_is_told_in_the_documented_words(
    tmp_path: Path, body: bytes, status: int, message: str, param: str
) -> None:
    async with caller(tmp_path) as (_, client):
        reply = await client.post("/v1/batches", content=body)

        error = error_of(reply)
        assert (reply.status_code, error["message"], error["param"]) == (status, message, param)
        assert error["type"] == "invalid_request_error"
        assert (await client.get("/v1/batches")).json()["data"] == []


async def test_a_refused_file_is_told_with_its_line_and_its_batch(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        file_id = await upload(client, line("a") + line("a") + b"[]")

        reply = await client.post("/v1/batches", json={"input_file_id": file_id, "endpoint": CHAT})

        assert reply.status_code == 400
        error = reply.json()["error"]
        batch_id = error.pop("batch_id")
        assert error == {
            "message": 'Line 2 duplicates custom_id "a"',
            "type": "invalid_request_error",
            "code": "invalid_request_error",
            "param": None,
            "line": 2,
        }
        batch = (await client.get(f"/v1/batches/{batch_id}")).json()
        assert batch["status"] == "failed"
        assert batch["failed_at"] >= batch["created_at"]
        assert batch["errors"]["object"] == "list"
        assert [one["line"] for one in batch["errors"]["data"]] == [2, 3]
        assert set(batch["errors"]["data"][0]) == {"code", "message", "line", "param"}


async def test_metadata_comes_back_letter_for_letter(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        file_id = await upload(client, line("a"))
        metadata = '{"n": 1.50, "big": 123456789012345678901234567890, "deep": {"a": [null]}}'
        body = f'{{"input_file_id":"{file_id}","endpoint":"{CHAT}","metadata": {metadata}}}'

        made = await client.post("/v1/batches", content=body)

        assert made.status_code == 200
        assert f'"metadata":{metadata}' in made.text
        assert metadata in (await client.get(f"/v1/batches/{made.json()['id']}")).text


async def test_batches_are_listed_in_pages_with_a_clamped_limit(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        file_id = await upload(client, line("a"))
        ids = []
        for _ in range(3):
            wanted = {"input_file_id": file_id, "endpoint": CHAT}
            ids.append((await client.post("/v1/batches", json=wanted)).json()["id"])

        page = (await client.get("/v1/batches", params={"limit": "0"})).json()
        assert [one["id"] for one in page["data"]] == [ids[2]]
        assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[2], True)
        rest = (await client.get("/v1/batches", params={"limit": "999", "after": ids[2]})).json()
        assert [one["id"] for one in rest["data"]] == [ids[1], ids[0]]
        assert rest["has_more"] is False
        empty = (await client.get("/v1/batches", params={"after": ids[0]})).json()
        assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)
        refused = await client.get("/v1/batches", params={"limit": "ten"})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_limit")
        refused = await client.get("/v1/batches", params={"after": "batch_x"})
        assert (refused.status_code, error_of(refused)["param"]) == (400, "after")


@pytest.mark.parametrize(
    ("raw", "limit"),
    [
        (b"", 20),
        (b"limit=100", 100),
        (b"limit=101", 100),
        (b"limit=-5", 1),
        (b"limit=" + b"9" * 5000, 100),
    ],
)
def test_limits_are_clamped(raw: bytes, limit: int) -> None:
    assert parse_query(raw).limit == limit


@pytest.mark.parametrize("raw", [b"limit=", b"limit=1.5", b"limit=%C2%B2", b"limit=--1"])
def test_limits_that_are_no_numbers_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="limit must be a whole number"):
        parse_query(raw)


def test_metadata_that_is_null_is_an_empty_object() -> None:
    assert parse_new(b'{"input_file_id":"f","endpoint":"e","metadata":null}').metadata == "{}"


@pytest.mark.parametrize(
    ("expiry", "param"),
    [
        ({"anchor": "created_at", "seconds": 3599}, "output_expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 2_592_001}, "output_expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "3600"}, "output_expires_after.seconds"),
        ({"anchor": "last_active_at", "seconds": 3600}, "output_expires_after.anchor"),
    ],
)
async def test_an_expiry_of_results_that_is_out_of_bounds_is_refused(
    tmp_path: Path, expiry: dict[str, object], param: str
) -> None:
    async with caller(tmp_path) as (_, client):
        wanted = {
            "input_file_id": await upload(client, line("a")),
            "endpoint": CHAT,
            "output_expires_after": expiry,
        }

        refused = await client.post("/v1/batches", json=wanted)

        assert (refused.status_code, error_of(refused)["param"]) == (400, param)


async def test_lines_dropped_by_a_cancel_are_withdrawn_and_logged_as_such(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.waits = True
        made = await create(client, line("a"))
        await asyncio.wait_for(backend.engine.started.wait(), 10)

        assert (await client.post(f"/v1/batches/{made['id']}/cancel")).status_code == 200
        batch = await ended(client, made["id"])

        assert batch["status"] == "cancelled"
        [bad] = await lines_of(client, batch["error_file_id"])
        assert bad["error"]["code"] == "batch_cancelled"
        [row] = [row for row in backend.rows() if row["endpoint"] == CHAT]
        assert (row["status"], row["error_code"]) == (499, "line_dropped")


async def test_a_batch_is_cancelled_and_its_end_is_a_conflict(tmp_path: Path) -> None:
    async with caller(tmp_path, batch_under_way=1) as (backend, client):
        backend.engine.waits = True
        made = await create(client, line("a") + line("b"))
        await asyncio.wait_for(backend.engine.started.wait(), 10)

        cancelled = (await client.post(f"/v1/batches/{made['id']}/cancel")).json()
        assert cancelled["status"] == "cancelling"
        assert cancelled["cancelling_at"] is not None
        backend.engine.released.set()
        batch = await ended(client, made["id"])

        assert batch["status"] == "cancelled"
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        again = await client.post(f"/v1/batches/{made['id']}/cancel")
        assert again.status_code == 200
        assert again.json() == batch
        done = await create(client, line("a"))
        await ended(client, done["id"])
        refused = await client.post(f"/v1/batches/{done['id']}/cancel")
        assert refused.status_code == 409
        assert error_of(refused)["message"].startswith(f"Batch {done['id']} is completed")


async def test_other_projects_and_unknown_ids_are_alike(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = await create(client, line("a"))
        other = keys.create_key(backend.database, backend.pepper, name="other", now=1.0)
        with backend.database.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO projects (id, name, created_at) VALUES ('proj_2', 'two', 1.0)"
            )
            connection.exec_driver_sql(
                "UPDATE api_keys SET project_id = 'proj_2' WHERE id = ?", (other.key_id,)
            )
        theirs = {"x-api-key": other.api_key}

        for method, path in (("GET", ""), ("POST", "/cancel")):
            for batch_id, headers in ((made["id"], theirs), ("batch_x", {})):
                url = f"/v1/batches/{batch_id}{path}"
                reply = await client.request(method, url, headers=headers)
                assert reply.status_code == 404
                assert error_of(reply)["message"] == f"Batch not found: {batch_id}"
        assert (await client.get("/v1/batches", headers=theirs)).json()["data"] == []


async def test_a_path_without_a_batch_s_id_is_told_so(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        for method, path in (("GET", "/v1/batches/"), ("POST", "/v1/batches//cancel")):
            reply = await client.request(method, path)

            assert reply.status_code == 400, (method, path)
            assert error_of(reply)["message"].startswith(f"{path} names no batch_id: it is /v1/b")


async def test_lines_of_a_revoked_key_fail(tmp_path: Path) -> None:
    async with caller(tmp_path, batch_under_way=1, key_cache_ttl_s=0) as (backend, client):
        backend.engine.waits = True
        made = await create(client, line("a") + line("b"))
        await asyncio.wait_for(backend.engine.started.wait(), 10)
        [key_id] = [key.key_id for key in keys.list_keys(backend.database)]
        other = backend.new_key()
        keys.revoke_key(backend.database, KeyId(key_id), now=Clock().wall())
        backend.engine.released.set()
        client.headers["x-api-key"] = other.api_key

        batch = await ended(client, made["id"])

        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        [bad] = await lines_of(client, batch["error_file_id"])
        assert bad["error"]["code"] == "authentication_error"
        assert bad["error"]["message"].startswith("[legacy:api_key_unavailable] ")


async def test_a_fleet_that_is_away_for_a_while_fails_no_line(tmp_path: Path) -> None:
    async with caller(tmp_path, batch_retry_s=0.001) as (backend, client):
        backend.engine.failure = NoCapacity("Nobody is there.")
        made = await create(client, line("a") + line("b"))
        async with asyncio.timeout(10):
            # Well beyond four tries a line.
            while len(backend.engine.jobs) < 12:
                await client.get(f"/v1/batches/{made['id']}")
        backend.engine.failure = None

        batch = await ended(client, made["id"])

        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


# As after a restart: no answer is small enough for so little memory.
FORGETFUL: Final = {"idempotency_max_bytes": 1024}


async def test_one_key_makes_one_batch_whatever_memory_forgets(tmp_path: Path) -> None:
    async with caller(tmp_path, **FORGETFUL) as (_, client):
        file_id = await upload(client, line("a"))
        wanted = {"input_file_id": file_id, "endpoint": CHAT}
        headers = {"idempotency-key": "k"}
        made = await client.post("/v1/batches", json=wanted, headers=headers)
        batch = await ended(client, made.json()["id"])
        await client.delete(f"/v1/files/{file_id}")

        again = await client.post("/v1/batches", json=wanted, headers=headers)

        assert again.status_code == 200
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == batch
        assert len((await client.get("/v1/batches")).json()["data"]) == 1
        other = await client.post("/v1/batches", json={**wanted, "metadata": {}}, headers=headers)
        assert (other.status_code, error_of(other)["code"]) == (409, "idempotency_key_reused")


async def test_one_key_tells_of_one_refused_file_whatever_memory_forgets(tmp_path: Path) -> None:
    async with caller(tmp_path, **FORGETFUL) as (_, client):
        file_id = await upload(client, b"x")
        wanted = {"input_file_id": file_id, "endpoint": CHAT}
        headers = {"idempotency-key": "k"}
        first = await client.post("/v1/batches", json=wanted, headers=headers)

        again = await client.post("/v1/batches", json=wanted, headers=headers)

        assert (again.status_code, again.json()) == (400, first.json())
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert len((await client.get("/v1/batches")).json()["data"]) == 1


async def test_embeddings_are_batchable_where_the_setting_says_so(tmp_path: Path) -> None:
    body = {"model": "all-minilm-l6-v2", "input": ["the cat", "a dog"]}
    content = json.dumps(
        {"custom_id": "a", "method": "post", "url": EMBEDDINGS_ROUTE, "body": body}
    ).encode()
    async with caller(tmp_path) as (_, client):
        file_id = await upload(client, content)
        wanted = {"input_file_id": file_id, "endpoint": EMBEDDINGS_ROUTE}
        refused = await client.post("/v1/batches", json=wanted)
        assert refused.status_code == 400
        told = 'Line 1 url "/v1/embeddings" is not an allowed batch endpoint'
        assert refused.json()["error"]["message"] == told
    (tmp_path / "2").mkdir()
    async with caller(tmp_path / "2", batch_endpoints=(CHAT, EMBEDDINGS_ROUTE)) as (_, client):
        file_id = await upload(client, content)
        another = {"input_file_id": file_id, "endpoint": CHAT}
        refused = await client.post("/v1/batches", json=another)
        kept = (await client.get(f"/v1/batches/{refused.json()['error']['batch_id']}")).json()
        assert refused.json()["error"]["param"] == kept["errors"]["data"][0]["param"] == "endpoint"
        made = (await client.post("/v1/batches", json={**wanted, "input_file_id": file_id})).json()
        batch = await ended(client, made["id"])
        [good] = await lines_of(client, batch["output_file_id"])
        assert len(good["response"]["body"]["data"]) == 2


async def test_the_official_client_runs_a_batch_from_upload_to_download(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        official = openai.AsyncOpenAI(
            base_url=f"{client.base_url}/v1", api_key=backend.new_key().api_key, max_retries=0
        )
        async with official:
            uploaded = await official.files.create(
                file=("in.jsonl", line("a") + line("b", model="nope")), purpose="batch"
            )
            batch = await official.batches.create(
                input_file_id=uploaded.id,
                endpoint=CHAT,
                completion_window="24h",
                metadata={"job": "nightly"},
                output_expires_after={"anchor": "created_at", "seconds": 7200},
            )
            async with asyncio.timeout(20):
                while batch.status not in ENDED:
                    batch = await official.batches.retrieve(batch.id)
            assert batch.status == "completed"
            assert batch.request_counts is not None
            assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
            assert batch.metadata == {"job": "nightly"}
            content = await official.files.content(batch.output_file_id or "")
            assert json.loads(content.text)["custom_id"] == "a"
            for file_id in (batch.output_file_id, batch.error_file_id):
                file = await official.files.retrieve(file_id or "")
                assert file.expires_at == file.created_at + 7200
            assert [one.id async for one in official.batches.list(limit=1)] == [batch.id]
            with pytest.raises(openai.ConflictError):
                await official.batches.cancel(batch.id)


def test_a_batch_is_shown_in_whole_seconds() -> None:
    row = BatchRow(
        id="batch_1",
        project_id="p",
        key_id="k",
        endpoint=CHAT,
        input_file_id="file-1",
        completion_window="24h",
        status="cancelling",
        created_at=10.9,
        expires_at=20.9,
        cancelling_at=11.9,
    )
    batch = shown(replace(row, total=3, completed=1))

    assert (batch.created_at, batch.expires_at, batch.cancelling_at) == (10, 20, 11)
    assert batch.in_progress_at is None


def test_a_body_that_breaks_off_behind_a_wrong_field_is_no_json() -> None:
    with pytest.raises(BadRequest, match="not valid JSON") as caught:
        parse_new(b'{"endpoint": {"type": 1}, "completion_window": "\x01"}')

    assert caught.value.code == "invalid_json"
