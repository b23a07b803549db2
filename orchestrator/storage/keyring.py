"""Who a key belongs to, answered from memory; a miss is one lookup in a thread, off the event loop.

Rules: an entry is believed for ``ttl_s``, then looked up again, so that what another process does
(revoke a key, change a project's rules) acts within that time. Unknown keys are remembered too, in
a list of their own: guessing cannot push real keys out. Nor can it hold them up: a key known to be
good is looked up again in a lane of its own, past all that wait for the first time, which are
bounded. Requests with the same key share one lookup. While the database cannot be read, keys that
were good go on being good for ``GRACE_S``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2s
from typing import Final

import structlog

from orchestrator.errors import Overloaded, Unavailable
from orchestrator.storage.keys import Pepper, Principal

GRACE_S: Final = 600.0
_LOOKUPS_MAX: Final = 256
_THREADS: Final = 2

log = structlog.get_logger("keys")

Lookup = Callable[[bytes], Principal | None]


@dataclass(eq=False)
class _Entry:
    principal: Principal | None
    looked_up_at: float
    believed_until: float


class _Lane:
    """Lookups under way, by the index of the key, and the threads that they take turns in."""

    def __init__(self, name: str) -> None:
        self.pending: dict[bytes, asyncio.Task[Principal | None]] = {}
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)


class Keyring:
    """``lookup`` finds a key by its digest under ``pepper``; it runs in a thread and may raise.

    Memory goes by a digest of its own, which takes a quarter of the other's time at every request:
    keyed with a secret of this process, it is worth as little to who reads or guesses it.
    """

    def __init__(
        self,
        pepper: Pepper,
        lookup: Lookup,
        *,
        monotonic: Callable[[], float],
        ttl_s: float,
        max_entries: int,
    ) -> None:
        self._pepper = pepper
        self._lookup = lookup
        self._monotonic = monotonic
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._known: dict[bytes, _Entry] = {}
        self._unknown: dict[bytes, _Entry] = {}
        self._keyed = blake2s(key=secrets.token_bytes(blake2s.MAX_KEY_SIZE))
        self._first = _Lane("keys")
        self._again = _Lane("known-keys")

    def cached(self, api_key: bytes) -> tuple[bool, Principal | None]:
        """Return (whether memory can tell, whose key it is)."""
        index = self._index(api_key)
        entry = self._known.get(index) or self._unknown.get(index)
        if entry is None or self._monotonic() > entry.believed_until:
            return False, None
        return True, entry.principal

    async def find(self, api_key: bytes) -> Principal | None:
        """Return whose key it is, looking it up if memory cannot tell.

        Raises `Overloaded` when too many keys are looked up for the first time: someone is
        guessing.
        """
        certain, principal = self.cached(api_key)
        if certain:
            return principal
        index = self._index(api_key)
        lane = self._again if index in self._known else self._first
        task = lane.pending.get(index)
        if task is None:
            # There are never more keys to be looked up again than are known.
            if lane is self._first and len(lane.pending) >= _LOOKUPS_MAX:
                raise Overloaded(
                    f"{_LOOKUPS_MAX} keys are being looked up already: try again in a second.",
                    retry_after_s=1,
                )
            task = asyncio.create_task(self._look_up(lane, index, self._pepper.digest(api_key)))
            lane.pending[index] = task
        # Shielded: one waiting client that leaves must not end the lookup for the others.
        return await asyncio.shield(task)

    def forget_all(self) -> None:
        """Believe nothing any more: called when this process itself changed a key."""
        self._known.clear()
        self._unknown.clear()
        self._first.pending.clear()
        self._again.pending.clear()

    def close(self) -> None:
        for lane in (self._first, self._again):
            lane.threads.shutdown(wait=False, cancel_futures=True)

    def _index(self, api_key: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(api_key)
        return keyed.digest()

    async def _look_up(self, lane: _Lane, index: bytes, digest: bytes) -> Principal | None:
        started_at = self._monotonic()
        try:
            principal = await asyncio.get_running_loop().run_in_executor(
                lane.threads, self._lookup, digest
            )
        except Exception as error:
            log.error("keys cannot be looked up", error=str(error))
            stale = self._known.get(index)
            if stale is not None and started_at - stale.looked_up_at <= GRACE_S:
                # Not asked again at every request: the database has enough to do.
                self._known[index] = replace(stale, believed_until=started_at + self._ttl_s)
                return stale.principal
            raise Unavailable(
                "API keys cannot be checked at the moment: try again in a few seconds.",
                code="key_check_unavailable",
                retry_after_s=5,
            ) from error
        finally:
            # After `forget_all` this lookup is nobody's any more: what it found may be out of date.
            wanted = lane.pending.get(index) is asyncio.current_task()
            if wanted:
                del lane.pending[index]
        if wanted:
            self._remember(index, _Entry(principal, started_at, started_at + self._ttl_s))
        return principal

    def _remember(self, index: bytes, entry: _Entry) -> None:
        self._known.pop(index, None)
        self._unknown.pop(index, None)
        entries = self._unknown if entry.principal is None else self._known
        while len(entries) >= self._max_entries:
            # Dicts keep their order: the first is the one that was looked up longest ago.
            del entries[next(iter(entries))]
        entries[index] = entry
