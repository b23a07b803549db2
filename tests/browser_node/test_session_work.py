"""The node's session at work: models, attempts, politeness, liveness, the order of frames."""

from __future__ import annotations

import pytest

from browser_node import protocol as p
from browser_node import session_events as ev
from browser_node.politeness import Politeness
from browser_node.session import JUST_ENDED_S
from tests.browser_node.frames import DIGEST
from tests.browser_node.sessions import (
    LOADED,
    PAUSED,
    RECIPE,
    WELCOME,
    feed,
    greeting,
    job,
    ready,
    received,
    result,
    sent,
    serving,
)

# ── models ───────────────────────────────────────────────────────────────────────────────────────


def test_a_loaded_model_is_announced_with_speed_answers_and_slots() -> None:
    session = serving()
    load = p.Load(recipe=RECIPE, challenge=(p.Task(input="q"),))

    assert received(session, load) == [ev.LoadModel(1, RECIPE, load.challenge)]
    assert sent(feed(session, LOADED)) == [
        p.Ready(digest=DIGEST, load_s=1.0, calibration=LOADED.calibration, answers=LOADED.answers),
        p.Capacity(slots=36, state="active", limits=p.Limits()),
    ]


def test_a_model_that_cannot_be_loaded_is_told_with_its_digest() -> None:
    session = serving()
    received(session, p.Load(recipe=RECIPE))

    (frame,) = sent(feed(session, ev.ModelFailed(1, "download_failed", "x" * 500)))

    assert frame == p.Failed(digest=DIGEST, blame="node", code="download_failed", message="x" * 200)


def test_an_answer_to_the_challenge_of_an_earlier_connection_is_not_sent() -> None:
    session = serving()
    received(session, p.Load(recipe=RECIPE))
    feed(session, ev.Closed(1006, ""))
    assert session.wake_at is not None
    way = (ev.Registered("n", "http://h", "/s"), ev.Prepared(b""), ev.Opened(), WELCOME)
    feed(session, ev.Tick(), *way, now=session.wake_at)
    received(session, p.Load(recipe=RECIPE))

    assert feed(session, LOADED) == []


def test_a_model_that_is_loading_is_not_asked_for_twice() -> None:
    session = serving()
    received(session, p.Load(recipe=RECIPE))

    with pytest.raises(p.ProtocolError) as error:
        received(session, p.Load(recipe=RECIPE))

    assert error.value.close_code == p.CloseCode.OUT_OF_ORDER


def test_a_model_that_was_unloaded_meanwhile_is_not_announced() -> None:
    session = serving()
    received(session, p.Load(recipe=RECIPE), p.Unload(digest=DIGEST))

    assert feed(session, LOADED) == []


def test_jobs_for_a_model_that_is_not_here_fail_at_once() -> None:
    session = serving()

    (frame,) = sent(received(session, p.Jobs(items=(job(),))))

    assert frame == p.Failed(attempt_id="a1", blame="node", code="model_not_loaded")


# ── attempts ─────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_executed_and_its_result_sent() -> None:
    session = ready()

    assert received(session, p.Jobs(items=(job(),))) == [ev.Execute((job(),))]
    assert session.held == {"a1"}
    assert sent(feed(session, ev.Finished((result(),)))) == [p.Results(items=(result(),))]
    assert session.held == frozenset()


def test_a_failure_is_sent_with_its_blame() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))
    failed = p.Failed(attempt_id="a1", blame="input", code="too_long")

    assert sent(feed(session, ev.Finished((failed,)))) == [failed]
    assert sent(feed(session, ev.Finished((result(),)))) == []


def delta(seq: int, attempt_id: str = "a1") -> p.Delta:
    return p.Delta(attempt_id=attempt_id, seq=seq, text=f"piece {seq}")


def test_the_pieces_of_an_answer_are_sent_before_its_result() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(), job("a2"))))

    first = sent(feed(session, ev.Finished((delta(0),))))
    then = sent(feed(session, ev.Finished((result("a2"), delta(1), delta(2), result()))))

    assert first == [delta(0)]
    assert then == [delta(1), delta(2), p.Results(items=(result("a2"), result()))]
    assert session.held == frozenset()


