"""The attempts a node holds, each until its lease ends, and how results become frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from browser_node.protocol import (
    MAX_FRAME_BYTES,
    MAX_ITEMS,
    JobItem,
    Result,
    Results,
    Revealed,
    Shown,
)

_Item = TypeVar("_Item")

# Room for the ids and numbers around the blobs of one result, and of the frame itself.
_OVERHEAD_BYTES: Final = 256


@dataclass(slots=True)
class Attempts:
    """Lease ends by attempt id, in monotonic seconds."""

    _lease_at: dict[str, float] = field(default_factory=dict)

    def __contains__(self, attempt_id: object) -> bool:
        return attempt_id in self._lease_at

    def __iter__(self) -> Iterator[str]:
        return iter(self._lease_at)

    @property
    def full(self) -> bool:
        return len(self._lease_at) >= MAX_ITEMS

    def hold(self, item: JobItem, *, now: float) -> None:
        self._lease_at[item.attempt_id] = now + item.lease_s

    def running(self, attempt_id: str, *, now: float) -> bool:
        """Whether the attempt is held and its lease is still running."""
        lease_at = self._lease_at.get(attempt_id)
        return lease_at is not None and now < lease_at

    def release(self, attempt_id: str | None, *, now: float) -> bool:
        """Forget an attempt; true when it was held and its lease was still running."""
        if attempt_id is None:
            return False
        lease_at = self._lease_at.pop(attempt_id, None)
        return lease_at is not None and now < lease_at

    def forget(self, attempt_ids: Iterable[str]) -> tuple[str, ...]:
        """Forget attempts whatever their leases; returns those that were held."""
        known = tuple(key for key in dict.fromkeys(attempt_ids) if key in self._lease_at)
        for key in known:
            del self._lease_at[key]
        return known

    def expired(self, *, now: float) -> tuple[str, ...]:
        return tuple(key for key, lease_at in self._lease_at.items() if lease_at <= now)


def fits(result: Result) -> bool:
    """Whether ``result`` alone fits into one frame."""
    return _size(result) + _OVERHEAD_BYTES <= MAX_FRAME_BYTES


def pack(results: Iterable[Result]) -> list[Results]:
    """Put results that each fit into as few frames as their order allows."""
    return [Results(items=items) for items in _packed(results, _size)]


def pack_shown(shown: Iterable[Shown]) -> list[Revealed]:
    """Put evidence, of results that each fitted with it, into as few frames as its order allows."""
    return [Revealed(items=items) for items in _packed(shown, _shown_size)]


def _packed(items: Iterable[_Item], size_of: Callable[[_Item], int]) -> Iterator[tuple[_Item, ...]]:
    batch: list[_Item] = []
    size_bytes = _OVERHEAD_BYTES
    for item in items:
        item_bytes = size_of(item)
        if batch and (size_bytes + item_bytes > MAX_FRAME_BYTES or len(batch) == MAX_ITEMS):
            yield tuple(batch)
            batch, size_bytes = [], _OVERHEAD_BYTES
        batch.append(item)
        size_bytes += item_bytes
    if batch:
        yield tuple(batch)


def _size(result: Result) -> int:
    return len(result.output) + len(result.evidence) + _OVERHEAD_BYTES


def _shown_size(shown: Shown) -> int:
    return len(shown.evidence or b"") + _OVERHEAD_BYTES
