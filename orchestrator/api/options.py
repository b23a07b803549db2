"""What of a request a model can serve: the rest is refused in a sentence that says what it can."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from browser_node.pipelines.summary import is_cut
from orchestrator.api.bodies import ChatBody, Format, ResponsesBody
from orchestrator.api.misfits import shown
from orchestrator.domain.model import ParamValue
from orchestrator.errors import BadRequest
from orchestrator.storage.catalogue import Model
from orchestrator.storage.token_counter import Limit

_SENTENCES_MAX: Final = 1_000
# Looking for sentences takes a fraction of a millisecond for so many characters. Of longer texts
# one at a time: threads that all want the interpreter would keep the event loop from it.
_INLINE_CHARS: Final = 1_000
_SENTENCES: Final = ThreadPoolExecutor(1, thread_name_prefix="sentences")
_PAIRS_MAX: Final = 16
_PAIR_KEY_CHARS: Final = 64
_PAIR_VALUE_CHARS: Final = 512
# Deeper than any schema; what nests a thousand deep is read, but cannot be written again.
_OPTION_LEVELS: Final = 100
# What metadata may hold beside string pairs: options that some model reads.
_MODEL_OPTIONS: Final = frozenset(
    {
        "categories", "labels", "mask", "max_keywords", "replacement_char", "schema", "sentences",
        "threshold", "usecase",
    }
)  # fmt: skip
_LETS_LABELS_BE_GIVEN: Final = frozenset({"zero-shot"})


def check_responses(asked: ResponsesBody, model: Model) -> None:
    """Raise `BadRequest` for what ``model`` cannot do."""
    if asked.text is not None:
        _text_only(asked.text.format, "text.format.type")
    _check_shared(asked, model)
    if asked.background:
        raise _unsupported(
            "background", "Answers come at once here, so there is nothing to fetch later:"
            " send background=false, or use a batch.",
        )  # fmt: skip
    if asked.previous_response_id is not None:
        raise _nothing_stored("previous_response_id")
    if asked.conversation is not None:
        raise _nothing_stored("conversation")
    if asked.prompt is not None:
        raise _nothing_stored("prompt")
    if asked.image is not None:
        raise _unsupported("image", f"{model.id} reads text only: leave image out.")
    if asked.top_logprobs:
        raise _no_logprobs("top_logprobs", model)
    if asked.include:
        raise _unsupported(
            "include", f"{model.id} has no {asked.include[0]} to include: leave include out."
        )


def check_chat(asked: ChatBody, model: Model) -> None:
    """Raise `BadRequest` for what ``model`` cannot do."""
    if asked.response_format is not None:
        _text_only(asked.response_format, "response_format.type")
    _check_shared(asked, model)
    if asked.functions:
        raise _calls_no_tools("functions", model)
    if asked.function_call is not None:
        _check_choice("function_call", asked.function_call, model)
    if asked.n is not None and asked.n != 1:
        raise _unsupported(
            "n", f"n is {asked.n}; {model.id} has one answer to a text: send n=1 or leave it out."
        )
    if asked.stop:
        raise _unsupported(
            "stop",
            f"{model.id} does not write on until a word stops it: leave stop out"
            " (max_tokens bounds a summary).",
        )
    if asked.logprobs or asked.top_logprobs:
        raise _no_logprobs("logprobs" if asked.logprobs else "top_logprobs", model)
    if asked.modalities and set(asked.modalities) != {"text"}:
        raise _unsupported("modalities", f"{model.id} answers in text only.")
    if asked.audio is not None:
        raise _unsupported("audio", f"{model.id} answers in text only: leave audio out.")
    if asked.web_search_options is not None:
        raise _unsupported(
            "web_search_options", f"{model.id} reads nothing but the text it is sent."
        )


def _check_shared(asked: ResponsesBody | ChatBody, model: Model) -> None:
    """Raise `BadRequest` for what both routes have and ``model`` cannot do."""
    if asked.stream_options is not None and not asked.stream:
        raise BadRequest(
            "stream_options is for streamed answers only: leave it out where stream is not true.",
            code="unsupported_parameter",
            param="stream_options",
        )
    if asked.metadata:
        _check_metadata(asked.metadata)
    if asked.categories:
        _check_labels(model)
    if asked.tools:
        raise _calls_no_tools("tools", model)
    if asked.tool_choice is not None:
        _check_choice("tool_choice", asked.tool_choice, model)


def limit_of(model: Model, truncation: str | None) -> Limit:
    """Return how long a text may be, and whether a longer one is cut or refused."""
    if truncation is None:
        return model.limit
    return Limit(
        max_tokens=model.limit.max_tokens,
        cuts=truncation == "auto",
        # A model that does not cut by itself refuses one token too many.
        exactly=not model.limit.cuts,
    )


async def was_cut(source: str, output: str, params: Mapping[str, ParamValue]) -> bool:
    """Whether the ``max_tokens`` of ``params`` ended a summary inside a sentence of its ``source``.

    ``source`` is the text as the node got it. Of models that know no such option it never is.
    """
    if "max_tokens" not in params:
        return False
    if len(source) <= _INLINE_CHARS:
        return is_cut(source, output)
    return await asyncio.get_running_loop().run_in_executor(_SENTENCES, is_cut, source, output)


def echoed(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Return metadata as an answer has it: strings, as OpenAI's clients expect."""
    if not metadata:
        return {}
    return {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in metadata.items()
    }


