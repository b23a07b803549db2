"""Embed the lines of a file, in arrays of many, and write one JSON line each.

    pip install openai
    ZEROGPU_API_KEY=zgpu-api-… python examples/batch_embeddings.py lines.txt > vectors.jsonl

Each line is a job of its own: the nodes that are there share them by what they can do.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from openai import OpenAI

# At most 2048 texts a request; smaller arrays show progress and lose less to an error.
ARRAY = 256


def main(path: Path) -> None:
    """Print ``{"text": …, "embedding": […]}`` for every line of ``path`` that is not blank."""
    client = OpenAI(
        base_url=os.environ.get("ZEROGPU_URL", "http://127.0.0.1:8000") + "/v1",
        api_key="unused",
        default_headers={"x-api-key": api_key()},
        # 429 and 503 say when to come back, and the SDK does.
        max_retries=5,
    )
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    done = 0
    for texts in arrays(lines):
        reply = client.embeddings.create(model="all-minilm-l6-v2", input=texts)
        for text, row in zip(texts, reply.data, strict=True):
            print(json.dumps({"text": text, "embedding": row.embedding}))
        done += len(texts)
        print(f"{done} of {len(lines)}", file=sys.stderr)


def api_key() -> str:
    """Return the key that the environment names, or end with a sentence."""
    key = os.environ.get("ZEROGPU_API_KEY")
    if not key:
        sys.exit("Set ZEROGPU_API_KEY to an API key: `zerogpu keys create` makes one.")
    return key


def arrays(lines: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(lines), ARRAY):
        yield lines[at : at + ARRAY]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "Name the file whose lines to embed:"
            " python examples/batch_embeddings.py lines.txt > vectors.jsonl"
        )
    main(Path(sys.argv[1]))
