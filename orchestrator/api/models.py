"""``GET /v1/models`` and ``/v1/models/{id}``: the catalogue, aliases as entries of their own."""

from __future__ import annotations

from typing import Final

import orjson

from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import routes_of
from orchestrator.errors import NotFound
from orchestrator.storage.catalogue import Catalogue, Model

MODELS_ROUTE: Final = "/v1/models"
MODEL_ROUTE: Final = "/v1/models/{id}"
_MICROUSD: Final = 1_000_000


class ModelsRoutes:
    """Both answers are made once: the catalogue does not change while the server runs."""

    def __init__(self, catalogue: Catalogue) -> None:
        entries = {
            name: _entry(model, name)
            for model in catalogue.models
            for name in (model.id, *model.manifest.aliases)
        }
        self._list = orjson.dumps({"object": "list", "data": list(entries.values())})
        self._entries = {name: orjson.dumps(entry) for name, entry in entries.items()}

    def list(self, exchange: Exchange, name: str) -> bytes:
        return self._list

    def retrieve(self, exchange: Exchange, name: str) -> bytes:
        """Return one entry; raises `NotFound`."""
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(
                f"There is no model {name[:64]!r} here; GET /v1/models lists those there are.",
                code="model_not_found",
                param="model",
            )
        return entry


def _entry(model: Model, name: str) -> dict[str, object]:
    manifest = model.manifest
    entry: dict[str, object] = {
        "id": name,
        "object": "model",
        "created": manifest.created,
        "owned_by": "zerogpu",
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.pipeline,
        "routes": list(routes_of(model)),
        "max_tokens": manifest.max_tokens,
        "error_on_max_token": manifest.error_on_max_token,
        "parameters": manifest.parameters,
        "languages": list(manifest.languages),
        "licence": manifest.licence,
        "pricing": {
            "currency": "USD",
            "input_per_1m_tokens": manifest.price.input_microusd / _MICROUSD,
            "output_per_1m_tokens": manifest.price.output_microusd / _MICROUSD,
        },
    }
    if name != model.id:
        entry["alias_of"] = model.id
    return entry
