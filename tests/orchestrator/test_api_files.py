"""The five routes of files, over a real socket, database and folder."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import openai
import pytest

from orchestrator.api.multipart import clean_filename, content_disposition
from orchestrator.api.watch import LOOK_EVERY_S
from orchestrator.clock import Clock
from orchestrator.storage import keys
from orchestrator.storage.files import Files
from tests.orchestrator.fakes import Backend, caller, error_of

LINES: Final = b'{"custom_id":"1"}\n{"custom_id":"2"}\n'
ID: Final = re.compile(r"file-[0-9a-f]{24}")
MONTH_S: Final = 2_592_000


def form(*parts: tuple[str, bytes], boundary: str = "cut") -> dict[str, Any]:
    """Return a multipart request as it is written: (headers of a part, its content)."""
    body = b"".join(
        b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), headers.encode(), content)
        for headers, content in parts
    )
    return {
        "content": body + b"--%b--\r\n" % boundary.encode(),
        "headers": {"content-type": f"multipart/form-data; boundary={boundary}"},
    }


def field(name: str, content: bytes) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', content


def file(content: bytes = LINES, filename: str = "in.jsonl") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="file"; filename="{filename}"', content


PURPOSE: Final = field("purpose", b"batch")


async def upload(client: httpx.AsyncClient, *parts: tuple[str, bytes]) -> httpx.Response:
    return await client.post("/v1/files", **form(*(parts or (PURPOSE, file()))))


def stored(backend: Backend) -> list[str]:
    """Return what is in the object store, whole or not."""
    return sorted(path.name for path in (backend.settings.data_dir / "files/files").iterdir())


def key_of_another_project(backend: Backend) -> str:
    made = keys.create_key(backend.database, backend.pepper, name="theirs", now=1.0)
    with backend.database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO projects (id, name, created_at) VALUES ('proj_theirs', 'theirs', 1.0)"
        )
        connection.exec_driver_sql(
            "UPDATE api_keys SET project_id = 'proj_theirs' WHERE id = ?", (made.key_id,)
        )
    return made.api_key


# ── what is promised ─────────────────────────────────────────────────────────────────────────────


async def test_an_upload_is_answered_with_a_file_object(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        reply = await upload(client)

        made = reply.json()
        assert reply.status_code == 200
        assert ID.fullmatch(made["id"])
        assert abs(made["created_at"] - Clock().wall()) < 60
        assert made == {
            "id": made["id"],
            "object": "file",
            "bytes": len(LINES),
            "created_at": made["created_at"],
            "expires_at": made["created_at"] + MONTH_S,
            "filename": "in.jsonl",
            "purpose": "batch",
            "status": "processed",
        }
        assert stored(backend) == [made["id"]]
        assert (await client.get(f"/v1/files/{made['id']}")).json() == made
        legacy = made["id"].replace("file-", "file_")
        assert (await client.get(f"/v1/files/{legacy}")).json() == made


async def test_the_official_client_uploads_lists_retrieves_downloads_and_deletes(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (backend, client):
        official = openai.AsyncOpenAI(
            base_url=f"{client.base_url}/v1", api_key=backend.new_key().api_key, max_retries=0
        )
        async with official:
            made = await official.files.create(
                file=("in.jsonl", LINES),
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": 7_200},
            )
            second = await official.files.create(file=b"x\n", purpose="batch")
            found = await official.files.retrieve(made.id)
            walked = [one.id async for one in official.files.list(limit=1)]
            content = await official.files.content(made.id)
            gone = await official.files.delete(made.id)
            with pytest.raises(openai.NotFoundError) as missing:
                await official.files.retrieve(made.id)

    assert found == made
    assert made.expires_at == made.created_at + 7_200
    assert walked == [second.id, made.id]
    assert content.read() == LINES
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    assert missing.value.code == "file_not_found"


async def test_content_is_the_bytes_that_were_uploaded(tmp_path: Path) -> None:
    # A boundary that nearly comes up, at every place of the messages it is cut into.
    awkward = b"\r\n--cu\r\n--cut\n" * 300_000 + b"\r\n--cut-\r\r\n"
    async with caller(tmp_path) as (_, client):
        made = (await upload(client, PURPOSE, file(awkward))).json()
        reply = await client.get(f"/v1/files/{made['id']}/content")
        again = await client.get(
            f"/v1/files/{made['id']}/content", headers={"if-none-match": reply.headers["etag"]}
        )
        any_ = await client.get(f"/v1/files/{made['id']}/content", headers={"if-none-match": "*"})

    assert reply.content == awkward
    assert made["bytes"] == len(awkward)
    assert reply.headers["content-type"] == "application/jsonl"
    assert reply.headers["content-length"] == str(len(awkward))
    assert reply.headers["content-disposition"] == 'attachment; filename="in.jsonl"'
    assert reply.headers["cache-control"] == "private, no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert (any_.status_code, any_.content) == (304, b"")


async def test_a_deleted_file_is_404_everywhere_and_its_bytes_are_gone(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = (await upload(client)).json()
        path = f"/v1/files/{made['id']}"

        gone = await client.delete(path)

        assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
        assert stored(backend) == []
        for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            reply = await client.request(method, where)
            assert reply.status_code == 404
            assert error_of(reply)["code"] == "file_not_found"
            assert error_of(reply)["message"] == f"File {made['id']} not found"
        assert (await client.get("/v1/files")).json() == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }


async def test_a_file_is_as_old_as_its_place_in_the_list(tmp_path: Path) -> None:
    """Whoever follows the list must not be overtaken by what was begun before."""
    async with caller(tmp_path) as (backend, client):
        with backend.database.begin():
            uploading = asyncio.create_task(upload(client))
            # Until its bytes are stored, and some of the time that it waits for the database.
            while not stored(backend):
                await client.get("/v1/models")
            for _ in range(20):
                await client.get("/v1/models")
            free_at = time.time()
        made = (await uploading).json()
        with backend.database.connect() as connection:
            found = connection.exec_driver_sql("SELECT created_at, expires_at FROM files").one()

        assert found.created_at >= free_at
        assert made["created_at"] == int(found.created_at)
        assert made["expires_at"] == int(found.expires_at)
        assert found.expires_at - found.created_at == pytest.approx(30 * 86_400)


async def test_who_deletes_a_file_and_leaves_has_deleted_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marking, go = threading.Event(), threading.Event()
    mark = Files.delete

    def slow(files: Files, project_id: str, file_id: str, now: float) -> bool:
        marking.set()
        assert go.wait(10)
        return mark(files, project_id, file_id, now)

    monkeypatch.setattr(Files, "delete", slow)
    async with caller(tmp_path) as (backend, client):
        made = (await upload(client)).json()
        leaving = asyncio.create_task(client.delete(f"/v1/files/{made['id']}"))
        assert await asyncio.to_thread(marking.wait, 10)
        leaving.cancel()
        # The server looks after its clients every so often; the second time it listens.
        heard_at = asyncio.get_running_loop().time() + 4 * LOOK_EVERY_S
        while asyncio.get_running_loop().time() < heard_at:
            await client.get("/v1/models")
        go.set()
        async with asyncio.timeout(10):
            while stored(backend):
                await client.get("/v1/models")


async def test_a_file_whose_time_is_over_is_404_before_it_is_swept(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made, kept = [(await upload(client)).json() for _ in range(2)]
        with backend.database.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE files SET expires_at = 1.0 WHERE id = ?", (made["id"],)
            )

        path = f"/v1/files/{made['id']}"
        for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            reply = await client.request(method, where)
            assert error_of(reply)["code"] == "file_not_found", (method, where)
        listed = (await client.get("/v1/files")).json()["data"]

        assert listed == [kept]


async def test_another_project_cannot_tell_a_file_from_one_that_never_was(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = (await upload(client)).json()
        theirs = {"x-api-key": key_of_another_project(backend)}
        never = "file-" + "0" * 24

        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            told = [
                await client.request(method, f"/v1/files/{name}{rest}", headers=theirs)
                for name in (made["id"], never)
            ]
            assert [reply.status_code for reply in told] == [404, 404]
            assert told[0].text.replace(made["id"], never) == told[1].text
        assert (await client.get("/v1/files", headers=theirs)).json()["data"] == []
        after = await client.get("/v1/files", params={"after": made["id"]}, headers=theirs)
        assert error_of(after)["code"] == "invalid_after"
        assert (await client.get(f"/v1/files/{made['id']}")).status_code == 200


async def test_a_file_whose_object_is_lost_is_404_to_a_download(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        made = (await upload(client)).json()
        (backend.settings.data_dir / "files/files" / made["id"]).unlink()

        reply = await client.get(f"/v1/files/{made['id']}/content")
        deleted = await client.delete(f"/v1/files/{made['id']}")

    assert error_of(reply)["code"] == "file_not_found"
    assert deleted.status_code == 200


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_visit_every_file_once(tmp_path: Path, order: str) -> None:
    async with caller(tmp_path) as (_, client):
        made = [(await upload(client)).json() for _ in range(5)]
        seen: list[dict[str, Any]] = []
        params = {"order": order, "limit": "2", "purpose": "batch"}
        while True:
            page = (await client.get("/v1/files", params=params)).json()
            seen += page["data"]
            assert page["first_id"] == page["data"][0]["id"]
            assert page["last_id"] == page["data"][-1]["id"]
            if not page["has_more"]:
                break
            params["after"] = page["last_id"]
        whole = (await client.get("/v1/files")).json()
        outputs = (await client.get("/v1/files?purpose=batch_output")).json()

    assert seen == (made if order == "asc" else made[::-1])
    assert whole["data"] == made[::-1]
    assert outputs["data"] == []


BAD_QUERIES: Final = (
    *((f"limit={limit}", "invalid_limit", "limit") for limit in ("0", "-1", "", "x", "1.5")),
    ("limit=10001", "invalid_limit", "limit"),
    (f"limit={'9' * 5000}", "invalid_limit", "limit"),
    ("limit=%D9%A3", "invalid_limit", "limit"),
    ("purpose=fine-tune", "invalid_purpose", "purpose"),
    ("order=up", "invalid_order", "order"),
    ("after=file-none", "invalid_after", "after"),
)


async def test_a_list_that_cannot_be_is_refused(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        for query, code, param in BAD_QUERIES:
            reply = await client.get(f"/v1/files?{query}")

            assert reply.status_code == 400, query
            assert (error_of(reply)["code"], error_of(reply)["param"]) == (code, param), query
            assert error_of(reply)["type"] == "invalid_request_error"


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


async def test_a_path_without_a_file_s_id_is_told_so(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        for method, path in (
            ("GET", "/v1/files/"),
            ("GET", "/v1/files//content"),
            ("DELETE", "/v1/files/"),
        ):
            reply = await client.request(method, path)

            assert reply.status_code == 400, (method, path)
            assert error_of(reply)["message"].startswith(f"{path} names no file_id: it is /v1/fi")


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


# ── names ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_name_is_kept_as_sent_but_for_control_characters_and_length(
    tmp_path: Path,
) -> None:
    async def named(client: httpx.AsyncClient, sent: str) -> str:
        name: str = (await upload(client, PURPOSE, file(filename=sent))).json()["filename"]
        return name

    async with caller(tmp_path) as (_, client):
        assert await named(client, "größe 💡.jsonl") == "größe 💡.jsonl"
        assert await named(client, "a\x00b\x7fc\td.jsonl") == "abcd.jsonl"
        assert await named(client, "é" * 300) == "é" * 255
        assert re.fullmatch(r"file-[0-9a-f]{24}\.jsonl", await named(client, ""))
        unnamed = (await upload(client, PURPOSE, field("file", LINES))).json()
        assert unnamed["filename"] == f"{unnamed['id']}.jsonl"


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("in.jsonl", 'attachment; filename="in.jsonl"'),
        ("a b.jsonl", 'attachment; filename="a b.jsonl"'),
        (
            "größe.jsonl",
            "attachment; filename=\"gr__e.jsonl\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.jsonl",
        ),
        ('a"; x="', "attachment; filename=\"a_; x=_\"; filename*=UTF-8''a%22%3B%20x%3D%22"),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("a\\b", 'attachment; filename="a_b"'),
    ],
)
def test_a_download_is_named_without_breaking_out_of_its_header(filename: str, header: str) -> None:
    assert content_disposition(filename).decode() == header


def test_no_name_breaks_a_header_into_two() -> None:
    cleaned = clean_filename("a\r\nset-cookie: x=1\r\n\r\n\x85\u2028b")

    assert content_disposition(cleaned).isascii()
    assert not re.search(rb"[\x00-\x1f\x7f]", content_disposition(cleaned))


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def test_a_large_upload_and_its_download_pass_through_in_little_memory(tmp_path: Path) -> None:
    measured = subprocess.run(
        [sys.executable, "-m", "tests.orchestrator.test_api_files", str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    before_mb, uploaded_mb, downloaded_mb = json.loads(measured.stdout)

    assert uploaded_mb - before_mb < 16
    assert downloaded_mb - before_mb < 16


async def measure(folder: Path) -> None:
    """Print this process's peak memory in MB: warm, after 60 MB in, after 60 MB out."""
    import resource

    def peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    async def send(client: httpx.AsyncClient, size_mb: int) -> str:
        start, end = form(PURPOSE, file(b"|"))["content"].split(b"|")

        async def pieces() -> AsyncIterator[bytes]:
            yield start
            for _ in range(size_mb * 16):
                yield bytes(1 << 16)
            yield end

        reply = await client.post("/v1/files", content=pieces(), headers=form()["headers"])
        assert reply.json()["bytes"] == size_mb << 20
        return f"/v1/files/{reply.json()['id']}/content"

    async def receive(client: httpx.AsyncClient, path: str) -> int:
        async with client.stream("GET", path) as reply:
            return sum([len(piece) async for piece in reply.aiter_raw()])

    async with caller(folder) as (_, client):
        await receive(client, await send(client, 4))
        peaks = [peak_mb()]
        path = await send(client, 60)
        peaks.append(peak_mb())
        assert await receive(client, path) == 60 << 20
        peaks.append(peak_mb())
    sys.stdout.write(json.dumps(peaks))


if __name__ == "__main__":
    asyncio.run(measure(Path(sys.argv[1])))
