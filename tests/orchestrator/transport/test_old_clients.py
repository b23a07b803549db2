"""How long an answer is, said so that the client understands it: by chunks, or by the close."""

from __future__ import annotations

import pytest

from tests.orchestrator.transport.talkers import client, stage


@pytest.mark.parametrize("version", [b"0.9", b"1.0", b"2.0"])
@pytest.mark.parametrize("wish", [b"", b"connection: keep-alive\r\n"])
async def test_who_reads_no_chunks_gets_an_answer_of_unknown_length_until_the_close(
    version: bytes, wish: bytes
) -> None:
    async with stage() as at, client(at) as old:
        await old.send(b"GET /pieces HTTP/%s\r\nhost: x\r\n%s\r\n" % (version, wish))
        head, _, body = (await old.reader.read()).partition(b"\r\n\r\n")

    assert body == b"one, two, three"
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head


async def test_who_reads_chunks_gets_them_and_may_ask_again() -> None:
    async with stage() as at, client(at) as new:
        await new.send(b"GET /pieces HTTP/1.1\r\nhost: x\r\n\r\n")
        answered = await new.reader.readuntil(b"0\r\n\r\n")
        await new.send(b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n")

        assert (await new.answer())[1] == b""
    assert b"\r\ntransfer-encoding: chunked\r\n" in answered
    assert answered.endswith(b"5\r\none, \r\n5\r\ntwo, \r\n5\r\nthree\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "asked",
    [
        b"POST /echo HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
        b"HEAD /pieces HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    ],
)
async def test_an_old_client_that_would_stay_is_told_of_the_close(asked: bytes) -> None:
    async with stage() as at, client(at) as old:
        await old.send(asked)
        head, _, body = (await old.reader.read()).partition(b"\r\n\r\n")

    assert b"\r\nconnection: close" in head
    assert body == (b"hi" if asked.startswith(b"POST") else b"")
