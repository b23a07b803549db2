"""The pipelines by name: `build` makes the one a manifest asks for out of the model's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from browser_node import tokenizer
from browser_node.models import Manifest
from browser_node.pipelines.plan import Headed, InputError, Pipeline, Plan, Streaming, Vector

__all__ = ["Headed", "InputError", "Pipeline", "Plan", "Streaming", "Vector", "build"]


def build(manifest: Manifest, files: Mapping[str, bytes]) -> Pipeline:
    """Return the pipeline of ``manifest``; ``files`` are the model's, by path, ONNX left out.

    Raises `KeyError` for a missing file and `ValueError` for one that does not parse.
    """
    # Imported here because each pipeline imports this package's `plan`, and a tab pays only for
    # what it loads.
    engine = tokenizer.load(files)
    match manifest.pipeline:
        case "embeddings":
            from browser_node.pipelines.embeddings import EmbeddingsPipeline  # noqa: PLC0415

            return EmbeddingsPipeline(manifest, engine)
        case "extractive-summary":
            from browser_node.pipelines.summary import SummaryPipeline  # noqa: PLC0415

            return SummaryPipeline(manifest, engine)
        case "iab-classification":
            from browser_node.pipelines.iab import IabPipeline  # noqa: PLC0415

            return IabPipeline(manifest, engine, files)
        case _:
            assert_never(manifest.pipeline)
