"""Which line is next: fresh ones, those that wait, pauses, and turns between batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.batches.work import Turns, Work


def work(total: int, *, answered: tuple[int, ...] = (), width: int = 100) -> Work:
    return Work(total, answered, retry_s=2.0, width=width, jitter=lambda: 0.0)


def test_lines_are_taken_in_the_order_of_the_input_without_those_that_are_answered() -> None:
    some = work(5, answered=(0, 3))

    assert [some.take(0.0) for _ in range(3)] == [1, 2, 4]
    assert some.next_at_s(0.0) is None
    assert some.left == 3


def test_another_try_waits_twice_as_long_each_time() -> None:
    some = work(1)
    now, waits = 0.0, []
    for _ in range(4):
        assert some.take(now) == 0
        some.retry(0, now, retry_after_s=None)
        ready = some.next_at_s(now)
        assert ready is not None
        waits.append(ready - now)
        now = ready

    assert waits == [2.0, 4.0, 8.0, 16.0]
    some.take(now)
    assert some.tries(0) == 5


def test_a_wait_is_as_long_as_the_answer_asked_for() -> None:
    some = work(1)
    some.take(0.0)
    some.retry(0, 0.0, retry_after_s=30.0)

    assert some.next_at_s(0.0) == 30.0


def test_a_pause_holds_all_lines_back_and_counts_no_try() -> None:
    some = work(3)
    some.take(0.0)
    some.pause(0, 0.0, retry_after_s=None)

    assert some.next_at_s(0.0) == 2.0
    # Others first: it may be this one line that nobody can take.
    assert some.take(2.0) == 1
    assert some.next_at_s(2.0) is None
    some.answer(1, good=True)
    assert (some.take(4.0), some.tries(0)) == (0, 1)


def test_lines_that_were_under_way_together_make_one_pause() -> None:
    some = work(8)
    for _ in range(8):
        some.take(0.0)
    for at in range(8):
        some.pause(at, 0.1, retry_after_s=None)

    assert some.next_at_s(0.1) is not None
    some.take(10.0)
    some.pause(0, 10.0, retry_after_s=None)
    # The second pause in a row: twice as long as the first.
    assert some.next_at_s(10.0) == 14.0


def test_after_a_pause_lines_come_one_by_one_at_first() -> None:
    some = work(100, width=3)
    some.take(0.0)
    some.pause(0, 0.0, retry_after_s=None)

    at = some.take(2.0)
    assert some.next_at_s(2.0) is None
    some.answer(at, good=True)
    first, second = some.take(2.0), some.take(2.0)
    assert some.next_at_s(2.0) is None
    some.answer(first, good=True)
    some.answer(second, good=True)
    for _ in range(3):
        some.take(2.0)
    assert some.next_at_s(2.0) is None


def test_a_dropped_line_is_as_good_as_new() -> None:
    some = work(1)
    some.take(0.0)
    some.drop(0)

    assert (some.left, some.take(0.0), some.tries(0)) == (1, 0, 1)


@dataclass(eq=False)
class Batch:
    project_id: str
    work: Work


def test_turns_go_round_projects_then_batches() -> None:
    turns: Turns[Batch] = Turns()
    large, small, other = Batch("a", work(1000)), Batch("a", work(3)), Batch("b", work(1000))
    for batch in (large, small, other):
        turns.add(batch)
    taken: list[Batch] = []
    for _ in range(12):
        turn = turns.next(0.0)
        assert turn is not None
        turn.work.take(0.0)
        taken.append(turn)

    assert Counter(id(batch) for batch in taken) == {id(large): 3, id(small): 3, id(other): 6}
    assert taken[:4] == [large, other, small, other]


def test_the_soonest_of_all_batches_is_told() -> None:
    turns: Turns[Batch] = Turns()
    assert turns.soonest(0.0) is None
    waiting, full = Batch("a", work(1)), Batch("b", work(2, width=1))
    turns.add(waiting)
    turns.add(full)
    waiting.work.take(0.0)
    waiting.work.retry(0, 0.0, retry_after_s=None)
    full.work.take(0.0)

    assert turns.next(0.0) is None
    assert turns.soonest(0.0) == 2.0
    turns.remove(waiting)
    turns.remove(waiting)
    assert turns.soonest(0.0) is None


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from(["answer", "retry", "pause", "drop"]), st.integers(0, 99))),
)
def test_no_order_of_events_loses_or_doubles_a_line(
    total: int, events: list[tuple[str, int]]
) -> None:
    some, now, answered = work(total, width=4), 0.0, []
    held: list[int] = []

    def fill() -> None:
        nonlocal now
        while (ready := some.next_at_s(now)) is not None:
            now = max(now, ready)
            held.append(some.take(now))
            assert held[-1] not in answered

    for event, which in events:
        fill()
        if not held:
            break
        at = held.pop(which % len(held))
        match event:
            case "answer":
                some.answer(at, good=bool(which % 2))
                answered.append(at)
            case "retry":
                some.retry(at, now, retry_after_s=None)
            case "pause":
                some.pause(at, now, retry_after_s=None)
            case _:
                some.drop(at)
    while True:
        fill()
        if not held:
            break
        answered.append(held.pop())
        some.answer(answered[-1], good=True)

    assert sorted(answered) == list(range(total))
    assert some.left == 0
    assert list(some.unanswered()) == []
