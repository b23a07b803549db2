"""``GET /v1/models`` and ``/v1/models/{id}``: the catalogue, aliases as entries of their own."""

from __future__ import annotations

import msgspec

from orchestrator.api.caching import Cached
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import routes_of
from orchestrator.api.replies import ModelList, ModelReply, Pricing, encode
from orchestrator.api.reply import Reply
from orchestrator.errors import NotFound
from orchestrator.storage.catalogue import Catalogue, Model

_MICROUSD = 1_000_000
_FRESH_S = 60


class ModelsRoutes:
    """Both answers are made once: the catalogue does not change while the server runs."""

    def __init__(self, catalogue: Catalogue) -> None:
        entries = {
            name: _entry(model, name)
            for model in catalogue.models
            for name in (model.id, *model.manifest.aliases)
        }
        self._list = Cached(encode(ModelList(data=list(entries.values()))), fresh_s=_FRESH_S)
        self._entries = {
            name: Cached(encode(entry), fresh_s=_FRESH_S) for name, entry in entries.items()
        }

    async def list(self, exchange: Exchange, body: bytes) -> Reply:
        return self._list.answer(exchange)

    async def retrieve(self, exchange: Exchange, body: bytes) -> Reply:
        """Return one entry; raises `NotFound`."""
        entry = self._entries.get(exchange.name)
        if entry is None:
            raise NotFound(
                f"There is no model {exchange.name[:64]!r} here; GET /v1/models lists those there"
                " are.",
                code="model_not_found",
                param="model",
            )
        return entry.answer(exchange)


def _entry(model: Model, name: str) -> ModelReply:
    manifest = model.manifest
    return ModelReply(
        id=name,
        created=manifest.created,
        name=manifest.name,
        version=manifest.version,
        task=manifest.pipeline,
        routes=list(routes_of(model)),
        max_tokens=manifest.max_tokens,
        error_on_max_token=manifest.error_on_max_token,
        parameters=manifest.parameters,
        languages=list(manifest.languages),
        licence=manifest.licence,
        pricing=Pricing(
            input_per_1m_tokens=manifest.price.input_microusd / _MICROUSD,
            output_per_1m_tokens=manifest.price.output_microusd / _MICROUSD,
        ),
        alias_of=model.id if name != model.id else msgspec.UNSET,
    )
