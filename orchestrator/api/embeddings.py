"""``POST /v1/embeddings``: vectors as floats, or as base64 of the very bytes that a node sent."""

from __future__ import annotations

import binascii
from collections.abc import Sequence

import orjson

from orchestrator.api.bodies import EMBEDDINGS, EmbeddingsBody, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference
from orchestrator.domain.model import Answered
from orchestrator.errors import BadRequest
from orchestrator.storage.catalogue import Model


class EmbeddingsRoute:
    """Answers a string with one vector, an array with as many, in its order."""

    def __init__(self, inference: Inference, *, inputs_max: int) -> None:
        self._inference = inference
        self._inputs_max = inputs_max

    async def __call__(self, exchange: Exchange, body: bytes) -> bytes:
        asked = parse(EMBEDDINGS, body)
        model = self._inference.model(exchange, asked.model)
        _check_form(asked, model)
        if isinstance(asked.input, str):
            texts, names = [asked.input], ["input"]
        else:
            texts = self._texts(asked.input)
            names = [f"input[{at}]" for at in range(len(texts))]
        for text, name in zip(texts, names, strict=True):
            if not text:
                raise BadRequest(
                    f"{name} is empty; it must have at least one character.",
                    code="invalid_value",
                    param=name,
                )
        answers = await self._inference.answer(exchange, model, texts, names=names, params={})
        return _list(exchange, asked, answers)

    def _texts(self, items: Sequence[str | int | list[int]]) -> list[str]:
        if not 1 <= len(items) <= self._inputs_max:
            raise BadRequest(
                f"input has {len(items):,} items; from 1 to {self._inputs_max:,} are taken.",
                code="invalid_value",
                param="input",
            )
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) != len(items):
            raise BadRequest(
                "input holds token ids, which mean something else to every vocabulary: send text.",
                code="invalid_type",
                param="input",
            )
        return texts


def _check_form(asked: EmbeddingsBody, model: Model) -> None:
    if asked.encoding_format not in {None, "float", "base64"}:
        raise BadRequest(
            "encoding_format must be float or base64.",
            code="invalid_value",
            param="encoding_format",
        )
    dimensions = model.manifest.dimensions
    if asked.dimensions not in {None, dimensions}:
        raise BadRequest(
            f"dimensions is {asked.dimensions}; vectors of {model.id} have {dimensions}, and a"
            " shorter one would not mean the same: leave it out.",
            code="unsupported_parameter",
            param="dimensions",
        )


def _list(exchange: Exchange, asked: EmbeddingsBody, answers: Sequence[Answered]) -> bytes:
    """Return the JSON of the whole answer, joined from pieces: vectors are encoded once each."""
    encode = _base64 if asked.encoding_format == "base64" else _floats
    items = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (at, encode(answer.output))
        for at, answer in enumerate(answers)
    )
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
        items,
        orjson.dumps(asked.model),
        b'{"prompt_tokens":%d,"total_tokens":%d}' % (exchange.input_tokens, exchange.input_tokens),
    )


def _base64(vector: bytes) -> bytes:
    return b'"%b"' % binascii.b2a_base64(vector, newline=False)


def _floats(vector: bytes) -> bytes:
    """Return a JSON array of the float32 values (little-endian, as on every machine we run on)."""
    return orjson.dumps(memoryview(vector).cast("f").tolist())
