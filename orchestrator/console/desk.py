"""Where an operator asks and orders: JSON in, JSON out, for signed-in browsers only.

Routes, all answered with no-store; errors are ``{"error": {code, message}}``:

    GET  /console/decisions?limit=100                                placements, newest first
    GET  /console/standings?only=quarantined|banned|disagreed&limit=100&offset=0
    GET  /console/standings/{identity}/{kind}/{backend}              a standing with its evidence
    GET  /console/actions?limit=100                                  the audit log, newest first
    POST /console/nodes/{node_id}  {"order": "drain"|"resume"}
    POST /console/standings/{identity}/{kind}/{backend}  {"order": "quarantine"|"ban"|"release"}
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, TypeVar, get_args
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Scope, Send

from orchestrator.console.control import Control, NodeOrder, StandingOrder
from orchestrator.console.replies import Refusal, reply, reply_json
from orchestrator.domain.trust import Identity, RuntimeClass
from orchestrator.storage.standings import Only
from orchestrator.transport.headers import header
from orchestrator.transport.origins import Origins

BODY_MAX_BYTES: Final = 4 << 10
LIMIT_MAX: Final = 500
_LIMIT: Final = 100
_OFFSET_MAX: Final = 1_000_000

_IDENTITY: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_T = TypeVar("_T")


class _ToNode(msgspec.Struct, frozen=True):
    order: NodeOrder


class _ToIdentity(msgspec.Struct, frozen=True):
    order: StandingOrder


class Desk:
    """Answers the routes above; the caller has seen that ``session`` is signed in."""

    def __init__(self, control: Control, *, origins: Origins) -> None:
        self._control = control
        self._origins = origins

    def serves(self, path: str) -> bool:
        """Whether a path is one of the routes above, whatever stands in its places."""
        return _parts(path) is not None

    async def answer(self, scope: Scope, receive: Receive, send: Send, *, session: str) -> None:
        """Answer one request; raises `Refusal`."""
        parts = _parts(scope["path"]) or []
        method: str = scope["method"]
        match method, parts:
            case "GET", ["decisions"]:
                limit = _number(scope, "limit", default=_LIMIT, most=LIMIT_MAX)
                await reply_json(scope, send, {"data": self._control.decisions(limit)})
            case "GET", ["actions"]:
                limit = _number(scope, "limit", default=_LIMIT, most=LIMIT_MAX)
                await reply_json(scope, send, {"data": await self._control.actions(limit)})
            case "GET", ["standings"]:
                await self._standings(scope, send)
            case "GET", ["standings", _, _, _]:
                await self._standing(scope, send, parts)
            case "POST", ["standings", _, _, _]:
                await self._order_standing(scope, receive, send, parts, _label(session))
            case "POST", ["nodes", _]:
                await self._order_node(scope, receive, send, parts[1], _label(session))
            case _, ["nodes", _]:
                await reply(scope, send, 405, headers=[(b"allow", b"POST")])
            case _, ["standings", _, _, _]:
                await reply(scope, send, 405, headers=[(b"allow", b"GET, POST")])
            case _:
                await reply(scope, send, 405, headers=[(b"allow", b"GET")])

    async def _standings(self, scope: Scope, send: Send) -> None:
        only = _choice(scope, "only")
        limit = _number(scope, "limit", default=_LIMIT, most=LIMIT_MAX)
        offset = _number(scope, "offset", default=0, most=_OFFSET_MAX)
        # One more than asked for tells whether there is another page.
        found = await self._control.standings(only, limit=limit + 1, offset=offset)
        await reply_json(scope, send, {"data": found[:limit], "more": len(found) > limit})

    async def _standing(self, scope: Scope, send: Send, parts: list[str]) -> None:
        identity, runtime = _subject(parts)
        found = await self._control.standing(identity, runtime)
        if found is None:
            raise _unknown(identity, runtime)
        await reply_json(scope, send, found)

    async def _order_standing(
        self, scope: Scope, receive: Receive, send: Send, parts: list[str], who: str
    ) -> None:
        self._check_origin(scope)
        identity, runtime = _subject(parts)
        body = await _body(scope, receive)
        order = _parse(body, _ToIdentity, "quarantine, ban or release").order
        if not await self._control.order_standing(identity, runtime, order, who=who):
            raise _unknown(identity, runtime)
        await reply_json(scope, send, {"order": order})

    async def _order_node(
        self, scope: Scope, receive: Receive, send: Send, node_id: str, who: str
    ) -> None:
        self._check_origin(scope)
        if not _NAME.fullmatch(node_id):
            raise Refusal(400, "invalid_node", f"{node_id[:64]!r} cannot be a node's id.")
        order = _parse(await _body(scope, receive), _ToNode, "drain or resume").order
        if not await self._control.order_node(node_id, order, who=who):
            message = f"Node {node_id} is not connected any more, so nothing was changed."
            raise Refusal(404, "not_connected", message)
        await reply_json(scope, send, {"order": order})

    def _check_origin(self, scope: Scope) -> None:
        origin, host = header(scope, b"origin"), header(scope, b"host")
        if not self._origins.admits(origin, scheme=scope["scheme"], host=host):
            message = f"An order from {origin} is not taken: only this server's pages may give one."
            raise Refusal(403, "foreign_origin", message)


def _parts(path: str) -> list[str] | None:
    parts = path.removeprefix("/console/").split("/")
    lengths = {"decisions": (1,), "actions": (1,), "standings": (1, 4), "nodes": (2,)}
    return parts if len(parts) in lengths.get(parts[0], ()) else None


def _label(session: str) -> str:
    """Return how the audit log names a browser: the start of its session's digest opens nothing."""
    return f"console {hashlib.sha256(session.encode()).hexdigest()[:8]}"


