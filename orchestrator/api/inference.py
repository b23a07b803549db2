"""What all inference routes share: find the model, measure texts, run jobs, note the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from browser_node import models
from browser_node.protocol import MAX_INPUT_CHARS
from orchestrator.api.exchange import Exchange
from orchestrator.domain.fleet import DecisionRow
from orchestrator.domain.model import Answered, JobId, NewJob, ParamValue
from orchestrator.errors import BadRequest, ContextLengthExceeded, NotFound
from orchestrator.storage.catalogue import Catalogue, Model
from orchestrator.storage.token_counter import Measured

EMBEDDINGS_ROUTE: Final = "/v1/embeddings"
RESPONSES_ROUTE: Final = "/v1/responses"
CHAT_ROUTE: Final = "/v1/chat/completions"

_ROUTES: Final[Mapping[models.Pipeline, tuple[str, ...]]] = {
    "embeddings": (EMBEDDINGS_ROUTE,),
    "iab-classification": (RESPONSES_ROUTE, CHAT_ROUTE),
    "extractive-summary": (RESPONSES_ROUTE, CHAT_ROUTE),
}
_SENTENCES_MAX: Final = 1_000


class Answers(Protocol):
    """The engine, as far as the API needs it."""

    async def answer(self, jobs: Sequence[NewJob]) -> list[Answered]:
        """Run ``jobs``; returns their answers in order or raises the `errors.ApiError` of one."""

    def decisions_of(self, number: str) -> list[DecisionRow]:
        """Return what is remembered of where the jobs of request ``number`` went, oldest first."""


class Inference:
    """Runs texts through models on behalf of an exchange."""

    def __init__(self, catalogue: Catalogue, engine: Answers, *, deadline_s: float) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._deadline_s = deadline_s

    def model(self, exchange: Exchange, name: str) -> Model:
        """Return the model called ``name``; raises if there is none or it answers elsewhere."""
        model = self._catalogue.find(name)
        if model is None:
            raise NotFound(
                f"There is no model {name[:64]!r} here; there are"
                f" {', '.join(self._catalogue.names)}.",
                code="model_not_found",
                param="model",
            )
        exchange.model = model.id
        routes = routes_of(model)
        if exchange.endpoint not in routes:
            raise BadRequest(
                f"{name} does not answer on {exchange.endpoint}: send it to {' or '.join(routes)}.",
                code="model_route_mismatch",
                param="model",
            )
        return model

    async def answer(
        self,
        exchange: Exchange,
        model: Model,
        texts: Sequence[str],
        *,
        names: Sequence[str],
        params: Mapping[str, ParamValue],
    ) -> list[Answered]:
        """Run one job a text and return the answers in order.

        ``names`` say in error messages which text is meant. Raises `ContextLengthExceeded` where
        the model does not cut, and what the engine raises.
        """
        measured = model.counter.measure_now(texts, model.limit)
        if measured is None:
            # What no frame could carry is measured by its start, which is enough to refuse it.
            starts = [text[:MAX_INPUT_CHARS] for text in texts]
            measured = await model.counter.measure_in_thread(starts, model.limit)
        if not model.limit.cuts:
            _refuse_too_long(model, texts, measured, names)
        exchange.input_tokens = sum(one.tokens for one in measured)
        project_id, rules, deadline_s = exchange.project_id, exchange.rules, self._deadline_s
        answers = await self._engine.answer(
            [
                NewJob(
                    JobId(f"{exchange.number}.{at}"),
                    model.digest,
                    one.text,
                    one.tokens,
                    project_id,
                    params,
                    rules,
                    deadline_s=deadline_s,
                )
                for at, one in enumerate(measured)
            ]
        )
        _note(exchange, answers)
        return answers


def routes_of(model: Model) -> tuple[str, ...]:
    """Return the routes that a model answers on."""
    return _ROUTES[model.manifest.pipeline]


def text_params(
    model: Model, *, max_tokens: int | None, metadata: Mapping[str, Any] | None
) -> dict[str, ParamValue]:
    """Return the options that the model's pipeline reads; raises `BadRequest` for a bad one.

    A summary's length: ``max_tokens`` of output, ``metadata.sentences`` (a number or its digits,
    as OpenAI's clients send metadata as strings).
    """
    params: dict[str, ParamValue] = {}
    if model.manifest.pipeline != "extractive-summary":
        return params
    if max_tokens is not None:
        params["max_tokens"] = max_tokens
    sentences = (metadata or {}).get("sentences")
    if sentences is not None:
        if isinstance(sentences, str) and sentences.isdecimal() and len(sentences) < 10:
            sentences = int(sentences)
        # A bool is an int in Python, and 1 is not what `true` means here.
        if type(sentences) is not int or not 1 <= sentences <= _SENTENCES_MAX:
            raise BadRequest(
                f"metadata.sentences must be a whole number from 1 to {_SENTENCES_MAX:,}.",
                code="invalid_value",
                param="metadata.sentences",
            )
        params["sentences"] = sentences
    return params


def refuse_stream(stream: bool | None) -> None:
    """Raise `BadRequest` when a stream is asked of a model that answers in one piece."""
    if stream:
        raise BadRequest(
            "This model does not stream; send stream=false or leave it out.",
            code="unsupported_parameter",
            param="stream",
        )


def _refuse_too_long(
    model: Model, texts: Sequence[str], measured: Sequence[Measured], names: Sequence[str]
) -> None:
    for text, one, name in zip(texts, measured, names, strict=True):
        over = len(text) > MAX_INPUT_CHARS
        if one.tokens > model.limit.max_tokens:
            raise ContextLengthExceeded(
                f"{name} has {'more than ' if over else ''}{one.tokens:,} tokens; {model.id} takes"
                f" at most {model.limit.max_tokens:,}. Shorten it, or split it into several"
                " requests.",
                param=name,
            )
        if over:
            raise BadRequest(
                f"{name} has {len(text):,} characters; at most {MAX_INPUT_CHARS:,} are taken.",
                code="string_above_max_length",
                param=name,
            )


def _note(exchange: Exchange, answers: Sequence[Answered]) -> None:
    """Sum up where the answers came from: edge only if all did, a node only if it was one."""
    first = answers[0]
    if len(answers) == 1:
        exchange.place, exchange.node_id, exchange.attempts = (
            first.place,
            first.node_id,
            first.attempts,
        )
        return
    exchange.place = "edge" if all(answer.place == "edge" for answer in answers) else "cloud"
    exchange.attempts = sum(answer.attempts for answer in answers)
    if all(answer.node_id == first.node_id for answer in answers):
        exchange.node_id = first.node_id
