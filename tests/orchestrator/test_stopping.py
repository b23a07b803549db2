"""The whole process when it stops: what becomes of requests that are still being sent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from orchestrator.app import Application
from orchestrator.settings import Settings
from orchestrator.storage import keys
from orchestrator.storage.database import Database
from orchestrator.storage.files import File, Files, object_name
from orchestrator.transport import listen
from tests.browser_node.built import BUILD
from tests.orchestrator.databases import database_in

MULTIPART: Final = "multipart/form-data; boundary=cut"
FORM: Final = (
    b'--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--cut\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    + b"x" * 100_000
    + b"\r\n--cut--\r\n"
)
JSON_BODY: Final = json.dumps({"model": "zlm-v1-summary-cloud", "input": "the cat sat"}).encode()


@dataclass
class Running:
    """A server with a key of it. ``over`` ends when it has stopped."""

    application: Application
    database: Database
    key: keys.NewKey
    port: int
    over: asyncio.Task[None]

    @property
    def files(self) -> Path:
        return self.application.settings.data_dir / "files/files"

    async def begin(
        self, path: str, content_type: str, body: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request's head, and half of its body once the server reads it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {self.key.api_key}\r\n"
            f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
            "expect: 100-continue\r\n\r\n".encode()
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body[: len(body) // 2])
        await writer.drain()
        return reader, writer

    async def stop(self) -> None:
        """Tell it to stop; returns once it drains."""
        self.application.stop()
        while self.application.ready():  # noqa: ASYNC110
            await asyncio.sleep(0)

    def rows(self) -> list[tuple[int, str | None]]:
        """Return status and code of all requests."""
        with self.database.connect() as connection:
            found = connection.exec_driver_sql("SELECT status, error_code FROM requests")
            return [(row[0], row[1]) for row in found]


@contextlib.asynccontextmanager
async def served(folder: Path, *, drain_s: float) -> AsyncIterator[Running]:
    data_dir = folder / "data"
    settings = Settings.from_env(
        {},
        data_dir=data_dir,
        build_dir=BUILD,
        cpu_worker=False,
        drain_s=drain_s,
    )
    database = database_in(data_dir)
    pepper = keys.load_pepper(database)
    key = keys.create_key(database, pepper, name="test", now=1.0)
    with listen.bind(dataclasses.replace(settings, port=0)) as listener:
        port = listener.getsockname()[1]
        application = Application(dataclasses.replace(settings, port=port), database, pepper)
        started = asyncio.Event()
        over = asyncio.create_task(application.run(listener, started=started.set))
        await started.wait()
        try:
            yield Running(application, database, key, port, over)
        finally:
            application.stop()
            await over
            database.close()


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """Return an answer to the end of its body, whatever comes after it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = parted(head)[1]["content-length"]
    return head + await reader.readexactly(int(length))


def parted(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """Return an answer's status line, headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return status, dict(line.decode().lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/v1/files", MULTIPART, FORM),
        ("/v1/responses", "application/json", JSON_BODY),
        ("/v1/batches", "application/json", JSON_BODY),
    ],
    ids=["upload", "inference", "batch"],
)
async def test_a_body_that_is_not_whole_when_the_server_stops_is_told_so_and_leaves_nothing(
    tmp_path: Path, path: str, content_type: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, drain_s=0.05) as server:
        reader, writer = await server.begin(path, content_type, body)
        with capture_logs() as logged:
            await server.stop()
            answer = await answer_of(reader)
            # Long enough for an end. Closed while the rest still comes, the connection would be
            # reset, and an answer that is not read yet lost.
            for _ in range(50):
                await asyncio.to_thread(server.over.done)
            assert not reader.at_eof()
            writer.close()
            await server.over

        status, headers, told = parted(answer)
        error = json.loads(told)["error"]
        assert status == b"HTTP/1.1 503 Service Unavailable"
        assert headers["content-type"] == "application/json"
        assert headers["connection"] == "close"
        assert headers["retry-after"] == "5"
        assert headers["x-request-id"].startswith("req_")
        assert (error["type"], error["code"]) == ("service_unavailable", "shutting_down")
        assert "send it again" in error["message"]
        assert list(server.files.iterdir()) == []
        assert server.rows() == [(503, "shutting_down")]
        assert [line for line in logged if line["log_level"] == "error"] == []
        assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_a_client_that_neither_reads_nor_leaves_does_not_keep_the_server_from_stopping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, drain_s=0.05) as server:
        reader, writer = await server.begin("/v1/files", MULTIPART, FORM)
        await server.stop()
        # Before uvicorn's patience is over, or it would say so.
        await server.over

        assert (await reader.read()).startswith(b"HTTP/1.1 503")
        assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
        writer.close()


async def test_an_upload_that_is_whole_before_the_drain_is_over_is_stored(tmp_path: Path) -> None:
    async with served(tmp_path, drain_s=30) as server:
        reader, writer = await server.begin("/v1/files", MULTIPART, FORM)
        await server.stop()
        writer.write(FORM[len(FORM) // 2 :])
        answer = await reader.read()
        writer.close()
        await server.over

        status, _, told = parted(answer)
        made = json.loads(told)
        assert status == b"HTTP/1.1 200 OK"
        assert (server.files / made["id"]).stat().st_size == made["bytes"] == 100_000
        assert Files(server.database).find(server.key.project_id, made["id"]) is not None


async def test_a_client_that_leaves_while_the_server_stops_is_still_one_that_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, drain_s=30) as server:
        _, writer = await server.begin("/v1/files", MULTIPART, FORM)
        await server.stop()
        writer.transport.abort()
        await server.over

        assert server.rows() == [(499, "client_disconnected")]
        assert list(server.files.iterdir()) == []
        assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_a_download_that_is_not_read_is_broken_off_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "CLOSE_S", 0.1)
    async with served(tmp_path, drain_s=0.05) as server:
        file = File(
            id=f"file-{'0' * 24}",
            project_id=server.key.project_id,
            filename="large.jsonl",
            purpose="batch",
            bytes=64 << 20,
            created_at=1.0,
            expires_at=4e9,
        )
        Files(server.database).insert(file)
        with (server.files.parent / object_name(file.id)).open("wb") as large:
            large.truncate(file.bytes)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"GET /v1/files/{file.id}/content HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"x-api-key: {server.key.api_key}\r\n\r\n".encode()
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await server.stop()
        await server.over

        assert server.rows() == [(503, "shutting_down")]
        assert [one for one in caplog.records if one.exc_info] == []
        writer.close()
