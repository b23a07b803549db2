"""``/v1/files``: upload, list, retrieve, download and delete what batches read and write.

An upload goes from the socket to the object store without a stop; its row is written last, so that
a file is known only when it is whole, and whatever ends an upload early leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from orchestrator.api import replies
from orchestrator.api.caching import has
from orchestrator.api.exchange import Exchange
from orchestrator.api.idempotency import REPLAYED
from orchestrator.api.multipart import Form, Limits, clean_filename, content_disposition, too_large
from orchestrator.api.reply import Answer, Reply, Streamed
from orchestrator.clock import Clock
from orchestrator.errors import BadRequest, NotFound, StorageError
from orchestrator.settings import Settings
from orchestrator.storage.files import PREFIX, File, Files, insert_file, object_name
from orchestrator.storage.idempotent import IdempotentAnswers, Scope, Settled
from orchestrator.storage.objects import Objects
from orchestrator.unbroken import unbroken

UPLOAD_PURPOSE: Final = "batch"
OUTPUT_PURPOSE: Final = "batch_output"
PAGE_MAX: Final = 10_000
EXPIRES_MIN_S: Final = 3_600
EXPIRES_MAX_S: Final = 2_592_000
JSONL: Final = b"application/jsonl"

_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_FIELDS: Final = frozenset({"purpose", _ANCHOR, _SECONDS})
_CHOICES: Final = {"purpose": (UPLOAD_PURPOSE, OUTPUT_PURPOSE), "order": ("asc", "desc")}

Purpose = Literal["batch", "batch_output"]
FileId = Annotated[
    str, Meta(description="`file-` and 24 hex digits.", examples=["file-019a0c5e7b32a1b2c3d4e5f6"])
]


class UploadForm(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an upload, in any order."""

    file: Annotated[
        str,
        Meta(
            description="A JSONL file. It is checked when a batch is made of it.",
            extra_json_schema={"format": "binary"},
        ),
    ]
    purpose: Literal["batch"]
    expires_anchor: Annotated[
        Literal["created_at"] | msgspec.UnsetType,
        Meta(description="Needed where the file is to be deleted earlier than by default."),
    ] = msgspec.field(default=msgspec.UNSET, name=_ANCHOR)
    expires_seconds: (
        Annotated[
            int,
            Meta(ge=EXPIRES_MIN_S, le=EXPIRES_MAX_S, description="Seconds after the upload."),
        ]
        | msgspec.UnsetType
    ) = msgspec.field(default=msgspec.UNSET, name=_SECONDS)


class FileObject(replies.Reply, frozen=True, kw_only=True):
    """A file that was uploaded, or that a batch has written."""

    id: FileId
    object: Literal["file"] = "file"
    bytes: int
    created_at: replies.UnixTime
    expires_at: replies.UnixTime
    filename: str
    purpose: Annotated[
        Purpose, Meta(description="`batch_output`: the output file or the error file of a batch.")
    ]
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: Annotated[
        str | msgspec.UnsetType, Meta(description="What is wrong with a file that is not healthy.")
    ] = msgspec.UNSET
    is_error: Annotated[
        bool | msgspec.UnsetType, Meta(description="True for the error file of a batch.")
    ] = msgspec.UNSET


