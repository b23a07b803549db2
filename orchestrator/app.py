"""The composition root: builds every concrete object, wires them, runs them, shuts them down.

Start: lock and migrate → load the catalogue → open the worker's private socket → start the worker
→ listen. Stop: readiness off → drain → end streams → close sockets → stop the worker → flush.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import random
import secrets
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from browser_node.agreement import Judge, Verdict
from browser_node.protocol import Answer, ModelDigest, Task
from orchestrator.api import Metrics, build_api
from orchestrator.clock import Clock
from orchestrator.console.app import build_console
from orchestrator.console.control import FleetControl
from orchestrator.console.sign_in import StoredSignIn
from orchestrator.domain.attempt_ids import AttemptIds
from orchestrator.domain.fleet import Totals
from orchestrator.domain.model import ModelSpec
from orchestrator.domain.references import References
from orchestrator.domain.scheduler import Options, Scheduler
from orchestrator.domain.trust import Policy
from orchestrator.engine import Engine
from orchestrator.orders import Orders
from orchestrator.settings import Settings
from orchestrator.storage.audit_log import OperatorLog
from orchestrator.storage.bootstrap import FirstStart, bootstrap
from orchestrator.storage.catalogue import Catalogue, load_catalogue, read_small_files
from orchestrator.storage.database import Database, open_database
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.keys import Pepper, find_key, load_pepper
from orchestrator.storage.nodes import NodeLog
from orchestrator.storage.objects import open_objects
from orchestrator.storage.request_log import RequestLog
from orchestrator.storage.standings import StandingLog, find_standing
from orchestrator.storage.writer import Writer
from orchestrator.transport import listen
from orchestrator.transport.caps import SocketCaps
from orchestrator.transport.credentials import Gate, Nonces, Tickets, admit_worker
from orchestrator.transport.geo import Geo
from orchestrator.transport.headers import HostCheck
from orchestrator.transport.nodes_ws import NodeSocket, bearer_check
from orchestrator.transport.origins import Origins
from orchestrator.transport.pages import build_pages
from orchestrator.transport.paths import Paths
from orchestrator.transport.register import SOCKET_PATH, Register, admitted
from orchestrator.transport.supervisor import WorkerSupervisor

_SCRAPE_S: Final = 0.2
WORKER_PATH: Final = "/worker/v1"
FLUSH_S: Final = 5.0
# Objects until the garbage collector looks at the young ones, and such looks until the next older.
# Each stops everything: with 20,000 and 50 a server with 200 busy nodes stood still for half a
# second once a minute. After 1,000 they took 1.6 µs of each request, whose row of the log was still
# there; after 10,000 it is written. A look at everything comes by time instead: what fails leaves
# cycles behind (an exception, its traceback, the future it was set on), and their frames hold
# request bodies.
_COLLECT_AFTER: Final = (10_000, 2, 1_000_000)
_COLLECT_EVERY_S: Final = 60.0
# At most this share of the time is spent on such looks.
_COLLECT_SHARE: Final = 0.001

log = structlog.get_logger("server")


@dataclass(frozen=True)
class Started:
    """What `serve` tells once it listens; ``first`` only at a data directory's first start."""

    url: str
    settings: Settings
    first: FirstStart | None


