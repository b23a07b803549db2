"""The public API as one ASGI callable: routes, keys, errors, CORS, log; no framework on the way.

Order of refusals: unknown path (404), wrong method (405), key (401), project (403), the key's
concurrency (429), the body (413, 400), the model (404, 400, 420), the queues (503).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from orchestrator.api.asgi import (
    ClientGone,
    Header,
    error_body,
    error_headers,
    read_body,
    send_body,
)
from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.metrics import Metrics
from orchestrator.api.numbers import Numbers
from orchestrator.api.watch import Watch, Watches
from orchestrator.clock import Clock
from orchestrator.errors import (
    ApiError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
)
from orchestrator.settings import Settings
from orchestrator.storage.request_log import RequestLog, RequestRow

# Not a status of HTTP: what the log says of a client that left before its answer.
CLIENT_GONE: Final = 499

Endpoint = Callable[[Exchange, bytes], Awaitable[bytes]]
Reading = Callable[[Exchange, str], bytes]

_CORS: Final[tuple[Header, ...]] = (
    (b"vary", b"origin"),
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"x-request-id, x-inference-type, openai-processing-ms, retry-after",
    ),
)
_PREFLIGHT: Final[tuple[Header, ...]] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-max-age", b"86400"),
)
_DEFAULT_ALLOWED_HEADERS: Final = b"authorization, content-type, x-api-key, x-project-id"

log = structlog.get_logger("api")


class PublicApi:
    """Answers everything under ``/v1/``. Carries no state of its own but its parts.

    ``endpoints`` are asked with POST, by path; ``readings`` with GET, by a path that may have one
    placeholder in braces: what stands in its place is what they are given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        gate: Gate,
        endpoints: Mapping[str, Endpoint],
        readings: Mapping[str, Reading],
        request_log: RequestLog,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._body_max_bytes = settings.body_max_bytes
        self._watches = Watches(body_timeout_s=settings.body_timeout_s)
        self._gate = gate
        self._endpoints = endpoints
        self._readings = readings
        self._log = request_log
        self._metrics = metrics
        self._numbers = Numbers(clock.wall)
        self._monotonic = clock.monotonic
        self._wall = clock.wall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await _preflight(scope, send, self._numbers.next())
            return
        exchange = Exchange(
            self._gate,
            number=self._numbers.next(),
            endpoint=scope["path"],
            started_s=self._monotonic(),
            ts=self._wall(),
        )
        status, code = 200, None
        sent: dict[bytes, bytes] = dict(scope["headers"])
        headers: list[Header] = [(b"x-request-id", b"req_" + exchange.number.encode())]
        # Only pages send an origin, and only they need to be let in.
        if b"origin" in sent:
            headers += _CORS
        try:
            body = await self._answer(exchange, scope, sent, receive)
        except ApiError as error:
            status, code, body = error.status, error.code, error_body(error)
            headers += error_headers(error)
        except ClientGone:
            self._record(exchange, CLIENT_GONE, "client_disconnected")
            return
        except Exception:
            log.exception("request failed", request_id=exchange.request_id)
            fault = InternalError(
                f"Something went wrong on our side; it was logged as {exchange.request_id}."
            )
            status, code, body = fault.status, fault.code, error_body(fault)
        latency_s = self._monotonic() - exchange.started_s
        headers.append((b"openai-processing-ms", b"%d" % (latency_s * 1000)))
        if status == 200 and exchange.place is not None:
            headers.append((b"x-inference-type", exchange.place.encode()))
        try:
            await send_body(send, status, body, headers)
        finally:
            self._record(exchange, status, code)

    async def _answer(
        self, exchange: Exchange, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive
    ) -> bytes:
        endpoint = self._route(exchange, scope)
        principal = exchange.principal = await self._gate.identify(headers)
        self._gate.check(principal, headers)
        self._gate.enter(principal)
        watch = self._watches.start(receive)
        try:
            body = await read_body(
                receive,
                declared=headers.get(b"content-length"),
                limit=self._body_max_bytes,
                hold=exchange.hold,
            )
            watch.reading = False
            return await endpoint(exchange, body)
        except asyncio.CancelledError:
            _explain(watch)
            raise
        finally:
            self._watches.stop(watch)
            self._gate.leave(principal, exchange.held_bytes)

    def _route(self, exchange: Exchange, scope: Scope) -> Endpoint:
        path: str = scope["path"]
        endpoint = self._endpoints.get(path)
        allowed = "POST"
        if endpoint is None:
            endpoint = self._reading(exchange, path)
            allowed = "GET"
        if endpoint is None:
            exchange.endpoint = "other"
            raise NotFound(
                f"There is nothing at {path[:100]}; the routes are"
                f" {', '.join((*self._endpoints, *self._readings))}."
            )
        if scope["method"] != allowed:
            raise MethodNotAllowed(
                f"{path[:100]} is asked with {allowed}, not {scope['method'][:16]}.",
                allowed=f"{allowed}, OPTIONS",
            )
        return endpoint

    def _reading(self, exchange: Exchange, path: str) -> Endpoint | None:
        for route, reading in self._readings.items():
            name = _named(route, path)
            if name is not None:
                exchange.endpoint = route
                return _reader(reading, name)
        return None

    def _record(self, exchange: Exchange, status: int, code: str | None) -> None:
        """Count and log one request, whatever its route and however it ended."""
        latency_s = self._monotonic() - exchange.started_s
        self._metrics.answered(exchange.endpoint, status, exchange.place, latency_s)
        if status == 200 and exchange.model is not None:
            self._metrics.billed(exchange.model, exchange.input_tokens, exchange.output_tokens)
        principal = exchange.principal
        # Without a key there is no project whose log it could be, and strangers could fill a disk.
        if principal is None:
            return
        self._log.append(
            RequestRow(
                exchange.request_id,
                principal.project_id,
                principal.key_id,
                exchange.ts,
                exchange.model,
                exchange.endpoint,
                status,
                latency_s * 1000,
                exchange.place,
                exchange.input_tokens,
                exchange.output_tokens,
                exchange.attempts,
                exchange.node_id,
                code,
            )
        )


