"""What becomes of a line's answer or error: another try, a code, a line of a file."""

from __future__ import annotations

import json

import pytest

from orchestrator import errors
from orchestrator.batches.outcomes import (
    KeyUnavailable,
    LineOutcome,
    error_line,
    output_line,
)


def told(error: errors.ApiError) -> tuple[str, str]:
    line = json.loads(error_line("batch_1", 0, "c", error, tries=4))
    return line["error"]["code"], line["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (errors.BadRequest("m"), "invalid_request_error", "[legacy:http_400] m"),
        (errors.InvalidInput("m"), "invalid_request_error", "[legacy:http_400] m"),
        (errors.ContextLengthExceeded("m"), "context_length_exceeded", "[legacy:http_400] m"),
        (KeyUnavailable("m"), "authentication_error", "[legacy:api_key_unavailable] m"),
        (errors.NotFound("m"), "not_found_error", "[legacy:http_404] m"),
        (
            errors.DeadlineExceeded("m"),
            "internal_error",
            "[legacy:retries_exhausted] The line failed after 4 attempts; the last one ended with"
            " status 503: m",
        ),
        (errors.InternalError("m"), "internal_error", "[legacy:retries_exhausted] "),
        (errors.Conflict("m"), "internal_error", "[legacy:retries_exhausted] "),
        (errors.RequestTimeout("m"), "internal_error", "[legacy:retries_exhausted] "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_have_the_documented_codes(error: errors.ApiError, code: str, start: str) -> None:
    got, message = told(error)

    assert got == code
    assert message.startswith(start)


def test_only_what_may_go_better_next_time_is_tried_again() -> None:
    def again(error: errors.ApiError) -> tuple[bool, bool]:
        outcome = LineOutcome("req_1", error=error)
        return outcome.worth_another_try, outcome.nobody_tried

    once_more = (True, False)
    assert again(errors.RequestTimeout("")) == once_more
    assert again(errors.Conflict("")) == once_more
    assert again(errors.InternalError("")) == once_more
    assert again(errors.NoCapacity(""))[1]
    # The line may have waited in the queue all the time.
    assert again(errors.DeadlineExceeded(""))[1]
    assert again(errors.Overloaded(""))[1]
    assert again(errors.ShuttingDown(""))[1]
    assert again(errors.RateLimited(""))[1]
    never = (False, False)
    assert again(errors.BadRequest("")) == never
    assert again(errors.NotFound("")) == never
    assert again(KeyUnavailable("")) == never
    assert not LineOutcome("req_1", body=b"{}").worth_another_try


def test_a_body_is_kept_byte_for_byte() -> None:
    body = b'{"n": 1.50, "big": 123456789012345678901234567890, "s": "\\u00e9"}'

    line = output_line("batch_1", 0, 'qu"ote\n', LineOutcome("req_1", body=body))

    assert body in line
    parsed = json.loads(line)
    assert parsed["custom_id"] == 'qu"ote\n'
    assert parsed["response"]["status_code"] == 200
    assert parsed["error"] is None


def test_a_body_in_several_lines_is_one_line_of_the_file() -> None:
    line = output_line("batch_1", 0, "c", LineOutcome("req_1", body=b'{\r\n"a":\n1}'))

    assert len(line.splitlines()) == 1
    assert json.loads(line)["response"]["body"] == {"a": 1}


def test_what_unicode_ends_a_line_with_ends_none_of_the_file() -> None:
    name = "a\x85b\u2028c\u2029d"
    body = b'{"s":%b}' % json.dumps(name, ensure_ascii=False).encode()

    answered = output_line("batch_1", 0, name, LineOutcome("req_1", body=body))
    failed = error_line("batch_1", 0, name, errors.BadRequest(name), tries=1)

    for line in (answered, failed):
        assert len(line.decode().splitlines()) == 1
        assert json.loads(line)["custom_id"] == name
    assert json.loads(answered)["response"]["body"] == {"s": name}
    assert json.loads(failed)["error"]["message"].endswith(name)


def test_a_line_has_the_same_id_whenever_it_is_written() -> None:
    def number(batch_id: str, at: int) -> str:
        return str(json.loads(output_line(batch_id, at, "c", LineOutcome("r", body=b"1")))["id"])

    assert number("batch_1", 0) == number("batch_1", 0)
    assert len({number("batch_1", 0), number("batch_1", 1), number("batch_2", 0)}) == 3
    assert number("batch_1", 0).startswith("batch_req_")
