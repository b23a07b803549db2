"""Answers to POST requests with an Idempotency-Key that must outlive a restart.

Rule: what a request writes and the answer that stands for it are committed in one transaction
(`settle`). A crash leaves both or neither; of two requests that race with one key, the second finds
the first's answer under the write lock and writes nothing. Rows of answers that are too old go when
the next is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select

from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import Conflict
from orchestrator.storage.database import Database
from orchestrator.storage.schema import idempotent_answers

REUSED: Final = "idempotency_key_reused"


class Scope(NamedTuple):
    """What an Idempotency-Key is unique in: the same word elsewhere is another key."""

    project_id: ProjectId
    key_id: KeyId
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A whole JSON answer as it was given the first time; ``replayed`` if that was before."""

    status: int
    body: bytes
    replayed: bool = False


class IdempotentAnswers:
    """The table of them. Its methods block; ``digest`` is the SHA-256 of what was asked."""

    def __init__(self, database: Database, *, ttl_s: float) -> None:
        self._database = database
        self._ttl_s = ttl_s

    def find(self, scope: Scope, digest: bytes, *, now: float) -> Settled | None:
        """Return the earlier answer; raises `Conflict` if the key stood for something else."""
        with self._database.connect() as connection:
            return self._find(connection, scope, digest, now)

    def settle(
        self,
        scope: Scope | None,
        digest: bytes,
        *,
        status: int,
        now: float,
        write: Callable[[Connection], bytes],
    ) -> Settled:
        """Commit what ``write`` writes with the answer that it returns, or find it done before.

        Then nothing is written, and the answer is the earlier one. Without a ``scope`` (the request
        named no key) it always writes. Raises `Conflict` as `find` does, and what ``write`` raises.
        """
        with self._database.begin() as connection:
            if scope is None:
                return Settled(status, write(connection))
            connection.execute(
                delete(idempotent_answers).where(
                    idempotent_answers.c.created_at <= now - self._ttl_s
                )
            )
            earlier = self._find(connection, scope, digest, now)
            if earlier is not None:
                return earlier
            body = write(connection)
            connection.execute(
                insert(idempotent_answers).values(
                    project_id=scope.project_id,
                    key_id=scope.key_id,
                    path=scope.path,
                    idempotency_key=scope.key,
                    digest=digest.hex(),
                    status=status,
                    body=body,
                    created_at=now,
                )
            )
            return Settled(status, body)

    def forget(self, scope: Scope, *, body: bytes) -> None:
        """Let the key stand for nothing: its request is to be made anew.

        Only while it stands for the answer ``body``, not for one that was made since.
        """
        stale = delete(idempotent_answers).where(_at(scope))
        with self._database.begin() as connection:
            connection.execute(stale.where(idempotent_answers.c.body == body))

    def _find(
        self, connection: Connection, scope: Scope, digest: bytes, now: float
    ) -> Settled | None:
        columns = idempotent_answers.c
        row = connection.execute(
            select(columns.digest, columns.status, columns.body)
            .where(_at(scope))
            .where(columns.created_at > now - self._ttl_s)
        ).first()
        if row is None:
            return None
        if row.digest != digest.hex():
            raise reused(scope)
        return Settled(row.status, row.body, replayed=True)


def reused(scope: Scope) -> Conflict:
    """Return the error for a key that already stands for another request."""
    return Conflict(
        f"This Idempotency-Key was used on {scope.path} for a request with another body. Send that"
        " body again to get its answer, or use a new key.",
        code=REUSED,
    )


def _at(scope: Scope) -> ColumnElement[bool]:
    columns = idempotent_answers.c
    return and_(
        columns.project_id == scope.project_id,
        columns.key_id == scope.key_id,
        columns.path == scope.path,
        columns.idempotency_key == scope.key,
    )
