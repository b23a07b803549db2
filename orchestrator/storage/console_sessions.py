"""Sign-in to the console: a one-time link becomes a session. Both are stored as digests only.

The tokens carry 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from orchestrator.storage.database import Database
from orchestrator.storage.schema import console_sessions, sign_in_links


@dataclass(frozen=True)
class ConsoleSession:
    """A signed-in browser."""

    created_at: float
    expires_at: float


def create_link(database: Database, *, now: float, lifetime_s: float) -> str:
    """Make a one-time sign-in link and return its token."""
    token = secrets.token_urlsafe(32)
    with database.begin() as connection:
        # Void links are of no use to anyone; here is where their number is kept small.
        connection.execute(delete(sign_in_links).where(sign_in_links.c.expires_at <= now))
        connection.execute(
            insert(sign_in_links).values(
                digest=_digest(token), created_at=now, expires_at=now + lifetime_s
            )
        )
    return token


def redeem_link(
    database: Database, token: str, *, now: float, session_lifetime_s: float
) -> str | None:
    """Use up a link; returns a new session's token, or None if the link is unknown or void."""
    session = secrets.token_urlsafe(32)
    with database.begin() as connection:
        # One statement decides, so that of two browsers racing for one link only one gets in.
        used = connection.execute(
            update(sign_in_links)
            .where(sign_in_links.c.digest == _digest(token))
            .where(sign_in_links.c.used_at.is_(None))
            .where(sign_in_links.c.expires_at > now)
            .values(used_at=now)
        )
        if used.rowcount != 1:
            return None
        connection.execute(delete(console_sessions).where(console_sessions.c.expires_at <= now))
        connection.execute(
            insert(console_sessions).values(
                digest=_digest(session), created_at=now, expires_at=now + session_lifetime_s
            )
        )
    return session


def find_session(database: Database, token: str, *, now: float) -> ConsoleSession | None:
    """Return the session that ``token`` opens, if there is one and it has not ended."""
    columns = console_sessions.c
    query = (
        select(columns.created_at, columns.expires_at)
        .where(columns.digest == _digest(token))
        .where(columns.expires_at > now)
    )
    with database.connect() as connection:
        row = connection.execute(query).first()
    return None if row is None else ConsoleSession(row.created_at, row.expires_at)


def end_session(database: Database, token: str) -> None:
    """Sign out; an unknown token changes nothing."""
    with database.begin() as connection:
        connection.execute(
            delete(console_sessions).where(console_sessions.c.digest == _digest(token))
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
