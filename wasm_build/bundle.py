"""A folder of files under one hash: served immutable, each with its brotli form beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from wasm_build import files
from wasm_build.compress import Compressor, Job

_FILES: Final = "files"
_LISTING: Final = "listing.json"
_QUALITY: Final = 11


class Entry(msgspec.Struct, frozen=True):
    """One file: the size and SHA-256 of its plain form, and the encodings it also lies in."""

    bytes: int
    sha256: str
    encodings: tuple[str, ...]


class Bundle(msgspec.Struct, frozen=True):
    """``hash`` names the folder, and is made from the names and contents of ``files``."""

    hash: str
    files: dict[str, Entry]


def collect(
    sources: Mapping[str, Path],
    output: Path,
    compressor: Compressor,
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Copy ``sources`` (by name) and their brotli forms under ``output``, and list them there."""
    contents = {name: path.read_bytes() for name, path in sorted(sources.items())}
    brotli = compressor.compress(
        [Job(content, _QUALITY) for content in contents.values()], progress=progress
    )
    entries: dict[str, Entry] = {}
    for (name, content), compressed in zip(contents.items(), brotli, strict=True):
        files.write(output / _FILES / name, content)
        if compressed is not None:
            files.place(compressed, output / _FILES / f"{name}.br")
        encodings = () if compressed is None else ("br",)
        entries[name] = Entry(len(content), files.sha256(content), encodings)
    named = json.dumps({name: entry.sha256 for name, entry in entries.items()}, sort_keys=True)
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    files.write(output / _LISTING, msgspec.json.encode(Bundle(digest, entries)))


def publish(output: Path, parent: Path) -> Bundle:
    """Put a collected bundle under ``parent/<hash>``; what is there already is left alone."""
    bundle = msgspec.json.decode((output / _LISTING).read_bytes(), type=Bundle)
    for path in (output / _FILES).iterdir():
        files.place(path, parent / bundle.hash / path.name)
    return bundle
