"""Stub nodes: real sockets, registration and frames; arithmetic instead of a model.

python -m bench.stub --url URL --data-dir DIR --nodes N
    a CPU worker that only gives the known answers, and N nodes that answer at once;
    prints "ready" when all are calibrated
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import sys
import urllib.request
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, assert_never
from urllib.parse import urlsplit

import click
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.wire import Wire
from browser_node import pipelines
from browser_node import protocol as p
from browser_node.protocol import ModelDigest
from orchestrator.settings import Settings
from orchestrator.storage.catalogue import load_manifests, read_small_files

OnJobs = Callable[["StubNode", p.Jobs], None]

JOIN_TIMEOUT_S = 20.0


class Models:
    """The models that a server started here offers, with arithmetic in place of their graphs."""

    def __init__(self, build_dir: Path) -> None:
        self.manifests = load_manifests(build_dir)
        self._pipelines = {
            digest: pipelines.build(manifest, read_small_files(build_dir, manifest))
            for digest, manifest in self.manifests.items()
        }
        # Jobs are answered with one good answer each: only the calibration looks at what it says.
        blank = p.Task(input="Any text of this model. It has two sentences.")
        self.blank = {digest: self.answer(digest, blank) for digest in self.manifests}

    def answer(self, digest: ModelDigest, task: p.Task) -> p.Answer:
        """Return the one right answer to ``task``: it depends on the text alone."""
        manifest = self.manifests[digest]
        vector = _vector(task.input, manifest.dimensions)
        if manifest.pipeline == "embeddings":
            return p.Answer(output=vector)
        # The evidence has the vectors that the pipeline would have asked for.
        rows = len(self._pipelines[digest].plan(task).sequences)
        output = task.input[:120].encode()
        if manifest.pipeline == "iab-classification":
            output = _PROFILE
        return p.Answer(output=output, evidence=vector * rows)


class StubNode:
    """A node that answers at once, unless ``on_jobs`` decides otherwise.

    ``tokens_per_s`` is what its calibration claims: it has no use for the time in between.
    ``pong_after_s`` makes it look far away.
    """

    def __init__(
        self,
        models: Models,
        *,
        slots: int = 256,
        tokens_per_s: float = 1e6,
        pong_after_s: float = 0.0,
        on_jobs: OnJobs | None = None,
    ) -> None:
        self._models = models
        self._slots = slots
        self._tokens_per_s = tokens_per_s
        self._pong_after_s = pong_after_s
        self._on_jobs = on_jobs
        self._to_load = len(models.manifests)
        self._calibrated = asyncio.Event()
        self.answered = 0
        self.wire: Wire | None = None

    async def join(self, url: str) -> Self:
        """Join as a stranger; returns when every model's known answers have been given."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        told = await asyncio.to_thread(_register, url, public)
        message = p.signed_message(nonce=told["nonce"], origin=told["origin"])
        hello = p.Hello(
            versions=(p.VERSION,),
            nonce=told["nonce"],
            public_key=public,
            signature=_sign(key, message),
            runtime=p.Runtime(kind="native", backend="onnxruntime", threads=1, agent="bench stub"),
            device=p.Device(cores=1, memory_mb=8000),
        )
        parts = urlsplit(url)
        wire = Wire(told["socket"], {"host": parts.netloc}, self._receive)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: wire, parts.hostname or "", parts.port or 0)
        return await self._greet(wire, hello)

    async def join_as_worker(self, data_dir: Path) -> Self:
        """Join as the CPU worker of the server that runs on ``data_dir``."""
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
        """Send a good answer to each of ``items``."""
        self.answered += len(items)
        results = (
            p.Result(
                attempt_id=item.attempt_id,
                output=self._models.blank[ModelDigest(item.digest)].output,
                compute_s=0.001,
                tokens=item.tokens,
            )
            for item in items
        )
        self.send(p.Results(items=tuple(results)))

    def _receive(self, data: bytes) -> None:
        frame = p.decode_from_orchestrator(data)
        match frame:
            case p.Jobs():
                if self._on_jobs is None:
                    self.answer(*frame.items)
                else:
                    self._on_jobs(self, frame)
            case p.Ping():
                loop = asyncio.get_running_loop()
                loop.call_later(self._pong_after_s, self.send, p.Pong(n=frame.n))
            case p.Load():
                self._load(frame)
            case p.Welcome():
                self.send(p.Capacity(slots=self._slots, state="active"))
            case p.Refused():
                raise ConnectionError(frame.reason)
            case p.Unload() | p.Cancel() | p.Drain() | p.Notice():
                pass
            case _:
                assert_never(frame)

    def _load(self, frame: p.Load) -> None:
        digest = ModelDigest(frame.recipe.digest)
        answers = tuple(self._models.answer(digest, task) for task in frame.challenge)
        speed = p.Speed(batch_size=8, tokens_per_s=self._tokens_per_s)
        self.send(p.Ready(digest=digest, load_s=0.0, calibration=(speed,), answers=answers))
        self._to_load -= 1
        if not self._to_load:
            self._calibrated.set()


def _vector(text: str, dimensions: int) -> bytes:
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


def _register(url: str, public_key: bytes) -> dict[str, Any]:
    body = {
        "runtime": {"kind": "native", "backend": "onnxruntime", "threads": 1},
        "device": {"cores": 1, "memory_mb": 8000},
        "public_key": base64.b64encode(public_key).decode(),
    }
    request = urllib.request.Request(
        f"{url}/register", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=JOIN_TIMEOUT_S) as response:
        told: dict[str, Any] = json.load(response)
    return told


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def built_models() -> Models:
    """Return the models that a server started here offers."""
    return Models(Settings().build_dir)


async def _run(url: str, data_dir: Path, nodes: int) -> None:
    models = built_models()
    await StubNode(models, slots=0).join_as_worker(data_dir)
    joined = [await StubNode(models).join(url) for _ in range(nodes)]
    print("ready", flush=True)
    await asyncio.gather(*(node.wire.closed.wait() for node in joined if node.wire is not None))


@click.command()
@click.option("--url", required=True)
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--nodes", type=int, default=8)
def main(url: str, data_dir: Path, nodes: int) -> None:
    """Run stub nodes until the server closes their sockets."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(url, data_dir, nodes))
    except (ConnectionError, TimeoutError) as error:
        sys.exit(f"the stub nodes could not join: {error!r}")


if __name__ == "__main__":
    main()