def test_the_pieces_of_an_attempt_that_is_not_held_any_more_are_dropped() -> None:
    session = ready()
    received(session, p.Jobs(items=(job("gone"), job("late", lease_s=2.0))))
    received(session, p.Cancel(attempt_ids=("gone",)))

    pieces = (delta(0, "gone"), delta(0, "late"), delta(0, "unknown"))

    assert sent(feed(session, ev.Finished(pieces), now=2.0)) == []


def test_an_attempt_whose_lease_ended_is_dropped_unrun() -> None:
    session = ready()
    received(session, p.Jobs(items=(job("a1", lease_s=2.0), job("a2", lease_s=9.0))), now=100.0)

    assert feed(session, ev.Tick(), now=101.9) == []
    assert feed(session, ev.Tick(), now=102.0) == [ev.Drop(("a1",))]
    assert session.held == {"a2"}


def test_a_result_after_the_end_of_its_lease_is_not_sent() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(lease_s=2.0),)), now=100.0)

    assert feed(session, ev.Finished((result(),)), now=102.5) == []


def test_a_cancelled_attempt_is_dropped_and_its_result_too() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    assert received(session, p.Cancel(attempt_ids=("a1", "unknown"))) == [ev.Drop(("a1",))]
    assert feed(session, ev.Finished((result(),))) == []


def test_an_attempt_named_twice_in_one_cancel_is_dropped_once() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    assert received(session, p.Cancel(attempt_ids=("a1", "a1"))) == [ev.Drop(("a1",))]


@pytest.mark.parametrize("items", [(job("a1"),), (job("b"), job("b"))])
def test_an_attempt_sent_twice_is_out_of_order(items: tuple[p.JobItem, ...]) -> None:
    session = ready()
    received(session, p.Jobs(items=(job("a1"),)))

    with pytest.raises(p.ProtocolError) as error:
        received(session, p.Jobs(items=items))

    assert error.value.close_code == p.CloseCode.OUT_OF_ORDER
    assert session.held == {"a1"}


def test_results_that_exceed_a_frame_are_split_and_a_hopeless_one_fails() -> None:
    session = ready()
    names = ("a", "b", "c", "d")
    received(session, p.Jobs(items=tuple(job(name) for name in names)))
    half = bytes(p.MAX_FRAME_BYTES // 2)
    outcomes = (*(result(name, half) for name in "abc"), result("d", half * 2))

    frames = sent(feed(session, ev.Finished(outcomes)))

    assert [type(frame).__name__ for frame in frames] == ["Failed", "Results", "Results", "Results"]
    assert all(len(p.encode(frame)) <= p.MAX_FRAME_BYTES for frame in frames)
    assert session.held == frozenset()


def test_more_attempts_than_a_node_can_hold_are_handed_back() -> None:
    session = ready()
    received(session, p.Jobs(items=tuple(job(f"a{n}") for n in range(p.MAX_ITEMS))))

    (frame,) = sent(received(session, p.Jobs(items=(job("one more"),))))

    assert frame == p.Failed(attempt_id="one more", blame="node", code=p.HANDED_BACK)


# ── politeness ───────────────────────────────────────────────────────────────────────────────────


def test_a_pause_is_told_and_what_is_held_is_handed_back() -> None:
    session = ready()
    received(session, p.Jobs(items=(job("a1"), job("a2"))))

    effects = feed(session, ev.PolicyChanged(PAUSED, p.Limits()))

    assert sent(effects) == [
        p.Capacity(slots=0, state="paused", reason="You paused this node.", limits=p.Limits()),
        p.Failed(attempt_id="a1", blame="node", code=p.HANDED_BACK),
        p.Failed(attempt_id="a2", blame="node", code=p.HANDED_BACK),
    ]
    assert effects[-1] == ev.Drop(("a1", "a2"))
    assert session.held == frozenset()


def test_jobs_that_crossed_the_pause_on_the_wire_are_handed_back() -> None:
    session = ready()
    feed(session, ev.PolicyChanged(PAUSED, p.Limits()))

    (frame,) = sent(received(session, p.Jobs(items=(job(),))))

    assert frame == p.Failed(attempt_id="a1", blame="node", code=p.HANDED_BACK)


def test_a_throttled_node_finishes_what_it_holds_and_offers_less() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))
    throttled = Politeness("throttled", "Busy.", duty=0.25, slots_share=0.25)

    (frame,) = sent(feed(session, ev.PolicyChanged(throttled, p.Limits(cpu_share=0.5))))

    assert frame == p.Capacity(
        slots=9, state="throttled", reason="Busy.", limits=p.Limits(cpu_share=0.5)
    )
    assert session.held == {"a1"}