def text_params(
    model: Model, *, max_tokens: int | None, metadata: Mapping[str, Any] | None
) -> dict[str, ParamValue]:
    """Return the options that the model's pipeline reads; raises `BadRequest` for a bad one.

    A summary's length: ``max_tokens`` of output, ``metadata.sentences`` (a number or its digits,
    as OpenAI's clients send metadata as strings).
    """
    params: dict[str, ParamValue] = {}
    if model.manifest.pipeline != "extractive-summary":
        return params
    if max_tokens is not None:
        params["max_tokens"] = max_tokens
    sentences = metadata.get("sentences") if metadata else None
    if sentences is not None:
        if isinstance(sentences, str) and sentences.isdecimal() and len(sentences) < 10:
            sentences = int(sentences)
        # A bool is an int in Python, and 1 is not what `true` means here.
        if type(sentences) is not int or not 1 <= sentences <= _SENTENCES_MAX:
            raise BadRequest(
                f"metadata.sentences must be a whole number from 1 to {_SENTENCES_MAX:,}.",
                code="invalid_value",
                param="metadata.sentences",
            )
        params["sentences"] = sentences
    return params


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > _PAIRS_MAX:
        raise BadRequest(
            f"metadata has {len(metadata)} pairs; at most {_PAIRS_MAX} are taken.",
            code="invalid_value",
            param="metadata",
        )
    for key, value in metadata.items():
        if len(key) > _PAIR_KEY_CHARS:
            raise BadRequest(
                f"A key of metadata has {len(key):,} characters; at most {_PAIR_KEY_CHARS} are"
                " taken.",
                code="string_above_max_length",
                param="metadata",
            )
        if key in _MODEL_OPTIONS:
            if _is_deeper(value, _OPTION_LEVELS):
                raise BadRequest(
                    f"metadata.{key} nests more than {_OPTION_LEVELS} arrays and objects.",
                    code="invalid_value",
                    param=f"metadata.{key}",
                )
            continue
        if not isinstance(value, str):
            raise BadRequest(
                f"metadata.{key} must be a string.", code="invalid_type", param=f"metadata.{key}"
            )
        if len(value) > _PAIR_VALUE_CHARS:
            raise BadRequest(
                f"metadata.{key} has {len(value):,} characters; at most {_PAIR_VALUE_CHARS} are"
                " taken.",
                code="string_above_max_length",
                param=f"metadata.{key}",
            )


def _is_deeper(value: object, levels: int) -> bool:
    """Whether more than so many arrays and objects stand inside each other in ``value``."""
    inside: list[object] = [value]
    for _ in range(levels + 1):
        found: list[object] = []
        for one in inside:
            if isinstance(one, Mapping):
                found += one.values()
            elif isinstance(one, list):
                found += one
            else:
                continue
            # An empty one is a level, too.
            found.append(None)
        if not found:
            return False
        inside = found
    return True


def _check_labels(model: Model) -> None:
    if model.manifest.pipeline not in _LETS_LABELS_BE_GIVEN:
        raise _unsupported(
            "categories", f"{model.id} has its own labels, or none: leave categories out."
        )


def _text_only(format_: Format | None, param: str) -> None:
    if format_ is not None and format_.type != "text":
        raise _unsupported(
            param,
            f"{param} must be text: no model here can be held to a format of yours. A"
            " classifier's answer is JSON in that text as it is.",
        )


def _calls_no_tools(param: str, model: Model) -> BadRequest:
    return _unsupported(param, f"{model.id} calls no tools: leave {param} out.")


def _check_choice(param: str, choice: str | Mapping[str, Any], model: Model) -> None:
    if choice in ("none", "auto"):
        return
    if isinstance(choice, str):
        asked = f"is {choice}"
    else:
        function = choice.get("function")
        named = function if isinstance(function, Mapping) else choice
        asked = f"names {shown(named.get('name', choice.get('type')))}"
    raise _unsupported(
        param,
        f"{param} {asked}, but {model.id} calls no tools: send none or auto, or leave it out.",
    )


def _nothing_stored(param: str) -> BadRequest:
    return _unsupported(
        param,
        f"{param} names something stored, and nothing is stored here: send the whole conversation"
        " in input.",
    )


def _no_logprobs(param: str, model: Model) -> BadRequest:
    return _unsupported(param, f"{model.id} has no token probabilities to tell: leave {param} out.")


def _unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, code="unsupported_parameter", param=param)
