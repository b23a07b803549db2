"""One answer for the same request sent twice: in turn, at once, late, large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import cast

import pytest

from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.idempotency import (
    REPLAYED,
    Idempotency,
    Kept,
    Turn,
    digest_of,
    idempotency_key,
    kept_reply,
    replay,
)
from orchestrator.api.reply import Answer, Streamed
from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import BadRequest, Conflict
from orchestrator.settings import Settings
from orchestrator.storage.idempotent import Scope
from orchestrator.storage.keyring import Keyring

TTL_S = 100.0
ASKED, ELSE = digest_of(b"asked"), digest_of(b"something else")
SCOPE = Scope(ProjectId("p"), KeyId("k"), "/v1/responses", "one")


@dataclass
class Stage:
    idempotency: Idempotency = field(init=False)
    now: float = 0.0

    async def turn(self, scope: Scope = SCOPE, digest: bytes = ASKED) -> Turn:
        got = await self.idempotency.begin(scope, digest)
        assert isinstance(got, Turn)
        return got

    async def answer(self, scope: Scope, answer: Kept) -> None:
        (await self.turn(scope)).end(answer)

    async def kept(self, scope: Scope = SCOPE, digest: bytes = ASKED) -> Kept | None:
        """Return what is kept, leaving everything as it is."""
        got = await self.idempotency.begin(scope, digest)
        if isinstance(got, Turn):
            got.release()
            return None
        return got

    def wait(self, digest: bytes = ASKED) -> asyncio.Task[Turn | Kept]:
        return asyncio.create_task(self.idempotency.begin(SCOPE, digest))


def stage(max_bytes: int = 1 << 20) -> Stage:
    made = Stage()
    made.idempotency = Idempotency(ttl_s=TTL_S, max_bytes=max_bytes, monotonic=lambda: made.now)
    return made


def said(body: bytes, status: int = 200) -> Kept:
    return Kept(status, ((b"x-a", b"b"),), body, b"application/json")


def named(key: str) -> Scope:
    return SCOPE._replace(key=key)


async def settled() -> None:
    """Let every task run until it waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


# ── one after the other ──────────────────────────────────────────────────────────────────────────


async def test_the_second_request_gets_the_whole_answer_of_the_first() -> None:
    s = stage()
    await s.answer(SCOPE, said(b"hello"))

    assert await s.kept() == said(b"hello")
    assert await s.kept() == said(b"hello")


def test_an_answer_says_once_that_it_was_given_before() -> None:
    fresh, told = Answer(200, b"x"), Answer(200, b"x", (REPLAYED,))
    for answer in (fresh, told):
        assert replay(kept_reply(answer, None)).headers == (REPLAYED,)


async def test_a_key_stands_for_its_project_api_key_and_path_only() -> None:
    s = stage()
    await s.answer(SCOPE, said(b"hello"))
    for other in (
        SCOPE._replace(project_id=ProjectId("p2")),
        SCOPE._replace(key_id=KeyId("k2")),
        SCOPE._replace(path="/v1/embeddings"),
        named("two"),
    ):
        assert await s.kept(other, ELSE) is None


async def test_another_body_under_the_same_key_is_a_conflict_before_and_after_the_answer() -> None:
    s = stage()
    turn = await s.turn()
    with pytest.raises(Conflict) as before:
        await s.turn(digest=ELSE)
    turn.end(said(b"hello"))
    with pytest.raises(Conflict) as after:
        await s.turn(digest=ELSE)

    assert before.value.code == after.value.code == "idempotency_key_reused"
    assert await s.kept() == said(b"hello")


@pytest.mark.parametrize("status", [200, 400, 404, 413, 420])
async def test_what_would_only_be_said_again_is_kept(status: int) -> None:
    s = stage()
    await s.answer(SCOPE, said(b"x", status))

    assert await s.kept() == said(b"x", status)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_what_could_go_better_is_not_kept(status: int) -> None:
    s = stage()
    await s.answer(SCOPE, said(b"x", status))

    assert await s.kept() is None
    assert await s.kept(digest=ELSE) is None


async def test_an_answer_ends_with_its_time() -> None:
    s = stage()
    await s.answer(SCOPE, said(b"hello"))
    s.now = TTL_S - 1
    before = await s.kept()
    s.now = TTL_S
    after = await s.kept(digest=ELSE)

    assert (before, after) == (said(b"hello"), None)
    assert s.idempotency.held_bytes == 0


# ── at once ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_those_that_wait_share_the_answer_whatever_it_is(status: int) -> None:
    s = stage()
    turn = await s.turn()
    waiting = [s.wait() for _ in range(3)]
    await settled()
    assert not any(one.done() for one in waiting)
    turn.end(said(b"hello", status))

    assert await asyncio.gather(*waiting) == [said(b"hello", status)] * 3


