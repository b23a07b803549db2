"""The models this server offers, read from the build output, with their token counters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from browser_node.models import Manifest, ManifestError, decode_manifest, verify_part
from browser_node.protocol import ModelDigest
from orchestrator.errors import CatalogueError
from orchestrator.storage.token_counter import Limit, TokenCounter

_REMEDY: Final = "run `python -m wasm_build`"


@dataclass(frozen=True, eq=False)
class Model:
    """One model: its manifest, the digest that names it, and how its texts are measured."""

    manifest: Manifest
    digest: ModelDigest
    counter: TokenCounter
    limit: Limit

    @property
    def id(self) -> str:
        return self.manifest.id


class Catalogue:
    """All models. Ids and aliases are one name space."""

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        self._by_name: dict[str, Model] = {}
        for model in models:
            for name in (model.id, *model.manifest.aliases):
                if name in self._by_name:
                    raise CatalogueError(f"two models are called {name}: {_REMEDY}")
                self._by_name[name] = model

    def find(self, name: str) -> Model | None:
        """Return the model with this id or alias."""
        return self._by_name.get(name)

    @property
    def names(self) -> list[str]:
        """Every id and alias, sorted."""
        return sorted(self._by_name)

    @property
    def manifests(self) -> dict[ModelDigest, Manifest]:
        return {model.digest: model.manifest for model in self.models}

    def close(self) -> None:
        """End the counters' threads."""
        for model in self.models:
            model.counter.close()


class _IndexedModel(msgspec.Struct, frozen=True):
    id: str
    digest: str


class _Index(msgspec.Struct, frozen=True):
    """The part of ``build/index.json`` that concerns models."""

    models: tuple[_IndexedModel, ...]


def load_manifests(build_dir: Path) -> dict[ModelDigest, Manifest]:
    """Read the manifests that ``index.json`` names; raises `CatalogueError`."""
    manifests = {}
    for entry in _read_index(build_dir).models:
        path = build_dir / "models" / "manifests" / f"{entry.digest}.json"
        try:
            manifest = decode_manifest(path.read_bytes(), digest=entry.digest)
        except (OSError, ManifestError) as error:
            raise CatalogueError(
                f"the manifest of {entry.id} cannot be used: {error}: {_REMEDY}"
            ) from error
        manifests[ModelDigest(entry.digest)] = manifest
    return manifests


def load_catalogue(build_dir: Path) -> Catalogue:
    """Read manifests and vocabularies; models of one vocabulary share its counter.

    Raises `CatalogueError` when something is missing or not what its hash says.
    """
    counters: dict[tuple[str, ...], TokenCounter] = {}
    models = []
    for digest, manifest in load_manifests(build_dir).items():
        try:
            names = ("tokenizer.json", "wordpiece.json")
            content = tuple(manifest.file(name).sha256 for name in names)
            if content not in counters:
                tokenizer, wordpiece = (read_file(build_dir, manifest, name) for name in names)
                counters[content] = TokenCounter(tokenizer_json=tokenizer, wordpiece_json=wordpiece)
        except (OSError, ManifestError, ValueError) as error:
            raise CatalogueError(
                f"the vocabulary of {manifest.id} cannot be used: {error}: {_REMEDY}"
            ) from error
        limit = Limit(max_tokens=manifest.max_tokens, cuts=not manifest.error_on_max_token)
        models.append(Model(manifest, digest, counters[content], limit))
    return Catalogue(tuple(models))


def read_file(build_dir: Path, manifest: Manifest, path: str) -> bytes:
    """Return a model's file, put together from its parts and verified; raises `ManifestError`."""
    pieces = []
    for part in manifest.file(path).parts:
        piece = (build_dir / "models" / "parts" / part.sha256).read_bytes()
        verify_part(part, piece)
        pieces.append(piece)
    whole = b"".join(pieces)
    if hashlib.sha256(whole).hexdigest() != manifest.file(path).sha256:
        raise ManifestError(f"the parts of {path} do not make the file")
    return whole


def read_small_files(build_dir: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return a model's files by path, its ONNX graphs left out; raises `CatalogueError`."""
    try:
        return {
            file.path: read_file(build_dir, manifest, file.path)
            for file in manifest.files
            if not file.path.endswith(".onnx")
        }
    except (OSError, ManifestError) as error:
        raise CatalogueError(f"{manifest.id} cannot be read: {error}: {_REMEDY}") from error


def _read_index(build_dir: Path) -> _Index:
    path = build_dir / "index.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Index)
    except FileNotFoundError:
        raise CatalogueError(f"{path} is missing: nothing has been built yet: {_REMEDY}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise CatalogueError(f"{path} cannot be read: {error}: {_REMEDY}") from error
