"""Timers: what is due comes in its order, whoever is gone is passed over."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.timers import Timers

ARMED = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30)


@given(armed=ARMED, gone=st.sets(st.integers(0, 29)))
def test_timers_and_deadlines_come_due_in_one_order(
    armed: list[tuple[bool, int]], gone: set[int]
) -> None:
    subjects: dict[str, Any] = {str(n): n for n in range(len(armed)) if n not in gone}
    timers = Timers(subjects.get, subjects.get)
    for number, (deadline, due_at) in enumerate(armed):
        (timers.arm_deadline if deadline else timers.arm)(due_at, str(number))
        assert timers.first_at == min(due_at for _, due_at in armed[: number + 1])
    expected = sorted((at, n) for n, (_, at) in enumerate(armed) if n not in gone)

    found: list[Any] = []
    while (at := timers.next()) is not None:
        assert timers.first_at == at
        assert timers.due(at - 1) is None
        found.append((at, timers.due(at)))

    assert found == expected
    assert timers.due(10) is None


def test_what_is_armed_for_never_is_not_armed() -> None:
    subjects: dict[str, Any] = {"a": 1}
    timers = Timers(subjects.get, subjects.get)
    timers.arm(float("inf"), "a")

    assert timers.next() is None


def test_a_deadline_is_forgotten_with_its_job_however_far_off_it_is() -> None:
    subjects: dict[str, Any] = {}
    timers = Timers(subjects.get, subjects.get)
    for number in range(1000):
        name = str(number)
        subjects[name] = number
        timers.arm_deadline(30.0 + number, name)
        del subjects[name]
        timers.next()

    assert timers.first_at == math.inf
