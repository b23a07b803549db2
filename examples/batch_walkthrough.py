"""A batch from beginning to end with the unmodified OpenAI SDK.

    pip install openai
    ZEROGPU_API_KEY=zgpu-api-… python examples/batch_walkthrough.py

Leaves input.jsonl, output.jsonl and errors.jsonl in the folder that it is started in.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

MODEL = os.environ.get("ZEROGPU_MODEL", "zlm-v1-summary-cloud")
POLL_S = float(os.environ.get("POLL_S", "5"))
TEXTS = {
    "ferry": "The ferry leaves at noon. It was late all week: the harbour is being dredged.",
    "cup": "The goalkeeper saved two penalties. The city celebrated its first cup for years.",
    "storm": "Gusts reach the coast tonight. Fishermen were told to stay in port.",
}


def main() -> None:
    """Send three texts as one batch, wait for it and print the answers."""
    client = OpenAI(
        base_url=os.environ.get("ZEROGPU_URL", "http://127.0.0.1:8000") + "/v1",
        # The SDK insists on a Bearer key; the server reads x-api-key first.
        api_key="unused",
        default_headers={"x-api-key": api_key()},
    )

    # 1. One line a request. `custom_id` is how its answer is found again.
    with open("input.jsonl", "w") as lines:
        for custom_id, text in TEXTS.items():
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
            url = "/v1/chat/completions"
            line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
            lines.write(json.dumps(line) + "\n")

    # 2. Upload it.
    with open("input.jsonl", "rb") as opened:
        file = client.files.create(file=opened, purpose="batch")
    print(f"Uploaded {file.id} ({file.bytes} bytes)")

    # 3. Make a batch of it. A file that is not valid is refused here, with the line.
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"job": "walkthrough"},
    )
    print(f"Created {batch.id}: {batch.status}")

    # 4. Ask until it has ended, whichever way.
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(POLL_S)
        batch = client.batches.retrieve(batch.id)
        counts = batch.request_counts
        if counts is not None:
            done = f"{counts.completed} of {counts.total}, {counts.failed} failed"
            print(f"{batch.status}: {done}")

    for problem in batch.errors.data or [] if batch.errors else []:
        print(f"Refused: {problem.message}")

    # 5. Download what came of it: each line of the input is in one of the two files.
    for file_id, path in (
        (batch.output_file_id, Path("output.jsonl")),
        (batch.error_file_id, Path("errors.jsonl")),
    ):
        if file_id is not None:
            path.write_bytes(client.files.content(file_id).read())
            for line in map(json.loads, path.read_text().splitlines()):
                print(f"{line['custom_id']}: {said(line)}")


def said(line: dict[str, Any]) -> str:
    """Return the answer of a line, or why there is none."""
    if line["response"] is None:
        return f"failed [{line['error']['code']}]: {line['error']['message']}"
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def api_key() -> str:
    """Return the key that the environment names, or end with a sentence."""
    key = os.environ.get("ZEROGPU_API_KEY")
    if not key:
        sys.exit("Set ZEROGPU_API_KEY to an API key: `zerogpu keys create` makes one.")
    return key


if __name__ == "__main__":
    main()
