"""The models `python -m wasm_build` made, read from disk."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from browser_node.models import Manifest, decode_manifest, verify_part

BUILD = Path(__file__).resolve().parents[2] / "build"


@cache
def model(model_id: str) -> tuple[Manifest, dict[str, bytes]]:
    """Return a built model's manifest and files by path; raises `KeyError` if it is not built."""
    index = json.loads((BUILD / "index.json").read_bytes())
    digests: dict[str, str] = {row["id"]: row["digest"] for row in index["models"]}
    digest = digests[model_id]
    manifest_json = (BUILD / "models" / "manifests" / f"{digest}.json").read_bytes()
    manifest = decode_manifest(manifest_json, digest=digest)
    files = {}
    for file in manifest.files:
        parts = []
        for part in file.parts:
            data = (BUILD / "models" / "parts" / part.sha256).read_bytes()
            verify_part(part, data)
            parts.append(data)
        files[file.path] = b"".join(parts)
    return manifest, files
