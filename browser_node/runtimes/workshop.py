"""Everything a node computes, in one task: models, their challenges, micro-batches, rests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from browser_node import pipelines
from browser_node import session_events as ev
from browser_node.executor import Encoder, Executor, Outcome
from browser_node.models import Manifest, ManifestError
from browser_node.politeness import Politeness, pause_after
from browser_node.protocol import Answer, Failed, JobItem, ModelDigest, Result
from browser_node.runtimes.calibration import SEQUENCE_TOKENS, Calibration, calibrate
from browser_node.runtimes.download import Downloader, files_of
from browser_node.runtimes.seams import Clock, Log, ModelStore, NetworkError, Onnx
from browser_node.runtimes.status import ModelRow, ModelState

BACKBONE: Final = "model.onnx"
_NO_LEASE_S: Final = 86_400.0
# Weight of the newest batch in the speed that is shown.
_SMOOTHING: Final = 0.2


class ModelError(Exception):
    """A model cannot be run here; ``code`` travels in `protocol.Failed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Workshop:
    """Opens models one after another and between that computes what the executor holds.

    Models whose backbones are the same file share one ONNX session and its calibration, so that the
    second model costs only its head and its challenge.
    """

    def __init__(
        self,
        *,
        store: ModelStore,
        onnx: Onnx,
        downloader: Downloader,
        clock: Clock,
        dispatch: Callable[[ev.Event], None],
        politeness: Callable[[], Politeness],
        log: Log,
    ) -> None:
        self._store = store
        self._onnx = onnx
        self._downloader = downloader
        self._clock = clock
        self._dispatch = dispatch
        self._politeness = politeness
        self._log = log
        self._executor = Executor(clock=clock.monotonic, budget_tokens=SEQUENCE_TOKENS)
        self._backbones: dict[str, tuple[Encoder, Calibration]] = {}
        self._open_models: dict[ModelDigest, Calibration] = {}
        self._wanted: dict[ModelDigest, tuple[ev.LoadModel, float]] = {}
        self._to_download: asyncio.Queue[ModelDigest] = asyncio.Queue()
        self._to_open: deque[tuple[ModelDigest, Manifest]] = deque()
        self._challenge: dict[str, Outcome | None] = {}
        self._refetched: set[int] = set()
        self._wake = asyncio.Event()
        self.rows: dict[ModelDigest, ModelRow] = {}
        self.last_job_at = float("-inf")
        self.jobs_done = 0
        self.tokens_done = 0
        self.tokens_per_s = 0.0

    # ── what the driver asks for ─────────────────────────────────────────────────────────────────

    def load(self, load: ev.LoadModel) -> None:
        """Open a model and answer its challenge, or only the challenge where it is open already."""
        digest = ModelDigest(load.recipe.digest)
        self._wanted[digest] = (load, self._clock.monotonic())
        self.rows[digest] = ModelRow(id=load.recipe.model_id, state="loading")
        self._to_download.put_nowait(digest)

    def unload(self, digest: ModelDigest) -> None:
        self._wanted.pop(digest, None)
        self.rows.pop(digest, None)
        self._open_models.pop(digest, None)
        self._executor.unload(digest)

    def execute(self, items: Iterable[JobItem]) -> None:
        self._executor.add(items)
        self._wake.set()

    def drop(self, attempt_ids: Iterable[str]) -> None:
        self._executor.cancel(attempt_ids)

    def look_again(self) -> None:
        """The politeness changed."""
        self._wake.set()

    # ── the two tasks ────────────────────────────────────────────────────────────────────────────

    async def download(self) -> None:
        """Fetch what is wanted, model by model, while `compute` goes on with what is open."""
        while True:
            digest = await self._to_download.get()
            if digest not in self._wanted:
                continue
            try:
                manifest = await self._downloader.manifest(digest)
                await self._downloader.ensure(files_of(manifest))
            except (ManifestError, NetworkError) as error:
                self._give_up(digest, ModelError("download_failed", str(error)))
                continue
            except OSError as error:
                self._give_up(digest, ModelError("storage_failed", str(error)))
                continue
            self._to_open.append((digest, manifest))
            self._wake.set()

    async def compute(self) -> None:
        """Open models and run micro-batches, one thing at a time, whenever the node may work."""
        while True:
            await self._wake.wait()
            self._dispatch(ev.Tick())
            if not self._politeness().keeps_work:
                self._wake.clear()
            elif self._to_open:
                await self._make_ready(*self._to_open.popleft())
            elif self._executor.held:
                await self._run_batch()
            else:
                self._wake.clear()

    # ── batches ──────────────────────────────────────────────────────────────────────────────────

    async def _run_batch(self) -> None:
        started = self._clock.monotonic()
        with self._computing():
            outcomes = await self._executor.run_next()
        ended = self._clock.monotonic()
        self._count(outcomes)
        self._dispatch(ev.Finished(tuple(o for o in outcomes if not self._is_challenge(o))))
        # The loop runs once even without a rest: a pong, cancel, pause or drain acts here.
        rest_s = pause_after(ended - started, duty=self._politeness().duty)
        await self._clock.sleep(rest_s)

    def _is_challenge(self, outcome: Outcome) -> bool:
        if outcome.attempt_id not in self._challenge:
            return False
        self._challenge[outcome.attempt_id] = outcome
        return True

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        results = [o for o in outcomes if isinstance(o, Result)]
        tokens = sum(result.tokens for result in results)
        compute_s = sum(result.compute_s for result in results)
        if tokens and compute_s > 0.0:
            self.tokens_per_s += _SMOOTHING * (tokens / compute_s - self.tokens_per_s)
        jobs = [result for result in results if result.attempt_id not in self._challenge]
        if jobs:
            self.last_job_at = self._clock.monotonic()
        self.jobs_done += len(jobs)
        self.tokens_done += sum(result.tokens for result in jobs)

    # ── models ───────────────────────────────────────────────────────────────────────────────────

    async def _make_ready(self, digest: ModelDigest, manifest: Manifest) -> None:
        if digest not in self._wanted:
            return
        load, since = self._wanted[digest]
        self._mark(digest, "calibrating")
        try:
            calibration = self._open_models.get(digest) or await self._open(digest, manifest)
            answers = await self._answer(load)
        except ManifestError as error:
            # The store has forgotten the part that went bad on this device: fetch that one again.
            self._log("part_refused", model=manifest.id, error=str(error))
            if load.load_id in self._refetched:
                self._give_up(digest, ModelError("bad_files", str(error)))
            else:
                self._refetched.add(load.load_id)
                self._to_download.put_nowait(digest)
            return
        except Exception as error:
            # Each runtime fails in its own way; the orchestrator is told and the node goes on.
            code = error.code if isinstance(error, ModelError) else "load_failed"
            self._give_up(digest, ModelError(code, str(error) or type(error).__name__))
            return
        load_s = self._clock.monotonic() - since
        self._mark(digest, "ready")
        self._log("model_ready", model=manifest.id, load_s=round(load_s, 3))
        self._dispatch(
            ev.ModelLoaded(load.load_id, load_s, calibration.slots, calibration.speeds, answers)
        )
        wanted = self._wanted.get(digest)
        if wanted is not None and wanted[0] is not load:
            # Asked again meanwhile over a new connection: that challenge is still to be answered.
            self._to_open.append((digest, manifest))
        else:
            self._wanted.pop(digest, None)

    async def _open(self, digest: ModelDigest, manifest: Manifest) -> Calibration:
        backbone = manifest.file(BACKBONE)
        if backbone.sha256 not in self._backbones:
            with self._computing():
                encoder = await self._onnx.encoder(backbone)
                calibration = await calibrate(encoder, self._clock)
            self._backbones[backbone.sha256] = (encoder, calibration)
            self._executor.budget_tokens = min(c.budget_tokens for _, c in self._backbones.values())
            self.tokens_per_s = calibration.tokens_per_s
            self._log("calibrated", tokens_per_s=round(calibration.tokens_per_s))
        encoder, calibration = self._backbones[backbone.sha256]
        files = {
            file.path: await self._store.read(file)
            for file in files_of(manifest)
            if not file.path.endswith(".onnx")
        }
        pipeline = pipelines.build(manifest, files)
        head = None
        if pipeline.head_path is not None:
            head = await self._onnx.head(manifest.file(pipeline.head_path))
        self._executor.load(digest, pipeline, encoder, head)
        self._open_models[digest] = calibration
        return calibration

    async def _answer(self, load: ev.LoadModel) -> tuple[Answer, ...]:
        """Run the challenge through the executor, as any other attempt; jobs may ride along."""
        items = [
            JobItem(
                attempt_id=f"challenge-{load.load_id}-{at}",
                digest=load.recipe.digest,
                lease_s=_NO_LEASE_S,
                tokens=0,
                input=task.input,
                params=task.params,
            )
            for at, task in enumerate(load.challenge)
        ]
        self._challenge = {item.attempt_id: None for item in items}
        self._executor.add(items)
        try:
            while None in self._challenge.values():
                await self._run_batch()
            return tuple(_answer_of(outcome) for outcome in self._challenge.values())
        finally:
            self._executor.cancel(self._challenge)
            self._challenge = {}

    def _give_up(self, digest: ModelDigest, error: ModelError) -> None:
        wanted = self._wanted.pop(digest, None)
        if wanted is None:
            return
        self._mark(digest, "failed")
        model = wanted[0].recipe.model_id
        self._log("model_failed", model=model, code=error.code, error=str(error))
        self._dispatch(ev.ModelFailed(wanted[0].load_id, error.code, str(error)))

    def _mark(self, digest: ModelDigest, state: ModelState) -> None:
        if digest in self.rows:
            self.rows[digest] = ModelRow(id=self.rows[digest].id, state=state)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        self._dispatch(ev.ComputeStarted())
        try:
            yield
        finally:
            self._dispatch(ev.ComputeEnded())


def _answer_of(outcome: Outcome | None) -> Answer:
    if isinstance(outcome, Result):
        return Answer(output=outcome.output, evidence=outcome.evidence)
    code = outcome.code if isinstance(outcome, Failed) else "no_outcome"
    raise ModelError("challenge_failed", f"a known question was answered with {code}")