class FileList(replies.Reply, frozen=True, kw_only=True):
    """A page of files. ``last_id`` is what the next page is ``after``."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(replies.Reply, frozen=True, kw_only=True):
    id: FileId
    object: Literal["file"] = "file"
    deleted: bool = True


class FilesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which files, in which order."""

    purpose: Annotated[Purpose | None, Meta(description="Files of this purpose only.")] = None
    order: Annotated[Literal["asc", "desc"], Meta(description="By `created_at`.")] = "desc"
    after: Annotated[
        str | None, Meta(description="The `last_id` of the page before; it may be deleted by now.")
    ] = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload that is stored but not yet known.

    ``digest`` is of all that was asked for: bodies of one upload differ in their boundaries.
    """

    file: File
    digest: bytes


@dataclass(kw_only=True)
class _Sent:
    """What a form has held so far."""

    fields: dict[str, str]
    filename: str | None = None
    size_bytes: int = 0
    sha256: str = ""


class FilesRoutes:
    """The handlers of the five routes."""

    def __init__(self, files: Files, objects: Objects, settings: Settings, clock: Clock) -> None:
        self._files = files
        self._answers = IdempotentAnswers(files.database, ttl_s=settings.idempotency_ttl_s)
        self._objects = objects
        self._retention_s = settings.file_retention_s
        self._limits = Limits(
            file_bytes=settings.file_max_bytes,
            idle_s=settings.upload_idle_s,
            total_s=settings.upload_timeout_s,
        )
        self._wall = clock.wall

    async def upload(self, exchange: Exchange, body: bytes) -> Reply:
        """Store a file; reads the body itself."""
        form = Form(exchange.receive, exchange.headers, self._limits)
        file_id = PREFIX + exchange.number
        try:
            upload = self._checked(exchange, file_id, await self._store(form, file_id))
        except BaseException:
            await self._discard(file_id)
            raise
        try:
            settled = await asyncio.to_thread(self._settle, exchange.scope, upload)
        # If cancelled, the row is written all the same: the file stays.
        except Exception:
            await self._discard(file_id)
            raise
        if not settled.replayed:
            return settled.body
        await self._discard(file_id)
        return Answer(settled.status, settled.body, (REPLAYED,))

    async def list(self, exchange: Exchange, body: bytes) -> Reply:
        """Answer with a page of the project's files."""
        return await asyncio.to_thread(self._page, exchange.project_id, parse_query(exchange.query))

    async def retrieve(self, exchange: Exchange, body: bytes) -> Reply:
        """Answer with what is known of a file."""
        return replies.encode(shown(await self._find(exchange)))

    async def content(self, exchange: Exchange, body: bytes) -> Reply:
        """Answer with a file's bytes."""
        file = await self._find(exchange)
        headers = (
            (b"content-disposition", content_disposition(file.filename)),
            (b"etag", etag := f'"{file.id}"'.encode()),
            # To be asked for again each time: it may have been deleted.
            (b"cache-control", b"private, no-cache"),
        )
        size_bytes = await self._objects.size(object_name(file.id))
        if size_bytes is None:
            raise _not_found(exchange)
        if has(exchange, etag):
            return Answer(304, b"", headers, JSONL)
        pieces = self._objects.read(object_name(file.id))
        return Streamed(JSONL, pieces, headers, length=size_bytes)

    async def delete(self, exchange: Exchange, body: bytes) -> Reply:
        """Delete a file for good."""
        file = await self._find(exchange)
        return await unbroken(self._delete(exchange, file))

    async def _delete(self, exchange: Exchange, file: File) -> Reply:
        # The row first: a file that is listed has its bytes, whatever fails in between.
        asked = exchange.project_id, file.id, self._wall()
        if not await asyncio.to_thread(self._files.delete, *asked):
            raise _not_found(exchange)
        try:
            await self._objects.delete(object_name(file.id))
        except StorageError:
            # It is there, so it is listed: whoever is told of a failure can ask again.
            await asyncio.to_thread(self._files.undelete, exchange.project_id, file.id)
            raise
        return replies.encode(FileDeleted(id=file.id))

    async def _store(self, form: Form, file_id: str) -> _Sent:
        """Read the whole form, its file into the object store."""
        sent = _Sent(fields={})
        async for part in form.parts():
            if part.name in _FIELDS:
                sent.fields[part.name] = await form.text(part.name)
                # Refused at once if it comes before the file, as OpenAI's clients send it.
                _check_fields(sent.fields)
            elif part.name == "file":
                if sent.filename is not None:
                    raise BadRequest(
                        "There is more than one part called file: upload one file at a time.",
                        code="invalid_multipart",
                        param="file",
                    )
                sent.filename = clean_filename(part.filename)
                await self._objects.put(object_name(file_id), self._noted(form, sent))
        return sent

    async def _noted(self, form: Form, sent: _Sent) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        async for piece in form.pieces():
            sent.size_bytes += len(piece)
            if sent.size_bytes > self._limits.file_bytes:
                raise too_large(self._limits)
            digest.update(piece)
            yield piece
        if sent.size_bytes == 0:
            raise BadRequest(
                "The file is empty: send at least one line.", code="empty_file", param="file"
            )
        sent.sha256 = digest.hexdigest()

    def _checked(self, exchange: Exchange, file_id: str, sent: _Sent) -> Upload:
        """Return the upload that a whole form asks for; raises `BadRequest`."""
        if "purpose" not in sent.fields:
            raise _invalid_purpose("missing")
        if sent.filename is None:
            raise BadRequest(
                "There is no part called file: send the file's bytes in one.",
                code="missing_file",
                param="file",
            )
        expires_s = _expires_s(sent.fields)
        now = self._wall()
        asked = [sent.fields["purpose"], sent.filename, expires_s, sent.sha256]
        return Upload(
            file=File(
                id=file_id,
                project_id=exchange.project_id,
                filename=sent.filename or f"{file_id}.jsonl",
                purpose=UPLOAD_PURPOSE,
                bytes=sent.size_bytes,
                created_at=now,
                expires_at=now + min(expires_s or self._retention_s, self._retention_s),
            ),
            digest=hashlib.sha256(json.dumps(asked).encode()).digest(),
        )

    def _settle(self, scope: Scope | None, upload: Upload) -> Settled:
        """Make a file known, unless that of the same upload with its Idempotency-Key is there."""
        file = upload.file

        def write(connection: Connection) -> bytes:
            # One at a time is here: whoever follows the list has seen all that are older.
            now = self._wall()
            made = replace(file, created_at=now, expires_at=now + file.expires_at - file.created_at)
            insert_file(connection, made)
            return replies.encode(shown(made))

        settled = self._answers.settle(
            scope, upload.digest, status=200, now=file.created_at, write=write
        )
        if scope is None or not settled.replayed:
            return settled
        earlier = msgspec.json.decode(settled.body, type=FileObject)
        if self._files.find(scope.project_id, earlier.id, file.created_at) is not None:
            return settled
        # Deleted since: to be told of it would be of no use. Another upload may have found out too.
        self._answers.forget(scope, body=settled.body)
        return self._settle(scope, upload)

    async def _discard(self, file_id: str) -> None:
        """Delete the object of no file; what the store cannot delete now is left to the sweeper."""
        with contextlib.suppress(StorageError):
            await self._objects.delete(object_name(file_id))

    async def _find(self, exchange: Exchange) -> File:
        asked = exchange.project_id, exchange.name, self._wall()
        file = await asyncio.to_thread(self._files.find, *asked)
        if file is None:
            raise _not_found(exchange)
        return file

    def _page(self, project_id: str, query: FilesQuery) -> bytes:
        found, has_more = self._files.page(
            project_id,
            now=self._wall(),
            purpose=query.purpose,
            ascending=query.order == "asc",
            after=query.after,
            limit=query.limit,
        )
        page = FileList(
            data=[shown(file) for file in found],
            first_id=found[0].id if found else None,
            last_id=found[-1].id if found else None,
            has_more=has_more,
        )
        return replies.encode(page)


