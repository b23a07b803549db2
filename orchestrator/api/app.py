"""The public API as one ASGI callable: routes, keys, errors, CORS, log; no framework on the way.

Order of refusals: unknown path (404), one without its id (400), wrong method (405), key (401),
project (403), requests at once and per minute (429), the Idempotency-Key (400), the body (415, 413,
409, 400), the model (404, 400, 420), tokens per minute (429), the queues (503). Unknown paths and
wrong methods count as requests of a good key, and beyond its limit are answered 429.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog
from sqlalchemy.exc import OperationalError
from starlette.types import Receive, Scope, Send

from orchestrator.api.arrivals import Arrivals
from orchestrator.api.asgi import (
    ClientGone,
    Header,
    digits,
    error_body,
    error_headers,
    read_body,
    refuse_encoded,
    send_body,
)
from orchestrator.api.endpoints import Endpoint
from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.idempotency import (
    KEY_HEADER,
    Idempotency,
    Turn,
    digest_of,
    idempotency_key,
    kept_error,
    kept_reply,
    replay,
)
from orchestrator.api.limits import Limits
from orchestrator.api.numbers import Numbers
from orchestrator.api.recorder import Recorder
from orchestrator.api.reply import INFERENCE_TYPE, Handler, Reply, Streamed
from orchestrator.api.routes import Route, Routes
from orchestrator.api.streaming import send_stream
from orchestrator.api.watch import Watch, Watches
from orchestrator.clock import Clock
from orchestrator.errors import (
    ApiError,
    BodyCutOff,
    InternalError,
    Overloaded,
    RequestTimeout,
    Unauthorized,
    Unavailable,
)
from orchestrator.settings import Settings
from orchestrator.storage.database import was_refused
from orchestrator.storage.idempotent import Scope as KeyScope
from orchestrator.transport.cycle import WHOLE_ANSWER, fields_of, in_two
from orchestrator.transport.http import LINGER_S
from orchestrator.transport.preflight import send_preflight

# Not a status of HTTP: what the log says of a client that left before its answer.
CLIENT_GONE: Final = 499

_CORS: Final[tuple[Header, ...]] = (
    (b"vary", b"origin"),
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"x-request-id, x-inference-type, openai-processing-ms, retry-after, idempotent-replayed,"
        b" x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests,"
        b" x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens,"
        b" content-disposition, etag",
    ),
)
# Behind the value of another.
_NO_STORE: Final = b"\r\ncache-control: no-store\r\n"
_INFERENCE_TYPE: Final = {place: b"%b: %b\r\n" % field for place, field in INFERENCE_TYPE.items()}

log = structlog.get_logger("api")


class PublicApi:
    """Answers every route of ``endpoints`` by its handler. Carries no state but its parts."""

    def __init__(
        self,
        settings: Settings,
        *,
        gate: Gate,
        limits: Limits,
        idempotency: Idempotency,
        endpoints: Iterable[Endpoint],
        handlers: Mapping[str, Handler],
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._body_max_bytes = settings.body_max_bytes
        self._watches = Watches(body_timeout_s=settings.body_timeout_s)
        self._arrivals = Arrivals()
        self._gate = gate
        self._limits = limits
        self._idempotency = idempotency
        self._routes = Routes(endpoints, handlers)
        self._recorder = recorder
        self._numbers = Numbers(clock.wall)
        self._monotonic = clock.monotonic
        self._wall = clock.wall

    async def stop(self, within_s: float) -> None:
        """Let bodies on their way arrive within ``within_s``; who still sends one is told 503."""
        await self._arrivals.stop(within_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            request_id = b"req_" + self._numbers.next().encode()
            await send_preflight(scope, send, own=[(b"x-request-id", request_id)])
            return
        sent: dict[bytes, bytes] = dict(scope["headers"])
        ts = self._wall()
        number = self._numbers.at(ts)
        exchange = Exchange(
            self._gate,
            number,
            scope["path"],
            self._monotonic(),
            ts,
            sent,
            scope["query_string"],
            receive,
        )
        status, code = 200, None
        headers: list[Header] = []
        # Only pages send an origin, and only they need to be let in.
        if b"origin" in sent:
            headers += _CORS
        content_type = b"application/json"
        own: Sequence[Header] = ()
        cut_off = False
        try:
            reply = await self._answer(exchange, scope, receive, send, headers)
            if isinstance(reply, bytes):
                body = reply
            elif isinstance(reply, Streamed):
                self._recorder.record(exchange, 200, None)
                return
            else:
                status, code = reply.status, reply.code
                body, content_type = reply.body, reply.content_type
                own = reply.headers
                headers += own
        except ApiError as error:
            status, code, body = error.status, error.code, error_body(error)
            headers += error_headers(error)
            cut_off = isinstance(error, BodyCutOff)
        except ClientGone:
            self._recorder.record(exchange, CLIENT_GONE, "client_disconnected")
            return
        except _BrokeOff as broken:
            self._recorder.record(exchange, broken.error.status, broken.error.code)
            return
        except Exception as error:
            fault = _fault(exchange, error)
            status, code, body = fault.status, fault.code, error_body(fault)
            headers += error_headers(fault)
        lines = self._lines(exchange, status, own)
        try:
            if cut_off:
                await _send_last(send, receive, status, body, headers, lines)
                return
            await send_body(
                send, status, body, headers, lines=lines, content_type=content_type, scope=scope
            )
        finally:
            self._recorder.record(exchange, status, code)

    async def _answer(
        self,
        exchange: Exchange,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: list[Header],
    ) -> Reply:
        """Return the reply; one that flows has been sent when this returns."""
        sent = exchange.headers
        try:
            route = self._route(exchange, scope)
        except ApiError:
            await self._count_stray(exchange)
            raise
        principal = self._gate.recognise(sent) or await self._gate.identify(sent)
        exchange.principal = principal
        # Before anything is counted: a key that leaked must not use up what its project may.
        self._gate.check(principal, sent)
        self._gate.enter(principal)
        watch, turn = self._watches.start(receive), None
        try:
            self._limits.admit(principal)
            if scope["method"] == "POST":
                if KEY_HEADER in sent:
                    exchange.scope = KeyScope(
                        principal.project_id,
                        principal.key_id,
                        scope["path"],
                        idempotency_key(sent[KEY_HEADER]),
                    )
                refuse_encoded(sent.get(b"content-encoding"))
            body = b""
            if route.reads_body:
                if scope["method"] == "POST":
                    self._arrivals.begin(watch)
                body = await read_body(
                    receive,
                    declared=sent.get(b"content-length"),
                    limit=self._body_max_bytes,
                    hold=exchange.hold,
                )
                self._arrivals.end(watch)
                watch.reading = False
            else:
                # Whoever reads the body watches over its pace.
                self._watches.stop(watch)
                exchange.receive = self._arrivals.follow(watch)
            # What reads its body by itself also settles by itself whether it came before.
            if exchange.scope is not None and route.reads_body:
                got = await self._idempotency.begin(exchange.scope, digest_of(body))
                if not isinstance(got, Turn):
                    return replay(got)
                turn, exchange.billed = got, got.billed
            reply = await route.handler(exchange, body)
            if isinstance(reply, Streamed):
                if turn is not None:
                    reply = turn.relay(reply, exchange)
                self._watches.resume(watch)
                await self._relay(exchange, reply, send, headers, watch)
            elif turn is not None:
                turn.end(kept_reply(reply, exchange.place))
            return reply
        except ApiError as error:
            if turn is not None:
                turn.end(kept_error(error))
            raise
        except asyncio.CancelledError:
            _explain(watch, self._arrivals)
            raise
        finally:
            if turn is not None:
                turn.release()
            self._watches.stop(watch)
            self._arrivals.end(watch)
            self._gate.leave(principal, exchange.held_bytes)

    async def _count_stray(self, exchange: Exchange) -> None:
        """Count a request that no route takes as any other of its key, if that is good.

        Raises `errors.RateLimited`: each is a row of the log, too.
        """
        sent, principal = exchange.headers, None
        with contextlib.suppress(Unauthorized, Overloaded):
            principal = self._gate.recognise(sent) or await self._gate.identify(sent)
        if principal is not None and not principal.revoked:
            exchange.principal = principal
            self._limits.admit(principal)

    def _route(self, exchange: Exchange, scope: Scope) -> Route:
        route, name, label = self._routes.find(scope["method"], scope["path"])
        if name or label != exchange.endpoint:
            exchange.name, exchange.endpoint = name, label
        if isinstance(route, ApiError):
            try:
                raise route
            finally:
                # Its traceback holds this frame: no cycle of the two.
                del route
        return route

    async def _relay(
        self,
        exchange: Exchange,
        reply: Streamed,
        send: Send,
        headers: list[Header],
        watch: Watch,
    ) -> None:
        """Send an answer that flows; once it began, what goes wrong can only end it early."""
        headers += reply.headers
        headers.append((b"content-type", reply.content_type))
        if reply.length is not None:
            headers.append((b"content-length", b"%d" % reply.length))
        headers += fields_of(self._lines(exchange, 200, reply.headers))
        async with contextlib.aclosing(reply.pieces) as pieces:
            try:
                await send_stream(send, 200, pieces, headers)
            except ApiError as error:
                if reply.tells_errors:
                    await send({"type": "http.response.body", "body": b""})
                raise _BrokeOff(error) from error
            except asyncio.CancelledError as error:
                if watch.client_gone or not self._arrivals.over:
                    raise
                raise _BrokeOff(self._arrivals.why(watch)) from error
            except Exception as error:
                raise _BrokeOff(_fault(exchange, error)) from error

    def _lines(self, exchange: Exchange, status: int, own: Sequence[Header]) -> bytes:
        """Return the headers of every answer, as lines; ``own`` are those its route gave it."""
        now = self._monotonic()
        processing_ms = int((now - exchange.started_s) * 1000)
        # Made for one key at one moment, unless the route said otherwise.
        is_stored = own and b"cache-control" in dict(own)
        principal, place = exchange.principal, exchange.place
        return b"".join(
            (
                b"x-request-id: req_",
                exchange.number.encode(),
                b"\r\nopenai-processing-ms: ",
                digits(processing_ms),
                b"\r\n" if is_stored else _NO_STORE,
                b"" if principal is None else self._limits.lines(principal, now=now),
                b"" if place is None or status != 200 else _INFERENCE_TYPE[place],
            )
        )


class _BrokeOff(Exception):
    """An answer that had begun could not be finished."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def _fault(exchange: Exchange, error: Exception) -> ApiError:
    """Log what went wrong on our side; returns what the customer is told."""
    if isinstance(error, OperationalError) and was_refused(error):
        reason = f"{type(error.orig).__name__}: {error.orig}"
        log.error("database refused", request_id=exchange.request_id, error=reason)
        return Unavailable(
            "The server cannot write its database just now; try again.", retry_after_s=5
        )
    log.error("request failed", request_id=exchange.request_id, exc_info=error)
    return InternalError(
        f"Something went wrong on our side; it was logged as {exchange.request_id}."
    )


async def _send_last(
    send: Send, receive: Receive, status: int, body: bytes, headers: list[Header], lines: bytes
) -> None:
    """Answer a request that is still being sent, and close.

    Closed while more comes, the socket would be reset, and the answer lost with it: the client is
    heard out until it has read the answer, but for no longer than `LINGER_S`.
    """
    headers += ((b"content-type", b"application/json"), (b"connection", b"close"))
    start, whole = in_two(
        {
            "type": WHOLE_ANSWER,
            "status": status,
            "headers": headers,
            "lines": lines,
            "body": body,
        }
    )
    await send(start)
    await send({**whole, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


def _explain(watch: Watch, arrivals: Arrivals) -> None:
    """Turn a cancellation by our own watch, or by our stopping, into what it means.

    Leaves any other as it is.
    """
    if not (watch.client_gone or watch.timed_out or arrivals.over):
        return
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    if watch.client_gone:
        raise ClientGone
    if not watch.timed_out:
        raise arrivals.why(watch)
    raise RequestTimeout("The request's body did not arrive in time: send it again.")
