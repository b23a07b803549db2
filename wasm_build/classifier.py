"""Step: the IAB classifier's head, fitted on vectors of the very backbone and tokenizer we ship."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from browser_node.tokenizer import RustTokenizer
from wasm_build import files, heads
from wasm_build.work import Work

_MAX_TOKENS: Final = 256
_BATCH: Final = 32
Vectors = npt.NDArray[np.float32]


def run(work: Work) -> None:
    model = (work.inputs["backbone"] / "model.onnx").read_bytes()
    tokenizer = (work.inputs["backbone"] / "tokenizer.json").read_bytes()

    def encode(texts: list[str]) -> list[list[float]]:
        read = [files.sha256(model), files.sha256(tokenizer), *texts]
        key = files.sha256(json.dumps(read).encode())
        kept = work.cache / "vectors" / f"{key[:32]}.npy"
        if not kept.exists():
            _keep(kept, _encode(texts, model, tokenizer, work.progress))
        vectors: list[list[float]] = np.load(kept).tolist()
        return vectors

    made = heads.build(
        encode, encoder_sha256=files.sha256(model), tokenizer_sha256=files.sha256(tokenizer)
    )
    for path, content in made.items():
        files.write(work.output / path, content)


def _encode(
    texts: list[str], model: bytes, tokenizer_json: bytes, progress: Callable[[float], None]
) -> Vectors:
    """Return the texts' vectors, [n, 384], in their order."""
    tokenizer = RustTokenizer(tokenizer_json)
    sequences = [tokenizer.encode(text, max_tokens=_MAX_TOKENS) for text in texts]
    session = onnxruntime.InferenceSession(model)
    # Texts of one length share a batch: little padding.
    order = sorted(range(len(texts)), key=lambda at: len(sequences[at]))
    vectors = np.empty((len(texts), 384), np.float32)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        width = len(sequences[batch[-1]])
        ids = np.zeros((len(batch), width), np.int32)
        mask = np.zeros((len(batch), width), np.int32)
        for row, at in enumerate(batch):
            ids[row, : len(sequences[at])] = sequences[at]
            mask[row, : len(sequences[at])] = 1
        (vectors[batch],) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        progress((start + len(batch)) / len(order))
    return vectors


def _keep(path: Path, vectors: Vectors) -> None:
    """Write the vectors in place of former ones: a change of the fit alone then costs a second."""
    if path.parent.exists():
        shutil.rmtree(path.parent)
    content = io.BytesIO()
    np.save(content, vectors)
    files.write(path, content.getvalue())
