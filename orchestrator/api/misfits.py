"""What does not fit the type of a body, in a sentence that names the value and what would fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from orchestrator.errors import BadRequest

_SHOWN_MAX_CHARS: Final = 40
_BYTE_ORDER_MARK: Final = "\ufeff".encode()

_AT: Final = re.compile(r" - at `\$(?P<path>(?:\.\w+|\[\d+\]|\[\.\.\.\])*)`$")
_STEP: Final = re.compile(r"\.(?P<name>\w+)|\[(?P<at>\d+)\]")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>\w+)`")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_EXPECTED: Final = re.compile(r"^Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
_RANGE: Final = re.compile(r"^Expected `[^`]+` (?P<sign>[<>]=) (?P<bound>-?[0-9.]+)")
_LENGTH: Final = re.compile(r"^Expected `(?P<kind>\w+)` of length (?P<sign>[<>]=) (?P<bound>\d+)")
_CHOICE: Final = re.compile(r"^Invalid enum value (?P<got>'.*'|\".*\")", re.DOTALL)
_NAMES: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
# More than this is not read a second time only to name a value in it.
_READ_AGAIN_MAX_BYTES: Final = 1 << 20
# The first half of a surrogate pair with no room for the second one after it, and how that begins.
_LAST_HALF: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?P<rest>.{0,5})$", re.DOTALL)
_HALF_SENT: Final = re.compile(rb"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_TAIL_BYTES: Final = 11


def one_of(names: Sequence[str]) -> str:
    """Return "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def shown(value: object) -> str:
    """Return a customer's value as a sentence names it, cut where it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() if abs(value) < 1 << 63:
            return f"{value:,}"
        case float():
            return f"{value:,}" if value.is_integer() and abs(value) < 1e15 else repr(value)
        case str():
            return repr(value if len(value) <= _SHOWN_MAX_CHARS else value[:_SHOWN_MAX_CHARS] + "…")
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "a number of more than 64 bits"


def misfit(message: str, body: bytes, type_: Any) -> BadRequest:
    """Turn msgspec's ``message`` on a ``body`` of ``type_`` into one for a customer."""
    said, path = _apart(message, body)
    # What stands in an object by a name of the customer's own is not told which it is.
    param = path.removeprefix(".").removesuffix("[...]")
    subject = param or "The body"
    if missing := _MISSING.match(said):
        name = f"{param}.{missing['name']}" if param else missing["name"]
        return BadRequest(
            f"{name} is missing; it is required.", code="missing_required_parameter", param=name
        )
    if unknown := _UNKNOWN.match(said):
        name = unknown["name"][:64]
        name = f"{param}.{name}" if param else name
        return BadRequest(
            f"Unknown parameter: {name!r}. Check its spelling, or leave it out.",
            code="unknown_parameter",
            param=name,
        )
    if expected := _EXPECTED.match(said):
        # The union's null only says that the field may be left out: no one needs to be told.
        wanted = [name for name in expected["wanted"].split(" | ") if name != "null"]
        allowed = " or ".join(_NAMES.get(name, name) for name in wanted)
        got = _NAMES.get(expected["got"], expected["got"])
        if expected["got"] == "float" and "int" in wanted:
            got = "one with a decimal point"
        return BadRequest(
            f"{subject} must be {allowed}, not {got}.", code="invalid_type", param=param or None
        )
    sentence = (
        _out_of_range(said, subject, path, body)
        or _too_long_or_short(said, subject, path, body)
        or _no_choice(said, subject, path, type_)
        or f"{subject} is not valid: {_lower_first(said)}."
    )
    return BadRequest(sentence, code="invalid_value", param=param or None)


def _apart(message: str, body: bytes) -> tuple[str, str]:
    """Return what ``message`` says and the path it says it of, empty for the body itself."""
    found = _AT.search(message)
    if found is None:
        return message, ""
    said, path = message[: found.start()], found["path"]
    if unknown := _UNKNOWN.match(message):
        # A field's own name may end as a path does.
        whole = _value_at("", body)
        if isinstance(whole, dict) and unknown["name"] in whole:
            return message, ""
    return said, path


def not_json(error: Exception, body: bytes) -> BadRequest:
    """Return what is wrong with a ``body`` that no JSON can be read from."""
    if not body.strip():
        return BadRequest(
            "The body is empty. Send a JSON object with content-type application/json.",
            code="invalid_json",
        )
    if body.startswith(_BYTE_ORDER_MARK):
        return BadRequest(
            "The body begins with a byte order mark. Send UTF-8 without one.", code="invalid_json"
        )
    if isinstance(error, RecursionError):
        return BadRequest(
            "The body is nested too deeply: no request needs arrays and objects within each other"
            " more than a few levels deep.",
            code="invalid_json",
        )
    if isinstance(error, UnicodeDecodeError):
        # The decoder counts from the start of a string in it.
        try:
            body.decode()
        except UnicodeDecodeError as whole:
            error = whole
        return BadRequest(
            f"The body is not UTF-8: byte {error.start} cannot be read.", code="invalid_json"
        )
    half = _lone_half(body) if "truncated" in str(error) else None
    if half is not None:
        return BadRequest(
            f"The body is not valid JSON: {half}. Send both halves, or the character itself in"
            " UTF-8.",
            code="invalid_json",
        )
    return BadRequest(
        f"The body is not valid JSON: {_lower_first(str(error))}. Send a JSON object with"
        " content-type application/json.",
        code="invalid_json",
    )


