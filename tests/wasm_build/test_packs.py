"""Packs: what is written is what a node can fetch, verify and put together."""

from __future__ import annotations

import random
from pathlib import Path

import brotli
import pytest

from browser_node.models import PART_BYTES, Manifest, decode_manifest, verify_part
from wasm_build import packs
from wasm_build.build import Index
from wasm_build.compress import Compressor


def contents() -> dict[str, bytes]:
    paths = {path for definition in packs.DEFINITIONS for path in definition.paths}
    made = {path: path.encode() * 100 for path in paths}
    # Larger than two parts, and with a part that brotli cannot help.
    made["model.onnx"] = random.Random(3).randbytes(PART_BYTES) + b"weights " * (PART_BYTES // 6)
    return made


def manifests(models: Path, listing: tuple[packs.Listed, ...]) -> list[Manifest]:
    return [
        decode_manifest(
            (models / "manifests" / f"{model.digest}.json").read_bytes(), digest=model.digest
        )
        for model in listing
    ]


def assembled(models: Path, manifest: Manifest, path: str) -> bytes:
    """A file put together from its parts; where there is a brotli form, from that."""
    pieces: list[bytes] = []
    for part in manifest.file(path).parts:
        plain = models / "parts" / part.sha256
        compressed = plain.with_name(f"{plain.name}.br")
        verify_part(part, plain.read_bytes())
        if compressed.exists():
            assert brotli.decompress(compressed.read_bytes()) == plain.read_bytes()
        pieces.append(plain.read_bytes())
    return b"".join(pieces)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, tuple[packs.Listed, ...]]:
    packs.write(contents(), tmp_path / "step", Compressor(tmp_path / "cache", workers=1))
    return tmp_path / "models", packs.publish(tmp_path / "step", tmp_path / "models")


def test_every_file_of_every_model_comes_back_from_its_parts(
    written: tuple[Path, tuple[packs.Listed, ...]],
) -> None:
    models, listing = written

    for manifest in manifests(models, listing):
        for file in manifest.files:
            assert assembled(models, manifest, file.path) == contents()[file.path]


def test_models_share_the_parts_of_their_backbone(
    written: tuple[Path, tuple[packs.Listed, ...]],
) -> None:
    first, *others = (manifest.file("model.onnx").parts for manifest in manifests(*written))

    assert others
    assert all(parts == first for parts in others)


def test_a_part_that_does_not_shrink_has_no_brotli_form(
    written: tuple[Path, tuple[packs.Listed, ...]],
) -> None:
    models, listing = written
    noise, text, *_ = manifests(models, listing)[0].file("model.onnx").parts

    assert not (models / "parts" / f"{noise.sha256}.br").exists()
    assert (models / "parts" / f"{text.sha256}.br").exists()


def test_publishing_again_changes_nothing(
    tmp_path: Path, written: tuple[Path, tuple[packs.Listed, ...]]
) -> None:
    models, listing = written
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*")}

    assert packs.publish(tmp_path / "step", models) == listing
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*")} == before


def test_a_classifier_brings_its_head_and_the_others_do_not() -> None:
    with_head = {
        definition.pipeline for definition in packs.DEFINITIONS if "head.onnx" in definition.paths
    }

    assert with_head == {"iab-classification"}


@pytest.mark.slow
def test_the_built_models_are_those_defined_and_come_back_from_their_parts(
    build: Path, index: Index
) -> None:
    built = manifests(build / "models", index.models)

    assert [manifest.id for manifest in built] == [model.id for model in packs.DEFINITIONS]
    for manifest in built:
        for file in manifest.files:
            assert len(assembled(build / "models", manifest, file.path)) == file.size_bytes
