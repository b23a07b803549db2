"""What is not here: people get a page to read, clients of the API an error that helps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import openai
import orjson
import pytest

from tests.orchestrator.page_fakes import write_build
from tests.orchestrator.page_server import serve

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server of the pages, on a socket."""
    write_build(tmp_path / "build")
    async with serve(build_dir=tmp_path / "build") as served:
        yield served.url


async def asked(url: str, method: str, path: str, **headers: str) -> httpx.Response:
    """Ask for exactly ``path``, and without the headers that httpx would send by itself."""
    fields = {"host": httpx.URL(url).netloc.decode(), **headers}
    async with httpx.AsyncClient(headers={}) as client:
        client.headers.clear()
        target = httpx.URL(url).copy_with(raw_path=path.encode())
        return await client.request(method, target, headers=fields)


def told(reply: httpx.Response) -> str:
    """Return the message of an answer that nothing is here, having checked its form."""
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")
    assert reply.headers["x-request-id"].startswith("req_")
    assert len(reply.headers["x-request-id"]) == 28
    error = orjson.loads(reply.content)["error"]
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "not_found",
        None,
    )
    return str(error["message"])


async def test_an_openai_client_without_v1_is_told_what_its_base_url_lacks(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match=r"no POST /responses here.*end in /v1") as e:
            await client.responses.create(model="m", input="x")
        with pytest.raises(openai.NotFoundError, match="no GET /models here"):
            await client.models.list()

    assert e.value.code == "not_found"
    assert e.value.request_id is not None


async def test_a_page_elsewhere_may_ask_to_hear_that_nothing_is_here(url: str) -> None:
    reply = await asked(
        url,
        "OPTIONS",
        "/responses",
        **{
            "origin": "https://elsewhere.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, x-stainless-lang",
        },
    )
    plain = await asked(url, "OPTIONS", "/responses")

    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "authorization, x-stainless-lang"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert told(plain).startswith("There is no OPTIONS /responses here. ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chat/completions"),
        ("POST", "//v1/responses"),
        ("POST", "/V1/responses"),
        ("POST", "/summary/"),
        ("DELETE", "/files/file-1"),
        ("POST", "/static/nothing.js"),
        ("POST", "/static/html/index.html"),
        ("POST", "/models/parts/" + "0" * 64),
    ],
)
async def test_what_pages_are_not_asked_with_is_answered_as_the_api_would(
    url: str, method: str, path: str
) -> None:
    message = told(await asked(url, method, path))

    assert message.startswith(f"There is no {method} {path} here. ")
    assert "/openapi.json" in message


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "k"},
        {"authorization": "Bearer k", "accept": "*/*"},
        {"accept": "application/json"},
        {"accept": "Application/JSON, text/plain, */*"},
    ],
)
@pytest.mark.parametrize("path", ["/models", "/static/nothing.json", "/operate/"])
async def test_a_program_that_reads_is_answered_as_the_api_would(
    url: str, path: str, headers: dict[str, str]
) -> None:
    assert told(await asked(url, "GET", path, **headers)).startswith(f"There is no GET {path} here")


async def test_a_program_that_asks_for_the_head_gets_no_body(url: str) -> None:
    whole = await asked(url, "GET", "/models", **{"x-api-key": "k"})
    head = await asked(url, "HEAD", "/models", **{"x-api-key": "k"})

    assert (head.status_code, head.content) == (404, b"")
    # The method's name is one letter longer.
    assert int(head.headers["content-length"]) == len(whole.content) + 1
    assert head.headers["content-type"] == "application/json"


async def test_a_long_path_is_not_said_in_full(url: str) -> None:
    message = told(await asked(url, "POST", "/" + "x" * 5_000))

    assert "x" * 99 in message
    assert "x" * 100 not in message


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic cDp3"}])
async def test_a_browser_is_shown_the_page(url: str, headers: dict[str, str]) -> None:
    reply = await asked(url, "GET", "/models", accept=BROWSER, **headers)

    assert reply.status_code == 404
    assert reply.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/", "/volunteer", "/operate", "/stats", "/static/js/lib/format.js"]
)
async def test_what_is_here_can_be_read_by_programs_too_and_only_read(url: str, path: str) -> None:
    read = await asked(url, "GET", path, accept="application/json", authorization="Bearer k")
    written = await asked(url, "POST", path, accept="application/json")

    assert read.status_code == 200
    assert (written.status_code, written.headers["allow"]) == (405, "GET, HEAD")
    assert written.headers["content-type"] == "application/json"
    assert written.headers["x-request-id"].startswith("req_")
    error = orjson.loads(written.content)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_allowed")
    assert error["message"].startswith(f"{path} takes GET, HEAD, not POST: ")
