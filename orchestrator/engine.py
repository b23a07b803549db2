"""Owns the scheduler: event → handle → perform the effects → arm one timer. Never awaits I/O.

Sockets hand it frames, the API hands it jobs; everything happens on one event loop, in order.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, assert_never

import structlog

from browser_node import protocol as p
from browser_node.models import Manifest
from browser_node.protocol import CloseCode, ModelDigest, NodeId
from orchestrator import errors, fleet_view
from orchestrator.clock import Clock
from orchestrator.court import Court, FindStanding, StandingBook
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import fleet as fl
from orchestrator.domain import node_session as ns
from orchestrator.domain.model import Answered, JobFailure, JobId, NewJob
from orchestrator.domain.scheduler import Scheduler
from orchestrator.domain.streams import StreamedText
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from orchestrator.storage.nodes import NodeLog, key_digest

EVENTS_KEPT: Final = 200
LATENCIES_KEPT: Final = 2048
_AT_ONCE: Final = 64
# A timer that fires so late says that the whole process stood still.
OVERSLEPT_S: Final = 2.0

log = structlog.get_logger("engine")


class Link(Protocol):
    """The sending half of a node's socket. No call blocks; a full queue closes the socket."""

    def send(self, data: bytes) -> None: ...

    def hand(self, items: Sequence[p.JobItem]) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None: ...


@dataclass(eq=False)
class Connection:
    """A node's session and the socket it came on."""

    session: ns.NodeSession
    link: Link


@dataclass(slots=True, eq=False)
class _Stream:
    """The text of a job's answer, and whether there is news of it or of the job."""

    text: StreamedText = field(default_factory=StreamedText)
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Waiting:
    """The jobs of one request: its future ends when all are answered or with the first failure.

    Of them ``open`` have not ended yet; the others' ``answers`` are in the order they came in.
    """

    future: asyncio.Future[None]
    submitted_at: float
    open: int
    answers: dict[JobId, Answered] = field(default_factory=dict)
    stream: _Stream | None = None


