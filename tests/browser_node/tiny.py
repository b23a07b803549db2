"""A model of a few bytes on disk, and a node that runs it with arithmetic."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from browser_node import session_events as ev
from browser_node.backoff import Backoff
from browser_node.models import (
    PART_BYTES,
    ManifestError,
    ModelFile,
    Pipeline,
    cut,
    digest_of,
    encode_manifest,
)
from browser_node.politeness import Signals, VolunteerLimits
from browser_node.protocol import Device, Runtime
from browser_node.runtimes.clock import LoopClock
from browser_node.runtimes.disk import DiskFiles
from browser_node.runtimes.driver import Driver
from browser_node.runtimes.native_net import FileKeys, WebNetwork, get, in_thread
from browser_node.runtimes.seams import Isolation
from browser_node.runtimes.status import Status
from browser_node.runtimes.store import Store
from browser_node.session import Identity
from browser_node.work import Encoder, Head
from tests.browser_node.arithmetic import ArithmeticEncoder, manifest_of
from tests.browser_node.fake_orchestrator import FakeOrchestrator

WORDS = ["[UNK]", "[CLS]", "[SEP]", "good", "news", "bad", "from", "the", "sea"]
WORDPIECE = json.dumps(
    {
        "schema": 1,
        "cls": 1,
        "sep": 2,
        "unk": 0,
        "max_chars": 100,
        "special": {},
        "prefix": "##",
        "vocab": "\n".join(WORDS),
        "map": {},
        "drop": [],
        "isolate": [],
        "hangul": False,
    }
).encode()
# Three parts: enough to break off a download in the middle.
BACKBONE = random.Random(5).randbytes(2 * PART_BYTES + 1000)
OTHER_BACKBONE = b"another backbone"


def build(
    build_dir: Path,
    *names: str,
    backbone: bytes = BACKBONE,
    pipeline: Pipeline = "embeddings",
    max_tokens: int = 64,
) -> Path:
    """Write models called ``names``, which share their files, as `wasm_build` does.

    Models of earlier calls stay beside them.
    """
    index = build_dir / "index.json"
    rows = json.loads(index.read_bytes())["models"] if index.exists() else []
    for name in names:
        files = []
        for path, content in {"model.onnx": backbone, "wordpiece.json": WORDPIECE}.items():
            file, pieces = cut(content, path)
            files.append(file)
            for part, piece in zip(file.parts, pieces, strict=True):
                _write(build_dir / "models" / "parts" / part.sha256, piece)
        manifest = manifest_of(pipeline, max_tokens=max_tokens)
        manifest = msgspec.structs.replace(manifest, id=name, files=tuple(files))
        manifest_json = encode_manifest(manifest)
        digest = digest_of(manifest_json)
        _write(build_dir / "models" / "manifests" / f"{digest}.json", manifest_json)
        rows.append({"id": name, "digest": digest})
    _write(index, json.dumps({"models": rows}).encode())
    return build_dir


def parts_of(path: str) -> list[str]:
    """Return the names of the parts of one of the tiny model's files."""
    content = {"model.onnx": BACKBONE, "wordpiece.json": WORDPIECE}[path]
    return [part.sha256 for part in cut(content, path)[0].parts]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class ArithmeticOnnx:
    """Opens the tiny backbones, if their bytes are right; ``meanwhile`` runs within each batch.

    Of the other backbone each run waits for ``pace``, and its opening for ``may_open``.
    """

    def __init__(self, store: Store[bytes], meanwhile: Callable[[], None] | None = None) -> None:
        self.opened: list[ArithmeticEncoder] = []
        self.released: list[Encoder | Head] = []
        self.opening: asyncio.Queue[str] = asyncio.Queue()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.pace: Callable[[], Awaitable[None]] | None = None
        self._store = store
        self._meanwhile = meanwhile

    async def encoder(self, file: ModelFile) -> Encoder:
        content = await self._store.read(file)
        if content not in (BACKBONE, OTHER_BACKBONE):
            raise ManifestError("these are not the backbone's bytes")
        self.opening.put_nowait(file.sha256)
        encoder = ArithmeticEncoder(meanwhile=self._meanwhile)
        if content == OTHER_BACKBONE:
            await self.may_open.wait()
            encoder.pace = self.pace
        self.opened.append(encoder)
        return self.opened[-1]

    async def head(self, file: ModelFile) -> Head:
        raise NotImplementedError("embedding models have no head")

    async def release(self, session: Encoder | Head) -> None:
        self.released.append(session)


class RecordingClock(LoopClock):
    """Real time that does not wait, and can leap: rests are written down instead."""

    def __init__(self) -> None:
        self.rests: list[float] = []
        self._leapt_s = 0.0

    def leap(self, seconds: float) -> None:
        self._leapt_s += seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._leapt_s

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        await super().sleep(0)


@dataclass
class TinyNode:
    """A running node and what it told."""

    driver: Driver
    onnx: ArithmeticOnnx
    task: asyncio.Task[ev.Ended]
    statuses: list[Status]
    log: asyncio.Queue[str]

    async def logs(self, event: str) -> None:
        """Wait until ``event`` is logged (once more)."""
        while await asyncio.wait_for(self.log.get(), 10) != event:
            pass


@contextlib.asynccontextmanager
async def tiny_node(
    server: FakeOrchestrator,
    folder: Path,
    *,
    limits: VolunteerLimits | None = None,
    signals: Signals | None = None,
    clock: LoopClock | None = None,
    meanwhile: Callable[[], None] | None = None,
    on_status: Callable[[Status], None] | None = None,
    isolation: Isolation | None = None,
) -> AsyncIterator[TinyNode]:
    """Run a driver against ``server``; leaving stops it and checks that it ended in order."""
    network = WebNetwork(server.url)

    async def download(name: str, limit_bytes: int) -> bytes:
        url = f"{network.origin}/models/{name}"
        return await in_thread(lambda: get(url, limit_bytes=limit_bytes))

    store = Store(DiskFiles(folder / "models", download=download))
    onnx = ArithmeticOnnx(store, meanwhile)
    keys = FileKeys(folder / "node-key.pem")
    statuses: list[Status] = []
    log: asyncio.Queue[str] = asyncio.Queue()
    driver = Driver(
        Identity(
            runtime=Runtime(kind="native", backend="onnxruntime", threads=1),
            device=Device(cores=1),
            public_key=keys.public_key,
            socket_path="",
        ),
        network=network,
        keys=keys,
        store=store,
        onnx=onnx,
        clock=clock or LoopClock(),
        rng=random.Random(1),
        limits=limits or VolunteerLimits(),
        signals=signals or Signals(),
        on_status=on_status or statuses.append,
        log=lambda event, **fields: log.put_nowait(event),
        backoff=Backoff(base_s=0.01, cap_s=0.05),
        isolation=isolation,
    )
    task = asyncio.create_task(driver.run())
    node = TinyNode(driver, onnx, task, statuses, log)
    try:
        yield node
        if not task.done():
            driver.stop("the test is over")
            await asyncio.wait_for(task, 10)
    finally:
        task.cancel()
        await asyncio.wait({task})
