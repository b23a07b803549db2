"""What the fuzzer sends: what a seeded generator makes of valid requests.

Pure: a seed and a number always give the same bytes, so a case that was found can be sent again.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from bench.fuzz_valid import (
    Known,
    Request,
    batch_input,
    batch_line,
    form_of,
    part,
    upload,
    valid_bodies,
    valid_paths,
)

Ending = Literal["read", "half-close", "abort"]
Headers = list[tuple[bytes, bytes]]

# Sent as they stand where a value was: what a JSON library refuses to write.
_RAW: Final = (
    *("1e999", "-1e999", "NaN", "-Infinity", "01", "0x10", "nul", "'a'", "1.", "{,}", '"\\u12"'),
    *('"\\ud800"', '"\\q"', '"a', "[" * 2000, "[" * 100_000, '{"a":' * 5000, "9" * 5000, "-"),
    *(
        "1e-400",
        '"\x01"',
        "\x00",
        "//",
        '{"a":1,"a":2}',
        "[1,]",
        "\ufeff{}",
        "184467440737095516160",
    ),
)
_ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.0, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30),
    *("", " ", "\x00", "a", "é" * 300, "💥" * 200, "a" * 70_000, "../../etc/passwd", "%00%2e%2e/"),
    *([], {}, [[]], [{}], [None], [""], [1, "a", None], {"": None}, {"type": "input_text"}),
    *({"type": "text", "text": 1}, [{"role": "user"}], [{"role": 5, "content": []}], ["a"] * 3000),
    *([[1, 2], [3]], [[-1]], [[10**9] * 5], {"type": "json_object"}, "auto", "24h", "float"),
)
_MARK: Final = re.compile(rb'"\\u0001RAW"')
_API: Final = re.compile(r" /(v1/\w|summary |usecase/classify/iab |gliner )")
_FIELDS: Final = (
    *("model", "input", "messages", "stream", "stream_options", "metadata", "text", "instructions"),
    *("max_tokens", "max_output_tokens", "temperature", "top_p", "n", "seed", "store", "user"),
    *(
        "truncation",
        "encoding_format",
        "dimensions",
        "endpoint",
        "input_file_id",
        "previous_response_id",
    ),
    *(
        "completion_window",
        "tools",
        "tool_choice",
        "response_format",
        "\u0000",
        "__proto__",
        "x" * 500,
    ),
)
_HEADER_NAMES: Final = (
    *(
        b"x-api-key",
        b"authorization",
        b"x-project-id",
        b"idempotency-key",
        b"content-type",
        b"host",
    ),
    *(b"content-length", b"transfer-encoding", b"expect", b"content-encoding", b"origin", b"range"),
    *(b"accept", b"connection", b"x-forwarded-for", b"cookie", b"if-none-match", b"te", b"trailer"),
    *(b"upgrade", b"content-disposition", b"x-http-method-override", b"x-stainless-retry-count"),
)
_HEADER_VALUES: Final = (
    *(b"", b" ", b"a", b"\xff\xfe", b"\xc3\x28", b"*", b"0", b"-1", b"1", b"999999999999999999999"),
    *(b"5, 5", b"+5", b"0x10", b"1e3", b"chunked", b"identity, chunked", b"gzip", b"100-continue"),
    *(b"Bearer ", b"Bearer \xff", b"Basic YTpi", b"close", b"keep-alive, upgrade", b"websocket"),
    *(b"application/json; charset=utf-16", b"text/plain", b"multipart/form-data", b"a" * 5000),
    *(b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"b" * 300, b"\t\t"),
    *(
        b"bytes=0-0",
        b"bytes=-5",
        b"bytes=9-1,2-3",
        b'"',
        b'W/"x"',
        b"example.org",
        b"[::1",
        b"a:b:c",
    ),
)
_QUERIES: Final = (
    *(b"?limit=0", b"?limit=-1", b"?limit=1e3", b"?limit=99999999999999999999", b"?limit=%31"),
    *(b"?limit=1&limit=2", b"?limit", b"?limit=", b"?after=", b"?after=%ff%fe", b"?after=file-x"),
    *(b"?order=up", b"?order=asc", b"?purpose=fine-tune", b"?purpose=batch_output&limit=1", b"?%"),
    *(
        b"?a[b]=c",
        b"?" + b"a=b&" * 500,
        b"?after=" + b"a" * 8000,
        b"?limit=\xd9\xa3",
        b"??",
        b"?&&=",
    ),
)
_NAMES: Final = (
    *(b"", b"..", b"%2e%2e%2f", b"%00", b"%ff", b"a" * 9000, b"file-", b"batch_", b"a/b", b"%2F"),
    *(
        b"file-" + b"0" * 24,
        b"batch_" + b"0" * 26,
        b"\xc3\xa9",
        b"' OR 1=1 --".replace(b" ", b"%20"),
    ),
)


class Case(msgspec.Struct, frozen=True):
    """What goes over one connection: ``pieces`` one after the other, then ``ending``.

    ``owes`` says whether the server has to answer or hang up: not where the client hangs up first.
    """

    number: int
    kind: str
    pieces: tuple[bytes, ...]
    ending: Ending = "read"

    @property
    def owes(self) -> bool:
        return self.ending == "read"

    @property
    def is_framed(self) -> bool:
        """Whether it is one whole HTTP request, so that it has to be answered."""
        return self.kind in {"values", "bytes", "lines"}

    @property
    def is_api(self) -> bool:
        """Whether what it asks for first is a path of the API."""
        return _API.search(self.head) is not None

    @property
    def head(self) -> str:
        """The first request's line, as far as it can be read."""
        return self.pieces[0][:200].partition(b"\r\n")[0].decode("latin-1")


