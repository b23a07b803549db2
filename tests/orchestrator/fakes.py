"""Small stand-ins for what the API stands on: a build of three tiny models, an engine, a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
from msgspec import structs
from starlette.types import ASGIApp
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from browser_node.models import (
    Manifest,
    ModelFile,
    Pipeline,
    Price,
    cut,
    digest_of,
    encode_manifest,
)
from browser_node.protocol import NodeId
from orchestrator.api import Metrics, build_api
from orchestrator.batches.service import BatchService
from orchestrator.clock import Clock
from orchestrator.domain.fleet import DecisionRow
from orchestrator.domain.model import Answered, NewJob, Place
from orchestrator.errors import InternalError
from orchestrator.settings import Settings
from orchestrator.storage import keys
from orchestrator.storage.catalogue import Catalogue, load_catalogue
from orchestrator.storage.database import Database
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.objects import open_objects
from orchestrator.storage.request_log import RequestLog
from orchestrator.storage.writer import Writer
from orchestrator.transport.listen import public_server
from tests.orchestrator.databases import database_in
from tests.servers import running

EMBEDDINGS: Final = "all-minilm-l6-v2"
IAB: Final = "zlm-v1-iab-classify-edge"
IAB_ALIAS: Final = "zlm-v1-iab-classify-cloud"
SUMMARY: Final = "zlm-v1-summary-cloud"
DIMENSIONS: Final = 384

# The tests' servers speak plain HTTP; a client of its own mind would read all of the machine's
# certificates, which takes longer than most of its requests.
NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION: Final = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS: Final = ("the", "cat", "sat", "on", "mat", "a", "dog", "ran", "home", "##s", "##ing")
VOCABULARY: Final = (
    *_SPECIAL,
    *dict.fromkeys((*_WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_PUNCTUATION)),
)


def tiny_tokenizer() -> bytes:
    """Return a ``tokenizer.json`` of the published kind with a vocabulary for ASCII tests."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    engine = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    engine.add_special_tokens(list(_SPECIAL))
    return engine.to_str().encode()


def tiny_wordpiece() -> bytes:
    """Return a ``wordpiece.json`` that agrees with `tiny_tokenizer` on printable ASCII."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    table = {
        "schema": 1,
        "vocab": "\n".join(VOCABULARY),
        "special": {token: ids[token] for token in _SPECIAL},
        "cls": ids["[CLS]"],
        "sep": ids["[SEP]"],
        "unk": ids["[UNK]"],
        "prefix": "##",
        "max_chars": 100,
        "drop": [],
        "isolate": [],
        "map": {letter.upper(): letter for letter in "abcdefghijklmnopqrstuvwxyz"}
        | {mark: f" {mark} " for mark in _PUNCTUATION},
        "hangul": False,
    }
    return json.dumps(table).encode()


def write_build(build_dir: Path) -> Path:
    """Write an index, manifests and parts of three tiny models; returns ``build_dir``."""
    parts = build_dir / "models" / "parts"
    manifests = build_dir / "models" / "manifests"
    parts.mkdir(parents=True)
    manifests.mkdir()
    files = []
    for path, data in (("tokenizer.json", tiny_tokenizer()), ("wordpiece.json", tiny_wordpiece())):
        file, pieces = cut(data, path)
        files.append(file)
        for part, piece in zip(file.parts, pieces, strict=True):
            (parts / part.sha256).write_bytes(piece)
    index = []
    for manifest in tiny_manifests(tuple(files)):
        encoded = encode_manifest(manifest)
        digest = digest_of(encoded)
        (manifests / f"{digest}.json").write_bytes(encoded)
        index.append({"id": manifest.id, "digest": digest})
    (build_dir / "index.json").write_text(json.dumps({"models": index}))
    return build_dir


def tiny_manifests(files: tuple[ModelFile, ...]) -> list[Manifest]:
    """Return three manifests with the limits' kinds of the real ones: one cuts, two refuse."""

    def made(name: str, pipeline: Pipeline, max_tokens: int, *, cuts: bool) -> Manifest:
        return Manifest(
            id=name,
            aliases=(IAB_ALIAS,) if name == IAB else (),
            version="1",
            name=name,
            pipeline=pipeline,
            files=files,
            dimensions=DIMENSIONS,
            max_tokens=max_tokens,
            error_on_max_token=not cuts,
            min_cosine=0.99,
            min_memory_mb=100,
            price=Price(input_microusd=20_000, output_microusd=50_000),
            languages=("en",),
            licence="Apache-2.0",
            created=1_700_000_000,
            parameters=22_700_000,
        )

    return [
        made(EMBEDDINGS, "embeddings", 16, cuts=True),
        made(IAB, "iab-classification", 40, cuts=False),
        made(SUMMARY, "extractive-summary", 64, cuts=False),
    ]


