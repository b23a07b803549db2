"""The JSON of ``POST /register``: what a node tells of itself and what it is told."""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import urlsplit

import msgspec

from browser_node import session_events as ev
from browser_node.protocol import VERSION, Device, Runtime
from browser_node.session import Identity

# Too many nodes, or not now: worth another try. Every other refusal is for good.
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}


class _Request(msgspec.Struct, frozen=True):
    runtime: Runtime
    device: Device
    public_key: str


class _Reply(msgspec.Struct, frozen=True):
    protocol: int
    nonce: str
    origin: str
    socket: str


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error = _Error()
    retry_after_s: float | None = None


def request_json(identity: Identity) -> bytes:
    """Return the body of the request."""
    key = base64.b64encode(identity.public_key).decode()
    return msgspec.json.encode(_Request(identity.runtime, identity.device, key))


def read_reply(status: int, body: bytes, *, host: str) -> ev.Registered | ev.SetupFailed:
    """Return what the reply of the server at ``host`` means for the session.

    The origin to sign must be that server's own: otherwise it could have this node sign for another
    server and act there in its name. A proxy may change the scheme, so only the host counts.
    """
    try:
        if status == 200:
            reply = msgspec.json.decode(body, type=_Reply)
            if reply.protocol != VERSION:
                reason = f"The server speaks protocol {reply.protocol}, this node {VERSION}."
                return ev.SetupFailed(reason, permanent=True)
            if urlsplit(reply.origin).netloc.lower() != host.lower():
                reason = f"The server at {host} asked to sign for {reply.origin[:80]}."
                return ev.SetupFailed(reason, permanent=True)
            if not reply.socket.startswith("/"):
                reason = f"The server at {host} named {reply.socket[:80]!r} as its socket."
                return ev.SetupFailed(reason, permanent=True)
            return ev.Registered(reply.nonce, reply.origin, reply.socket)
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        refusal = _Refusal()
    reason = refusal.error.message or f"The server answered the registration with {status}."
    permanent = 400 <= status < 500 and status not in _PASSING
    return ev.SetupFailed(reason, refusal.retry_after_s, permanent)
