"""Getting a model's files: only the missing parts, a few at a time, tried again on failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from browser_node.backoff import Backoff
from browser_node.models import FilePart, Manifest, ManifestError, ModelFile
from browser_node.protocol import ModelDigest
from browser_node.runtimes.seams import Clock, ModelStore, NetworkError

T = TypeVar("T")

# Enough to hide the round trip between parts; more would only share the same bandwidth.
_AT_ONCE: Final = 3
_TRIES: Final = 6
_BACKOFF: Final = Backoff(base_s=0.25, cap_s=10.0)
# Ids are made by the compact table, so a node never reads the published tokenizer file.
_UNUSED: Final = frozenset({"tokenizer.json"})


def files_of(manifest: Manifest) -> tuple[ModelFile, ...]:
    """Return the files of a model that a node uses."""
    return tuple(file for file in manifest.files if file.path not in _UNUSED)


@dataclass(slots=True)
class Progress:
    """Bytes here of bytes wanted, over all models so far; a part shared by models counts once."""

    _wanted: dict[str, int] = field(default_factory=dict)
    _here: dict[str, int] = field(default_factory=dict)

    def want(self, parts: Iterable[FilePart]) -> None:
        self._wanted.update((part.sha256, part.size_bytes) for part in parts)

    def got(self, part: FilePart) -> None:
        self._here[part.sha256] = part.size_bytes

    @property
    def done_bytes(self) -> int:
        return sum(self._here.values())

    @property
    def total_bytes(self) -> int:
        return sum(self._wanted.values())


class Downloader:
    """Fills a store; ``may_go_on`` is awaited before each part, so that a pause holds it too."""

    def __init__(
        self,
        store: ModelStore,
        *,
        clock: Clock,
        rng: random.Random,
        may_go_on: Callable[[], Awaitable[None]],
        on_progress: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._may_go_on = may_go_on
        self._on_progress = on_progress
        self.progress = Progress()

    async def manifest(self, digest: ModelDigest) -> Manifest:
        """Return the manifest; raises `ManifestError`, `NetworkError` when every try failed."""
        return await self._persistently(partial(self._store.manifest, digest))

    async def ensure(self, files: Iterable[ModelFile]) -> None:
        """Have all parts of ``files`` here; raises as `manifest` does."""
        parts = {part.sha256: part for file in files for part in file.parts}
        self.progress.want(parts.values())
        missing: list[FilePart] = []
        for part in parts.values():
            if await self._store.has(part):
                self.progress.got(part)
            else:
                missing.append(part)
        self._on_progress()
        missing.reverse()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(missing))):
                    group.create_task(self._fetch_all(missing))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _fetch_all(self, missing: list[FilePart]) -> None:
        """Fetch from the end of ``missing``, which several tasks share, until it is empty."""
        while missing:
            part = missing.pop()
            await self._may_go_on()
            await self._persistently(partial(self._store.fetch, part))
            self.progress.got(part)
            self._on_progress()

    async def cached(self) -> tuple[ModelDigest, ...]:
        """Return the digests of the models that are here in full."""
        complete: list[ModelDigest] = []
        for digest in await self._store.known():
            try:
                manifest = await self._store.manifest(digest)
            except (ManifestError, NetworkError):
                continue
            parts = [part for file in files_of(manifest) for part in file.parts]
            if all([await self._store.has(part) for part in parts]):
                complete.append(digest)
        return tuple(complete)

    async def _persistently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        for failures in range(_TRIES - 1):
            try:
                return await attempt()
            except (NetworkError, ManifestError):
                await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))
        return await attempt()