def vector_of(text: str) -> bytes:
    """Return the float32 vector that `LocalEngine` answers a text with."""
    seed = sum(text.encode()) % 97 + 1
    return array("f", [(seed * (at + 1) % 101) / 101 for at in range(DIMENSIONS)]).tobytes()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class LocalEngine:
    """Answers at once on the event loop; can be told to wait, to fail, to say ``cloud``.

    A text with the word ``cloud`` in it is answered there.
    """

    catalogue: Catalogue
    failure: Exception | None = None
    says: bytes | None = None
    waits: bool = False
    jobs: list[NewJob] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    paced: asyncio.Event = field(default_factory=_set)

    def decisions_of(self, number: str) -> list[DecisionRow]:
        """Return nothing: a fake places no jobs."""
        return []

    async def answer(self, jobs: Sequence[NewJob]) -> list[Answered]:
        self.jobs += jobs
        self.started.set()
        if self.failure is not None:
            raise self.failure
        if self.waits:
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return [self._answered(job) for job in jobs]

    async def stream(self, job: NewJob) -> AsyncGenerator[str | Answered]:
        """Say a summary word by word; breaks off before a text's word ``break`` if it has one."""
        [answer] = await self.answer([job])
        if self.catalogue.manifests[job.digest].pipeline == "extractive-summary":
            try:
                for word in answer.output.decode().split(" "):
                    if word == "break":
                        raise InternalError("The answer broke off.", code="stream_interrupted")
                    yield word + " "
                    await self.paced.wait()
            except (GeneratorExit, asyncio.CancelledError):
                self.cancelled.set()
                raise
            answer = structs.replace(answer, output=answer.output + b" ")
        yield answer

    def _answered(self, job: NewJob) -> Answered:
        place: Place = "cloud" if "cloud" in job.input else "edge"
        return Answered(
            job_id=job.job_id,
            output=self._output(job),
            place=place,
            node_id=NodeId("worker" if place == "cloud" else "node_1"),
            attempts=1,
            compute_s=0.001,
        )

    def _output(self, job: NewJob) -> bytes:
        if self.says is not None:
            return self.says
        match self.catalogue.manifests[job.digest].pipeline:
            case "embeddings":
                return vector_of(job.input)
            case "iab-classification":
                return json.dumps({"audience": [], "keywords": job.input.split()[:3]}).encode()
            case "extractive-summary":
                return job.input.split(". ")[0].encode()


@dataclass
class Ready:
    yes: bool = True


@dataclass
class Backend:
    """An API with a real database behind it."""

    settings: Settings
    database: Database
    pepper: keys.Pepper
    writer: Writer
    keyring: Keyring
    catalogue: Catalogue
    engine: LocalEngine
    metrics: Metrics
    app: ASGIApp
    ready: Ready
    batches: BatchService

    def new_key(self) -> keys.NewKey:
        return keys.create_key(self.database, self.pepper, name="test", now=Clock().wall())

    def rows(self) -> list[dict[str, object]]:
        """Return the request log, oldest first, once all that was appended is written."""
        assert self.writer.flush(10)
        with self.database.connect() as connection:
            result = connection.exec_driver_sql("SELECT * FROM requests ORDER BY ts")
            return [dict(row) for row in result.mappings()]


@contextlib.contextmanager
def backend_in(folder: Path, **overrides: object) -> Iterator[Backend]:
    """Make a `Backend` in an empty folder and put it away afterwards."""
    build_dir = write_build(folder / "build")
    settings = Settings.from_env({}, data_dir=folder / "data", build_dir=build_dir, **overrides)
    database = database_in(settings.data_dir)
    pepper = keys.load_pepper(database)
    writer = Writer(database, queue_max=settings.log_queue_max, flush_s=settings.log_flush_s)
    keyring = Keyring(
        pepper,
        lambda digest: keys.find_key(database, digest),
        monotonic=Clock().monotonic,
        ttl_s=settings.key_cache_ttl_s,
        max_entries=settings.key_cache_max,
    )
    catalogue = load_catalogue(build_dir)
    engine = LocalEngine(catalogue)
    metrics = Metrics()
    ready = Ready()
    api = build_api(
        settings,
        database=database,
        objects=open_objects(settings),
        keys=keyring,
        catalogue=catalogue,
        engine=engine,
        log=RequestLog(writer),
        clock=Clock(),
        ready=lambda: ready.yes,
        rng=random.Random(1),
        supply=lambda: settings.batch_under_way,
        metrics=metrics,
    )
    yield Backend(
        settings,
        database,
        pepper,
        writer,
        keyring,
        catalogue,
        engine,
        metrics,
        api.app,
        ready,
        api.batches,
    )
    assert writer.close(10)
    keyring.close()
    catalogue.close()
    database.close()


@contextlib.asynccontextmanager
async def serving(backend: Backend) -> AsyncIterator[str]:
    """Serve on a real socket with the server that `zerogpu serve` uses; yields the URL."""
    await backend.batches.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        try:
            async with running(public_server(backend.app, backend.settings), listener):
                yield f"http://{host}:{port}"
        finally:
            await backend.batches.stop(10)


def client_of(url: str, *, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """Return a client of the server at ``url``."""
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=10, verify=NO_CERTIFICATES)


@contextlib.asynccontextmanager
async def caller(
    folder: Path, **settings: object
) -> AsyncIterator[tuple[Backend, httpx.AsyncClient]]:
    """A backend on a socket and a client with a key of it."""
    with backend_in(folder, **settings) as backend:
        headers = {"x-api-key": backend.new_key().api_key}
        async with (
            serving(backend) as url,
            client_of(url, headers=headers) as client,
        ):
            yield backend, client


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """Return the error an answer holds, having checked its envelope."""
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert reply.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = body["error"]
    return error
