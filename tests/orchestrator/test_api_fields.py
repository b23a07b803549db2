"""What the documented fields do, route by route, over a real socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from openai.types import BatchCreateParams, EmbeddingCreateParams, ModerationCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from orchestrator.api import bodies
from orchestrator.api.batches import CreateBatch
from orchestrator.api.moderations import CATEGORIES, moderation
from orchestrator.api.options import was_cut
from orchestrator.domain.model import NewJob
from tests.orchestrator.fakes import (
    EMBEDDINGS,
    IAB,
    IAB_ALIAS,
    SUMMARY,
    VOCABULARY,
    caller,
    error_of,
    vector_of,
)

TEXT = "The cat sat on the mat. A dog ran home."
LONG = "cat " * 100


def ids(*words: str) -> list[int]:
    return [VOCABULARY.index(word) for word in words]


async def test_a_response_echoes_what_was_asked(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.says = b"The cat sat on the mat."
        asked = {
            "model": SUMMARY,
            "input": [{"role": "developer", "content": "Be brief."},
                      {"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
            "instructions": "Sum up.",
            "metadata": {"job": "7", "sentences": "2"},
            "max_output_tokens": 50,
            "temperature": 0.5,
            "top_p": 0.9,
            "user": "u-1",
            "store": True,
            "truncation": "auto",
            "parallel_tool_calls": False,
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "text"}, "verbosity": "low"},
            "service_tier": "auto",
            "tools": [],
            "tool_choice": "none",
            "max_tool_calls": 3,
        }  # fmt: skip
        reply = (await client.post("/v1/responses", json=asked)).json()

    assert reply["created"] == reply["created_at"] <= reply["completed_at"]
    echoed = ("instructions", "metadata", "max_output_tokens", "temperature", "top_p", "user",
              "truncation", "parallel_tool_calls", "text", "tool_choice",
              "max_tool_calls")  # fmt: skip
    assert {name: reply[name] for name in echoed} == {name: asked[name] for name in echoed}
    assert reply["reasoning"] == {"effort": "low", "summary": None}
    assert (reply["status"], reply["error"], reply["incomplete_details"]) == (
        "completed",
        None,
        None,
    )
    assert reply["store"] is False
    [item] = reply["output"]
    assert (item["type"], item["role"], item["id"][:4]) == ("message", "assistant", "msg_")
    assert item["content"][0]["text"] == "The cat sat on the mat."


async def test_a_chat_completion_echoes_metadata_where_the_request_has_some(tmp_path: Path) -> None:
    asked = {"model": SUMMARY, "messages": [{"role": "user", "content": TEXT}]}
    async with caller(tmp_path) as (_, client):
        with_it = await client.post("/v1/chat/completions", json=asked | {"metadata": {"job": "7"}})
        without = await client.post("/v1/chat/completions", json=asked | {"metadata": None})

    assert with_it.json()["metadata"] == {"job": "7"}
    assert "metadata" not in without.json()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("required", "tool_choice is required, but "),
        ({"type": "function", "name": "look_up"}, "tool_choice names 'look_up', but "),
        ({"type": "function", "function": {"name": "look_up"}}, "tool_choice names 'look_up', but"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "tool_choice names 'allowed_tool"),
    ],
)
async def test_a_choice_of_tools_that_are_not_there_is_refused_by_its_name(
    tmp_path: Path, choice: object, words: str
) -> None:
    async with caller(tmp_path) as (_, client):
        replies = [
            await client.post("/v1/responses", json={"model": IAB, "input": "x"} | {
                "tool_choice": choice
            }),
            await client.post("/v1/chat/completions", json={
                "model": IAB, "messages": [{"content": "x"}], "tool_choice": choice
            }),
        ]  # fmt: skip

    for reply in replies:
        error = error_of(reply)
        assert (reply.status_code, error["code"], error["param"]) == (
            400,
            "unsupported_parameter",
            "tool_choice",
        )
        assert error["message"].startswith(words)


def test_the_choices_of_the_sdk_are_those_that_are_taken() -> None:
    for theirs, ours, names in (
        (ResponseCreateParamsBase, bodies.ResponsesBody, ("service_tier", "include", "truncation")),
        (CompletionCreateParamsBase, bodies.ChatBody,
         ("service_tier", "reasoning_effort", "verbosity")),
        (EmbeddingCreateParams, bodies.EmbeddingsBody, ("encoding_format",)),
    ):  # fmt: skip
        hints, taken = get_type_hints(theirs), get_type_hints(ours)
        for name in names:
            assert set(choices(hints[name])) == set(choices(taken[name])), name


def choices(type_: object) -> list[str]:
    """Return the strings that a type allows, those in arrays too."""
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    return [one for inner in get_args(type_) for one in choices(inner)]


async def test_truncation_decides_over_the_model_s_own_rule(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        replies = [
            await client.post(
                "/v1/responses", json={"model": IAB, "input": LONG, "truncation": wanted}
            )
            for wanted in ("auto", "disabled", None)
        ]

        assert [reply.status_code for reply in replies] == [200, 420, 420]
        assert replies[0].json()["usage"]["input_tokens"] == 40
        assert error_of(replies[1])["code"] == "context_length_exceeded"
        # A node refuses what is too long for this model: it gets what fits, not a token more.
        [job] = backend.engine.jobs
        assert (job.input, job.tokens) == (" ".join(["cat"] * 38), 40)


async def test_a_word_that_is_too_long_alone_is_cut_in_its_middle(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        reply = await client.post(
            "/v1/responses", json={"model": IAB, "input": "-" * 99, "truncation": "auto"}
        )

        assert reply.status_code == 200
        [job] = backend.engine.jobs
        assert (job.input, job.tokens) == ("-" * 38, 40)


async def test_a_summary_that_its_longest_output_cut_says_so(tmp_path: Path) -> None:
    text = "The cat sat on the mat with a dog and ran"
    cut = {"model": SUMMARY, "max_tokens": 3}
    async with caller(tmp_path) as (backend, client):
        backend.engine.says = b"The cat sat"
        response = (await client.post("/v1/responses", json=cut | {"input": text})).json()
        chat = cut | {"messages": [{"role": "user", "content": text}]}
        completion = (await client.post("/v1/chat/completions", json=chat)).json()
        streamed = await client.post("/v1/chat/completions", json=chat | {"stream": True})
        events = await client.post("/v1/responses", json=cut | {"input": text, "stream": True})
        whole = (await client.post("/v1/responses", json={"model": SUMMARY, "input": text})).json()

    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert completion["choices"][0]["finish_reason"] == "length"
    assert '"finish_reason":"length"' in streamed.text
    assert "event: response.incomplete\n" in events.text
    assert (whole["status"], whole["incomplete_details"]) == ("completed", None)


MANY = "A long sentence, one of many, that tells next to nothing at all. " * 100


@pytest.mark.parametrize(
    ("source", "output", "params", "cut"),
    [
        ("One two three. Four.", "One two", {"max_tokens": 2}, True),
        ("One two three. Four.", "One two three.", {"max_tokens": 5}, False),
        ("It cost $500 to repair.", "It cost", {"max_tokens": 2}, True),
        ('The "old" ferry left.', 'The "old"', {"max_tokens": 4}, True),
        ("One two three", "One two three", {"max_tokens": 3}, False),
        ("Heading\nText.", "Heading", {"max_tokens": 3}, False),
        ("One two three.", "One two", {}, False),
        ("One two three.", "", {"max_tokens": 1}, True),
        # Too long to be looked at on the event loop.
        (f"{MANY}One two three.", "A long", {"max_tokens": 2}, True),
        (f"{MANY}One two three.", "One two three.", {"max_tokens": 9}, False),
    ],
)
async def test_an_output_is_cut_where_its_sentence_goes_on(
    source: str, output: str, params: dict[str, int], cut: bool
) -> None:
    assert await was_cut(source, output, params) is cut


async def test_a_summary_of_a_text_that_was_cut_is_whole_by_what_the_model_read(
    tmp_path: Path,
) -> None:
    # More sentences than are told apart one by one: those of the whole text are other units.
    asked = {
        "model": SUMMARY,
        "input": "The cat sat on the mat. " + "A dog ran over the mat. " * 4_000,
        "truncation": "auto",
        "max_output_tokens": 30,
    }
    async with caller(tmp_path) as (backend, client):
        await client.post("/v1/responses", json=asked)
        read = backend.engine.jobs[0].input
        backend.engine.says = b"The cat sat on the mat. A dog ran over the mat."
        whole = (await client.post("/v1/responses", json=asked)).json()
        backend.engine.says = b"The cat sat"
        cut = (await client.post("/v1/responses", json=asked)).json()

    assert len(read) < 4_000
    assert (whole["status"], cut["status"]) == ("completed", "incomplete")


async def test_a_summary_of_its_own_route_says_whether_it_was_cut(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        backend.engine.says = b"The cat sat"
        asked = {"text": "The cat sat on the mat. A dog ran over the whole of it."}
        cut = (await client.post("/summary", json=asked | {"max_tokens": 3})).json()
        whole = (await client.post("/summary", json=asked)).json()

    assert (cut["finish_reason"], whole["finish_reason"]) == ("length", "stop")


@pytest.mark.parametrize("blank", [" ", "\n\t ", "\u3000"])
async def test_a_text_of_white_space_is_refused_wherever_a_text_is_worked_on(
    tmp_path: Path, blank: str
) -> None:
    parts = [{"type": "text", "text": blank}, {"type": "text", "text": ""}]
    async with caller(tmp_path) as (backend, client):
        for path, body in (
            ("/v1/responses", {"model": SUMMARY, "input": blank}),
            ("/v1/responses", {"model": SUMMARY, "input": blank, "stream": True}),
            ("/v1/chat/completions", {"model": IAB, "messages": [{"content": blank}]}),
            ("/v1/chat/completions", {"model": IAB, "messages": [{"content": parts}]}),
            ("/summary", {"text": blank}),
            ("/usecase/classify/iab", {"text": blank}),
        ):
            reply = await client.post(path, json=body)
            assert reply.status_code == 400, path
            assert "no text to work on" in error_of(reply)["message"]
        assert backend.engine.jobs == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
async def test_an_option_that_nests_too_deeply_to_be_echoed_is_refused(
    tmp_path: Path, start: str, end: str, stream: bool
) -> None:
    def body(levels: int, field: str) -> str:
        nested = start * levels + ("" if start == "[" else "1") + end * levels
        asked = {"model": SUMMARY, field: "A text.", "stream": stream}
        if field == "messages":
            asked[field] = [{"role": "user", "content": "A text."}]
        return json.dumps(asked)[:-1] + f',"metadata":{{"schema":{nested}}}}}'

    async with caller(tmp_path) as (_, client):
        for path, field in (("/v1/responses", "input"), ("/v1/chat/completions", "messages")):
            for levels, status in ((100, 200), (101, 400), (980, 400), (990, 400)):
                reply = await client.post(path, content=body(levels, field))
                assert reply.status_code == status, (path, levels)
            assert reply.json()["error"]["code"] == "invalid_json"
            deep = await client.post(path, content=body(101, field))
            assert deep.json()["error"]["param"] == "metadata.schema"


async def test_options_in_metadata_are_echoed_as_the_strings_that_clients_expect(
    tmp_path: Path,
) -> None:
    metadata = {"job": "7", "sentences": 2, "labels": ["a", "b"], "schema": {"a": 1}}
    async with caller(tmp_path) as (_, client):
        body = {"model": SUMMARY, "metadata": metadata}
        response = await client.post("/v1/responses", json=body | {"input": TEXT})
        messages = [{"role": "user", "content": TEXT}]
        completion = await client.post("/v1/chat/completions", json=body | {"messages": messages})

    for reply in (response, completion):
        assert reply.json()["metadata"] == {
            "job": "7",
            "sentences": "2",
            "labels": '["a","b"]',
            "schema": '{"a":1}',
        }


async def test_the_older_name_of_the_longest_output_is_echoed_by_its_newer_one(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (_, client):
        asked = {"model": SUMMARY, "input": TEXT, "max_tokens": 50}
        reply = await client.post("/v1/responses", json=asked)

    assert reply.json()["max_output_tokens"] == 50


def test_every_field_of_the_sdk_is_known() -> None:
    """The SDK's types are what customers can send; a field that we do not know would be a 400."""
    for theirs, ours in (
        (ResponseCreateParamsBase, bodies.ResponsesBody),
        (CompletionCreateParamsBase, bodies.ChatBody),
        (EmbeddingCreateParams, bodies.EmbeddingsBody),
        (ModerationCreateParams, bodies.ModerationsBody),
        (BatchCreateParams, CreateBatch),
    ):
        assert set(theirs.__annotations__) <= {*ours.__struct_fields__, "stream"}, ours


