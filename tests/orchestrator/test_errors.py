"""The error tree: one status, one type and one envelope each."""

from __future__ import annotations

from orchestrator import errors


def all_api_errors() -> list[type[errors.ApiError]]:
    found, left = [], [errors.ApiError]
    while left:
        kind = left.pop()
        found.append(kind)
        left += kind.__subclasses__()
    return found


def test_the_envelope_has_openai_s_four_fields() -> None:
    error = errors.BadRequest("n must be 1.", code="invalid_value", param="n")

    assert error.envelope() == {
        "error": {
            "message": "n must be 1.",
            "type": "invalid_request_error",
            "code": "invalid_value",
            "param": "n",
        }
    }


def test_every_documented_status_has_an_error() -> None:
    statuses = {kind.status for kind in all_api_errors()}

    assert statuses == {400, 401, 403, 404, 405, 408, 409, 413, 415, 420, 429, 431, 500, 503}


def test_every_kind_has_a_code_of_its_own_class() -> None:
    for kind in all_api_errors():
        assert kind.default_code
        assert kind.default_code == kind.default_code.lower()


def test_a_code_can_be_more_precise_than_its_class() -> None:
    assert errors.NoCapacity("None.").code == "no_capacity"
    assert errors.NotFound("None.", code="model_not_found").code == "model_not_found"
