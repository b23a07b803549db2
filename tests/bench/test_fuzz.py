"""The fuzzer: a seed is always the same cases, and only documented answers pass."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from bench.fuzz import Found, Problem, Sample, exceptions_in, fuzz, report
from bench.fuzz_answers import Answer, Answers, problem_with
from bench.fuzz_cases import Case, Cases
from bench.fuzz_valid import Known, valid_bodies, valid_paths
from orchestrator.api.endpoints import ENDPOINTS

KNOWN = Known("127.0.0.1:8000", "zgpu-api-secret", "p", "file-1", "batch_1")
ERROR = b'{"error":{"message":"m","type":"invalid_request_error","code":null,"param":null}}'
JSON = {"content-type": "application/json"}


def test_a_seed_and_a_number_are_always_the_same_bytes() -> None:
    cases = [Cases(1, KNOWN).make(number) for number in range(300)]

    assert [Cases(1, KNOWN).make(number) for number in range(300)] == cases
    assert Cases(2, KNOWN).make(0) != cases[0]
    assert {case.kind for case in cases} == {
        *("values", "bytes", "headers", "paths", "multipart", "lines", "pipelined", "left"),
    }


def test_every_route_is_among_what_it_begins_with() -> None:
    paths = [(b"POST", path) for path, _ in valid_bodies()] + valid_paths(KNOWN)
    sent = {(method.decode(), path.decode()) for method, path in [*paths, (b"POST", b"/v1/files")]}

    for endpoint in ENDPOINTS:
        pattern = re.sub(r"\{\w+\}", "[^/]+", endpoint.path)
        assert any(
            method == endpoint.method and re.fullmatch(pattern, path) for method, path in sent
        ), endpoint.path


@pytest.mark.parametrize(
    ("status", "headers", "body", "wrong"),
    [
        (400, JSON, ERROR, None),
        (200, JSON, b"{}", None),
        (400, {}, b"Invalid HTTP request received.", None),
        (500, JSON, ERROR, "500"),
        (418, JSON, ERROR, "418"),
        (0, {}, b"garbage", "0: garbage"),
        (200, JSON, b"{", "JSON is none"),
        (404, {"content-type": "text/html"}, b"<p>", "not JSON"),
        (400, JSON, b'{"message":"m"}', "without the envelope"),
        (400, JSON, ERROR.replace(b'"param":null', b'"details":1'), "has the fields"),
        (400, JSON, ERROR.replace(b"invalid_request_error", b"odd"), "of type 'odd'"),
        (400, JSON, ERROR.replace(b'"m"', b'""'), "message ''"),
        (400, JSON, ERROR.replace(b'"m"', b'"zgpu-api-secret"'), "with the key in it"),
    ],
)
def test_an_answer_that_is_not_documented_is_a_problem(
    status: int, headers: dict[str, str], body: bytes, wrong: str | None
) -> None:
    problem = problem_with(Answer(status, headers, body), KNOWN.api_key, is_api=True)

    assert problem is None if wrong is None else wrong in (problem or "")


def test_answers_are_told_apart_and_one_that_breaks_off_is_seen() -> None:
    parser = Answers()
    whole = (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )

    between = []
    parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    for raw in (whole + whole[:20], whole[20:], whole[:-1]):
        parser.feed(raw)
        between.append(parser.is_between)

    first, second, last = parser.finish()
    assert (
        first
        == second
        == Answer(404, {"content-type": "application/json", "content-length": "2"}, b"{}")
    )
    assert between == [False, True, False]
    assert (last.is_whole, last.body) == (False, b"{")
    assert "breaks off" in (problem_with(last, "key", is_api=True) or "")


def test_only_errors_of_the_servers_log_count() -> None:
    bad = '{"event": "bad", "level": "error", "exception": "a 0x12"}'
    log = '{"event": "ok", "level": "info"}\nhello\n' + bad

    assert list(exceptions_in(log)) == ["bad: a 0x…"]


def test_growth_is_from_a_quarter_of_the_run_to_its_end() -> None:
    found = Found(seconds=100)
    found.samples = [Sample(at, 50.0 if at < 20 else 100.0 + at / 10, 9) for at in range(101)]

    assert found.growth_mb() == pytest.approx(7.0)


def test_a_report_counts_faults_and_names_the_first_case() -> None:
    found = Found(seconds=1)
    found.cases.update({"values": 2})
    found.answers["values"] = Counter({"500": 2, "503": 1})
    found.problems = [Problem(7, "values", "500: x"), Problem(9, "values", "500: x")]

    section = report(found, seed=1)

    assert [f.verdict for f in section.figures[:3]] == ["missed", "missed", "met"]
    assert section.tables[1].rows == [("values", "500: x", "2", "7")]


def test_a_client_that_hangs_up_is_owed_nothing() -> None:
    assert Case(1, "left", (b"x",), "abort").owes is False
    assert Case(1, "values", (b"POST /v1/x HTTP/1.1\r\n",)).is_api


@pytest.mark.slow
def test_seconds_of_fuzzing_find_nothing(tmp_path: Path) -> None:
    found = fuzz(seconds=4, seed=1, kept=tmp_path)

    assert found.problems == []
    assert found.logged == []
    assert found.sockets_left <= 0
    assert found.cases.total() > 50
