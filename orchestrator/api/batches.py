"""``/v1/batches``: create, list, retrieve and cancel."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, cast
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from orchestrator.api import replies
from orchestrator.api.asgi import error_body
from orchestrator.api.bodies import parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.idempotency import REPLAYED, digest_of
from orchestrator.api.reply import Answer, Reply
from orchestrator.batches.service import BatchService, NewBatch, Once
from orchestrator.errors import BadRequest, InvalidBatch
from orchestrator.storage.batches import BatchRow, Status

PAGE: Final = 20
PAGE_MAX: Final = 100

BatchId = Annotated[str, Meta(description="`batch_` and 26 characters, in the order of time.")]
Moment = replies.UnixTime | None


class OutputExpiry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the result files are kept from when they are made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class CreateBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/batches``."""

    input_file_id: Annotated[str, Meta(description="An uploaded JSONL file, purpose `batch`.")]
    endpoint: Annotated[
        str, Meta(description="The route of all lines, such as `/v1/chat/completions`.")
    ]
    completion_window: Literal["24h"] | None = "24h"
    metadata: Annotated[
        dict[str, Any] | None, Meta(description="Any object, echoed unchanged; at most 64 KiB.")
    ] = None
    output_expires_after: Annotated[
        OutputExpiry | None,
        Meta(description="Of both result files; they are kept no longer than all files are."),
    ] = None


class _Metadata(msgspec.Struct):
    """The same body, of which the metadata is kept letter for letter."""

    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class BatchProblem(replies.Reply, frozen=True, kw_only=True):
    """Why a batch failed. ``line`` is where, if it is about a line of the input, from 1."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchProblems(replies.Reply, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[BatchProblem, ...]


class RequestCounts(replies.Reply, frozen=True, kw_only=True):
    """Lines with an answer of status 2xx are ``completed``, those that ended otherwise failed."""

    total: int
    completed: int
    failed: int


class BatchObject(replies.Reply, frozen=True, kw_only=True):
    """A batch."""

    id: BatchId
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: Annotated[
        BatchProblems | None,
        Meta(description="Problems of a refused input: up to 100, and how many more there are."),
    ]
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: replies.UnixTime
    in_progress_at: Moment
    expires_at: replies.UnixTime
    finalizing_at: Moment
    completed_at: Moment
    failed_at: Moment
    expired_at: Moment
    cancelling_at: Moment
    cancelled_at: Moment
    request_counts: RequestCounts
    metadata: dict[str, Any]


class BatchList(replies.Reply, frozen=True, kw_only=True):
    """A page of batches, newest first. ``last_id`` is what the next page is ``after``."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which batches."""

    after: Annotated[str | None, Meta(description="The `last_id` of the page before.")] = None
    limit: Annotated[
        int, Meta(description="How many; what is below 1 or above 100 is taken as that.")
    ] = PAGE


_BODY: Final = msgspec.json.Decoder(CreateBatch)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Any])
_REQUIRED: Final = ("input_file_id", "endpoint")
_METADATA: Final = msgspec.json.Decoder(_Metadata)
_PROBLEMS: Final = msgspec.json.Decoder(BatchProblems)


class BatchesRoutes:
    """The handlers of the four routes."""

    def __init__(self, service: BatchService) -> None:
        self._service = service

    async def create(self, exchange: Exchange, body: bytes) -> Reply:
        """Check an input file and begin to run it."""
        wanted = parse_new(body)
        once = None if exchange.scope is None else Once(exchange.scope, digest_of(body))
        if once is not None:
            try:
                earlier = await self._service.created_before(once)
            except InvalidBatch as refused:
                # What the first request with this key was told.
                return Answer(refused.status, error_body(refused), (REPLAYED,), code=refused.code)
            if earlier is not None:
                return Answer(200, replies.encode(shown(earlier)), (REPLAYED,))
        row = await self._service.create(exchange.checked, wanted, once=once)
        return replies.encode(shown(row))

    async def list(self, exchange: Exchange, body: bytes) -> Reply:
        """Answer with a page of the project's batches."""
        query = parse_query(exchange.query)
        rows, has_more = await self._service.page(
            exchange.project_id, after=query.after, limit=query.limit
        )
        page = BatchList(
            data=[shown(row) for row in rows],
            first_id=rows[0].id if rows else None,
            last_id=rows[-1].id if rows else None,
            has_more=has_more,
        )
        return replies.encode(page)

    async def retrieve(self, exchange: Exchange, body: bytes) -> Reply:
        """Answer with a batch as it is now."""
        row = await self._service.retrieve(exchange.project_id, exchange.name)
        return replies.encode(shown(row))

    async def cancel(self, exchange: Exchange, body: bytes) -> Reply:
        """Start no more lines of a batch."""
        row = await self._service.cancel(exchange.project_id, exchange.name)
        return replies.encode(shown(row))


def shown(row: BatchRow) -> BatchObject:
    """Return a batch as customers see it."""
    return BatchObject(
        id=row.id,
        endpoint=row.endpoint,
        errors=None if row.errors is None else _PROBLEMS.decode(row.errors),
        input_file_id=row.input_file_id,
        status=row.status,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        created_at=int(row.created_at),
        in_progress_at=_second(row.in_progress_at),
        expires_at=int(row.expires_at),
        finalizing_at=_second(row.finalizing_at),
        completed_at=_second(row.completed_at),
        failed_at=_second(row.failed_at),
        expired_at=_second(row.expired_at),
        cancelling_at=_second(row.cancelling_at),
        cancelled_at=_second(row.cancelled_at),
        request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
        # As it came: parsed and written again, long numbers would not be the same.
        metadata=cast("dict[str, Any]", msgspec.Raw(row.metadata.encode())),
    )


def parse_new(body: bytes) -> NewBatch:
    """Return what is asked for; raises `BadRequest` in the documented words."""
    try:
        wanted = parse(_BODY, body)
    except BadRequest as error:
        # What was refused first may hide that the rest is no JSON at all.
        if error.param in _REQUIRED and parse(_FIELDS, body).get(error.param) is None:
            raise BadRequest(f"{error.param} is required", param=error.param) from None
        if error.param == "completion_window":
            raise BadRequest('completion_window must be "24h"', param=error.param) from None
        raise
    metadata = "{}" if wanted.metadata is None else bytes(_METADATA.decode(body).metadata).decode()
    expiry = wanted.output_expires_after
    return NewBatch(
        input_file_id=wanted.input_file_id,
        endpoint=wanted.endpoint,
        metadata=metadata,
        output_expires_s=None if expiry is None else expiry.seconds,
    )


def parse_query(raw: bytes) -> BatchesQuery:
    """Return what a list's query string asks for; raises `BadRequest`."""
    asked = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
    limit = asked.get("limit", str(PAGE))
    digits = limit.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise BadRequest(
            f"limit must be a whole number, not {limit[:32]!r}: from 1 to {PAGE_MAX}.",
            code="invalid_limit",
            param="limit",
        )
    # Long ones are cut before they are read: a number may have thousands of digits.
    clamped = min(max(int(limit[:10]), 1), PAGE_MAX)
    return BatchesQuery(limit=clamped, after=asked.get("after") or None)


def _second(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
