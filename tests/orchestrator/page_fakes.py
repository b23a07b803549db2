"""What the page tests put in place of the engine, the database and the build."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import brotli
import msgspec
from starlette.types import ASGIApp, Message, Scope

from browser_node.models import FilePart, Manifest, ModelFile, Price, digest_of, encode_manifest
from orchestrator.domain.fleet import (
    FleetEvent,
    FleetSnapshot,
    ModelRow,
    NodeRow,
    ProjectRow,
    Totals,
)
from orchestrator.fleet_view import ROWS_SHOWN

AGENTS = ("Chrome 156, Windows", "Firefox 153, Linux", "Edge 156, Windows", "Chrome 156, Android")
MODELS = ("all-minilm-l6-v2", "zlm-v1-iab-classify-edge", "zlm-v1-summary-cloud")
REGIONS = ("EU-DE", "EU-PL", "NA-US", "SA-BR", "AS-JP", "")
STARTED_AT = 1_700_000_000.0


@dataclass
class Reply:
    """What an ASGI app answered; repeated headers are joined by a comma."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False


def http_scope(path: str, *, method: str = "GET", **headers: str) -> Scope:
    """A request as the server hands it on: ``path`` is not normalised. Header names with ``_``."""
    named = {"host": "localhost:8000", **headers}
    path, _, query = path.partition("?")
    return {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "scheme": "http", "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in named.items()
        ],
    }  # fmt: skip


async def ask(
    app: ASGIApp, path: str, *, method: str = "GET", body: bytes = b"", **headers: str
) -> Reply:
    """Send one request to an ASGI app and collect the whole answer."""
    reply = Reply()
    # In two pieces, as a network may deliver it.
    pieces = [(body[:7], True), (body[7:], False)]

    async def receive() -> Message:
        if pieces:
            piece, more = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": more}
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            for name, value in message["headers"]:
                known = reply.headers.get(name.decode())
                reply.headers[name.decode()] = (
                    f"{known}, {value.decode()}" if known else value.decode()
                )
        else:
            reply.body += message.get("body", b"")
            reply.complete = not message.get("more_body", False)

    await app(http_scope(path, method=method, **headers), receive, send)
    return reply


