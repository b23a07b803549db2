"""Scripted nodes: real sockets and real frames, arithmetic instead of a model.

`answer_of` gives every input a vector and an output that depend on its text alone, so that a test
knows the right answer and a node can be told to give a wrong one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import urllib.request
from array import array
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
import websockets
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from browser_node import protocol as p
from browser_node.models import Manifest
from browser_node.pipelines import vectors as vector_math
from orchestrator.domain.effects import Evidence
from orchestrator.domain.trust import Identity, RuntimeClass, Standing

DIMENSIONS = 384


def vector_of(text: str, dimensions: int = DIMENSIONS) -> bytes:
    """Return a unit vector that depends on ``text`` alone, as float32 LE bytes."""
    seed = hashlib.shake_256(text.encode()).digest(dimensions)
    values = [byte - 127.5 for byte in seed]
    length = math.sqrt(math.fsum(value * value for value in values))
    return array("f", [value / length for value in values]).tobytes()


def halved(vector: bytes) -> bytes:
    """Return a vector as evidence has it."""
    return vector_math.halved([vector_math.floats(vector)])[1]


def answer_of(manifest: Manifest, task: p.Task | p.JobItem) -> p.Answer:
    """Return the one right answer of the arithmetic that stands for the model."""
    vector = vector_of(task.input)
    match manifest.pipeline:
        case "embeddings":
            return p.Answer(output=vector)
        case "extractive-summary":
            return p.Answer(output=task.input[:60].encode(), evidence=halved(vector))
        case "iab-classification":
            content = {"audience": [], "content": {"iab_1_0": [], "iab_2_2": []}, "topics": []}
            words = task.input.split()[:3]
            text = json.dumps({**content, "keywords": words, "user_intent": {}})
            return p.Answer(output=text.encode(), evidence=halved(vector))


class Shelf:
    """The records of identities, kept while it lives: what a database does for the engine."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Standing] = {}
        self.evidence: list[Evidence] = []

    def changed(self, standing: Standing, *, now: float, released: bool = False) -> None:
        key = (standing.identity, standing.runtime)
        kept = msgspec.structs.replace(standing)
        if key in self.records and not released:
            # As the database: only a release lifts a quarantine or a ban.
            kept.quarantined |= self.records[key].quarantined
            kept.banned |= self.records[key].banned
        self.records[key] = kept

    def disagreed(self, standing: Standing, evidence: Evidence, *, now: float) -> None:
        self.changed(standing, now=now)
        self.evidence.append(evidence)

    def find(self, identity: Identity, runtime: RuntimeClass) -> Standing | None:
        return self.records.get((identity, runtime))


