"""What all inference routes share: find the model, measure texts, run jobs, note the outcome."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final, Protocol

from browser_node import models
from browser_node.protocol import MAX_INPUT_CHARS
from orchestrator.api.exchange import Exchange
from orchestrator.api.misfits import one_of
from orchestrator.domain.fleet import DecisionRow
from orchestrator.domain.model import Answered, JobId, NewJob, ParamValue
from orchestrator.errors import BadRequest, ContextLengthExceeded, DeadlineExceeded, NotFound
from orchestrator.storage.catalogue import Catalogue, Model
from orchestrator.storage.keys import Principal
from orchestrator.storage.token_counter import Limit, Measured

EMBEDDINGS_ROUTE: Final = "/v1/embeddings"
RESPONSES_ROUTE: Final = "/v1/responses"
CHAT_ROUTE: Final = "/v1/chat/completions"
SUMMARY_ROUTE: Final = "/summary"
CLASSIFY_ROUTE: Final = "/usecase/classify/iab"

_ROUTES: Final[Mapping[models.Pipeline, tuple[str, ...]]] = {
    "embeddings": (EMBEDDINGS_ROUTE,),
    "iab-classification": (RESPONSES_ROUTE, CHAT_ROUTE, CLASSIFY_ROUTE),
    "extractive-summary": (RESPONSES_ROUTE, CHAT_ROUTE, SUMMARY_ROUTE),
}


# So many inputs may be what takes too long, and not what others have sent.
_MANY: Final = 16


class Answers(Protocol):
    """The engine, as far as the API needs it."""

    async def answer(self, jobs: Sequence[NewJob]) -> list[Answered]:
        """Run ``jobs``; returns their answers in order or raises the `errors.ApiError` of one."""

    def stream(self, job: NewJob) -> AsyncGenerator[str | Answered]:
        """Run ``job``: yields its text as it comes, then the answer; raises as `answer` does."""

    def decisions_of(self, number: str) -> list[DecisionRow]:
        """Return what is remembered of where the jobs of request ``number`` went, oldest first."""


class Inference:
    """Runs texts through models on behalf of an exchange.

    ``charge`` takes the tokens of an input from whose key it is; raises `RateLimited`.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: Answers,
        *,
        charge: Callable[[Principal, int], None],
        deadline_s: float,
    ) -> None:
        self._catalogue = catalogue
        # By every name: the model, its id, and the routes it answers on.
        self._offers = {
            name: (model, model.id, routes_of(model))
            for name in catalogue.names
            if (model := catalogue.find(name)) is not None
        }
        self._engine = engine
        self._charge = charge
        self._deadline_s = deadline_s

    def model(self, exchange: Exchange, name: str, *, asked: str | None = None) -> Model:
        """Return the model called ``name``; raises if there is none or it answers elsewhere.

        ``asked`` is what the customer called it, where that is an alias of this route.
        """
        offer = self._offers.get(name)
        if offer is None:
            meant = f" ({asked} would be it)" if asked is not None and asked != name else ""
            raise NotFound(
                f"There is no model {name[:64]!r} here{meant}; there are"
                f" {', '.join(self._catalogue.names)}.",
                code="model_not_found",
                param="model",
            )
        model, exchange.model, routes = offer
        if exchange.endpoint not in routes:
            raise _elsewhere(name, exchange.endpoint, routes)
        return model

    def first_of(self, exchange: Exchange, name: str | None) -> Model:
        """Return the model called ``name``, or the first there is that answers on the route.

        Raises `NotFound`, and `BadRequest` for a model that answers elsewhere.
        """
        if name is not None:
            return self.model(exchange, name)
        for model in self._catalogue.models:
            if exchange.endpoint in routes_of(model):
                exchange.model = model.id
                return model
        raise NotFound(
            f"No model here answers on {exchange.endpoint} yet; there are"
            f" {', '.join(self._catalogue.names)}.",
            code="model_not_found",
            param="model",
        )

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

        ``names`` say in error messages which text is meant. Raises `ContextLengthExceeded` for a
        text that is too long and not to be cut, and what the engine raises.
        """
        limit = model.limit
        measured = model.counter.measure_now(texts, limit)
        if measured is None:
            measured = await _measure_long(exchange, model, texts, limit)
        for text, one, name in zip(texts, measured, names, strict=True):
            _check_length(model, limit, text, one, name)
        self._take(exchange, sum([one.tokens for one in measured]))
        jobs = [self._job(exchange, model, one, at, params) for at, one in enumerate(measured)]
        try:
            answers = await self._engine.answer(jobs)
        except DeadlineExceeded as error:
            if len(jobs) >= _MANY:
                # To wait, as `retry-after` has it, would not help what is too much by itself.
                many = f"The {len(jobs)} inputs may be too many for one request"
                error.message += f" {many}: send fewer at a time."
            raise
        _note(exchange, answers)
        return answers

    async def answer_one(
        self,
        exchange: Exchange,
        model: Model,
        text: str,
        *,
        name: str,
        params: Mapping[str, ParamValue],
        limit: Limit | None = None,
    ) -> Answered:
        """Run one job and return its answer; raises as `answer` does.

        ``limit`` is the model's own unless the customer has said otherwise.
        """
        measured = await self._measure_one(exchange, model, text, name, limit or model.limit)
        answers = await self._engine.answer((self._job(exchange, model, measured, 0, params),))
        _note(exchange, answers)
        return answers[0]

    async def stream(
        self,
        exchange: Exchange,
        model: Model,
        text: str,
        *,
        name: str,
        params: Mapping[str, ParamValue],
        limit: Limit | None = None,
    ) -> Pieces:
        """Run one job; returns its pieces once there is a first one. Raises as `answer` does."""
        measured = await self._measure_one(exchange, model, text, name, limit or model.limit)
        job = self._job(exchange, model, measured, 0, params, True)
        pieces = Pieces(exchange, model, self._engine.stream(job))
        try:
            await pieces.begin()
        except BaseException:
            await pieces.aclose()
            raise
        return pieces

    async def _measure_one(
        self, exchange: Exchange, model: Model, text: str, name: str, limit: Limit
    ) -> Measured:
        measured = model.counter.measure_one_now(text, limit)
        if measured is None:
            [measured] = await _measure_long(exchange, model, (text,), limit)
        _check_length(model, limit, text, measured, name)
        self._take(exchange, measured.tokens)
        exchange.read = measured.text
        return measured

    def _take(self, exchange: Exchange, tokens: int) -> None:
        """Charge for ``tokens`` of input before there is a job: what is refused has cost nothing.

        Batches have their queue.
        """
        if exchange.priority == "interactive":
            self._charge(exchange.checked, tokens)
        exchange.input_tokens = tokens

    def _job(
        self,
        exchange: Exchange,
        model: Model,
        measured: Measured,
        at: int,
        params: Mapping[str, ParamValue],
        stream: bool = False,
    ) -> NewJob:
        principal = exchange.checked
        return NewJob(
            JobId(f"{exchange.number}.{at}"),
            model.digest,
            measured.text,
            measured.tokens,
            principal.project_id,
            params,
            principal.rules,
            exchange.deadline_s or self._deadline_s,
            exchange.priority,
            stream,
            # The first stands for all.
            0 if at else exchange.input_tokens,
        )


class Pieces:
    """The text of a streamed answer; ``text`` is what was handed out so far.

    Closing it early ends the job; what was handed out is counted either way.
    """

    def __init__(
        self, exchange: Exchange, model: Model, source: AsyncGenerator[str | Answered]
    ) -> None:
        self._exchange = exchange
        self._model = model
        self._source = source
        self._first: str | None = None
        self._said: list[str] = []
        self._said_chars = 0
        self._ended = self._counted = False

    @property
    def text(self) -> str:
        """What was handed out so far."""
        return "".join(self._said)

    async def begin(self) -> None:
        """Wait for the first piece; raises the `errors.ApiError` of an answer that has none."""
        self._first = await self._next()

    async def __aiter__(self) -> AsyncGenerator[str]:
        piece, self._first = self._first, None
        while piece is not None:
            self._said.append(piece)
            self._said_chars += len(piece)
            yield piece
            piece = await self._next()

    async def aclose(self) -> None:
        """End the job if it still runs, and count the tokens that were handed out."""
        await self._source.aclose()
        if self._said and not self._counted:
            # Who is cancelled in the middle of it, as the client leaves, comes here again.
            self._exchange.output_tokens = await self._model.counter.count_output(self.text)
            self._counted = True

    async def _next(self) -> str | None:
        """Return the next piece; None at the end. What no delta told comes with the answer."""
        if self._ended:
            return None
        piece = await anext(self._source)
        if isinstance(piece, str):
            return piece
        self._ended = True
        _note(self._exchange, (piece,))
        return piece.output.decode()[self._said_chars :] or None


def routes_of(model: Model) -> tuple[str, ...]:
    """Return the routes that a model answers on."""
    return _ROUTES[model.manifest.pipeline]


def _elsewhere(name: str, endpoint: str, routes: Sequence[str]) -> BadRequest:
    return BadRequest(
        f"{name} does not answer on {endpoint}: send it to {one_of(routes)}.",
        code="model_route_mismatch",
        param="model",
    )


async def _measure_long(
    exchange: Exchange, model: Model, texts: Sequence[str], limit: Limit
) -> list[Measured]:
    # What no frame could carry is measured by its start, which is enough to refuse it.
    starts = [text[:MAX_INPUT_CHARS] for text in texts]
    background = exchange.priority == "batch"
    return await model.counter.measure_in_thread(starts, limit, background=background)


def _check_length(model: Model, limit: Limit, text: str, measured: Measured, name: str) -> None:
    """Raise an error if ``text`` is too long and not to be cut; ``name`` says which it is."""
    if limit.cuts:
        return
    if measured.tokens > limit.max_tokens:
        # Of a text that is far too long only a start was counted.
        whole = len(measured.text) == len(text)
        tokens = f"{measured.tokens:,}" if whole else f"more than {limit.max_tokens:,}"
        raise ContextLengthExceeded(
            f"{name} has {tokens} tokens; {model.id} takes at most {limit.max_tokens:,}. Shorten"
            " it, or split it into several requests.",
            param=name,
        )
    if len(text) > MAX_INPUT_CHARS:
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
    exchange.place = "edge" if {answer.place for answer in answers} == {"edge"} else "cloud"
    exchange.attempts = sum([answer.attempts for answer in answers])
    if len({answer.node_id for answer in answers}) == 1:
        exchange.node_id = first.node_id
