"""What comes back while fuzzing: HTTP/1.1 answers, and whether each is one that is documented."""

from __future__ import annotations

import json
from typing import Any, Final, get_args

import httptools
import msgspec

from orchestrator.errors import ErrorType

# What any route may say: docs/api.md.
STATUSES: Final = frozenset(
    {200, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 420, 421, 429, 431, 503}
)
_TYPES: Final = frozenset(get_args(ErrorType))
_FIELDS: Final = {"message", "type", "code", "param"}
_MORE_FIELDS: Final = {"line", "batch_id", "skipped"}
# Not HTTP at all, or another host's: said before the API is asked.
_PLAIN: Final = frozenset({400, 421})
_PLAIN_TEXTS: Final = (b"Invalid HTTP request received.", b"This server does not answer to that")


class Answer(msgspec.Struct, frozen=True):
    """One answer. ``is_whole``: False where the connection ended in the middle of it."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool = True

    def json(self) -> dict[str, Any]:
        """Return the body's JSON object, an empty one where it holds no such."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Answers:
    """A parser of one connection's answers; what is no HTTP becomes an answer of status 0."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._done: list[Answer] = []
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_open = False
        self._is_broken = False

    @property
    def is_between(self) -> bool:
        """Whether something was answered and nothing is half there."""
        return bool(self._done) and not self._is_open

    def feed(self, raw: bytes) -> None:
        if self._is_broken:
            return
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            self._is_broken = True  # another protocol from here on
        except httptools.HttpParserError:
            self._is_broken = True
            self._done.append(Answer(0, {}, raw[:200]))

    def finish(self) -> list[Answer]:
        """Return the answers, the last of them perhaps cut off."""
        if self._is_open and not self._is_broken:
            self._end(is_whole=False)
        return self._done

    def on_message_begin(self) -> None:
        self._headers, self._body, self._is_open = {}, bytearray(), True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._end(is_whole=True)

    def _end(self, *, is_whole: bool) -> None:
        self._is_open = False
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # not an answer yet: "100 Continue"
            return
        self._done.append(Answer(status, self._headers, bytes(self._body), is_whole))


def problem_with(answer: Answer, api_key: str, *, is_api: bool) -> str | None:
    """Return what is wrong with an answer, in a few words; None if it is a documented one.

    Beside the API (``is_api`` False) are pages, which may say 404 and 405 in their own way.
    """
    if api_key.encode() in answer.body or api_key in str(answer.headers):
        return f"{answer.status} with the key in it"
    if answer.status not in STATUSES:
        return f"{answer.status}: {_said(answer)}"
    if not answer.is_whole:
        return f"{answer.status} that breaks off after {len(answer.body)} bytes"
    if answer.status < 400:
        return _problem_with_success(answer)
    if answer.status in _PLAIN and answer.body.startswith(_PLAIN_TEXTS):
        return None
    if answer.status in {404, 405} and not is_api:
        return None
    return _problem_with_envelope(answer)


def _problem_with_success(answer: Answer) -> str | None:
    if not _is_json(answer):
        return None
    try:
        json.loads(answer.body)
    except ValueError:
        return f"{answer.status} whose JSON is none: {_said(answer)}"
    return None


def _problem_with_envelope(answer: Answer) -> str | None:
    if not _is_json(answer):
        return f"{answer.status} that is not JSON: {_said(answer)}"
    body = answer.json()
    error = body.get("error")
    if set(body) != {"error"} or not isinstance(error, dict):
        return f"{answer.status} without the envelope: {_said(answer)}"
    if not set(error) >= _FIELDS or set(error) - _FIELDS - _MORE_FIELDS:
        return f"{answer.status} whose error has the fields {sorted(error)}"
    if error["type"] not in _TYPES or not isinstance(error["message"], str):
        return f"{answer.status} of type {error['type']!r}"
    if not error["message"] or not isinstance(error["code"], str | None):
        return f"{answer.status} with message {error['message']!r}, code {error['code']!r}"
    if not isinstance(error["param"], str | None):
        return f"{answer.status} with param {error['param']!r}"
    return None


def _is_json(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").partition(";")[0] == "application/json"


def _said(answer: Answer) -> str:
    return answer.body[:120].decode(errors="replace")