def _subject(parts: list[str]) -> tuple[Identity, RuntimeClass]:
    _, identity, kind, backend = parts
    if not _IDENTITY.fullmatch(identity):
        message = f"{identity[:64]!r} is not an identity: it has 64 hexadecimal digits."
        raise Refusal(400, "invalid_identity", message)
    if not (_NAME.fullmatch(kind) and _NAME.fullmatch(backend)):
        message = f"{f'{kind}/{backend}'[:64]!r} is not a runtime such as browser/wasm."
        raise Refusal(400, "invalid_runtime", message)
    return Identity(identity), RuntimeClass(f"{kind}/{backend}")


def _unknown(identity: Identity, runtime: RuntimeClass) -> Refusal:
    message = f"Nothing is known of identity {identity[:12]}… in {runtime}."
    return Refusal(404, "unknown_identity", message)


def _query(scope: Scope, name: str) -> str | None:
    values = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name)
    return values[0] if values else None


def _number(scope: Scope, name: str, *, default: int, most: int) -> int:
    text = _query(scope, name)
    if text is None:
        return default
    least = 1 if name == "limit" else 0
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        message = f"{name} is {text[:40]!r}; it must be a whole number from {least} to {most}."
        raise Refusal(400, f"invalid_{name}", message)
    return int(text)


def _choice(scope: Scope, name: str) -> Only:
    text = _query(scope, name)
    for choice in get_args(Only):
        if text in (None, choice):
            return choice  # type: ignore[no-any-return]
    message = f"{name} is {(text or '')[:40]!r}; it must be {' or '.join(get_args(Only))}."
    raise Refusal(400, f"invalid_{name}", message)


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return the whole body; raises `Refusal` when it is longer than any order."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "incomplete", "The order broke off before its end.")
        body += message.get("body", b"")
        if len(body) > BODY_MAX_BYTES:
            text = f"An order has at most {BODY_MAX_BYTES:,} bytes; this one is longer."
            raise Refusal(413, "too_large", text)
        if not message.get("more_body"):
            return bytes(body)


def _parse(body: bytes, kind: type[_T], allowed: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f'The order is not clear: {error}. Send {{"order": …}} with {allowed}.'
        raise Refusal(400, "invalid_order", message) from None
