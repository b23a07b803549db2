"""Reads multipart/form-data as it comes (RFC 7578): no more of it in memory than one message.

A form is asked for its next part; what is left of the one before is skipped. Nothing is read ahead
of what is asked for, so that a slow reader slows the client down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Message, Receive

from orchestrator.api.asgi import ClientGone
from orchestrator.errors import BadRequest, PayloadTooLarge, RequestTimeout

PARTS_MAX: Final = 16
FILENAME_MAX_CHARS: Final = 255
FIELD_MAX_BYTES: Final = 1 << 10
# What a body may have beside its file: boundaries, headers, the other fields.
SLACK_BYTES: Final = 64 << 10
_HEADERS_MAX: Final = 8
_HEADER_MAX_BYTES: Final = 4 << 10


@dataclass(frozen=True, slots=True)
class Part:
    """The start of a part; ``filename`` as it was sent, empty where none was."""

    name: str
    filename: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much and how long. ``file_bytes``: the longest file."""

    file_bytes: int
    idle_s: float
    total_s: float


class Form:
    """A form as it is being sent. Its methods raise `BadRequest`, `PayloadTooLarge`,
    `RequestTimeout` and `ClientGone` as these turn out.
    """

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], limits: Limits) -> None:
        """Raises `PayloadTooLarge` from the declared length alone where there is one."""
        self._receive = receive
        self._limits = limits
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > limits.file_bytes + SLACK_BYTES:
            raise too_large(limits)
        self._assembly = _Assembly()
        boundary = _boundary(headers.get(b"content-type", b""))
        self._preamble = _Preamble(boundary)
        self._parser = _parser(boundary, self._assembly)
        self._read_bytes = 0
        self._over = False
        self._late_s = asyncio.get_running_loop().time() + limits.total_s

    async def parts(self) -> AsyncGenerator[Part]:
        """Yield every part; read it by `pieces` or `text` before the next, or it is skipped."""
        while (event := await self._next()) is not None:
            if isinstance(event, Part):
                yield event

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield what the part has, as it comes."""
        while isinstance(event := await self._next(), bytes):
            yield event

    async def text(self, name: str) -> str:
        """Return a short part's text; ``name`` is for the error message."""
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > FIELD_MAX_BYTES:
                raise BadRequest(
                    f"{name} has more than {FIELD_MAX_BYTES:,} bytes.",
                    code="invalid_multipart",
                    param=name,
                )
        return found.decode(errors="replace")

    async def _next(self) -> _Event | None:
        events = self._assembly.events
        while not events:
            if self._over:
                return None
            await self._read()
        return events.popleft()

    async def _read(self) -> None:
        message = await self._message()
        if message["type"] != "http.request":
            raise ClientGone
        body: bytes = message.get("body", b"")
        self._read_bytes += len(body)
        if self._read_bytes > self._limits.file_bytes + SLACK_BYTES:
            raise too_large(self._limits)
        try:
            self._parser.write(self._preamble.taken_from(body))
        except FormParserError as error:
            raise _broken(str(error)) from None
        self._over = not message.get("more_body")
        if self._over and not self._assembly.complete:
            raise _broken("it ends before its last boundary")

    async def _message(self) -> Message:
        left_s = self._late_s - asyncio.get_running_loop().time()
        idle_s = self._limits.idle_s
        try:
            async with asyncio.timeout(min(left_s, idle_s)):
                return await self._receive()
        except TimeoutError:
            why = (
                f"nothing came for {idle_s:g} s"
                if idle_s < left_s
                else f"it was not complete after {self._limits.total_s:g} s"
            )
            raise RequestTimeout(f"The upload was given up, as {why}: send it again.") from None


class _Preamble:
    """What stands before the first boundary, and is to be ignored (RFC 2046, 5.1.1)."""

    def __init__(self, boundary: bytes) -> None:
        self._line = b"\n--" + boundary
        # As if a line had ended before the body.
        self._held = bytearray(b"\n")
        self._over = False

    def taken_from(self, data: bytes) -> bytes:
        """Return the next bytes without it; raises `BadRequest` where there is no end of it."""
        if self._over:
            return data
        seen = max(0, len(self._held) - len(self._line))
        self._held += data
        at = self._held.find(self._line, seen)
        if (at if at >= 0 else len(self._held)) > SLACK_BYTES:
            raise _broken(f"its first {SLACK_BYTES:,} bytes have no boundary")
        if at < 0:
            return b""
        self._over = True
        return bytes(self._held[at + 1 :])


class _PartEnd:
    """The end of a part, in the order of events."""


_Event = Part | bytes | _PartEnd


class _Assembly:
    """Turns the parser's callbacks into events."""

    def __init__(self) -> None:
        self.events: deque[_Event] = deque()
        self.complete = False
        self._parts = 0
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""

    def part_begins(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise _broken(f"it has more than {PARTS_MAX} parts")
        self._disposition = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ends(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def headers_end(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _broken("a part has no content-disposition of form-data with a name")
        name, filename = options[b"name"], options.get(b"filename", b"")
        self.events.append(Part(name.decode(errors="replace"), filename.decode(errors="replace")))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.events.append(data[start:end])

    def part_ends(self) -> None:
        self.events.append(_PartEnd())

    def ends(self) -> None:
        self.complete = True


def clean_filename(sent: str) -> str:
    """Return a filename without control characters and cut to what is kept."""
    kept = (char for char in sent if char.isprintable() or ord(char) > 0x9F)
    return "".join(kept)[:FILENAME_MAX_CHARS]


def content_disposition(filename: str) -> bytes:
    """Return the header's value (RFC 6266), with ``filename*`` where the name is not plain."""
    filename = filename.replace("/", "_").replace("\\", "_")
    plain = "".join(char if char.isascii() and char not in '"%' else "_" for char in filename)
    value = f'attachment; filename="{plain}"'
    if plain != filename:
        value += f"; filename*=UTF-8''{quote(filename, safe='')}"
    return value.encode("ascii")


def too_large(limits: Limits) -> PayloadTooLarge:
    """Return the error of a file that is too long."""
    return PayloadTooLarge(
        f"The upload is longer than a file may be, {limits.file_bytes:,} bytes: split it into"
        " several files.",
        code="file_too_large",
        param="file",
    )


def _boundary(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        got = f"not {kind[:100].decode('latin-1')!r}" if kind else "and this upload has none"
        raise BadRequest(
            f"Files are uploaded with content-type multipart/form-data, {got}.",
            code="invalid_content_type",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _broken("its content-type names no boundary")
    return boundary


def _parser(boundary: bytes, assembly: _Assembly) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": assembly.part_begins,
                "on_header_field": assembly.header_name,
                "on_header_value": assembly.header_value,
                "on_header_end": assembly.header_ends,
                "on_headers_finished": assembly.headers_end,
                "on_part_data": assembly.part_data,
                "on_part_end": assembly.part_ends,
                "on_end": assembly.ends,
            },
            max_header_count=_HEADERS_MAX,
            max_header_size=_HEADER_MAX_BYTES,
        )
    except FormParserError as error:
        raise _broken(str(error)) from None


def _broken(why: str) -> BadRequest:
    why = why[:1].lower() + why[1:].rstrip(".")
    return BadRequest(
        f"The body cannot be read as multipart/form-data: {why}.", code="invalid_multipart"
    )
