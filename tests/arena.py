"""A small orchestrator for tests: engine, node socket and registration on real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from browser_node import protocol as p
from browser_node.agreement import Verdict, agree
from browser_node.models import Manifest, Price, digest_of, encode_manifest
from browser_node.protocol import Answer, AttemptId, ModelDigest, Task
from orchestrator.clock import Clock
from orchestrator.court import FindStanding, StandingBook
from orchestrator.domain.model import (
    NOWHERE,
    Answered,
    JobId,
    Location,
    ModelSpec,
    NewJob,
    ProjectId,
)
from orchestrator.domain.references import References
from orchestrator.domain.scheduler import Options, Scheduler
from orchestrator.domain.trust import Policy
from orchestrator.engine import Engine
from orchestrator.settings import Settings
from orchestrator.transport import listen
from orchestrator.transport.caps import SocketCaps
from orchestrator.transport.credentials import Gate, Nonces, Tickets, admit_worker
from orchestrator.transport.nodes_ws import NodeSocket, bearer_check
from orchestrator.transport.origins import Origins
from orchestrator.transport.register import SOCKET_PATH, Register, admitted
from tests.fakes import DIMENSIONS, ScriptedNode
from tests.servers import running

# Most tests are not about trust: whoever calibrates is believed, and nobody looks again.
TRUSTING = Policy(trust_after=0, audit_share=0.0)


def manifest(pipeline: Any = "embeddings", *, name: str = "tiny", **changes: Any) -> Manifest:
    """Return a manifest without files: scripted nodes need none."""
    fields: dict[str, Any] = {
        "id": name,
        "version": "1",
        "name": name,
        "pipeline": pipeline,
        "files": (),
        "dimensions": DIMENSIONS,
        "max_tokens": 256,
        "error_on_max_token": False,
        "min_cosine": 0.99,
        "min_memory_mb": 256,
        "price": Price(0, 0),
        "languages": ("en",),
        "licence": "Apache-2.0",
        "created": 0,
        "parameters": 0,
    }
    return Manifest(**{**fields, **changes})


@dataclass
class Arena:
    """What a test acts on: the engine, the URL of the sockets, and nodes that join it."""

    engine: Engine
    url: str
    worker: dict[str, str]
    manifests: dict[str, Manifest]
    digest: ModelDigest
    caps: SocketCaps
    nodes: list[ScriptedNode] = field(default_factory=list)

    @property
    def sockets(self) -> int:
        """Sockets of strangers that are counted now."""
        return self.caps.total

    def node(self, **options: Any) -> ScriptedNode:
        node = ScriptedNode(self.manifests, **options)
        self.nodes.append(node)
        return node

    async def join(self, **options: Any) -> ScriptedNode:
        """Let a stranger join and wait until it may work."""
        node = await self.node(**options).join(self.url)
        await asyncio.wait_for(node.calibrated.wait(), 10)
        await self.settled()
        return node

    async def join_worker(self, **options: Any) -> ScriptedNode:
        node = await self.node(**options).join_as_worker(self.worker)
        await asyncio.wait_for(node.calibrated.wait(), 10)
        await self.until(self.engine.worker_ready)
        return node

    async def answer(self, *texts: str, **changes: Any) -> list[Answered]:
        return await asyncio.wait_for(self.engine.answer(self.jobs(*texts, **changes)), 20)

    def jobs(self, *texts: str, **changes: Any) -> list[NewJob]:
        return [
            NewJob(
                **{
                    "job_id": JobId(secrets.token_hex(4)),
                    "digest": self.digest,
                    "input": text,
                    "tokens": len(text.split()) + 2,
                    "project_id": ProjectId("p"),
                    **changes,
                }
            )
            for text in texts
        ]

    def stream(self, text: str, **changes: Any) -> AsyncGenerator[str | Answered, None]:
        [job] = self.jobs(text, stream=True, **changes)
        return self.engine.stream(job)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Let the loop run until ``condition`` holds; fails after ten seconds."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 — any condition, not one event
                await asyncio.sleep(0)

    async def settled(self) -> None:
        """Wait until every connected node's calibration has been judged."""
        await self.until(lambda: all(row.models for row in self.engine.fleet().nodes))


