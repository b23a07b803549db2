"""Multipart forms as tests write them, and what an upload leaves in the store."""

from __future__ import annotations

import re
from typing import Any, Final

import httpx2 as httpx

from tests.orchestrator.fakes import Backend

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
