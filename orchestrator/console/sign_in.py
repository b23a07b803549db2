"""How an operator gets in: a one-time link becomes a session, and a session is a cookie."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from starlette.types import Scope

from orchestrator.clock import Clock
from orchestrator.settings import Settings
from orchestrator.storage import console_sessions
from orchestrator.storage.database import Database
from orchestrator.transport.headers import Header, read_cookie

SESSION_COOKIE: Final = "zerogpu_console"


class SignIn(Protocol):
    """Where links and sessions are kept. Tokens are secrets: they never reach a log."""

    async def redeem(self, link_token: str) -> str | None:
        """Use up a link and return a new session's token; None if it is unknown, used or void."""

    async def holds(self, session_token: str) -> bool:
        """Whether the session exists and has not ended."""

    async def end(self, session_token: str) -> None:
        """Sign out; an unknown session changes nothing."""


class StoredSignIn:
    """Links and sessions in the database, off the event loop."""

    def __init__(self, database: Database, *, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._lifetime_s = settings.console_session_lifetime_s

    async def redeem(self, link_token: str) -> str | None:
        return await asyncio.to_thread(
            console_sessions.redeem_link,
            self._database,
            link_token,
            now=self._clock.wall(),
            session_lifetime_s=self._lifetime_s,
        )

    async def holds(self, session_token: str) -> bool:
        session = await asyncio.to_thread(
            console_sessions.find_session, self._database, session_token, now=self._clock.wall()
        )
        return session is not None

    async def end(self, session_token: str) -> None:
        await asyncio.to_thread(console_sessions.end_session, self._database, session_token)


def session_of(scope: Scope) -> str | None:
    """Return the session token that a request carries."""
    return read_cookie(scope, SESSION_COOKIE) or None


def set_session(token: str, *, lifetime_s: float, secure: bool) -> Header:
    """Return the header that signs a browser in.

    Lax, not Strict: a link clicked in a web terminal arrives by a navigation that another site
    began, and Strict would leave that first page signed out. What changes anything is a POST, which
    Lax does not send across sites.
    """
    return _cookie(f"{SESSION_COOKIE}={token}; Max-Age={int(lifetime_s)}", secure=secure)


def clear_session(*, secure: bool) -> Header:
    """Return the header that signs a browser out."""
    return _cookie(f"{SESSION_COOKIE}=; Max-Age=0", secure=secure)


def _cookie(pair: str, *, secure: bool) -> Header:
    flags = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
    return b"set-cookie", (pair + flags).encode()
