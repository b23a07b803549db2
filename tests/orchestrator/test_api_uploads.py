"""Uploads: which are refused, which are told twice, and what becomes of those that stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest

from tests.orchestrator.fakes import Backend, caller, error_of
from tests.orchestrator.forms import LINES, PURPOSE, field, file, form, stored, upload

# ── what is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("piece_bytes", [1, 7, 1_000_000])
@pytest.mark.parametrize(
    "preamble",
    [b"\r\n", b"This is a multi-part message.\r\n", b"--cu\r\n x--cut\r\r\n", b"\n\r\n", b"\n"],
)
async def test_what_stands_before_the_first_boundary_is_ignored(
    tmp_path: Path, preamble: bytes, piece_bytes: int
) -> None:
    request = form(PURPOSE, file())
    whole = preamble + request["content"]

    async def in_pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(whole), piece_bytes):
            yield whole[at : at + piece_bytes]

    async with caller(tmp_path) as (_, client):
        made = await client.post("/v1/files", content=in_pieces(), headers=request["headers"])
        content = await client.get(f"/v1/files/{made.json()['id']}/content")

    assert content.content == LINES


# In the middle of a line there is no boundary: what it would have begun is ignored, too.
@pytest.mark.parametrize(
    ("before", "code"),
    [(b"x" * 100_000 + b"\r\n", "invalid_multipart"), (b"x", "invalid_purpose")],
)
async def test_a_form_whose_first_boundary_does_not_come_is_refused(
    tmp_path: Path, before: bytes, code: str
) -> None:
    request = form(PURPOSE, file())
    async with caller(tmp_path) as (_, client):
        reply = await client.post(
            "/v1/files", content=before + request["content"], headers=request["headers"]
        )

    assert (reply.status_code, error_of(reply)["code"]) == (400, code)


async def test_an_upload_of_another_type_or_of_none_is_told_which(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        json_ = await client.post("/v1/files", **text_body("application/json"))
        none = await client.post("/v1/files", content=b"{}")

    wanted = "Files are uploaded with content-type multipart/form-data, "
    assert error_of(json_)["message"] == f"{wanted}not 'application/json'."
    assert error_of(none)["message"] == f"{wanted}and this upload has none."


def text_body(content_type: str) -> dict[str, Any]:
    return {"content": b"{}", "headers": {"content-type": content_type}}


BEFORE: Final = field("expires_after[anchor]", b"created_at")
BAD: Final[dict[str, tuple[dict[str, Any], str, str | None]]] = {
    "json": (text_body("application/json"), "invalid_content_type", None),
    "no type": ({"content": b"{}"}, "invalid_content_type", None),
    "no boundary": (text_body("multipart/form-data"), "invalid_multipart", None),
    "long boundary": (
        text_body(f"multipart/form-data; boundary={'x' * 300}"),
        "invalid_multipart",
        None,
    ),
    "not a form": (text_body("multipart/form-data; boundary=cut"), "invalid_multipart", None),
    "no end": (
        {**form(PURPOSE, file()), "content": form(PURPOSE, file())["content"][:-6]},
        "invalid_multipart",
        None,
    ),
    "nameless": (form(("Content-Type: text/plain", b"x")), "invalid_multipart", None),
    "long header": (form((f"X: {'x' * 5000}", b"x")), "invalid_multipart", None),
    "many headers": (form(("X: x\r\n" * 9 + "Y: y", b"x")), "invalid_multipart", None),
    "many parts": (form(*[field("x", b"")] * 16, PURPOSE), "invalid_multipart", None),
    "no parts": (form(), "invalid_purpose", "purpose"),
    "two files": (form(PURPOSE, file(), file()), "invalid_multipart", "file"),
    "long field": (form(field("purpose", b"x" * 1025)), "invalid_multipart", "purpose"),
    "no purpose": (form(file()), "invalid_purpose", "purpose"),
    "bad purpose": (form(field("purpose", b"fine-tune"), file()), "invalid_purpose", "purpose"),
    "late purpose": (form(file(), field("purpose", b"Batch")), "invalid_purpose", "purpose"),
    "no file": (form(PURPOSE), "missing_file", "file"),
    "empty": (form(PURPOSE, file(b"")), "empty_file", "file"),
    "anchor": (
        form(PURPOSE, field("expires_after[anchor]", b"now"), file()),
        "invalid_value",
        "expires_after[anchor]",
    ),
    "anchor alone": (
        form(PURPOSE, BEFORE, file()),
        "missing_required_parameter",
        "expires_after[seconds]",
    ),
    "seconds alone": (
        form(PURPOSE, file(), field("expires_after[seconds]", b"3600")),
        "missing_required_parameter",
        "expires_after[anchor]",
    ),
    **{
        f"{seconds!r} seconds": (
            form(PURPOSE, file(), BEFORE, field("expires_after[seconds]", seconds)),
            "invalid_value",
            "expires_after[seconds]",
        )
        for seconds in (b"3599", b"2592001", b"-1", b"", b"1e5", b"9" * 900, b"\xff")
    },
}


async def test_a_bad_upload_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        for case, (request, code, param) in BAD.items():
            reply = await client.post("/v1/files", **request)

            assert reply.status_code == 400, case
            assert (error_of(reply)["code"], error_of(reply)["param"]) == (code, param), case
            assert stored(backend) == [], case
        assert (await client.get("/v1/files")).json()["data"] == []


async def test_sixteen_parts_in_any_order_and_unknown_ones_are_taken(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        reply = await upload(client, file(), *[field("other", b"x" * 2_000)] * 14, PURPOSE)

        assert reply.status_code == 200
        content = await client.get(f"/v1/files/{reply.json()['id']}/content")
        assert content.content == LINES


async def test_a_file_expires_when_its_customer_wants_but_not_later_than_others(
    tmp_path: Path,
) -> None:
    async def lasts_s(client: httpx.AsyncClient, seconds: bytes) -> int:
        parts = (PURPOSE, file(), BEFORE, field("expires_after[seconds]", seconds))
        made = (await upload(client, *parts)).json()
        lasts: int = made["expires_at"] - made["created_at"]
        return lasts

    async with caller(tmp_path, file_retention_s=86_400.0) as (_, client):
        assert await lasts_s(client, b"3600") == 3_600
        assert await lasts_s(client, b"2592000") == 86_400


async def test_a_file_may_have_as_many_bytes_as_the_setting_says_and_no_more(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path, file_max_bytes=1_000) as (backend, client):
        most = await upload(client, PURPOSE, file(b"x" * 1_000))
        over = await upload(client, PURPOSE, file(b"x" * 1_001))
        left = stored(backend)

    assert most.status_code == 200
    assert over.status_code == 413
    assert error_of(over)["code"] == "file_too_large"
    assert "1,000 bytes" in error_of(over)["message"]
    assert left == [most.json()["id"]]


async def test_a_declared_length_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    async with caller(tmp_path, file_max_bytes=1_000) as (backend, client):
        reader, writer = await opened(client)
        writer.write(head_of(client, f"content-length: {1_000 + (64 << 10) + 1}"))
        # Not a byte of the body is sent.
        status = await reader.readline()
        writer.close()
        await writer.wait_closed()

        assert status.startswith(b"HTTP/1.1 413")
        assert stored(backend) == []


async def test_an_undeclared_body_is_read_to_the_limit_only(tmp_path: Path) -> None:
    async def undeclared() -> AsyncIterator[bytes]:
        yield form(PURPOSE, field("other", b""))["content"].removesuffix(b"\r\n--cut--\r\n")
        for _ in range(16):
            yield b"x" * 65_536

    async with caller(tmp_path, file_max_bytes=1_000) as (_, client):
        reply = await client.post("/v1/files", content=undeclared(), headers=form()["headers"])

    assert reply.status_code == 413


async def test_an_upload_sent_twice_with_one_idempotency_key_is_one_file(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        key = {"idempotency-key": "once"}

        async def again(content: bytes, boundary: str) -> httpx.Response:
            request = form(PURPOSE, file(content), boundary=boundary)
            return await client.post(
                "/v1/files", content=request["content"], headers=request["headers"] | key
            )

        first = await again(LINES, "one")
        second = await again(LINES, "two")
        other = await again(LINES * 2, "one")
        listed = (await client.get("/v1/files")).json()["data"]

        assert second.json() == first.json()
        assert second.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        assert other.status_code == 409
        assert listed == [first.json()]
        assert stored(backend) == [first.json()["id"]]


async def test_an_upload_whose_file_was_deleted_runs_anew_with_its_key(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        request = form(PURPOSE, file())
        headers = request["headers"] | {"idempotency-key": "once"}

        async def send() -> httpx.Response:
            return await client.post("/v1/files", content=request["content"], headers=headers)

        first = (await send()).json()["id"]
        await client.delete(f"/v1/files/{first}")
        after = await asyncio.gather(*(send() for _ in range(4)))
        [second] = {reply.json()["id"] for reply in after}

        assert second != first
        assert sum("idempotent-replayed" not in reply.headers for reply in after) == 1
        assert (await client.get(f"/v1/files/{second}")).status_code == 200
        assert stored(backend) == [second]


async def test_uploads_at_once_with_one_idempotency_key_are_one_file(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        request = form(PURPOSE, file(b"x" * 3_000_000))
        headers = request["headers"] | {"idempotency-key": "once"}
        answers = await asyncio.gather(
            *(
                client.post("/v1/files", content=request["content"], headers=headers)
                for _ in range(4)
            )
        )

        assert [answer.status_code for answer in answers] == [200] * 4
        assert stored(backend) == list({answer.json()["id"] for answer in answers})


# ── clients that stop ────────────────────────────────────────────────────────────────────────────


async def opened(client: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(client.base_url.host, client.base_url.port)


def head_of(client: httpx.AsyncClient, *headers: str) -> bytes:
    lines = (
        "POST /v1/files HTTP/1.1",
        "host: localhost",
        f"x-api-key: {client.headers['x-api-key']}",
        "content-type: multipart/form-data; boundary=cut",
        *headers,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def half_sent(client: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the greater part of an upload."""
    reader, writer = await opened(client)
    whole: bytes = form(PURPOSE, file(b"x" * 5_000_000))["content"]
    writer.write(head_of(client, f"content-length: {len(whole)}") + whole[:4_000_000])
    await writer.drain()
    return reader, writer


