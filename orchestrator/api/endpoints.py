"""Every route of the public API, once: routing, CORS, metrics and the OpenAPI document read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from orchestrator import errors
from orchestrator.api import batches, bodies, files, replies
from orchestrator.api.inference import (
    CHAT_ROUTE,
    CLASSIFY_ROUTE,
    EMBEDDINGS_ROUTE,
    RESPONSES_ROUTE,
    SUMMARY_ROUTE,
)

Errors = tuple[type[errors.ApiError], ...]
Tag = Literal["Inference", "Tasks", "Files", "Batches", "Models", "Diagnosis"]

# What every request with a key can meet.
ANY: Final[Errors] = (
    errors.BadRequest,
    errors.Unauthorized,
    errors.Forbidden,
    errors.NotFound,
    errors.RequestTimeout,
    errors.HeadersTooLarge,
    errors.RateLimited,
    errors.InternalError,
    errors.Unavailable,
)
_BODY: Final[Errors] = (
    *ANY,
    errors.Conflict,
    errors.PayloadTooLarge,
    errors.UnsupportedEncoding,
)
_INFERENCE: Final[Errors] = (*_BODY, errors.ContextLengthExceeded)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One method of one path. ``request`` and ``reply`` are the types of the JSON bodies.

    ``path`` has one placeholder at most, in braces. ``form`` is the type of a multipart body,
    ``query`` that of the query string; ``events`` those of a streamed answer's events;
    ``reads_body``: False where the handler reads it by itself.
    """

    operation_id: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    tag: Tag
    summary: str
    description: str = ""
    request: type[msgspec.Struct] | None = None
    form: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    reply: type[msgspec.Struct] | None = None
    reply_content_type: str = "application/json"
    events: tuple[type[msgspec.Struct], ...] = ()
    errors: Errors = ANY
    reads_body: bool = True
    cached: bool = False


INFERENCE: Final = (
    Endpoint(
        operation_id="createResponse",
        method="POST",
        path=RESPONSES_ROUTE,
        tag="Inference",
        summary="Run a model on a text",
        description="The primary route. A classifier's answer is JSON in the output text. With"
        " `stream` the answer comes as OpenAI's events, from `response.created` to"
        " `response.completed`, or `response.incomplete` where a limit cut a sentence.",
        request=bodies.ResponsesBody,
        reply=replies.ResponseReply,
        events=(
            replies.ResponseCreatedEvent,
            replies.ResponseInProgressEvent,
            replies.ResponseOutputItemAddedEvent,
            replies.ResponseContentPartAddedEvent,
            replies.ResponseTextDeltaEvent,
            replies.ResponseTextDoneEvent,
            replies.ResponseContentPartDoneEvent,
            replies.ResponseOutputItemDoneEvent,
            replies.ResponseCompletedEvent,
            replies.ResponseIncompleteEvent,
            replies.ResponseFailedEvent,
            replies.ResponseErrorEvent,
        ),
        errors=_INFERENCE,
    ),
    Endpoint(
        operation_id="createChatCompletion",
        method="POST",
        path=CHAT_ROUTE,
        tag="Inference",
        summary="Run a model on a conversation",
        description="A task model reads what is said in all turns but those of `system` and"
        " `developer`. With `stream` the answer comes in chunks, then `[DONE]`.",
        request=bodies.ChatBody,
        reply=replies.ChatCompletion,
        events=(replies.ChatCompletionChunk, replies.ErrorReply),
        errors=_INFERENCE,
    ),
    Endpoint(
        operation_id="createEmbedding",
        method="POST",
        path=EMBEDDINGS_ROUTE,
        tag="Inference",
        summary="Turn texts into vectors",
        description="Up to 2,048 inputs, spread over many nodes and answered in their order."
        " Longer texts than the model reads are cut.",
        request=bodies.EmbeddingsBody,
        reply=replies.EmbeddingList,
        errors=_INFERENCE,
    ),
    Endpoint(
        operation_id="createModeration",
        method="POST",
        path="/v1/moderations",
        tag="Inference",
        summary="Find harmful content",
        description="Thirteen categories. OpenAI's model names mean `zlm-v1-moderation-edge`; where"
        " `GET /v1/models` does not list it, the answer is 404 `model_not_found`.",
        request=bodies.ModerationsBody,
        reply=replies.ModerationReply,
        errors=_INFERENCE,
    ),
    Endpoint(
        operation_id="createSummary",
        method="POST",
        path=SUMMARY_ROUTE,
        tag="Tasks",
        summary="Sum up a text",
        description="Not batchable.",
        request=bodies.SummaryBody,
        reply=replies.SummaryReply,
        errors=_INFERENCE,
    ),
    Endpoint(
        operation_id="classifyIab",
        method="POST",
        path=CLASSIFY_ROUTE,
        tag="Tasks",
        summary="Classify a text into IAB categories",
        description="Not batchable.",
        request=bodies.ClassifyBody,
        reply=replies.ClassificationReply,
        errors=_INFERENCE,
    ),
    Endpoint(
        operation_id="extractEntities",
        method="POST",
        path="/gliner",
        tag="Tasks",
        summary="Find entities of given kinds",
        description="Not batchable. Where `GET /v1/models` lists no model for this route, the"
        " answer is 404 `model_not_found`.",
        request=bodies.GlinerBody,
        reply=replies.ExtractionReply,
        errors=_INFERENCE,
    ),
)

