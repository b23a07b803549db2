"""The OpenAPI document: valid, complete, true of the server, and its code samples run."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import msgspec
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from orchestrator import errors
from orchestrator.api.codes import CODES, codes_of
from orchestrator.api.endpoints import ENDPOINTS, Endpoint
from orchestrator.api.examples import EXAMPLES
from orchestrator.api.openapi import document, examples_of
from orchestrator.settings import Settings
from tests.orchestrator.fakes import (
    EMBEDDINGS,
    IAB,
    SUMMARY,
    backend_in,
    caller,
    client_of,
    serving,
)

URL: Final = "https://api.example.org"
DOCUMENT: Final[dict[str, Any]] = msgspec.json.decode(
    msgspec.json.encode(document(ENDPOINTS, url=URL))
)
# Of a server that wants every request to name its project.
STRICT: Final[dict[str, Any]] = msgspec.json.decode(
    msgspec.json.encode(document(ENDPOINTS, url=URL, wants_project=True))
)
# What the build of the tests has no model for.
UNSERVED: Final = {"createModeration", "extractEntities"}
SOURCES: Final = Path(errors.__file__).parent


def named(endpoint: Endpoint) -> str:
    return endpoint.operation_id


def operation(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    return found


def endpoint_of(operation_id: str) -> Endpoint:
    return next(one for one in ENDPOINTS if one.operation_id == operation_id)


def validator(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Return a validator of a schema whose references lead into the document."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


# ── the document ─────────────────────────────────────────────────────────────────────────────────


def test_the_document_is_valid_openapi() -> None:
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []


def test_every_schema_is_valid_json_schema() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(schema), name


def test_every_reference_leads_somewhere() -> None:
    def references(value: object) -> Iterator[str]:
        match value:
            case {"$ref": str(to)}:
                yield to
            case dict():
                for one in value.values():
                    yield from references(one)
            case list():
                for one in value:
                    yield from references(one)

    for to in references(DOCUMENT):
        at: Any = DOCUMENT
        for step in to.removeprefix("#/").split("/"):
            at = at[step]


def test_every_endpoint_is_an_operation_of_its_own() -> None:
    ids = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert sorted(ids) == sorted(named(one) for one in ENDPOINTS)
    assert {one["name"] for one in DOCUMENT["tags"]} == {one.tag for one in ENDPOINTS}


def test_it_says_where_the_server_is() -> None:
    assert DOCUMENT["servers"] == [{"url": URL}]
    text = json.dumps(DOCUMENT)
    assert "127.0.0.1" not in text


def assert_events_fit(stream: str, schema: dict[str, Any]) -> None:
    sent = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data")]
    told = [json.loads(one) for one in sent if one != "[DONE]"]
    assert told
    for one in told:
        validator(schema).validate(one)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_every_example_fits_its_schema(endpoint: Endpoint) -> None:
    described = operation(endpoint)
    content = described.get("requestBody", {}).get("content", {})
    for name, kind in (*content.items(), *described["responses"]["200"]["content"].items()):
        if name == "text/event-stream":
            # Shown as it is sent: the schema is that of each event.
            assert_events_fit(kind["example"], kind["x-event-schema"])
            continue
        values = [one["value"] for one in kind.get("examples", {}).values()]
        values += [kind["example"]] if "example" in kind else []
        for value in values:
            validator(kind["schema"]).validate(value)
        assert values or endpoint.form is not None


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_every_example_is_what_the_types_take(endpoint: Endpoint) -> None:
    examples = examples_of(endpoint)
    if endpoint.request is not None:
        assert examples.requests
        for value in examples.requests.values():
            msgspec.convert(value, endpoint.request)
    assert (endpoint.reply is None) == (examples.reply is None)
    assert endpoint.reply is None or isinstance(examples.reply, endpoint.reply)
    assert bool(endpoint.events) == (examples.stream is not None)
    assert ("{" in endpoint.path) == (examples.path is not None)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_every_kind_of_error_is_described_with_its_codes(endpoint: Endpoint) -> None:
    described = operation(endpoint)["responses"]
    for status, codes in codes_of(endpoint).items():
        answer = DOCUMENT["components"]["responses"][described[str(status)]["$ref"].split("/")[-1]]
        [schema] = [one["schema"] for one in answer["content"].values()]
        assert schema["allOf"][0] == {"$ref": "#/components/schemas/ErrorReply"}
        said = schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]
        assert said == [one.code for one in codes] == list(answer["x-codes"])
    for error in endpoint.errors:
        if error is not errors.NotFound:
            assert str(error.status) in described, error


def test_fields_that_are_always_there_are_required() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    completion = schemas["ChatCompletion"]
    assert {*completion["required"], "metadata"} == set(completion["properties"])
    assert "metadata" not in completion["required"]
    assert schemas["ErrorDetail"]["required"] == ["message", "type", "code", "param"]
    assert "alias_of" not in schemas["ModelReply"]["required"]
    assert schemas["EmbeddingsBody"]["required"] == ["model", "input"]


# ── codes ────────────────────────────────────────────────────────────────────────────────────────


def api_errors() -> Iterator[type[errors.ApiError]]:
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, errors.ApiError):
            yield one


def raised_codes() -> set[str]:
    """Return every literal code of an error that is raised on the way of a request."""
    found = set()
    paths = [*(SOURCES / "api").glob("*.py"), *(SOURCES / "storage").glob("*.py")]
    paths += [*(SOURCES / "domain").glob("*.py"), SOURCES / "batches" / "service.py"]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name), keywords=keywords) if hasattr(errors, name):
                    found |= {
                        one.value.value
                        for one in keywords
                        if one.arg == "code"
                        and isinstance(one.value, ast.Constant)
                        and isinstance(one.value.value, str)
                    }
    return found


def test_every_code_that_the_source_raises_is_described() -> None:
    described = {one.code for one in CODES}
    # Of `/metrics`, which is no part of the API.
    assert raised_codes() - {"metrics_forbidden"} <= described
    assert {one.default_code for one in api_errors()} <= described


def test_every_code_has_the_status_of_an_error() -> None:
    statuses = {one.status for one in api_errors()}

    assert {one.status for one in CODES} <= statuses
    assert len({one.code for one in CODES}) == len(CODES)


def test_what_may_be_answered_unchanged_says_so() -> None:
    asks = {"$ref": "#/components/parameters/if-none-match"}
    unchanged = {
        named(one)
        for one in ENDPOINTS
        if asks in operation(one)["parameters"]
        and "304" in operation(one)["responses"]
        and "etag" in operation(one)["responses"]["200"]["headers"]
    }

    assert unchanged == {"downloadFile", "listModels", "retrieveModel"}


# ── how it is served ─────────────────────────────────────────────────────────────────────────────


async def test_it_is_served_without_a_key_and_may_be_kept(tmp_path: Path) -> None:
    with backend_in(tmp_path, public_url=URL) as backend:
        async with serving(backend) as url, client_of(url) as client:
            first = await client.get("/openapi.json")
            alias = await client.get("/v1/openapi.json")
            again = await client.get(
                "/openapi.json", headers={"if-none-match": first.headers["etag"]}
            )
            asked = await client.options(
                "/openapi.json", headers={"access-control-request-method": "GET"}
            )
            head = await client.head("/openapi.json")
            posted = await client.post("/openapi.json")

    assert first.json() == DOCUMENT
    assert first.headers["content-type"] == "application/json"
    assert first.headers["cache-control"] == "public, max-age=300"
    assert first.headers["access-control-allow-origin"] == "*"
    assert alias.content == first.content
    assert (again.status_code, again.content) == (304, b"")
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
    assert (head.status_code, head.content) == (200, b"")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    numbers = {one.headers["x-request-id"] for one in (first, alias, again, asked, head, posted)}
    assert len(numbers) == 6
    assert all(re.fullmatch("req_[0-9a-f]{24}", one) for one in numbers)


async def test_of_all_that_is_under_v1_only_the_description_is_served_to_head(
    tmp_path: Path,
) -> None:
    async with caller(tmp_path) as (_, client):
        description = await client.head("/v1/openapi.json")
        others = [
            await client.head(endpoint.path.replace("{", "").replace("}", ""))
            for endpoint in ENDPOINTS
            if endpoint.method == "GET"
        ]

    assert description.status_code == 200
    assert {(reply.status_code, reply.content) for reply in others} == {(405, b"")}


async def test_what_is_made_for_a_key_is_not_stored_on_the_way(tmp_path: Path) -> None:
    async with caller(tmp_path) as (_, client):
        asked = {"model": SUMMARY, "input": "the cat sat. a dog ran"}
        answers = [
            await client.post("/v1/responses", json=asked),
            await client.post("/v1/responses", json={**asked, "stream": True}),
            await client.post("/v1/responses", json={}),
            await client.get("/v1/files"),
            await client.get("/v1/files/file-0"),
            await client.get("/v1/batches"),
            await client.get("/v1/requests/req_0/decisions"),
            await client.get("/v1/models", headers={"x-api-key": "no"}),
        ]
        models = await client.get("/v1/models")

    assert [answer.headers.get_list("cache-control") for answer in answers] == [["no-store"]] * 8
    assert models.headers["cache-control"] == "private, max-age=60"


# ── that it is true ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.request is not None], ids=named
)
async def test_every_example_request_is_answered_as_described(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    described = operation(endpoint)["responses"]
    async with caller(tmp_path) as (_, client):
        for value in examples_of(endpoint).requests.values():
            answer = await client.post(
                endpoint.path.replace("{batch_id}", "batch_0"), json=dict(value)
            )
            # A batch's example names a file that is not here.
            missing = named(endpoint) in UNSERVED | {"createBatch"}
            assert answer.status_code == (404 if missing else 200), answer.text
            kind = answer.headers["content-type"].partition(";")[0]
            if kind == "application/json" and not missing:
                schema = described["200"]["content"][kind]["schema"]
                validator(schema).validate(answer.json())
            elif not missing:
                assert_events_fit(answer.text, described["200"]["content"][kind]["x-event-schema"])


async def test_every_event_of_a_response_is_described_by_its_type(tmp_path: Path) -> None:
    schema = operation(endpoint_of("createResponse"))["responses"]["200"]["content"][
        "text/event-stream"
    ]["x-event-schema"]
    kinds = schema["discriminator"]["mapping"]
    whole, broken = {"input": "The cat sat."}, {"input": "The cat break sat on."}
    cut = {"input": "The cat sat on the mat with a dog", "max_output_tokens": 3}
    seen = set()
    async with caller(tmp_path) as (backend, client):
        for body in (whole, broken, cut):
            if body is cut:
                backend.engine.says = b"The cat sat"
            ask = {"model": SUMMARY, "stream": True, **body}
            stream = (await client.post("/v1/responses", json=ask)).text
            assert_events_fit(stream, schema)
            for block in stream.strip().split("\n\n"):
                name, _, data = block.partition("\n")
                event = json.loads(data.removeprefix("data: "))
                assert name == f"event: {event['type']}"
                described = DOCUMENT["components"]["schemas"][kinds[event["type"]].split("/")[-1]]
                assert set(event) == set(described["properties"]) == set(described["required"])
                seen.add(event["type"])

    assert seen == set(kinds)


def test_the_models_of_the_examples_are_those_of_the_build() -> None:
    used = {
        value["model"]
        for one in ENDPOINTS
        for value in examples_of(one).requests.values()
        if one.tag == "Inference" and one.path != "/v1/moderations"
    }
    assert used == {EMBEDDINGS, IAB, SUMMARY}


def samples(language: str, of: dict[str, Any] = DOCUMENT) -> dict[str, list[str]]:
    """Return the samples by operation, in the order in which one can be run after the other."""
    return {
        named(one): [
            sample["source"]
            for sample in of["paths"][one.path][one.method.lower()]["x-codeSamples"]
            if sample["lang"] == language
        ]
        for one in ENDPOINTS
    }


@pytest.mark.parametrize("language", ["shell", "python", "javascript"])
def test_every_operation_has_a_sample_of_every_example(language: str) -> None:
    for endpoint in ENDPOINTS:
        found = samples(language)[named(endpoint)]
        assert len(found) == max(1, len(examples_of(endpoint).requests))


def test_where_a_project_must_be_named_it_is_required_and_every_sample_names_it() -> None:
    for of, wanted in ((DOCUMENT, False), (STRICT, True)):
        parameter = of["components"]["parameters"]["x-project-id"]
        assert parameter.get("required", False) is wanted
        for language in ("shell", "python", "javascript"):
            for sources in samples(language, of).values():
                for source in sources:
                    named = '"x-project-id' in source and "ZEROGPU_PROJECT_ID" in source
                    assert named is wanted, source


@pytest.mark.parametrize("of", [DOCUMENT, STRICT], ids=["lenient", "strict"])
def test_python_samples_compile_and_shell_samples_parse(of: dict[str, Any]) -> None:
    for name, sources in samples("python", of).items():
        for source in sources:
            compile(source, name, "exec")
    for sources in samples("shell", of).values():
        for source in sources:
            subprocess.run(["sh", "-n", "-c", source], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
async def test_python_samples_do_what_they_say(tmp_path: Path, strict: bool) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": SUMMARY, "messages": [{"role": "user", "content": "the cat sat"}]},
    }
    (tmp_path / "requests.jsonl").write_text(json.dumps(line))
    run = {
        name: source
        for name, sources in samples("python", STRICT if strict else DOCUMENT).items()
        for source in sources[:1]
        if name not in UNSERVED
    }
    async with caller(tmp_path / "server", require_project_id=strict) as (backend, client):
        key = backend.new_key()
        client.headers |= {"x-api-key": key.api_key, "x-project-id": key.project_id}
        sent = await client.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": json.dumps(line).encode()}
        )
        file_id = sent.json()["id"]
        made = await client.post(
            "/v1/batches", json={"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
        )
        # These end what the others need, or tell of an engine that is not here.
        for name in ("cancelBatch", "deleteFile", "listDecisions"):
            run.pop(name)
        script = "\n".join(run.values())
        for written, meant in (
            (URL, str(client.base_url).rstrip("/")),
            (str(EXAMPLES["GET /v1/files/{}"].path), file_id),
            (str(EXAMPLES["GET /v1/batches/{}"].path), made.json()["id"]),
        ):
            script = script.replace(written, meant)
        # In a process of its own: the clients wait, and the server is in this one.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            cwd=tmp_path,
            env={"ZEROGPU_API_KEY": key.api_key, "ZEROGPU_PROJECT_ID": key.project_id},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, complaint = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 0, complaint.decode()
    assert len(told.decode().splitlines()) >= len(run)


def test_the_address_of_the_document_is_that_of_the_settings() -> None:
    assert Settings(public_url=f"{URL}/").url == URL
