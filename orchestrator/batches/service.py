"""Batches as customers know them: create, look up, list, cancel.

A batch is a row from before its input is checked, and has a copy of its input of its own, so that
deleting the file does not stop it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from sqlalchemy import Connection

from orchestrator.batches.course import Course
from orchestrator.batches.runner import LineRunner
from orchestrator.batches.spool import Spool
from orchestrator.batches.sweeper import Sweeper
from orchestrator.clock import Clock
from orchestrator.errors import (
    ApiError,
    BadRequest,
    Conflict,
    InternalError,
    InvalidBatch,
    NotFound,
    RateLimited,
    ShuttingDown,
)
from orchestrator.settings import Settings
from orchestrator.storage.batches import ENDED, Batches, BatchRow, insert_batch
from orchestrator.storage.database import Database
from orchestrator.storage.files import File, Files
from orchestrator.storage.idempotent import IdempotentAnswers, Scope, Settled
from orchestrator.storage.keys import Principal
from orchestrator.storage.objects import NoSuchObject, Objects
from orchestrator.unbroken import unbroken

WINDOW: Final = "24h"
PURPOSE: Final = "batch"
# Batches of one project that are being checked, or wait for it.
CREATING_MAX: Final = 128
ENDPOINT_MAX_CHARS: Final = 64
METADATA_MAX_BYTES: Final = 64 << 10
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, kw_only=True)
class NewBatch:
    """What a customer asks for; ``metadata`` is the JSON of an object.

    ``output_expires_s`` is how long its result files are kept, unless all files are kept shorter.
    """

    input_file_id: str
    endpoint: str
    metadata: str = "{}"
    output_expires_s: int | None = None


@dataclass(frozen=True)
class Once:
    """An Idempotency-Key, and the SHA-256 of what was asked with it."""

    scope: Scope
    digest: bytes


class BatchService:
    """All batches of this server; made and used on the event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        objects: Objects,
        run_line: LineRunner,
        supply: Callable[[], int],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._wall = clock.wall
        self._batches = Batches(database)
        self._files = Files(database)
        self._answers = IdempotentAnswers(database, ttl_s=settings.idempotency_ttl_s)
        self._spool = Spool(settings=settings, objects=objects)
        self._course = Course(
            settings=settings,
            batches=self._batches,
            objects=objects,
            spool=self._spool,
            run_line=run_line,
            supply=supply,
            clock=clock,
            rng=rng,
        )
        # From before their row is there until their input is checked.
        self._creating: dict[str, asyncio.Task[BatchRow]] = {}
        self._creating_of: Counter[str] = Counter()
        self._sweeper = Sweeper(
            settings=settings,
            batches=self._batches,
            files=self._files,
            objects=objects,
            spool=self._spool,
            creating=self._creating.keys(),
            wall=clock.wall,
        )
        self._stopping = False

    async def start(self) -> None:
        """Take up all batches where they were left."""
        await self._course.start()
        self._course.spawn(self._sweeper.run())

    async def stop(self, within_s: float) -> None:
        """Let batches be made and lines under way end, and keep what these led to.

        Both have ``within_s``, lines two seconds at most. A batch that is not made by then is
        answered as it is, once it is written: it goes on after the next start.
        """
        self._stopping = True
        await self._course.stop(within_s, finish=tuple(self._creating.values()))

    def wake(self) -> None:
        """Look at the clocks and at the supply again, now."""
        self._course.wake()

    # ── what customers ask for ───────────────────────────────────────────────────────────────────

    async def create(
        self, principal: Principal, wanted: NewBatch, *, once: Once | None = None
    ) -> BatchRow:
        """Check the input and begin to run it; returns the batch, in progress.

        Of several calls with one Idempotency-Key (``once``) only one makes a batch, also if the
        server ends in between; the others return that batch as it is by then. Raises `BadRequest`,
        `NotFound`, `StorageError`, and `InvalidBatch` with the first problem of the input, after
        which the batch is there, failed, with all of them.
        """
        if self._stopping:
            raise _shutting_down()
        project_id = principal.project_id
        # Also of those whose client has left: only so many checks are done in a second.
        if self._creating_of[project_id] >= CREATING_MAX:
            raise RateLimited(
                f"{CREATING_MAX} batches of this project are being checked, and no more may be at"
                " once: try again in a moment.",
                retry_after_s=1,
            )
        batch_id = f"batch_{_ulid(self._wall())}"
        # A client that leaves does not take its batch with it: it may have been written already.
        creation = self._course.spawn(self._create(batch_id, principal, wanted, once))
        self._creating[batch_id] = creation
        self._creating_of[project_id] += 1
        creation.add_done_callback(lambda _: self._made(batch_id, project_id))
        return await self._created(creation)

    async def created_before(self, once: Once) -> BatchRow | None:
        """Return the batch that was made with this Idempotency-Key, as it is now, if there is one.

        One that failed for our fault does not count: the request may be made anew. Raises
        `Conflict` if the key stood for another request, and the `InvalidBatch` that the first call
        was answered with.
        """
        earlier = await asyncio.to_thread(
            self._answers.find, once.scope, once.digest, now=self._wall()
        )
        if earlier is None:
            return None
        batch_id = earlier.body.decode()
        if batch_id not in self._creating:
            row = await self.retrieve(once.scope.project_id, batch_id)
            if _failed_by_us(row):
                await asyncio.to_thread(self._answers.forget, once.scope, body=earlier.body)
                return None
        return await self._again(once, batch_id)

    async def retrieve(self, project_id: str, batch_id: str) -> BatchRow:
        """Return a batch with its counts of this moment; raises `NotFound`."""
        row = await asyncio.to_thread(self._batches.find, batch_id, project_id=project_id)
        if row is None:
            raise NotFound(f"Batch not found: {batch_id[:100]}", code="batch_not_found")
        return await self._with_counts(row)

    async def page(
        self, project_id: str, *, after: str | None, limit: int
    ) -> tuple[list[BatchRow], bool]:
        """Return up to ``limit`` batches, newest first, and whether there are more.

        Raises `BadRequest` where ``after`` is no batch of the project.
        """
        last = None
        if after is not None:
            last = await asyncio.to_thread(self._batches.find, after, project_id=project_id)
            if last is None:
                raise BadRequest(
                    f"after must be the id of one of your batches, not {after[:100]!r}: send the"
                    " last_id of the page before.",
                    code="invalid_after",
                    param="after",
                )
        rows, more = await asyncio.to_thread(
            self._batches.page, project_id, after=last, limit=limit
        )
        return [await self._with_counts(row) for row in rows], more

    async def cancel(self, project_id: str, batch_id: str) -> BatchRow:
        """Start no more lines of a batch; returns it as it is now. Again changes nothing.

        Raises `NotFound`, and `Conflict` where it has ended otherwise or is about to.
        """
        await self.retrieve(project_id, batch_id)
        row = await unbroken(self._cancel(project_id, batch_id))
        if row.status not in ("cancelling", "cancelled"):
            raise Conflict(
                f"Batch {batch_id} is {row.status} and can no longer be cancelled: only batches"
                " that are validating or in_progress can."
            )
        return row

    async def _cancel(self, project_id: str, batch_id: str) -> BatchRow:
        await asyncio.to_thread(
            self._batches.move,
            batch_id,
            before=("validating", "in_progress"),
            to="cancelling",
            now=self._wall(),
        )
        row = await self.retrieve(project_id, batch_id)
        if row.status == "cancelling":
            self._course.cancel(batch_id)
        return row

    # ── creation ─────────────────────────────────────────────────────────────────────────────────

    def _made(self, batch_id: str, project_id: str) -> None:
        del self._creating[batch_id]
        self._creating_of[project_id] -= 1
        if not self._creating_of[project_id]:
            del self._creating_of[project_id]

    async def _created(self, creation: asyncio.Task[BatchRow]) -> BatchRow:
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            if creation.cancelled() and self._stopping:
                raise _shutting_down() from None
            raise

    async def _again(self, once: Once, batch_id: str) -> BatchRow:
        """Return the batch that an earlier request made, once its input is checked."""
        creation = self._creating.get(batch_id)
        if creation is not None:
            return await self._created(creation)
        row = await self.retrieve(once.scope.project_id, batch_id)
        if row.status == "failed" and row.errors is not None:
            first = msgspec.json.decode(row.errors, type=_Errors).data[0]
            raise InvalidBatch(first.message, param=first.param, line=first.line, batch_id=row.id)
        return row

    async def _create(
        self, batch_id: str, principal: Principal, wanted: NewBatch, once: Once | None
    ) -> BatchRow:
        file = await self._check_request(principal, wanted)
        now = self._wall()
        row = BatchRow(
            id=batch_id,
            project_id=principal.project_id,
            key_id=principal.key_id,
            endpoint=wanted.endpoint,
            input_file_id=file.id,
            completion_window=WINDOW,
            status="validating",
            created_at=now,
            expires_at=now + self._settings.batch_window_s,
            metadata=wanted.metadata,
            output_expires_s=wanted.output_expires_s,
        )
        try:
            await self._spool.fetch(batch_id, file.id)
            settled = await self._written(row, once)
        except NoSuchObject:
            await asyncio.to_thread(self._spool.forget, batch_id)
            raise NotFound(
                f"Input file object missing: {wanted.input_file_id}",
                code="file_not_found",
                param="input_file_id",
            ) from None
        except ApiError:
            await asyncio.to_thread(self._spool.forget, batch_id)
            raise
        if once is not None and settled.replayed:
            await asyncio.to_thread(self._spool.forget, batch_id)
            return await self._again(once, settled.body.decode())
        try:
            return await self._course.check(row)
        except asyncio.CancelledError:
            if self._stopping:
                # To be told to try again would make a second one.
                return row
            raise

    async def _written(self, row: BatchRow, once: Once | None) -> Settled:
        """Write the batch; whoever is cancelled meanwhile knows at the end whether it is there."""
        writing = asyncio.ensure_future(asyncio.to_thread(self._insert, row, once))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            settled = await writing
            task = asyncio.current_task()
            if task is not None:
                # Said again at the next wait, where it changes nothing any more.
                task.cancel()
            return settled

    def _insert(self, row: BatchRow, once: Once | None) -> Settled:
        """Write the batch and, as the answer to its key, its id: what it says is yet to come."""

        def write(connection: Connection) -> bytes:
            insert_batch(connection, row)
            return row.id.encode()

        return self._answers.settle(
            None if once is None else once.scope,
            b"" if once is None else once.digest,
            status=200,
            now=row.created_at,
            write=write,
        )

    async def _check_request(self, principal: Principal, wanted: NewBatch) -> File:
        """Return the input file; raises what the request itself is refused for."""
        if not wanted.input_file_id:
            raise BadRequest("input_file_id is required", param="input_file_id")
        if not wanted.endpoint:
            raise BadRequest("endpoint is required", param="endpoint")
        # Whether it is one, and the one that the lines name, is told by their check.
        if len(wanted.endpoint) > ENDPOINT_MAX_CHARS:
            raise BadRequest(
                f"endpoint has {len(wanted.endpoint):,} characters; it must be one of"
                f" {', '.join(self._settings.batch_endpoints)}",
                param="endpoint",
            )
        size = len(wanted.metadata.encode())
        if size > METADATA_MAX_BYTES:
            raise BadRequest(
                f"metadata is {size:,} bytes of JSON; at most {METADATA_MAX_BYTES:,} are taken",
                param="metadata",
            )
        asked = principal.project_id, wanted.input_file_id, self._wall()
        file = await asyncio.to_thread(self._files.find, *asked)
        if file is None:
            raise NotFound(
                f"Input file not found: {wanted.input_file_id}",
                code="file_not_found",
                param="input_file_id",
            )
        if file.purpose != PURPOSE:
            raise BadRequest(
                f'Input file {file.id} has the purpose "{file.purpose}"; a batch reads a file that'
                f' was uploaded with the purpose "{PURPOSE}"',
                param="input_file_id",
            )
        return file

    async def _with_counts(self, row: BatchRow) -> BatchRow:
        if row.status in ENDED:
            return row
        counts = self._course.counts(row.id)
        if counts is not None:
            return replace(row, completed=counts[0], failed=counts[1])
        # Not taken up yet since the start, or ended since it was read.
        found = await asyncio.to_thread(
            self._batches.find_counted, row.id, project_id=row.project_id
        )
        return found or row


class _Problem(msgspec.Struct):
    message: str
    line: int | None
    param: str | None = None
    code: str = ""


class _Errors(msgspec.Struct):
    """A failed batch's ``errors``, as far as they are told again."""

    data: list[_Problem]


def _failed_by_us(row: BatchRow) -> bool:
    """Whether a batch failed although nothing is known to be wrong with its input."""
    if row.status != "failed" or row.errors is None:
        return False
    return msgspec.json.decode(row.errors, type=_Errors).data[0].code == InternalError.default_code


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The server is shutting down: try again in a moment.", retry_after_s=1)


def _ulid(wall_s: float) -> str:
    """Return 26 characters: 48 bits of milliseconds, then 80 random ones; in the order of time."""
    number = int(wall_s * 1000) << 80 | secrets.randbits(80)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))
