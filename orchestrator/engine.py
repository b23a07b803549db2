"""Owns the scheduler: event → handle → perform the effects → arm one timer. Never awaits I/O.

Sockets hand it frames, the API hands it jobs; everything happens on one event loop, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

import structlog

from browser_node import protocol as p
from browser_node.models import Manifest
from browser_node.protocol import CloseCode, ModelDigest, NodeId
from orchestrator import errors
from orchestrator.clock import Clock
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import fleet as fl
from orchestrator.domain import node_session as ns
from orchestrator.domain.model import Answered, JobFailure, JobId, NewJob, Node
from orchestrator.domain.scheduler import Scheduler
from orchestrator.storage.nodes import NodeLog, key_digest

EVENTS_KEPT: Final = 200
LATENCIES_KEPT: Final = 2048

log = structlog.get_logger("engine")


class Link(Protocol):
    """The sending half of a node's socket. Neither call blocks; a full queue closes the socket."""

    def send(self, data: bytes) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None: ...


@dataclass(slots=True, eq=False)
class Connection:
    """A node's session and the socket it came on."""

    session: ns.NodeSession
    link: Link


@dataclass(slots=True, eq=False)
class _Waiting:
    """The jobs of one request: its future ends with all answers or with the first failure."""

    future: asyncio.Future[list[Answered]]
    order: dict[JobId, int]
    answers: list[Answered | None]
    submitted_at: float
    open: set[JobId] = field(default_factory=set)