async def test_a_client_that_leaves_does_not_take_the_answer_from_the_others() -> None:
    s = stage()
    turn = await s.turn()
    leaving, staying = s.wait(), s.wait()
    await settled()
    leaving.cancel()
    await settled()
    turn.end(said(b"hello"))

    assert await staying == said(b"hello")
    assert leaving.cancelled()


async def test_when_the_first_goes_away_exactly_one_of_the_others_takes_its_turn() -> None:
    s = stage()
    turn = await s.turn()
    waiting = [s.wait() for _ in range(3)]
    await settled()
    turn.release()
    await settled()
    [heir] = [one for one in waiting if one.done()]
    taken = await heir
    assert isinstance(taken, Turn)
    taken.end(said(b"hello"))
    rest = await asyncio.gather(*(one for one in waiting if one is not heir))

    assert rest == [said(b"hello")] * 2


async def test_a_turn_ends_once() -> None:
    s = stage()
    turn = await s.turn()
    turn.end(said(b"hello"))
    turn.release()
    turn.end(said(b"other"))
    again = await s.turn(named("two"))
    again.release()
    again.end(said(b"late"))

    assert await s.kept() == said(b"hello")
    assert await s.kept(named("two")) is None


# ── streams ──────────────────────────────────────────────────────────────────────────────────────


async def pieces(*all_of_them: bytes, fails: bool = False) -> AsyncGenerator[bytes]:
    for piece in all_of_them:
        yield piece
    if fails:
        raise OSError("broken")


def relayed(
    turn: Turn, source: AsyncGenerator[bytes], exchange: Exchange | None = None
) -> AsyncGenerator[bytes]:
    reply = Streamed(b"text/event-stream", source, ((b"x-a", b"b"),))
    return turn.relay(reply, exchange or exchange_of()).pieces


def exchange_of(input_tokens: int = 0, output_tokens: int = 0) -> Exchange:
    gate = Gate(Settings(), keyring=cast(Keyring, None))
    made = Exchange(gate=gate, number="1", endpoint="/x", started_s=0.0, ts=0.0)
    made.place, made.input_tokens, made.output_tokens = "edge", input_tokens, output_tokens
    return made


async def test_a_stream_flows_to_the_first_and_comes_whole_to_those_that_wait() -> None:
    s = stage()
    turn = await s.turn()
    stream = relayed(turn, pieces(b"a", b"b"))
    assert await anext(stream) == b"a"
    waiting = s.wait()
    await settled()
    assert not waiting.done()
    rest = [piece async for piece in stream]

    headers = ((b"x-a", b"b"), (b"x-inference-type", b"edge"))
    whole = Kept(200, headers, b"ab", b"text/event-stream")
    assert rest == [b"b"]
    assert await waiting == whole
    assert await s.kept() == whole


async def test_a_stream_that_breaks_off_passes_the_turn_on() -> None:
    s = stage()
    stream = relayed(await s.turn(), pieces(b"a", fails=True))
    waiting = s.wait()
    with pytest.raises(OSError, match="broken"):
        [piece async for piece in stream]

    taken = await waiting
    assert isinstance(taken, Turn)
    taken.release()
    assert s.idempotency.held_bytes == 0


async def test_a_stream_whose_client_leaves_closes_its_source_and_passes_the_turn_on() -> None:
    s = stage()
    source = pieces(b"a", b"b")
    stream = relayed(await s.turn(), source)
    await anext(stream)
    await stream.aclose()

    with pytest.raises(StopAsyncIteration):
        await anext(source)
    assert await s.kept() is None
    assert s.idempotency.held_bytes == 0


async def test_a_stream_too_large_to_be_kept_flows_all_the_same() -> None:
    s = stage(max_bytes=40_000)
    flowing = relayed(await s.turn(), pieces(*[b"x" * 4_000] * 5), exchange_of(9, 4))
    got = [len(piece) async for piece in flowing]

    assert got == [4_000] * 5
    # It was had whole: had again, it is billed again, whatever was billed on the way to it.
    again = await s.turn()
    await broken_off(again, exchange_of(9, 2))
    again = await s.turn()
    assert again.billed == (9, 2)
    flowing = relayed(again, pieces(*[b"x" * 4_000] * 5), exchange_of(9, 4))
    assert len([piece async for piece in flowing]) == 5
    again = await s.turn()
    assert again.billed == (0, 0)
    again.release()
    assert await s.kept() is None
    assert s.idempotency.held_bytes == 0


async def broken_off(turn: Turn, exchange: Exchange) -> None:
    stream = relayed(turn, pieces(b"a", b"b"), exchange)
    await anext(stream)
    await stream.aclose()


async def test_what_a_stream_that_broke_off_was_billed_is_not_billed_again() -> None:
    s = stage()
    first = await s.turn()
    assert first.billed == (0, 0)
    await broken_off(first, exchange_of(9, 4))
    # It got less far, and was billed for nothing.
    second = await s.turn()
    assert second.billed == (9, 4)
    await broken_off(second, exchange_of(9, 2))
    third = await s.turn()
    assert third.billed == (9, 4)
    third.end(said(b"all"))

    assert await s.kept() == said(b"all")


