"""Attackers for tests and their stage: scripted lies, real sockets, an honest CPU worker."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from browser_node import protocol as p
from orchestrator.domain.model import Answered, Rules
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing
from tests.arena import Arena, arena
from tests.fakes import ScriptedNode, Shelf, vector_of

RUNTIME = RuntimeClass("native/onnxruntime")
# As the defaults, but for how many audits it takes: three, one of them on a customer's text.
POLICY = Policy(trust_after=3, real_after=1)
EVERY_ANSWER = Policy(trust_after=3, real_after=1, audit_share=1.0)
HARDLY_ANY = Policy(trust_after=3, real_after=1, audit_share=1e-9)
ALWAYS = Rules(verify="always")

Lie = Callable[[ScriptedNode, p.JobItem], bytes]
OnJobs = Callable[[ScriptedNode, p.Jobs], None]


# ── what the attackers do ────────────────────────────────────────────────────────────────────────


def garbage(_: ScriptedNode, item: p.JobItem) -> bytes:
    return vector_of(item.input[::-1] + "!")


def twice_as_long(_: ScriptedNode, item: p.JobItem) -> bytes:
    """A vector of the right direction: its cosine alone would let it through."""
    return array("f", [2 * value for value in array("f", vector_of(item.input))]).tobytes()


def the_same_always(_: ScriptedNode, __: p.JobItem) -> bytes:
    return vector_of("what is said most often")


def another_jobs_result(node: ScriptedNode, item: p.JobItem) -> bytes:
    others = [seen.input for seen in node.jobs_seen if seen.input != item.input]
    return vector_of(others[-1] if others else "the first of all")


def out_of_shape(_: ScriptedNode, __: p.JobItem) -> bytes:
    return b"\xff" * 100


def tells(lie: Lie, when: Callable[[p.JobItem], bool] = lambda _: True) -> OnJobs:
    """Return the behaviour of a node that lies when it likes and is honest else."""

    def on_jobs(node: ScriptedNode, frame: p.Jobs) -> None:
        for item in frame.items:
            if when(item):
                send(node, item.attempt_id, lie(node, item))
            else:
                node.answer(item)

    return on_jobs


def send(node: ScriptedNode, attempt_id: str, output: bytes) -> None:
    result = p.Result(attempt_id=attempt_id, output=output, compute_s=0.001, tokens=1)
    node.send(p.Results(items=(result,)))


def of_customers(item: p.JobItem) -> bool:
    """Whether a text is a customer's: the others can be known from this project's source."""
    return item.input.startswith("text ")


# ── the stage ────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def stage(policy: Policy = POLICY, **options: Any) -> AsyncIterator[tuple[Arena, Shelf]]:
    """Run an arena with an honest CPU worker and records that outlive sessions.

    ``worker`` are the options of the CPU worker's node, ``models`` the arena's if not its own.
    """
    shelf = Shelf()
    worker, models = options.pop("worker", {}), options.pop("models", ())
    options |= {"policy": policy, "standings": shelf, "find_standing": shelf.find}
    async with arena(*models, **options) as a:
        await a.join_worker(**worker)
        yield a, shelf


def known(shelf: Shelf, node: ScriptedNode, **changes: Any) -> None:
    """Put a record of long honesty on the shelf for the node's key."""
    identity = identity_of(node)
    fields = {"consecutive": 1000, "real": 1000, "agreed": 1000, **changes}
    shelf.changed(Standing(identity, RUNTIME, **fields), now=0.0)


def identity_of(node: ScriptedNode) -> Identity:
    return Identity(hashlib.sha256(node.public_key).hexdigest())


def level(a: Arena, node: ScriptedNode) -> str:
    """Return what the node is believed to be, or nothing when it is not here."""
    return next((row.level for row in a.engine.fleet().nodes if row.id == node.node_id), "")


async def trusted(a: Arena, shelf: Shelf, **options: Any) -> ScriptedNode:
    """Let a node with a good record join, and wait until it is believed."""
    node = a.node(**options)
    known(shelf, node)
    await node.join(a.url)
    await a.until(lambda: level(a, node) == "trusted")
    await a.settled()
    return node


def agreed(shelf: Shelf, node: ScriptedNode) -> int:
    """Return how many audits in a row the node has passed."""
    record = shelf.find(identity_of(node), RUNTIME)
    return 0 if record is None else record.consecutive


async def gone(a: Arena, node: ScriptedNode) -> None:
    """Wait until the node is quarantined."""
    await a.until(lambda: level(a, node) == "quarantined")


async def ask(a: Arena, count: int, *, first: int = 0, **changes: Any) -> list[Answered]:
    """Have customers' texts answered one by one, and wait until what follows is done."""
    answers = []
    for number in range(first, first + count):
        answers += await a.answer(f"text {number}", **changes)
    return answers


def wrong(answers: list[Answered], *, first: int = 0) -> list[Answered]:
    return [a for n, a in enumerate(answers, first) if a.output != vector_of(f"text {n}")]


async def quiet(a: Arena) -> None:
    """Wait until nobody computes anything any more."""
    await a.until(lambda: all(row.slots_used == 0 for row in a.engine.fleet().nodes))


def done(a: Arena, node: ScriptedNode) -> int:
    """Return how many of the node's answers have been taken in."""
    return next(row.jobs_done for row in a.engine.fleet().nodes if row.id == node.node_id)