def _out_of_range(message: str, subject: str, path: str, body: bytes) -> str | None:
    if message.startswith("Number out of range"):
        return f"{subject} is a number of more than 64 bits: send a smaller one."
    limit = _RANGE.match(message)
    if limit is None:
        return None
    bound, at_least = float(limit["bound"]), limit["sign"] == ">="
    allowed = f"{'at least' if at_least else 'at most'} {shown(bound).removesuffix('.0')}"
    got = _value_at(path, body)
    # Of a key that is there twice the other value may have been meant.
    if isinstance(got, (int, float)) and (got < bound if at_least else got > bound):
        return f"{subject} is {shown(got)}; it must be {allowed}."
    return f"{subject} must be {allowed}."


def _too_long_or_short(message: str, subject: str, path: str, body: bytes) -> str | None:
    limit = _LENGTH.match(message)
    if limit is None:
        return None
    one, many = ("character", "characters") if limit["kind"] == "str" else ("item", "items")
    bound = int(limit["bound"])
    unit = one if bound == 1 else many
    if limit["sign"] == ">=":
        least = f"at least {'one' if bound == 1 else f'{bound:,}'} {unit}"
        if bound == 1:
            return f"{subject} is empty; it must have {least}."
        return f"{subject} is too short; it must have {least}."
    got = _value_at(path, body)
    if isinstance(got, (str, list, dict)) and len(got) > bound:
        return f"{subject} has {len(got):,} {many}; at most {bound:,} are taken."
    return f"{subject} has too many {many}; at most {bound:,} are taken."


def _no_choice(message: str, subject: str, path: str, type_: Any) -> str | None:
    choice = _CHOICE.match(message)
    if choice is None:
        return None
    got = choice["got"]
    if len(got) > _SHOWN_MAX_CHARS:
        got = f"{got[:_SHOWN_MAX_CHARS]}…{got[0]}"
    is_ = f"{subject} is {got}"
    allowed = _choices_at(path, type_)
    return f"{is_}; it must be {one_of(allowed)}." if allowed else f"{is_}, which is not allowed."


def _value_at(path: str, body: bytes) -> object:
    """Return what stands at ``path`` of the JSON; None where that cannot be told."""
    if len(body) > _READ_AGAIN_MAX_BYTES:
        return None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # what came after the mistake is one, too
    for step in _steps(path):
        match value:
            case dict() if isinstance(step, str):
                value = value.get(step)
            case list() if isinstance(step, int) and step < len(value):
                value = value[step]
            case _:
                return None
    return value


def _choices_at(path: str, type_: Any) -> list[str]:
    """Return the strings that may stand at ``path``, as its type lists them."""
    kinds = _bare(type_)
    for step in _steps(path):
        kinds = [one for kind in kinds for inner in _inside(kind, step) for one in _bare(inner)]
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def _bare(kind: Any) -> list[Any]:
    """Return what a type is without annotations and unions around it."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return [one for inner in get_args(kind) for one in _bare(inner)]
    return [kind]


def _inside(kind: Any, step: str | int) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [one.type for one in msgspec.structs.fields(kind) if one.encode_name == step]
    return list(get_args(kind)) if get_origin(kind) is list else []


def _steps(path: str) -> list[str | int]:
    """Return the names and numbers of a path; those of msgspec's ``[...]`` are not known."""
    return [
        step["name"] if step["at"] is None else int(step["at"]) for step in _STEP.finditer(path)
    ]


def _lone_half(body: bytes) -> str | None:
    """Return words on half a surrogate pair near the end, which msgspec takes for a cut."""
    tail = body[-_TAIL_BYTES:]
    half = _LAST_HALF.search(tail)
    # With nothing but the start of a second half after it, the body may well have been cut.
    if half is None or _HALF_SENT.fullmatch(half["rest"]):
        return None
    at = len(body) - len(tail) + half.start()
    if (at - len(body[:at].rstrip(b"\\"))) % 2:
        return None  # a backslash and a "u", not an escape
    return f"the escape {body[at : at + 6].decode()} at byte {at} is half of a surrogate pair"


def _lower_first(text: str) -> str:
    return text if text[:4] == "JSON" else text[:1].lower() + text[1:]
