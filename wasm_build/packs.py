"""Step: the model packs, three models over one backbone, as manifests and content-addressed parts.

    models/manifests/<digest>.json     the canonical manifest
    models/parts/<sha256>              one part of a file, as it stands in the file
    models/parts/<sha256>.br           the same in brotli, where that helps

Models share files by content: whoever has one of them has the backbone for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from browser_node.models import (
    Manifest,
    ModelFile,
    Pipeline,
    Price,
    cut,
    digest_of,
    encode_manifest,
)
from wasm_build import files
from wasm_build.compress import Compressor, Job
from wasm_build.work import Work

BACKBONE: Final = ("model.onnx", "tokenizer.json", "wordpiece.json")
# 21 November 2026: when these versions were put together. A build date would change every digest.
CREATED: Final = 1_795_219_200
# Honest runtimes differ by rounding: 0.9997 was the least between wasm and native (`minilm`).
MIN_COSINE: Final = 0.995
# Weights hardly shrink, whatever the effort; text is worth the search.
_LISTING: Final = "listing.json"
_QUALITY: Final = {".onnx": 9, ".json": 11}


@dataclass(frozen=True)
class Definition:
    """What a manifest says of a model apart from its files' contents."""

    id: str
    name: str
    pipeline: Pipeline
    paths: tuple[str, ...]
    max_tokens: int
    error_on_max_token: bool
    price: Price
    aliases: tuple[str, ...] = ()


class Listed(msgspec.Struct, frozen=True):
    """A model as the index names it."""

    id: str
    digest: str


DEFINITIONS: Final = (
    Definition(
        id="all-minilm-l6-v2",
        name="all-MiniLM-L6-v2 embeddings",
        pipeline="embeddings",
        paths=BACKBONE,
        max_tokens=256,
        error_on_max_token=False,
        price=Price(input_microusd=500_000, output_microusd=0),
    ),
    Definition(
        id="zlm-v1-iab-classify-edge",
        aliases=("zlm-v1-iab-classify-cloud",),
        name="IAB content and audience classification",
        pipeline="iab-classification",
        paths=(*BACKBONE, "head.json", "head.onnx"),
        max_tokens=400,
        error_on_max_token=True,
        price=Price(input_microusd=20_000, output_microusd=50_000),
    ),
    Definition(
        id="zlm-v1-summary-cloud",
        aliases=("zlm-v1-summary-edge",),
        name="Extractive summary",
        pipeline="extractive-summary",
        paths=BACKBONE,
        max_tokens=4096,
        error_on_max_token=True,
        price=Price(input_microusd=200_000, output_microusd=400_000),
    ),
)


def manifest_of(definition: Definition, contents: Mapping[str, ModelFile]) -> Manifest:
    """Return the manifest of a model whose files were cut into ``contents``, by path."""
    return Manifest(
        id=definition.id,
        aliases=definition.aliases,
        version="1",
        name=definition.name,
        pipeline=definition.pipeline,
        files=tuple(contents[path] for path in definition.paths),
        dimensions=384,
        max_tokens=definition.max_tokens,
        error_on_max_token=definition.error_on_max_token,
        min_cosine=MIN_COSINE,
        min_memory_mb=512,
        price=definition.price,
        languages=("en",),
        licence="Apache-2.0",
        created=CREATED,
        parameters=22_713_216,
    )


def run(work: Work) -> None:
    """Cut the models' files into parts with their brotli forms, and write the manifests."""
    paths = {path for definition in DEFINITIONS for path in definition.paths}
    contents = {path: _made(work, path).read_bytes() for path in sorted(paths)}
    write(contents, work.output, Compressor(work.cache / "brotli"), progress=work.progress)


def _made(work: Work, path: str) -> Path:
    """Return where the step that makes a file has put it."""
    for output in work.inputs.values():
        if (output / path).is_file():
            return output / path
    raise FileNotFoundError(f"no step has made {path}")


def write(
    contents: Mapping[str, bytes],
    models: Path,
    compressor: Compressor,
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write parts and manifests under ``models``; ``contents`` are all models' files, by path."""
    cut_files: dict[str, ModelFile] = {}
    pieces: list[bytes] = []
    jobs: list[Job] = []
    for path, content in contents.items():
        cut_files[path], parts = cut(content, path)
        pieces += parts
        jobs += [Job(part, _QUALITY[Path(path).suffix]) for part in parts]
    compressed = compressor.compress(jobs, progress=progress)
    for piece, brotli in zip(pieces, compressed, strict=True):
        part = models / "parts" / files.sha256(piece)
        files.write(part, piece)
        if brotli is not None:
            files.place(brotli, part.with_name(f"{part.name}.br"))
    listing: list[Listed] = []
    for definition in DEFINITIONS:
        encoded = encode_manifest(manifest_of(definition, cut_files))
        digest = digest_of(encoded)
        files.write(models / "manifests" / f"{digest}.json", encoded)
        listing.append(Listed(definition.id, digest))
    files.write(models / _LISTING, msgspec.json.encode(listing))


def publish(output: Path, models: Path) -> tuple[Listed, ...]:
    """Put the step's parts and manifests under ``models``; returns what is there, in order."""
    for folder in ("parts", "manifests"):
        for path in (output / folder).iterdir():
            files.place(path, models / folder / path.name)
    return msgspec.json.decode((output / _LISTING).read_bytes(), type=tuple[Listed, ...])
