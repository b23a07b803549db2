"""A runner for the isolated process whose pipeline does what some inputs tell it to."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from browser_node import pipelines
from browser_node.models import Manifest, ModelFile
from browser_node.pipelines import Pipeline, Plan, Vector
from browser_node.protocol import Answer, Task
from browser_node.runtimes.disk import DiskFiles
from browser_node.runtimes.isolated import ModelRunner, Runner
from browser_node.runtimes.store import Store
from browser_node.work import Encoder, Head
from tests.browser_node.arithmetic import ArithmeticEncoder

RUNNER = f"{__name__}:runner"
BROKEN_RUNNER = f"{__name__}:broken_runner"


def runner(models_dir: Path, threads: int) -> Runner:
    store = Store(DiskFiles(models_dir, download=None))
    return ModelRunner(store, Sessions(), build=build)


def broken_runner(models_dir: Path, threads: int) -> Runner:
    raise OSError("no runner today")


class Sessions:
    async def encoder(self, file: ModelFile) -> Encoder:
        return ArithmeticEncoder()

    async def head(self, file: ModelFile) -> Head:
        raise NotImplementedError("embedding models have no head")

    async def release(self, session: Encoder | Head) -> None: ...


def build(manifest: Manifest, files: Mapping[str, bytes]) -> Pipeline:
    return Obedient(pipelines.build(manifest, files))


class Obedient:
    """Answers with its process id in place of the vector."""

    head_path: str | None = None

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def plan(self, task: Task) -> Plan:
        obey(task.input)
        return self._pipeline.plan(task)

    def finish(self, plan: Plan, vectors: Sequence[Vector], scores: Sequence[float]) -> Answer:
        return Answer(output=str(os.getpid()).encode())


def obey(told: str) -> None:
    order, _, fifo = told.partition(" > ")
    if fifo:
        Path(fifo).write_bytes(b"it begins")
    match order:
        case "abort":
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "chatter":
            os.write(1, b"a library prints this")
        case "loop":
            while True:
                pass
        case "backtrack":
            # Holds the interpreter's lock for years.
            re.match(r"(a|aa)+$", "a" * 60 + "b")
        case "sleep":
            time.sleep(3600)
        case "hog":
            bytearray(8 << 30)
        case "grow":
            kept = []
            while True:
                kept.append(bytes(1 << 20))
