"""The engine's own time: what it does when the process stood still."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from structlog.testing import capture_logs

from browser_node.protocol import AttemptId, ModelDigest, NodeId
from orchestrator.clock import Clock
from orchestrator.domain import events as ev
from orchestrator.domain.model import JobId, ModelSpec, NewJob, ProjectId
from orchestrator.domain.scheduler import Scheduler
from orchestrator.engine import Engine
from orchestrator.errors import DeadlineExceeded

DIGEST = ModelDigest("0" * 64)


def waiting_engine(clock: Clock) -> tuple[Scheduler, Engine]:
    """An engine whose jobs wait for a CPU worker that is to come."""
    scheduler = Scheduler(
        models={DIGEST: ModelSpec(DIGEST, "m", 1, 1)},
        rng=random.Random(1),
        new_attempt_id=lambda: AttemptId("att_1"),
    )
    engine = Engine(
        scheduler=scheduler,
        models={},
        clock=clock,
        agree=lambda *_: pytest.fail("there is nothing to compare"),
    )
    engine.expect_worker("starting")
    return scheduler, engine


async def test_a_standstill_is_noticed_though_the_timer_is_the_first_to_run() -> None:
    lost_s = 0.0
    _, engine = waiting_engine(Clock(monotonic=lambda: time.monotonic() + lost_s))
    job = NewJob(JobId("j.0"), DIGEST, "x", 1, ProjectId("p"), deadline_s=0.05)
    asked = asyncio.ensure_future(engine.answer([job]))
    await asyncio.sleep(0)

    with capture_logs() as logs:
        lost_s = 60.0
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(asked, 10)

    engine.close()
    assert [entry["event"] for entry in logs] == ["this process did not run"]
    assert logs[0]["for_s"] == pytest.approx(60.0, abs=5.0)


async def test_time_without_any_node_is_no_standstill() -> None:
    gone_s = 0.0
    _, engine = waiting_engine(Clock(monotonic=lambda: time.monotonic() + gone_s))
    worker = NodeId("cpu")
    came = ev.NodeJoined(worker, trusted=True)
    engine.apply(came)
    engine.apply(ev.NodeLeft(worker, "killed"))
    # The job's end is the last thing that a timer was armed for.
    job = NewJob(JobId("j.0"), DIGEST, "x", 1, ProjectId("p"), deadline_s=0.05)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(engine.answer([job]), 10)

    with capture_logs() as logs:
        gone_s = 60.0
        engine.apply(came)
        engine.apply(ev.NodeHeard(worker))

    engine.close()
    assert logs == []


async def test_a_large_request_is_placed_in_slices_so_that_others_get_their_turn() -> None:
    scheduler, engine = waiting_engine(Clock())
    jobs = [NewJob(JobId(f"j.{at}"), DIGEST, "x", 1, ProjectId("p")) for at in range(2_048)]
    asked = asyncio.ensure_future(engine.answer(jobs))
    seen: list[int] = []
    while not seen or seen[-1] < len(jobs):
        await asyncio.sleep(0)
        seen.append(scheduler.queued)

    asked.cancel()
    await asyncio.wait([asked])
    engine.close()
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 64
    assert scheduler.queued == 0