def shown(file: File) -> FileObject:
    """Return a file as customers see it."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at),
        expires_at=int(file.expires_at),
        filename=file.filename,
        purpose="batch" if file.purpose == UPLOAD_PURPOSE else "batch_output",
        is_error=True if file.is_error else msgspec.UNSET,
    )


def parse_query(raw: bytes) -> FilesQuery:
    """Return what a list's query string asks for; raises `BadRequest`."""
    asked = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
    limit = asked.get("limit", str(PAGE_MAX))
    good = limit.isascii() and limit.isdigit() and len(limit) < 10
    if not (good and 1 <= int(limit) <= PAGE_MAX):
        raise BadRequest(
            f"limit must be a whole number from 1 to {PAGE_MAX:,}, not {limit[:32]!r}.",
            code="invalid_limit",
            param="limit",
        )
    choices: dict[str, Any] = {}
    for name, allowed in _CHOICES.items():
        if name in asked:
            if asked[name] not in allowed:
                raise BadRequest(
                    f"{name} must be {' or '.join(allowed)}, not {asked[name][:32]!r}.",
                    code=f"invalid_{name}",
                    param=name,
                )
            choices[name] = asked[name]
    return FilesQuery(limit=int(limit), after=asked.get("after") or None, **choices)


def _check_fields(fields: Mapping[str, str]) -> None:
    """Raise `BadRequest` for a field whose value is not allowed."""
    purpose = fields.get("purpose", UPLOAD_PURPOSE)
    if purpose != UPLOAD_PURPOSE:
        raise _invalid_purpose(repr(purpose[:64]))
    anchor = fields.get(_ANCHOR, "created_at")
    if anchor != "created_at":
        raise BadRequest(
            f"{_ANCHOR} must be created_at, not {anchor[:64]!r}.",
            code="invalid_value",
            param=_ANCHOR,
        )
    seconds = fields.get(_SECONDS, str(EXPIRES_MIN_S))
    good = seconds.isascii() and seconds.isdigit() and len(seconds) < 10
    if not (good and EXPIRES_MIN_S <= int(seconds) <= EXPIRES_MAX_S):
        raise BadRequest(
            f"{_SECONDS} must be a whole number from {EXPIRES_MIN_S:,} to {EXPIRES_MAX_S:,}, not"
            f" {seconds[:32]!r}.",
            code="invalid_value",
            param=_SECONDS,
        )


def _expires_s(fields: Mapping[str, str]) -> int | None:
    """Return after how many seconds the customer wants the file deleted, if that was said."""
    for name, other in ((_ANCHOR, _SECONDS), (_SECONDS, _ANCHOR)):
        if other in fields and name not in fields:
            raise BadRequest(
                f"{name} is missing: {_ANCHOR} and {_SECONDS} belong together.",
                code="missing_required_parameter",
                param=name,
            )
    return int(fields[_SECONDS]) if _SECONDS in fields else None


def _invalid_purpose(got: str) -> BadRequest:
    return BadRequest(
        f"purpose must be {UPLOAD_PURPOSE!r}; it is {got}.", code="invalid_purpose", param="purpose"
    )


def _not_found(exchange: Exchange) -> NotFound:
    return NotFound(f"File {exchange.name[:100]} not found", code="file_not_found")
