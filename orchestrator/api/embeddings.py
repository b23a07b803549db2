"""``POST /v1/embeddings``: vectors as floats, or as base64 of the very bytes that a node sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson
import pybase64

from orchestrator.api.asgi import digits
from orchestrator.api.bodies import EMBEDDINGS, EmbeddingsBody, parse
from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Inference
from orchestrator.api.texts import check_count, check_not_empty
from orchestrator.domain.model import Answered
from orchestrator.errors import BadRequest
from orchestrator.storage.catalogue import Model

# Writing a vector takes 17 µs: more than so many are written in a thread, so that others need not
# wait for longer than a switch of threads.
_INLINE_ANSWERS: Final = 32


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
            check_not_empty(asked.input, "input")
            answer = await self._inference.answer_one(
                exchange, model, asked.input, name="input", params={}
            )
            return _list(exchange, asked, (answer,))
        _check_items(asked.input, self._inputs_max)
        if isinstance(asked.input[0], str):
            texts, names = _texts(asked.input, model)
        else:
            # Words are put together and taken apart again: too much for the event loop.
            texts, names = await asyncio.to_thread(_texts, asked.input, model)
        for text, name in zip(texts, names, strict=True):
            check_not_empty(text, name)
        answers = await self._inference.answer(exchange, model, texts, names=names, params={})
        if len(answers) <= _INLINE_ANSWERS:
            return _list(exchange, asked, answers)
        return await asyncio.to_thread(_list, exchange, asked, answers)


def _check_items(items: Sequence[str | int | list[int]], inputs_max: int) -> None:
    """Raise `BadRequest` unless ``items`` are texts, token ids, or arrays of token ids."""
    kinds = set(map(type, items))
    if kinds == {int}:
        return
    check_count(len(items), inputs_max)
    if len(kinds) > 1:
        raise BadRequest(
            "input mixes texts and token ids: send an array of texts, of token ids, or of"
            " arrays of token ids.",
            code="invalid_type",
            param="input",
        )


def _texts(items: Sequence[str | int | list[int]], model: Model) -> tuple[list[str], list[str]]:
    """Return the texts and what to call them in messages."""
    if isinstance(items[0], int):
        ids = [item for item in items if isinstance(item, int)]
        return [_decoded(ids, model, "input")], ["input"]
    names = [f"input[{at}]" for at in range(len(items))]
    texts = [
        _decoded(item, model, name) if isinstance(item, list) else str(item)
        for item, name in zip(items, names, strict=True)
    ]
    return texts, names


def _decoded(ids: list[int], model: Model, name: str) -> str:
    """Return the text whose tokens are ``ids``: exactly, or not at all."""
    # What is beyond cannot be read, or is refused by its number: the words do not matter.
    ids = ids[: model.limit.max_tokens + 1]
    text = model.counter.text_of(ids)
    if text is None:
        raise BadRequest(
            f"{name} holds token ids that no text has in the vocabulary of {model.id}. Send text;"
            " a client that makes tokens by itself (LangChain: check_embedding_ctx_length) has"
            " another model's vocabulary in mind.",
            code="invalid_value",
            param=name,
        )
    return text


def _check_form(asked: EmbeddingsBody, model: Model) -> None:
    dimensions = model.manifest.dimensions
    if asked.dimensions not in {None, dimensions}:
        raise BadRequest(
            f"dimensions is {asked.dimensions:,}; vectors of {model.id} have {dimensions}, and"
            " cannot be made shorter or longer: leave it out.",
            code="unsupported_parameter",
            param="dimensions",
        )


def _list(exchange: Exchange, asked: EmbeddingsBody, answers: Sequence[Answered]) -> bytes:
    """Return the JSON of the whole answer, joined from pieces: vectors are encoded once each."""
    encode = _base64 if asked.encoding_format == "base64" else _floats
    pieces = [b'{"object":"list","data":[']
    for at, answer in enumerate(answers):
        begin = b',{"object":"embedding","index":' if at else b'{"object":"embedding","index":'
        pieces += (begin, digits(at), b',"embedding":', encode(answer.output), b"}")
    tokens = digits(exchange.input_tokens)
    pieces += (
        b'],"model":',
        orjson.dumps(asked.model),
        b',"usage":{"prompt_tokens":',
        tokens,
        b',"total_tokens":',
        tokens,
        b"}}",
    )
    return b"".join(pieces)


def _base64(vector: bytes) -> bytes:
    return b'"' + pybase64.b64encode(vector) + b'"'


def _floats(vector: bytes) -> bytes:
    """Return a JSON array of the float32 values (little-endian, as on every machine we run on)."""
    return orjson.dumps(memoryview(vector).cast("f").tolist())
