"""The unmodified OpenAI SDK: a summary, a classification and embeddings.

pip install openai
ZEROGPU_API_KEY=zgpu-api-… python examples/openai_sdk.py
"""

from __future__ import annotations

import json
import os
import sys

from openai import OpenAI

TEXT = (
    "The goalkeeper saved two penalties and the city celebrated its first cup in thirty years. "
    "Supporters filled the square before the final whistle and stayed until long after midnight. "
    "The coach, who almost left the club in winter, said that patience had won more than tactics. "
    "Shops along the main street opened late on Monday so that their staff could sleep."
)


def main() -> None:
    """Ask each of the three models once and print what it says."""
    client = OpenAI(
        base_url=os.environ.get("ZEROGPU_URL", "http://127.0.0.1:8000") + "/v1",
        # The SDK insists on a Bearer key; the server reads x-api-key first.
        api_key="unused",
        default_headers={"x-api-key": api_key()},
    )

    summary = client.responses.create(
        model="zlm-v1-summary-cloud", input=TEXT, metadata={"sentences": "1"}
    )
    print("Summary:", summary.output_text)

    # `with_raw_response` also shows the headers: who answered.
    answer = client.chat.completions.with_raw_response.create(
        model="zlm-v1-iab-classify-edge", messages=[{"role": "user", "content": TEXT}]
    )
    profile = json.loads(answer.parse().choices[0].message.content or "{}")
    category = profile["content"]["iab_2_2"][0]
    print(f"Category: {category['name']} ({category['score']:.2f})")
    print("Answered by:", answer.headers["x-inference-type"])

    reply = client.embeddings.create(
        model="all-minilm-l6-v2",
        input=["The ferry leaves at noon.", "The boat departs at twelve.", "Dice the onions."],
    )
    ferry, boat, onions = (row.embedding for row in reply.data)
    print(f"Similarity: ferry/boat {dot(ferry, boat):.2f}, ferry/onions {dot(ferry, onions):.2f}")


def api_key() -> str:
    """Return the key that the environment names, or end with a sentence."""
    key = os.environ.get("ZEROGPU_API_KEY")
    if not key:
        sys.exit("Set ZEROGPU_API_KEY to an API key: `zerogpu keys create` makes one.")
    return key


def dot(a: list[float], b: list[float]) -> float:
    """Return the cosine of two vectors of length 1."""
    return sum(x * y for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    main()
