"""What a request leaves behind: nothing that only the garbage collector could take away."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.exchange import Exchange
from tests.orchestrator.fakes import EMBEDDINGS, SUMMARY, caller

TEXT = "the cat sat. a dog ran home"
CHAT = {"model": SUMMARY, "messages": [{"role": "user", "content": TEXT}]}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"model": SUMMARY, "input": TEXT}),
    ("/v1/responses", {"model": SUMMARY, "input": TEXT, "instructions": "Be brief."}),
    ("/v1/responses", {"model": SUMMARY, "input": TEXT, "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/embeddings", {"model": EMBEDDINGS, "input": TEXT}),
    ("/v1/embeddings", {"model": EMBEDDINGS, "input": [TEXT, TEXT]}),
    ("/summary", {"model": SUMMARY, "text": TEXT}),
    ("/v1/moderations", {"input": TEXT}),
    ("/v1/responses", {"model": "unknown", "input": TEXT}),
    ("/v1/responses", {"model": SUMMARY}),
    ("/v1/nowhere", {}),
]


def alive() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, Exchange)]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_request_leaves_nothing_to_the_collector(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async with caller(tmp_path) as (_, client):
        gc.collect()
        # Those of other tests that have failures in what was logged.
        before = alive()
        gc.disable()
        try:
            for _ in range(3):
                await client.post(path, json=body)
            left = [one for one in alive() if one not in before]
        finally:
            gc.enable()

    # One may be on its way out: it is logged behind its answer.
    assert len(left) <= 1