async def until_logged(backend: Backend) -> list[tuple[object, object]]:
    """Return status and code of the requests, once there is one."""
    while not (rows := await asyncio.to_thread(backend.rows)):
        pass
    return [(row["status"], row["error_code"]) for row in rows]


async def test_an_upload_whose_client_leaves_is_no_file(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        _, writer = await half_sent(client)
        writer.transport.abort()

        assert await until_logged(backend) == [(499, "client_disconnected")]
        assert stored(backend) == []
        assert (await client.get("/v1/files")).json()["data"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upload_idle_s": 0.2}, "nothing came for 0.2 s"),
        ({"upload_timeout_s": 0.3}, "not complete after 0.3 s"),
    ],
)
async def test_an_upload_that_stops_is_refused_and_is_no_file(
    tmp_path: Path, settings: dict[str, float], message: str
) -> None:
    async with caller(tmp_path, **settings) as (backend, client):
        reader, writer = await half_sent(client)
        status = await reader.readline()
        told = await reader.readuntil(b"}}")
        writer.close()
        await writer.wait_closed()

        assert status.startswith(b"HTTP/1.1 408")
        assert message in told.decode()
        assert stored(backend) == []


async def test_a_store_that_fails_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        folder = backend.settings.data_dir / "files/files"
        folder.rmdir()
        folder.write_bytes(b"in the way")

        reply = await upload(client, PURPOSE, file(b"x" * 5_000_000))

        assert reply.status_code == 500
        assert error_of(reply)["code"] == "storage_error"
        folder.unlink()
        assert (await client.get("/v1/files")).json()["data"] == []