class Application:
    """One orchestrator process. Made and run on the event loop."""

    def __init__(self, settings: Settings, database: Database, pepper: Pepper) -> None:
        self.settings = settings
        self._database = database
        self._clock = Clock()
        self._rng = random.Random(secrets.randbits(64))
        self._shutdown = asyncio.Event()
        self._stopping = asyncio.Event()
        self._serving = False
        self.catalogue: Catalogue = load_catalogue(settings.build_dir)
        self._references = References(self._rng)
        self._judges = {
            digest: Judge(manifest, read_small_files(settings.build_dir, manifest))
            for digest, manifest in self.catalogue.manifests.items()
        }
        self._writer = Writer(
            database, queue_max=settings.log_queue_max, flush_s=settings.log_flush_s
        )
        self._policy = Policy(trust_after=settings.trust_after, audit_share=settings.audit_share)
        self._geo = Geo(settings.geoip_database, here=settings.here)
        self.engine = self._build_engine()
        self._keyring = Keyring(
            pepper,
            lambda digest: find_key(database, digest),
            monotonic=self._clock.monotonic,
            ttl_s=settings.key_cache_ttl_s,
            max_entries=settings.key_cache_max,
        )
        self._supervisor = WorkerSupervisor(
            data_dir=settings.data_dir,
            build_dir=settings.build_dir,
            threads=settings.cpu_worker_threads,
            report=self.engine.expect_worker,
            clock=self._clock,
        )
        self.engine.on_hung_worker = self._supervisor.restart
        self._worker_secret = secrets.token_hex(32)
        self._caps = SocketCaps(
            total=settings.sockets_max,
            per_address=settings.sockets_per_address,
            unwelcomed=settings.sockets_unauthenticated,
            clock=self._clock,
        )
        self._objects = open_objects(settings)
        self.app = self._build_public_app(pepper)

    def ready(self) -> bool:
        """Whether `/readyz` says yes: serving, and the CPU worker (where wanted) is calibrated."""
        return self._serving and (not self.settings.cpu_worker or self.engine.worker_ready())

    def stop(self) -> None:
        """Begin to shut down; a second call is ignored."""
        self._stopping.set()

    # ── building ─────────────────────────────────────────────────────────────────────────────────

    def _build_engine(self) -> Engine:
        manifests = self.catalogue.manifests
        specs = {
            digest: ModelSpec(digest, manifest.id, manifest.size_bytes, manifest.min_memory_mb)
            for digest, manifest in manifests.items()
        }
        settings = self.settings
        scheduler = Scheduler(
            models=specs,
            rng=self._rng,
            # Nodes see these: of `self._rng`, they would tell which answers will be audited.
            new_attempt_id=AttemptIds(random.SystemRandom()),
            references=self._references,
            policy=self._policy,
            options=Options(
                edge_budget_s=settings.edge_budget_s,
                max_queued=settings.queue_max_jobs,
                hedge_share=settings.hedge_share,
                project_share=settings.queue_project_share,
                newcomers_per_network=settings.newcomers_per_network,
            ),
        )
        return Engine(
            scheduler=scheduler,
            models=manifests,
            clock=self._clock,
            agree=self._agree,
            node_log=NodeLog(self._writer),
            standings=StandingLog(self._writer),
            find_standing=lambda identity, runtime: find_standing(
                self._database, identity, runtime
            ),
        )

    def _build_public_app(self, pepper: Pepper) -> ASGIApp:
        settings, manifests = self.settings, self.catalogue.manifests
        origins = Origins.of(settings)
        console = build_console(
            settings,
            sign_in=StoredSignIn(self._database, clock=self._clock, settings=settings),
            fleet_source=self.engine.fleet,
            control=FleetControl(
                engine=self.engine,
                database=self._database,
                log=OperatorLog(self._writer),
                flush=self._writer.flush,
                clock=self._clock,
                policy=self._policy,
            ),
            clock=self._clock,
            shutdown=self._shutdown,
        )
        pages = build_pages(
            settings,
            totals_source=self.engine.totals,
            signed_in=console.signed_in,
            clock=self._clock,
        )
        api = build_api(
            settings,
            database=self._database,
            objects=self._objects,
            keys=self._keyring,
            catalogue=self.catalogue,
            engine=self.engine,
            log=RequestLog(self._writer),
            clock=self._clock,
            ready=self.ready,
            rng=self._rng,
            supply=lambda: settings.batch_under_way,
            metrics=self._build_metrics(),
        )
        self.batches, self._stop_api = api.batches, api.stop
        nonces = Nonces(self._clock)
        gate = Gate(
            nonces=nonces,
            tickets=Tickets(pepper.secret, self._clock),
            per_identity=settings.tabs_per_identity,
        )
        register = Register(nonces=nonces, models=manifests, origins=origins, caps=self._caps)
        node_socket = NodeSocket(
            engine=self.engine,
            models=manifests,
            references=self._references,
            agree=self._agree,
            admit=gate.admit,
            release=gate.release,
            locate=self._geo.locate,
            caps=self._caps,
            allowed=lambda scope: admitted(scope, origins),
        )

        app = Paths(
            {**api.paths, "/register": register},
            prefixes=(("/v1/", api.app), ("/console/", console)),
            other=pages,
            sockets={SOCKET_PATH: node_socket},
        )
        return HostCheck(app, origins=origins)

    def _agree(self, digest: ModelDigest, task: Task, ours: Answer, theirs: Answer) -> Verdict:
        return self._judges[digest].agree(task, ours, theirs)

    def _build_metrics(self) -> Metrics:
        metrics, engine, clock = Metrics(), self.engine, self._clock
        held: list[tuple[float, Totals]] = []

        def totals() -> Totals:
            """Return the counts of this scrape: each gauge asks, and counting takes a while."""
            now = clock.monotonic()
            if not held or now - held[0][0] > _SCRAPE_S:
                held[:] = [(now, engine.totals())]
            return held[0][1]

        for name, text, value in (
            ("nodes", "Edge nodes connected.", lambda: totals().nodes),
            ("jobs_queued", "Jobs that run nowhere yet.", lambda: totals().queued),
            ("jobs_running", "Jobs on a node or the worker.", lambda: totals().running),
            (
                "jobs_answered_edge",
                "Jobs answered by nodes.",
                lambda: totals().answered_edge,
            ),
            (
                "jobs_answered_cloud",
                "Jobs answered by the CPU worker.",
                lambda: totals().answered_cloud,
            ),
            (
                "jobs_rerouted",
                "Attempts that ended without answer.",
                lambda: totals().rerouted,
            ),
            ("jobs_failed", "Jobs that ended with an error.", lambda: totals().failed),
            (
                "jobs_hedged",
                "Jobs started again on the CPU worker.",
                lambda: totals().hedged,
            ),
            ("jobs_audited", "Answers put to a comparison.", lambda: totals().audited),
            ("answers_disagreed", "Answers found wrong.", lambda: totals().disagreed),
            ("audits_dropped", "Audits that had to give way.", lambda: totals().dropped),
            ("worker_ready", "1 when the CPU worker is calibrated.", engine.worker_ready),
        ):
            metrics.gauge(f"zerogpu_{name}", text, value)
        return metrics

    def _build_worker_app(self) -> ASGIApp:
        worker_socket = NodeSocket(
            engine=self.engine,
            models=self.catalogue.manifests,
            references=self._references,
            agree=self._agree,
            admit=admit_worker,
            caps=SocketCaps(total=64, per_address=64, unwelcomed=64, clock=self._clock),
            allowed=bearer_check(self._worker_secret),
            trusted=True,
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket" and scope["path"] == WORKER_PATH:
                await worker_socket(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 4404})
            else:
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b""})

        return app

    # ── running ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, listener: socket.socket, *, started: Callable[[], None]) -> None:
        """Serve on ``listener`` until `stop` or a signal; returns when everything is put away."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        private = listen.private_server(self._build_worker_app())
        unix, path = self._open_worker_socket()
        public = listen.public_server(self.app, self.settings)
        servers = [asyncio.create_task(private.serve(sockets=[unix]))]
        try:
            if self.settings.cpu_worker:
                self._supervisor.start()
            self._serving = True
            # What is alive now stays alive: vocabularies and code need not be looked through again,
            # and requests leave few cycles behind.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)
            # What a `kill -9` left half-written is nobody's.
            await asyncio.to_thread(self._objects.discard_unfinished)
            await self.batches.start()
            # Not before: a batch made meanwhile would be one of those to go on with, and run twice.
            servers.append(asyncio.create_task(public.serve(sockets=[listener])))
            started()
            orders = asyncio.create_task(Orders(self._database, self.engine).follow())
            collecting = asyncio.create_task(self._collect())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([stopping, *servers], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            orders.cancel()
            collecting.cancel()
            await self._put_away()
        finally:
            self._shutdown.set()
            public.should_exit = private.should_exit = True
            for ended in await asyncio.gather(*servers, return_exceptions=True):
                if isinstance(ended, BaseException):
                    log.error("server ended badly", error=repr(ended))
            await self._supervisor.stop()
            path.unlink(missing_ok=True)
            self._keyring.close()
            self.catalogue.close()
            self._geo.close()
            if not await asyncio.to_thread(self._writer.close, FLUSH_S):
                log.error("rows were lost", queued=self._writer.queued)

    async def _collect(self) -> None:
        """Look through everything for what is garbage, once in a while."""
        while True:
            began_s = self._clock.monotonic()
            gc.collect()
            took_s = self._clock.monotonic() - began_s
            await asyncio.sleep(max(_COLLECT_EVERY_S, took_s / _COLLECT_SHARE))

    async def _put_away(self) -> None:
        self._serving = False
        within_s = self.settings.drain_s
        log.info("draining", up_to_s=within_s)
        finished, *_ = await asyncio.gather(
            self.engine.drain(within_s), self.batches.stop(within_s), self._stop_api(within_s)
        )
        if not finished:
            log.warning("not everything was finished in time")
        self._shutdown.set()
        self.engine.close()

    def _open_worker_socket(self) -> tuple[socket.socket, Path]:
        folder = self.settings.data_dir / "run"
        folder.mkdir(mode=0o700, exist_ok=True)
        unix, path = listen.bind_unix(folder)
        endpoint = folder / "worker.json"
        endpoint.unlink(missing_ok=True)
        endpoint.touch(mode=0o600)
        endpoint.write_text(json.dumps({"socket": str(path), "secret": self._worker_secret}))
        return unix, path


async def serve(settings: Settings, *, announce: Callable[[Started], None]) -> None:
    """Open the data directory and run an orchestrator in it until it is told to stop.

    Raises `errors.OperatorError` for what the person at the terminal has to mend.
    """
    database = open_database(settings.data_dir)
    try:
        pepper = load_pepper(database)
        listener = listen.bind(settings)
        with listener:
            settings = dataclasses.replace(settings, port=listener.getsockname()[1])
            listen.raise_descriptor_limit(settings.sockets_max)
            application = Application(settings, database, pepper)
            first = bootstrap(
                database,
                pepper,
                now=Clock().wall(),
                link_lifetime_s=settings.console_link_lifetime_s,
            )
            await application.run(
                listener, started=lambda: announce(Started(settings.url, settings, first))
            )
    finally:
        database.close()
