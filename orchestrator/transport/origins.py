"""Which Host names this server answers to, and which Origins may change something on it.

Pure: built once from the settings, asked per request by the pages, `/register` and the node socket.
The Host check stops DNS rebinding (a foreign name pointed at this machine), the Origin check stops
other sites from using a visitor's browser as their hand.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from orchestrator.settings import Settings

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 — recognised, not bound
_SECURE: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Origins:
    """``hosts`` are names without port; ``own`` are full origins such as ``https://example.org``.

    ``any_address`` admits every IP literal as Host: rebinding needs a name.
    """

    hosts: frozenset[str]
    own: frozenset[str]
    any_address: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Origins:
        """Derive the lists from the address listened on, the public URL and the allow-list."""
        names = {name.lower() for name in settings.allowed_hosts} | _LOOPBACK
        own = set()
        if settings.public_url is not None:
            parts = urlsplit(settings.public_url)
            if parts.hostname:
                names.add(parts.hostname)
                own.add(origin_of(parts.scheme, parts.netloc))
        everywhere = settings.host in _EVERYWHERE
        if not everywhere:
            names.add(settings.host.lower())
        return cls(hosts=frozenset(names), own=frozenset(own), any_address=everywhere)

    def serves(self, host: str | None) -> bool:
        """Whether a request with this Host header is meant for this server."""
        name = _name_of(host)
        if name is None:
            return False
        return name in self.hosts or "*" in self.hosts or (self.any_address and _is_address(name))

    def admits(self, origin: str | None, *, scheme: str, host: str | None) -> bool:
        """Whether a request with this Origin may change something here.

        Browsers always send an Origin with a POST and a WebSocket, so its absence means a native
        client. ``scheme`` is the request's own (http, https, ws or wss).
        """
        if origin is None:
            return True
        if origin.lower() in self.own:
            return True
        return self.serves(host) and origin.lower() == origin_of(scheme, host or "")


def origin_of(scheme: str, host: str) -> str:
    """Return the origin a browser would name: scheme and host, the default port left out."""
    scheme = _SECURE.get(scheme, scheme)
    host = host.lower()
    default = ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host.removesuffix(default)}"


def _name_of(host: str | None) -> str | None:
    """Return the name in a Host header without port and brackets; None when it is malformed."""
    if not host:
        return None
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port  # raises ValueError for a port that is none
    except ValueError:
        return None
    if parts.hostname is None or parts.username is not None or parts.path or port == 0:
        return None
    return parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
