"""Where jobs start: edge first within a budget, the CPU worker where no edge node can.

    adaptive    trusted node with the least expected finish time, alone
                else CPU worker, with a newcomer's trial beside it
    always      two trusted nodes of different identity and network, else CPU worker
    after one   a job whose node died runs alone on an idle node; after two, on the CPU worker in a
    death       process of its own

What cannot start waits in the lane it is expected to start in, or fails at once with the reasons.
A batch job always waits, and takes what has room in the background first: the edge or the CPU
worker. It is neither hedged nor given up for want of time before its deadline. Until it has waited
for `AGEING_S`, it leaves alone who has had a request within `KEPT_FREE_S`, if there are others.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Final

import msgspec

from browser_node.protocol import NodeId, Task
from orchestrator.domain import router
from orchestrator.domain.admission import Admission
from orchestrator.domain.board import Board
from orchestrator.domain.budgets import Budget
from orchestrator.domain.decisions import Decision, Placed
from orchestrator.domain.index import Tier, within
from orchestrator.domain.leases import MAX_LEASE_S
from orchestrator.domain.leases import Kind as LeaseKind
from orchestrator.domain.model import Attempt, Job, Node, Purpose, Subject
from orchestrator.domain.placement import Placement
from orchestrator.domain.turns import (
    AGEING_S,
    Turns,
    edge_tokens,
    is_batch,
    requests_wait,
)

MAX_EDGE_ATTEMPTS: Final = 2
MAX_CLOUD_ATTEMPTS: Final = 3
# A batch job goes to no node that would take longer: a lease could end before its answer.
MOST_BATCH_S: Final = MAX_LEASE_S / 2
PATIENCE: Final = 2.0
# The next request mostly comes to the node that had the last one: lines leave it alone so long.
KEPT_FREE_S: Final = 1.0
# Nobody waits longer than this for the edge where the CPU worker would take half as long.
SPILL_S: Final = 0.3
SEEN_KEPT: Final = 256
NO_CAPACITY: Final = "No node and no CPU worker is available for this model."

# The CPU workers are few: the best of them needs no search.
_ALONE: Final = router.Found()


class Options(msgspec.Struct, frozen=True):
    """The operator's knobs. ``rule``, ``geo`` and ``leases`` exist to be measured against.

    ``hedge_share`` and ``retry_share`` are extra attempts per job; ``project_share`` is the largest
    part of the queue that one project may fill.
    """

    edge_budget_s: float = 5.0
    max_queued: int = 10_000
    hedge_share: float = 0.05
    retry_share: float = 0.2
    project_share: float = 0.5
    newcomers_per_network: int = 4
    rule: router.Rule = "finish"
    geo: bool = True
    leases: LeaseKind = "adaptive"


class Placing:
    def __init__(
        self, board: Board, placement: Placement, *, options: Options, rng: random.Random
    ) -> None:
        self._board = board
        self._placement = placement
        self._options = options
        self._rng = rng
        self.hedges = Budget(options.hedge_share, burst=10.0)
        self.retries = Budget(options.retry_share, burst=100.0)
        self.worker_expected = False
        self.silent: list[Node] = []
        self._turns = Turns(board, self)
        self.admission = Admission(board, rng)

    # ── one job ──────────────────────────────────────────────────────────────────────────────────

    def place(self, job: Job, now: float, fresh: bool = False) -> None:
        """Start ``job``, queue it, or fail it when nothing could ever take it.

        A ``fresh`` one goes behind those that wait for the same nodes.
        """
        board = self._board
        if is_batch(job):
            # Whoever has waited longer goes first; `assign` follows every event.
            if self.worker_will_come(job) or self.edge_could_come(job, now):
                board.queues.push("edge" if self.may_run_on_edge(job) else "cloud", job, now)
            else:
                self._give_up(job, self._barred(job).skipped, now)
            return
        found = None
        if self.may_run_on_edge(job):
            # Whoever waits for the same nodes goes first.
            queued = fresh and requests_wait(board.queues, job)
            found = self._busy(job) if queued else self.start_on_edge(job, now)
            if found is None:
                return
            found.skipped |= self._barred(job).skipped
            wait_s = self._worth_waiting(job, found, now)
            if wait_s is not None and not self._spills(job, wait_s):
                board.queues.push("edge", job, now)
                # Twice the forecast: by then it was wrong, and the CPU worker takes over.
                latest_at = job.submitted_at + self._options.edge_budget_s
                board.timers.arm(min(now + PATIENCE * wait_s + 0.25, latest_at), job.spec.job_id)
                return
        found = found or self._barred(job)
        late = None
        if fresh and job.spec.request_tokens > job.spec.tokens:
            late = self._too_late(job, now, fresh=True)
        # Whoever waits for the CPU worker goes first there, too.
        queued = fresh and bool(board.queues.cloud["interactive"].shares)
        if late is None and not queued and self.try_worker(job, now, found):
            return
        if self.worker_will_come(job):
            late = late or self._too_late(job, now, fresh=fresh)
            if late is None:
                board.queues.push("cloud", job, now)
            else:
                found.skip("cpu_worker_busy")
                message, retry_after_s = late
                self._give_up(job, found.skipped, now, message, retry_after_s)
        elif self.edge_could_come(job, now):
            board.queues.push("edge", job, now)
        else:
            self._give_up(job, found.skipped, now)

    def _barred(self, job: Job) -> router.Found:
        """Return why ``job`` may not run on the edge, so far as its own rules and past say."""
        found = router.Found()
        rules = job.spec.rules
        if rules.placement == "cloud":
            found.skip("project_rule")
        elif job.edge_attempts:
            found.skip("edge_attempts_used")
        if rules.region:
            fleet = self._board.index.fleets[job.spec.digest]
            inside = self._board.index.open_set(job.spec.digest, "trusted", rules.region)
            outside = len(fleet.open["trusted", ""]) - len(inside)
            if outside > 0:
                found.skipped["other_region"] = outside
        return found

    def _busy(self, job: Job) -> router.Found:
        """Return what a search would see where others wait already."""
        found = router.Found()
        found.skip("busy")
        digest, tokens = job.spec.digest, job.spec.tokens
        busy = self._board.index.fleets[digest].busy
        found.sooner(router.soonest_s(busy, digest=digest, tokens=tokens, rng=self._rng) or 0.0)
        return found

    def _too_late(self, job: Job, now: float, *, fresh: bool) -> tuple[str, float | None] | None:
        on_edge = self.may_run_on_edge(job)
        return self.admission.too_late(job, now, fresh=fresh, may_run_on_edge=on_edge)

    def has_worker(self, job: Job) -> bool:
        """Whether a CPU worker has the job's model, with or without room."""
        return any(
            not worker.stale and job.spec.digest in worker.speeds
            for worker in self._board.workers.values()
        )

    def may_run_on_edge(self, job: Job) -> bool:
        rules = job.spec.rules
        if job.cloud_only or rules.placement == "cloud":
            return False
        if rules.verify == "always":
            # One of a pair has failed: the CPU worker is quicker than another pair.
            return not job.edge_attempts
        return job.edge_attempts < MAX_EDGE_ATTEMPTS

    def start_on_edge(
        self, job: Job, now: float, limit_s: float | None = None
    ) -> router.Found | None:
        """Start ``job`` on the best trusted node, or pair of nodes; else return why not."""
        digest, tokens = job.spec.digest, job.spec.tokens
        batch, left_s = is_batch(job), job.deadline_at - now
        if limit_s is None:
            limit_s = MOST_BATCH_S if batch else self._options.edge_budget_s
        within_s = limit_s if limit_s < left_s else left_s
        kept_free_from = self._kept_free_from(job, now) if batch else math.inf
        node, found = self._choose(job, now, within_s, kept_free_from)
        if (
            node is None
            and "kept_for_requests" in found.skipped
            and not self._has_others(job, found)
        ):
            node, found = self._choose(job, now, within_s)
        if node is not None and job.spec.rules.verify == "always":
            second = self._second(job, node, now, within_s)
            if second is None:
                found.skip("no_second_node")
            else:
                self._start(job, node, "trial", found, now)
                self._start(job, second, "trial", found, now)
                return None
        elif node is not None:
            self._start(job, node, "serve", found, now)
            return None
        busy = self._board.index.fleets[digest].busy
        if len(busy) and not batch:
            found.sooner(router.soonest_s(busy, digest=digest, tokens=tokens, rng=self._rng))
        return found

    def _choose(
        self,
        job: Job,
        now: float,
        limit_s: float,
        kept_free_from: float = math.inf,
        networks: tuple[str, ...] = (),
        tier: Tier = "trusted",
        idle_only: bool = False,
    ) -> tuple[Node | None, router.Found]:
        spec = job.spec
        return router.choose(
            self._board.index.open_set(spec.digest, tier, spec.rules.region),
            digest=spec.digest,
            tokens=spec.tokens,
            tried=job.tried,
            now=now,
            limit_s=limit_s,
            rng=self._rng,
            silent=self.silent,
            networks=networks,
            # What newcomers claim of their speed is no reason to prefer them.
            rule=self._options.rule if tier == "trusted" else "random",
            geo=self._options.geo,
            idle_only=idle_only or job.deaths > 0,
            background=spec.priority == "batch",
            kept_free_from=kept_free_from,
        )

    def _kept_free_from(self, job: Job, now: float) -> float:
        """Return since when a node must have had no request to be given a batch job."""
        return now - KEPT_FREE_S if now - job.submitted_at < AGEING_S else math.inf

    def _has_others(self, job: Job, found: router.Found) -> bool:
        """Whether somebody who is not kept free for requests has work in hand, or will come."""
        return "busy" in found.skipped or self.worker_will_come(job)

    def _start(
        self,
        job: Job,
        node: Node,
        purpose: Purpose,
        found: router.Found,
        now: float,
    ) -> Attempt:
        spec, board = job.spec, self._board
        why = board.index.fleets[spec.digest].passed_over()
        if found.skipped:
            why = {**why, **found.skipped}
        background = spec.priority == "batch"
        decision = router.explain(
            node,
            digest=spec.digest,
            tokens=spec.tokens,
            considered=found.considered,
            skipped=why,
            background=background,
        )
        if not node.trusted:
            if not job.edge_attempts:
                self.retries.earn()
                self.hedges.earn()
            elif purpose == "serve":
                # The second of a pair is no retry.
                self.retries.spend()
        return board.start(
            node,
            decision,
            digest=spec.digest,
            task=Task(input=spec.input, params=dict(spec.params)),
            tokens=spec.tokens,
            now=now,
            purpose=purpose,
            job=job,
            alone=job.deaths > 0 and (not node.trusted or job.deaths > 1),
            subject=None if node.trusted else self._subject(job, node),
            background=background,
        )

    def _subject(self, job: Job, node: Node) -> Subject:
        """Return whom a comparison of ``job`` would be about; a newcomer shows something once."""
        asked = hash(job.spec.input)
        new = node.level == "trusted" or asked not in node.seen
        if node.level != "trusted" and len(node.seen) < SEEN_KEPT:
            node.seen = node.seen | {asked}
        return Subject(node.node_id, node.standing, job.spec.digest, new)

    def _second(self, job: Job, first: Node, now: float, limit_s: float) -> Node | None:
        """Return a node that has nothing to do with the first, to answer the same job."""
        tried = job.tried
        own = self._board.sessions.get(first.standing.identity, (first,))
        job.tried = [*tried, *(node.node_id for node in own)]
        networks = (first.network,) if first.network else ()
        second, _ = self._choose(job, now, limit_s, math.inf, networks)
        job.tried = tried
        return second

    def _worth_waiting(self, job: Job, found: router.Found, now: float) -> float | None:
        """Return when a busy edge node is expected to have answered, if within the edge budget."""
        soonest_s = found.soonest_s
        if soonest_s is None or job.spec.rules.region:
            return None
        digest = job.spec.digest
        left_s = job.submitted_at + self._options.edge_budget_s - now
        supply = self._board.index.fleets[digest].supply_tokens_per_s
        expected_s = soonest_s + edge_tokens(self._board.queues, digest) / max(supply, 1.0)
        return expected_s if expected_s <= left_s else None

    def _spills(self, job: Job, wait_s: float) -> bool:
        """Whether the CPU worker should take what would wait ``wait_s`` for the edge."""
        worker = self.best_worker(job) if wait_s > SPILL_S else None
        if worker is None:
            return False
        finish_s = router.finish_s(worker, digest=job.spec.digest, tokens=job.spec.tokens)
        return 2 * finish_s < wait_s

    def _give_up(
        self,
        job: Job,
        skipped: dict[str, int],
        now: float,
        message: str = NO_CAPACITY,
        retry_after_s: float | None = 5.0,
    ) -> None:
        spec, board = job.spec, self._board
        model = board.models[spec.digest]
        why = board.index.skipped(spec.digest, min_memory_mb=model.min_memory_mb)
        for reason, count in skipped.items():
            why[reason] = max(why.get(reason, 0), count)
        if not board.workers:
            why["no_cpu_worker"] = 1
        self._note(job, Decision(None, skipped=why), "serve", now)
        board.fail(job, "no_capacity", message, now, retry_after_s=retry_after_s, skipped=why)

    def _note(self, job: Job, decision: Decision, purpose: str, now: float) -> None:
        """Keep a decision that started no attempt."""
        spec = job.spec
        model_id = self._board.models[spec.digest].model_id
        waited_s = now - job.submitted_at
        self._board.decisions.add(
            Placed(
                now, spec.job_id, spec.project_id, model_id, spec.tokens, purpose, None, waited_s,
                decision, "loading" if purpose == "load" else "unplaced", 0.0,
            )
        )  # fmt: skip

    # ── the CPU worker ───────────────────────────────────────────────────────────────────────────

    def try_worker(self, job: Job, now: float, found: router.Found | None = None) -> bool:
        """Start ``job`` on the CPU worker that would finish it first, if one has room.

        ``found`` is why no edge node takes it, for the record.
        """
        worker = self.best_worker(job)
        if worker is None:
            return False
        self._start(job, worker, "serve", found or self._barred(job), now)
        self._try_newcomer(job, now)
        return True

    def best_worker(self, job: Job) -> Node | None:
        """Return the CPU worker with room that would finish ``job`` first."""
        digest, tokens, background = job.spec.digest, job.spec.tokens, is_batch(job)
        best: tuple[float, NodeId] | None = None
        for node in self._board.workers.values():
            if node.stale or digest not in node.speeds:
                continue
            if not router.has_room(node, digest=digest, tokens=tokens, background=background):
                continue
            finish = router.finish_s(node, digest=digest, tokens=tokens, background=background)
            if best is None or (finish, node.node_id) < best:
                best = (finish, node.node_id)
        return None if best is None else self._board.nodes[best[1]]

    def hedge(self, job: Job, now: float, *, urgent: bool) -> bool:
        """Start ``job`` a second time, on the CPU worker; False when it cannot be done now.

        Half of the budget is kept for urgent ones: what is only just late mostly comes by itself.
        """
        if job.hedged or job.relayed is not None:
            return True
        worker = self.best_worker(job)
        reserve = 0.0 if urgent else self.hedges.burst / 2
        if worker is None or not self.hedges.spend(reserve=reserve):
            return False
        job.hedged = True
        self._start(job, worker, "hedge", _ALONE, now)
        return True

    def _try_newcomer(self, job: Job, now: float) -> None:
        """Let a newcomer answer beside the CPU worker: it costs the customer nothing."""
        rules = job.spec.rules
        if not rules.replays or rules.placement != "any" or job.deaths or job.held or job.tried:
            return
        if not len(self._board.index.fleets[job.spec.digest].open["newcomer", ""]):
            return
        full = self._board.full_networks(self._options.newcomers_per_network)
        limit_s = min(self._options.edge_budget_s, job.deadline_at - now)
        node, found = self._choose(job, now, limit_s, math.inf, full, "newcomer", idle_only=True)
        if node is not None and node.recalled:
            self._start(job, node, "trial", found, now)

    def worker_will_come(self, job: Job) -> bool:
        """Whether a CPU worker is there, or to come, that could still run the job's model."""
        workers = self._board.workers.values()
        if not workers:
            return self.worker_expected
        return any(job.spec.digest not in worker.lost for worker in workers)

    def edge_could_come(self, job: Job, now: float) -> bool:
        """Whether a trusted node has the model, or will have it before the job's deadline."""
        if not self.may_run_on_edge(job):
            return False
        spec = job.spec
        fleet = self._board.index.fleets[spec.digest]
        model = self._board.models[spec.digest]

        def suits(node: Node) -> bool:
            return (
                node.level == "trusted"
                and node.node_id not in job.tried
                and within(node.region, spec.rules.region)
            )

        silent = [node for node in self.silent if spec.digest in node.speeds]
        late = fleet.late.values()
        waiting = itertools.chain(fleet.busy, fleet.open["trusted", ""], late, silent)
        could = filter(suits, itertools.islice(waiting, 2 * router.SAMPLE))
        identities = {node.standing.identity for node in could}
        if spec.rules.verify == "always":
            return len(identities) > 1
        if identities:
            return True
        for node in filter(suits, itertools.islice(fleet.loading.values(), router.SAMPLE)):
            if node.load_began_at + router.cold_load_s(node, model) < job.deadline_at:
                return True
        loader = self._placement.load_for(job, now)
        if loader is None:
            return False
        cold_s = router.cold_load_s(loader, model)
        decision = router.explain(
            loader,
            digest=spec.digest,
            tokens=spec.tokens,
            considered=1,
            skipped={},
            background=False,
            cold_s=cold_s,
        )
        self._note(job, decision, "load", now)
        return True

    # ── queues ───────────────────────────────────────────────────────────────────────────────────

    def assign(self, now: float) -> None:
        """Give queued jobs to whatever has room now, in turn."""
        self._turns.assign(now)