@dataclass
class FakeFleet:
    """A fleet whose every move is drawn from a seed; `tick` lets a second pass."""

    size: int = 24
    seed: int = 7
    at: float = STARTED_AT
    totals: Totals = field(default_factory=Totals)
    rows: list[NodeRow] = field(default_factory=list)
    events: list[FleetEvent] = field(default_factory=list)
    models: list[ModelRow] = field(default_factory=list)
    projects: list[ProjectRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.rows = [self._worker(), *(self._node(index) for index in range(self.size))]
        self._count()
        self._place()

    def snapshot(self) -> FleetSnapshot:
        return FleetSnapshot(
            at=self.at,
            totals=self.counted(),
            nodes=tuple(sorted(self.rows, key=_is_fine)[:ROWS_SHOWN]),
            events=tuple(self.events[-200:]),
            models=tuple(self.models),
            projects=tuple(self.projects),
        )

    def change(self, node_id: str, **fields: object) -> NodeRow:
        """Replace fields of one row; returns the new row."""
        index = next(i for i, row in enumerate(self.rows) if row.id == node_id)
        self.rows[index] = msgspec.structs.replace(self.rows[index], **fields)
        return self.rows[index]

    def happen(self, kind: str, text: str, node_id: str | None = None) -> None:
        seq = len(self.events) + 1
        event = {"seq": seq, "at": self.at, "kind": kind, "text": text, "node_id": node_id}
        self.events.append(msgspec.convert(event, FleetEvent))

    def tick(self) -> None:
        """One second of work: answers, now and then a reroute, a leaving or a newcomer."""
        self.at += 1
        pick = self._random.random
        edge, cloud = self._random.randint(6, 19), int(pick() < 0.35) * self._random.randint(1, 4)
        if self.size == 0:
            edge, cloud = 0, edge // 3
        self.totals = msgspec.structs.replace(
            self.totals,
            answered_edge=self.totals.answered_edge + edge,
            answered_cloud=self.totals.answered_cloud + cloud,
            queued=max(0, self.totals.queued + self._random.randint(-2, 2)),
            running=self._random.randint(4, 22) if self.size else 0,
            p50_ms=44 + 9 * pick(),
            p95_ms=118 + 55 * pick() + (90 if pick() < 0.06 else 0),
        )
        self.rows = [self._advanced(row) for row in self.rows]
        if self.size and pick() < 0.3:
            lost = self._random.choice(self.rows[1:]).id
            self.totals = msgspec.structs.replace(self.totals, rerouted=self.totals.rerouted + 1)
            self.happen("rerouted", f"Job moved from {lost} to the CPU worker: tab closed", lost)
        elif self.size and pick() < 0.2:
            new = self._random.choice(self.rows[1:]).id
            self.happen("joined", f"Browser tab {new} joined", new)
        elif self.size and pick() < 0.1:
            gone = self._random.choice(self.rows[1:]).id
            self.happen("left", f"Browser tab {gone} left: connection closed", gone)

    def _advanced(self, row: NodeRow) -> NodeRow:
        done = self._random.randint(0, 2) if row.state == "active" else 0
        return msgspec.structs.replace(
            row,
            jobs_done=row.jobs_done + done,
            slots_used=self._random.randint(0, row.slots) if row.state == "active" else 0,
            connected_s=row.connected_s + 1,
        )

    def _worker(self) -> NodeRow:
        return NodeRow(
            id="cpu-worker", kind="cpu", backend="onnxruntime", state="active", models=MODELS,
            tokens_per_s=9840.0, rtt_ms=0.2, slots=16, jobs_done=213, connected_s=86_470,
            agent="zerogpu 0.1, Linux", level="trusted", runtime="native/onnxruntime",
        )  # fmt: skip

    def _node(self, index: int) -> NodeRow:
        pick = self._random.random
        native = index % 7 == 3
        state, reason = "active", ""
        if index % 6 == 2:
            state, reason = "paused", "Paused: on battery at 34 %"
        elif index % 9 == 4:
            state, reason = "throttled", "The processor is hot"
        elif index % 11 == 6:
            state, reason = "hidden", "The tab is hidden"
        elif index % 8 == 7:
            state, reason = "loading", "Model 62 % downloaded"
        loading = state == "loading"
        speed = (5200 if native else 900) * (0.7 + pick())
        ready = MODELS[: 1 + index % 3] if index % 4 else MODELS
        row = {
            "id": f"node_{int(pick() * 2**53):016x}", "state": state,
            "kind": "native" if native else "browser",
            "backend": "onnxruntime" if native else "wasm", "reason": reason,
            "models": () if loading else ready, "tokens_per_s": None if loading else speed,
            "rtt_ms": None if loading else 4 + pick() * 90, "slots": 8 if native else 4,
            "jobs_done": int(pick() * 1400), "failures": int(pick() * 1.15),
            "reroutes": int(pick() * 4), "connected_s": pick() * 30_000,
            "agent": "zerogpu 0.1, macOS" if native else AGENTS[index % 4],
            "runtime": "native/onnxruntime" if native else "browser/wasm",
            "region": REGIONS[index % len(REGIONS)],
            "level": "newcomer" if loading or index % 5 == 1 else "trusted",
            "agreed": 0 if loading else int(10 + pick() * 80) // (8 if index % 5 == 1 else 1),
        }  # fmt: skip
        row["identity"] = hashlib.sha256(str(row["id"]).encode()).hexdigest()
        return msgspec.convert(row, NodeRow)

    def counted(self) -> Totals:
        edge = [row for row in self.rows if row.kind != "cpu"]
        return msgspec.structs.replace(
            self.totals,
            nodes=len(edge),
            nodes_active=sum(row.state == "active" for row in edge),
            newcomers=sum(row.level == "newcomer" for row in edge),
            quarantined=sum(row.level == "quarantined" for row in edge),
        )

    def _place(self) -> None:
        for number, model in enumerate(MODELS):
            ready = sum(model in row.models and row.kind != "cpu" for row in self.rows)
            groups = {"open": ready - 5, "busy": 2, "newcomer": 2, "paused": 1, "not_loaded": 3}
            self.models.append(
                ModelRow(
                    id=model, ready=ready, loading=3 - number, queued=(2, 0, 11)[number],
                    demand_tokens_per_s=(2_140.0, 0.0, 9_800.0)[number],
                    supply_tokens_per_s=ready * (820.0, 760.0, 240.0)[number],
                    groups={k: v for k, v in groups.items() if v > 0} if ready else {},
                )
            )  # fmt: skip
        if self.size:
            self.projects = [
                ProjectRow(id="prj_newsroom", queued=11, running=6, weight=2.0),
                ProjectRow(id="prj_shop_search", queued=2, running=3),
            ]

    def _count(self) -> None:
        self.totals = Totals(
            queued=3 if self.size else 0,
            answered_edge=18_204 if self.size else 0,
            answered_cloud=1_311 if self.size else 0,
            rerouted=96 if self.size else 0,
            audited=912 if self.size else 0,
            hedged=204 if self.size else 0,
            cpu_worker="ready",
        )


@dataclass
class FakeSignIn:
    """One-time links and sessions in memory."""

    links: set[str] = field(default_factory=lambda: {"link-1"})
    sessions: set[str] = field(default_factory=set)

    async def redeem(self, link_token: str) -> str | None:
        if link_token not in self.links:
            return None
        self.links.remove(link_token)
        session = f"session-of-{link_token}"
        self.sessions.add(session)
        return session

    async def holds(self, session_token: str) -> bool:
        return session_token in self.sessions

    async def end(self, session_token: str) -> None:
        self.sessions.discard(session_token)


def _is_fine(row: NodeRow) -> bool:
    return row.kind != "cpu" and row.level != "quarantined"


def write_build(root: Path) -> dict[str, str]:
    """Write a small build tree; returns the hashes and digests in it by name."""
    part = bytes(range(256)) * 1200
    sha256 = hashlib.sha256(part).hexdigest()
    manifest = Manifest(
        id="all-minilm-l6-v2", version="1", name="MiniLM <L6>", pipeline="embeddings",
        files=(ModelFile("model.onnx", sha256, len(part), (FilePart(sha256, len(part)),)),),
        dimensions=384, max_tokens=256, error_on_max_token=False, min_cosine=0.99,
        min_memory_mb=300, price=Price(1, 1), languages=("en",), licence="Apache-2.0", created=0,
        parameters=22_000_000,
    )  # fmt: skip
    text = encode_manifest(manifest)
    digest = str(digest_of(text))
    names = {"runtime": "11112222", "vendor": "33334444", "part": sha256, "digest": digest}
    files = {
        f"runtime/{names['runtime']}/pyodide.mjs": b"export const started = true;\n" * 40,
        f"runtime/{names['runtime']}/pyodide.asm.wasm": bytes(4000),
        f"vendor/{names['vendor']}/ui.js": b"export const h = 1;\n" * 40,
        f"models/manifests/{digest}.json": text,
        f"models/parts/{sha256}": part,
    }
    for name, body in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        path.with_name(f"{path.name}.br").write_bytes(brotli.compress(body, quality=1))
    index = {
        "runtime": _directory(root / "runtime" / names["runtime"]),
        "vendor": _directory(root / "vendor" / names["vendor"]),
        "models": [{"id": manifest.id, "digest": digest}],
    }
    (root / "index.json").write_text(json.dumps(index))
    return names


def _directory(path: Path) -> dict[str, object]:
    files = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "encodings": ["br"],
        }
        for file in sorted(path.iterdir())
        if file.suffix != ".br"
    }
    return {"hash": path.name, "files": files}
