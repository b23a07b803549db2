"""Stub nodes: real sockets, registration and frames; arithmetic instead of a model.

python -m bench.stub --url URL --data-dir DIR --nodes N
    a CPU worker and N nodes that answer at once; prints "ready" when all are calibrated
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import math
import sys
from array import array
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self, assert_never
from urllib.parse import urlsplit

import click
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.wire import Wire, post
from browser_node import pipelines
from browser_node import protocol as p
from browser_node.attempts import pack, pack_shown
from browser_node.pipelines import vectors as vector_math
from browser_node.protocol import ModelDigest
from orchestrator.settings import Settings
from orchestrator.storage.catalogue import load_manifests, read_small_files

OnJobs = Callable[["StubNode", p.Jobs], None]
OnCancel = Callable[[p.Cancel], None]

JOIN_TIMEOUT_S = 20.0
# A server's settings where what trust costs is not the question: nobody is tried or audited.
TRUSTING = {"ZEROGPU_TRUST_AFTER": "0", "ZEROGPU_AUDIT_SHARE": "0"}
# Limits that are looked at and never reached: a quick machine has 60,000 answers within a minute.
UNLIMITED = {
    "ZEROGPU_KEY_REQUESTS_PER_MINUTE": "1000000000",
    "ZEROGPU_PROJECT_REQUESTS_PER_MINUTE": "1000000000",
    "ZEROGPU_KEY_TOKENS_PER_MINUTE": "1000000000000",
    "ZEROGPU_PROJECT_TOKENS_PER_MINUTE": "1000000000000",
}
# Texts of a benchmark recur, known answers always do.
_ANSWERS_KEPT = 1024
_EVIDENCE_KEPT = 4096


class Models:
    """The models that a server started here offers, with arithmetic in place of their graphs."""

    def __init__(self, build_dir: Path) -> None:
        self.manifests = load_manifests(build_dir)
        self._pipelines = {
            digest: pipelines.build(manifest, read_small_files(build_dir, manifest))
            for digest, manifest in self.manifests.items()
        }
        self._kept = functools.lru_cache(_ANSWERS_KEPT)(self._answer)
        self.commitment = functools.lru_cache(_ANSWERS_KEPT)(self._commitment)

    def of(self, model_id: str) -> tuple[ModelDigest, ...]:
        """Return the digests of a model by its id."""
        return tuple(d for d, manifest in self.manifests.items() if manifest.id == model_id)

    def answer(self, digest: ModelDigest, text: str) -> p.Answer:
        """Return the one right answer to ``text``: all stubs agree on it, the CPU worker's too."""
        return self._kept(digest, text)

    def _commitment(self, digest: ModelDigest, text: str) -> bytes:
        """Return what a node commits to of the evidence of its answer to ``text``."""
        return p.commitment_to(self.answer(digest, text).evidence)

    def _answer(self, digest: ModelDigest, text: str) -> p.Answer:
        manifest = self.manifests[digest]
        vector = vector_of(text, manifest.dimensions)
        if manifest.pipeline == "embeddings":
            return p.Answer(output=vector)
        # The vectors that the pipeline would have asked for, and the scores of a head.
        pipeline = self._pipelines[digest]
        plan = pipeline.plan(p.Task(input=text))
        rounded = vector_math.halved([vector_math.floats(vector)])[1]
        evidence, output = rounded * len(plan.sequences), text[:120].encode()
        if isinstance(pipeline, pipelines.Headed):
            evidence += vector_math.halved([range(pipeline.head_columns)])[1]
            output = _PROFILE
        return p.Answer(output=output, evidence=evidence)