async def test_a_million_token_ids_keep_nobody_waiting(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        [at] = ids("cat")
        asked = asyncio.ensure_future(
            client.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": [at] * 1_000_000})
        )
        meanwhile = 0
        while not asked.done():
            assert (await client.get("/v1/models")).status_code == 200
            meanwhile += 1

        assert (await asked).json()["usage"]["prompt_tokens"] == 16
        assert meanwhile


async def test_token_arrays_mean_the_text_that_has_these_tokens(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        one = await client.post(
            "/v1/embeddings", json={"model": EMBEDDINGS, "input": ids("the", "cat", "##s")}
        )
        two = await client.post(
            "/v1/embeddings",
            json={
                "model": EMBEDDINGS,
                "input": [ids("[CLS]", "a", "dog", "[SEP]"), ids("on")],
                "encoding_format": "float",
            },
        )

        assert [job.input for job in backend.engine.jobs] == ["the cats", "a dog", "on"]
        assert one.json()["usage"]["prompt_tokens"] == 5
        assert [len(item["embedding"]) for item in two.json()["data"]] == [384, 384]


async def test_two_thousand_inputs_come_back_in_their_order(tmp_path: Path) -> None:
    texts = [f"cat {at}" for at in range(2_048)]
    async with caller(tmp_path) as (backend, client):
        reply = await client.post(
            "/v1/embeddings",
            json={"model": EMBEDDINGS, "input": texts, "encoding_format": "float"},
        )

        data = reply.json()["data"]
        assert [item["index"] for item in data] == list(range(2_048))
        expected = memoryview(vector_of("cat 2047")).cast("f").tolist()
        assert data[-1]["embedding"] == pytest.approx(expected)
        assert len(backend.engine.jobs) == 2_048


async def test_the_task_routes_answer_with_objects(tmp_path: Path) -> None:
    async with caller(tmp_path) as (backend, client):
        summary = await client.post("/summary", json={"text": TEXT, "sentences": 1})
        classified = await client.post(
            "/usecase/classify/iab", json={"text": TEXT, "model": IAB_ALIAS}
        )
        rows = backend.rows()

    assert summary.json()["summary"] == "The cat sat on the mat"
    assert summary.json()["usage"]["total_tokens"] == 14 + 6
    assert classified.json()["object"] == "iab.classification"
    assert classified.json()["result"] == {"audience": [], "keywords": ["The", "cat", "sat"]}
    assert [row["endpoint"] for row in rows] == ["/summary", "/usecase/classify/iab"]
    job: NewJob = backend.engine.jobs[0]
    assert job.params == {"sentences": 1}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/summary", {"text": ""}, 400, "invalid_value"),
        ("/summary", {"text": "x", "sentences": 0}, 400, "invalid_value"),
        ("/summary", {"text": "x", "model": IAB}, 400, "model_route_mismatch"),
        ("/summary", {"text": "x", "model": "gpt-4"}, 404, "model_not_found"),
        ("/summary", {"text": LONG}, 420, "context_length_exceeded"),
        ("/usecase/classify/iab", {}, 400, "missing_required_parameter"),
        ("/gliner", {"text": "x", "labels": ["person"]}, 404, "model_not_found"),
        ("/gliner", {"text": "x", "labels": []}, 400, "invalid_value"),
    ],
)
async def test_mistakes_on_the_task_routes_are_told(
    tmp_path: Path, path: str, body: dict[str, object], status: int, code: str
) -> None:
    async with caller(tmp_path) as (_, client):
        reply = await client.post(path, json=body)

    assert (reply.status_code, error_of(reply)["code"]) == (status, code)