class Engine:
    """The running orchestrator's core; made once by the composition root, used on its loop only."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        models: Mapping[ModelDigest, Manifest],
        clock: Clock,
        agree: ns.Agree,
        node_log: NodeLog | None = None,
        standings: StandingBook | None = None,
        find_standing: FindStanding | None = None,
    ) -> None:
        self._node_log = node_log
        self._court = Court(
            models=models,
            clock=clock,
            agree=agree,
            standings=standings,
            find_standing=find_standing,
            apply=self.apply,
            record=self._record,
        )
        self._coming: deque[ev.Event] = deque()
        self._applying = False
        self._scheduler = scheduler
        self._models = models
        self._clock = clock
        self._connections: dict[NodeId, Connection] = {}
        self._waiting: dict[JobId, _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf  # where none is armed
        self._events: deque[fl.FleetEvent] = deque(maxlen=EVENTS_KEPT)
        self._event_seq = 0
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
        # The loop that all this runs on, once it does.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.worker_state: fl.WorkerState = "off"
        # Told when the CPU worker's connection is up but nobody answers on it.
        self.on_hung_worker: Callable[[], None] = lambda: None

    # ── for the API ──────────────────────────────────────────────────────────────────────────────

    async def answer(self, jobs: Sequence[NewJob]) -> list[Answered]:
        """Run ``jobs`` and return their answers in order.

        Raises the `errors.ApiError` of the first job that fails; the others are then cancelled, as
        all are when the awaiting task is.
        """
        waiting = self._wait_for(jobs)
        try:
            for start in range(0, len(jobs), _AT_ONCE):
                if start:
                    # Placing takes time: between slices of a large request others get their turn.
                    await asyncio.sleep(0)
                if waiting.future.done():
                    break
                self.apply(ev.JobsSubmitted(tuple(jobs[start : start + _AT_ONCE])))
            await waiting.future
            return [waiting.answers[job.job_id] for job in jobs]
        finally:
            self._withdraw(waiting, jobs)
            # A failure's traceback holds this frame, and the future the failure: no cycle of them.
            del waiting

    async def stream(self, job: NewJob) -> AsyncGenerator[str | Answered, None]:
        """Run ``job`` and yield its answer's text in pieces as it comes, then the answer.

        The pieces joined are the whole output; there are none where the pipeline does not stream or
        the node did not. Raises the `errors.ApiError` of the job's failure, also after pieces, and
        `errors.InternalError` (``stream_interrupted``) where nobody can go on as the pieces did.
        Cancelling who awaits it cancels the job, as closing does: who stops early must close it.
        """
        waiting, stream = self._wait_for((job,)), _Stream()
        waiting.stream = stream
        news = stream.news
        waiting.future.add_done_callback(lambda _: news.set())
        try:
            self.apply(ev.JobsSubmitted((job,)))
            while not waiting.future.done():
                if piece := stream.text.take():
                    yield piece
                await stream.news.wait()
                stream.news.clear()
            waiting.future.result()
            answered = waiting.answers[job.job_id]
            if piece := stream.text.finish(answered.output):
                yield piece
            yield answered
        finally:
            self._withdraw(waiting, (job,))
            if waiting.future.done():
                # Who has left does not ask why it failed.
                waiting.future.exception()
            del waiting

    def _wait_for(self, jobs: Sequence[NewJob]) -> _Waiting:
        loop = self._loop
        if loop is None:
            # To ask for it is a call into the system.
            loop = self._loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), self._clock.monotonic(), len(jobs))
        if not self._waiting:
            self._idle.clear()
        for job in jobs:
            self._waiting[job.job_id] = waiting
        return waiting

    def _withdraw(self, waiting: _Waiting, jobs: Sequence[NewJob]) -> None:
        """Cancel those of ``jobs`` that have not ended: nobody waits for them any more."""
        if waiting.open:
            left = tuple([job.job_id for job in jobs if job.job_id in self._waiting])
            for job_id in left:
                self._settle(waiting, job_id)
            self.apply(ev.JobsCancelled(left))

    # ── for the sockets ──────────────────────────────────────────────────────────────────────────

    def receive(self, connection: Connection, data: bytes) -> None:
        """Apply one frame of a node."""
        now = self._clock.monotonic()
        self._perform_steps(connection, connection.session.receive(data, now=now))

    def disconnected(self, connection: Connection, reason: str) -> None:
        """The socket is gone: the node's attempts move on at once."""
        node_id = connection.session.node_id
        if self._connections.get(node_id) is not connection:
            return
        del self._connections[node_id]
        node = self._scheduler.board.nodes.get(node_id)
        self._note(connection.session, jobs=node.jobs_done if node is not None else 0)
        kind: fl.EventKind = "worker" if connection.session.trusted else "left"
        self._record(kind, f"{_name(connection.session)} left: {reason}", node_id)
        self.apply(ev.NodeLeft(node_id, reason))

    def expect_worker(self, state: fl.WorkerState) -> None:
        """The supervisor tells whether a CPU worker is there, coming, or not wanted."""
        self.worker_state = state
        self.apply(ev.WorkerExpected(state != "off"))

    def worker_ready(self) -> bool:
        """Whether a CPU worker has calibrated every model."""
        workers = self._scheduler.board.workers.values()
        return any(
            not worker.stale and self._models.keys() <= worker.speeds.keys() for worker in workers
        )

    # ── for the console ──────────────────────────────────────────────────────────────────────────

    def fleet(self) -> fl.FleetSnapshot:
        """Return what an operator sees now; of a large fleet the rows that matter."""
        now = self._clock.monotonic()
        rows = []
        for node in fleet_view.foremost(self._scheduler.board.nodes.values()):
            hello = self._connections[node.node_id].session.hello
            runtime = hello.runtime if hello is not None else None
            rows.append(fleet_view.node_row(node, runtime, models=self._models, now=now))
        return fl.FleetSnapshot(
            at=self._clock.wall(),
            totals=self.totals(),
            nodes=tuple(rows),
            events=tuple(self._events),
            models=fleet_view.model_rows(self._scheduler, now),
            projects=fleet_view.project_rows(self._scheduler),
        )

    def totals(self) -> fl.Totals:
        """Return the counts alone: cheap enough for a scrape."""
        return fleet_view.totals(
            self._scheduler,
            latencies_s=self._latencies_s,
            cpu_worker="ready" if self.worker_ready() else self.worker_state,
        )

    def decisions(self, count: int) -> list[fl.DecisionRow]:
        """Return the latest placements, newest first."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        placed = self._scheduler.board.decisions.latest(count)
        return [fleet_view.decision_row(one, now=now, wall=wall) for one in placed]

    def decisions_of(self, number: str) -> list[fl.DecisionRow]:
        """Return what is kept of request ``number``'s placements, oldest first."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        placed = self._scheduler.board.decisions.of_request(number)
        return [fleet_view.decision_row(one, now=now, wall=wall) for one in placed]

    def order_node(self, node_id: str, order: Literal["drain", "resume"]) -> bool:
        """Take a node out of service or back in; False when it is not here."""
        node = self._scheduler.board.nodes.get(NodeId(node_id))
        if node is None or node.trusted:
            return False
        self.apply(ev.NodeOrdered(node.node_id, order))
        return True

    def order_standing(
        self,
        identity: str,
        runtime: str,
        order: Literal["quarantine", "ban", "release"],
        standing: Standing | None,
    ) -> bool:
        """Do what an operator says of an identity; ``standing`` is what the records hold of it.

        False when it is neither here nor in the records.
        """
        key = (Identity(identity), RuntimeClass(runtime))
        if standing is None and key not in self._scheduler.checking.records.standings:
            return False
        self.apply(ev.StandingOrdered(*key, order, standing))
        if order == "release":
            # The records may hold a ban that this process has not heard of.
            self._court.released(self._scheduler.checking.records.standings[key])
        return True

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what is held; True when all of it ended in time."""
        self.apply(ev.DrainStarted())
        frame = p.encode(p.Drain(reason="The server is restarting."))
        for connection in list(self._connections.values()):
            if not connection.session.trusted:
                connection.link.send(frame)
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            message = f"The server shut down before the answer came; it waited {timeout_s:g} s."
            for waiting in set(self._waiting.values()):
                if not waiting.future.done():
                    waiting.future.set_exception(errors.ShuttingDown(message, retry_after_s=5.0))
            return False
        return True

    def close(self) -> None:
        """Let every node go and stop the timer."""
        for connection in list(self._connections.values()):
            connection.link.close(CloseCode.GOING_AWAY, "the server is going down")
        self._court.close()
        if self._timer is not None:
            self._timer.cancel()

    def apply(self, event: ev.Event) -> None:
        """Let the scheduler handle ``event`` and do what it says.

        Events that doing so causes wait for their turn: a frame is sent before what cancels it.
        """
        self._coming.append(event)
        if self._applying:
            return
        self._applying = True
        coming, now = self._coming, self._clock.monotonic()
        self._notice_oversleep(now)
        try:
            while coming:
                for effect in self._scheduler.handle(coming.popleft(), now=now):
                    self._perform(effect)
                if coming:
                    now = self._clock.monotonic()
        finally:
            self._applying = False
        self._arm()

    # ── performing ───────────────────────────────────────────────────────────────────────────────

    def _perform_steps(self, connection: Connection, steps: Sequence[ns.Step]) -> None:
        for step in steps:
            self._perform_step(connection, step)

    def _perform_step(self, connection: Connection, step: ns.Step) -> None:
        match step:
            case ns.Notify():
                if isinstance(step.event, ev.NodeJoined):
                    self._join(connection)
                self.apply(step.event)
            case ns.Reply():
                connection.link.send(p.encode(step.frame))
            case ns.ReferencesFilled():
                for other in list(self._connections.values()):
                    for following in other.session.references_filled(step.digest):
                        self._perform_step(other, following)
            case ns.Close():
                log.info(
                    "node closed",
                    node_id=connection.session.node_id,
                    code=int(step.code),
                    reason=step.reason,
                )
                connection.link.close(step.code, step.reason)
                self.disconnected(connection, step.reason)
            case _:
                assert_never(step)

    def _join(self, connection: Connection) -> None:
        session = connection.session
        old = self._connections.get(session.node_id)
        if old is not None:
            # A resumed session: its old socket may not have noticed yet that it is dead.
            old.session.state = "closed"
            old.link.close(CloseCode.GOING_AWAY, "resumed on another connection")
            self.disconnected(old, "resumed on another connection")
        self._connections[session.node_id] = connection
        self._note(session, jobs=0)
        kind: fl.EventKind = "worker" if session.trusted else "joined"
        self._record(kind, f"{_name(session)} joined", session.node_id)

    def _perform(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Deliver():
                self._deliver(effect.answer)
            case fx.SendJobs():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    connection.session.hold(effect.items)
                    connection.link.hand(effect.items)
            case fx.Progressed():
                self._progressed(effect)
            case fx.SendCancel():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    frame_ = connection.session.cancel(effect.attempt_ids)
                    connection.link.send(p.encode(frame_))
            case fx.Reveal():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    connection.link.send(p.encode(connection.session.reveal(effect.attempt_id)))
            case fx.SendPing():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    ping = connection.session.ping(now=self._clock.monotonic())
                    connection.link.send(p.encode(ping))
            case fx.CloseNode():
                if (connection := self._connections.pop(effect.node_id, None)) is not None:
                    self._note(connection.session, jobs=effect.jobs_done)
                    self._record("left", f"{_name(connection.session)} lost: {effect.reason}", None)
                    connection.session.state = "closed"
                    connection.link.close(effect.code, effect.reason)
                    if connection.session.trusted:
                        self.on_hung_worker()
            case fx.Fail():
                self._failed(effect.failure)
            case fx.Rerouted():
                text = f"A job left {effect.node_id}: {_CAUSES[effect.cause]}"
                self._record("rerouted", text, effect.node_id)
                log.info("rerouted", node_id=effect.node_id, cause=effect.cause)
            case fx.LoadModel():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    self._perform_steps(connection, connection.session.load(effect.digest))
            case fx.UnloadModel():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    self._perform_steps(connection, connection.session.unload(effect.digest))
            case fx.Tell():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    connection.link.send(p.encode(p.Notice(text=effect.text)))
            case fx.RecallStanding():
                self._court.recall(effect)
            case fx.Compare():
                self._court.compare(effect)
            case fx.StandingChanged():
                self._court.standing_changed(effect)
            case _:
                assert_never(effect)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────

    def _deliver(self, answer: Answered) -> None:
        waiting = self._waiting.get(answer.job_id)
        if waiting is None:
            return
        waiting.answers[answer.job_id] = answer
        self._latencies_s.append(self._clock.monotonic() - waiting.submitted_at)
        self._settle(waiting, answer.job_id)
        if not waiting.open and not waiting.future.done():
            waiting.future.set_result(None)

    def _progressed(self, progressed: fx.Progressed) -> None:
        waiting = self._waiting.get(progressed.job_id)
        if waiting is not None and waiting.stream is not None:
            waiting.stream.text.add(progressed.attempt_id, progressed.text)
            waiting.stream.news.set()

    def _failed(self, failure: JobFailure) -> None:
        waiting = self._waiting.get(failure.job_id)
        self._record("failed", f"A job failed: {failure.message}", None)
        if waiting is None:
            return
        self._settle(waiting, failure.job_id)
        if not waiting.future.done():
            waiting.future.set_exception(_error(failure))

    def _settle(self, waiting: _Waiting, job_id: JobId) -> None:
        waiting.open -= 1
        del self._waiting[job_id]
        if not self._waiting:
            self._idle.set()

    def _arm(self) -> None:
        """See to it that no timer of the scheduler's is missed; to be early costs next to nothing.

        What a timer was for is mostly over before it runs out: nothing is armed anew for that.
        """
        if self._scheduler.is_idle(self._timer_at):
            return
        at = self._scheduler.next_wakeup()
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = math.inf if at is None else at, None
        if at is not None:
            delay = max(at - self._clock.monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _notice_oversleep(self, now: float) -> None:
        """Tell the scheduler first if the timer should have run long ago."""
        late_s = now - self._timer_at
        if late_s > OVERSLEPT_S:
            log.warning("this process did not run", for_s=round(late_s, 1))
            self._coming.appendleft(ev.Overslept(late_s))

    def _tick(self) -> None:
        # Whichever runs first after a standstill, this or a frame, it is noticed, and once.
        self._notice_oversleep(self._clock.monotonic())
        self._timer, self._timer_at = None, math.inf
        due_at = self._scheduler.next_wakeup()
        if self._coming or (due_at is not None and due_at <= self._clock.monotonic()):
            self.apply(ev.Tick())
        else:
            self._arm()

    # ── records ──────────────────────────────────────────────────────────────────────────────────

    def _record(self, kind: fl.EventKind, text: str, node_id: NodeId | None) -> None:
        self._event_seq += 1
        event = fl.FleetEvent(
            seq=self._event_seq, at=self._clock.wall(), kind=kind, text=text, node_id=node_id
        )
        self._events.append(event)

    def _note(self, session: ns.NodeSession, *, jobs: int) -> None:
        """Keep that this identity was here; the CPU worker has none."""
        if self._node_log is None or session.trusted or session.hello is None:
            return
        runtime = session.hello.runtime
        self._node_log.seen(
            key_digest(session.hello.public_key),
            runtime=f"{runtime.kind}/{runtime.backend}",
            now=self._clock.wall(),
            jobs=jobs,
        )


_CAUSES: Final[Mapping[str, str]] = {
    "closed": "the node went away",
    "silence": "the node fell silent",
    "lease": "its lease ended",
    "failed": "the node failed at it",
    "handed_back": "the node handed it back",
    "distrusted": "the node is believed no more",
}


def _name(session: ns.NodeSession) -> str:
    if session.trusted:
        return "The CPU worker"
    kind = session.hello.runtime.kind if session.hello is not None else "node"
    return f"A {'tab' if kind == 'browser' else 'native node'} ({session.node_id})"


def _error(failure: JobFailure) -> errors.ApiError:
    match failure.code:
        case "no_capacity":
            return errors.NoCapacity(
                failure.message, retry_after_s=failure.retry_after_s, skipped=failure.skipped
            )
        case "overloaded":
            return errors.Overloaded(failure.message, retry_after_s=failure.retry_after_s)
        case "shutting_down":
            return errors.ShuttingDown(failure.message, retry_after_s=failure.retry_after_s)
        case "deadline_exceeded":
            return errors.DeadlineExceeded(failure.message, retry_after_s=failure.retry_after_s)
        case "invalid_input":
            return errors.InvalidInput(failure.message, param="input")
        case "internal_error":
            return errors.InternalError(failure.message)
