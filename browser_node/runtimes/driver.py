"""The node's asyncio shell, the same in every runtime: performs the session's effects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, assert_never

from browser_node import session_events as ev
from browser_node.backoff import Backoff
from browser_node.politeness import Signals, VolunteerLimits, decide
from browser_node.protocol import CloseCode, Recipe, Refused
from browser_node.runtimes import registration
from browser_node.runtimes.connection import CLOSE_TIMEOUT_S, Connection
from browser_node.runtimes.download import Downloader
from browser_node.runtimes.seams import (
    Clock,
    Isolation,
    Keys,
    Log,
    ModelStore,
    Network,
    NetworkError,
    Onnx,
)
from browser_node.runtimes.status import Status, phase_of
from browser_node.runtimes.workshop import Workshop
from browser_node.session import Identity, NodeSession

STATUS_INTERVAL_S: Final = 0.25
# A node that answered this recently is shown as working, so that the page does not flicker.
_WORKING_S: Final = 1.0
_UNREACHABLE: Final = "The server cannot be reached. This node keeps trying."


class Driver:
    """Runs one node from `run` until it is stopped or the orchestrator will not have it."""

    def __init__(
        self,
        identity: Identity,
        *,
        network: Network,
        keys: Keys,
        store: ModelStore,
        onnx: Onnx,
        clock: Clock,
        rng: random.Random,
        limits: VolunteerLimits,
        signals: Signals,
        on_status: Callable[[Status], None],
        log: Log,
        backoff: Backoff | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self._identity = identity
        self._network = network
        self._keys = keys
        self._store = store
        self._clock = clock
        self._on_status = on_status
        self._log = log
        self._limits = limits
        self._signals = signals
        self._session = NodeSession(identity, rng=rng, backoff=backoff)
        self._downloader = Downloader(
            store,
            clock=clock,
            rng=rng,
            may_go_on=self._may_go_on,
            on_progress=self._changed,
        )
        self._workshop = Workshop(
            store=store,
            onnx=onnx,
            downloader=self._downloader,
            clock=clock,
            dispatch=self._dispatch,
            politeness=lambda: self._session.politeness,
            may_go_on=self._may_go_on,
            isolation=isolation,
            log=log,
        )
        self._connection: Connection | None = None
        self._setup: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._polite = asyncio.Event()
        self._rearm = asyncio.Event()
        self._armed_at = float("inf")
        self._dirty = asyncio.Event()
        self._ended: asyncio.Future[ev.Ended] | None = None
        self._stop_early: str | None = None
        self._notice = ""
        self._farewell = ""
        self._trouble = _UNREACHABLE
        self._met = False

    # ── what the runtime calls ───────────────────────────────────────────────────────────────────

    async def run(self) -> ev.Ended:
        """Work until `stop` or until the node is not wanted; what breaks the node is raised."""
        self._ended = asyncio.get_running_loop().create_future()
        self._apply_policy()
        for work in (
            self._tick(),
            self._report(),
            self._workshop.download(),
            self._workshop.open(),
            self._workshop.compute(),
            self._workshop.isolate(),
        ):
            self._spawn(work)
        self._dispatch(ev.Start())
        if self._stop_early is not None:
            self.stop(self._stop_early)
        try:
            return await self._ended
        finally:
            await self._close()

    def stop(self, reason: str) -> None:
        """Say goodbye and let `run` return, at once when it has not begun."""
        if self._ended is None:
            self._stop_early = reason
        else:
            self._dispatch(ev.Stop(reason))

    @property
    def signals(self) -> Signals:
        return self._signals

    @signals.setter
    def signals(self, signals: Signals) -> None:
        self._signals = signals
        self._apply_policy()

    @property
    def limits(self) -> VolunteerLimits:
        return self._limits

    @limits.setter
    def limits(self, limits: VolunteerLimits) -> None:
        self._limits = limits
        self._apply_policy()

    def status(self) -> Status:
        session, workshop = self._session, self._workshop
        politeness = session.politeness
        idle_s = self._clock.monotonic() - workshop.last_job_at
        phase = phase_of(
            session.state,
            keeps_work=politeness.keeps_work,
            working=bool(session.held) or idle_s < _WORKING_S,
            models=tuple(row.state for row in workshop.rows.values()),
            met=self._met,
        )
        reason = politeness.reason
        if phase == "reconnecting":
            reason = self._trouble
        elif phase == "error":
            reason = "No model could be loaded on this device."
        elif phase == "stopped":
            reason = self._farewell
        return Status(
            phase=phase,
            state="draining" if session.state == "draining" else politeness.state,
            reason=reason,
            done_bytes=self._downloader.progress.done_bytes,
            total_bytes=self._downloader.progress.total_bytes,
            jobs_done=workshop.jobs_done,
            tokens_done=workshop.tokens_done,
            tokens_per_s=workshop.tokens_per_s,
            node_id=session.node_id,
            models=tuple(workshop.rows.values()),
            notice=self._notice,
        )

    # ── events and effects ───────────────────────────────────────────────────────────────────────

    def _dispatch(self, event: ev.Event) -> None:
        for effect in self._session.handle(event, now=self._clock.monotonic()):
            self._perform(effect)
        wake_at = self._session.wake_at
        if wake_at is not None and wake_at < self._armed_at:
            self._rearm.set()
        self._changed()

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case ev.Register():
                self._setup = self._spawn(self._register())
            case ev.Prepare():
                self._setup = self._spawn(self._prepare(effect.message))
            case ev.Connect():
                self._connection = Connection(self._network, effect.path, self._on_connection)
                self._adopt(self._connection.task)
            case ev.Send():
                if self._connection is not None:
                    self._connection.send(effect.frame)
            case ev.Disconnect():
                self._disconnect(effect)
            case ev.KeepModels():
                self._spawn(self._keep_only(effect.recipes))
            case ev.LoadModel():
                self._workshop.load(effect)
            case ev.UnloadModel():
                self._workshop.unload(effect.digest)
            case ev.Execute():
                self._workshop.execute(effect.items)
            case ev.Drop():
                self._workshop.drop(effect.attempt_ids)
            case ev.Tell():
                self._notice = effect.text
            case ev.Ended():
                self._log("ended", reason=effect.reason, failed=effect.failed)
                self._farewell = effect.reason
                if self._ended is not None and not self._ended.done():
                    self._ended.set_result(effect)
            case _:
                assert_never(effect)

    def _on_connection(self, event: ev.Event) -> None:
        before = self._session.node_id
        self._dispatch(event)
        match event:
            case ev.Closed():
                self._log("closed", code=event.code, reason=event.reason)
            case ev.Received(Refused() as frame):
                self._log("refused", reason=frame.reason)
                self._trouble = frame.reason
        if self._session.node_id not in (before, None):
            self._met, self._trouble = True, _UNREACHABLE
            self._log("connected", node=self._session.node_id)

    def _disconnect(self, effect: ev.Disconnect) -> None:
        if self._setup is not None:
            self._setup.cancel()
        if self._connection is not None:
            self._connection.end(effect.code, effect.reason)
            self._connection = None

    async def _register(self) -> None:
        try:
            status, body = await self._network.register(registration.request_json(self._identity))
        except NetworkError as error:
            self._dispatch(ev.SetupFailed(str(error)))
            return
        event = registration.read_reply(status, body, host=self._network.host)
        if isinstance(event, ev.SetupFailed):
            self._log("refused", status=status, reason=event.reason)
            self._trouble = event.reason
        self._dispatch(event)

    async def _prepare(self, message: bytes) -> None:
        signature = await self._keys.sign(message) if message else b""
        try:
            cached = await self._downloader.cached()
        except OSError as error:
            self._log("storage_failed", error=error)
            cached = ()
        self._dispatch(ev.Prepared(signature, cached))

    async def _keep_only(self, recipes: tuple[Recipe, ...]) -> None:
        try:
            await self._store.keep_only(recipes)
        except OSError as error:
            self._log("storage_failed", error=error)

    # ── politeness ───────────────────────────────────────────────────────────────────────────────

    def _apply_policy(self) -> None:
        politeness = decide(self._signals, self._limits)
        if politeness.keeps_work:
            self._polite.set()
        else:
            self._polite.clear()
        self._dispatch(ev.PolicyChanged(politeness, self._limits.on_the_wire()))
        self._workshop.look_again()

    async def _may_go_on(self) -> None:
        await self._polite.wait()

    # ── time and tasks ───────────────────────────────────────────────────────────────────────────

    async def _tick(self) -> None:
        while True:
            self._rearm.clear()
            wake_at = self._session.wake_at
            self._armed_at = float("inf") if wake_at is None else wake_at
            waits_s = self._armed_at - self._clock.monotonic()
            if waits_s <= 0.0:
                self._dispatch(ev.Tick())
            else:
                await self._clock.wait(self._rearm, waits_s)

    async def _report(self) -> None:
        """Tell the status when it changes, at most every `STATUS_INTERVAL_S`."""
        told: Status | None = None
        while True:
            self._dirty.clear()
            status = self.status()
            if status != told:
                told = status
                self._on_status(status)
            await self._clock.sleep(STATUS_INTERVAL_S)
            # A node that just worked turns to ready by time alone.
            await self._clock.wait(self._dirty, _WORKING_S if told.phase == "working" else None)

    def _changed(self) -> None:
        self._dirty.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._adopt(asyncio.create_task(work))

    def _adopt(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # A bug or a broken runtime: `run` raises it instead of going on half alive.
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    async def _close(self) -> None:
        """Let a goodbye go out, then end every task, and tell the last status."""
        if self._connection is not None:
            self._connection.end(CloseCode.GOING_AWAY, "the node ends")
        connections = {task for task in self._tasks if task.get_name() == Connection.TASK_NAME}
        if connections:
            await asyncio.wait(connections, timeout=CLOSE_TIMEOUT_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._on_status(self.status())
