"""The OpenAPI 3.1 document, made of the routes and of the very types that validate: `document`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from orchestrator.api.asgi import error_body, error_headers, send_body
from orchestrator.api.codes import Code, codes_of, names
from orchestrator.api.endpoints import Endpoint, Tag
from orchestrator.api.examples import EXAMPLES, Examples
from orchestrator.api.samples import samples_of
from orchestrator.api.schemas import REF, Schemas, without_null
from orchestrator.errors import MethodNotAllowed
from orchestrator.transport.assets import Asset, make_asset, send_asset, send_reply

Json = dict[str, Any]

PATHS: Final = ("/openapi.json", "/v1/openapi.json")
VERSION: Final = "1.0.0"
FRESH_S: Final = 300

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_TAGS: Final[Mapping[Tag, str]] = {
    "Inference": "What OpenAI's clients call: a model runs on a text, the answer comes at once or"
    " as a stream.",
    "Tasks": "One task each, in its own words; the result is an object instead of text.",
    "Files": "Input and output of batches. Files belong to the key's project.",
    "Batches": "Up to 50,000 requests in a file, answered within 24 hours.",
    "Models": "What can be asked.",
    "Diagnosis": "Why a request was answered where it was.",
}
_INTRODUCTION: Final = """\
Small models on donated browser tabs, behind OpenAI's API: the official OpenAI clients work with \
another `base_url`. Send the key as `x-api-key`, or as a Bearer token.

Every answer has an `x-request-id`. Errors have one shape, with a sentence in `message` and a \
`code` for programs. A path that is not here is answered 404, another method 405. 408, 429 and 5xx \
are worth another try, after `retry-after` seconds where that comes along. (A `Host` that the \
server does not know is turned away before all this: 421, in plain text. So \
are requests without one or with two: 400.)

