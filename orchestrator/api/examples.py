"""Examples of every operation for the OpenAPI document: requests that work, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from orchestrator.api import batches, files, replies
from orchestrator.api.moderations import moderation
from orchestrator.domain.fleet import DecisionRow

_TEXT: Final = "The midfielder scored twice in the final."
_LONG: Final = "The ferry was late. The sea was calm. It left at noon."
_REQUEST: Final = "0198c2d1e3f4a5b6c7d8e9f0"
_FILE: Final = "file-0198c2d1e3f4a5b6c7d8e9f0"
_OUTPUT: Final = "file-0198c2d2a1b2c3d4e5f60718"
_BATCH: Final = "batch_01KB7ZQ5H8M4N6P2R9S3T5V7W1"
_AT: Final = 1_767_225_600
_CLASSIFY: Final = "zlm-v1-iab-classify-edge"
_SUMMARY: Final = "zlm-v1-summary-cloud"
_EMBEDDINGS: Final = "all-minilm-l6-v2"
_LABELS: Final = '{"topics":[{"name":"sports","score":0.99}],"keywords":["midfielder","final"]}'

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Of one operation. ``requests`` by a title; ``stream`` as the server sends it.

    ``path`` stands in the path's placeholder, ``query`` are parameters, ``body`` the text of an
    answer that is not JSON.
    """

    requests: Mapping[str, Json] = field(default_factory=dict)
    reply: msgspec.Struct | None = None
    stream: str | None = None
    body: str | None = None
    path: str | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)


def _response(text: str, model: str) -> replies.ResponseReply:
    return replies.ResponseReply(
        id=f"resp_{_REQUEST}",
        created=_AT,
        created_at=_AT,
        status="completed",
        completed_at=_AT,
        instructions=None,
        max_output_tokens=None,
        model=model,
        output=(
            replies.OutputMessage(id=f"msg_{_REQUEST}", content=(replies.OutputText(text=text),)),
        ),
        temperature=None,
        top_p=None,
        truncation="disabled",
        usage=replies.ResponseUsage(input_tokens=11, output_tokens=24, total_tokens=35),
        user=None,
        metadata={},
    )


def _batch(**changed: Any) -> batches.BatchObject:
    made = batches.BatchObject(
        id=_BATCH,
        endpoint="/v1/chat/completions",
        errors=None,
        input_file_id=_FILE,
        status="completed",
        output_file_id=_OUTPUT,
        error_file_id=None,
        created_at=_AT,
        in_progress_at=_AT,
        expires_at=_AT + 86_400,
        finalizing_at=_AT + 61,
        completed_at=_AT + 62,
        failed_at=None,
        expired_at=None,
        cancelling_at=None,
        cancelled_at=None,
        request_counts=batches.RequestCounts(total=2, completed=2, failed=0),
        metadata={"source": "newsroom"},
    )
    return msgspec.structs.replace(made, **changed)


_RUNNING: Final = _batch(
    status="in_progress",
    output_file_id=None,
    finalizing_at=None,
    completed_at=None,
    request_counts=batches.RequestCounts(total=2, completed=0, failed=0),
)
_UPLOADED: Final = files.FileObject(
    id=_FILE,
    bytes=482,
    created_at=_AT,
    expires_at=_AT + 2_592_000,
    filename="requests.jsonl",
    purpose="batch",
)
_MODEL: Final = replies.ModelReply(
    id=_CLASSIFY,
    created=_AT,
    name="IAB classification",
    version="1",
    task="iab-classification",
    routes=["/v1/responses", "/v1/chat/completions", "/usecase/classify/iab"],
    max_tokens=400,
    error_on_max_token=True,
    parameters=22_713_216,
    languages=["en"],
    licence="Apache-2.0",
    pricing=replies.Pricing(input_per_1m_tokens=0.02, output_per_1m_tokens=0.05),
)
_USAGE: Final = replies.TaskUsage(input_tokens=24, output_tokens=8, total_tokens=32)
_DECISION: Final = DecisionRow(
    request_id=f"req_{_REQUEST}",
    job=f"{_REQUEST}.0",
    project_id="7d0c2f3e-5a1b-4c6d-9e8f-0a1b2c3d4e5f",
    model=_EMBEDDINGS,
    at=_AT + 0.1,
    purpose="serve",
    node_id="node_5f2a",
    tokens=12,
    waited_s=0.0004,
    rtt_s=0.03,
    backlog_s=0.1,
    service_s=0.06,
    cold_load_s=0.0,
    penalty_s=0.0,
    finish_s=0.19,
    soonest_s=None,
    considered=3,
    skipped={"busy": 2},
    outcome="answered",
    took_s=0.2,
)

_CHAT_STREAM: Final = f"""\
data: {{"id":"chatcmpl-{_REQUEST}","object":"chat.completion.chunk","created":{_AT},"model":\
"{_SUMMARY}","service_tier":"default","system_fingerprint":null,"choices":[{{"index":0,"delta":\
{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]}}

data: {{"id":"chatcmpl-{_REQUEST}","object":"chat.completion.chunk","created":{_AT},"model":\
"{_SUMMARY}","service_tier":"default","system_fingerprint":null,"choices":[{{"index":0,"delta":\
{{"content":"The ferry was late."}},"logprobs":null,"finish_reason":null}}]}}

data: {{"id":"chatcmpl-{_REQUEST}","object":"chat.completion.chunk","created":{_AT},"model":\
"{_SUMMARY}","service_tier":"default","system_fingerprint":null,"choices":[{{"index":0,"delta":\
{{}},"logprobs":null,"finish_reason":"stop"}}]}}

data: [DONE]
"""
_RESPONSE_STREAM: Final = f"""\
event: response.output_text.delta
data: {{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_{_REQUEST}",\
"output_index":0,"content_index":0,"delta":"The ferry was late.","logprobs":[]}}
"""

