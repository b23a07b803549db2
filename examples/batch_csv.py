"""A thousand texts as one batch, their answers as a CSV.

    pip install openai
    ZEROGPU_API_KEY=zgpu-api-… python examples/batch_csv.py texts.csv answers.csv

texts.csv has the columns ``id`` and ``text``; without names a made-up thousand is sent.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from openai import OpenAI

MODEL = os.environ.get("ZEROGPU_MODEL", "zlm-v1-summary-cloud")
POLL_S = float(os.environ.get("POLL_S", "5"))


def main(texts: Iterator[tuple[str, str]], answers: Path) -> None:
    """Send ``(id, text)`` pairs and write ``id,answer`` rows in their order."""
    client = OpenAI(
        base_url=os.environ.get("ZEROGPU_URL", "http://127.0.0.1:8000") + "/v1",
        api_key="unused",
        default_headers={"x-api-key": api_key()},
    )
    ids: dict[str, None] = {}
    lines = io.BytesIO()
    for text_id, text in texts:
        if text_id in ids:
            sys.exit(f"The id {text_id!r} is there twice: answers are told apart by their ids.")
        ids[text_id] = None
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        url = "/v1/chat/completions"
        line = {"custom_id": text_id, "method": "POST", "url": url, "body": body}
        lines.write(json.dumps(line).encode() + b"\n")
    lines.seek(0)

    file = client.files.create(file=("texts.jsonl", lines), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(POLL_S)
        batch = client.batches.retrieve(batch.id)
        if batch.request_counts is not None:
            counts = batch.request_counts
            print(f"{batch.status}: {counts.completed} of {counts.total}", file=sys.stderr)
    if batch.status != "completed" or batch.output_file_id is None:
        told = f"The batch {batch.id} ended with the status {batch.status}, without answers."
        if batch.error_file_id is not None:
            told += f" Why, line by line, is in its error file {batch.error_file_id}."
        sys.exit(told)

    said = {}
    for raw in client.files.content(batch.output_file_id).iter_lines():
        line = json.loads(raw)
        said[line["custom_id"]] = line["response"]["body"]["choices"][0]["message"]["content"]
    with answers.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["id", "answer"])
        # A line that failed is in the batch's error file; its row stays empty.
        rows.writerows([text_id, said.get(text_id, "")] for text_id in ids)
    print(f"{len(said)} of {len(ids)} answers in {answers}")
    if batch.error_file_id is not None:
        print(f"Why the others have none is in the batch's error file {batch.error_file_id}.")


def made_up(count: int) -> Iterator[tuple[str, str]]:
    for number in range(count):
        text = f"Ferry number {number} leaves at noon. It was late all week. Nobody knows why."
        yield f"doc-{number}", text


def read(path: Path) -> Iterator[tuple[str, str]]:
    # Excel's "CSV UTF-8" begins with a byte order mark, which would be part of the first column.
    with path.open(newline="", encoding="utf-8-sig") as opened:
        rows = csv.DictReader(opened)
        if not {"id", "text"} <= set(rows.fieldnames or ()):
            sys.exit(f"{path} must begin with a line of columns, id and text among them.")
        for row in rows:
            yield row["id"], row["text"]


def api_key() -> str:
    """Return the key that the environment names, or end with a sentence."""
    key = os.environ.get("ZEROGPU_API_KEY")
    if not key:
        sys.exit("Set ZEROGPU_API_KEY to an API key: `zerogpu keys create` makes one.")
    return key


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(read(Path(sys.argv[1])), Path(sys.argv[2]))
    else:
        main(made_up(1000), Path("answers.csv"))
