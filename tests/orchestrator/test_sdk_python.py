"""The official `openai` package, unmodified: every operation there is, sync, async and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types import Batch
from openai.types.chat import ChatCompletionMessageParam

from tests.orchestrator.fakes import DIMENSIONS, EMBEDDINGS, IAB, SUMMARY, vector_of
from tests.orchestrator.shop import Shop, open_shop

TEXT = "the cat sat. a dog ran home"
SAID: list[ChatCompletionMessageParam] = [{"role": "user", "content": TEXT}]
ENDED = {"completed", "failed", "expired", "cancelled"}
# A batch of a few lines is done within a hundredth of these.
POLLS = 5_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), batch_under_way=2) as shop:
        yield shop


@pytest.fixture(scope="module")
def client(shop: Shop) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**shop.sdk_options) as client:
        yield client


def batch_file(texts: list[str], model: str = SUMMARY) -> bytes:
    lines = [
        {
            "custom_id": f"q-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": text}]},
        }
        for number, text in enumerate(texts)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    for _ in range(POLLS):
        if batch.status in ENDED:
            return batch
        batch = client.batches.retrieve(batch.id)
    raise AssertionError(f"{batch.status} after {POLLS} polls: {batch.request_counts}")


def test_answers_are_typed_and_say_by_their_headers_who_made_them(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model=SUMMARY, input=TEXT)
    response = raw.parse()
    assert response.output_text == "the cat sat"
    assert response.output[0].type == "message"
    assert raw.headers["x-inference-type"] == "edge"
    assert response._request_id == raw.headers["x-request-id"]

    completion = client.chat.completions.create(model=SUMMARY, messages=SAID, seed=1, n=1)
    assert completion.choices[0].message.content == "the cat sat"
    assert completion.choices[0].finish_reason == "stop"

    with client.chat.completions.with_streaming_response.create(
        model=IAB, messages=SAID
    ) as streamed:
        parsed = streamed.parse()
    assert json.loads(parsed.choices[0].message.content or "")["audience"] == []


def test_a_response_is_streamed_as_the_sdks_own_events(client: openai.OpenAI) -> None:
    with client.responses.create(model=SUMMARY, input=TEXT, stream=True) as events:
        seen = list(events)
    assert [seen[0].type, seen[-1].type] == ["response.created", "response.completed"]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert deltas == ["the ", "cat ", "sat "]

    with client.responses.stream(model=SUMMARY, input=TEXT) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.in_progress", "response.output_text.done"} <= kinds
    assert final.output_text == "the cat sat "
    assert final.usage is not None
    assert final.usage.total_tokens == final.usage.input_tokens + 3


def test_a_completion_is_streamed_with_its_usage_when_asked(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    with create(model=SUMMARY, messages=SAID, stream=True, stream_options=options) as stream:
        chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == "the cat sat "
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3

    with create(model=SUMMARY, messages=SAID, stream=True) as stream:
        assert all(chunk.usage is None and chunk.choices for chunk in stream)

    with client.chat.completions.stream(model=SUMMARY, messages=SAID) as helper:
        events = list(helper)
        final = helper.get_final_completion()
    assert "".join(e.delta for e in events if e.type == "content.delta") == "the cat sat "
    assert events[-1].type == "content.done"
    assert final.choices[0].message.content == "the cat sat "


async def test_the_async_client_does_it_all_at_once(shop: Shop) -> None:
    async with openai.AsyncOpenAI(**shop.sdk_options) as client:

        async def streamed() -> str:
            async with client.responses.stream(model=SUMMARY, input=TEXT) as stream:
                return "".join(
                    [e.delta async for e in stream if e.type == "response.output_text.delta"]
                )

        async def in_chunks() -> str:
            create = client.chat.completions.create
            stream = await create(model=SUMMARY, messages=SAID, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def filed() -> None:
            file = await client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
            assert (await client.files.content(file.id)).content == b"{}\n"
            assert file.id in [one.id async for one in client.files.list(limit=1)]
            assert (await client.files.delete(file.id)).deleted

        response, completion, vectors, models, _ = await asyncio.gather(
            client.responses.create(model=SUMMARY, input=TEXT),
            client.chat.completions.create(model=SUMMARY, messages=SAID),
            client.embeddings.create(model=EMBEDDINGS, input=["the cat", "a dog"]),
            client.models.list(),
            filed(),
        )
        by_event, by_chunk = await asyncio.gather(streamed(), in_chunks())

    assert response.output_text == completion.choices[0].message.content == "the cat sat"
    assert by_event == by_chunk == "the cat sat "
    assert [len(row.embedding) for row in vectors.data] == [DIMENSIONS, DIMENSIONS]
    assert EMBEDDINGS in {model.id for model in models.data}


def test_embeddings_come_as_the_sdk_asks_and_models_are_found(client: openai.OpenAI) -> None:
    by_default = client.embeddings.create(model=EMBEDDINGS, input="the cat")
    floats = client.embeddings.create(
        model=EMBEDDINGS, input="the cat", encoding_format="float", dimensions=DIMENSIONS
    )
    expected = memoryview(vector_of("the cat")).cast("f").tolist()
    assert by_default.data[0].embedding == floats.data[0].embedding == expected
    assert by_default.usage.prompt_tokens == 4

    assert client.models.retrieve(IAB).owned_by == "zerogpu"
    assert {SUMMARY, IAB} <= {model.id for model in client.models.list()}


def test_what_is_not_possible_raises_the_sdks_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as moderation:
        client.moderations.create(input="a text")
    assert moderation.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as streamed:
        client.responses.create(model=EMBEDDINGS, input=TEXT, stream=True)
    assert streamed.value.code == "model_route_mismatch"
    with pytest.raises(openai.BadRequestError) as schema:
        client.responses.create(
            model=SUMMARY,
            input=TEXT,
            text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}},
        )
    assert schema.value.param == "text.format.type"
    with pytest.raises(openai.APIStatusError) as long:
        client.responses.create(model=IAB, input="cat " * 50, stream=True)
    assert (long.value.status_code, long.value.code) == (420, "context_length_exceeded")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_0")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(default_headers={"x-api-key": "zgpu-api-x"}).models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client.models.list(extra_headers={"x-project-id": "another"})


def test_files_are_kept_listed_read_and_deleted(client: openai.OpenAI) -> None:
    content = batch_file([TEXT])
    made = [client.files.create(file=(f"{name}.jsonl", content), purpose="batch") for name in "abc"]
    assert (made[0].filename, made[0].bytes) == ("a.jsonl", len(content))
    assert client.files.wait_for_processing(made[0].id).status == "processed"
    assert client.files.retrieve(made[1].id) == made[1]

    # The SDK turns the pages by itself.
    pages = client.files.list(limit=2, order="asc", purpose="batch")
    assert [file.id for file in pages][-3:] == [file.id for file in made]
    assert client.files.content(made[2].id).read() == content
    with client.files.with_streaming_response.content(made[2].id) as streamed:
        assert b"".join(streamed.iter_bytes()) == content

    assert client.files.delete(made[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(made[0].id)


def test_a_batch_runs_to_its_end_and_its_lines_are_read(
    client: openai.OpenAI, tmp_path: Path
) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(batch_file([TEXT, "a dog ran. the cat", "cat " * 90]))
    with path.open("rb") as opened:
        file = client.files.create(file=opened, purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"job": "sdk"},
    )
    assert (batch.status, batch.metadata) == ("in_progress", {"job": "sdk"})

    batch = ended(client, batch)

    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
    output = client.files.content(batch.output_file_id or "").text.splitlines()
    said = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in map(json.loads, output)
    }
    assert said == {"q-0": "the cat sat", "q-1": "a dog ran"}
    [failed] = client.files.content(batch.error_file_id or "").text.splitlines()
    assert json.loads(failed)["error"]["code"] == "context_length_exceeded"
    assert client.batches.list(limit=1).data[0].id == batch.id
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_batch_is_cancelled_and_its_lines_say_so(shop: Shop, client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", batch_file([TEXT] * 5)), purpose="batch")
    shop.backend.engine.waits = True
    try:
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert client.batches.cancel(batch.id).status == "cancelling"
        assert client.batches.cancel(batch.id).status == "cancelling"
    finally:
        shop.backend.engine.waits = False
        shop.call(shop.backend.engine.released.set)

    batch = ended(client, batch)

    assert batch.status == "cancelled"
    errors = client.files.content(batch.error_file_id or "").text.splitlines()
    assert {json.loads(line)["error"]["code"] for line in errors} == {"batch_cancelled"}


def test_a_bad_file_leaves_a_failed_batch_with_all_its_problems(client: openai.OpenAI) -> None:
    bad = batch_file([TEXT]) + b"{}\n[]\n"
    file = client.files.create(file=("b.jsonl", bad), purpose="batch")
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )

    assert "Line 2" in refused.value.message
    failed = next(one for one in client.batches.list() if one.status == "failed")
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert {problem.line for problem in failed.errors.data} == {2, 3}
