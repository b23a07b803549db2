"""The public API under ``/v1/`` and the operator's endpoints, as one ASGI app: `build_api`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api.app import PublicApi
from orchestrator.api.chat import ChatRoute
from orchestrator.api.decisions import DECISIONS_ROUTE, DecisionsRoute
from orchestrator.api.embeddings import EmbeddingsRoute
from orchestrator.api.gate import Gate
from orchestrator.api.inference import (
    CHAT_ROUTE,
    EMBEDDINGS_ROUTE,
    RESPONSES_ROUTE,
    Answers,
    Inference,
)
from orchestrator.api.metrics import Metrics
from orchestrator.api.models import MODEL_ROUTE, MODELS_ROUTE, ModelsRoutes
from orchestrator.api.operations import PATHS, Operations
from orchestrator.api.responses import ResponsesRoute
from orchestrator.clock import Clock
from orchestrator.settings import Settings
from orchestrator.storage.catalogue import Catalogue
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.request_log import RequestLog

__all__ = ["Metrics", "build_api"]


def build_api(
    settings: Settings,
    *,
    keys: Keyring,
    catalogue: Catalogue,
    engine: Answers,
    log: RequestLog,
    clock: Clock,
    ready: Callable[[], bool],
    metrics: Metrics | None = None,
) -> ASGIApp:
    """Return the app for ``/v1/…``, ``/healthz``, ``/readyz`` and ``/metrics``.

    ``ready`` tells whether requests can be answered now. ``metrics`` may hold collectors of others.
    """
    metrics = metrics or Metrics()
    metrics.gauge("zerogpu_log_rows_queued", "Log rows not written yet.", lambda: log.queued)
    metrics.gauge("zerogpu_log_rows_dropped", "Log rows lost to a full queue.", lambda: log.dropped)
    inference = Inference(catalogue, engine, deadline_s=settings.request_deadline_s)
    models = ModelsRoutes(catalogue)
    public = PublicApi(
        settings,
        gate=Gate(settings, keys),
        endpoints={
            RESPONSES_ROUTE: ResponsesRoute(inference, clock),
            CHAT_ROUTE: ChatRoute(inference),
            EMBEDDINGS_ROUTE: EmbeddingsRoute(inference, inputs_max=settings.inputs_max),
        },
        readings={
            MODELS_ROUTE: models.list,
            MODEL_ROUTE: models.retrieve,
            DECISIONS_ROUTE: DecisionsRoute(engine).read,
        },
        request_log=log,
        metrics=metrics,
        clock=clock,
    )
    operations = Operations(metrics, ready=ready, token=settings.metrics_token)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (operations if scope["path"] in PATHS else public)(scope, receive, send)

    return app
