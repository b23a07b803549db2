"""Node identities: when a public key was first and last seen, and how many jobs it has answered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from orchestrator.storage.database import Database
from orchestrator.storage.schema import nodes
from orchestrator.storage.writer import Insert, Writer

_UPSERT: Final = Insert(
    nodes.name,
    tuple(nodes.columns.keys()),
    " ON CONFLICT (key_digest) DO UPDATE SET runtime = excluded.runtime,"
    " last_seen = max(nodes.last_seen, excluded.last_seen), jobs = nodes.jobs + excluded.jobs",
)


@dataclass(frozen=True)
class NodeRecord:
    """What is known of one identity. ``runtime`` is kind/backend, as ``browser/wasm``."""

    key_digest: str
    runtime: str
    first_seen: float
    last_seen: float
    jobs: int


def key_digest(public_key: bytes) -> str:
    """Return the name of an identity: the hex SHA-256 of its public key."""
    return hashlib.sha256(public_key).hexdigest()


class NodeLog:
    """Where the node sockets note who came and what they did."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def seen(self, digest: str, *, runtime: str, now: float, jobs: int = 0) -> None:
        """Note that a node is there and has answered ``jobs`` more jobs; never blocks."""
        self._writer.append(_UPSERT, (digest, runtime, now, now, jobs))


def find_node(database: Database, digest: str) -> NodeRecord | None:
    """Return the record of an identity, if it ever came."""
    query = select(nodes).where(nodes.c.key_digest == digest)
    with database.connect() as connection:
        row = connection.execute(query).first()
    return None if row is None else NodeRecord(*row)
