"""How many sockets there may be: in all, from one address, and before a good hello.

Addresses are kept only as a salted hash, and the salt changes daily: counting needs no names.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Final

from orchestrator.clock import Clock

SALT_LIFETIME_S: Final = 86_400.0


@dataclass(slots=True, eq=False)
class Place:
    """One counted socket; give it back with `SocketCaps.leave`."""

    who: bytes
    welcomed: bool = False


class SocketCaps:
    def __init__(self, *, total: int, per_address: int, unwelcomed: int, clock: Clock) -> None:
        self._total_max = total
        self._per_address_max = per_address
        self._unwelcomed_max = unwelcomed
        self._clock = clock
        self._salt = secrets.token_bytes(16)
        self._salt_until = clock.monotonic() + SALT_LIFETIME_S
        # Two nodes must not seem to be of two networks because a day lies between their coming:
        # this salt lasts as long as the process, and so does what is made with it.
        self._network_salt = secrets.token_bytes(16)
        self._by_address: Counter[bytes] = Counter()
        self._total = 0
        self._unwelcomed = 0

    @property
    def total(self) -> int:
        """Sockets counted now."""
        return self._total

    def enter(self, address: str) -> Place | None:
        """Count a new socket, or return None when it is one too many."""
        if self._clock.monotonic() >= self._salt_until:
            # Sockets still open under the old salt are no longer counted against their address.
            self._salt = secrets.token_bytes(16)
            self._salt_until = self._clock.monotonic() + SALT_LIFETIME_S
        who = self.who(address)
        if (
            self._total >= self._total_max
            or self._unwelcomed >= self._unwelcomed_max
            or self._by_address[who] >= self._per_address_max
        ):
            return None
        self._by_address[who] += 1
        self._total += 1
        self._unwelcomed += 1
        return Place(who)

    def who(self, address: str) -> bytes:
        """Return the salted hash of the network an address stands for."""
        return _hashed(address, self._salt)

    def network(self, address: str) -> str:
        """Return a hash of the network that stays the same while the process runs."""
        return _hashed(address, self._network_salt).hex()

    def welcome(self, place: Place) -> None:
        """The socket has said a good hello."""
        if not place.welcomed:
            place.welcomed = True
            self._unwelcomed -= 1

    def leave(self, place: Place) -> None:
        self.welcome(place)
        self._total -= 1
        self._by_address[place.who] -= 1
        if not self._by_address[place.who]:
            del self._by_address[place.who]


def _hashed(address: str, salt: bytes) -> bytes:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        name = address  # a Unix socket has no address
    else:
        # One customer of a provider has a whole /64: its addresses count as one.
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else ip
        name = str(mapped or ipaddress.ip_network(f"{address}/64", strict=False))
    return hashlib.blake2b(name.encode(), key=salt, digest_size=16).digest()
