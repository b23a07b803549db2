"""Why a job went where it went, as its own project may ask."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx

from orchestrator.api import build_api
from orchestrator.clock import Clock
from orchestrator.domain.fleet import DecisionRow
from orchestrator.storage import projects
from orchestrator.storage.objects import open_objects
from orchestrator.storage.request_log import RequestLog
from tests.orchestrator.fakes import (
    SUMMARY,
    Backend,
    LocalEngine,
    backend_in,
    client_of,
    error_of,
    serving,
)

NUMBER = "0123456789abcdef01234567"


@dataclass
class RememberingEngine(LocalEngine):
    """Remembers placements that a test puts there."""

    rows: dict[str, list[DecisionRow]] = field(default_factory=dict)

    def decisions_of(self, number: str) -> list[DecisionRow]:
        return self.rows.get(number, [])


def placed(project_id: str, *, node_id: str | None = "node_1", number: str = NUMBER) -> DecisionRow:
    return DecisionRow(
        request_id=f"req_{number}",
        job=f"{number}.0",
        project_id=project_id,
        model=SUMMARY,
        at=1_700_000_000.5,
        purpose="serve",
        node_id=node_id,
        tokens=9,
        waited_s=0.001,
        rtt_s=0.02,
        backlog_s=0.1,
        service_s=0.3,
        cold_load_s=0.0,
        penalty_s=0.0,
        finish_s=0.42,
        soonest_s=None,
        considered=2,
        skipped={"region": 3},
        outcome="answered",
        took_s=0.4,
    )


@contextlib.asynccontextmanager
async def asked(
    folder: Path,
) -> AsyncIterator[tuple[Backend, RememberingEngine, str, httpx.AsyncClient]]:
    """An API before an engine that remembers; its project, and a client with a key of it."""
    with backend_in(folder) as backend:
        engine = RememberingEngine(backend.catalogue)
        backend.app = build_api(
            backend.settings,
            database=backend.database,
            objects=open_objects(backend.settings),
            keys=backend.keyring,
            catalogue=backend.catalogue,
            engine=engine,
            log=RequestLog(backend.writer),
            clock=Clock(),
            ready=lambda: True,
            rng=random.Random(1),
            supply=lambda: 1,
        ).app
        headers = {"x-api-key": backend.new_key().api_key}
        [project] = projects.list_projects(backend.database)
        async with (
            serving(backend) as url,
            client_of(url, headers=headers) as client,
        ):
            yield backend, engine, project.project_id, client


async def test_a_project_is_told_every_placement_of_its_request(tmp_path: Path) -> None:
    async with asked(tmp_path) as (backend, engine, project_id, client):
        engine.rows[NUMBER] = [placed(project_id, node_id=None), placed(project_id)]
        reply = await client.get(f"/v1/requests/req_{NUMBER}/decisions")
        logged = backend.rows()[-1]

    body = reply.json()
    assert (reply.status_code, body["object"]) == (200, "list")
    assert [row["node_id"] for row in body["data"]] == [None, "node_1"]
    # All there is of the node is its id: nothing that tells who lends it.
    assert body["data"][1] == {
        "request_id": f"req_{NUMBER}",
        "job": f"{NUMBER}.0",
        "project_id": project_id,
        "model": SUMMARY,
        "at": 1_700_000_000.5,
        "purpose": "serve",
        "node_id": "node_1",
        "tokens": 9,
        "waited_s": 0.001,
        "rtt_s": 0.02,
        "backlog_s": 0.1,
        "service_s": 0.3,
        "cold_load_s": 0.0,
        "penalty_s": 0.0,
        "finish_s": 0.42,
        "soonest_s": None,
        "considered": 2,
        "skipped": {"region": 3},
        "outcome": "answered",
        "took_s": 0.4,
    }
    assert logged["endpoint"] == "/v1/requests/{request_id}/decisions"


async def test_the_id_of_an_answer_s_own_header_is_the_one_to_ask_by(tmp_path: Path) -> None:
    async with asked(tmp_path) as (_, engine, project_id, client):
        answer = await client.post("/v1/responses", json={"model": SUMMARY, "input": "the cat"})
        request_id = answer.headers["x-request-id"]
        number, _, at = engine.jobs[-1].job_id.partition(".")
        engine.rows[number] = [placed(project_id, number=number)]
        reply = await client.get(f"/v1/requests/{request_id}/decisions")

    assert (reply.status_code, at) == (200, "0")
    assert reply.json()["data"][0]["request_id"] == request_id


async def test_what_is_not_kept_and_what_is_another_s_are_the_same_404(tmp_path: Path) -> None:
    async with asked(tmp_path) as (_, engine, project_id, client):
        engine.rows[NUMBER] = [placed("another")]
        others = await client.get(f"/v1/requests/req_{NUMBER}/decisions")
        unknown = await client.get("/v1/requests/req_" + "f" * 24 + "/decisions")
        engine.rows[NUMBER].append(placed(project_id))
        mixed = await client.get(f"/v1/requests/req_{NUMBER}/decisions")

    assert (others.status_code, unknown.status_code) == (404, 404)
    assert error_of(others)["code"] == error_of(unknown)["code"] == "request_not_found"
    assert error_of(others)["param"] == "request_id"
    said = [error_of(reply)["message"] for reply in (others, unknown)]
    assert said[0].replace(NUMBER, "f" * 24) == said[1]
    assert "last 2,000" in said[0]
    assert [row["project_id"] for row in mixed.json()["data"]] == [project_id]


async def test_what_is_no_request_id_is_not_found_and_not_looked_for(tmp_path: Path) -> None:
    async with asked(tmp_path) as (_, engine, project_id, client):
        for name in (NUMBER, "x", f"req_{NUMBER}.0", f"resp_{NUMBER}"):
            engine.rows[name] = [placed(project_id)]
            reply = await client.get(f"/v1/requests/{name}/decisions")
            assert (reply.status_code, error_of(reply)["code"]) == (404, "request_not_found"), name
        # The placeholder's surroundings overlap here: that is another path.
        bare = await client.get("/v1/requests/decisions")
        posted = await client.post(f"/v1/requests/req_{NUMBER}/decisions")

    assert error_of(bare)["code"] == "not_found"
    assert "/v1/requests/{request_id}/decisions" in error_of(bare)["message"]
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, OPTIONS")
