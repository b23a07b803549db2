"""The API while its database cannot be written: locked by another process, or its disk full."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
import sqlalchemy
from structlog.testing import capture_logs

from orchestrator.storage.database import Database
from tests.orchestrator.fakes import Backend, caller, error_of

CHAT: Final = "/v1/chat/completions"


@contextlib.contextmanager
def every_connection(database: Database, pragma: str) -> Iterator[None]:
    """Give all connections a setting."""

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA {pragma}")

    # The pool's would keep what they have.
    database.engine.dispose()
    sqlalchemy.event.listen(database.engine, "connect", connected)
    yield
    sqlalchemy.event.remove(database.engine, "connect", connected)
    database.engine.dispose()


@contextlib.contextmanager
def locked(backend: Backend) -> Iterator[None]:
    """Hold the database as another process does that never lets go; nobody waits long for it."""
    assert backend.writer.flush(10)
    with (
        every_connection(backend.database, "busy_timeout=10"),
        contextlib.closing(sqlite3.connect(backend.database.path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def full(backend: Backend) -> Iterator[None]:
    """Let the database have no page more than it has in use."""
    assert backend.writer.flush(10)
    with contextlib.closing(sqlite3.connect(backend.database.path, isolation_level=None)) as other:
        # Migrations leave pages that are free.
        other.execute("VACUUM")
    with every_connection(backend.database, "max_page_count=1"):
        yield


def files_of(backend: Backend) -> list[str]:
    return [path.name for path in (backend.settings.data_dir / "files/files").iterdir()]


async def upload(client: httpx.AsyncClient, content: bytes = b"x\n") -> httpx.Response:
    return await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}
    )


def check_told(reply: httpx.Response, logged: list[Any], reason: str) -> None:
    """Check an answer, and that the log has one line of why."""
    error = error_of(reply)
    assert reply.status_code == 503
    assert (error["type"], error["code"]) == ("service_unavailable", "service_unavailable")
    assert error["message"] == "The server cannot write its database just now; try again."
    assert reply.headers["retry-after"] == "5"
    lines = [line for line in logged if line.get("request_id") == reply.headers["x-request-id"]]
    [line] = lines
    assert line["error"] == f"OperationalError: {reason}"
    assert "exc_info" not in line


@pytest.mark.parametrize("wanted", ["upload", "create", "cancel", "delete"])
async def test_a_locked_database_is_told_as_503_and_logged_in_one_line(
    tmp_path: Path, wanted: str
) -> None:
    async with caller(tmp_path) as (backend, client):
        file_id = (await upload(client)).json()["id"]
        line = b'{"custom_id":"1","method":"POST","url":"%s","body":{}}\n' % CHAT.encode()
        lines_id = (await upload(client, line)).json()["id"]
        batch = {"input_file_id": lines_id, "endpoint": CHAT}
        batch_id = "batch_x"
        with backend.database.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO batches (id, project_id, key_id, endpoint, input_file_id,"
                " completion_window, status, created_at, expires_at, metadata, total, completed,"
                " failed) SELECT ?, project_id, id, ?, ?, '24h', 'in_progress', 1.0, 4e9, '{}', 1,"
                " 0, 0 FROM api_keys",
                (batch_id, CHAT, lines_id),
            )

        with locked(backend), capture_logs() as logged:
            if wanted == "upload":
                reply = await upload(client)
            elif wanted == "create":
                reply = await client.post("/v1/batches", json=batch)
            elif wanted == "cancel":
                reply = await client.post(f"/v1/batches/{batch_id}/cancel")
            else:
                reply = await client.delete(f"/v1/files/{file_id}")

        check_told(reply, logged, "database is locked")
        # As if it had not been asked.
        assert sorted(files_of(backend)) == sorted([file_id, lines_id])
        assert (await client.get(f"/v1/files/{file_id}/content")).content == b"x\n"


async def test_a_full_disk_is_told_as_503_and_leaves_no_file(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        # A name long enough to need a page of its own.
        name = "n" * 255
        with full(backend), capture_logs() as logged:
            replies = [
                await client.post(
                    "/v1/files", data={"purpose": "batch"}, files={"file": (name, b"x\n")}
                )
                for _ in range(20)
            ]
        refused = [reply for reply in replies if reply.status_code != 200]

        assert refused
        check_told(refused[0], logged, "database or disk is full")
        stored = sorted(reply.json()["id"] for reply in replies if reply.status_code == 200)
        assert sorted(files_of(backend)) == stored


async def test_a_file_whose_bytes_cannot_be_deleted_stays_and_can_be_deleted_later(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (backend, client):
        file_id = (await upload(client)).json()["id"]
        folder = backend.settings.data_dir / "files/files"
        folder.rename(aside := folder.with_name("aside"))
        folder.write_bytes(b"in the way")

        refused = await client.delete(f"/v1/files/{file_id}")
        folder.unlink()
        aside.rename(folder)

        assert (refused.status_code, error_of(refused)["code"]) == (500, "storage_error")
        assert files_of(backend) == [file_id]
        assert (await client.get(f"/v1/files/{file_id}/content")).content == b"x\n"
        assert (await client.delete(f"/v1/files/{file_id}")).json()["deleted"] is True
        assert files_of(backend) == []
