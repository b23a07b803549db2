"""A customer of batches as a benchmark needs one, and a visitor who asks meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from bench.fuzz_valid import BOUNDARY, EMBEDDINGS, SUMMARY
from e2e.server import Server, eventually

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_PIECE: Final = 1 << 20
_WORDS: Final = "The ferry leaves at noon and the harbour is being dredged until Thursday night. "


def write_input(path: Path, *, lines: int, bytes_per_line: int) -> None:
    """Write an input file of so many lines, each of about so many bytes."""
    with path.open("wb") as opened:
        for number in range(lines):
            line = _line(number, "")
            room = max(0, bytes_per_line - len(line) - 1)
            text = f"Line {number}. " + _WORDS * (room // len(_WORDS) + 1)
            opened.write(_line(number, text[: max(12, room)]) + b"\n")


def _line(number: int, text: str) -> bytes:
    body = {"model": SUMMARY, "messages": [{"role": "user", "content": text}]}
    url = "/v1/chat/completions"
    line = {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}
    return json.dumps(line).encode()


class Place(Protocol):
    """Where a server is, which may change when it is started again, and a key of it."""

    @property
    def url(self) -> str: ...
    @property
    def api_key(self) -> str: ...


class Customer:
    """Calls one server with a key of it; raises `RuntimeError` for what is not answered 200."""

    def __init__(self, server: Place) -> None:
        self._server = server

    def upload(self, path: Path) -> str:
        """Upload ``path`` without reading it into memory; returns the file's id."""
        form = b"--%b\r\ncontent-disposition: form-data; " % BOUNDARY
        head = (
            form + b'name="purpose"\r\n\r\nbatch\r\n' + form + b'name="file"; filename="in.jsonl"'
            b"\r\ncontent-type: application/jsonl\r\n\r\n"
        )
        tail = b"\r\n--%b--\r\n" % BOUNDARY
        length = len(head) + path.stat().st_size + len(tail)

        def pieces() -> Iterator[bytes]:
            yield head
            with path.open("rb") as opened:
                while piece := opened.read(_PIECE):
                    yield piece
            yield tail

        kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
        headers = {"content-type": kind, "content-length": str(length)}
        with self._asked("POST", "/v1/files", pieces(), headers) as answer:
            return str(json.loads(answer.read())["id"])

    def create(self, file_id: str) -> str:
        """Make a batch of a file; returns its id."""
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
        return str(self._json("POST", "/v1/batches", body)["id"])

    def batch(self, batch_id: str) -> dict[str, Any]:
        return self._json("GET", f"/v1/batches/{batch_id}")

    def cancel(self, batch_id: str) -> None:
        self._json("POST", f"/v1/batches/{batch_id}/cancel", {})

    def wait(self, batch_id: str, *, timeout_s: float) -> dict[str, Any]:
        """Return the batch once it has ended; raises `e2e.server.NotInTime`."""

        def ended() -> dict[str, Any] | None:
            time.sleep(0.2)
            batch = self.batch(batch_id)
            return batch if batch["status"] in ENDED else None

        batch: dict[str, Any] = eventually(ended, timeout_s=timeout_s, what="the batch's end")
        return batch

    def custom_ids(self, batch: dict[str, Any]) -> Counter[str]:
        """Count how often each line of the input is in one of the batch's two files."""
        found: Counter[str] = Counter()
        for name in ("output_file_id", "error_file_id"):
            if batch[name] is not None:
                with self._asked("GET", f"/v1/files/{batch[name]}/content", None, {}) as answer:
                    found.update(json.loads(line)["custom_id"] for line in answer)
        return found

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        raw = None if body is None else json.dumps(body).encode()
        with self._asked(method, path, raw, {"content-type": "application/json"}) as answer:
            value: dict[str, Any] = json.loads(answer.read())
        return value

    @contextlib.contextmanager
    def _asked(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self._server.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        try:
            connection.request(method, path, body, {"x-api-key": self._server.api_key, **headers})
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {answer.read()[:300]!r}")
            yield answer
        finally:
            connection.close()


class Visitor:
    """Asks one short question every ``pause_s`` in a thread, and keeps what each answer took."""

    def __init__(self, server: Server, *, pause_s: float) -> None:
        self._server = server
        self._pause_s = pause_s
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._visit, name="visitor")
        self.waits_ms: list[float] = []
        self.failed = 0

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving.set()
        self._thread.join()

    def stay(self, seconds: float) -> None:
        self._leaving.wait(seconds)

    def _visit(self) -> None:
        body = {"model": EMBEDDINGS, "input": "When does the ferry leave?"}
        while not self._leaving.wait(self._pause_s):
            started = time.perf_counter()
            status = self._server.infer("embeddings", body)[0]
            self.waits_ms.append((time.perf_counter() - started) * 1000)
            self.failed += status != 200