def _named(route: str, path: str) -> str | None:
    """Return what stands in ``path`` for the route's placeholder; None where it does not fit."""
    before, placeholder, rest = route.partition("{")
    if not placeholder:
        return "" if path == route else None
    after = rest.partition("}")[2]
    fits = path.startswith(before) and path.endswith(after)
    # Shorter than both together, their ends would overlap.
    if not fits or len(path) < len(before) + len(after):
        return None
    return path[len(before) : len(path) - len(after)]


def _reader(reading: Reading, name: str) -> Endpoint:
    async def read(exchange: Exchange, body: bytes) -> bytes:
        return reading(exchange, name)

    return read


def _explain(watch: Watch) -> None:
    """Turn a cancellation by our own watch into what it means; leave any other as it is."""
    if not (watch.client_gone or watch.timed_out):
        return
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    if watch.client_gone:
        raise ClientGone
    raise RequestTimeout("The request's body did not arrive in time: send it again.")


async def _preflight(scope: Scope, send: Send, number: str) -> None:
    """Answer a browser that asks whether its page may call: any may, as a key is what counts."""
    headers = dict(scope["headers"])
    # OpenAI's clients send a dozen headers of their own, and a wildcard would not cover them all.
    wanted = headers.get(b"access-control-request-headers", _DEFAULT_ALLOWED_HEADERS)
    await send(
        {
            "type": "http.response.start",
            "status": 204,
            "headers": [
                *_PREFLIGHT,
                (b"access-control-allow-headers", wanted),
                (b"vary", b"access-control-request-headers"),
                (b"x-request-id", b"req_" + number.encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": b""})