A POST with an `Idempotency-Key` is answered once: sent again with the same body it gets the same \
answer while that is kept, 24 hours at most. Answers made for a key are `cache-control: no-store`, \
but for models and the content of files."""
_STATUSES: Final[Mapping[int, str]] = {
    400: "The request does not say what it must, or says what is not possible.",
    401: "No key, or not a good one.",
    403: "The key is good, but not for this project.",
    404: "There is no such thing, or it is another project's.",
    408: "The request did not arrive in time. Send it again.",
    409: "It cannot be done in the state that things are in.",
    413: "Too long.",
    415: "The body is compressed. Send it as it is, without `content-encoding`.",
    420: "The input has more tokens than the model reads.",
    429: "The key or its project asks for more than it may. Wait for `retry-after` seconds.",
    431: "The headers are too long, or too many.",
    500: "Our fault. Send it again, and tell us the `x-request-id` if that does not help.",
    503: "Nothing is wrong with the request, unless the message says that it takes too long by"
    " itself. Send it again after `retry-after` seconds.",
}
_NAMES: Final[Mapping[str, str]] = {
    "model": "Id or alias of a model.",
    "file_id": "Id of a file of the key's project.",
    "batch_id": "Id of a batch of the key's project.",
    "request_id": "The `x-request-id` of an answer.",
}
_LIMIT_HEADERS: Final[Mapping[str, str]] = {
    "x-ratelimit-limit-requests": "Requests per minute that the key or its project may make.",
    "x-ratelimit-limit-tokens": "Input tokens per minute that they may send.",
    "x-ratelimit-remaining-requests": "Requests left.",
    "x-ratelimit-remaining-tokens": "Input tokens left.",
    "x-ratelimit-reset-requests": "Until all requests are there again, such as `12ms` or `6m0s`.",
    "x-ratelimit-reset-tokens": "Until all input tokens are there again.",
}
_HEADERS: Final[Mapping[str, Json]] = {
    "x-request-id": {
        "description": "The request in the server's log; of what the connection itself refuses"
        " (no HTTP, heads too long, bodies that break off), one that is in no log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]{24}$"},
    },
    "x-inference-type": {
        "description": "`edge`: volunteers' nodes made the whole answer; `cloud`: the server's CPU"
        " made all or part of it. A stream may not know.",
        "schema": {"type": "string", "enum": ["edge", "cloud"]},
    },
    "openai-processing-ms": {
        "description": "Whole milliseconds from the request's headers to its answer.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "retry-after": {
        "description": "Whole seconds until sending again may help.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "idempotent-replayed": {
        "description": "`true` on an answer that was given before, for its Idempotency-Key.",
        "schema": {"type": "string", "const": "true"},
    },
    "etag": {
        "description": "For `if-none-match`.",
        "schema": {"type": "string"},
    },
    **{
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in _LIMIT_HEADERS.items()
    },
}
_PARAMETERS: Final[Mapping[str, Json]] = {
    "x-project-id": {
        "name": "x-project-id",
        "in": "header",
        "description": "The key's own project. A key that got into the wrong hands' configuration"
        " is noticed by it.",
        "schema": {"type": "string"},
    },
    "idempotency-key": {
        "name": "idempotency-key",
        "in": "header",
        "description": "1 to 255 printable ASCII characters, such as a UUID. The same request sent"
        " again with it is answered the same and not run again, for up to 24 hours: memory for"
        " answers is bounded, one longer than 8 MiB is not kept, and a restart forgets all but"
        " those of uploads and new batches.",
        "schema": {"type": "string", "pattern": "^[\\x20-\\x7e]{1,255}$"},
    },
    "if-none-match": {
        "name": "if-none-match",
        "in": "header",
        "description": "An `etag`: answered 304 while it is that of the answer.",
        "schema": {"type": "string"},
    },
}


def document(endpoints: Iterable[Endpoint], *, url: str, wants_project: bool = False) -> Json:
    """Return the document of ``endpoints``; ``url`` is where customers reach this server.

    ``wants_project``: requests must name their project.
    """
    endpoints = tuple(endpoints)
    schemas = Schemas(endpoints)
    paths: dict[str, Json] = {}
    answers: dict[str, Json] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas, answers, url, wants_project)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    used = {endpoint.tag for endpoint in endpoints}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ZeroGPU API",
            "version": VERSION,
            "summary": "An OpenAI-compatible API for small models on donated browser tabs.",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "tags": [{"name": tag, "description": _TAGS[tag]} for tag in _TAGS if tag in used],
        "security": [{"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The same key. Not looked at beside an `x-api-key`.",
                },
            },
            "parameters": _PARAMETERS
            if not wants_project
            else {**_PARAMETERS, "x-project-id": {**_PARAMETERS["x-project-id"], "required": True}},
            "headers": _HEADERS,
            "responses": dict(sorted(answers.items())),
            "schemas": schemas.components,
        },
    }


@functools.cache
def _asset(endpoints: tuple[Endpoint, ...], url: str, wants_project: bool) -> Asset:
    # A tenth of a second: many servers in one process, as in tests, share it.
    made = document(endpoints, url=url, wants_project=wants_project)
    return make_asset(msgspec.json.encode(made), "application/json")


class Document:
    """An ASGI app for `PATHS`: the same bytes for everybody, with an ETag, without a key."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        url: str,
        number: Callable[[], str],
        wants_project: bool = False,
    ) -> None:
        self._asset = _asset(tuple(endpoints), url, wants_project)
        self._number = number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"x-request-id", b"req_" + self._number().encode()),
            (b"access-control-allow-origin", b"*"),
            (b"cache-control", b"public, max-age=%d" % FRESH_S),
            (b"vary", b"accept-encoding"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if scope["method"] == "OPTIONS":
            headers.append((b"access-control-allow-methods", b"GET, HEAD, OPTIONS"))
            headers.append((b"access-control-allow-headers", b"*"))
            await send_reply(scope, send, status=204, headers=headers)
        elif scope["method"] in {"GET", "HEAD"}:
            await send_asset(scope, send, self._asset, headers=headers)
        else:
            refused = MethodNotAllowed(
                f"{scope['path']} is read with GET, not {scope['method'][:16]}.",
                allowed="GET, HEAD, OPTIONS",
            )
            headers += error_headers(refused)
            await send_body(send, refused.status, error_body(refused), headers)


# ── one operation ────────────────────────────────────────────────────────────────────────────────


def _operation(
    endpoint: Endpoint, schemas: Schemas, answers: dict[str, Json], url: str, wants_project: bool
) -> Json:
    examples = examples_of(endpoint)
    operation: Json = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.description or endpoint.summary,
        "parameters": list(_parameters(endpoint, schemas, examples)),
    }
    if endpoint.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": schemas.ref(endpoint.request),
                    "examples": {
                        _key(title): {"summary": title, "value": value}
                        for title, value in examples.requests.items()
                    },
                }
            },
        }
    elif endpoint.form is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": schemas.ref(endpoint.form),
                    "encoding": {"file": {"contentType": "application/jsonl, text/plain"}},
                }
            },
        }
    operation["responses"] = {
        "200": _success(endpoint, schemas, examples),
        **_unchanged(endpoint),
        **{
            str(status): {"$ref": _answer(answers, endpoint, status, codes)}
            for status, codes in codes_of(endpoint).items()
        },
    }
    operation["x-codeSamples"] = samples_of(
        endpoint, examples, url=url, wants_project=wants_project
    )
    return operation