# By method and path; whatever stands in braces there is left out.
EXAMPLES: Final[Mapping[str, Examples]] = {
    "POST /v1/responses": Examples(
        requests={
            "Classify": {"model": _CLASSIFY, "input": _TEXT},
            "Sum up": {"model": _SUMMARY, "input": _LONG, "metadata": {"sentences": "1"}},
            "Stream": {"model": _SUMMARY, "input": _LONG, "stream": True},
        },
        reply=_response(_LABELS, _CLASSIFY),
        stream=_RESPONSE_STREAM,
    ),
    "POST /v1/chat/completions": Examples(
        requests={
            "Sum up": {"model": _SUMMARY, "messages": [{"role": "user", "content": _LONG}]},
            "Classify": {"model": _CLASSIFY, "messages": [{"role": "user", "content": _TEXT}]},
            "Stream": {
                "model": _SUMMARY,
                "messages": [{"role": "user", "content": _LONG}],
                "stream": True,
            },
        },
        reply=replies.ChatCompletion(
            id=f"chatcmpl-{_REQUEST}",
            created=_AT,
            model=_SUMMARY,
            choices=(replies.Choice(message=replies.ChatMessage(content="The ferry was late.")),),
            usage=replies.ChatUsage(prompt_tokens=24, completion_tokens=5, total_tokens=29),
        ),
        stream=_CHAT_STREAM,
    ),
    "POST /v1/embeddings": Examples(
        requests={
            "Texts": {"model": _EMBEDDINGS, "input": ["a lent browser tab", "a spare processor"]},
            "One text": {"model": _EMBEDDINGS, "input": "a lent browser tab"},
        },
        reply=replies.EmbeddingList(
            data=[
                replies.Embedding(index=0, embedding=[0.0352, -0.0118, 0.0744]),
                replies.Embedding(index=1, embedding=[0.0117, 0.0402, -0.0295]),
            ],
            model=_EMBEDDINGS,
            usage=replies.EmbeddingsUsage(prompt_tokens=12, total_tokens=12),
        ),
    ),
    "POST /v1/moderations": Examples(
        requests={
            "A text": {"input": _TEXT},
            "Texts": {"input": [_TEXT, _LONG], "model": "omni-moderation-latest"},
        },
        reply=replies.ModerationReply(
            id="modr-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            model="zlm-v1-moderation-edge",
            results=[moderation({"violence": 0.0131, "harassment": 0.0042})],
        ),
    ),
    "POST /summary": Examples(
        requests={"A text": {"text": _LONG, "sentences": 1}},
        reply=replies.SummaryReply(
            id=f"req_{_REQUEST}",
            created=_AT,
            model=_SUMMARY,
            summary="The ferry was late.",
            finish_reason="stop",
            usage=_USAGE,
        ),
    ),
    "POST /usecase/classify/iab": Examples(
        requests={"A text": {"text": _TEXT}},
        reply=replies.ClassificationReply(
            id=f"req_{_REQUEST}",
            created=_AT,
            model=_CLASSIFY,
            result=msgspec.json.decode(_LABELS),
            usage=_USAGE,
        ),
    ),
    "POST /gliner": Examples(
        requests={"A text": {"text": "Ada met Alan in London.", "labels": ["person", "place"]}},
        reply=replies.ExtractionReply(
            id=f"req_{_REQUEST}",
            created=_AT,
            model="gliner",
            result={"person": ["Ada", "Alan"], "place": ["London"]},
            usage=_USAGE,
        ),
    ),
    "POST /v1/files": Examples(
        requests={"A file": {"purpose": "batch", "file": "requests.jsonl"}}, reply=_UPLOADED
    ),
    "GET /v1/files": Examples(
        query={"purpose": "batch", "limit": 20},
        reply=files.FileList(data=[_UPLOADED], first_id=_FILE, last_id=_FILE, has_more=False),
    ),
    "GET /v1/files/{}": Examples(path=_FILE, reply=_UPLOADED),
    "GET /v1/files/{}/content": Examples(
        path=_FILE,
        body='{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":'
        f'"{_SUMMARY}","messages":[{{"role":"user","content":"{_TEXT}"}}]}}}}\n',
    ),
    "DELETE /v1/files/{}": Examples(path=_FILE, reply=files.FileDeleted(id=_FILE)),
    "POST /v1/batches": Examples(
        requests={
            "A file": {
                "input_file_id": _FILE,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"source": "newsroom"},
            }
        },
        reply=_RUNNING,
    ),
    "GET /v1/batches": Examples(
        query={"limit": 20},
        reply=batches.BatchList(data=[_batch()], first_id=_BATCH, last_id=_BATCH, has_more=False),
    ),
    "GET /v1/batches/{}": Examples(path=_BATCH, reply=_batch()),
    "POST /v1/batches/{}/cancel": Examples(
        path=_BATCH,
        reply=msgspec.structs.replace(_RUNNING, status="cancelling", cancelling_at=_AT + 9),
    ),
    "GET /v1/models": Examples(reply=replies.ModelList(data=[_MODEL])),
    "GET /v1/models/{}": Examples(path=_CLASSIFY, reply=_MODEL),
    "GET /v1/requests/{}/decisions": Examples(
        path=f"req_{_REQUEST}", reply=replies.DecisionList(data=[_DECISION])
    ),
}
