"""The desk over plain ASGI: what an operator may read and order, and what is kept of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.clock import Clock
from orchestrator.console.app import Console, build_console
from orchestrator.console.control import FleetControl
from orchestrator.domain.fleet import NodeRow
from orchestrator.settings import Settings
from tests.orchestrator.page_desk import FakeEngine, open_desk
from tests.orchestrator.page_fakes import FakeFleet, FakeSignIn, Reply, ask

SESSION = "session-of-link-1"
COOKIE = f"zerogpu_console={SESSION}"
OURS = "http://localhost:8000"
NOBODY = "ab" * 32


@dataclass
class Office:
    """A signed-in operator's console, its engine and its records."""

    console: Console
    engine: FakeEngine
    control: FleetControl
    now: list[float]

    @property
    def node(self) -> NodeRow:
        return self.engine.fleet.rows[4]

    @property
    def path(self) -> str:
        return f"/console/standings/{self.node.identity}/{self.node.runtime}"

    async def get(self, path: str) -> Any:
        reply = await ask(self.console, path, cookie=COOKIE)
        assert (reply.status, reply.headers["cache-control"]) == (200, "no-store"), reply.body
        return msgspec.json.decode(reply.body)

    async def order(self, path: str, order: str, **headers: str) -> Reply:
        body = msgspec.json.encode({"order": order})
        headers = {"cookie": COOKIE, "origin": OURS, **headers}
        return await ask(self.console, path, method="POST", body=body, **headers)

    async def log(self) -> list[tuple[str, str, str]]:
        rows = (await self.get("/console/actions"))["data"]
        return [(row["action"], row["target"], row["detail"]) for row in rows]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    now = [1_000.0]
    clock = Clock(monotonic=lambda: now[0], wall=lambda: now[0])
    fleet, sign_in = FakeFleet(), FakeSignIn(sessions={SESSION})
    with open_desk(tmp_path, fleet, clock) as (engine, control):
        console = build_console(
            Settings(), sign_in=sign_in, fleet_source=fleet.snapshot, control=control,
            clock=clock, shutdown=asyncio.Event(),
        )  # fmt: skip
        yield Office(console, engine, control, now)


async def test_decisions_come_newest_first_with_every_term(office: Office) -> None:
    office.engine.decide(job="a.0")
    office.engine.decide(job="b.0", node_id=None, skipped={"busy": 3, "no_memory": 1})

    both = (await office.get("/console/decisions"))["data"]
    last = (await office.get("/console/decisions?limit=1"))["data"]

    assert [row["job"] for row in both] == ["b.0", "a.0"]
    assert last == both[:1]
    assert both[0]["skipped"] == {"busy": 3, "no_memory": 1}
    terms = ("rtt_s", "backlog_s", "service_s", "cold_load_s", "penalty_s")
    assert sum(both[1][term] for term in terms) == pytest.approx(both[1]["finish_s"])


async def test_a_node_is_drained_and_resumed_and_both_are_recorded(office: Office) -> None:
    drained = await office.order(f"/console/nodes/{office.node.id}", "drain")
    state = office.node.state
    resumed = await office.order(f"/console/nodes/{office.node.id}", "resume")

    assert (drained.status, drained.body, state) == (200, b'{"order":"drain"}', "draining")
    assert (resumed.status, office.node.state) == (200, "active")
    assert await office.log() == [("resume", office.node.id, ""), ("drain", office.node.id, "")]


async def test_the_log_names_the_browser_by_the_start_of_its_sessions_digest(
    office: Office,
) -> None:
    office.now[0] = 1_234.5
    await office.order(f"/console/nodes/{office.node.id}", "drain")

    row = (await office.get("/console/actions"))["data"][0]

    digest = hashlib.sha256(SESSION.encode()).hexdigest()
    assert (row["who"], row["at"]) == (f"console {digest[:8]}", 1_234.5)


async def test_an_order_to_a_node_that_left_changes_nothing_and_is_recorded(
    office: Office,
) -> None:
    reply = await office.order("/console/nodes/n_gone", "drain")

    assert reply.status == 404
    assert b"Node n_gone is not connected any more" in reply.body
    assert await office.log() == [("drain", "n_gone", "was not connected")]


async def test_a_quarantine_is_listed_at_once_and_undone_by_a_release(office: Office) -> None:
    done = await office.order(office.path, "quarantine")
    listed = (await office.get("/console/standings?only=quarantined"))["data"]
    detail = await office.get(office.path)
    undone = await office.order(office.path, "release")

    assert (done.status, undone.status) == (200, 200)
    assert [(row["identity"], row["runtime"], row["level"]) for row in listed] == [
        (office.node.identity, office.node.runtime, "quarantined")
    ]
    assert detail["standing"]["reason"] == "quarantined by an operator"
    assert office.node.level == "newcomer"
    assert (await office.get("/console/standings?only=quarantined"))["data"] == []
    assert await office.log() == [
        ("release", office.node.identity, office.node.runtime),
        ("quarantine", office.node.identity, office.node.runtime),
    ]


async def test_evidence_tells_what_was_wrong_newest_first(office: Office) -> None:
    office.engine.disagree(office.node, "another label", min_cosine=0.98)
    office.now[0] += 60
    office.engine.disagree(office.node, "cosine 0.41 is below 0.99", kind="replay")
    await office.order("/console/nodes/n_gone", "drain")  # returns when all before it is written

    detail = await office.get(office.path)
    disagreed = (await office.get("/console/standings?only=disagreed"))["data"]

    assert [(row["at"], row["kind"], row["reason"]) for row in detail["evidence"]] == [
        (1_060.0, "replay", "cosine 0.41 is below 0.99"),
        (1_000.0, "audit", "another label"),
    ]
    assert detail["evidence"][1]["min_cosine"] == 0.98
    assert detail["standing"]["level"] == "quarantined"
    assert [(row["disagreed"], row["at"]) for row in disagreed] == [(2, 1_060.0)]