def _parameters(endpoint: Endpoint, schemas: Schemas, examples: Examples) -> Iterator[Json]:
    for name in _PLACEHOLDER.findall(endpoint.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": _NAMES[name],
            "schema": {"type": "string", "minLength": 1},
            "example": examples.path,
        }
    if endpoint.query is not None:
        for name, schema in schemas.fields(endpoint.query):
            parameter: Json = {"name": name, "in": "query"}
            if "description" in schema:
                parameter["description"] = schema["description"]
            shown = {key: value for key, value in schema.items() if key != "description"}
            parameter["schema"] = without_null(shown)
            if name in examples.query:
                parameter["example"] = examples.query[name]
            yield parameter
    yield {"$ref": "#/components/parameters/x-project-id"}
    if endpoint.method == "POST":
        yield {"$ref": "#/components/parameters/idempotency-key"}
    if _has_etag(endpoint):
        yield {"$ref": "#/components/parameters/if-none-match"}


def _success(endpoint: Endpoint, schemas: Schemas, examples: Examples) -> Json:
    content: Json = {}
    if endpoint.reply is not None:
        content["application/json"] = {
            "schema": schemas.ref(endpoint.reply),
            "example": msgspec.to_builtins(examples.reply),
        }
    else:
        content[endpoint.reply_content_type] = {
            "schema": {"type": "string", "contentMediaType": endpoint.reply_content_type},
            "example": examples.body,
        }
    if endpoint.events:
        told = schemas.one_of(endpoint.events)
        content["text/event-stream"] = {
            "schema": _event_schema(told),
            "x-event-schema": told,
            "example": examples.stream,
        }
    headers = ["x-request-id", "openai-processing-ms", *_LIMIT_HEADERS]
    if endpoint.method == "POST":
        headers.append("idempotent-replayed")
    if endpoint.tag in {"Inference", "Tasks"}:
        headers.insert(1, "x-inference-type")
    if _has_etag(endpoint):
        headers.append("etag")
    return {"description": "The answer.", "headers": _headers(headers), "content": content}


def _event_schema(told: Json) -> Json:
    """Return the schema of each event, as OpenAPI 3.2 has it and some tools read in 3.1."""
    json_text = {"contentMediaType": "application/json", "contentSchema": told}
    return {
        "type": "object",
        "description": "With `stream`: an event at a time. `[DONE]` ends those of a chat.",
        "properties": {
            "event": {"type": "string"},
            "data": {"type": "string", "anyOf": [{"const": "[DONE]"}, json_text]},
        },
        "required": ["data"],
    }


def _has_etag(endpoint: Endpoint) -> bool:
    """Whether a client can ask if what it has is still right: a cached answer or a file's bytes."""
    return endpoint.cached or endpoint.reply is None


def _unchanged(endpoint: Endpoint) -> Json:
    if not _has_etag(endpoint):
        return {}
    return {
        "304": {
            "description": "The answer that the client has is still the right one.",
            "headers": _headers(["x-request-id", "etag"]),
        }
    }


def _answer(answers: dict[str, Json], endpoint: Endpoint, status: int, codes: list[Code]) -> str:
    """Return the reference of an error's answer, which all endpoints with these codes share."""
    headers = ["x-request-id", *(["retry-after"] if status in {429, 503} else [])]
    answer = {
        "description": _STATUSES[status],
        "headers": _headers(headers),
        "content": {"application/json": {"schema": _error_schema(codes)}},
        # The meanings, for people; the schema has the same codes for programs.
        "x-codes": {one.code: one.meaning for one in codes},
    }
    alike = (name for name, known in answers.items() if known == answer)
    name = next(alike, None)
    if name is None:
        name = f"Error{status}"
        if name in answers:
            name += endpoint.operation_id[:1].upper() + endpoint.operation_id[1:]
        answers[name] = answer
    return f"#/components/responses/{name}"


def _error_schema(codes: list[Code]) -> Json:
    code = {"properties": {"code": {"enum": names(codes)}}}
    return {
        "allOf": [
            {"$ref": REF.format(name="ErrorReply")},
            {"type": "object", "properties": {"error": code}},
        ]
    }


def _headers(names_: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names_}


def examples_of(endpoint: Endpoint) -> Examples:
    """Return the examples of an operation; each has some."""
    return EXAMPLES[f"{endpoint.method} {_PLACEHOLDER.sub('{}', endpoint.path)}"]


def _key(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())