async def test_every_route_of_a_model_answers_for_it_and_no_other_does(tmp_path: Path) -> None:
    bodies_of: dict[str, dict[str, object]] = {
        "/v1/responses": {"input": TEXT},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}]},
        "/v1/embeddings": {"input": TEXT},
        "/v1/moderations": {"input": TEXT},
        "/summary": {"text": TEXT},
        "/usecase/classify/iab": {"text": TEXT},
        "/gliner": {"text": TEXT, "labels": ["cat"]},
    }
    async with caller(tmp_path) as (_, client):
        for model in (await client.get("/v1/models")).json()["data"]:
            for route, body in bodies_of.items():
                reply = await client.post(route, json=body | {"model": model["id"]})

                answers = route in model["routes"]
                assert reply.status_code == (200 if answers else 400), (model["id"], route)
                if not answers:
                    words = " or ".join(model["routes"][-2:])
                    assert error_of(reply)["message"].endswith(f"{words}.")


def test_a_moderation_has_openai_s_thirteen_categories() -> None:
    result = moderation({"violence": 0.7, "hate": 0.49, "unheard of": 1.0})

    assert result.flagged
    assert [name for name, found in result.categories.items() if found] == ["violence"]
    assert list(result.category_scores) == list(CATEGORIES)
    assert len(CATEGORIES) == 13
    assert result.category_applied_input_types["sexual/minors"] == ["text"]
    assert not moderation({"violence": 0.7}, threshold=0.8).flagged


async def test_the_catalogue_is_not_sent_twice_to_who_has_it(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        first = await client.get("/v1/models")
        again = await client.get("/v1/models", headers={"if-none-match": first.headers["etag"]})
        other = await client.get(f"/v1/models/{IAB}", headers={"if-none-match": '"x"'})

    assert first.headers["cache-control"] == "private, max-age=60"
    assert (again.status_code, again.content) == (304, b"")
    assert "content-length" not in again.headers
    assert other.status_code == 200
    assert json.loads(other.content)["id"] == IAB
