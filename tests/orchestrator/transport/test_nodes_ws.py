"""Nodes over real sockets: what they get, and what a breach of protocol gets them."""

from __future__ import annotations

import asyncio
import base64
import urllib.error
import urllib.request

import pytest
import websockets

from browser_node import protocol as p
from browser_node.protocol import CloseCode
from orchestrator import errors
from tests.arena import Arena, arena, frames, manifest
from tests.fakes import ScriptedNode, vector_of


async def closed(node: ScriptedNode) -> int | None:
    await asyncio.wait_for(node.closed.wait(), 10)
    return node.close_code


async def still_well(a: Arena) -> None:
    """The arena's honest worker still answers."""
    [answer] = await a.answer("is anybody there")
    assert answer.output == vector_of("is anybody there")


# ── work ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_calibrated_stranger_answers_and_the_answer_is_edge() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.join()

        [answer] = await a.answer("hello world")

        assert (answer.place, answer.node_id) == ("edge", node.node_id)
        assert answer.output == vector_of("hello world")


async def test_a_stranger_gets_no_work_before_there_are_known_answers() -> None:
    async with arena() as a:
        node = await a.node().join(a.url)
        await asyncio.wait_for(node.welcomed.wait(), 10)

        with pytest.raises(errors.NoCapacity):
            await a.answer("hello")
        assert not frames(node, p.Load)

        await a.join_worker()
        await asyncio.wait_for(node.calibrated.wait(), 10)
        await a.settled()
        assert (await a.answer("hello"))[0].place == "edge"


async def test_a_node_that_misses_a_known_answer_is_closed_and_gets_nothing() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.node(wrong=True).join(a.url)

        assert await closed(node) == CloseCode.WRONG_ANSWERS
        assert (await a.answer("hello"))[0].place == "cloud"


async def test_many_jobs_are_answered_in_order() -> None:
    async with arena() as a:
        await a.join_worker()
        await a.join(slots=4)
        await a.join(slots=4)
        texts = [f"text number {n}" for n in range(60)]

        answers = await a.answer(*texts)

        assert [answer.output for answer in answers] == [vector_of(text) for text in texts]


async def test_a_closed_socket_moves_its_jobs_to_the_cpu_worker_exactly_once() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.join(on_jobs=lambda node, _: node.drop())

        [answer] = await a.answer("hello world")

        assert answer.place == "cloud"
        assert answer.attempts == 2
        assert len(node.jobs_seen) == 1


async def test_a_stalled_node_loses_its_job_at_the_end_of_the_lease() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.join(on_jobs=lambda _node, _frame: None)

        [answer] = await a.answer("hello world")

        assert answer.place == "cloud"
        await a.until(lambda: bool(frames(node, p.Cancel)))


async def test_a_result_of_the_wrong_shape_is_not_delivered() -> None:
    def short(node: ScriptedNode, frame: p.Jobs) -> None:
        items = tuple(
            p.Result(attempt_id=i.attempt_id, output=b"short", compute_s=0.0) for i in frame.items
        )
        node.send(p.Results(items=items))

    async with arena() as a:
        await a.join_worker()
        await a.join(on_jobs=short)

        [answer] = await a.answer("hello")

        assert (answer.place, answer.output) == ("cloud", vector_of("hello"))


async def test_a_customer_who_leaves_has_the_job_cancelled_on_the_node() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.join(on_jobs=lambda _node, _frame: None)
        request = asyncio.create_task(a.answer("hello"))
        await asyncio.wait_for(node.got_jobs.wait(), 10)

        request.cancel()

        await a.until(lambda: bool(frames(node, p.Cancel)))
        assert a.engine.fleet().totals.running == 0


async def test_one_failing_job_fails_its_request_and_cancels_the_rest() -> None:
    async with arena(max_queued=1) as a:
        a.engine.expect_worker("starting")
        with pytest.raises(errors.Overloaded):
            await a.answer("one", "two", "three")
        assert a.engine.fleet().totals.queued == 0


async def test_draining_finishes_what_is_held_and_takes_nothing_new() -> None:
    held: list[p.Jobs] = []
    async with arena() as a:
        await a.join_worker()
        node = await a.join(on_jobs=lambda _node, frame: held.append(frame))
        request = asyncio.create_task(a.answer("hello"))
        await asyncio.wait_for(node.got_jobs.wait(), 10)

        drained = asyncio.create_task(a.engine.drain(10))
        await a.until(lambda: bool(frames(node, p.Drain)))
        with pytest.raises(errors.ShuttingDown):
            await a.answer("new")
        node.answer(*held[0].items)

        assert await drained is True
        assert (await request)[0].place == "edge"


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_ticket_resumes_the_node_id_and_closes_the_old_socket() -> None:
    async with arena() as a:
        await a.join_worker()
        old = await a.join()
        new = a.node()
        new.key, new.ticket = old.key, old.ticket
        await new.join(a.url)
        await asyncio.wait_for(new.welcomed.wait(), 10)

        assert new.node_id == old.node_id
        assert await closed(old) == CloseCode.GOING_AWAY