class Cases:
    """The cases of one seed, by number."""

    def __init__(self, seed: int, known: Known) -> None:
        self._seed = seed
        self._known = known
        self._makers: tuple[Callable[[random.Random], tuple[str, tuple[bytes, ...], Ending]], ...]
        self._makers = (
            *(self._value,) * 6,
            *(self._bytes,) * 4,
            *(self._headers,) * 3,
            *(self._paths,) * 3,
            *(self._form,) * 3,
            self._lines,
            self._pipelined,
            self._left,
        )

    def make(self, number: int) -> Case:
        """Return a case, always the same one."""
        rng = random.Random(f"{self._seed}:{number}")
        kind, pieces, ending = rng.choice(self._makers)(rng)
        return Case(number, kind, pieces, ending)

    def valid(self, rng: random.Random) -> Request:
        """Return a request that nothing is wrong with."""
        chance = rng.random()
        if chance < 0.1:
            return upload(self._known, batch_input())
        if chance < 0.35:
            method, path = rng.choice(valid_paths(self._known))
            return Request(method, path, self._known.headers())
        path, body = rng.choice(valid_bodies())
        return self._json(path, self._encoded(body))

    def _json(self, path: bytes, body: bytes) -> Request:
        kind = (b"content-type", b"application/json")
        return Request(b"POST", path, self._known.headers(kind), body)

    def _encoded(self, body: Any) -> bytes:
        return json.dumps(body).replace('"FILE"', f'"{self._known.file_id}"').encode()

    def _value(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        path, body = rng.choice(valid_bodies())
        for _ in range(rng.choice((1, 1, 2, 4))):
            body = mutate(rng, body)
        encoded = self._encoded(body)
        encoded = _MARK.sub(lambda _: rng.choice(_RAW).encode(), encoded)
        return "values", (self._json(path, encoded).encode(),), "read"

    def _bytes(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        path, body = rng.choice(valid_bodies())
        return "bytes", (self._json(path, garble(rng, self._encoded(body))).encode(),), "read"

    def _headers(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        request = self.valid(rng)
        headers = list(request.headers)
        for _ in range(rng.choice((1, 1, 2, 5))):
            stir(rng, headers)
        # Before what the body's own length would be: the first of two may well count.
        request = msgspec.structs.replace(request, headers=tuple(headers))
        encoded = request.encode()
        if rng.random() < 0.2:
            end = encoded.index(b"\r\n\r\n")
            encoded = garble(rng, encoded[:end]) + encoded[end:]
        return "headers", (encoded,), "read"

    def _paths(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        method, path = rng.choice(valid_paths(self._known))
        if rng.random() < 0.5:
            path = path + rng.choice(_QUERIES)
        elif rng.random() < 0.7:
            path = path.rsplit(b"/", 1)[0] + b"/" + rng.choice(_NAMES)
        else:
            path = garble(rng, path).replace(b"\r", b"").replace(b"\n", b"")
        method = rng.choice((method, method, method, b"GET", b"PUT", b"PATCH", b"DELETE", b"QUERY"))
        return "paths", (Request(method, path, self._known.headers()).encode(),), "read"

    def _form(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        request = upload(self._known, batch_input())
        assert request.body is not None
        match rng.randrange(7):
            case 0:
                body = garble(rng, request.body)
            case 1:  # no terminator, or only a piece of it
                body = request.body[: -rng.randrange(1, 60)]
            case 2:
                count = rng.choice((2, 50, 3000))
                body = form_of([part(rng.choice((b"file", b"purpose", b"x")), b"a")] * count)
            case 3:
                purposes = (b"", b"fine-tune", b"batch\x00", b"\xff", b"batch" * 1000)
                body = form_of([part(b"purpose", rng.choice(purposes)), part(b"file", b"{}", b"a")])
            case 4:
                names = (b"", b"a" * 5000, b"../../x", b"\xff\xfe", b'q"; name="purpose', b"a\x00b")
                body = form_of(
                    [part(b"purpose", b"batch"), part(b"file", b"{}\n", rng.choice(names))]
                )
            case 5:  # another boundary than the header says
                body = form_of([part(b"purpose", b"batch")], rng.choice((b"", b"x", b"-" * 200)))
            case _:
                head = b"x-long: " + b"a" * rng.choice((100, 9000, 200_000))
                body = form_of([head + b"\r\n" + part(b"file", b"{}\n", b"a")] * rng.choice((1, 9)))
        request = msgspec.structs.replace(request, body=body)
        encoded = request.encode()
        if rng.random() < 0.25:  # the length is a lie
            told = b"content-length: %d" % len(body)
            lie = max(0, len(body) + rng.choice((-len(body), -50, -1, 1, 500, 10**9)))
            encoded = encoded.replace(told, b"content-length: %d" % lie)
        return "multipart", (encoded,), "read"

    def _lines(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        """A file that is uploaded well; what is in it is for the batch that is made of it."""
        lines = [json.dumps(batch_line(number)).encode() for number in range(3)]
        changed = mutate(rng, batch_line(1))
        lines[1] = json.dumps(changed).replace('"\\u0001RAW"', "1e999").encode()
        content = b"\n".join(lines)
        if rng.random() < 0.4:
            content = garble(rng, content)
        return "lines", (upload(self._known, content).encode(),), "read"

    def _pipelined(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        first = b"".join(self.valid(rng).encode(close=False) for _ in range(rng.randrange(1, 12)))
        after = rng.choice(
            (
                self.valid(rng).encode(),
                rng.randbytes(rng.randrange(1, 400)),
                b"GET / HTTP/9.9\r\n\r\n",
                b"\r\n\r\n\r\n" + self.valid(rng).encode(),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            )
        )
        return "pipelined", (first + after,), "half-close" if rng.random() < 0.3 else "read"

    def _left(self, rng: random.Random) -> tuple[str, tuple[bytes, ...], Ending]:
        """A client that stops in the middle: it goes, or it stays and says nothing more."""
        encoded = self.valid(rng).encode()
        at = sorted(rng.randrange(1, len(encoded)) for _ in range(rng.choice((1, 2, 3))))
        cuts = [0, *at]
        pieces = tuple(encoded[a:b] for a, b in itertools.pairwise(cuts))
        ending: Ending = rng.choice(("half-close", "abort", "abort"))
        # A whole request whose answer nobody waits for is the most usual of all.
        return "left", pieces if rng.random() < 0.7 else (encoded,), ending


def mutate(rng: random.Random, value: Any) -> Any:
    """Return JSON with one thing in it changed, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[name]
            case 1:
                changed[rng.choice(_FIELDS)] = odd(rng)
            case 2:
                changed[rng.choice(_FIELDS)] = changed.pop(name)
            case _:
                changed[name] = mutate(rng, value[name])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return (
                value[:at] + value[at + 1 :] if rng.random() < 0.5 else value * rng.choice((2, 40))
            )
        return [*value[:at], mutate(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.2:
        return value * rng.choice((2, 30, 2000)) if len(value) < 100 else value[: rng.randrange(9)]
    return odd(rng)


def odd(rng: random.Random) -> Any:
    """Return an odd value; a mark for one that no JSON library would write."""
    return "\x01RAW" if rng.random() < 0.25 else rng.choice(_ODD)


def garble(rng: random.Random, raw: bytes) -> bytes:
    """Return ``raw`` with bytes changed, lost, doubled or put in, or in another encoding."""
    at = rng.randrange(len(raw) + 1)
    to = min(len(raw), at + rng.choice((1, 2, 16, 200)))
    match rng.randrange(10):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + raw[to:]
        case 2:
            return raw[:to] + raw[at:to] * rng.choice((1, 50)) + raw[to:]
        case 3:
            return (
                raw[:at]
                + rng.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\x00"))
                + raw[at:]
            )
        case 4:
            return raw[:at] + rng.randbytes(rng.choice((1, 3, 100))) + raw[to:]
        case 5:
            return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n", b" " * 5000)) + raw
        case 6:
            return raw + rng.choice((b"\x00", b"}", raw, b" " * 5000, b"\n//"))
        case 7:
            return raw.decode("utf-8", "replace").encode("utf-16") if rng.random() < 0.5 else b""
        case 8:
            return gzip.compress(raw, mtime=0)
        case _:
            flipped = bytearray(raw or b"\x00")
            for _ in range(rng.choice((1, 1, 3, 20))):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return bytes(flipped)


def stir(rng: random.Random, headers: Headers) -> None:
    """Change, drop, double or add header fields."""
    at = rng.randrange(len(headers)) if headers else 0
    name, value = rng.choice(_HEADER_NAMES), rng.choice(_HEADER_VALUES)
    match rng.randrange(7):
        case 0 if headers:
            del headers[at]
        case 1 if headers:
            headers[at] = (headers[at][0], value)
        case 2 if headers:
            headers[at] = (garble(rng, headers[at][0]), headers[at][1])
        case 3 if headers:
            headers.append(headers[at])
        case 4:
            headers += [
                (b"x-more-%d" % number, b"a") for number in range(rng.choice((20, 120, 2000)))
            ]
        case 5:
            headers.append((name, b"a" * rng.choice((10_000, 40_000, 90_000))))
        case _:
            headers.insert(rng.randrange(len(headers) + 1), (name, value))
