"""The native runtime: a volunteer's machine (`run_node`) and the CPU worker (`run_worker`)."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import signal
import sys
import time
from pathlib import Path
from typing import Final, Literal

from browser_node.backoff import Backoff
from browser_node.politeness import Signals, VolunteerLimits
from browser_node.protocol import Device, Runtime
from browser_node.runtimes.clock import LoopClock
from browser_node.runtimes.disk import DiskFiles
from browser_node.runtimes.driver import Driver
from browser_node.runtimes.isolation import IsolatedProcess
from browser_node.runtimes.leash import end_with_parent
from browser_node.runtimes.native_net import (
    FileKeys,
    NoKeys,
    WebNetwork,
    WorkerNetwork,
    get,
    in_thread,
)
from browser_node.runtimes.onnx_native import OnnxBackend, StoredOnnx
from browser_node.runtimes.seams import Keys, Log, ModelStore, Network
from browser_node.runtimes.status import Status
from browser_node.runtimes.store import Store
from browser_node.session import Identity

WORKER_PATH: Final = "/worker/v1"
_PARENT_POLL_S: Final = 1.0
# The server that it works for goes first, and whatever else this machine is there for: with all
# cores computing lines of batches, each of the server's steps waited for a slice of time.
_WORKER_NICENESS: Final = 10
# The server next door is back at once or not at all.
_WORKER_BACKOFF: Final = Backoff(base_s=0.1, cap_s=2.0)


def run_node(*, url: str, data_dir: Path, cpu_share: float, threads: int) -> int:
    """Donate this machine to the orchestrator at ``url`` until SIGTERM or SIGINT.

    Returns an exit code. The key pair and the models are kept in ``data_dir``.
    """
    log = log_lines("node")
    try:
        network = WebNetwork(url)
    except ValueError as error:
        log("bad_url", error=error)
        return 1
    keys = FileKeys(data_dir / "node-key.pem")

    async def download(name: str, limit_bytes: int) -> bytes:
        address = f"{network.origin}/models/{name}"
        return await in_thread(lambda: get(address, limit_bytes=limit_bytes))

    identity = Identity(
        runtime=_runtime("native", threads),
        device=_device(),
        public_key=keys.public_key,
        socket_path="",
    )
    node = Node(
        identity,
        network=network,
        keys=keys,
        store=Store(DiskFiles(data_dir / "models", download=download)),
        limits=VolunteerLimits(cpu_share=cpu_share, threads=threads),
        log=log,
    )
    return asyncio.run(node.run())


def run_worker(
    *,
    data_dir: Path,
    build_dir: Path,
    threads: int,
    parent: int | None = None,
    yields: bool = False,
) -> int:
    """Work for the orchestrator that serves ``data_dir`` until it goes; return an exit code.

    ``parent`` is the process to end with: who started this one, unless another pid is given. Who
    starts a worker should, as a starter that dies at once is no parent any more when this looks.
    ``yields`` lowers the priority of this process, for good.
    """
    log = log_lines("worker")
    endpoint = data_dir / "run" / "worker.json"
    try:
        told = json.loads(endpoint.read_text())
        network = WorkerNetwork(told["socket"], told["secret"])
    except (OSError, ValueError, KeyError) as error:
        log("no_endpoint", path=endpoint, error=type(error).__name__, hint="is `zerogpu serve` up?")
        return 1
    if yields:
        os.nice(_WORKER_NICENESS)
    identity = Identity(
        runtime=_runtime("cpu", threads), device=_device(), public_key=b"", socket_path=WORKER_PATH
    )
    node = Node(
        identity,
        network=network,
        keys=NoKeys(),
        store=Store(DiskFiles(build_dir / "models", download=None)),
        limits=VolunteerLimits(threads=threads),
        log=log,
        backoff=_WORKER_BACKOFF,
        leash=os.getppid() if parent is None else parent,
        isolation=IsolatedProcess(build_dir / "models", threads=max(1, threads), log=log),
    )
    return asyncio.run(node.run())


class Node:
    """A driver with what a process adds: signals, a leash to the parent, ONNX, log lines.

    ``isolation`` is ended with the node.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        network: Network,
        keys: Keys,
        store: ModelStore,
        limits: VolunteerLimits,
        log: Log,
        backoff: Backoff | None = None,
        leash: int | None = None,
        isolation: IsolatedProcess | None = None,
    ) -> None:
        self._log = log
        self._leash = leash
        self._isolation = isolation
        self._backend = OnnxBackend(threads=identity.runtime.threads)
        self._phase = ""
        self.driver = Driver(
            identity,
            network=network,
            keys=keys,
            store=store,
            onnx=StoredOnnx(self._backend, store),
            clock=LoopClock(),
            rng=random.Random(),
            limits=limits,
            signals=Signals(),
            on_status=self._told,
            log=log,
            backoff=backoff,
            isolation=isolation,
        )

    async def run(self) -> int:
        """Run until stopped; SIGTERM and SIGINT say goodbye first."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.driver.stop, f"got {number.name}")
        watch = asyncio.create_task(self._watch_parent(self._leash)) if self._leash else None
        try:
            ended = await self.driver.run()
        finally:
            if watch is not None:
                watch.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            self._backend.close()
            if self._isolation is not None:
                await self._isolation.close()
        return 1 if ended.failed else 0

    async def _watch_parent(self, parent: int) -> None:
        """Stop when ``parent`` is gone: by the kernel's signal on Linux, by polling everywhere."""
        end_with_parent(signal.SIGTERM)
        while os.getppid() == parent:  # noqa: ASYNC110 — the kernel tells no event of it
            await asyncio.sleep(_PARENT_POLL_S)
        self.driver.stop("the server is gone")

    def _told(self, status: Status) -> None:
        # Ready and working alternate with every burst of jobs: that is no news.
        phase = "ready" if status.phase == "working" else status.phase
        if phase != self._phase:
            self._phase = phase
            self._log("phase", phase=phase, reason=status.reason)


def _runtime(kind: Literal["native", "cpu"], threads: int) -> Runtime:
    agent = f"zerogpu {platform.system()} {platform.machine()} python {platform.python_version()}"
    return Runtime(kind=kind, backend="onnxruntime", threads=max(1, threads), agent=agent[:200])


def _device() -> Device:
    try:
        memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6
    except (ValueError, OSError, AttributeError):
        memory_mb = None
    return Device(cores=os.cpu_count() or 1, memory_mb=memory_mb)


def log_lines(logger: str) -> Log:
    """Return a log of one line an event on stderr: for people on a terminal, else JSON."""
    pretty = sys.stderr.isatty()

    def log(event: str, **fields: object) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if pretty:
            told = " ".join(f"{name}={value}" for name, value in fields.items())
            line = f"{stamp} [{logger}] {event} {told}"
        else:
            record = {"timestamp": stamp, "logger": logger, "event": event, **fields}
            line = json.dumps(record, default=str)
        print(line, file=sys.stderr, flush=True)

    return log
