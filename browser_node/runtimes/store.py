"""The model files on this device: verified when they come and again when they are read.

The rules are here, once; a runtime brings its primitives as `Files`. Bytes stay in the runtime's
own kind of buffer, so that a backbone that only JavaScript reads never enters Python's heap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from browser_node.models import FilePart, Manifest, ManifestError, ModelFile, decode_manifest
from browser_node.protocol import ModelDigest, Recipe

B = TypeVar("B")

_MANIFEST: Final = ".json"
_MAX_MANIFEST_BYTES: Final = 1 << 20


def path_of(name: str) -> str:
    """Return where a part or manifest is found below ``/models/`` and in a build folder."""
    return f"manifests/{name}" if name.endswith(_MANIFEST) else f"parts/{name}"


class Files(Protocol[B]):
    """Named buffers on this device, and where they come from."""

    async def names(self) -> list[str]: ...

    async def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None when there is none."""

    async def read(self, name: str) -> B | None: ...

    async def write(self, name: str, body: B) -> None:
        """Keep a file: afterwards all of ``body`` is there, or visibly less."""

    async def remove(self, name: str) -> None: ...

    async def download(self, name: str, limit_bytes: int) -> B:
        """Fetch a file; raises `NetworkError`, or `ManifestError` where there is no way to."""

    async def sha256(self, body: B) -> str: ...

    def to_bytes(self, body: B) -> bytes: ...

    def size_of(self, body: B) -> int: ...

    def join(self, bodies: Sequence[B]) -> B: ...


class Store(Generic[B]):
    """Model files by content; see `seams.ModelStore`."""

    def __init__(self, files: Files[B]) -> None:
        self._files = files

    async def manifest(self, digest: ModelDigest) -> Manifest:
        name = digest + _MANIFEST
        stored = await self._files.read(name)
        if stored is not None:
            try:
                return decode_manifest(self._files.to_bytes(stored), digest=digest)
            except ManifestError:
                await self._files.remove(name)
        fetched = await self._files.download(name, _MAX_MANIFEST_BYTES)
        manifest = decode_manifest(self._files.to_bytes(fetched), digest=digest)
        await self._files.write(name, fetched)
        return manifest

    async def known(self) -> list[ModelDigest]:
        names = await self._files.names()
        return [
            ModelDigest(name.removesuffix(_MANIFEST))
            for name in sorted(names)
            if name.endswith(_MANIFEST)
        ]

    async def has(self, part: FilePart) -> bool:
        return await self._files.size(part.sha256) == part.size_bytes

    async def fetch(self, part: FilePart) -> None:
        body = await self._files.download(part.sha256, part.size_bytes)
        await self._verify(part, body)
        await self._files.write(part.sha256, body)

    async def read(self, file: ModelFile) -> bytes:
        return self._files.to_bytes(await self.assemble(file))

    async def assemble(self, file: ModelFile) -> B:
        """Return a file in the runtime's own buffer; raises as `read` does."""
        bodies: list[B] = []
        for part in file.parts:
            body = await self._files.read(part.sha256)
            if body is None:
                raise ManifestError(f"part {part.sha256[:12]}… is gone")
            try:
                await self._verify(part, body)
            except ManifestError:
                await self._files.remove(part.sha256)
                raise
            bodies.append(body)
        return self._files.join(bodies)

    async def keep_only(self, recipes: Iterable[Recipe]) -> None:
        """Remove models that are not asked for any more, less the files that others still use."""
        wanted = {recipe.digest: recipe for recipe in recipes}
        used = {file.sha256 for recipe in wanted.values() for file in recipe.files}
        for digest in await self.known():
            if digest in wanted:
                continue
            for file in await self._files_of(digest):
                if file.sha256 not in used:
                    for part in file.parts:
                        await self._files.remove(part.sha256)
            await self._files.remove(digest + _MANIFEST)

    async def _files_of(self, digest: ModelDigest) -> tuple[ModelFile, ...]:
        stored = await self._files.read(digest + _MANIFEST)
        try:
            body = b"" if stored is None else self._files.to_bytes(stored)
            return decode_manifest(body, digest=digest).files
        except ManifestError:
            return ()

    async def _verify(self, part: FilePart, body: B) -> None:
        size = self._files.size_of(body)
        if size != part.size_bytes:
            raise ManifestError(
                f"part {part.sha256[:12]}… has {size} bytes, expected {part.size_bytes}"
            )
        actual = await self._files.sha256(body)
        if actual != part.sha256:
            raise ManifestError(f"part {part.sha256[:12]}… hashes to {actual[:12]}…")