class Engine:
    """The running orchestrator's core; made once by the composition root, used on its loop only."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        models: Mapping[ModelDigest, Manifest],
        clock: Clock,
        node_log: NodeLog | None = None,
    ) -> None:
        self._node_log = node_log
        self._scheduler = scheduler
        self._models = models
        self._clock = clock
        self._connections: dict[NodeId, Connection] = {}
        self._waiting: dict[JobId, _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._events: deque[fl.FleetEvent] = deque(maxlen=EVENTS_KEPT)
        self._event_seq = 0
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
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
        waiting = _Waiting(
            future=asyncio.get_running_loop().create_future(),
            order={job.job_id: index for index, job in enumerate(jobs)},
            answers=[None] * len(jobs),
            submitted_at=self._clock.monotonic(),
        )
        waiting.open.update(waiting.order)
        for job in jobs:
            self._waiting[job.job_id] = waiting
        self._idle.clear()
        try:
            self.apply(ev.JobsSubmitted(tuple(jobs)))
            return await waiting.future
        finally:
            if waiting.open:
                left = tuple(waiting.open)
                for job_id in left:
                    self._settle(waiting, job_id)
                self.apply(ev.JobsCancelled(left))

    # ── for the sockets ──────────────────────────────────────────────────────────────────────────

    def receive(self, connection: Connection, data: bytes) -> None:
        """Apply one frame of a node."""
        now = self._clock.monotonic()
        for step in connection.session.receive(data, now=now):
            self._perform_step(connection, step)

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
        """Return what an operator sees now."""
        now = self._clock.monotonic()
        rows = tuple(self._row(node, now) for node in self._scheduler.board.nodes.values())
        return fl.FleetSnapshot(
            at=self._clock.wall(), totals=self.totals(), nodes=rows, events=tuple(self._events)
        )

    def totals(self) -> fl.Totals:
        """Return the counts alone: cheap enough for a scrape."""
        board, counters = self._scheduler.board, self._scheduler.counters
        edge = [node for node in board.nodes.values() if not node.trusted]
        latencies = sorted(self._latencies_s)
        return fl.Totals(
            nodes=len(edge),
            nodes_active=sum(bool(node.speeds) and node.state == "active" for node in edge),
            queued=self._scheduler.queued,
            running=self._scheduler.running,
            answered_edge=counters.answered_edge,
            answered_cloud=counters.answered_cloud,
            rerouted=counters.rerouted,
            failed=counters.failed,
            p50_ms=_percentile_ms(latencies, 0.5),
            p95_ms=_percentile_ms(latencies, 0.95),
            cpu_worker="ready" if self.worker_ready() else self.worker_state,
        )

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what is held; True when all of it ended in time."""
        self.apply(ev.DrainStarted())
        frame = p.encode(p.Drain(reason="The server is restarting."))
        for connection in list(self._connections.values()):
            if not connection.session.trusted:
                connection.link.send(frame)
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
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
        if self._timer is not None:
            self._timer.cancel()

    def apply(self, event: ev.Event) -> None:
        """Let the scheduler handle ``event`` and do what it says."""
        for effect in self._scheduler.handle(event, now=self._clock.monotonic()):
            self._perform(effect)
        self._arm()

    # ── performing ───────────────────────────────────────────────────────────────────────────────

    def _perform_step(self, connection: Connection, step: ns.Step) -> None:
        match step:
            case ns.Reply():
                connection.link.send(p.encode(step.frame))
            case ns.Notify():
                if isinstance(step.event, ev.NodeJoined):
                    self._join(connection)
                self.apply(step.event)
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
                    frame = connection.session.jobs(effect.items)
                    connection.link.send(p.encode(frame))
            case fx.SendCancel():
                if (connection := self._connections.get(effect.node_id)) is not None:
                    frame_ = connection.session.cancel(effect.attempt_ids)
                    connection.link.send(p.encode(frame_))
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
            case _:
                assert_never(effect)

    def _deliver(self, answer: Answered) -> None:
        waiting = self._waiting.get(answer.job_id)
        if waiting is None:
            return
        waiting.answers[waiting.order[answer.job_id]] = answer
        self._latencies_s.append(self._clock.monotonic() - waiting.submitted_at)
        self._settle(waiting, answer.job_id)
        if not waiting.open and not waiting.future.done():
            waiting.future.set_result([a for a in waiting.answers if a is not None])

    def _failed(self, failure: JobFailure) -> None:
        waiting = self._waiting.get(failure.job_id)
        self._record("failed", f"A job failed: {failure.message}", None)
        if waiting is None:
            return
        self._settle(waiting, failure.job_id)
        if not waiting.future.done():
            waiting.future.set_exception(_error(failure))

    def _settle(self, waiting: _Waiting, job_id: JobId) -> None:
        waiting.open.discard(job_id)
        self._waiting.pop(job_id, None)
        if not self._waiting:
            self._idle.set()

    def _arm(self) -> None:
        at = self._scheduler.next_wakeup()
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = at, None
        if at is not None:
            delay = max(at - self._clock.monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_at = None
        self.apply(ev.Tick())

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

    def _row(self, node: Node, now: float) -> fl.NodeRow:
        hello = self._connections[node.node_id].session.hello
        runtime = hello.runtime if hello is not None else None
        speeds = [speed.tokens_per_s for speed in node.speeds.values()]
        reason = node.reason
        if not node.speeds:
            reason = "loading models" if node.loading else "waiting for known answers"
        elif node.stale:
            reason = "does not answer; its job went elsewhere"
        return fl.NodeRow(
            id=node.node_id,
            kind=runtime.kind if runtime else "native",
            backend=runtime.backend if runtime else "",
            state=node.state if node.speeds else "loading",
            reason=reason,
            models=tuple(sorted(self._models[digest].id for digest in node.speeds)),
            tokens_per_s=max(speeds, default=None),
            rtt_ms=None if node.rtt_s is None else node.rtt_s * 1000,
            slots_used=node.slots_used,
            slots=node.slots,
            jobs_done=node.jobs_done,
            failures=node.failures,
            reroutes=node.reroutes,
            connected_s=now - node.joined_at,
            agent=runtime.agent if runtime else "",
        )


_CAUSES: Final[Mapping[str, str]] = {
    "closed": "the node went away",
    "silence": "the node fell silent",
    "lease": "its lease ended",
    "failed": "the node failed at it",
    "handed_back": "the node handed it back",
}


def _name(session: ns.NodeSession) -> str:
    if session.trusted:
        return "The CPU worker"
    kind = session.hello.runtime.kind if session.hello is not None else "node"
    return f"A {'tab' if kind == 'browser' else 'native node'} ({session.node_id})"


def _percentile_ms(ordered_s: Sequence[float], share: float) -> float | None:
    if not ordered_s:
        return None
    return ordered_s[min(int(len(ordered_s) * share), len(ordered_s) - 1)] * 1000


def _error(failure: JobFailure) -> errors.ApiError:
    match failure.code:
        case "no_capacity":
            return errors.NoCapacity(failure.message, retry_after_s=failure.retry_after_s)
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
