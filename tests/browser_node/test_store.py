"""The model files of a device: what is kept, what is refused, what is cleared away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from browser_node.models import Manifest, ManifestError, decode_manifest, recipe_of
from browser_node.protocol import ModelDigest, Recipe, RecipeFile
from browser_node.runtimes.disk import DiskFiles
from browser_node.runtimes.seams import NetworkError
from browser_node.runtimes.store import Store
from tests.browser_node.tiny import BACKBONE, WORDPIECE, build, parts_of


class Shelf:
    """A folder that stands for the server, and a store that is filled from it."""

    def __init__(self, folder: Path) -> None:
        self.server = build(folder / "build", "first", "second") / "models"
        self.kept = folder / "kept"
        self.asked: list[str] = []
        self.store = Store(DiskFiles(self.kept, download=self.download))

    async def download(self, name: str, limit_bytes: int) -> bytes:
        self.asked.append(name)
        path = self.server / name
        if not path.exists():
            raise NetworkError(f"{name} was answered with 404")
        return path.read_bytes()[: limit_bytes + 1]

    @property
    def digests(self) -> dict[str, ModelDigest]:
        rows = json.loads((self.server.parent / "index.json").read_text())["models"]
        return {row["id"]: ModelDigest(row["digest"]) for row in rows}

    async def fill(self, model_id: str) -> Manifest:
        manifest = await self.store.manifest(self.digests[model_id])
        for file in manifest.files:
            for part in file.parts:
                await self.store.fetch(part)
        return manifest


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def test_a_model_is_downloaded_once_and_read_back_whole(shelf: Shelf) -> None:
    manifest = await shelf.fill("first")
    asked = len(shelf.asked)

    assert await shelf.store.manifest(shelf.digests["first"]) == manifest
    assert await shelf.store.read(manifest.file("model.onnx")) == BACKBONE
    assert await shelf.store.read(manifest.file("wordpiece.json")) == WORDPIECE
    assert await shelf.store.known() == [shelf.digests["first"]]
    assert len(shelf.asked) == asked


async def test_a_part_is_there_only_in_full_size(shelf: Shelf) -> None:
    part = (await shelf.store.manifest(shelf.digests["first"])).file("model.onnx").parts[0]
    assert not await shelf.store.has(part)
    await shelf.store.fetch(part)
    assert await shelf.store.has(part)

    # As a crash in the middle of writing leaves it where writing is not atomic.
    (shelf.kept / "parts" / part.sha256).write_bytes(b"short")

    assert not await shelf.store.has(part)


@pytest.mark.parametrize("content", [b"", b"short", bytes(2 << 20), bytes(3 << 20)])
async def test_a_part_that_does_not_verify_is_not_kept(shelf: Shelf, content: bytes) -> None:
    part = (await shelf.store.manifest(shelf.digests["first"])).file("model.onnx").parts[0]
    (shelf.server / "parts" / part.sha256).write_bytes(content)

    with pytest.raises(ManifestError):
        await shelf.store.fetch(part)

    assert not (shelf.kept / "parts" / part.sha256).exists()


async def test_a_part_that_rots_is_refused_and_forgotten(shelf: Shelf) -> None:
    manifest = await shelf.fill("first")
    (shelf.kept / "parts" / parts_of("model.onnx")[1]).write_bytes(bytes(2 << 20))

    with pytest.raises(ManifestError):
        await shelf.store.read(manifest.file("model.onnx"))

    missing = [
        part for part in manifest.file("model.onnx").parts if not await shelf.store.has(part)
    ]
    assert [part.sha256 for part in missing] == [parts_of("model.onnx")[1]]


async def test_a_manifest_that_rots_is_fetched_again(shelf: Shelf) -> None:
    manifest = await shelf.fill("first")
    (shelf.kept / "manifests" / f"{shelf.digests['first']}.json").write_text("{}")

    assert await shelf.store.manifest(shelf.digests["first"]) == manifest


async def test_a_manifest_of_another_model_is_refused(shelf: Shelf) -> None:
    other = (shelf.server / "manifests" / f"{shelf.digests['second']}.json").read_bytes()
    (shelf.server / "manifests" / f"{shelf.digests['first']}.json").write_bytes(other)

    with pytest.raises(ManifestError):
        await shelf.store.manifest(shelf.digests["first"])

    assert await shelf.store.known() == []


async def test_a_model_that_is_not_wanted_any_more_is_cleared_away(shelf: Shelf) -> None:
    await shelf.fill("first")
    elsewhere = RecipeFile(path="model.onnx", sha256="0" * 64, size_bytes=1)

    await shelf.store.keep_only(
        [Recipe(model_id="new", version="2", digest="1" * 64, files=(elsewhere,))]
    )

    assert [path for path in shelf.kept.rglob("*") if path.is_file()] == []


async def test_files_that_a_newer_model_shares_are_kept(shelf: Shelf) -> None:
    await shelf.fill("first")
    newer = await shelf.store.manifest(shelf.digests["second"])

    await shelf.store.keep_only([recipe_of(newer)])

    assert await shelf.store.known() == [shelf.digests["second"]]
    assert await shelf.store.read(newer.file("model.onnx")) == BACKBONE


async def test_nothing_is_cleared_from_somebody_elses_folder(shelf: Shelf) -> None:
    before = sorted(shelf.server.rglob("*"))

    await Store(DiskFiles(shelf.server, download=None)).keep_only([])

    assert sorted(shelf.server.rglob("*")) == before


async def test_parts_that_are_being_written_are_not_taken_for_files(shelf: Shelf) -> None:
    await shelf.fill("first")
    (shelf.kept / "manifests" / f"{shelf.digests['second']}.json.abcd.partial").write_text("{")

    assert await shelf.store.known() == [shelf.digests["first"]]


async def test_a_missing_part_of_the_servers_own_build_says_what_to_do(tmp_path: Path) -> None:
    store = Store(DiskFiles(tmp_path, download=None))

    with pytest.raises(ManifestError, match="make setup"):
        await store.manifest(ModelDigest("0" * 64))


async def test_a_worker_never_deletes_the_servers_files(shelf: Shelf) -> None:
    digest = shelf.digests["first"]
    manifest_json = (shelf.server / "manifests" / f"{digest}.json").read_bytes()
    file = decode_manifest(manifest_json, digest=digest).file("model.onnx")
    rotten = shelf.server / "parts" / file.parts[0].sha256
    rotten.write_bytes(bytes(file.parts[0].size_bytes))

    with pytest.raises(ManifestError):
        await Store(DiskFiles(shelf.server, download=None)).read(file)

    assert rotten.exists()
