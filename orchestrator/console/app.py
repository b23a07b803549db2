"""What a signed-in operator uses: sign-in, sign-out, the live stream of the fleet, and the desk.

Routes:

    GET  /console/sign-in?token=…   uses up a one-time link, sets the cookie, goes to /operate
    POST /console/sign-out          ends the session, goes to /operate
    GET  /console/session           {"signed_in": bool}
    GET  /console/stream            server-sent events, see `feed`

and those of `desk`, where decisions, standings and the audit log are read and orders are given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from orchestrator.clock import Clock
from orchestrator.console import feed
from orchestrator.console.control import Control
from orchestrator.console.desk import Desk
from orchestrator.console.replies import Refusal, redirect, refuse, reply
from orchestrator.console.sign_in import SignIn, clear_session, session_of, set_session
from orchestrator.domain.fleet import FleetSnapshot
from orchestrator.settings import Settings
from orchestrator.transport.headers import header, inert_headers
from orchestrator.transport.origins import Origins

STREAM_INTERVAL_S: Final = 1.0
# A session that was ended elsewhere stops its streams within this time.
SESSION_CHECK_S: Final = 15.0
# A client that has stopped reading cannot take the farewell either; nobody waits for it.
_FAREWELL_S: Final = 0.5


def build_console(
    settings: Settings,
    *,
    sign_in: SignIn,
    fleet_source: Callable[[], FleetSnapshot],
    control: Control,
    clock: Clock,
    shutdown: asyncio.Event,
    stream_interval_s: float = STREAM_INTERVAL_S,
) -> Console:
    """Return the console's ASGI app; its `Console.signed_in` tells the pages who is in.

    Setting ``shutdown`` ends every open stream: an open one would keep the server alive for good.
    """
    return Console(
        settings,
        sign_in=sign_in,
        fleet_source=fleet_source,
        control=control,
        clock=clock,
        shutdown=shutdown,
        stream_interval_s=stream_interval_s,
    )


class Console:
    """The ASGI app of the routes above; every other path under it is answered 404."""

    def __init__(
        self,
        settings: Settings,
        *,
        sign_in: SignIn,
        fleet_source: Callable[[], FleetSnapshot],
        control: Control,
        clock: Clock,
        shutdown: asyncio.Event,
        stream_interval_s: float,
    ) -> None:
        self._sign_in = sign_in
        self._origins = Origins.of(settings)
        self._desk = Desk(control, origins=self._origins)
        self._lifetime_s = settings.console_session_lifetime_s
        self._secure = settings.url.startswith("https:")
        self._clock = clock
        self._shutdown = shutdown
        self._interval_s = stream_interval_s
        self._epoch = f"{int(clock.wall() * 1000):x}"
        self._fleet = feed.SharedFleet(
            fleet_source, monotonic=clock.monotonic, max_age_s=stream_interval_s * 0.9
        )

    async def signed_in(self, scope: Scope) -> bool:
        """Whether a request comes from a signed-in browser."""
        session = session_of(scope)
        return session is not None and await self._sign_in.holds(session)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        match scope["method"], scope["path"]:
            case "GET", "/console/sign-in":
                await self._enter(scope, send)
            case "POST", "/console/sign-out":
                await self._leave(scope, send)
            case "GET", "/console/session":
                answer = b'{"signed_in":%b}' % (
                    b"true" if await self.signed_in(scope) else b"false"
                )
                await reply(scope, send, 200, body=answer)
            case "GET", "/console/stream":
                await self._stream(scope, receive, send)
            case _, "/console/sign-in" | "/console/session" | "/console/stream":
                await reply(scope, send, 405, headers=[(b"allow", b"GET")])
            case _, "/console/sign-out":
                await reply(scope, send, 405, headers=[(b"allow", b"POST")])
            case _, path if self._desk.serves(path):
                await self._at_desk(scope, receive, send)
            case _:
                await reply(scope, send, 404)

    async def _at_desk(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = session_of(scope)
        try:
            if session is None or not await self._sign_in.holds(session):
                raise _signed_out()
            await self._desk.answer(scope, receive, send, session=session)
        except Refusal as refusal:
            await refuse(scope, send, refusal)

    async def _enter(self, scope: Scope, send: Send) -> None:
        if "prefetch" in (header(scope, b"sec-purpose") or ""):
            # A browser that fetches ahead would use up the link before the click.
            await reply(scope, send, 503)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        token = query.get("token", [""])[0]
        session = await self._sign_in.redeem(token) if token else None
        if session is None:
            await redirect(scope, send, "/operate?link=void")
            return
        secure = self._secure or scope["scheme"] == "https"
        cookie = set_session(session, lifetime_s=self._lifetime_s, secure=secure)
        await redirect(scope, send, "/operate", headers=[cookie])

    async def _leave(self, scope: Scope, send: Send) -> None:
        if not self._origins.admits(
            header(scope, b"origin"), scheme=scope["scheme"], host=header(scope, b"host")
        ):
            await reply(scope, send, 403)
            return
        if session := session_of(scope):
            await self._sign_in.end(session)
        secure = self._secure or scope["scheme"] == "https"
        await redirect(scope, send, "/operate", headers=[clear_session(secure=secure)])

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = session_of(scope)
        if session is None or not await self._sign_in.holds(session):
            await refuse(scope, send, _signed_out())
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    *inert_headers(),
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store, no-transform"),
                    (b"x-accel-buffering", b"no"),  # nginx would hold events back
                ],
            }
        )
        # Writing is a task of its own: a client that stops reading blocks it, and must block
        # neither the notice of its leaving nor the shutdown.
        writer = asyncio.create_task(self._write(send, session, header(scope, b"last-event-id")))
        gone = asyncio.create_task(_disconnected(receive))
        closing = asyncio.create_task(self._shutdown.wait())
        try:
            await asyncio.wait({writer, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(gone, closing)
            if not writer.done():
                await _cancel(writer)
        if self._shutdown.is_set():
            await _farewell(send, feed.CLOSING)
        elif not writer.cancelled():
            writer.result()
            await _farewell(send, feed.SIGNED_OUT)

    async def _write(self, send: Send, session: str, last_event_id: str | None) -> None:
        """Send the fleet until the session ends."""
        before = self._fleet.get()
        first = feed.snapshot_frame(before, epoch=self._epoch, last_event_id=last_event_id)
        await _body(send, feed.RETRY + first)
        checked_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(self._interval_s)
            if self._clock.monotonic() - checked_at >= SESSION_CHECK_S:
                checked_at = self._clock.monotonic()
                if not await self._sign_in.holds(session):
                    return
            after = self._fleet.get()
            await _body(send, feed.change_frame(before, after, epoch=self._epoch))
            before = after


def _signed_out() -> Refusal:
    message = "You are signed out. Make a new link with `zerogpu console-link`."
    return Refusal(401, "signed_out", message)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _body(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _farewell(send: Send, data: bytes) -> None:
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_FAREWELL_S):
            await send({"type": "http.response.body", "body": data, "more_body": False})
