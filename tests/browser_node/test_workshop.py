"""Models come and go while others work, and what is to be isolated goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from browser_node import protocol as p
from browser_node.politeness import Signals
from tests.browser_node.fake_orchestrator import FakeOrchestrator, Peer, recipe
from tests.browser_node.tiny import OTHER_BACKBONE, TinyNode, build, parts_of, tiny_node

CHALLENGE = (p.Task(input="good news"), p.Task(input="bad news"))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeOrchestrator]:
    build(tmp_path / "build", "first", "second")
    server = FakeOrchestrator(build(tmp_path / "build", "other", backbone=OTHER_BACKBONE))
    async with server.running():
        yield server


@pytest.fixture
async def node(server: FakeOrchestrator, tmp_path: Path) -> AsyncIterator[TinyNode]:
    async with tiny_node(server, tmp_path / "node") as node:
        yield node


@pytest.fixture
async def peer(server: FakeOrchestrator, node: TinyNode) -> Peer:
    _, peer = await server.accept()
    await peer.welcome()
    return peer


def digest(server: FakeOrchestrator, model_id: str) -> str:
    return recipe(server.build_dir, model_id).digest


async def ask_for(server: FakeOrchestrator, peer: Peer, *model_ids: str) -> None:
    for model_id in model_ids:
        await peer.send(p.Load(recipe=recipe(server.build_dir, model_id), challenge=CHALLENGE))


async def load(server: FakeOrchestrator, peer: Peer, *model_ids: str) -> None:
    await ask_for(server, peer, *model_ids)
    for model_id in model_ids:
        assert (await peer.expect(p.Ready)).digest == digest(server, model_id)


async def answered(
    server: FakeOrchestrator, peer: Peer, model_id: str, *, attempt_id: str = "a"
) -> p.Result:
    await send(server, peer, model_id, attempt_id=attempt_id)
    (result,) = (await peer.expect(p.Results)).items
    assert result.attempt_id == attempt_id
    return result


async def send(
    server: FakeOrchestrator, peer: Peer, model_id: str, *, attempt_id: str, isolated: bool = False
) -> None:
    item = p.JobItem(
        attempt_id=attempt_id,
        digest=digest(server, model_id),
        lease_s=20,
        tokens=4,
        input="the sea",
        isolated=isolated,
    )
    await peer.send(p.Jobs(items=(item,)))


# ── models come and go ───────────────────────────────────────────────────────────────────────────


async def test_an_unloaded_model_frees_its_session_and_a_later_load_opens_it_from_the_disk(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    await load(server, peer, "first")
    first = await answered(server, peer, "first")
    server.served.clear()

    await peer.send(p.Unload(digest=digest(server, "first")))
    await load(server, peer, "first")

    before, after = node.onnx.opened
    assert node.onnx.released == [before]
    assert (await answered(server, peer, "first", attempt_id="b")).output == first.output
    assert after.batches[-1] == [4]
    assert server.served == []


async def test_work_for_an_unloaded_model_fails_and_is_blamed_on_the_node(
    server: FakeOrchestrator, peer: Peer
) -> None:
    await load(server, peer, "first")
    await peer.send(p.Unload(digest=digest(server, "first")))
    await send(server, peer, "first", attempt_id="a")

    failed = await peer.expect(p.Failed)

    assert (failed.attempt_id, failed.blame, failed.code) == ("a", "node", "model_not_loaded")


async def test_a_shared_session_is_freed_with_the_last_model_that_uses_it(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    await load(server, peer, "first", "second")

    await peer.send(p.Unload(digest=digest(server, "first")))
    await answered(server, peer, "second")
    assert node.onnx.released == []

    await peer.send(p.Unload(digest=digest(server, "second")))
    await load(server, peer, "other")
    assert node.onnx.released == node.onnx.opened[:1]


async def test_loads_that_come_together_are_answered_one_after_the_other(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    await load(server, peer, "first", "other", "second")

    assert len(node.onnx.opened) == 2
    for model_id in ("first", "other", "second"):
        await answered(server, peer, model_id, attempt_id=model_id)


async def test_a_model_unloaded_while_it_opens_is_not_told_ready_and_leaves_nothing_open(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    node.onnx.may_open.clear()
    await ask_for(server, peer, "other")
    await node.onnx.opening.get()

    await peer.send(p.Unload(digest=digest(server, "other")))
    await peer.send(p.Ping(n=1))
    await peer.expect(p.Pong)
    node.onnx.may_open.set()

    await load(server, peer, "first")
    assert node.onnx.released == node.onnx.opened[:1]
    assert [row.id for row in node.driver.status().models] == ["first"]


async def test_a_model_unloaded_and_loaded_again_while_it_opens_is_told_ready_once(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    node.onnx.may_open.clear()
    await ask_for(server, peer, "other")
    await node.onnx.opening.get()

    await peer.send(p.Unload(digest=digest(server, "other")))
    await ask_for(server, peer, "other")
    await peer.send(p.Ping(n=1))
    await peer.expect(p.Pong)
    node.onnx.may_open.set()

    assert (await peer.expect(p.Ready)).digest == digest(server, "other")
    await answered(server, peer, "other")
    assert [row.state for row in node.driver.status().models] == ["ready"]


async def test_a_model_unloaded_and_loaded_again_during_its_challenge_does_not_fail(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    runs = 0
    challenged = asyncio.Event()
    go_on = asyncio.Event()

    async def pace() -> None:
        nonlocal runs
        runs += 1
        if runs == 8:
            challenged.set()
            await go_on.wait()

    async with tiny_node(server, tmp_path / "node") as node:
        node.onnx.pace = pace
        _, peer = await server.accept()
        await peer.welcome()
        await ask_for(server, peer, "other")
        await asyncio.wait_for(challenged.wait(), 10)
        await peer.send(p.Unload(digest=digest(server, "other")))
        await ask_for(server, peer, "other")
        await peer.send(p.Ping(n=1))
        await peer.expect(p.Pong)
        go_on.set()

        assert len((await peer.expect(p.Ready)).answers) == 2


# ── prefetching never holds up work ──────────────────────────────────────────────────────────────


async def test_jobs_are_answered_while_another_model_downloads(
    server: FakeOrchestrator, peer: Peer
) -> None:
    await load(server, peer, "other")
    server.hold |= set(parts_of("model.onnx"))
    await ask_for(server, peer, "first")

    await answered(server, peer, "other")

    server.release.set()
    await peer.expect(p.Ready)


async def test_jobs_are_answered_while_the_session_of_another_model_is_made(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    await load(server, peer, "first")
    node.onnx.may_open.clear()
    await ask_for(server, peer, "other")
    while await node.onnx.opening.get() != sha256(OTHER_BACKBONE).hexdigest():
        pass

    await answered(server, peer, "first")

    node.onnx.may_open.set()
    await peer.expect(p.Ready)


async def test_a_job_waits_for_one_measuring_run_of_another_model_at_most(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    order: list[str] = []
    begun: asyncio.Queue[None] = asyncio.Queue()
    go_on: asyncio.Queue[None] = asyncio.Queue()

    async def pace() -> None:
        begun.put_nowait(None)
        await go_on.get()

    async with tiny_node(server, tmp_path / "node", meanwhile=lambda: order.append("run")) as node:
        node.onnx.pace = pace
        _, peer = await server.accept()
        await peer.welcome()
        await load(server, peer, "first")
        await ask_for(server, peer, "other")
        for n in range(7):
            await asyncio.wait_for(begun.get(), 10)
            if n == 0:
                order.clear()
            await send(server, peer, "first", attempt_id=str(n))
            # The pong comes in the middle of the run, after the job.
            await peer.send(p.Ping(n=n))
            await peer.expect(p.Pong)
            order.append(f"job {n} waits")
            go_on.put_nowait(None)
            (result,) = (await peer.expect(p.Results)).items
            order.append(f"job {result.attempt_id} is answered")
        # The challenge.
        go_on.put_nowait(None)
        await peer.expect(p.Ready)

    # A run that measures, the job's own, and never a third before the answer.
    assert order[: 4 * 7] == [
        line for n in range(7) for line in (f"job {n} waits", "run", "run", f"job {n} is answered")
    ]


async def test_a_paused_node_opens_a_model_only_when_it_is_resumed(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    async with tiny_node(server, tmp_path / "node") as node:
        _, peer = await server.accept()
        await peer.welcome()
        await load(server, peer, "first")
        await peer.send(p.Unload(digest=digest(server, "first")))
        node.driver.signals = Signals(user_paused=True)
        await ask_for(server, peer, "first")
        for n in range(20):
            await peer.send(p.Ping(n=n))
            await peer.expect(p.Pong)
        assert [row.state for row in node.driver.status().models] == ["loading"]
        assert len(node.onnx.opened) == 1

        node.driver.signals = Signals()

        await peer.expect(p.Ready)
        assert len(node.onnx.opened) == 2


# ── isolation ────────────────────────────────────────────────────────────────────────────────────


class Elsewhere:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[p.JobItem] = asyncio.Queue()
        self.go_on: asyncio.Queue[None] = asyncio.Queue()

    async def run(self, item: p.JobItem) -> p.Result | p.Failed:
        self.items.put_nowait(item)
        await self.go_on.get()
        if item.attempt_id == "bad":
            code = p.CRASHED_IN_ISOLATION
            return p.Failed(attempt_id=item.attempt_id, blame="input", code=code)
        return p.Result(attempt_id=item.attempt_id, output=b"elsewhere", compute_s=1.0, tokens=3)


async def test_isolated_attempts_run_elsewhere_one_by_one_while_the_node_works_on(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    elsewhere = Elsewhere()
    async with tiny_node(server, tmp_path / "node", isolation=elsewhere):
        _, peer = await server.accept()
        await peer.welcome()
        await load(server, peer, "first")
        await send(server, peer, "first", attempt_id="bad", isolated=True)
        await send(server, peer, "first", attempt_id="good", isolated=True)

        assert (await elsewhere.items.get()).attempt_id == "bad"
        await answered(server, peer, "first", attempt_id="plain")
        assert elsewhere.items.empty()

        elsewhere.go_on.put_nowait(None)
        failed = await peer.expect(p.Failed)
        assert (failed.attempt_id, failed.code) == ("bad", "crashed_in_isolation")
        elsewhere.go_on.put_nowait(None)
        (result,) = (await peer.expect(p.Results)).items
        assert (result.attempt_id, result.output) == ("good", b"elsewhere")


async def test_a_cancelled_isolated_attempt_does_not_run_and_one_that_runs_is_not_answered(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    elsewhere = Elsewhere()
    async with tiny_node(server, tmp_path / "node", isolation=elsewhere):
        _, peer = await server.accept()
        await peer.welcome()
        await load(server, peer, "first")
        for attempt_id in ("running", "waiting", "last"):
            await send(server, peer, "first", attempt_id=attempt_id, isolated=True)
        assert (await elsewhere.items.get()).attempt_id == "running"

        await peer.send(p.Cancel(attempt_ids=("running", "waiting")))
        await peer.send(p.Ping(n=1))
        await peer.expect(p.Pong)
        elsewhere.go_on.put_nowait(None)
        elsewhere.go_on.put_nowait(None)

        assert (await elsewhere.items.get()).attempt_id == "last"
        (result,) = (await peer.expect(p.Results)).items
        assert result.attempt_id == "last"


async def test_a_node_without_isolation_runs_an_isolated_attempt_as_any_other(
    server: FakeOrchestrator, node: TinyNode, peer: Peer
) -> None:
    await load(server, peer, "first")

    await send(server, peer, "first", attempt_id="a", isolated=True)

    (result,) = (await peer.expect(p.Results)).items
    assert result.attempt_id == "a"
