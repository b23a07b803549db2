"""The server without its router: what a request costs when placing and counting cost nothing.

python -m bench.bare serve …        as `zerogpu serve …`

Jobs go to the nodes in turn, without leases, forecasts, trust or a second try, and tokens are not
counted: what a node cannot answer waits for its deadline. So it is nobody's server. All else is as
it is: keys, limits, checks, frames, the answer's JSON, the row of the log. What the real server
costs beyond it is what deciding costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from browser_node.protocol import AttemptId, JobItem
from orchestrator import app
from orchestrator.__main__ import main
from orchestrator.domain import events as ev
from orchestrator.domain.model import Answered, NewJob
from orchestrator.engine import Connection, Engine
from orchestrator.storage.token_counter import Limit, Measured, TokenCounter

# About what the texts of the benchmark have; answers have more, and nobody adds them up here.
_TOKENS: Final = 160


class InTurn(Engine):
    """An engine that asks its scheduler for everything but where jobs go."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._given: dict[AttemptId, NewJob] = {}
        self._numbers = itertools.count()
        self._turns: Iterator[Connection] | None = None

    def apply(self, event: ev.Event) -> None:
        if isinstance(event, ev.JobsSubmitted):
            for job in event.jobs:
                self._give(job)
        elif isinstance(event, ev.AttemptsFinished) and event.results[0].attempt_id in self._given:
            for result in event.results:
                job = self._given.pop(result.attempt_id)
                self._deliver(
                    Answered(job.job_id, result.output, "edge", event.node_id, 1, result.compute_s)
                )
        else:
            super().apply(event)

    def _give(self, job: NewJob) -> None:
        if self._turns is None:
            # All have joined by the first request, and stay.
            self._turns = itertools.cycle(
                [one for one in self._connections.values() if not one.session.trusted]
            )
        connection = next(self._turns)
        attempt_id = AttemptId(f"att_{next(self._numbers):016x}")
        self._given[attempt_id] = job
        item = JobItem(
            attempt_id=attempt_id,
            digest=job.digest,
            lease_s=job.deadline_s,
            tokens=job.tokens,
            input=job.input,
            params=dict(job.params),
        )
        connection.session.hold((item,))
        connection.link.hand((item,))


class Uncounted(TokenCounter):
    """A counter that says the same of every text."""

    def measure_one_now(self, text: str, limit: Limit) -> Measured:
        return Measured(text, _TOKENS)

    def count_output_now(self, text: str) -> int:
        return _TOKENS


if __name__ == "__main__":
    from orchestrator.storage import catalogue

    for module, name, without in ((app, "Engine", InTurn), (catalogue, "TokenCounter", Uncounted)):
        if not hasattr(module, name):
            raise RuntimeError(f"{module.__name__} has no {name} to replace any more")
        setattr(module, name, without)
    main()
