"""Where answers are judged and the records of nodes are looked up and kept, off the loop.

Performs the engine's effects of trust; outcomes come back as events, on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import structlog

from browser_node.agreement import Verdict
from browser_node.models import Manifest
from browser_node.protocol import ModelDigest, NodeId
from orchestrator.clock import Clock
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import fleet as fl
from orchestrator.domain.model import CheckId
from orchestrator.domain.node_session import Agree
from orchestrator.domain.shapes import trait_of
from orchestrator.domain.trust import Identity, RuntimeClass, Standing

RECALL_AGAIN_S: Final = 5.0
_SET_ASIDE: Final = ("quarantined", "banned")

log = structlog.get_logger("trust")


class StandingBook(Protocol):
    """Where the records of identities are kept; ``now`` is wall-clock time. Nothing blocks."""

    def changed(self, standing: Standing, *, now: float, released: bool = False) -> None:
        """Keep a record; only with ``released`` is a kept quarantine or ban lifted."""

    def disagreed(self, standing: Standing, evidence: fx.Evidence, *, now: float) -> None:
        """Keep a record and the evidence of the wrong answer that moved it."""


FindStanding = Callable[[Identity, RuntimeClass], Standing | None]
"""Looks the record of an identity up; called in a thread."""


class Court:
    """``apply`` takes an event on the loop, ``record`` a sentence for the operator."""

    def __init__(
        self,
        *,
        models: Mapping[ModelDigest, Manifest],
        clock: Clock,
        agree: Agree,
        standings: StandingBook | None,
        find_standing: FindStanding | None,
        apply: Callable[[ev.Event], None],
        record: Callable[[fl.EventKind, str, NodeId | None], None],
    ) -> None:
        self._models = models
        self._clock = clock
        self._agree = agree
        self._standings = standings
        self._find_standing = find_standing
        self._apply = apply
        self._record = record
        self._judges = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._clerks = ThreadPoolExecutor(1, thread_name_prefix="standings")

    def close(self) -> None:
        """Let go of what has not been judged or looked up yet."""
        self._judges.shutdown(wait=False, cancel_futures=True)
        self._clerks.shutdown(wait=False, cancel_futures=True)

    def recall(self, effect: fx.RecallStanding) -> None:
        """Look an identity up; a lookup that fails leaves it unknown, and without work."""
        identity, runtime = effect.identity, effect.runtime
        if self._find_standing is None:
            self._apply(ev.StandingRecalled(identity, runtime, None))
            return
        found = asyncio.get_running_loop().run_in_executor(
            self._clerks, self._find_standing, identity, runtime
        )

        def recalled(future: asyncio.Future[Standing | None]) -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is not None:
                # Not taken for "never seen": a quarantine must not end with a full disk.
                log.error("the record of a node could not be read", error=repr(error))
                asyncio.get_running_loop().call_later(RECALL_AGAIN_S, self.recall, effect)
                return
            self._apply(ev.StandingRecalled(identity, runtime, future.result()))

        found.add_done_callback(recalled)

    def compare(self, effect: fx.Compare) -> None:
        """Judge an answer: vectors at once, what has to be derived again in a thread."""
        if self._models[effect.digest].pipeline == "embeddings":
            self._judged(effect.check_id, self._judge(effect))
            return
        judging = asyncio.get_running_loop().run_in_executor(self._judges, self._judge, effect)

        def judged(future: asyncio.Future[Verdict | None]) -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is not None:
                log.error("an answer could not be judged", error=repr(error))
                self._apply(ev.Judged(effect.check_id, False, undecided=True))
            else:
                self._judged(effect.check_id, future.result())

        judging.add_done_callback(judged)

    def standing_changed(self, effect: fx.StandingChanged) -> None:
        """Keep a record, and tell the operator of what is new about it."""
        standing, evidence, now = effect.standing, effect.evidence, self._clock.wall()
        if self._standings is not None and evidence is not None:
            self._standings.disagreed(standing, evidence, now=now)
        elif self._standings is not None:
            released = effect.before in _SET_ASIDE and effect.after not in _SET_ASIDE
            self._standings.changed(standing, now=now, released=released)
        if evidence is not None:
            log.warning(
                "a node disagreed",
                node_id=evidence.node_id,
                identity=standing.identity[:12],
                model=evidence.model_id,
                kind=evidence.kind,
                min_cosine=round(evidence.min_cosine, 4),
                reason=evidence.reason,
            )
        if effect.before == effect.after:
            return
        node_id = evidence.node_id if evidence is not None else effect.node_id
        name = f"The device {standing.identity[:8]} ({standing.runtime})"
        if effect.after == "trusted":
            self._record("trusted", f"{name} has earned trust.", node_id)
        elif effect.after in _SET_ASIDE:
            self._record("quarantined", f"{name} is {effect.after}: {standing.reason}", node_id)
        elif effect.before == "trusted":
            self._record("quarantined", f"{name} has lost trust.", node_id)

    def released(self, standing: Standing) -> None:
        """Keep a record although the kept one may say that its node is set aside."""
        if self._standings is not None:
            self._standings.changed(standing, now=self._clock.wall(), released=True)

    def _judge(self, effect: fx.Compare) -> Verdict | None:
        if effect.fault == "forged":
            return Verdict(False, -1.0, "it shows other evidence than it had committed to")
        manifest = self._models[effect.digest]
        # An embedding is its own evidence.
        if effect.fault == "unshown" and manifest.pipeline != "embeddings":
            return _judge_output(manifest, effect.trusted.output, effect.answer.output)
        return self._agree(effect.digest, effect.task, effect.trusted, effect.answer)

    def _judged(self, check_id: CheckId, verdict: Verdict | None) -> None:
        if verdict is None:
            self._apply(ev.Judged(check_id, False, undecided=True, unshown=True))
        else:
            self._apply(ev.Judged(check_id, verdict.agrees, verdict.min_cosine, verdict.reason))


def _judge_output(manifest: Manifest, trusted: bytes, output: bytes) -> Verdict | None:
    """Judge an answer that came without evidence; None where it cannot be told.

    Honest runtimes differ in the last digits of a score and may differ in a keyword; in the first
    category or the sentences of a summary they differ once in fifty times.
    """
    if output == trusted:
        return Verdict(True, 1.0, "")
    if trait_of(manifest, output) != trait_of(manifest, trusted):
        return Verdict(False, -1.0, "the output differs, and what it rests on was not shown")
    return None
