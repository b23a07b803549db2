"""A retry loop of one's own, where the OpenAI SDK (which has one) is not used.

    pip install requests
    ZEROGPU_API_KEY=zgpu-api-… python examples/retry.py

Only what may get better is tried again: a busy or failing server, a network that failed. Each
request has a key of its own, so that one that was answered after all is not charged twice.
"""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from typing import Any

import requests

URL = os.environ.get("ZEROGPU_URL", "http://127.0.0.1:8000") + "/v1/responses"
RETRIABLE = {408, 429, 500, 502, 503, 504}
LONGEST_WAIT_S = 30.0


def ask(body: dict[str, Any], *, tries: int = 6, timeout_s: float = 30.0) -> dict[str, Any]:
    """Return the answer to ``body``; raises `requests.RequestException` after the last try."""
    headers = {"x-api-key": api_key(), "idempotency-key": str(uuid.uuid4())}
    for left in reversed(range(tries)):
        told_s = None
        try:
            reply = requests.post(URL, json=body, headers=headers, timeout=timeout_s)
            if reply.status_code not in RETRIABLE or not left:
                reply.raise_for_status()
                answer: dict[str, Any] = reply.json()
                return answer
            told_s = reply.headers.get("retry-after")
        except (requests.ConnectionError, requests.Timeout):
            if not left:
                raise
        # Twice as long each time, and not all clients at once; unless the server says when.
        backed_off_s = min(2.0 ** (tries - left - 1), LONGEST_WAIT_S) + random.random()
        time.sleep(float(told_s) if told_s else backed_off_s)
    raise AssertionError("the last try returns or raises")


def api_key() -> str:
    """Return the key that the environment names, or end with a sentence."""
    key = os.environ.get("ZEROGPU_API_KEY")
    if not key:
        sys.exit("Set ZEROGPU_API_KEY to an API key: `zerogpu keys create` makes one.")
    return key


if __name__ == "__main__":
    text = "The ferry leaves at noon. It was late all week. Nobody knows why."
    response = ask(
        {"model": os.environ.get("ZEROGPU_MODEL", "zlm-v1-summary-cloud"), "input": text}
    )
    print(response["output"][0]["content"][0]["text"])