class ScriptedNode:
    """A node that answers at once, unless ``on_jobs`` says otherwise.

    ``on_jobs(node, frame)`` may send what it likes; ``wrong`` makes it fail its calibration.
    ``address`` is the loopback address it comes from: each is another network. As a stranger it
    keeps its evidence in ``evidence`` (by attempt id) and shows it when it is asked to, unless
    ``on_reveal(node, frame)`` is there to do something else.
    """

    def __init__(
        self,
        manifests: dict[str, Manifest],
        *,
        on_jobs: Callable[[ScriptedNode, p.Jobs], None] | None = None,
        on_reveal: Callable[[ScriptedNode, p.Reveal], None] | None = None,
        slots: int = 64,
        tokens_per_s: float = 20_000.0,
        wrong: bool = False,
        memory_mb: int = 4000,
        address: str = "127.0.0.1",
    ) -> None:
        self.manifests = manifests
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.on_jobs = on_jobs
        self.on_reveal = on_reveal
        self.evidence: dict[str, bytes] = {}
        self._commits = True
        self.slots = slots
        self.tokens_per_s = tokens_per_s
        self.wrong = wrong
        self.memory_mb = memory_mb
        self.address = address
        self.node_id = ""
        self.ticket: str | None = None
        self.received: list[p.OrchestratorFrame] = []
        self.jobs_seen: list[p.JobItem] = []
        self.answered = 0
        self.welcomed = asyncio.Event()
        self.calibrated = asyncio.Event()
        self.got_jobs = asyncio.Event()
        self.closed = asyncio.Event()
        self.close_code: int | None = None
        self.close_reason = ""
        self._ready = 0
        self._loads = 0
        self._socket: Any = None
        self._reader: asyncio.Task[None] | None = None

    # ── connecting ───────────────────────────────────────────────────────────────────────────────

    async def join(self, url: str) -> Self:
        """Register as a stranger at ``url`` (http://…), connect and say hello."""
        registration = await asyncio.to_thread(self.register, url)
        socket_url = url.replace("http", "ws", 1) + registration["socket"]
        self._socket = await websockets.connect(
            socket_url,
            subprotocols=[websockets.Subprotocol(p.SUBPROTOCOL)],
            compression=None,
            local_addr=(self.address, 0),
        )
        self._start()
        self.send(self.hello(nonce=registration["nonce"], origin=registration["origin"]))
        return self

    async def join_as_worker(self, endpoint: dict[str, str]) -> Self:
        """Connect as the CPU worker over the private socket of ``worker.json``."""
        self._commits = False
        self._socket = await websockets.unix_connect(
            endpoint["socket"],
            "ws://worker/worker/v1",
            additional_headers={"Authorization": f"Bearer {endpoint['secret']}"},
            compression=None,
        )
        self._start()
        runtime = p.Runtime(kind="cpu", backend="onnxruntime", threads=1, agent="scripted")
        self.send(p.Hello(versions=(1,), runtime=runtime, device=p.Device(cores=1)))
        return self

    def register(self, url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """POST /register and return the answer; raises `urllib.error.HTTPError`."""
        body = {
            "runtime": {"kind": "native", "backend": "onnxruntime", "threads": 1},
            "device": {"cores": 2, "memory_mb": self.memory_mb},
            "public_key": base64.b64encode(self.public_key).decode(),
        }
        request = urllib.request.Request(
            f"{url}/register",
            json.dumps(body).encode(),
            {"content-type": "application/json", **(headers or {})},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def hello(self, *, nonce: str, origin: str, **changes: Any) -> p.Hello:
        fields: dict[str, Any] = {
            "versions": (1,),
            "nonce": nonce,
            "public_key": self.public_key,
            "signature": self.sign(p.signed_message(nonce=nonce, origin=origin)),
            "ticket": self.ticket,
            "runtime": p.Runtime(kind="native", backend="onnxruntime", threads=1, agent="scripted"),
            "device": p.Device(cores=2, memory_mb=self.memory_mb),
        }
        return p.Hello(**{**fields, **changes})

    def _start(self) -> None:
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    # ── frames ───────────────────────────────────────────────────────────────────────────────────

    def send(self, frame: p.Frame) -> None:
        self.send_bytes(p.encode(frame))

    def send_bytes(self, data: bytes) -> None:
        self._outgoing.put_nowait(data)

    async def _write(self) -> None:
        while (data := await self._outgoing.get()) is not None:
            with contextlib.suppress(websockets.ConnectionClosed):
                await self._socket.send(data)

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                self._receive(p.decode_from_orchestrator(message))
        except websockets.ConnectionClosed:
            pass
        finally:
            self.close_code = self._socket.close_code
            self.close_reason = self._socket.close_reason or ""
            self.closed.set()

    def _receive(self, frame: p.OrchestratorFrame) -> None:
        self.received.append(frame)
        match frame:
            case p.Welcome():
                self.node_id, self.ticket = frame.node_id, frame.ticket
                self._loads = len(frame.recipes)
                self.send(p.Capacity(slots=self.slots, state="active"))
                self.welcomed.set()
            case p.Load():
                self._load(frame)
            case p.Jobs():
                self.jobs_seen += frame.items
                self.got_jobs.set()
                if self.on_jobs is not None:
                    self.on_jobs(self, frame)
                else:
                    self.answer(*frame.items)
            case p.Reveal():
                if self.on_reveal is not None:
                    self.on_reveal(self, frame)
                else:
                    self.show(frame.attempt_ids)
            case p.Ping():
                self.send(p.Pong(n=frame.n))
            case _:
                pass

    def _load(self, frame: p.Load) -> None:
        manifest = self.manifests[frame.recipe.digest]
        answers = [answer_of(manifest, task) for task in frame.challenge]
        if self.wrong:
            answers = [
                answer_of(manifest, p.Task(input=task.input[::-1] + "!"))
                for task in frame.challenge
            ]
        speeds = (p.Speed(batch_size=8, tokens_per_s=self.tokens_per_s),)
        self.send(
            p.Ready(
                digest=frame.recipe.digest, load_s=0.01, calibration=speeds, answers=tuple(answers)
            )
        )
        self._ready += 1
        if self._ready == self._loads:
            self.calibrated.set()

    def answer(self, *items: p.JobItem) -> None:
        """Send the right answers of ``items``."""
        results = []
        for item in items:
            answer = answer_of(self.manifests[item.digest], item)
            results.append(self.result(item, answer))
        self.answered += len(results)
        self.send(p.Results(items=tuple(results)))

    def result(self, item: p.JobItem, answer: p.Answer) -> p.Result:
        """Return ``answer`` as this node sends it, with its evidence or a commitment to that."""
        evidence = answer.evidence
        if self._commits and evidence:
            self.evidence[item.attempt_id] = evidence
        return p.Result(
            attempt_id=item.attempt_id,
            output=answer.output,
            evidence=b"" if self._commits else evidence,
            commitment=p.commitment_to(evidence) if self._commits else b"",
            compute_s=0.001,
            tokens=item.tokens,
        )

    def show(self, attempt_ids: Iterable[str], evidence: bytes | None = None) -> None:
        """Show what answers rest on, or ``evidence`` in its place."""
        items = [
            p.Shown(attempt_id=one, evidence=evidence or self.evidence.get(one))
            for one in attempt_ids
        ]
        self.send(p.Revealed(items=tuple(items)))

    async def leave(self) -> None:
        """Close the socket and wait until both tasks are done."""
        await self._socket.close()
        self._outgoing.put_nowait(None)
        await self._writer
        if self._reader is not None:
            await self._reader

    def drop(self) -> None:
        """Cut the connection without a closing handshake, as a crash does."""
        self._socket.transport.abort()