def test_a_capacity_that_did_not_change_is_not_repeated() -> None:
    session = ready()

    assert feed(session, ev.PolicyChanged(session.politeness, p.Limits())) == []


def test_a_node_with_a_small_share_still_offers_one_slot() -> None:
    session = ready()
    little = Politeness("active", "", duty=0.01, slots_share=0.01)

    (frame,) = sent(feed(session, ev.PolicyChanged(little, p.Limits())))

    assert isinstance(frame, p.Capacity)
    assert frame.slots == 1


def test_a_pause_before_the_welcome_is_told_with_the_first_capacity() -> None:
    session = greeting()
    assert feed(session, ev.PolicyChanged(PAUSED, p.Limits())) == []

    (frame,) = sent(feed(session, WELCOME))

    assert isinstance(frame, p.Capacity)
    assert (frame.state, frame.slots) == ("paused", 0)


# ── liveness ─────────────────────────────────────────────────────────────────────────────────────


def test_a_ping_to_an_idle_node_is_answered_as_idle() -> None:
    assert sent(received(serving(), p.Ping(n=7))) == [p.Pong(n=7, busy_s=0.0)]


def test_a_ping_during_a_computation_tells_how_long_it_has_run() -> None:
    session = serving()
    feed(session, ev.ComputeStarted(), now=10.0)

    assert sent(received(session, p.Ping(n=1), now=10.2)) == [p.Pong(n=1, busy_s=10.2 - 10.0)]


def test_a_ping_that_waited_for_a_computation_tells_how_long_that_was() -> None:
    session = serving()
    feed(session, ev.ComputeStarted(), now=10.0)
    feed(session, ev.ComputeEnded(), now=10.25)

    (waited,) = sent(received(session, p.Ping(n=1), now=10.26))
    (later,) = sent(received(session, p.Ping(n=2), now=10.26 + JUST_ENDED_S))

    assert waited == p.Pong(n=1, busy_s=0.25)
    assert later == p.Pong(n=2, busy_s=0.0)


def test_a_notice_reaches_the_person_at_the_node() -> None:
    assert received(serving(), p.Notice(text="Thanks.")) == [ev.Tell("Thanks.")]


# ── order ────────────────────────────────────────────────────────────────────────────────────────

FRAMES: dict[str, p.Frame] = {
    "welcome": p.Welcome(version=1, node_id="n", ticket=""),
    "refused": p.Refused(reason="no"),
    "load": p.Load(recipe=RECIPE),
    "unload": p.Unload(digest=DIGEST),
    "jobs": p.Jobs(items=(job("new"),)),
    "reveal": p.Reveal(attempt_ids=("x",)),
    "cancel": p.Cancel(attempt_ids=("x",)),
    "drain": p.Drain(),
    "notice": p.Notice(text="t"),
    "ping": p.Ping(n=1),
}
ALLOWED = {
    "greeting": {"welcome", "refused"},
    "serving": {"load", "unload", "jobs", "reveal", "cancel", "drain", "notice", "ping"},
    "draining": {"reveal", "cancel", "notice", "ping"},
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("state", ALLOWED)
def test_each_frame_is_taken_in_its_states_only(state: str, frame: str) -> None:
    session = greeting() if state == "greeting" else ready()
    if state == "draining":
        received(session, p.Drain())

    if frame in ALLOWED[state]:
        received(session, FRAMES[frame])
        return
    with pytest.raises(p.ProtocolError) as error:
        received(session, FRAMES[frame])
    assert error.value.close_code == p.CloseCode.OUT_OF_ORDER
    assert session.state == state
