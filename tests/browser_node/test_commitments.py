"""The evidence a node keeps of its answers: committed to, shown once, and not kept for long."""

from __future__ import annotations

import pytest

from browser_node import protocol as p
from browser_node import session_events as ev
from browser_node.commitments import Commitments
from browser_node.session import SILENCE_S
from tests.browser_node.frames import DIGEST
from tests.browser_node.sessions import (
    LOADED,
    RECIPE,
    WELCOME,
    WORKER,
    feed,
    job,
    new_session,
    ready,
    received,
    sent,
)


def result(attempt_id: str = "a1", evidence: bytes = b"why") -> p.Result:
    return p.Result(attempt_id=attempt_id, output=b"out", evidence=evidence, compute_s=0.01)


def shown(effects: list[ev.Effect]) -> dict[str, bytes | None]:
    frames = [frame for frame in sent(effects) if isinstance(frame, p.Revealed)]
    return {item.attempt_id: item.evidence for frame in frames for item in frame.items}


# ── in a session ─────────────────────────────────────────────────────────────────────────────────


def test_a_volunteers_node_sends_a_commitment_and_shows_the_evidence_when_asked() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    [frame] = sent(feed(session, ev.Finished((result(),))))
    asked = received(session, p.Reveal(attempt_ids=("a1",)))

    assert isinstance(frame, p.Results)
    assert frame.items[0].evidence == b""
    assert frame.items[0].commitment == p.commitment_to(b"why")
    assert shown(asked) == {"a1": b"why"}


def test_an_answer_without_evidence_commits_to_nothing() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    [frame] = sent(feed(session, ev.Finished((result(evidence=b""),))))

    assert frame == p.Results(items=(result(evidence=b""),))


def test_the_cpu_worker_sends_its_evidence_along() -> None:
    session = new_session(WORKER)
    feed(session, ev.Start(), ev.Prepared(b""), ev.Opened(), WELCOME)
    received(session, p.Load(recipe=RECIPE))
    feed(session, LOADED)
    received(session, p.Jobs(items=(job(digest=DIGEST),)))

    assert sent(feed(session, ev.Finished((result(),)))) == [p.Results(items=(result(),))]


def test_what_was_never_answered_cannot_be_shown() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    assert shown(received(session, p.Reveal(attempt_ids=("a1", "x")))) == {"a1": None, "x": None}


def test_a_lost_connection_ends_what_can_be_asked_for() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))
    feed(session, ev.Finished((result(),)), ev.Closed(1006, "gone"))
    feed(session, ev.Tick(), now=session.wake_at or 0.0)
    feed(session, ev.Registered("nonce", "http://h", "/node/v1"), ev.Prepared(b""), ev.Opened())
    feed(session, WELCOME)

    assert shown(received(session, p.Reveal(attempt_ids=("a1",)))) == {"a1": None}


def test_an_idle_node_wakes_up_to_forget_what_is_old_and_stays_connected() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))
    feed(session, ev.Finished((result(),)))
    wake_at = session.wake_at

    effects = feed(session, ev.Tick(), now=wake_at or 0.0)

    assert (wake_at, effects) == (p.EVIDENCE_KEPT_S, [])
    assert session.wake_at == SILENCE_S
    assert shown(received(session, p.Reveal(attempt_ids=("a1",)), now=31.0)) == {"a1": None}


def test_evidence_that_exceeds_a_frame_is_shown_in_several() -> None:
    session = ready()
    names = ("a", "b", "c")
    received(session, p.Jobs(items=tuple(job(name) for name in names)))
    half = bytes(p.MAX_FRAME_BYTES // 2)
    for name in names:
        feed(session, ev.Finished((result(name, half),)))

    frames = sent(received(session, p.Reveal(attempt_ids=names)))

    assert len(frames) == 3
    assert all(len(p.encode(frame)) <= p.MAX_FRAME_BYTES for frame in frames)


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────


def test_evidence_is_shown_once() -> None:
    kept = Commitments()
    kept.commit(result(), now=0.0)

    first, again = kept.show(["a1", "a1"], now=1.0)

    assert (first.evidence, again.evidence) == (b"why", None)
    assert kept.size_bytes == 0


@pytest.mark.parametrize(("age_s", "there"), [(-0.1, True), (0.0, False)])
def test_evidence_is_kept_for_a_while(age_s: float, there: bool) -> None:
    kept = Commitments()
    kept.commit(result("old"), now=0.0)
    kept.commit(result("new"), now=1.0)

    [old, new] = kept.show(["old", "new"], now=p.EVIDENCE_KEPT_S + age_s)

    assert (old.evidence is not None, new.evidence) == (there, b"why")


def test_no_more_is_kept_than_memory_allows_and_the_latest_always() -> None:
    kept = Commitments()
    third = bytes(p.EVIDENCE_KEPT_BYTES // 3 + 1)
    for name in ("a", "b", "c"):
        kept.commit(result(name, third), now=0.0)
    several = kept.size_bytes
    kept.commit(result("large", bytes(p.EVIDENCE_KEPT_BYTES + 1)), now=0.0)

    assert several == 2 * len(third)
    assert kept.size_bytes == p.EVIDENCE_KEPT_BYTES + 1
    assert [one.evidence is None for one in kept.show("abc", now=0.0)] == [True, True, True]
    assert kept.show(["large"], now=0.0)[0].evidence is not None
