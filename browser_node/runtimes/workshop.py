"""Everything a node computes: models and their challenges, micro-batches, rests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from browser_node import session_events as ev
from browser_node.executor import Executor
from browser_node.models import Manifest, ManifestError
from browser_node.politeness import Politeness, pause_after
from browser_node.protocol import Answer, Delta, Failed, JobItem, ModelDigest, Result
from browser_node.runtimes.calibration import SEQUENCE_TOKENS
from browser_node.runtimes.download import Downloader, files_of
from browser_node.runtimes.opening import OpenModels
from browser_node.runtimes.seams import Clock, Isolation, Log, ModelStore, NetworkError, Onnx
from browser_node.runtimes.status import ModelRow, ModelState
from browser_node.work import Emission, Outcome

_NO_LEASE_S: Final = 86_400.0
# Weight of the newest batch in the speed that is shown.
_SMOOTHING: Final = 0.2


class ModelError(Exception):
    """A model cannot be run here; ``code`` travels in `protocol.Failed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Workshop:
    """Four tasks side by side: downloads, openings, micro-batches, and what runs in isolation.

    Downloads and openings never hold up the jobs of models that are open: a session is made beside
    the batches where the runtime can, the runs that measure it take turns with them, and the
    challenge rides along in them.
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
        may_go_on: Callable[[], Awaitable[None]],
        isolation: Isolation | None,
        log: Log,
    ) -> None:
        """``isolation`` runs the items that ask for it; without one they run as all others do."""
        self._downloader = downloader
        self._clock = clock
        self._dispatch = dispatch
        self._politeness = politeness
        self._may_go_on = may_go_on
        self._isolation = isolation
        self._log = log
        self._executor = Executor(clock=clock.monotonic, budget_tokens=SEQUENCE_TOKENS)
        self._models = OpenModels(
            self._executor,
            store=store,
            onnx=onnx,
            clock=clock,
            turn=self._polite_turn,
            computing=self._computing,
            log=log,
        )
        self._wanted: dict[ModelDigest, tuple[ev.LoadModel, float]] = {}
        self._to_download: asyncio.Queue[ModelDigest] = asyncio.Queue()
        self._to_open: asyncio.Queue[tuple[ModelDigest, Manifest]] = asyncio.Queue()
        self._challenge: dict[str, Outcome | None] = {}
        self._answered = asyncio.Event()
        self._alone: dict[str, JobItem] = {}
        self._wake_alone = asyncio.Event()
        # Held by whoever computes in this process; whoever waited longest is next.
        self._floor = asyncio.Lock()
        self._computations = 0
        self._refetched: set[int] = set()
        self._wake = asyncio.Event()
        # Rest that computing has earned and that was not taken yet; what cuts it short.
        self._owed_s = 0.0
        self._urgent = asyncio.Event()
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
        self._models.close(digest)
        self._wake.set()

    def execute(self, items: Iterable[JobItem]) -> None:
        for item in items:
            if item.isolated and self._isolation is not None:
                self._alone[item.attempt_id] = item
                self._wake_alone.set()
            else:
                self._executor.add((item,))
                self._wake.set()
                if not item.background:
                    self._urgent.set()

    def drop(self, attempt_ids: Collection[str]) -> None:
        """Forget attempts; the one in isolation goes on, and nobody hears its outcome."""
        self._executor.cancel(attempt_ids)
        for attempt_id in attempt_ids:
            self._alone.pop(attempt_id, None)

    def look_again(self) -> None:
        """The politeness changed."""
        self._wake.set()

    # ── the four tasks ────────────────────────────────────────────────────────────────────────────

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
            self._to_open.put_nowait((digest, manifest))

    async def open(self) -> None:
        """Make ready what is downloaded, one model after another, whenever the node may work."""
        while True:
            digest, manifest = await self._to_open.get()
            await self._may_go_on()
            await self._make_ready(digest, manifest)

    async def compute(self) -> None:
        """Run micro-batches whenever the node may work."""
        while True:
            await self._wake.wait()
            self._dispatch(ev.Tick())
            await self._models.release()
            if self._politeness().keeps_work and self._executor.held:
                await self._run_batch()
            else:
                self._wake.clear()

    async def isolate(self) -> None:
        """Have what asks for it computed in isolation, one after another."""
        while self._isolation is not None:
            await self._wake_alone.wait()
            if not self._alone:
                self._wake_alone.clear()
                continue
            outcome = await self._isolation.run(self._alone.pop(next(iter(self._alone))))
            self._count((outcome,))
            self._dispatch(ev.Finished((outcome,)))

    # ── batches ──────────────────────────────────────────────────────────────────────────────────

    async def _run_batch(self) -> None:
        async with self._turn():
            started = self._clock.monotonic()
            emissions = await self._executor.run_next()
            ended = self._clock.monotonic()
        self._count(emissions)
        self._dispatch(ev.Finished(tuple(e for e in emissions if not self._is_challenge(e))))
        self._owed_s += pause_after(ended - started, duty=self._politeness().duty)
        await self._rest()

    async def _rest(self) -> None:
        """Rest for what was computed: all of it, or after the background until a request comes.

        What the request cuts off is added to the rest after it, so that the share of time holds.
        """
        if self._owed_s > 0.0 and self._executor.ran_background:
            self._urgent.clear()
            if not self._executor.has_foreground:
                began = self._clock.monotonic()
                await self._clock.wait(self._urgent, self._owed_s)
                self._owed_s = max(0.0, self._owed_s - (self._clock.monotonic() - began))
                return
            rest_s = 0.0
        else:
            rest_s, self._owed_s = self._owed_s, 0.0
        # The loop runs once even without a rest: a pong, cancel, pause or drain acts here.
        await self._clock.sleep(rest_s)

    def _is_challenge(self, outcome: Emission) -> bool:
        if isinstance(outcome, Delta) or outcome.attempt_id not in self._challenge:
            return False
        self._challenge[outcome.attempt_id] = outcome
        if None not in self._challenge.values():
            self._answered.set()
        return True

    def _count(self, outcomes: Iterable[Emission]) -> None:
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
            calibration = await self._models.open(digest, manifest)
            self.tokens_per_s = self.tokens_per_s or calibration.tokens_per_s
            answers = await self._answer(load)
        except Exception as error:
            # Each runtime fails in its own way; the orchestrator is told and the node goes on.
            if self._is_wanted(load):
                self._not_ready(digest, load, error)
        else:
            # Asked again meanwhile, over a new connection or after an unload: that load is still in
            # the queue, and its challenge to be answered.
            if self._is_wanted(load):
                load_s = self._clock.monotonic() - since
                del self._wanted[digest]
                self._mark(digest, "ready")
                self._log("model_ready", model=manifest.id, load_s=round(load_s, 3))
                self._dispatch(
                    ev.ModelLoaded(
                        load.load_id, load_s, calibration.slots, calibration.speeds, answers
                    )
                )
                return
        if digest not in self._wanted:
            # Unloaded meanwhile, or of no use.
            self._models.close(digest)
            self._wake.set()

    def _is_wanted(self, load: ev.LoadModel) -> bool:
        wanted = self._wanted.get(ModelDigest(load.recipe.digest))
        return wanted is not None and wanted[0] is load

    def _not_ready(self, digest: ModelDigest, load: ev.LoadModel, error: Exception) -> None:
        if isinstance(error, ManifestError) and load.load_id not in self._refetched:
            # The store has forgotten the part that went bad on this device: fetch that one again.
            self._log("part_refused", model=load.recipe.model_id, error=str(error))
            self._refetched.add(load.load_id)
            self._to_download.put_nowait(digest)
            return
        if not isinstance(error, ModelError):
            code = "bad_files" if isinstance(error, ManifestError) else "load_failed"
            error = ModelError(code, str(error) or type(error).__name__)
        self._give_up(digest, error)

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
        self._answered.clear()
        self._executor.add(items)
        self._wake.set()
        try:
            if items:
                await self._answered.wait()
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

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._floor:
            with self._computing():
                yield

    @asynccontextmanager
    async def _polite_turn(self) -> AsyncIterator[None]:
        await self._may_go_on()
        async with self._turn():
            yield

    @contextmanager
    def _computing(self) -> Iterator[None]:
        self._computations += 1
        if self._computations == 1:
            self._dispatch(ev.ComputeStarted())
        try:
            yield
        finally:
            self._computations -= 1
            if self._computations == 0:
                self._dispatch(ev.ComputeEnded())


def _answer_of(outcome: Outcome | None) -> Answer:
    if isinstance(outcome, Result):
        return Answer(output=outcome.output, evidence=outcome.evidence)
    code = outcome.code if isinstance(outcome, Failed) else "no_outcome"
    raise ModelError("challenge_failed", f"a known question was answered with {code}")