async def test_a_ticket_is_worth_nothing_with_another_key() -> None:
    async with arena() as a:
        await a.join_worker()
        honest = await a.join()
        thief = a.node()
        thief.ticket = honest.ticket
        await thief.join(a.url)
        await asyncio.wait_for(thief.welcomed.wait(), 10)

        assert thief.node_id != honest.node_id
        assert not honest.closed.is_set()


async def raw(a: Arena, *, origin: str | None = None) -> ScriptedNode:
    """Return a node with an open socket that has said nothing yet."""
    node = a.node()
    node._socket = await websockets.connect(
        a.url.replace("http", "ws") + "/node/v1",
        compression=None,
        origin=origin,  # type: ignore[arg-type]
    )
    node._start()
    return node


async def test_a_nonce_is_good_once() -> None:
    async with arena() as a:
        first, second = await raw(a), await raw(a)
        answer = await asyncio.to_thread(first.register, a.url)
        for node in (first, second):
            node.send(node.hello(nonce=answer["nonce"], origin=answer["origin"]))

        assert await closed(second) == CloseCode.BAD_CREDENTIALS
        assert first.welcomed.is_set()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nonce": "made up"}, CloseCode.BAD_CREDENTIALS),
        ({"signature": b"\x01" * 64}, CloseCode.BAD_CREDENTIALS),
        ({"signature": b""}, CloseCode.BAD_CREDENTIALS),
        ({"public_key": b"\x04" + b"\x01" * 64}, CloseCode.BAD_CREDENTIALS),
        ({"versions": (2, 3)}, CloseCode.BAD_VERSION),
        (
            {"runtime": p.Runtime(kind="cpu", backend="onnxruntime", threads=1)},
            CloseCode.BAD_FRAME,
        ),
    ],
)
async def test_a_hello_that_is_not_good_is_refused(
    changes: dict[str, object], code: CloseCode
) -> None:
    async with arena() as a:
        await a.join_worker()
        node = await raw(a)
        answer = await asyncio.to_thread(node.register, a.url)
        fields = {"nonce": answer["nonce"], "origin": answer["origin"], **changes}
        node.send(node.hello(**fields))

        assert await closed(node) == code
        await still_well(a)


async def test_a_signature_for_another_origin_is_refused() -> None:
    async with arena() as a:
        node = await raw(a)
        answer = await asyncio.to_thread(node.register, a.url)
        node.send(node.hello(nonce=answer["nonce"], origin="https://elsewhere.example"))

        assert await closed(node) == CloseCode.BAD_CREDENTIALS


# ── breaches ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", CloseCode.BAD_FRAME),
        (b"\xff" * 40, CloseCode.BAD_FRAME),
        (p.encode(p.Ping(n=1)), CloseCode.BAD_FRAME),
        (p.encode(p.Hello(
            versions=(1,),
            runtime=p.Runtime(kind="native", backend="onnxruntime", threads=1),
            device=p.Device(cores=1),
        )), CloseCode.OUT_OF_ORDER),
        (p.encode(p.Ready(digest="0" * 64, load_s=0.0)), CloseCode.OUT_OF_ORDER),
        (p.encode(p.Delta(attempt_id="a", seq=0, text="x")), CloseCode.BAD_FRAME),
        (p.encode(p.Failed(blame="node", code="x")), CloseCode.BAD_FRAME),
    ],
    ids=["empty", "noise", "not ours", "hello again", "ready unasked", "delta", "failed nothing"],
)  # fmt: skip
async def test_a_frame_that_breaks_the_protocol_closes_that_socket_alone(
    data: bytes, code: CloseCode
) -> None:
    async with arena() as a:
        await a.join_worker()
        good = await a.join()
        bad = await a.join()
        bad.send_bytes(data)

        assert await closed(bad) == code
        await still_well(a)
        assert not good.closed.is_set()


async def test_a_frame_before_hello_is_out_of_order() -> None:
    async with arena() as a:
        node = await raw(a)
        node.send(p.Pong(n=1))
        assert await closed(node) == CloseCode.OUT_OF_ORDER


async def test_a_long_frame_before_welcome_is_too_big() -> None:
    async with arena() as a:
        node = await raw(a)
        node.send_bytes(b"\x00" * (p.MAX_FRAME_BYTES_BEFORE_WELCOME + 1))
        assert await closed(node) == CloseCode.TOO_BIG


