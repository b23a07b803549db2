"""The models that are open: their pipelines and ONNX sessions, the backbones shared by content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from browser_node import pipelines
from browser_node.executor import Executor
from browser_node.models import Manifest, ModelFile
from browser_node.pipelines import Pipeline
from browser_node.protocol import ModelDigest
from browser_node.runtimes.calibration import SEQUENCE_TOKENS, Calibration, Turn, calibrate
from browser_node.runtimes.download import files_of
from browser_node.runtimes.seams import Clock, Log, ModelStore, Onnx
from browser_node.work import Encoder, Head

BACKBONE: Final = "model.onnx"

Build = Callable[[Manifest, Mapping[str, bytes]], Pipeline]


async def open_pipeline(
    manifest: Manifest, store: ModelStore, onnx: Onnx, *, build: Build = pipelines.build
) -> tuple[Pipeline, Head | None]:
    """Return a model's pipeline and the session of its head, where it has one."""
    files = {
        file.path: await store.read(file)
        for file in files_of(manifest)
        if not file.path.endswith(".onnx")
    }
    pipeline = build(manifest, files)
    if pipeline.head_path is None:
        return pipeline, None
    return pipeline, await onnx.head(manifest.file(pipeline.head_path))


@dataclass(frozen=True, slots=True)
class _Open:
    """``backbone`` is the SHA-256 of its file."""

    backbone: str
    head: Head | None


@dataclass(frozen=True, slots=True)
class _Backbone:
    encoder: Encoder
    calibration: Calibration


class OpenModels:
    """Opens one model at a time for ``executor``, and closes any of them at any time.

    Models whose backbones are the same file share one ONNX session and its calibration, so that the
    second model costs only its head. A session that no open model uses is freed at the next
    `release`, which must not run beside a batch.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        store: ModelStore,
        onnx: Onnx,
        clock: Clock,
        turn: Turn,
        computing: Callable[[], AbstractContextManager[None]],
        log: Log,
    ) -> None:
        """``turn`` is taken for each run that measures; making a session is ``computing`` too."""
        self._executor = executor
        self._store = store
        self._onnx = onnx
        self._clock = clock
        self._turn = turn
        self._computing = computing
        self._log = log
        self._models: dict[ModelDigest, _Open] = {}
        self._backbones: dict[str, _Backbone] = {}
        self._opening: str | None = None
        self._unused: list[Encoder | Head] = []

    async def open(self, digest: ModelDigest, manifest: Manifest) -> Calibration:
        """Make a model runnable, where it is not; raises what reading and ONNX raise."""
        backbone = manifest.file(BACKBONE)
        self._opening = backbone.sha256
        try:
            shared = self._backbones.get(backbone.sha256) or await self._measured(backbone)
            if digest not in self._models:
                pipeline, head = await open_pipeline(manifest, self._store, self._onnx)
                self._executor.load(digest, pipeline, shared.encoder, head)
                self._models[digest] = _Open(backbone.sha256, head)
            return shared.calibration
        finally:
            self._opening = None
            self._forget_backbones()

    async def _measured(self, file: ModelFile) -> _Backbone:
        # In a browser nothing else runs meanwhile, and a pong is late.
        with self._computing():
            encoder = await self._onnx.encoder(file)
        try:
            calibration = await calibrate(encoder, self._clock, self._turn)
        except BaseException:
            self._unused.append(encoder)
            raise
        self._log("calibrated", tokens_per_s=round(calibration.tokens_per_s))
        self._backbones[file.sha256] = _Backbone(encoder, calibration)
        self._set_budget()
        return self._backbones[file.sha256]

    def close(self, digest: ModelDigest) -> None:
        """Forget a model; what the executor holds for it fails."""
        self._executor.unload(digest)
        closed = self._models.pop(digest, None)
        if closed is not None and closed.head is not None:
            self._unused.append(closed.head)
        self._forget_backbones()

    async def release(self) -> None:
        """Free the sessions of what was closed."""
        while self._unused:
            await self._onnx.release(self._unused.pop())

    def _forget_backbones(self) -> None:
        used = {model.backbone for model in self._models.values()} | {self._opening}
        for sha256 in self._backbones.keys() - used:
            self._unused.append(self._backbones.pop(sha256).encoder)
        self._set_budget()

    def _set_budget(self) -> None:
        """Have a micro-batch suit the slowest backbone."""
        budgets = [each.calibration.budget_tokens for each in self._backbones.values()]
        self._executor.budget_tokens = min(budgets, default=SEQUENCE_TOKENS)
