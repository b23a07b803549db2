"""Bundles: a folder named by its content, and what remains of former ones."""

from __future__ import annotations

from pathlib import Path

import brotli
import pytest

from browser_node.models import cut, digest_of, encode_manifest
from wasm_build import bundle, files, packs
from wasm_build.build import Index, sweep
from wasm_build.bundle import Bundle
from wasm_build.compress import Compressor
from wasm_build.packs import Listed


def collected(folder: Path, **contents: bytes) -> Path:
    """A step's output with a bundle of these files."""
    output = folder / "step"
    sources = {f"{name}.js": folder / f"{name}.js" for name in contents}
    for name, content in contents.items():
        (folder / f"{name}.js").write_bytes(content)
    bundle.collect(sources, output, Compressor(folder / "cache", workers=1))
    return output


def test_a_published_file_lies_beside_its_brotli_form(tmp_path: Path) -> None:
    made = bundle.publish(collected(tmp_path, ui=b"export " * 99), tmp_path / "vendor")

    folder = tmp_path / "vendor" / made.hash
    assert made.files["ui.js"].encodings == ("br",)
    assert (folder / "ui.js").read_bytes() == b"export " * 99
    assert brotli.decompress((folder / "ui.js.br").read_bytes()) == b"export " * 99


def test_another_content_has_another_hash(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = bundle.publish(collected(tmp_path / "a", ui=b"one"), tmp_path / "vendor")
    two = bundle.publish(collected(tmp_path / "b", ui=b"two"), tmp_path / "vendor")

    assert one.hash != two.hash


def test_publishing_again_brings_back_what_was_deleted(tmp_path: Path) -> None:
    output = collected(tmp_path, ui=b"one")
    made = bundle.publish(output, tmp_path / "vendor")
    (tmp_path / "vendor" / made.hash / "ui.js").unlink()

    bundle.publish(output, tmp_path / "vendor")

    assert (tmp_path / "vendor" / made.hash / "ui.js").read_bytes() == b"one"


def built(target: Path, name: str) -> Index:
    """A build whose every file holds ``name``."""
    for kind in ("runtime", "vendor"):
        files.write(target / kind / name / "file", name.encode())
    definition = packs.DEFINITIONS[0]
    entries = {}
    for path in definition.paths:
        entries[path], parts = cut(f"{name} {path}".encode(), path)
        for part in parts:
            files.write(target / "models" / "parts" / files.sha256(part), part)
            files.write(target / "models" / "parts" / f"{files.sha256(part)}.br", b"")
    encoded = encode_manifest(packs.manifest_of(definition, entries))
    digest = digest_of(encoded)
    files.write(target / "models" / "manifests" / f"{digest}.json", encoded)
    return Index(Bundle(name, {}), Bundle(name, {}), (Listed(definition.id, digest),))


@pytest.mark.parametrize(("kept", "gone"), [(("old", "new"), "older"), (("new",), "old")])
def test_a_sweep_leaves_what_the_kept_indexes_name_and_nothing_else(
    tmp_path: Path, kept: tuple[str, ...], gone: str
) -> None:
    keep = [built(tmp_path, name) for name in kept]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    built(tmp_path, gone)

    sweep(tmp_path, keep)

    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