async def test_a_ban_reaches_an_identity_that_has_left(office: Office) -> None:
    node = office.node
    office.engine.disagree(node, "another label")
    await office.order("/console/nodes/n_gone", "drain")
    office.engine.fleet.rows.remove(office.node)
    office.engine.standings.clear()

    reply = await office.order(f"/console/standings/{node.identity}/{node.runtime}", "ban")

    banned = (await office.get("/console/standings?only=banned"))["data"]
    assert reply.status == 200
    assert [(row["identity"], row["disagreed"]) for row in banned] == [(node.identity, 1)]


async def test_an_identity_that_was_here_but_never_audited_can_be_banned(office: Office) -> None:
    office.engine.nodes.seen(NOBODY, runtime="browser/wasm", now=1.0)
    await office.order("/console/nodes/n_gone", "drain")

    other = await office.order(f"/console/standings/{NOBODY}/native/onnxruntime", "ban")
    reply = await office.order(f"/console/standings/{NOBODY}/browser/wasm", "ban")

    banned = (await office.get("/console/standings?only=banned"))["data"]
    assert (reply.status, other.status) == (200, 404)
    assert [(row["identity"], row["runtime"]) for row in banned] == [(NOBODY, "browser/wasm")]


async def test_an_order_about_nobody_is_recorded_too(office: Office) -> None:
    path = f"/console/standings/{NOBODY}/browser/wasm"

    ordered, asked = await office.order(path, "ban"), await ask(office.console, path, cookie=COOKIE)

    assert (ordered.status, asked.status) == (404, 404)
    assert b"Nothing is known of identity abababababab" in ordered.body
    assert await office.log() == [("ban", NOBODY, "browser/wasm: never seen")]


async def test_a_long_list_has_pages(office: Office) -> None:
    for number, row in enumerate(office.engine.fleet.rows[1:4]):
        office.now[0] += number
        office.engine.disagree(row, "another label")
    await office.order("/console/nodes/n_gone", "drain")

    first = await office.get("/console/standings?only=disagreed&limit=2")
    second = await office.get("/console/standings?only=disagreed&limit=2&offset=2")

    assert (len(first["data"]), first["more"]) == (2, True)
    assert (len(second["data"]), second["more"]) == (1, False)


@pytest.mark.parametrize(
    "path",
    [
        "/console/decisions",
        "/console/actions",
        "/console/standings",
        f"/console/standings/{NOBODY}/browser/wasm",
    ],
)
async def test_nothing_is_read_without_a_session(office: Office, path: str) -> None:
    for cookie in ("", "zerogpu_console=other"):
        reply = await ask(office.console, path, cookie=cookie)
        assert reply.status == 401
        assert b"zerogpu console-link" in reply.body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"cookie": ""}, 401),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9000"}, 403),
    ],
)
async def test_another_site_can_give_no_order(
    office: Office, headers: dict[str, str], status: int
) -> None:
    for path, order in ((f"/console/nodes/{office.node.id}", "drain"), (office.path, "ban")):
        assert (await office.order(path, order, **headers)).status == status

    assert (office.node.state, office.node.level) == ("active", "trusted")
    assert await office.log() == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/console/decisions?limit=0", "limit is '0'; it must be a whole number from 1 to 500."),
        ("/console/decisions?limit=501", "limit is '501'"),
        ("/console/actions?limit=all", "limit is 'all'"),
        ("/console/actions?limit=", "limit is ''"),
        ("/console/standings?offset=-1", "offset is '-1'; it must be a whole number from 0"),
        ("/console/standings?only=good", "it must be quarantined or banned or disagreed."),
        ("/console/standings/short/browser/wasm", "'short' is not an identity"),
        (f"/console/standings/{NOBODY}/browser/w%20sm", "is not a runtime such as browser/wasm."),
    ],
)
async def test_what_cannot_be_asked_is_answered_with_a_sentence(
    office: Office, path: str, says: str
) -> None:
    reply = await ask(office.console, path, cookie=COOKIE)

    assert reply.status == 400
    assert says in msgspec.json.decode(reply.body)["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"drain", b"\xff", b'{"order": "ban"}', b'{"order": null}', b"[" * 4000],
)
async def test_an_unclear_order_is_answered_with_what_is_allowed(
    office: Office, body: bytes
) -> None:
    reply = await ask(
        office.console, f"/console/nodes/{office.node.id}", method="POST", body=body,
        cookie=COOKIE, origin=OURS,
    )  # fmt: skip

    assert reply.status == 400
    assert msgspec.json.decode(reply.body)["error"]["message"].endswith("with drain or resume.")
    assert await office.log() == []


async def test_an_order_longer_than_any_is_not_read_to_its_end(office: Office) -> None:
    reply = await ask(
        office.console, office.path, method="POST", body=b" " * 5_000, cookie=COOKIE, origin=OURS
    )

    assert (reply.status, b"4,096 bytes" in reply.body) == (413, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/console/decisions", 405),
        ("GET", "/console/nodes/n_1", 405),
        ("DELETE", f"/console/standings/{NOBODY}/browser/wasm", 405),
        ("GET", "/console/nodes", 404),
        ("GET", "/console/standings/a/b", 404),
        ("GET", "/console/decisions/1", 404),
    ],
)
async def test_other_requests_are_refused(
    office: Office, method: str, path: str, status: int
) -> None:
    assert (await ask(office.console, path, method=method, cookie=COOKIE)).status == status
