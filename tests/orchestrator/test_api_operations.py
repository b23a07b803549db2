"""Health, readiness and metrics, and who may read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.metrics import Metrics
from orchestrator.api.operations import Operations
from tests.orchestrator.fakes import EMBEDDINGS, SUMMARY, backend_in, client_of, serving


async def test_health_and_readiness_are_different_questions(tmp_path: Path) -> None:
    with backend_in(tmp_path) as backend:
        async with serving(backend) as url, client_of(url) as client:
            ready = await client.get("/readyz")
            backend.ready.yes = False
            not_ready = await client.get("/readyz")
            healthy = await client.get("/healthz")
            posted = await client.post("/healthz")

    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert (not_ready.status_code, not_ready.json()["status"]) == (503, "not ready")
    assert not_ready.headers["retry-after"] == "1"
    assert (healthy.status_code, healthy.json()) == (200, {"status": "ok"})
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


async def test_metrics_count_answers_tokens_times_and_the_log(tmp_path: Path) -> None:
    with backend_in(tmp_path) as backend:
        headers = {"x-api-key": backend.new_key().api_key}
        async with serving(backend) as url, client_of(url) as client:
            ask = {"model": SUMMARY, "input": "the cat sat. a dog ran"}
            await client.post("/v1/responses", headers=headers, json=ask)
            await client.post("/v1/responses", headers=headers, json=ask)
            embed = {"model": EMBEDDINGS, "input": "cloud"}
            await client.post("/v1/embeddings", headers=headers, json=embed)
            assert backend.writer.flush(10)
            reply = await client.get("/metrics")

    lines = reply.text.splitlines()
    assert reply.headers["content-type"].startswith("text/plain")
    for line in (
        'zerogpu_requests_total{endpoint="/v1/responses",place="edge",status="200"} 2.0',
        'zerogpu_requests_total{endpoint="/v1/embeddings",place="cloud",status="200"} 1.0',
        f'zerogpu_tokens_total{{direction="input",model="{SUMMARY}"}} 18.0',
        f'zerogpu_tokens_total{{direction="output",model="{SUMMARY}"}} 6.0',
        'zerogpu_request_seconds_bucket{endpoint="/v1/responses",le="+Inf"} 2.0',
        'zerogpu_request_seconds_count{endpoint="/v1/responses"} 2.0',
        "zerogpu_log_rows_queued 0.0",
        "zerogpu_log_rows_dropped 0.0",
    ):
        assert line in lines


def test_a_time_is_counted_in_every_bucket_that_holds_it() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 400.0):
        metrics.answered("/x", 200, None, seconds)

    lines = metrics.render().decode().splitlines()

    assert 'zerogpu_request_seconds_bucket{endpoint="/x",le="0.001"} 1.0' in lines
    assert 'zerogpu_request_seconds_bucket{endpoint="/x",le="0.0025"} 2.0' in lines
    assert 'zerogpu_request_seconds_bucket{endpoint="/x",le="60.0"} 2.0' in lines
    assert 'zerogpu_request_seconds_bucket{endpoint="/x",le="+Inf"} 3.0' in lines


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        (("127.0.0.1", 5), {}, 200),
        (("::1", 5), {}, 200),
        (("10.0.0.9", 5), {}, 403),
        # A proxy on this machine speaks for somebody else.
        (("127.0.0.1", 5), {"x-forwarded-for": "10.0.0.9"}, 403),
        (("127.0.0.1", 5), {"forwarded": "for=10.0.0.9"}, 403),
        (("10.0.0.9", 5), {"authorization": "Bearer hush"}, 200),
        (("10.0.0.9", 5), {"authorization": "Bearer other"}, 403),
        (None, {}, 403),
        (("unix", 0), {}, 403),
    ],
)
async def test_metrics_are_for_this_machine_or_for_the_token(
    client: tuple[str, int] | None, headers: dict[str, str], status: int
) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "client": client,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await Operations(Metrics(), ready=lambda: True, token="hush")(scope, receive, send)

    assert sent[0]["status"] == status
