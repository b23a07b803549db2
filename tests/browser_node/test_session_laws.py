"""No order of events loses or doubles an attempt's outcome on the node's side."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from browser_node import protocol as p
from browser_node import session_events as ev
from browser_node.politeness import Signals, VolunteerLimits, decide
from browser_node.session import NodeSession
from tests.browser_node.sessions import IDENTITY, RECIPE, job


class Orders(RuleBasedStateMachine):
    """Plays orchestrator, executor, network, volunteer and clock against one session."""

    def __init__(self) -> None:
        super().__init__()
        self.session = NodeSession(IDENTITY, rng=random.Random(0))
        self.now = 0.0
        self.ids = 0
        self.connection = 0
        self.loading: list[int] = []
        # What an executor would hold after performing the effects so far.
        self.executing: set[str] = set()
        self.given: dict[str, tuple[int, float]] = {}
        self.excused: set[str] = set()
        self.outcomes: Counter[str] = Counter()
        self.feed(ev.Start())

    def feed(self, event: ev.Event) -> None:
        for effect in self.session.handle(event, now=self.now):
            match effect:
                case ev.Execute(items):
                    assert self.executing.isdisjoint(item.attempt_id for item in items)
                    self.executing |= {item.attempt_id for item in items}
                case ev.Drop(attempt_ids):
                    assert self.executing.issuperset(attempt_ids)
                    self.executing -= set(attempt_ids)
                case ev.LoadModel(load_id, _, _):
                    self.loading.append(load_id)
                case ev.Send(p.Results(items=items)):
                    for item in items:
                        self.answered(item.attempt_id)
                case ev.Send(p.Failed(attempt_id=str(attempt_id))):
                    self.answered(attempt_id)
                case _:
                    pass

    def answered(self, attempt_id: str) -> None:
        connection, _ = self.given[attempt_id]
        assert connection == self.connection, "an outcome went to another connection"
        assert attempt_id not in self.excused, "an outcome was sent for a cancelled attempt"
        self.outcomes[attempt_id] += 1

    # ── the network ──────────────────────────────────────────────────────────────────────────────

    @initialize()
    def begin(self) -> None:
        self.join()

    @rule()
    def join(self) -> None:
        """Go all the way, so that most orders have something to lose."""
        if self.session.state == "draining":
            self.lose_the_connection(1001)
        if self.session.state == "waiting" and self.session.wake_at is not None:
            self.now = self.session.wake_at
            self.feed(ev.Tick())
        if self.session.state != "registering":
            return
        self.register()
        self.prepare()
        self.open_socket()
        self.welcome()
        self.feed(ev.PolicyChanged(decide(Signals(), VolunteerLimits()), p.Limits()))
        self.load()
        self.feed(ev.ModelLoaded(self.loading.pop(), 1.0, 8, (), ()))

    @precondition(lambda self: self.session.state == "registering")
    @rule()
    def register(self) -> None:
        self.feed(ev.Registered("n", "http://h", "/s"))

    @precondition(lambda self: self.session.state == "preparing")
    @rule()
    def prepare(self) -> None:
        self.feed(ev.Prepared(b"sig"))

    @precondition(lambda self: self.session.state == "connecting")
    @rule()
    def open_socket(self) -> None:
        self.connection += 1
        self.feed(ev.Opened())

    @precondition(lambda self: self.session.state == "greeting")
    @rule()
    def welcome(self) -> None:
        self.feed(ev.Received(p.Welcome(version=1, node_id="n", ticket="t")))

    @rule(code=st.sampled_from([1001, 1006, 4401, 4409, 4429]))
    def lose_the_connection(self, code: int) -> None:
        if self.session.connected:
            self.excuse(self.given)
        self.feed(ev.Closed(code, ""))

    @rule()
    def fail_the_set_up(self) -> None:
        self.feed(ev.SetupFailed("no"))

    # ── the orchestrator ─────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.session.state == "serving")
    @rule()
    def load(self) -> None:
        try:
            self.feed(ev.Received(p.Load(recipe=RECIPE)))
        except p.ProtocolError:
            # Twice: the session must not have changed.
            return

    @rule(count=st.integers(1, 4), lease_s=st.floats(0.5, 20))
    def send_jobs(self, count: int, lease_s: float) -> None:
        self.join()
        if self.session.state != "serving":
            return
        items = []
        for _ in range(count):
            self.ids += 1
            items.append(job(f"a{self.ids}", lease_s=lease_s))
            self.given[f"a{self.ids}"] = self.connection, self.now + lease_s
        self.feed(ev.Received(p.Jobs(items=tuple(items))))

    @precondition(lambda self: self.session.connected)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.given:
            return
        names = data.draw(st.lists(st.sampled_from(sorted(self.given)), min_size=1, max_size=3))
        self.feed(ev.Received(p.Cancel(attempt_ids=tuple(names))))
        self.excuse(names)

    @precondition(lambda self: self.session.state == "serving")
    @rule()
    def unload(self) -> None:
        self.feed(ev.Received(p.Unload(digest=RECIPE.digest)))

    @precondition(lambda self: self.session.state == "serving")
    @rule()
    def drain(self) -> None:
        self.feed(ev.Received(p.Drain()))

    @rule(frame=st.sampled_from([p.Ping(n=1), p.Drain(), p.Refused(reason="no", retry_after_s=1)]))
    def send_at_any_time(self, frame: p.OrchestratorFrame) -> None:
        refused = isinstance(frame, p.Refused) and self.session.state == "greeting"
        try:
            self.feed(ev.Received(frame))
        except p.ProtocolError:
            return
        assert not refused or self.session.state == "waiting"

    # ── the executor ─────────────────────────────────────────────────────────────────────────────

    @rule()
    def finish_loading(self) -> None:
        if self.loading:
            self.feed(ev.ModelLoaded(self.loading.pop(0), 1.0, 8, (), ()))

    @rule(data=st.data(), fails=st.booleans())
    def finish_attempts(self, data: st.DataObject, fails: bool) -> None:
        if not self.executing:
            return
        names = data.draw(st.sets(st.sampled_from(sorted(self.executing)), min_size=1))
        self.executing -= names
        self.excuse(name for name in names if self.given[name][1] <= self.now)
        self.feed(ev.Finished(tuple(_outcome(name, fails) for name in sorted(names))))

    @rule(data=st.data())
    def finish_what_is_not_held(self, data: st.DataObject) -> None:
        gone = sorted(set(self.given) - self.executing)
        if gone:
            self.feed(ev.Finished((_outcome(data.draw(st.sampled_from(gone)), False),)))

    # ── the volunteer and the clock ──────────────────────────────────────────────────────────────

    @rule(paused=st.booleans(), hidden=st.booleans())
    def change_policy(self, paused: bool, hidden: bool) -> None:
        politeness = decide(Signals(user_paused=paused, hidden=hidden), VolunteerLimits())
        self.feed(ev.PolicyChanged(politeness, p.Limits()))

    @rule(seconds=st.floats(0, 8) | st.just(200.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        silent = self.session.wake_at is not None and self.session.wake_at <= self.now
        if self.session.connected:
            over = (
                self.given
                if silent
                else [name for name, (_, lease_at) in self.given.items() if lease_at <= self.now]
            )
            self.excuse(over)
        self.feed(ev.Tick())

    @rule()
    def stop_and_start(self) -> None:
        self.excuse(self.given)
        self.feed(ev.Stop("enough"))
        self.feed(ev.Start())

    # ── laws ─────────────────────────────────────────────────────────────────────────────────────

    def excuse(self, names: object) -> None:
        """These need no outcome any more, and may not get one if they have none yet."""
        assert hasattr(names, "__iter__")
        self.excused |= {name for name in names if not self.outcomes[name]}

    @invariant()
    def the_executor_holds_exactly_what_the_session_owes(self) -> None:
        assert self.executing == self.session.held

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        assert all(count == 1 for count in self.outcomes.values() if count)

    @invariant()
    def every_attempt_is_held_answered_or_excused(self) -> None:
        for name in self.given:
            held = name in self.session.held
            assert held + (name in self.excused) + (self.outcomes[name] > 0) == 1, name


def _outcome(attempt_id: str, fails: bool) -> p.Result | p.Failed:
    if fails:
        return p.Failed(attempt_id=attempt_id, blame="node", code="session_failed")
    return p.Result(attempt_id=attempt_id, output=b"", compute_s=0.0)


Orders.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestNoOrderOfEvents = Orders.TestCase
