"""Runs what a node holds, one length-sorted micro-batch at a time.

Pure of I/O: the ONNX sessions and the clock are passed in. `Executor.run_next` computes one
micro-batch and returns, so that the caller's loop can answer a ping, cancel, pause or drain before
it asks for the next.

Rules: the oldest attempt always has a sequence in the next batch, so nothing starves; what rides
along has nearly that sequence's length, whichever attempt or model it belongs to (models that share
an encoder object share batches). Background attempts have batches of their own, which are short and
run while there are no others, or after `FOREGROUND_RUNS` of those: they never ride along, as riders
cost a run more than they save. One that runs while there are no others is cut off by the first that
comes, where the session can be (`Interruptible`), and done again. Every attempt that is not
cancelled yields exactly one `Result` or `Failed`. Before its result an attempt that was asked to
stream may yield `Delta`s, in order: those of a finished answer at once (`Streaming`), those of one
that grows from call to call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.plan import InputError, Pipeline, Streaming, Vector
from browser_node.protocol import Blame, Failed, JobItem, Result, Task
from browser_node.work import (
    Attempt,
    Emission,
    Encoder,
    Head,
    Interrupted,
    Interruptible,
    Model,
    Outcome,
    Row,
    Work,
)

# Longer runs are slower a token (natively 9,400 tokens a CPU-second at 512, 8,300 at 2,500): they
# fall out of the processor's cache.
MAX_BATCH_TOKENS: Final = 1024
# Padding costs as much as text, and a run of its own no more than some tokens (0.4 ms natively, or
# 4 tokens; more with a tab's loop around it): what is much shorter waits for a batch of its length.
SLACK_TOKENS: Final = 8
# Tokenising what waits is worth this much time a batch: the loop stays free, the sorting sees
# enough.
PLAN_BUDGET_S: Final = 0.05
# What comes to the fore waits for the background's run under way, or cuts it off: 10 ms, a part of
# the full batch's 250 ms. The fewer tokens a run, the more the runs cost (texts of 20 tokens
# natively: 11–14 % at 64, nothing from 96 on), but in a tab 64 tokens take a request's whole time.
BACKGROUND_SHARE: Final = 25
MIN_BACKGROUND_TOKENS: Final = 16
# Nothing cuts off Python: when plans of the background have taken so long no more is begun, and
# when answers have; but those of a batch that was due.
BACKGROUND_PYTHON_S: Final = 0.002
DUE_ANSWERS_S: Final = 0.01
# So many batches go before what waits in the background gets one, and so many of its own are cut
# off before one is not.
FOREGROUND_RUNS: Final = 4


class _Turn(NamedTuple):
    """Whose turn it is, the tokens their batch may hold, and the time to plan and to answer."""

    attempts: list[Attempt]
    budget_tokens: int
    plan_s: float
    answer_s: float


class Executor:
    """Holds attempts and computes them; see the module's rules.

    ``clock`` is monotonic, in seconds. ``budget_tokens`` bounds a batch's padded tokens (one
    sequence always goes through); set it anew whenever calibration does.
    """

    def __init__(self, *, clock: Callable[[], float], budget_tokens: int) -> None:
        self.budget_tokens = budget_tokens
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._held: dict[str, Attempt] = {}
        self._started: float | None = None
        self._last_s = 0.0
        # Since the last turn of the background that was not cut off: those of the others while it
        # waited, and those that were.
        self._gave_way = 0
        self._cut_off = 0
        # What computes such a batch and may be cut off.
        self._gives_way: Interruptible | None = None
        # Whether the last micro-batch was one of the background.
        self.ran_background = False

    @property
    def has_foreground(self) -> bool:
        """Whether an attempt is held that is not in the background."""
        return any(not attempt.item.background for attempt in self._held.values())

    @property
    def held(self) -> tuple[str, ...]:
        """The ids of the attempts without an outcome, oldest first."""
        return tuple(self._held)

    def busy_s(self) -> float:
        """Return how long the running batch has been computing, or how long the last one took."""
        return self._last_s if self._started is None else max(0.0, self._clock() - self._started)

    def load(
        self, digest: str, pipeline: Pipeline, encoder: Encoder, head: Head | None = None
    ) -> None:
        """Make a model runnable. Models given the same ``encoder`` object share micro-batches."""
        if pipeline.head_path is not None and head is None:
            raise ValueError(f"model {digest[:12]}… needs its head {pipeline.head_path}")
        self.unload(digest)
        self._models[digest] = Model(pipeline, encoder, head)

    def unload(self, digest: str) -> None:
        """Forget a model; its attempts fail at the next `run_next`, blamed on the node."""
        self._models.pop(digest, None)
        for attempt in self._held.values():
            if attempt.item.digest == digest:
                attempt.work = None

    def add(self, items: Iterable[JobItem]) -> None:
        """Hold attempts; one whose id is already held is ignored.

        A batch of the background makes way for the others, if it can.
        """
        for item in items:
            self._held.setdefault(item.attempt_id, Attempt(item))
            if not item.background and self._gives_way is not None:
                self._gives_way.interrupt()
                self._gives_way = None

    def cancel(self, attempt_ids: Iterable[str]) -> None:
        """Forget attempts, also those in the batch being computed: they yield nothing more."""
        for attempt_id in attempt_ids:
            self._held.pop(attempt_id, None)

    async def run_next(self) -> list[Emission]:
        """Compute one micro-batch and return what it finished (maybe nothing yet).

        Deltas of an attempt come in order and before its result.

        Fails only the attempts concerned: blame "input" when the input cannot be planned, "model"
        when a pipeline cannot finish sound vectors, "node" for a session's exception or numbers
        that are not finite. Raises `RuntimeError` when a batch is already running.
        """
        if self._started is not None:
            raise RuntimeError("a micro-batch is already running")
        self._started = self._clock()
        try:
            turn = self._turn()
            # What the last turn of the background left unanswered is all that this one does.
            left_over = self.ran_background and bool(self._complete(turn))
            emissions: list[Emission] = [*self._plan_some(turn)]
            try:
                if not left_over and (batch := self._next_batch(turn)):
                    emissions += await self._run(batch)
                if self.ran_background:
                    self._gave_way = self._cut_off = 0
            except Interrupted:
                # Its rows are still pending.
                self._cut_off += 1
            emissions += await self._finish_complete(turn)
            return emissions
        finally:
            self._last_s = max(0.0, self._clock() - self._started)
            self._started = None

    def _turn(self) -> _Turn:
        """Choose; those of the other class are left as they are: not planned, run or answered."""
        budget_tokens = min(self.budget_tokens, MAX_BATCH_TOKENS)
        background = [attempt for attempt in self._held.values() if attempt.item.background]
        self.ran_background = False
        if not background:
            return _Turn(list(self._held.values()), budget_tokens, PLAN_BUDGET_S, math.inf)
        if len(background) < len(self._held) and self._gave_way < FOREGROUND_RUNS:
            self._gave_way += 1
            foreground = [a for a in self._held.values() if not a.item.background]
            return _Turn(foreground, budget_tokens, PLAN_BUDGET_S, math.inf)
        self.ran_background = True
        share = max(self.budget_tokens // BACKGROUND_SHARE, MIN_BACKGROUND_TOKENS)
        # One that is due does not leave its answers to turns that would be due in vain.
        answer_s = DUE_ANSWERS_S if self._is_due else BACKGROUND_PYTHON_S
        return _Turn(background, min(share, budget_tokens), BACKGROUND_PYTHON_S, answer_s)

    @property
    def _is_due(self) -> bool:
        """Whether it is the background's turn, whatever else comes."""
        return max(self._gave_way, self._cut_off) >= FOREGROUND_RUNS

    # ── planning ─────────────────────────────────────────────────────────────────────────────────

    def _plan_some(self, turn: _Turn) -> list[Outcome]:
        """Plan attempts in the order they came, the oldest always, others while there is time."""
        outcomes: list[Outcome] = []
        deadline = self._clock() + turn.plan_s
        for attempt in turn.attempts:
            if attempt.work is None and (failed := self._plan(attempt)) is not None:
                outcomes.append(failed)
            if self._clock() > deadline:
                break
        return outcomes

    def _plan(self, attempt: Attempt) -> Failed | None:
        item = attempt.item
        model = self._models.get(item.digest)
        if model is None:
            message = f"model {item.digest[:12]}… is not loaded"
            return self._failed(attempt, "node", "model_not_loaded", message)
        started = self._clock()
        try:
            plan = model.pipeline.plan(Task(input=item.input, params=item.params))
        except InputError as error:
            return self._failed(attempt, "input", error.code, str(error))
        except Exception as error:
            # Whatever one input can break must not take the others with it.
            return self._failed(attempt, "input", "plan_failed", type(error).__name__)
        empty: list[Vector | None] = [None] * len(plan.sequences)
        attempt.work = Work(model, plan, empty, self._clock() - started)
        return None

    # ── one batch ────────────────────────────────────────────────────────────────────────────────

    def _next_batch(self, turn: _Turn) -> list[Row]:
        """Return rows for one run: the oldest attempt's longest sequence and its neighbours."""
        waiting = [
            Row(attempt, attempt.work, at)
            for attempt in turn.attempts
            if attempt.work is not None
            for at in attempt.work.pending()
        ]
        if not waiting:
            return []
        oldest = waiting[0]
        first = max(
            (row for row in waiting if row.work is oldest.work), key=lambda row: len(row.tokens)
        )
        shared = [row for row in waiting if row.work.model.encoder is oldest.work.model.encoder]
        # A stable sort: among equal lengths the older attempt stays in front.
        shared.sort(key=lambda row: len(row.tokens))
        chosen = neighbours(
            [len(row.tokens) for row in shared],
            around=shared.index(first),
            budget_tokens=turn.budget_tokens,
        )
        return shared[chosen.start : chosen.stop]

    async def _run(self, batch: list[Row]) -> list[Outcome]:
        """Encode the batch; raises `Interrupted` when it made way for others."""
        encoder = batch[0].work.model.encoder
        # One that is due goes to its end: else a client that is never quiet would cut off all.
        if self.ran_background and not self._is_due and isinstance(encoder, Interruptible):
            self._gives_way = encoder
        try:
            return await self._encode(batch)
        finally:
            self._gives_way = None

    async def _encode(self, batch: list[Row]) -> list[Outcome]:
        started = self._clock()
        try:
            vectors = await batch[0].work.model.encoder.encode([row.tokens for row in batch])
            if len(vectors) != len(batch):
                raise ValueError(f"{len(vectors)} vectors for {len(batch)} sequences")
        except Interrupted:
            raise
        except Exception as error:
            return self._fail_all(batch, "session_failed", repr(error))
        # Every row was padded to the same length, so each cost the same.
        share_s = (self._clock() - started) / len(batch)
        broken = []
        for row, vector in zip(batch, vectors, strict=True):
            row.work.vectors[row.at] = vector
            row.work.compute_s += share_s
            if not math.isfinite(sum(vector)):
                broken.append(row)
        return self._fail_all(
            broken, "not_finite", "the session returned a vector that is not finite"
        )

    def _complete(self, turn: _Turn) -> list[Row]:
        """Return a row for each attempt whose vectors are all there."""
        return [
            Row(attempt, work, 0)
            for attempt in turn.attempts
            if self._holds(attempt) and (work := attempt.work) is not None and not work.pending()
        ]

    async def _finish_complete(self, turn: _Turn) -> list[Emission]:
        """Return what comes of the complete attempts, one or those there is time for."""
        rows = self._complete(turn)
        emissions: list[Emission] = []
        for head in dict.fromkeys(row.work.model.head for row in rows):
            emissions += await self._score(
                head, [row for row in rows if row.work.model.head is head]
            )
        deadline = self._clock() + turn.answer_s
        for row in rows:
            if self._is_current(row):
                emissions += self._answer(row)
                if self._clock() > deadline:
                    break
        return emissions

    async def _score(self, head: Head | None, rows: list[Row]) -> list[Outcome]:
        """Have ``head`` say what it has not said yet; one run for all ``rows``."""
        needing = [row for row in rows if row.work.plan.head_weights and not row.work.scores]
        if head is not None and needing:
            started = self._clock()
            try:
                found = await head.score([_mean(row.work) for row in needing])
                if len(found) != len(needing) or not all(math.isfinite(sum(one)) for one in found):
                    raise ValueError(f"the head's scores for {len(needing)} texts are not sound")
            except Exception as error:
                return self._fail_all(needing, "session_failed", repr(error))
            share_s = (self._clock() - started) / len(needing)
            for row, of_row in zip(needing, found, strict=True):
                row.work.compute_s += share_s
                row.work.scores = of_row
        return []

    def _answer(self, row: Row) -> list[Emission]:
        work, attempt = row.work, row.attempt
        pipeline, vectors = work.model.pipeline, _known(work.vectors)
        pieces: Sequence[str] = ()
        started = self._clock()
        try:
            # What the head said is evidence too: `agreement` derives the output from both again.
            [scores], of_head = vector_math.halved([work.scores])
            if attempt.item.stream and isinstance(pipeline, Streaming):
                answer, pieces = pipeline.finish_in_pieces(work.plan, vectors, scores)
            else:
                answer = pipeline.finish(work.plan, vectors, scores)
        except Exception as error:
            return [self._failed(attempt, "model", "finish_failed", repr(error))]
        del self._held[attempt.item.attempt_id]
        result = Result(
            attempt_id=attempt.item.attempt_id,
            output=answer.output,
            evidence=answer.evidence + of_head,
            compute_s=max(0.0, work.compute_s + self._clock() - started),
            tokens=work.plan.tokens,
        )
        return [*(delta for piece in pieces for delta in attempt.told(piece)), result]

    # ── outcomes ─────────────────────────────────────────────────────────────────────────────────

    def _is_current(self, row: Row) -> bool:
        """Return whether the attempt is still held as it was when the batch was formed."""
        return self._holds(row.attempt) and row.attempt.work is row.work

    def _holds(self, attempt: Attempt) -> bool:
        """Return whether the attempt was neither cancelled nor has had its outcome."""
        return self._held.get(attempt.item.attempt_id) is attempt

    def _failed(self, attempt: Attempt, blame: Blame, code: str, message: str) -> Failed:
        del self._held[attempt.item.attempt_id]
        attempt_id = attempt.item.attempt_id
        return Failed(attempt_id=attempt_id, blame=blame, code=code, message=message[:200])

    def _fail_all(self, rows: list[Row], code: str, message: str) -> list[Outcome]:
        """Blame the node for every attempt of ``rows`` that is still held."""
        return [
            self._failed(row.attempt, "node", code, message)
            for row in rows
            if self._is_current(row)
        ]


def neighbours(lengths: Sequence[int], *, around: int, budget_tokens: int) -> range:
    """Return the run of ascending ``lengths`` that holds index ``around`` and the most tokens.

    The run's lengths differ by at most `SLACK_TOKENS`, and its padded size (count times the
    longest) keeps to the budget unless it is a single sequence. Ties go to the shorter sequences.
    """
    best, most = range(around, around + 1), lengths[around]
    for last in range(around, len(lengths)):
        longest = lengths[last]
        if longest - lengths[around] > SLACK_TOKENS:
            break
        room = budget_tokens // max(1, longest)
        start = max(0, last + 1 - room)
        if start > around:
            break
        while longest - lengths[start] > SLACK_TOKENS:
            start += 1
        tokens = sum(lengths[start : last + 1])
        if tokens > most:
            best, most = range(start, last + 1), tokens
    return best


def _known(vectors: Sequence[Vector | None]) -> list[Vector]:
    return [vector for vector in vectors if vector is not None]


def _mean(work: Work) -> Vector:
    """Return the vector that the head is to score."""
    weights = work.plan.head_weights
    return vector_math.mean(_known(work.vectors)[: len(weights)], weights)
