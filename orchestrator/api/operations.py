"""``/healthz``, ``/readyz`` and ``/metrics``: for whoever runs the server."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from typing import Final

import orjson
from starlette.types import Receive, Scope, Send

from orchestrator.api.asgi import error_body, error_headers, send_body
from orchestrator.api.metrics import CONTENT_TYPE, Metrics
from orchestrator.errors import ApiError, Forbidden, MethodNotAllowed, NotFound

PATHS: Final = ("/healthz", "/readyz", "/metrics")
_NOT_READY: Final = orjson.dumps(
    {
        "status": "not ready",
        "reason": "The server is starting or stopping, or its CPU worker is not calibrated yet.",
    }
)


class Operations:
    """An ASGI app for `PATHS`."""

    def __init__(self, metrics: Metrics, *, ready: Callable[[], bool], token: str | None) -> None:
        self._metrics = metrics
        self._ready = ready
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] not in {"GET", "HEAD"}:
                raise MethodNotAllowed(f"{scope['path']} is read with GET.", allowed="GET, HEAD")
            match scope["path"]:
                case "/healthz":
                    await send_body(send, 200, b'{"status":"ok"}')
                case "/readyz":
                    await self._readyz(send)
                case "/metrics":
                    self._check_reader(scope)
                    await send_body(send, 200, self._metrics.render(), content_type=CONTENT_TYPE)
                case path:
                    raise NotFound(f"There is nothing at {path[:100]}.")
        except ApiError as error:
            await send_body(send, error.status, error_body(error), error_headers(error))

    async def _readyz(self, send: Send) -> None:
        if self._ready():
            await send_body(send, 200, b'{"status":"ready"}')
        else:
            await send_body(send, 503, _NOT_READY, [(b"retry-after", b"1")])

    def _check_reader(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self._token is not None:
            presented = headers.get(b"authorization", b"")
            if hmac.compare_digest(presented, b"Bearer " + self._token.encode()):
                return
        if not _from_this_machine(scope["client"], headers):
            raise Forbidden(
                "Metrics are for this machine only, or for readers with the token that"
                " ZEROGPU_METRICS_TOKEN sets, as a Bearer token.",
                code="metrics_forbidden",
            )


def _from_this_machine(client: tuple[str, int] | None, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the request was made here, not handed on by a proxy that runs here."""
    if client is None or b"x-forwarded-for" in headers or b"forwarded" in headers:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
