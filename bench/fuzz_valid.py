"""Valid requests of every route of the public API: what the fuzzer begins with, and returns to."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

SUMMARY: Final = "zlm-v1-summary-cloud"
IAB: Final = "zlm-v1-iab-classify-edge"
EMBEDDINGS: Final = "all-minilm-l6-v2"
BOUNDARY: Final = b"----fuzz-7MA4YWxkTrZu0gW"
_TEXT: Final = "The ferry leaves at noon. Gusts reach the coast tonight. Boats stay in port."


class Request(msgspec.Struct, frozen=True):
    """One HTTP request before it is written; ``body`` None means that there is none."""

    method: bytes
    path: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None

    def encode(self, *, close: bool = True) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.method, self.path)]
        lines += [b"%b: %b" % header for header in self.headers]
        if self.body is not None:
            lines.append(b"content-length: %d" % len(self.body))
        if close:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body or b"")


class Known(msgspec.Struct, frozen=True):
    """What valid requests name: the server, a key, a file and a batch that are there."""

    host: str
    api_key: str
    project_id: str
    file_id: str
    batch_id: str

    def headers(self, *more: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        host, key = (b"host", self.host.encode()), (b"x-api-key", self.api_key.encode())
        return (host, key, *more)


def valid_bodies() -> list[tuple[bytes, dict[str, Any]]]:
    """Return (path, JSON body) of every POST route with one, in several forms."""
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": _TEXT}]
    parts = [{"role": "user", "content": [{"type": "input_text", "text": _TEXT}]}]
    spoken = [{"role": "user", "content": [{"type": "text", "text": _TEXT}]}]
    include = {"stream": True, "stream_options": {"include_usage": True}}
    batch = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return [
        (b"/v1/responses", {"model": SUMMARY, "input": _TEXT, "metadata": {"sentences": "1"}}),
        (b"/v1/responses", {"model": IAB, "input": parts, "instructions": "Be brief."}),
        (b"/v1/responses", {"model": SUMMARY, "input": _TEXT, "stream": True}),
        (b"/v1/responses", {"model": IAB, "input": said, "text": {"format": {"type": "text"}}}),
        (b"/v1/chat/completions", {"model": SUMMARY, "messages": said, "max_tokens": 50}),
        (b"/v1/chat/completions", {"model": IAB, "messages": spoken, "user": "u", "n": 1}),
        (b"/v1/chat/completions", {"model": SUMMARY, "messages": said, **include}),
        (b"/v1/embeddings", {"model": EMBEDDINGS, "input": _TEXT, "encoding_format": "base64"}),
        (b"/v1/embeddings", {"model": EMBEDDINGS, "input": [_TEXT, "a"], "dimensions": 384}),
        (b"/v1/embeddings", {"model": EMBEDDINGS, "input": [[101, 1996, 102], [101, 102]]}),
        (b"/v1/moderations", {"model": "omni-moderation-latest", "input": [_TEXT, "a"]}),
        (b"/v1/moderations", {"input": [{"type": "text", "text": _TEXT}]}),
        (b"/v1/batches", {"input_file_id": "FILE", **batch, "metadata": {"job": "fuzz"}}),
        (b"/summary", {"model": SUMMARY, "text": _TEXT}),
        (b"/usecase/classify/iab", {"text": _TEXT}),
        (b"/gliner", {"text": _TEXT, "labels": ["boat"], "threshold": 0.5}),
    ]


def valid_paths(known: Known) -> list[tuple[bytes, bytes]]:
    """Return (method, path) of every route without a body."""
    file, batch = known.file_id.encode(), known.batch_id.encode()
    return [
        (b"GET", b"/v1/models"),
        (b"GET", b"/v1/models/" + EMBEDDINGS.encode()),
        (b"GET", b"/v1/requests/req_0198c2d1e3f4a5b6c7d8e9f0/decisions"),
        (b"GET", b"/v1/files"),
        (b"GET", b"/v1/files/" + file),
        (b"GET", b"/v1/files/%b/content" % file),
        (b"DELETE", b"/v1/files/file-000000000000000000000000"),
        (b"GET", b"/v1/batches"),
        (b"GET", b"/v1/batches/" + batch),
        (b"POST", b"/v1/batches/%b/cancel" % batch),
        (b"GET", b"/openapi.json"),
        (b"OPTIONS", b"/v1/responses"),
        (b"GET", b"/healthz"),
    ]


def batch_line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": SUMMARY, "messages": [{"role": "user", "content": _TEXT}]}
    url = "/v1/chat/completions"
    return {"custom_id": f"q-{number}", "method": "POST", "url": url, "body": body, **changes}


def batch_input(lines: int = 3) -> bytes:
    return b"".join(json.dumps(batch_line(number)).encode() + b"\n" for number in range(lines))


def upload(known: Known, content: bytes, *more: tuple[bytes, bytes]) -> Request:
    """Return the upload of one file, as every client writes it."""
    form = form_of([part(b"purpose", b"batch"), part(b"file", content, b"input.jsonl")])
    kind = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)
    return Request(b"POST", b"/v1/files", known.headers(kind, *more), form)


def part(name: bytes, content: bytes, filename: bytes | None = None) -> bytes:
    head = b'content-disposition: form-data; name="%b"' % name
    if filename is not None:
        head += b'; filename="%b"\r\ncontent-type: application/jsonl' % filename
    return head + b"\r\n\r\n" + content


def form_of(parts: list[bytes], boundary: bytes = BOUNDARY) -> bytes:
    opened = b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts)
    return opened + b"--%b--\r\n" % boundary
