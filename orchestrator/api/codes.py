"""Every ``code`` that an error of the API can have, and what it means: the documents read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from orchestrator.api.endpoints import Endpoint, Tag

When = Literal["json", "form", "query", "post"]


class Code(NamedTuple):
    """``tags``: the groups of endpoints that can answer so; ``when``: what one of these must have.

    Empty means all of them. ``post`` is any POST.
    """

    status: int
    code: str
    meaning: str
    tags: frozenset[Tag] = frozenset()
    when: frozenset[When] = frozenset()


_JSON: Final[frozenset[When]] = frozenset({"json"})
_FORM: Final[frozenset[When]] = frozenset({"form"})
_QUERY: Final[frozenset[When]] = frozenset({"query"})
_POST: Final[frozenset[When]] = frozenset({"post"})

_BODIES: Final[frozenset[Tag]] = frozenset({"Inference", "Tasks", "Batches"})
_RUNS: Final[frozenset[Tag]] = frozenset({"Inference", "Tasks"})
_TEXTS: Final[frozenset[Tag]] = frozenset({"Inference"})
_MODELS: Final[frozenset[Tag]] = frozenset({"Inference", "Tasks", "Models"})
_FILES: Final[frozenset[Tag]] = frozenset({"Files"})
_STORED: Final[frozenset[Tag]] = frozenset({"Files", "Batches"})
_BATCHES: Final[frozenset[Tag]] = frozenset({"Batches"})
_DIAGNOSIS: Final[frozenset[Tag]] = frozenset({"Diagnosis"})

# One row each, in the order in which a reader looks for them.
CODES: Final = (
    Code(400, "invalid_json", "The body is not JSON, or not UTF-8.", _BODIES, _JSON),
    Code(
        400, "missing_required_parameter", "`param` has to be sent.", _RUNS | _STORED, _JSON | _FORM
    ),
    Code(400, "unknown_parameter", "There is no such field: a typing error?", _BODIES, _JSON),
    Code(400, "invalid_type", "`param` has a value of another type.", _BODIES, _JSON),
    Code(400, "invalid_value", "`param` is out of its range.", _RUNS | _STORED, _JSON | _FORM),
    Code(
        400, "unsupported_parameter", "OpenAI has this field, the model has no use for it.", _TEXTS
    ),
    Code(400, "unsupported_value", "Only text can be read.", _TEXTS),
    Code(
        400,
        "string_above_max_length",
        "A text of more than 131,072 characters, or long metadata.",
        _RUNS,
    ),
    Code(400, "model_route_mismatch", "The model answers on another route.", _RUNS),
    Code(400, "invalid_input", "The model cannot read this text.", _RUNS),
    Code(400, "invalid_content_type", "An upload is multipart/form-data.", _FILES, _FORM),
    Code(400, "invalid_multipart", "The form cannot be read.", _FILES, _FORM),
    Code(
        400,
        "invalid_purpose",
        "`purpose` is `batch`; in lists also `batch_output`.",
        _FILES,
        _FORM | _QUERY,
    ),
    Code(400, "missing_file", "The form has no part called `file`.", _FILES, _FORM),
    Code(400, "empty_file", "The file has no bytes.", _FILES, _FORM),
    Code(400, "invalid_order", "`order` is `asc` or `desc`.", _FILES, _QUERY),
    Code(400, "invalid_limit", "`limit` is a whole number in its range.", _STORED, _QUERY),
    Code(400, "invalid_after", "`after` is the `last_id` of a page.", _STORED, _QUERY),
    Code(
        400,
        "invalid_idempotency_key",
        "The header is 1 to 255 printable ASCII characters.",
        when=_POST,
    ),
    Code(
        400,
        "invalid_request_error",
        "What `message` says; of a batch also which `line`.",
    ),
    Code(401, "missing_api_key", "No key came with the request."),
    Code(401, "invalid_api_key", "The key is not known here."),
    Code(401, "revoked_api_key", "The key was revoked."),
    Code(401, "missing_project_id", "This server wants every request to have an `x-project-id`."),
    Code(403, "project_mismatch", "`x-project-id` names another project than the key's."),
    Code(404, "not_found", "There is nothing at this path."),
    Code(404, "model_not_found", "There is no such model here.", _MODELS),
    Code(404, "file_not_found", "No such file in this project, or it was deleted.", _STORED),
    Code(404, "batch_not_found", "No such batch in this project.", _BATCHES),
    Code(404, "request_not_found", "Nothing is remembered of this request.", _DIAGNOSIS),
    Code(405, "method_not_allowed", "The path has other methods; `allow` lists them."),
    Code(408, "request_timeout", "The request did not arrive in time."),
    Code(409, "conflict", "The batch is past being cancelled.", _BATCHES),
    Code(
        409,
        "idempotency_key_reused",
        "This Idempotency-Key stands for a request with another body.",
        when=_POST,
    ),
    Code(413, "request_too_large", "The body is longer than is read."),
    Code(413, "file_too_large", "The file is longer than is kept.", _FILES, _FORM),
    Code(
        415,
        "unsupported_content_encoding",
        "The body is compressed: send it as it is.",
        when=_POST,
    ),
    Code(
        420, "context_length_exceeded", "More tokens than the model reads; it does not cut.", _RUNS
    ),
    Code(429, "rate_limit_exceeded", "The key or its project asks for more than it may."),
    Code(431, "headers_too_large", "More header fields, or longer ones, than are read."),
    Code(500, "internal_error", "Our fault; `x-request-id` finds it in the server's log."),
    Code(500, "storage_error", "The store of files failed.", _STORED),
    Code(500, "stream_interrupted", "A stream broke off after it began.", _TEXTS),
    Code(503, "no_capacity", "No node, and no CPU worker, can take it now.", _RUNS),
    Code(503, "overloaded", "The queue is full."),
    Code(503, "deadline_exceeded", "Nobody answered in time.", _RUNS),
    Code(503, "shutting_down", "The server is stopping."),
    Code(503, "key_check_unavailable", "The key cannot be checked just now."),
    Code(503, "service_unavailable", "The server cannot answer, or write its database, just now."),
)


def codes_of(endpoint: Endpoint) -> Mapping[int, list[Code]]:
    """Return the errors an endpoint can answer with, by status in rising order."""
    statuses = {error.status for error in endpoint.errors}
    found: dict[int, list[Code]] = {status: [] for status in sorted(statuses)}
    for one in CODES:
        if one.status in statuses and _fits(one, endpoint):
            found[one.status].append(one)
    return {status: codes for status, codes in found.items() if codes}


def names(codes: Iterable[Code]) -> list[str]:
    return [one.code for one in codes]


def _fits(code: Code, endpoint: Endpoint) -> bool:
    # A list that is there whatever it holds.
    if code.status == 404 and endpoint.method == "GET" and "{" not in endpoint.path:
        return False
    if code.tags and endpoint.tag not in code.tags:
        return False
    return not code.when or not code.when.isdisjoint(_has(endpoint))


def _has(endpoint: Endpoint) -> Iterator[When]:
    if endpoint.request is not None:
        yield "json"
    if endpoint.form is not None:
        yield "form"
    if endpoint.query is not None:
        yield "query"
    if endpoint.method == "POST":
        yield "post"
