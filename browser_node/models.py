"""Model manifests: what pins a model, how its files are cut into parts, how a part is verified.

A manifest is JSON; its digest is the SHA-256 of its canonical form and names it everywhere. Files
are cut into content-addressed parts of at most `PART_BYTES`: an interrupted download goes on with
the next missing part, and models that share a file share its download. Fetching is passed in by the
runtime.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from browser_node.protocol import ModelDigest, Recipe, RecipeFile

PART_BYTES: Final = 2 << 20
SCHEMA: Final = 1

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Pipeline = Literal["embeddings", "iab-classification", "extractive-summary"]
# Whose output is plain text that can be told in pieces while, or after, it is computed.
STREAMING: Final[frozenset[Pipeline]] = frozenset({"extractive-summary"})


class ManifestError(ValueError):
    """A manifest, or a downloaded part of a model, is not what it should be."""


class FilePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part: SHA-256 and size of its bytes as they stand in the file, without encoding."""

    sha256: Sha256
    size_bytes: Annotated[int, Meta(ge=0, le=PART_BYTES)]


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: the concatenation of its parts."""

    path: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Sha256
    size_bytes: int
    parts: tuple[FilePart, ...]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Micro-dollars per million tokens."""

    input_microusd: int
    output_microusd: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that pins a model. Files are found by ``path``: ``model.onnx``, ``tokenizer.json`` …

    ``max_tokens`` is the longest input; a longer one is an error where ``error_on_max_token``, else
    it is cut.
    ``min_cosine`` is the agreement tolerance between two honest runtimes of this model.
    """

    schema: Literal[1] = SCHEMA
    id: str
    aliases: tuple[str, ...] = ()
    version: str
    name: str
    pipeline: Pipeline
    files: tuple[ModelFile, ...]
    dimensions: int
    max_tokens: int
    error_on_max_token: bool
    min_cosine: float
    min_memory_mb: int
    price: Price
    languages: tuple[str, ...]
    licence: str
    created: int
    parameters: int

    def file(self, path: str) -> ModelFile:
        """Return the file called ``path``; raises `ManifestError` when the model has none."""
        for file in self.files:
            if file.path == path:
                return file
        raise ManifestError(f"model {self.id} has no file {path!r}")

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical JSON of ``manifest``: the bytes that are served, stored and hashed."""
    return msgspec.json.encode(manifest, order="sorted")


def digest_of(manifest_json: bytes) -> ModelDigest:
    """Return the digest that names a manifest: lower-case hex SHA-256 of its canonical JSON."""
    return ModelDigest(hashlib.sha256(manifest_json).hexdigest())


def decode_manifest(manifest_json: bytes, *, digest: str) -> Manifest:
    """Parse a manifest and check it against its name; raises `ManifestError`."""
    actual = digest_of(manifest_json)
    if actual != digest:
        raise ManifestError(f"manifest has digest {actual[:12]}…, expected {digest[:12]}…")
    try:
        manifest = msgspec.json.decode(manifest_json, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {digest[:12]}… does not parse: {error}") from error
    for file in manifest.files:
        total = sum(part.size_bytes for part in file.parts)
        if total != file.size_bytes:
            raise ManifestError(
                f"{file.path}: parts add up to {total}, not {file.size_bytes} bytes"
            )
    return manifest


def cut(data: bytes, path: str) -> tuple[ModelFile, list[bytes]]:
    """Cut a file into parts; returns its manifest entry and the parts' bytes in order."""
    pieces = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    parts = tuple(FilePart(hashlib.sha256(piece).hexdigest(), len(piece)) for piece in pieces)
    return ModelFile(path, hashlib.sha256(data).hexdigest(), len(data), parts), pieces


def verify_part(part: FilePart, data: bytes) -> None:
    """Raise `ManifestError` unless ``data`` is exactly the bytes ``part`` names."""
    if len(data) != part.size_bytes:
        raise ManifestError(
            f"part {part.sha256[:12]}… has {len(data)} bytes, expected {part.size_bytes}"
        )
    actual = hashlib.sha256(data).hexdigest()
    if actual != part.sha256:
        raise ManifestError(f"part {part.sha256[:12]}… hashes to {actual[:12]}…")


@functools.lru_cache(maxsize=256)
def recipe_of(manifest: Manifest) -> Recipe:
    """Return what a node is told of a model before it fetches the manifest itself.

    Kept, as every node that joins is told of every model and hashing a manifest takes a while.
    """
    return Recipe(
        model_id=manifest.id,
        version=manifest.version,
        digest=digest_of(encode_manifest(manifest)),
        files=tuple(
            RecipeFile(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes)
            for file in manifest.files
        ),
    )