_FOUND: Final[Errors] = (*ANY, errors.StorageError)

FILES: Final = (
    Endpoint(
        operation_id="createFile",
        method="POST",
        path="/v1/files",
        tag="Files",
        summary="Upload a file",
        description="JSONL for a batch, of at most 100 MiB; kept for 30 days. Its lines are checked"
        " when a batch is made of it.",
        form=files.UploadForm,
        reply=files.FileObject,
        errors=(*_BODY, errors.StorageError),
        reads_body=False,
    ),
    Endpoint(
        operation_id="listFiles",
        method="GET",
        path="/v1/files",
        tag="Files",
        summary="List files",
        query=files.FilesQuery,
        reply=files.FileList,
        errors=_FOUND,
    ),
    Endpoint(
        operation_id="retrieveFile",
        method="GET",
        path="/v1/files/{file_id}",
        tag="Files",
        summary="Retrieve a file's description",
        reply=files.FileObject,
        errors=_FOUND,
    ),
    Endpoint(
        operation_id="downloadFile",
        method="GET",
        path="/v1/files/{file_id}/content",
        tag="Files",
        summary="Download a file",
        reply_content_type="application/jsonl",
        errors=_FOUND,
    ),
    Endpoint(
        operation_id="deleteFile",
        method="DELETE",
        path="/v1/files/{file_id}",
        tag="Files",
        summary="Delete a file",
        description="At once and for good. A batch that runs on it goes on.",
        reply=files.FileDeleted,
        errors=_FOUND,
    ),
)

BATCHES: Final = (
    Endpoint(
        operation_id="createBatch",
        method="POST",
        path="/v1/batches",
        tag="Batches",
        summary="Run the requests of a file",
        description="The file is checked first, all of it: a batch whose file is refused is kept"
        " with what is wrong, as `failed`.",
        request=batches.CreateBatch,
        reply=batches.BatchObject,
        errors=(*_BODY, errors.InvalidBatch, errors.StorageError),
    ),
    Endpoint(
        operation_id="listBatches",
        method="GET",
        path="/v1/batches",
        tag="Batches",
        summary="List batches",
        query=batches.BatchesQuery,
        reply=batches.BatchList,
        errors=_FOUND,
    ),
    Endpoint(
        operation_id="retrieveBatch",
        method="GET",
        path="/v1/batches/{batch_id}",
        tag="Batches",
        summary="Retrieve a batch",
        description="Counts are those of the moment.",
        reply=batches.BatchObject,
        errors=_FOUND,
    ),
    Endpoint(
        operation_id="cancelBatch",
        method="POST",
        path="/v1/batches/{batch_id}/cancel",
        tag="Batches",
        summary="Cancel a batch",
        description="Lines under way have two seconds to be answered; what has no answer then goes "
        "to the error file. Again changes nothing.",
        reply=batches.BatchObject,
        errors=(*_BODY, errors.StorageError),
    ),
)

CATALOGUE: Final = (
    Endpoint(
        operation_id="listModels",
        method="GET",
        path="/v1/models",
        tag="Models",
        summary="List the models",
        reply=replies.ModelList,
        cached=True,
    ),
    Endpoint(
        operation_id="retrieveModel",
        method="GET",
        path="/v1/models/{model}",
        tag="Models",
        summary="Retrieve a model",
        reply=replies.ModelReply,
        cached=True,
    ),
    Endpoint(
        operation_id="listDecisions",
        method="GET",
        path="/v1/requests/{request_id}/decisions",
        tag="Diagnosis",
        summary="Why a request's jobs went where they went",
        description="Of the server's latest placements only: ask soon after the answer, by its"
        " `x-request-id`.",
        reply=replies.DecisionList,
    ),
)

ENDPOINTS: Final = (*INFERENCE, *FILES, *BATCHES, *CATALOGUE)
