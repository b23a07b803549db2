"""What schemathesis makes of the OpenAPI document, sent to a real socket: no answer outside of it.

`ZEROGPU_TEST_EXAMPLES=500` tries more requests an operation than a test run has time for.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.api.endpoints import ENDPOINTS
from orchestrator.api.openapi import document
from orchestrator.storage.keys import NewKey
from tests.orchestrator.fakes import EMBEDDINGS, IAB, SUMMARY, backend_in, serving

pytestmark = pytest.mark.slow

EXAMPLES: Final = int(os.environ.get("ZEROGPU_TEST_EXAMPLES", "10"))
SEED: Final = 20_261_121
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Ids that exist, where a drawn one would end every request at a 404.
GIVEN: Final = ("file_id", "batch_id", "input_file_id")
UNTOUCHED: Final = "deleteFile"
MODELS: Final = [EMBEDDINGS, IAB, SUMMARY, "no-such-model"]
LINE: Final = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": SUMMARY, "messages": [{"role": "user", "content": "the cat sat"}]},
}


def drawn_from() -> dict[str, Any]:
    """Return the document as a client reads it, with the names of models that are there."""
    read: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(document(ENDPOINTS, url="http://127.0.0.1"))
    )
    for name, schema in read["components"]["schemas"].items():
        if name.endswith("Body") and "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"type": "string", "enum": MODELS}
    return read


OPERATIONS: Final = list(schemathesis.openapi.from_dict(drawn_from()).get_all_operations())


def operation_id(operation: Any) -> str:
    return str(operation.definition.raw["operationId"])


@dataclass
class Api:
    """A server with a file and a batch of the key's project; ``given`` are their ids."""

    url: str
    headers: dict[str, str]
    given: dict[str, str]


def prepared(url: str, key: NewKey) -> Api:
    headers = {"x-api-key": key.api_key, "x-project-id": key.project_id}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        sent = client.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", json.dumps(LINE))}
        )
        file_id = sent.json()["id"]
        made = client.post("/v1/batches", json={"input_file_id": file_id, "endpoint": LINE["url"]})
    given = {"file_id": file_id, "input_file_id": file_id, "batch_id": made.json()["id"]}
    return Api(url, headers, given)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """An API on a socket, with its own event loop: schemathesis waits for each answer."""
    ready, stop, made = threading.Event(), asyncio.Event(), list[tuple[str, NewKey]]()
    loop = asyncio.new_event_loop()

    async def serve(folder: Path) -> None:
        try:
            with backend_in(folder) as backend:
                async with serving(backend) as url:
                    made.append((url, backend.new_key()))
                    ready.set()
                    await stop.wait()
        finally:
            ready.set()

    with tempfile.TemporaryDirectory() as folder:
        thread = threading.Thread(target=loop.run_until_complete, args=(serve(Path(folder)),))
        thread.start()
        assert ready.wait(30)
        yield prepared(*made[0])
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    loop.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("found", OPERATIONS, ids=lambda one: operation_id(one.ok()))
def test_every_answer_is_one_that_the_document_knows(
    found: Any, mode: GenerationMode, api: Api
) -> None:
    operation = found.ok()

    @seeded(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and operation_id(operation) != UNTOUCHED:
            for holder in (case.path_parameters, case.body):
                if isinstance(holder, dict):
                    holder.update({one: api.given[one] for one in GIVEN if one in holder})
        answer = case.call(base_url=api.url, headers=api.headers)
        case.validate_response(answer, checks=CHECKS)

    send()
