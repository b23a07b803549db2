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
from tests.orchestrator.forms import ID, LINES, MONTH_S, PURPOSE, field, file, form, stored, upload


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