async def test_what_was_billed_counts_for_the_same_body_only_and_for_as_long_as_answers() -> None:
    s = stage()
    await broken_off(await s.turn(), exchange_of(9, 4))
    other = await s.turn(digest=b"another")
    assert other.billed == (0, 0)
    other.release()
    await broken_off(await s.turn(), exchange_of(9, 4))
    s.now += TTL_S + 1

    assert (await s.turn()).billed == (0, 0)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_oldest_answers_make_room() -> None:
    s = stage(max_bytes=100_000)
    for at in range(200):
        await s.answer(named(str(at)), said(b"x" * 5_000))
        assert s.idempotency.held_bytes <= 100_000

    found = [at for at in range(200) if await s.kept(named(str(at))) is not None]
    assert found == list(range(200 - len(found), 200))
    assert len(found) == 100_000 // 6_100


async def test_an_answer_that_would_push_out_most_others_is_not_kept() -> None:
    s = stage(max_bytes=100_000)
    await s.answer(named("small"), said(b"x"))
    await s.answer(named("large"), said(b"x" * 30_000))

    assert await s.kept(named("large")) is None
    assert await s.kept(named("small")) == said(b"x")


def of_project(name: str, key: str) -> Scope:
    return SCOPE._replace(project_id=ProjectId(name), key=key)


async def test_a_project_that_fills_the_memory_pushes_out_its_own_answers_only() -> None:
    s = stage(max_bytes=100_000)
    await s.answer(of_project("a", "1"), said(b"a" * 5_000))
    for at in range(50):
        await s.answer(of_project("b", str(at)), said(b"b" * 12_000))

    assert await s.kept(of_project("a", "1")) == said(b"a" * 5_000)
    assert await s.kept(of_project("b", "49")) == said(b"b" * 12_000)
    assert s.idempotency.held_bytes <= 100_000


async def test_a_project_that_holds_less_takes_room_from_the_one_that_holds_most() -> None:
    s = stage(max_bytes=100_000)
    await s.answer(of_project("c", "1"), said(b"c"))
    for at in range(50):
        await s.answer(of_project("b", str(at)), said(b"b" * 5_000))
    await s.answer(of_project("a", "1"), said(b"a" * 12_000))

    assert await s.kept(of_project("a", "1")) == said(b"a" * 12_000)
    assert await s.kept(of_project("c", "1")) == said(b"c")
    left = [at for at in range(50) if await s.kept(of_project("b", str(at))) is not None]
    assert left == list(range(50 - len(left), 50))
    assert s.idempotency.held_bytes <= 100_000


async def test_streams_on_their_way_count_as_their_projects() -> None:
    s = stage(max_bytes=100_000)
    await s.answer(of_project("a", "1"), said(b"a" * 5_000))
    held_bytes = s.idempotency.held_bytes
    turns = [await s.turn(of_project("b", str(at))) for at in range(10)]
    flowing = [relayed(turn, pieces(b"b" * 12_000)) for turn in turns]
    for stream in flowing:
        assert len(await anext(stream)) == 12_000

    assert await s.kept(of_project("a", "1")) == said(b"a" * 5_000)
    assert s.idempotency.held_bytes <= 100_000
    for stream in flowing:
        await stream.aclose()
    assert s.idempotency.held_bytes == held_bytes


async def test_an_eighth_of_the_memory_is_kept_and_what_is_longer_is_not() -> None:
    s = stage(max_bytes=8 << 20)
    await s.answer(named("small"), said(b"x"))
    await s.answer(named("long"), said(b"x" * (1 << 20)))
    await s.answer(named("longer"), said(b"x" * ((1 << 20) + 1)))
    half = b"x" * (1 << 19)
    [_ async for _ in relayed(await s.turn(named("stream")), pieces(half, half))]
    [_ async for _ in relayed(await s.turn(named("longer stream")), pieces(half, half, b"x"))]

    names = ("small", "long", "longer", "stream", "longer stream")
    kept = [name for name in names if await s.kept(named(name)) is not None]
    assert kept == ["small", "long", "stream"]


async def test_nothing_is_left_of_turns_that_are_over() -> None:
    s = stage()
    for at in range(100):
        await s.answer(named(str(at)), said(b"x", 503))

    assert s.idempotency.under_way == 0
    assert s.idempotency.held_bytes == 0


# ── the header ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", [b"a", b"9f1c 2-_~!", b"x" * 255])
def test_a_printable_key_is_taken_as_it_is(key: bytes) -> None:
    assert idempotency_key(key) == key.decode()


@pytest.mark.parametrize("key", [b"", b"x" * 256, "schlüssel".encode(), b"tab\t", b"\x7f"])
def test_a_key_that_cannot_be_kept_is_refused(key: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        idempotency_key(key)

    assert refused.value.code == "invalid_idempotency_key"
    assert "255 printable ASCII characters" in refused.value.message
