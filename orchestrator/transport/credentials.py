"""How a node proves who it is: single-use nonces, key signatures, resume tickets.

An identity is the digest of a node's public key. A ticket names a node id and an identity, is
signed with the server's secret and lets a lost connection resume under the same node id.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections import Counter, OrderedDict
from typing import Final

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from browser_node import protocol as p
from browser_node.protocol import CloseCode, NodeId, ProtocolError
from orchestrator.clock import Clock
from orchestrator.domain.node_session import Admission
from orchestrator.domain.trust import Identity
from orchestrator.storage.nodes import key_digest

TICKET_LIFETIME_S: Final = 3600.0
# Far above what a fleet needs within a minute; beyond it the oldest are forgotten.
MAX_NONCES: Final = 20_000
MAX_NONCES_PER_NETWORK: Final = 128


class Nonces:
    """Random strings that are good once, for sixty seconds, and for the origin they were asked at.

    The origin is part of what the node signs: a signature cannot be relayed to another server.
    Each network may have 128 outstanding, so that one cannot push out those of the others.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._issued: OrderedDict[str, tuple[float, str, bytes]] = OrderedDict()
        self._outstanding: Counter[bytes] = Counter()

    def issue(self, origin: str, who: bytes) -> str | None:
        """Return a nonce for the network ``who``, or None when it has too many already."""
        now = self._clock.monotonic()
        while self._issued and (
            len(self._issued) >= MAX_NONCES or next(iter(self._issued.values()))[0] < now
        ):
            self._forget(next(iter(self._issued)))
        if self._outstanding[who] >= MAX_NONCES_PER_NETWORK:
            return None
        self._outstanding[who] += 1
        nonce = secrets.token_urlsafe(24)
        self._issued[nonce] = (now + p.NONCE_LIFETIME_S, origin, who)
        return nonce

    def redeem(self, nonce: str) -> str | None:
        """Return the origin ``nonce`` was issued for; None when unknown, stale or used."""
        if nonce not in self._issued:
            return None
        expires_at, origin = self._forget(nonce)
        return origin if expires_at >= self._clock.monotonic() else None

    def _forget(self, nonce: str) -> tuple[float, str]:
        expires_at, origin, who = self._issued.pop(nonce)
        self._outstanding[who] -= 1
        if not self._outstanding[who]:
            del self._outstanding[who]
        return expires_at, origin


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` (r‖s, 64 bytes) is the P-256 key's over ``message`` (IEEE P1363)."""
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


class Tickets:
    """Signs and checks resume tickets: base64url of msgpack [node id, identity, expiry] ‖ HMAC."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._key = hmac.digest(secret, b"zerogpu resume ticket", "sha256")
        self._clock = clock

    def issue(self, node_id: NodeId, identity: str) -> str:
        expires_at = int(self._clock.wall() + TICKET_LIFETIME_S)
        body: bytes = msgpack.packb([node_id, identity, expires_at])
        return base64.urlsafe_b64encode(body + hmac.digest(self._key, body, "sha256")).decode()

    def redeem(self, ticket: str, identity: str) -> NodeId | None:
        """Return the node id of a ticket that is ours, fresh and made out to ``identity``."""
        try:
            raw = base64.urlsafe_b64decode(ticket.encode())
        except ValueError:
            return None
        body, tag = raw[:-32], raw[-32:]
        if not hmac.compare_digest(tag, hmac.digest(self._key, body, "sha256")):
            return None
        node_id, owner, expires_at = msgpack.unpackb(body)
        if owner != identity or expires_at < self._clock.wall():
            return None
        return NodeId(node_id)


def new_node_id() -> NodeId:
    return NodeId(f"node_{secrets.token_hex(8)}")


class Gate:
    """Judges the hello of a stranger, and counts the sockets that each identity has open.

    A node id belongs to one identity for good, and a socket that resumes one replaces the socket
    that had it: what is limited is the number of different node ids.
    """

    def __init__(self, *, nonces: Nonces, tickets: Tickets, per_identity: int = 4) -> None:
        self._nonces = nonces
        self._tickets = tickets
        self._per_identity = per_identity
        self._open: dict[str, Counter[NodeId]] = {}
        self._owners: dict[NodeId, str] = {}

    def admit(self, hello: p.Hello) -> Admission:
        """Return the node's id and ticket; raises `ProtocolError` for credentials that fail.

        Each admission is to be given back with `release`.
        """
        origin = self._nonces.redeem(hello.nonce)
        if origin is None:
            raise ProtocolError(
                "the nonce is unknown, used or older than a minute: register again",
                CloseCode.BAD_CREDENTIALS,
            )
        message = p.signed_message(nonce=hello.nonce, origin=origin)
        if not verify_signature(hello.public_key, hello.signature, message):
            raise ProtocolError(
                "the signature does not fit the public key, nonce and origin",
                CloseCode.BAD_CREDENTIALS,
            )
        identity = key_digest(hello.public_key)
        node_id = None if hello.ticket is None else self._tickets.redeem(hello.ticket, identity)
        node_id = node_id or new_node_id()
        self._enter(node_id, identity)
        return Admission(node_id, self._tickets.issue(node_id, identity), Identity(identity))

    def release(self, node_id: NodeId) -> None:
        """One socket that was admitted as ``node_id`` is closed."""
        identity = self._owners[node_id]
        sockets = self._open[identity]
        sockets[node_id] -= 1
        if not sockets[node_id]:
            del sockets[node_id], self._owners[node_id]
        if not sockets:
            del self._open[identity]

    def _enter(self, node_id: NodeId, identity: str) -> None:
        sockets = self._open.get(identity, Counter())
        if node_id not in sockets and len(sockets) >= self._per_identity:
            raise ProtocolError(
                f"{len(sockets)} nodes with this key are connected already: close one of them",
                CloseCode.TOO_MANY,
            )
        sockets[node_id] += 1
        self._open[identity] = sockets
        self._owners[node_id] = identity


def admit_worker(_: p.Hello) -> Admission:
    """Admit the CPU worker: its private socket has already authenticated it."""
    return Admission(NodeId(f"cpu_{secrets.token_hex(4)}"), "")
