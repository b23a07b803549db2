"""The child process that computes one attempt at a time which may take it down.

Started by `isolation.IsolatedProcess`, its parent. It speaks node protocol 1 over its standard
streams, each frame behind four bytes of length: `load` is answered by `ready`, or `failed` with the
model's digest; `jobs` with one item by `results` or `failed`. It never outlives its parent, dumps
no core, and has limits on memory and processor time. Standard error leads nowhere: what a library
prints when it dies may hold the input.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from browser_node import pipelines
from browser_node import protocol as p
from browser_node.attempts import fits
from browser_node.executor import MAX_BATCH_TOKENS, Executor
from browser_node.pipelines import Pipeline, Plan, Vector
from browser_node.runtimes.leash import end_with_parent, never_dump_core
from browser_node.runtimes.opening import BACKBONE, Build, open_pipeline
from browser_node.runtimes.seams import ModelStore, Onnx
from browser_node.work import Encoder, Head, Outcome

LENGTH_BYTES: Final = 4
OUT_OF_MEMORY_EXIT: Final = 12
ONNX_RUNNER: Final = "browser_node.runtimes.isolated:onnx_runner"
# onnxruntime has no error class for it, only these words.
_OUT_OF_MEMORY_WORDS: Final = ("bad_alloc", "bad allocation", "Failed to allocate memory")
# Of a kernel that must kill something for want of memory: this process, before any other.
_OOM_SCORE: Final = "1000"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent passes on the command line, as JSON.

    ``runner`` names the factory of the `Runner` as ``module:function``; it gets ``models_dir`` and
    ``threads``. ``memory_bytes`` come on top of what is in use once the model is loaded.
    """

    parent: int
    runner: str
    models_dir: str
    threads: int
    memory_bytes: int
    wall_s: float


class Runner(Protocol):
    """Loads a model and computes attempts with it."""

    async def load(self, digest: str) -> None:
        """Make the model runnable, in place of another; raises when it cannot be."""

    async def run(self, item: p.JobItem) -> Outcome:
        """Compute an attempt of the model loaded last."""


def main(arguments: Sequence[str]) -> None:
    """Serve the parent until it closes the pipe."""
    terms = msgspec.json.decode(arguments[0], type=Terms)
    _confine(terms.parent)
    # What a library prints must not come between two frames.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    module, _, factory = terms.runner.partition(":")
    runner: Runner = getattr(importlib.import_module(module), factory)(
        Path(terms.models_dir), terms.threads
    )
    with asyncio.Runner() as loop:
        while (frame := _read(sys.stdin.buffer)) is not None:
            reply = loop.run(_answer(runner, frame, terms))
            body = p.encode(reply)
            _write_all(answers, len(body).to_bytes(LENGTH_BYTES) + body)


async def _answer(runner: Runner, frame: p.OrchestratorFrame, terms: Terms) -> p.Frame:
    match frame:
        case p.Load(recipe=recipe):
            started = time.monotonic()
            _limit_memory(None)
            try:
                await runner.load(recipe.digest)
            except Exception as error:
                message = f"{type(error).__name__}: {error}"[:200]
                return p.Failed(
                    digest=recipe.digest, blame="node", code="load_failed", message=message
                )
            _limit_memory(terms.memory_bytes)
            return p.Ready(digest=recipe.digest, load_s=time.monotonic() - started)
        case p.Jobs(items=(item,)):
            _limit_cpu(terms.wall_s * (terms.threads + 1))
            outcome = await runner.run(item)
            if isinstance(outcome, p.Failed):
                return outcome
            if fits(outcome):
                return p.Results(items=(outcome,))
            return p.Failed(attempt_id=item.attempt_id, blame="node", code="result_too_big")
        case _:
            raise p.ProtocolError(f"{type(frame).__name__} has no place here")


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


def _confine(parent: int) -> None:
    # Raised before `never_dump_core`, which hands the file to root.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    never_dump_core()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        # It was gone before the kernel was asked.
        os._exit(0)
    # A signal to the whole group means the parent, which ends this process when it ends; dying of
    # it here would be blamed on the input.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _limit_memory(more_bytes: int | None) -> None:
    """Allow ``more_bytes`` of private memory beyond what is in use; None lifts the limit.

    RLIMIT_DATA rather than RLIMIT_AS, which counts what allocators only reserve: with threads that
    is several times what they use. Where the kernel does not tell what is in use there is no limit.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = most
    if more_bytes is not None and (in_use := _data_bytes()) is not None:
        limit = in_use + more_bytes
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _data_bytes() -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return None


def _limit_cpu(more_s: float) -> None:
    """Allow ``more_s`` of processor time: ends a loop whose parent could not, for it is gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + more_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


