"""The unmodified OpenAI SDK against the API on a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from tests.orchestrator.fakes import (
    DIMENSIONS,
    EMBEDDINGS,
    IAB,
    IAB_ALIAS,
    SUMMARY,
    Backend,
    backend_in,
    client_of,
    serving,
    vector_of,
)

TEXT = "the cat sat. a dog ran home"
# [CLS] the cat sat . a dog ran home [SEP]
TEXT_TOKENS = 10
# the cat sat
SUMMARY_TOKENS = 3


@asynccontextmanager
async def customer(folder: Path) -> AsyncIterator[tuple[Backend, openai.AsyncOpenAI]]:
    """A backend on a socket and an SDK client set up as the documentation says."""
    with backend_in(folder) as backend:
        key = backend.new_key()
        async with (
            serving(backend) as url,
            openai.AsyncOpenAI(
                base_url=f"{url}/v1",
                api_key="not-used",
                default_headers={"x-api-key": key.api_key, "x-project-id": key.project_id},
                max_retries=0,
            ) as client,
        ):
            yield backend, client


async def test_responses_answers_a_string_with_the_whole_envelope(tmp_path: Path) -> None:
    async with customer(tmp_path) as (_, client):
        raw = await client.responses.with_raw_response.create(model=SUMMARY, input=TEXT)
        response = raw.parse()

        assert response.output_text == "the cat sat"
        assert response.id.startswith("resp_")
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.input_tokens == TEXT_TOKENS
        assert response.usage.output_tokens == SUMMARY_TOKENS
        assert response.usage.total_tokens == TEXT_TOKENS + SUMMARY_TOKENS
        body = json.loads(raw.text)
        assert body["created"] == body["created_at"] == response.created_at
        assert raw.headers["x-inference-type"] == "edge"
        assert raw.headers["x-request-id"].startswith("req_")
        assert raw.headers["openai-processing-ms"].isdigit()


async def test_responses_reads_messages_and_leaves_directions_out(tmp_path: Path) -> None:
    async with customer(tmp_path) as (backend, client):
        await client.responses.create(
            model=SUMMARY,
            instructions="Summarise.",
            input=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "the cat sat"},
                {"role": "user", "content": [{"type": "input_text", "text": "a dog ran"}]},
            ],
        )

        assert backend.engine.jobs[0].input == "the cat sat\n\na dog ran"


async def test_a_classifier_answers_json_in_the_text_under_the_name_it_was_asked_by(
    tmp_path: Path,
) -> None:
    async with customer(tmp_path) as (_, client):
        response = await client.responses.create(model=IAB_ALIAS, input=TEXT)

        assert json.loads(response.output_text)["keywords"] == ["the", "cat", "sat."]
        assert response.model == IAB_ALIAS


async def test_a_summary_takes_the_length_that_is_asked_for(tmp_path: Path) -> None:
    async with customer(tmp_path) as (backend, client):
        await client.responses.create(
            model=SUMMARY, input=TEXT, max_output_tokens=20, metadata={"sentences": "2"}
        )
        await client.chat.completions.create(
            model=SUMMARY, messages=[{"role": "user", "content": TEXT}], max_tokens=9
        )

        assert [job.params for job in backend.engine.jobs] == [
            {"max_tokens": 20, "sentences": 2},
            {"max_tokens": 9},
        ]


async def test_chat_completions_answers_one_choice(tmp_path: Path) -> None:
    async with customer(tmp_path) as (_, client):
        completion = await client.chat.completions.create(
            model=SUMMARY,
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": TEXT}]},
            ],
        )

        assert completion.id.startswith("chatcmpl-")
        assert completion.choices[0].message.content == "the cat sat"
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == TEXT_TOKENS
        assert completion.usage.completion_tokens == SUMMARY_TOKENS
        assert completion.service_tier == "default"


async def test_embeddings_come_as_base64_by_default_and_as_floats_when_asked(
    tmp_path: Path,
) -> None:
    async with customer(tmp_path) as (_, client):
        by_default = await client.embeddings.create(model=EMBEDDINGS, input="the cat")
        as_floats = await client.embeddings.create(
            model=EMBEDDINGS, input="the cat", encoding_format="float"
        )

        expected = memoryview(vector_of("the cat")).cast("f").tolist()
        assert by_default.data[0].embedding == as_floats.data[0].embedding == expected
        assert len(expected) == DIMENSIONS
        assert by_default.usage.prompt_tokens == by_default.usage.total_tokens == 4


async def test_an_array_of_inputs_is_answered_in_order(tmp_path: Path) -> None:
    texts = [f"dog {number}" for number in range(100)]
    async with customer(tmp_path) as (backend, client):
        answer = await client.embeddings.create(model=EMBEDDINGS, input=texts)

        assert [item.index for item in answer.data] == list(range(100))
        assert [item.embedding for item in answer.data] == [
            memoryview(vector_of(text)).cast("f").tolist() for text in texts
        ]
        assert answer.usage.prompt_tokens == sum(job.tokens for job in backend.engine.jobs)


async def test_many_jobs_are_edge_only_if_all_are(tmp_path: Path) -> None:
    async with customer(tmp_path) as (backend, client):
        create = client.embeddings.with_raw_response.create
        edge = await create(model=EMBEDDINGS, input=["the cat", "a dog"])
        mixed = await create(model=EMBEDDINGS, input=["the cat", "cloud"])

        assert edge.headers["x-inference-type"] == "edge"
        assert mixed.headers["x-inference-type"] == "cloud"
        first, second = backend.rows()
        assert (first["place"], first["node_id"], first["attempts"]) == ("edge", "node_1", 2)
        assert (second["place"], second["node_id"], second["attempts"]) == ("cloud", None, 2)


async def test_an_embedding_is_cut_to_the_model_and_billed_as_cut(tmp_path: Path) -> None:
    async with customer(tmp_path) as (backend, client):
        answer = await client.embeddings.create(model=EMBEDDINGS, input="cat " * 50_000)

        assert answer.usage.prompt_tokens == 16
        assert len(backend.engine.jobs[0].input) < 200


async def test_models_are_listed_with_their_aliases_and_found_by_both(tmp_path: Path) -> None:
    async with customer(tmp_path) as (_, client):
        listed = [model.id async for model in client.models.list()]
        by_id = await client.models.retrieve(IAB)
        by_alias = await client.models.retrieve(IAB_ALIAS)

        assert sorted(listed) == sorted([EMBEDDINGS, IAB, IAB_ALIAS, SUMMARY])
        assert (by_id.id, by_id.owned_by) == (IAB, "zerogpu")
        assert by_alias.id == IAB_ALIAS
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-4")


async def test_the_sdk_raises_its_own_error_for_each_of_ours(tmp_path: Path) -> None:
    async with customer(tmp_path) as (_, client):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.responses.create(model="gpt-4", input=TEXT)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as route:
            await client.responses.create(model=EMBEDDINGS, input=TEXT)
        assert "/v1/embeddings" in route.value.message
        with pytest.raises(openai.APIStatusError) as long:
            await client.responses.create(model=IAB, input="cat " * 40)
        assert long.value.status_code == 420
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(default_headers={"x-api-key": "zgpu-api-x"}).models.list()
        with pytest.raises(openai.PermissionDeniedError):
            await client.models.list(extra_headers={"x-project-id": "another"})


async def test_a_bearer_key_counts_only_without_x_api_key(tmp_path: Path) -> None:
    with backend_in(tmp_path) as backend:
        key = backend.new_key().api_key
        async with serving(backend) as url, client_of(url) as http:
            bearer = {"authorization": f"Bearer {key}"}
            alone = await http.get("/v1/models", headers=bearer)
            beside = await http.get("/v1/models", headers=bearer | {"x-api-key": "zgpu-api-x"})

            assert (alone.status_code, beside.status_code) == (200, 401)
