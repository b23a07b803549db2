"""The public API under ``/v1/`` and the operator's endpoints, as one ASGI app: `build_api`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from starlette.types import ASGIApp

from orchestrator.api import openapi, operations
from orchestrator.api.app import PublicApi
from orchestrator.api.batches import BatchesRoutes
from orchestrator.api.chat import ChatRoute
from orchestrator.api.decisions import DecisionsRoute
from orchestrator.api.embeddings import EmbeddingsRoute
from orchestrator.api.endpoints import ENDPOINTS
from orchestrator.api.files import FilesRoutes
from orchestrator.api.gate import Gate
from orchestrator.api.idempotency import Idempotency
from orchestrator.api.inference import (
    CHAT_ROUTE,
    EMBEDDINGS_ROUTE,
    RESPONSES_ROUTE,
    Answers,
    Inference,
)
from orchestrator.api.limits import Limits
from orchestrator.api.lines import LineRequests
from orchestrator.api.metrics import Metrics
from orchestrator.api.models import ModelsRoutes
from orchestrator.api.moderations import ModerationsRoute
from orchestrator.api.numbers import Numbers
from orchestrator.api.openapi import Document
from orchestrator.api.operations import Operations
from orchestrator.api.recorder import Recorder
from orchestrator.api.responses import ResponsesRoute
from orchestrator.api.tasks import TaskRoutes
from orchestrator.batches.service import BatchService
from orchestrator.clock import Clock
from orchestrator.settings import Settings
from orchestrator.storage.catalogue import Catalogue
from orchestrator.storage.database import Database
from orchestrator.storage.files import Files
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.keys import Principal, find_key_by_id
from orchestrator.storage.objects import Objects
from orchestrator.storage.request_log import RequestLog
from orchestrator.transport.paths import Paths

__all__ = ["Api", "Metrics", "build_api"]

_OWN: Final = frozenset(
    {
        "/v1",
        *operations.PATHS,
        *openapi.PATHS,
        *(one.path for one in ENDPOINTS if "{" not in one.path),
    }
)


class Api(NamedTuple):
    """The app, the batches to be started and stopped with it, and what ends bodies on their way.

    ``paths`` are those that it answers beside all under ``/v1/``, and each one's part of it.
    """

    app: ASGIApp
    paths: Mapping[str, ASGIApp]
    batches: BatchService
    stop: Callable[[float], Awaitable[None]]


def build_api(
    settings: Settings,
    *,
    database: Database,
    objects: Objects,
    keys: Keyring,
    catalogue: Catalogue,
    engine: Answers,
    log: RequestLog,
    clock: Clock,
    ready: Callable[[], bool],
    rng: random.Random,
    supply: Callable[[], int],
    metrics: Metrics | None = None,
) -> Api:
    """Return the app for ``/v1/…``, ``/healthz``, ``/readyz`` and ``/metrics``.

    ``ready`` tells whether requests can be answered now, ``supply`` how many lines of batches may
    be under way. ``metrics`` may hold collectors of others.
    """
    metrics = metrics or Metrics()
    metrics.gauge("zerogpu_log_rows_queued", "Log rows not written yet.", lambda: log.queued)
    metrics.gauge("zerogpu_log_rows_dropped", "Log rows lost to a full queue.", lambda: log.dropped)
    limits = Limits(settings, monotonic=clock.monotonic)
    inference = Inference(
        catalogue,
        engine,
        charge=limits.charge_tokens,
        deadline_s=settings.request_deadline_s,
    )
    models, tasks = ModelsRoutes(catalogue), TaskRoutes(inference)
    responses, chat = ResponsesRoute(inference, clock), ChatRoute(inference)
    embeddings = EmbeddingsRoute(inference, inputs_max=settings.inputs_max)
    gate, recorder = Gate(settings, keys), Recorder(log, metrics, monotonic=clock.monotonic)

    async def find_key(key_id: str) -> Principal | None:
        return await asyncio.to_thread(find_key_by_id, database, key_id)

    service = BatchService(
        settings=settings,
        database=database,
        objects=objects,
        run_line=LineRequests(
            {RESPONSES_ROUTE: responses, CHAT_ROUTE: chat, EMBEDDINGS_ROUTE: embeddings},
            gate=gate,
            recorder=recorder,
            find_key=find_key,
            key_ttl_s=settings.key_cache_ttl_s,
            clock=clock,
        ),
        supply=supply,
        clock=clock,
        rng=rng,
    )
    files, batches = FilesRoutes(Files(database), objects, settings, clock), BatchesRoutes(service)
    public = PublicApi(
        settings,
        gate=gate,
        limits=limits,
        idempotency=Idempotency(
            ttl_s=settings.idempotency_ttl_s,
            max_bytes=settings.idempotency_max_bytes,
            monotonic=clock.monotonic,
        ),
        endpoints=ENDPOINTS,
        handlers={
            "createResponse": responses,
            "createChatCompletion": chat,
            "createEmbedding": embeddings,
            "createModeration": ModerationsRoute(inference, inputs_max=settings.inputs_max),
            "createSummary": tasks.summary,
            "classifyIab": tasks.classify,
            "extractEntities": tasks.gliner,
            "createFile": files.upload,
            "listFiles": files.list,
            "retrieveFile": files.retrieve,
            "downloadFile": files.content,
            "deleteFile": files.delete,
            "createBatch": batches.create,
            "listBatches": batches.list,
            "retrieveBatch": batches.retrieve,
            "cancelBatch": batches.cancel,
            "listModels": models.list,
            "retrieveModel": models.retrieve,
            "listDecisions": DecisionsRoute(engine).read,
        },
        recorder=recorder,
        clock=clock,
    )
    probes = Operations(metrics, ready=ready, token=settings.metrics_token)
    described = Document(
        ENDPOINTS,
        url=settings.url,
        number=Numbers(clock.wall).next,
        wants_project=settings.require_project_id,
    )
    keyless: dict[str, ASGIApp] = {
        **dict.fromkeys(operations.PATHS, probes),
        **dict.fromkeys(openapi.PATHS, described),
    }

    paths: dict[str, ASGIApp] = {**dict.fromkeys(_OWN, public), **keyless}
    return Api(Paths(paths, other=public, sockets={}), paths, service, public.stop)
