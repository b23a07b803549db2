"""The driver over real sockets: joining, loading, working, pausing, coming back, leaving."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from starlette.responses import JSONResponse

from browser_node import protocol as p
from browser_node.politeness import Signals, VolunteerLimits
from browser_node.runtimes.status import Status
from tests.browser_node.arithmetic import vector_of
from tests.browser_node.fake_orchestrator import FakeOrchestrator, Peer, recipe
from tests.browser_node.tiny import RecordingClock, TinyNode, build, parts_of, tiny_node

CHALLENGE = (p.Task(input="good news"), p.Task(input="bad news"))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeOrchestrator]:
    server = FakeOrchestrator(build(tmp_path / "build", "first", "second"))
    async with server.running():
        yield server


@pytest.fixture
async def node(server: FakeOrchestrator, tmp_path: Path) -> AsyncIterator[TinyNode]:
    async with tiny_node(server, tmp_path / "node") as node:
        yield node


async def load(server: FakeOrchestrator, peer: Peer, model_id: str = "first") -> p.Ready:
    await peer.send(p.Load(recipe=recipe(server.build_dir, model_id), challenge=CHALLENGE))
    return await peer.expect(p.Ready)


async def joined(server: FakeOrchestrator) -> Peer:
    """Welcome the next node and let it load the first model."""
    _, peer = await server.accept()
    await peer.welcome()
    await load(server, peer)
    return peer


def job(server: FakeOrchestrator, attempt_id: str, text: str = "the sea") -> p.JobItem:
    digest = recipe(server.build_dir, "first").digest
    return p.JobItem(attempt_id=attempt_id, digest=digest, lease_s=20, tokens=4, input=text)


def floats(output: bytes) -> list[float]:
    return array("f", output).tolist()


# ── joining and working ──────────────────────────────────────────────────────────────────────────


async def test_a_node_joins_loads_a_model_and_answers(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    hello, peer = await server.accept()
    assert (hello.runtime.kind, hello.cached, hello.ticket) == ("native", (), None)
    await peer.welcome()
    ready = await load(server, peer)

    await peer.send(p.Jobs(items=(job(server, "a1"), job(server, "a2", "bad news"))))
    results = (await peer.expect(p.Results)).items

    assert [speed.batch_size for speed in ready.calibration] == [1, 8]
    assert floats(ready.answers[0].output) == pytest.approx(vector_of([1, 3, 4, 2]))
    assert {item.attempt_id for item in results} == {"a1", "a2"}
    assert {item.attempt_id: floats(item.output) for item in results}["a2"] == pytest.approx(
        vector_of([1, 5, 4, 2])
    )
    status = node.driver.status()
    assert (status.phase, status.jobs_done, status.tokens_done) == ("working", 2, 8)


async def test_a_summary_is_streamed_sentence_by_sentence(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    build(server.build_dir, "summary", pipeline="extractive-summary")
    _, peer = await server.accept()
    await peer.welcome()
    ready = await load(server, peer, "summary")
    text = "The good news is from the sea. The bad news is not. And the sea is as it was before."
    items = tuple(
        p.JobItem(
            attempt_id=attempt_id,
            digest=ready.digest,
            lease_s=20,
            tokens=4,
            input=text,
            params={"sentences": 2},
            stream=attempt_id == "streamed",
        )
        for attempt_id in ("streamed", "whole")
    )

    await peer.send(p.Jobs(items=items))
    first, second = await peer.expect(p.Delta), await peer.expect(p.Delta)
    results = {r.attempt_id: r.output for r in (await peer.expect(p.Results)).items}
    if len(results) < 2:
        results |= {r.attempt_id: r.output for r in (await peer.expect(p.Results)).items}

    assert [(d.attempt_id, d.seq) for d in (first, second)] == [("streamed", 0), ("streamed", 1)]
    assert (first.text + second.text).encode() == results["streamed"] == results["whole"]
    assert first.text in text
    assert second.text in text


async def test_models_with_the_same_backbone_share_one_session_and_its_calibration(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)
    batches = len(node.onnx.opened[0].batches)

    ready = await load(server, peer, "second")

    assert len(node.onnx.opened) == 1
    assert len(node.onnx.opened[0].batches) == batches + 1, "only the challenge was computed"
    assert len(ready.answers) == 2


async def test_the_first_capacity_comes_at_once_and_the_measured_one_with_the_model(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    _, peer = await server.accept()
    await peer.welcome()
    first = await peer.next()
    await peer.send(p.Load(recipe=recipe(server.build_dir, "first")))

    assert isinstance(first, p.Capacity)
    assert (first.slots, first.state) == (1, "active")
    assert isinstance(await peer.next(), p.Ready)
    measured = await peer.next()
    assert isinstance(measured, p.Capacity)
    assert measured.slots == 64


async def test_a_failing_input_is_blamed_on_the_input_and_the_others_are_answered(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)
    too_long = job(server, "long", "sea " * 100)

    await peer.send(p.Jobs(items=(too_long, job(server, "fine"))))
    outcomes = [await peer.next(), await peer.next(), await peer.next()]

    (failed,) = [frame for frame in outcomes if isinstance(frame, p.Failed)]
    assert (failed.attempt_id, failed.blame) == ("long", "input")
    (results,) = [frame for frame in outcomes if isinstance(frame, p.Results)]
    assert [item.attempt_id for item in results.items] == ["fine"]


async def test_half_a_share_of_the_cpu_means_resting_as_long_as_computing(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    clock = RecordingClock()
    limits = VolunteerLimits(cpu_share=0.5)
    async with tiny_node(server, tmp_path / "node", limits=limits, clock=clock):
        _, peer = await server.accept()
        await peer.welcome()
        await load(server, peer)
        clock.rests.clear()
        await peer.send(p.Jobs(items=(job(server, "a1"),)))
        (result,) = (await peer.expect(p.Results)).items
        # The next answer cannot come before the rest that followed the first batch.
        await peer.send(p.Jobs(items=(job(server, "a2"),)))
        await peer.expect(p.Results)

    assert any(rest_s >= result.compute_s > 0.0 for rest_s in clock.rests)


async def test_the_rest_after_the_background_makes_way_and_is_taken_with_the_next(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    clock = RecordingClock()
    limits = VolunteerLimits(cpu_share=0.5)
    async with tiny_node(
        server, tmp_path / "node", limits=limits, clock=clock, meanwhile=lambda: clock.leap(5.0)
    ):
        peer = await joined(server)
        line = msgspec.structs.replace(job(server, "line"), background=True)
        await peer.send(p.Jobs(items=(line,)))
        await peer.expect(p.Results)
        clock.rests.clear()
        # Each batch takes five seconds, and so does the rest for it.
        await peer.send(p.Jobs(items=(job(server, "request"),)))
        await peer.expect(p.Results)
        await peer.send(p.Jobs(items=(job(server, "another"),)))
        await peer.expect(p.Results)

    assert 6.0 < max(clock.rests) <= 10.5


# ── downloads ────────────────────────────────────────────────────────────────────────────────────


async def test_a_second_visit_downloads_nothing(server: FakeOrchestrator, tmp_path: Path) -> None:
    async with tiny_node(server, tmp_path / "node"):
        await joined(server)
    assert len(server.served) == 1 + 3 + 1
    server.served.clear()

    async with tiny_node(server, tmp_path / "node") as node:
        hello, peer = await server.accept()
        await peer.welcome()
        await load(server, peer)

    assert server.served == []
    assert hello.cached == (recipe(server.build_dir, "first").digest,)
    assert node.driver.status().done_bytes == node.driver.status().total_bytes > 4_000_000


async def test_an_interrupted_download_goes_on_with_the_next_missing_part(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    *others, last = parts_of("model.onnx")
    server.hold.add(last)
    all_but_one = asyncio.Event()

    def watch(status: Status) -> None:
        if status.total_bytes - status.done_bytes == 1000:
            all_but_one.set()

    async with tiny_node(server, tmp_path / "node", on_status=watch):
        _, peer = await server.accept()
        await peer.welcome()
        await peer.send(p.Load(recipe=recipe(server.build_dir, "first")))
        await asyncio.wait_for(all_but_one.wait(), 10)
    assert {f"/models/parts/{name}" for name in others} < {url for url, _ in server.served}
    server.release.set()
    server.served.clear()

    async with tiny_node(server, tmp_path / "node"):
        await joined(server)

    assert {url for url, _ in server.served} == {f"/models/parts/{last}"}


async def test_a_download_that_keeps_failing_fails_the_model(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    (server.build_dir / "models" / "parts" / parts_of("model.onnx")[1]).unlink()
    async with tiny_node(server, tmp_path / "node", clock=RecordingClock()):
        _, peer = await server.accept()
        await peer.welcome()
        await peer.send(p.Load(recipe=recipe(server.build_dir, "first")))

        failed = await peer.expect(p.Failed)

    assert failed.digest == recipe(server.build_dir, "first").digest
    assert (failed.blame, failed.code) == ("node", "download_failed")


async def test_a_part_corrupted_on_the_way_is_refused_and_fetched_again(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    spoiled = parts_of("model.onnx")[1]
    server.spoil.add(spoiled)

    async with tiny_node(server, tmp_path / "node"):
        await joined(server)

    assert [url for url, _ in server.served].count(f"/models/parts/{spoiled}") == 2


async def test_a_part_corrupted_on_disk_is_noticed_and_fetched_again(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    async with tiny_node(server, tmp_path / "node"):
        await joined(server)
    rotten = parts_of("model.onnx")[0]
    path = tmp_path / "node" / "models" / "parts" / rotten
    path.write_bytes(bytes(path.stat().st_size))
    server.served.clear()

    async with tiny_node(server, tmp_path / "node") as node:
        await joined(server)
        await node.logs("part_refused")

    assert [url for url, _ in server.served] == [f"/models/parts/{rotten}"]


async def test_a_paused_node_downloads_nothing_until_it_is_resumed(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    async with tiny_node(server, tmp_path / "node", signals=Signals(hidden=True)) as node:
        _, peer = await server.accept()
        await peer.welcome()
        capacity = await peer.next()
        assert isinstance(capacity, p.Capacity)
        assert (capacity.state, capacity.slots) == ("hidden", 0)
        await peer.send(p.Load(recipe=recipe(server.build_dir, "first"), challenge=CHALLENGE))
        await peer.send(p.Ping(n=1))
        await peer.expect(p.Pong)
        assert not [url for url, _ in server.served if "parts" in url]

        node.driver.signals = Signals()

        await peer.expect(p.Ready)


# ── pausing, cancelling, draining ────────────────────────────────────────────────────────────────


async def test_a_pause_hands_back_what_is_held_and_a_resume_takes_work_again(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    running: list[TinyNode] = []

    def pause_in_the_middle() -> None:
        if running and running[0].driver.status().jobs_done == 0 and armed:
            running[0].driver.signals = Signals(user_paused=True)

    armed: list[bool] = []
    async with tiny_node(server, tmp_path / "node", meanwhile=pause_in_the_middle) as node:
        running.append(node)
        peer = await joined(server)
        armed.append(True)
        await peer.send(p.Jobs(items=(job(server, "a1"),)))

        failed = await peer.expect(p.Failed)
        assert failed == p.Failed(attempt_id="a1", blame="node", code=p.HANDED_BACK)
        assert node.driver.status().phase == "paused"
        assert node.driver.status().reason == "You paused this node."

        armed.clear()
        node.driver.signals = replace(node.driver.signals, user_paused=False)
        await peer.send(p.Jobs(items=(job(server, "a2"),)))
        (result,) = (await peer.expect(p.Results)).items
        assert result.attempt_id == "a2"


async def test_new_limits_are_told_at_once(server: FakeOrchestrator, node: TinyNode) -> None:
    peer = await joined(server)
    await peer.next()

    node.driver.limits = VolunteerLimits(cpu_share=0.25)

    capacity = await peer.next()
    assert capacity == p.Capacity(slots=16, state="active", limits=p.Limits(cpu_share=0.25))


async def test_a_cancelled_attempt_is_never_answered(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)

    # One after the other: both frames are in before the first batch can end.
    await peer.send(p.Jobs(items=(job(server, "a1"), job(server, "a2"))))
    await peer.send(p.Cancel(attempt_ids=("a1", "a2")))
    await peer.send(p.Jobs(items=(job(server, "a3"),)))

    answered: set[str] = set()
    while "a3" not in answered:
        answered |= {item.attempt_id for item in (await peer.expect(p.Results)).items}
    await peer.send(p.Ping(n=1))
    await peer.expect(p.Pong)
    assert node.driver.status().phase == "working"


async def test_a_draining_node_answers_what_it_holds(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)

    await peer.send(p.Jobs(items=(job(server, "a1"),)))
    await peer.send(p.Drain(reason="restart"))

    frames = [await peer.next() for _ in range(3)]
    (results,) = [frame for frame in frames if isinstance(frame, p.Results)]
    assert results.items[0].attempt_id == "a1"
    assert node.driver.status().state == "draining"


# ── coming back and leaving ──────────────────────────────────────────────────────────────────────


async def test_a_lost_connection_is_resumed_without_loading_anything_again(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)
    server.served.clear()
    await peer.close(p.CloseCode.GOING_AWAY)

    hello, again = await server.accept()
    assert hello.ticket == "ticket-node_1"
    await again.welcome()
    ready = await load(server, again)

    assert len(ready.answers) == 2
    assert len(node.onnx.opened) == 1
    assert server.served == []


async def test_a_server_that_sends_garbage_is_told_so_and_left(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)
    await peer.websocket.send_bytes(b"\xc1 garbage")

    while not isinstance(code := await peer.next(), int):
        pass
    assert code == p.CloseCode.BAD_FRAME
    await server.accept()


async def test_a_frame_out_of_order_closes_the_socket_with_its_code(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    _, peer = await server.accept()
    await peer.send(p.Jobs(items=(job(server, "a1"),)))

    assert await peer.next() == p.CloseCode.OUT_OF_ORDER
    await server.accept()


async def test_stopping_says_goodbye_before_closing(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    peer = await joined(server)

    node.driver.stop("enough")
    ended = await asyncio.wait_for(node.task, 5)

    assert not ended.failed
    assert (await peer.expect(p.Bye)).reason == "enough"
    assert await peer.next() == 1000
    assert (node.statuses[-1].phase, node.statuses[-1].reason) == ("stopped", "enough")


async def test_a_node_that_is_stopped_before_it_runs_registers_nowhere(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    async with tiny_node(server, tmp_path / "node") as node:
        # The task has not had its first turn yet.
        node.driver.stop("changed my mind")
        ended = await asyncio.wait_for(asyncio.shield(node.task), 5)

    assert (ended.reason, ended.failed) == ("changed my mind", False)
    assert server.nonces == []


async def test_a_node_that_is_refused_for_good_ends_and_says_why(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    server.refuse = JSONResponse({"error": {"code": "no", "message": "No model fits."}}, 403)
    async with tiny_node(server, tmp_path / "node") as node:
        ended = await asyncio.wait_for(asyncio.shield(node.task), 5)

    assert ended.failed
    assert ended.reason == "No model fits."


async def test_a_crowded_server_is_asked_again(server: FakeOrchestrator, tmp_path: Path) -> None:
    server.refuse = JSONResponse({"error": {"code": "full"}, "retry_after_s": 0.01}, 429)
    async with tiny_node(server, tmp_path / "node") as node:
        await node.logs("refused")
        await node.logs("refused")
        server.refuse = None

        await joined(server)


async def test_a_node_that_is_to_come_back_later_says_what_it_was_told(
    server: FakeOrchestrator, node: TinyNode
) -> None:
    _, peer = await server.accept()
    await peer.send(p.Refused(reason="Too many nodes are here.", retry_after_s=600.0))
    await node.logs("refused")

    status = node.driver.status()
    assert (status.phase, status.reason) == ("reconnecting", "Too many nodes are here.")


async def test_a_broken_runtime_is_raised_and_not_hidden(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    def break_down(status: Status) -> None:
        if status.phase == "ready":
            raise MemoryError("the runtime is gone")

    async with tiny_node(server, tmp_path / "node", on_status=break_down) as node:
        await joined(server)
        with pytest.raises(MemoryError):
            await asyncio.wait_for(asyncio.shield(node.task), 5)


async def test_a_folder_that_cannot_be_used_fails_the_model_and_not_the_node(
    server: FakeOrchestrator, tmp_path: Path
) -> None:
    (tmp_path / "node" / "models").mkdir(parents=True)
    (tmp_path / "node" / "models" / "parts").write_text("not a folder")
    async with tiny_node(server, tmp_path / "node") as node:
        _, peer = await server.accept()
        await peer.welcome()
        await peer.send(p.Load(recipe=recipe(server.build_dir, "first")))

        failed = await peer.expect(p.Failed)

        assert failed.code == "storage_failed"
        assert node.driver.status().phase == "error"