async def test_a_frame_beyond_a_megabyte_is_too_big() -> None:
    async with arena() as a:
        await a.join_worker()
        node = await a.join()
        node.send_bytes(b"\x00" * (p.MAX_FRAME_BYTES + 1))
        assert await closed(node) == CloseCode.TOO_BIG
        await still_well(a)


async def test_a_text_frame_is_refused() -> None:
    async with arena() as a:
        node = await raw(a)
        await node._socket.send("hello")
        assert await closed(node) == CloseCode.BAD_FRAME


async def test_a_socket_that_says_nothing_is_closed() -> None:
    async with arena() as a:
        node = await raw(a)
        assert await closed(node) == CloseCode.TIMEOUT


async def test_a_foreign_origin_is_refused_on_the_socket_and_on_register() -> None:
    async with arena() as a:
        node = await raw(a, origin="https://evil.example")
        assert await closed(node) == CloseCode.BAD_ORIGIN
        with pytest.raises(urllib.error.HTTPError) as refusal:
            await asyncio.to_thread(node.register, a.url, {"origin": "https://evil.example"})
        assert refusal.value.code == 403
        refusal.value.close()


async def test_our_own_origin_is_admitted() -> None:
    async with arena() as a:
        node = await raw(a, origin=a.url)
        answer = await asyncio.to_thread(node.register, a.url, {"origin": a.url})
        node.send(node.hello(nonce=answer["nonce"], origin=answer["origin"]))
        await asyncio.wait_for(node.welcomed.wait(), 10)


async def test_one_socket_too_many_is_told_so() -> None:
    async with arena(caps={"per_address": 1}) as a:
        first = await raw(a)
        second = await raw(a)
        assert await closed(second) == CloseCode.TOO_MANY
        answer = await asyncio.to_thread(first.register, a.url)
        first.send(first.hello(nonce=answer["nonce"], origin=answer["origin"]))
        await asyncio.wait_for(first.welcomed.wait(), 10)


async def test_a_node_that_stops_reading_is_closed_and_its_place_is_free_again() -> None:
    async with arena(caps={"total": 1}) as a:
        await a.join_worker()
        node = await a.join(on_jobs=lambda _node, _frame: None, slots=256, tokens_per_s=1e9)
        node._socket.transport.pause_reading()
        text = "word " * 12_000
        flood = [asyncio.create_task(a.answer(f"{n} {text}")) for n in range(220)]

        await a.until(lambda: all(row.id != node.node_id for row in a.engine.fleet().nodes))
        await still_well(a)
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        # The only place there is: free although the node still reads nothing.
        await a.until(lambda: not a.sockets)
        await a.join()
        node._socket.transport.resume_reading()


async def test_the_workers_socket_wants_its_secret() -> None:
    async with arena() as a:
        node = await a.node().join_as_worker({**a.worker, "secret": "guess"})
        assert await closed(node) == CloseCode.BAD_ORIGIN
        assert not a.engine.worker_ready()


# ── registration ─────────────────────────────────────────────────────────────────────────────────


def post(url: str, body: bytes) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"runtime": 1}', 400),
        (b" " * (p.MAX_FRAME_BYTES_BEFORE_WELCOME + 1), 413),
    ],
)
async def test_a_malformed_registration_is_answered_with_its_status(
    body: bytes, status: int
) -> None:
    async with arena() as a:
        assert await asyncio.to_thread(post, f"{a.url}/register", body) == status


async def test_a_node_too_small_for_every_model_is_told_so() -> None:
    async with arena(manifest(min_memory_mb=8000)) as a:
        node = a.node(memory_mb=1000)
        with pytest.raises(urllib.error.HTTPError) as refusal:
            await asyncio.to_thread(node.register, a.url)
        assert refusal.value.code == 403
        refusal.value.close()


async def test_registration_tells_what_there_is_to_load() -> None:
    async with arena(manifest(), manifest("extractive-summary", name="other")) as a:
        answer = await asyncio.to_thread(a.node().register, a.url)

        assert {recipe["model_id"] for recipe in answer["recipes"]} == {"tiny", "other"}
        assert answer["origin"] == a.url
        assert base64.urlsafe_b64decode(answer["nonce"] + "==")


async def test_one_network_cannot_use_up_the_nonces_of_the_others() -> None:
    async with arena() as a:
        for _ in range(128):
            await asyncio.to_thread(a.node().register, a.url)
        with pytest.raises(urllib.error.HTTPError) as refusal:
            await asyncio.to_thread(a.node().register, a.url)
        assert refusal.value.code == 429
        refusal.value.close()