@contextlib.contextmanager
def _no_life_without_memory() -> Iterator[None]:
    """End the process when memory runs out: the executor would take that for a plain failure."""
    try:
        yield
    except MemoryError:
        os._exit(OUT_OF_MEMORY_EXIT)
    except Exception as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY_WORDS):
            os._exit(OUT_OF_MEMORY_EXIT)
        raise


# ── the pipe ─────────────────────────────────────────────────────────────────────────────────────


def _read(pipe: BinaryIO) -> p.OrchestratorFrame | None:
    """Return the next frame, or None when the parent closed the pipe or is gone."""
    header = pipe.read(LENGTH_BYTES)
    if len(header) < LENGTH_BYTES:
        return None
    size = int.from_bytes(header)
    if size > p.MAX_FRAME_BYTES:
        raise p.ProtocolError(f"a frame of {size} bytes exceeds {p.MAX_FRAME_BYTES}")
    body = pipe.read(size)
    return p.decode_from_orchestrator(body) if len(body) == size else None


def _write_all(pipe: BinaryIO, message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[pipe.write(view) :]


# ── the work ─────────────────────────────────────────────────────────────────────────────────────


def onnx_runner(models_dir: Path, threads: int) -> Runner:
    """Return a runner of the models in ``models_dir`` with the native sessions."""
    # Imported here: numpy and onnxruntime are only for the process that computes.
    from browser_node.runtimes.disk import DiskFiles  # noqa: PLC0415
    from browser_node.runtimes.onnx_native import OnnxBackend, StoredOnnx  # noqa: PLC0415
    from browser_node.runtimes.store import Store  # noqa: PLC0415

    store = Store(DiskFiles(models_dir, download=None))
    return ModelRunner(store, StoredOnnx(OnnxBackend(threads=threads), store))


class ModelRunner:
    """The node's own executor and pipelines, with one model and one attempt at a time."""

    def __init__(self, store: ModelStore, onnx: Onnx, *, build: Build = pipelines.build) -> None:
        self._store = store
        self._onnx = onnx
        self._build = build
        self._executor = Executor(clock=time.perf_counter, budget_tokens=MAX_BATCH_TOKENS)
        self._digest = ""
        self._backbone = ""
        self._encoder: Encoder | None = None

    async def load(self, digest: str) -> None:
        if digest == self._digest:
            return
        self._executor.unload(self._digest)
        self._digest = ""
        manifest = await self._store.manifest(p.ModelDigest(digest))
        file = manifest.file(BACKBONE)
        if self._encoder is None or self._backbone != file.sha256:
            self._encoder = _Encoder(await self._onnx.encoder(file))
            self._backbone = file.sha256
        pipeline, head = await open_pipeline(manifest, self._store, self._onnx, build=self._build)
        wrapped = None if head is None else _Head(head)
        self._executor.load(digest, _Pipeline(pipeline), self._encoder, wrapped)
        self._digest = digest

    async def run(self, item: p.JobItem) -> Outcome:
        # The parent reads one frame an attempt: `_Pipeline` is not `Streaming`.
        self._executor.add((item,))
        while True:
            for emission in await self._executor.run_next():
                if not isinstance(emission, p.Delta):
                    return emission


class _Pipeline:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.head_path = pipeline.head_path

    def plan(self, task: p.Task) -> Plan:
        with _no_life_without_memory():
            return self._pipeline.plan(task)

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> p.Answer:
        with _no_life_without_memory():
            return self._pipeline.finish(plan, vectors, scores)


class _Encoder:
    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        with _no_life_without_memory():
            return await self._encoder.encode(sequences)


class _Head:
    def __init__(self, head: Head) -> None:
        self._head = head

    async def score(self, vectors: Sequence[Vector]) -> list[list[float]]:
        with _no_life_without_memory():
            return await self._head.score(vectors)


if __name__ == "__main__":
    with _no_life_without_memory():
        main(sys.argv[1:])
