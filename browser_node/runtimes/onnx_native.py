"""The native ONNX sessions: onnxruntime and numpy behind the executor's seams.

All of a node's sessions compute in one thread, so that the event loop stays free and two models
never compete for the same cores. Sessions are opened beside it: that takes the backbone 0.6 s, and
batches need not wait for it.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import onnxruntime

from browser_node.models import ModelFile
from browser_node.pipelines.plan import Vector
from browser_node.runtimes.seams import ModelStore
from browser_node.work import Encoder, Head, Interrupted

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T")

# The highest of onnxruntime's levels of logging.
_FATAL: Final = 4


class OnnxBackend:
    """Opens sessions that share one computing thread; each uses ``threads`` within an operator."""

    def __init__(self, *, threads: int) -> None:
        self.threads = threads
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnx")

    async def open_encoder(self, model_onnx: bytes) -> OnnxEncoder:
        """Load a backbone; raises onnxruntime's error for bytes that are no such model."""
        return OnnxEncoder(await asyncio.to_thread(self._open, model_onnx), self)

    async def open_head(self, head_onnx: bytes) -> OnnxHead:
        """Load a head; raises onnxruntime's error for bytes that are no such model."""
        return OnnxHead(await asyncio.to_thread(self._open, head_onnx), self)

    async def compute(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in the computing thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Let the computing thread end after what it is at; sessions are of no use afterwards."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _open(self, model: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A donated machine's cores sleep between operators rather than spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Every batch has another shape: patterns kept for each would only fill memory.
        options.enable_mem_pattern = False
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class StoredOnnx:
    """Sessions over files of a store: the driver's seam."""

    def __init__(self, backend: OnnxBackend, store: ModelStore) -> None:
        self._backend = backend
        self._store = store

    async def encoder(self, file: ModelFile) -> Encoder:
        return await self._backend.open_encoder(await self._store.read(file))

    async def head(self, file: ModelFile) -> Head:
        return await self._backend.open_head(await self._store.read(file))

    async def release(self, session: Encoder | Head) -> None:
        """Return without doing anything: a session's memory goes with the last reference to it."""


class OnnxEncoder:
    """A backbone with int32 inputs [batch, seq] and one float32 output [batch, dimensions]."""

    def __init__(self, session: onnxruntime.InferenceSession, backend: OnnxBackend) -> None:
        self._session = session
        self._backend = backend
        # Those of the run under way, or of the last.
        self._options = onnxruntime.RunOptions()

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        """Return one vector a sequence, in order: pads to the longest and runs once.

        Raises `Interrupted` once `interrupt` was called.
        """
        options = self._options = onnxruntime.RunOptions()
        # That a run was cut off is no news; what else goes wrong is raised.
        options.log_severity_level = _FATAL
        try:
            return await self._backend.compute(lambda: self._encode(sequences, options))
        except Exception as error:
            if options.terminate:
                raise Interrupted from error
            raise

    def interrupt(self) -> None:
        """Cut off the run under way: onnxruntime looks between two operators, every 0.3 ms."""
        self._options.terminate = True

    def _encode(
        self, sequences: Sequence[list[int]], options: onnxruntime.RunOptions
    ) -> list[Vector]:
        shape = len(sequences), max(map(len, sequences))
        ids = np.zeros(shape, np.int32)
        mask = np.zeros(shape, np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        vectors = _run(self._session, {"input_ids": ids, "attention_mask": mask}, options)
        return [array("f", row.tobytes()) for row in vectors]


class OnnxHead:
    """A head with the float32 input ``vectors`` [n, dimensions] and the output [n, labels]."""

    def __init__(self, session: onnxruntime.InferenceSession, backend: OnnxBackend) -> None:
        self._session = session
        self._backend = backend

    async def score(self, vectors: Sequence[Vector]) -> list[list[float]]:
        """Return one row of scores a vector."""
        return await self._backend.compute(lambda: self._score(vectors))

    def _score(self, vectors: Sequence[Vector]) -> list[list[float]]:
        scores: list[list[float]] = _run(
            self._session, {"vectors": np.asarray(vectors, np.float32)}
        ).tolist()
        return scores


def _run(
    session: onnxruntime.InferenceSession,
    inputs: dict[str, NDArray[Any]],
    options: onnxruntime.RunOptions | None = None,
) -> NDArray[np.float32]:
    """Return the session's only output."""
    output: NDArray[np.float32] = session.run(None, inputs, options)[0]
    return output
