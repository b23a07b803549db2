"""What `wasm_build` made: the index, the hashed directories, and what a node downloads of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from browser_node.models import Manifest, decode_manifest
from orchestrator.errors import CatalogueError

# One file name below a hashed directory: no separators and no leading dot, so it cannot climb.
_HASHED: Final = re.compile(
    r"/(?P<kind>runtime|vendor)/(?P<hash>[0-9a-f]{8,64})/(?P<name>[A-Za-z0-9_][A-Za-z0-9._+-]{0,127})"
)
_MODEL: Final = re.compile(r"/models/(?:manifests/[0-9a-f]{64}\.json|parts/[0-9a-f]{64})")
_NOTICES: Final = ("THIRD-PARTY", "LICENSE", "NOTICE")


class BuiltFile(msgspec.Struct, frozen=True):
    """One file: size and hash of its plain bytes."""

    bytes: int
    sha256: str
    encodings: tuple[str, ...] = ()


class BuiltDirectory(msgspec.Struct, frozen=True):
    """A directory that is named by the hash of its content."""

    hash: str
    files: dict[str, BuiltFile]


class ModelEntry(msgspec.Struct, frozen=True):
    """A model in the index."""

    id: str
    digest: str


class Index(msgspec.Struct, frozen=True):
    """``build/index.json``; unknown fields are left to its writer."""

    runtime: BuiltDirectory
    vendor: BuiltDirectory
    models: tuple[ModelEntry, ...] = ()


class ModelFact(msgspec.Struct, frozen=True):
    """A model as a page names it."""

    id: str
    name: str
    pipeline: str


class Facts(msgspec.Struct, frozen=True):
    """What the pages tell people before anything is downloaded.

    ``runtime_bytes`` and ``model_bytes`` are what travels (brotli where there is a sibling),
    ``stored_bytes`` is what the models take in the browser's storage.
    """

    runtime_bytes: int
    model_bytes: int
    stored_bytes: int
    models: tuple[ModelFact, ...]


@dataclass
class Build:
    """The build directory; a rebuild while the server runs is picked up by the index's time."""

    root: Path
    _stamp: int = -1
    _index: Index | None = None
    _facts: Facts | None = None
    _manifests: dict[str, Manifest] = field(default_factory=dict)

    def stamp(self) -> int:
        """Return what changes when the build does; raises `CatalogueError` when there is none."""
        try:
            return (self.root / "index.json").stat().st_mtime_ns
        except OSError:
            raise CatalogueError(
                f"{self.root / 'index.json'} is missing: run `make setup`, which builds what "
                "browsers download"
            ) from None

    def index(self) -> Index:
        """Return the current index; raises `CatalogueError`."""
        stamp = self.stamp()
        if self._index is None or stamp != self._stamp:
            path = self.root / "index.json"
            try:
                self._index = msgspec.json.decode(path.read_bytes(), type=Index)
            except msgspec.DecodeError as error:
                raise CatalogueError(f"{path} does not parse: {error}") from error
            self._stamp, self._facts = stamp, None
        return self._index

    def placeholders(self) -> dict[bytes, bytes]:
        """Return what our own files write for the hashed directories, and what it stands for."""
        index = self.index()
        return {
            b"/vendor/@/": f"/vendor/{index.vendor.hash}/".encode(),
            b"/runtime/@/": f"/runtime/{index.runtime.hash}/".encode(),
        }

    def facts(self) -> Facts:
        """Add up what a new node downloads; a part that several models share counts once."""
        index = self.index()
        if self._facts is None:
            self._facts = self._count(index)
        return self._facts

    def find(self, path: str) -> Path | None:
        """Return the file that a URL path names, or None."""
        if match := _HASHED.fullmatch(path):
            name = match["name"]
            # Siblings are representations of the plain file, not files of their own.
            found = None if name.endswith(".br") else self.root / match["kind"] / match["hash"]
            found = found and found / name
        elif _MODEL.fullmatch(path):
            found = self.root / path.removeprefix("/")
        else:
            found = None
        return found if found is not None and found.is_file() else None

    def _count(self, index: Index) -> Facts:
        directory = self.root / "runtime" / index.runtime.hash
        runtime = sum(
            _wire_bytes(directory / name)
            for name in index.runtime.files
            if not name.startswith(_NOTICES)
        )
        manifests = [self._manifest(entry.digest) for entry in index.models]
        parts = {
            part.sha256: part.size_bytes
            for manifest in manifests
            for file in manifest.files
            # The published table is for native nodes; tabs load the compact one beside it.
            if file.path != "tokenizer.json"
            for part in file.parts
        }
        return Facts(
            runtime_bytes=runtime,
            model_bytes=sum(_wire_bytes(self.root / "models" / "parts" / sha) for sha in parts),
            stored_bytes=sum(parts.values()),
            models=tuple(
                ModelFact(manifest.id, manifest.name, manifest.pipeline) for manifest in manifests
            ),
        )

    def _manifest(self, digest: str) -> Manifest:
        if digest not in self._manifests:
            path = self.root / "models" / "manifests" / f"{digest}.json"
            try:
                self._manifests[digest] = decode_manifest(path.read_bytes(), digest=digest)
            except (OSError, ValueError) as error:
                raise CatalogueError(f"{path} cannot be used: {error}") from error
        return self._manifests[digest]


def _wire_bytes(path: Path) -> int:
    """Return the size of the smaller representation; 0 for a file that is not there."""
    for candidate in (path.with_name(f"{path.name}.br"), path):
        try:
            return candidate.stat().st_size
        except FileNotFoundError:
            continue
    return 0
