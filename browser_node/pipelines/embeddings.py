"""Text to one unit vector: the output is its float32 bytes, its only evidence."""

from __future__ import annotations

from collections.abc import Sequence

from browser_node.models import Manifest
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.plan import Plan, Vector, counted
from browser_node.protocol import Answer, Task
from browser_node.tokenizer import Tokenizer


class EmbeddingsPipeline:
    """Encodes the whole input, cut to the model's length where the model cuts."""

    head_path: str | None = None

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer

    def plan(self, task: Task) -> Plan:
        """Return the one sequence to encode; raises `InputError` for a text that is too long."""
        tokens = counted(self._manifest, self._tokenizer, task.input)
        ids = self._tokenizer.encode(task.input, max_tokens=self._manifest.max_tokens)
        return Plan(sequences=(ids,), tokens=tokens)

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        """Return the vector's bytes."""
        return Answer(output=vector_math.to_bytes(vectors))