class StubNode:
    """A node that answers at once, unless ``on_jobs`` decides otherwise.

    ``tokens_per_s`` is what its calibration claims: it has no use for the time in between.
    ``pong_after_s`` makes it look far away. ``cached`` models are those it says it has on disk, and
    the ones it has to be ready for before it counts as joined: all, unless they are named.
    """

    def __init__(
        self,
        models: Models,
        *,
        slots: int = 256,
        tokens_per_s: float = 1e6,
        pong_after_s: float = 0.0,
        cached: Collection[ModelDigest] | None = None,
        on_jobs: OnJobs | None = None,
        on_cancel: OnCancel | None = None,
    ) -> None:
        self._models = models
        self._slots = slots
        self._tokens_per_s = tokens_per_s
        self._pong_after_s = pong_after_s
        self._on_jobs = on_jobs
        self._on_cancel = on_cancel
        self._cached = tuple(models.manifests if cached is None else cached)
        self._to_load = set(self._cached)
        self._calibrated = asyncio.Event()
        # What the latest answers rest on, by attempt; only strangers commit to it.
        self._evidence: dict[str, bytes] = {}
        self._commits = True
        self.answered = 0
        self.pings = 0
        self.wire: Wire | None = None

    async def join(self, url: str, *, source: str | None = None) -> Self:
        """Join as a stranger; returns when the known answers of its models have been given.

        ``source`` is the local address to come from: on Linux all of 127.0.0.0/8 will do.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        told = await _register(url, public, source)
        message = p.signed_message(nonce=told["nonce"], origin=told["origin"])
        hello = p.Hello(
            versions=(p.VERSION,),
            nonce=told["nonce"],
            public_key=public,
            signature=_sign(key, message),
            runtime=p.Runtime(kind="native", backend="onnxruntime", threads=1, agent="bench stub"),
            device=p.Device(cores=1, memory_mb=8000),
            cached=self._cached,
        )
        parts = urlsplit(url)
        wire = Wire(told["socket"], {"host": parts.netloc}, self._receive)
        loop = asyncio.get_running_loop()
        local = None if source is None else (source, 0)
        await loop.create_connection(
            lambda: wire, parts.hostname or "", parts.port or 0, local_addr=local
        )
        return await self._greet(wire, hello)

    async def join_as_worker(self, data_dir: Path) -> Self:
        """Join as the CPU worker of the server that runs on ``data_dir``."""
        self._commits = False
        endpoint = json.loads((data_dir / "run" / "worker.json").read_text())
        runtime = p.Runtime(kind="cpu", backend="onnxruntime", threads=1, agent="bench stub")
        hello = p.Hello(versions=(p.VERSION,), runtime=runtime, device=p.Device(cores=1))
        headers = {"host": "worker", "authorization": f"Bearer {endpoint['secret']}"}
        wire = Wire("/worker/v1", headers, self._receive)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: wire, endpoint["socket"])
        return await self._greet(wire, hello)

    async def _greet(self, wire: Wire, hello: p.Hello) -> Self:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            await wire.opened
            self.wire = wire
            self.send(hello)
            await self._calibrated.wait()
        return self

    async def leave(self) -> None:
        """Cut the connection, if it is still there, and wait until it is closed."""
        if self.wire is not None:
            self.wire.drop()
            await self.wire.closed.wait()

    def send(self, frame: p.Frame) -> None:
        assert self.wire is not None
        self.wire.send(p.encode(frame))

    def answer(self, *items: p.JobItem) -> None:
        """Send the right answer to each of ``items``."""
        self.answered += len(items)
        results = []
        for item in items:
            answer = self._models.answer(ModelDigest(item.digest), item.input)
            evidence, commitment = answer.evidence, b""
            if self._commits and evidence:
                commitment = self._models.commitment(ModelDigest(item.digest), item.input)
                self._evidence[item.attempt_id], evidence = evidence, b""
            result = p.Result(
                attempt_id=item.attempt_id,
                output=answer.output,
                evidence=evidence,
                commitment=commitment,
                compute_s=0.001,
                tokens=item.tokens,
            )
            results.append(result)
        while len(self._evidence) > _EVIDENCE_KEPT:
            del self._evidence[next(iter(self._evidence))]
        for frame in pack(results):
            self.send(frame)

    def _receive(self, data: bytes) -> None:
        frame = p.decode_from_orchestrator(data)
        match frame:
            case p.Jobs():
                if self._on_jobs is None:
                    self.answer(*frame.items)
                else:
                    self._on_jobs(self, frame)
            case p.Ping():
                self.pings += 1
                loop = asyncio.get_running_loop()
                loop.call_later(self._pong_after_s, self.send, p.Pong(n=frame.n))
            case p.Reveal():
                kept = self._evidence
                shown = [
                    p.Shown(attempt_id=one, evidence=kept.get(one)) for one in frame.attempt_ids
                ]
                for revealed in pack_shown(shown):
                    self.send(revealed)
            case p.Load():
                self._load(frame)
            case p.Welcome():
                self.send(p.Capacity(slots=self._slots, state="active"))
            case p.Refused():
                raise ConnectionError(frame.reason)
            case p.Cancel():
                if self._on_cancel is not None:
                    self._on_cancel(frame)
            case p.Unload() | p.Drain() | p.Notice():
                pass
            case _:
                assert_never(frame)

    def _load(self, frame: p.Load) -> None:
        digest = ModelDigest(frame.recipe.digest)
        answers = tuple(self._models.answer(digest, task.input) for task in frame.challenge)
        speed = p.Speed(batch_size=8, tokens_per_s=self._tokens_per_s)
        self.send(p.Ready(digest=digest, load_s=0.0, calibration=(speed,), answers=answers))
        self._to_load.discard(digest)
        if not self._to_load:
            self._calibrated.set()


def vector_of(text: str, dimensions: int) -> bytes:
    """Return a vector of length one that only this text has, as an answer holds it."""
    values = [byte - 127.5 for byte in hashlib.shake_256(text.encode()).digest(dimensions)]
    length = math.sqrt(math.fsum(value * value for value in values))
    return array("f", [value / length for value in values]).tobytes()


def _category(number: int) -> dict[str, object]:
    name = f"Category number {number}"
    return {"id": number, "parent_id": 1, "name": name, "tier1_name": name, "score": 0.5}


# As long as a real one (about 1.2 kB): its tokens are counted, as they are billed.
_PROFILE = json.dumps(
    {
        "audience": [_category(number) for number in range(600, 603)],
        "content": {
            "iab_1_0": [{"code": f"IAB{n}", "name": "Sports", "score": 0.9} for n in range(2)],
            "iab_2_2": [_category(number) for number in range(480, 483)],
        },
        "topics": [{"name": f"topic {number}", "score": 0.7} for number in range(3)],
        "keywords": ["penalties", "cup", "goalkeeper", "city"],
        "user_intent": {"name": "follow the news", "category": "informational", "score": 0.8},
    },
    separators=(",", ":"),
).encode()


async def _register(url: str, public_key: bytes, source: str | None) -> dict[str, Any]:
    registration = {
        "runtime": {"kind": "native", "backend": "onnxruntime", "threads": 1},
        "device": {"cores": 1, "memory_mb": 8000},
        "public_key": base64.b64encode(public_key).decode(),
    }
    parts = urlsplit(url)
    local = None if source is None else (source, 0)
    async with asyncio.timeout(JOIN_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=local)
        try:
            writer.write(post(parts.netloc, "/register", json.dumps(registration).encode()))
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError((head[:40] + b" " + body[:200]).decode(errors="replace"))
    told: dict[str, Any] = json.loads(body)
    return told


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def built_models() -> Models:
    """Return the models that a server started here offers."""
    return Models(Settings().build_dir)


async def _run(url: str, data_dir: Path, *, nodes: int, worker_slots: int) -> None:
    models = built_models()
    await StubNode(models, slots=worker_slots).join_as_worker(data_dir)
    joined = [await StubNode(models).join(url) for _ in range(nodes)]
    print("ready", flush=True)
    await asyncio.gather(*(node.wire.closed.wait() for node in joined if node.wire is not None))


@click.command()
@click.option("--url", required=True)
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--nodes", type=int, default=8)
@click.option("--worker-slots", type=int, default=0, help="0: it gives the known answers only.")
def main(url: str, data_dir: Path, nodes: int, worker_slots: int) -> None:
    """Run stub nodes until the server closes their sockets."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(url, data_dir, nodes=nodes, worker_slots=worker_slots))
    except (ConnectionError, TimeoutError) as error:
        sys.exit(f"the stub nodes could not join: {error!r}")


if __name__ == "__main__":
    main()