@contextlib.asynccontextmanager
async def arena(
    *manifests: Manifest,
    caps: dict[str, int] | None = None,
    policy: Policy = TRUSTING,
    standings: StandingBook | None = None,
    find_standing: FindStanding | None = None,
    per_identity: int = 4,
    locate: Callable[[str], Location] = lambda _: NOWHERE,
    **options: Any,
) -> AsyncIterator[Arena]:
    """Run an `Arena`; on leaving, every socket is closed and every task is over.

    Every node that calibrates is trusted and nobody is audited, unless ``policy`` says otherwise.
    """
    clock = Clock()
    models = {digest_of(encode_manifest(m)): m for m in (manifests or (manifest(),))}
    rng = random.Random(7)
    references = References(rng)
    scheduler = Scheduler(
        models={d: ModelSpec(d, m.id, m.size_bytes, m.min_memory_mb) for d, m in models.items()},
        rng=rng,
        new_attempt_id=lambda: AttemptId(f"att_{secrets.token_hex(8)}"),
        references=references,
        policy=policy,
        options=Options(**{"hedge_share": 0.0, "project_share": 1.0, **options}),
    )

    def judge(digest: ModelDigest, _: Task, ours: Answer, theirs: Answer) -> Verdict:
        return agree(models[digest], ours, theirs)

    engine = Engine(
        scheduler=scheduler,
        models=models,
        clock=clock,
        agree=judge,
        standings=standings,
        find_standing=find_standing,
    )
    settings = Settings(host="127.0.0.1", port=0)
    origins = Origins.of(settings)
    nonces = Nonces(clock)
    limits = {"total": 100, "per_address": 100, "unwelcomed": 100, **(caps or {})}
    counted = SocketCaps(clock=clock, **limits)
    gate = Gate(nonces=nonces, tickets=Tickets(b"secret", clock), per_identity=per_identity)
    socket = NodeSocket(
        engine=engine,
        models=models,
        references=references,
        agree=judge,
        admit=gate.admit,
        release=gate.release,
        locate=locate,
        caps=counted,
        allowed=lambda scope: admitted(scope, origins),
        hello_timeout_s=0.3,
    )
    register = Register(nonces=nonces, models=models, origins=origins, caps=counted)
    secret = secrets.token_hex(8)
    worker_socket = NodeSocket(
        engine=engine,
        models=models,
        references=references,
        agree=judge,
        admit=admit_worker,
        caps=SocketCaps(total=9, per_address=9, unwelcomed=9, clock=clock),
        allowed=bearer_check(secret),
        trusted=True,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        routes: dict[str, ASGIApp] = {SOCKET_PATH: socket, "/register": register}
        await routes[scope["path"]](scope, receive, send)

    listener = listen.bind(settings)
    with tempfile.TemporaryDirectory() as folder, listener:
        unix, path = listen.bind_unix(Path(folder))
        servers = [listen.public_server(app, settings), listen.private_server(worker_socket)]
        made = Arena(
            engine=engine,
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            worker={"socket": str(path), "secret": secret},
            manifests={str(digest): m for digest, m in models.items()},
            digest=next(iter(models)),
            caps=counted,
        )
        async with running(servers[0], listener), running(servers[1], unix):
            try:
                yield made
            finally:
                engine.close()
                for node in made.nodes:
                    if node._socket is not None:
                        await node.leave()


def frames(node: ScriptedNode, kind: type[p.Frame]) -> list[Any]:
    """Return the frames of one kind that ``node`` has received."""
    return [frame for frame in node.received if isinstance(frame, kind)]
