"""Ids of attempts."""

from __future__ import annotations

import random
import re

from orchestrator.domain.attempt_ids import AttemptIds


def test_ids_are_all_different_and_of_one_form() -> None:
    new_id = AttemptIds(random.Random(1))

    ids = [new_id() for _ in range(3_500)]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("att_[0-9a-f]{16}", one) for one in ids)


def test_ids_follow_from_the_generator_alone() -> None:
    first, again, other = (AttemptIds(random.Random(seed)) for seed in (1, 1, 2))

    assert [first(), first()] == [again(), again()]
    assert other() != AttemptIds(random.Random(1))()
