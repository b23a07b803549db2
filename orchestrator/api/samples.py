"""Code that calls an operation: for curl, and for Python and JavaScript with OpenAI's clients.

What those clients have no method for is called with `requests` and with `fetch`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from orchestrator.api.endpoints import Endpoint
from orchestrator.api.examples import Examples

Json = Mapping[str, Any]

KEY: Final = "ZEROGPU_API_KEY"
PROJECT: Final = "ZEROGPU_PROJECT_ID"
_PLACEHOLDER: Final = re.compile(r"\{\w+\}")


class _Method(NamedTuple):
    """A method of the clients, and what to print of what it returns. ``each``: it is a list."""

    name: str
    python: str
    javascript: str
    each: bool = False


# By method and path, without what stands in braces.
_METHODS: Final[Mapping[str, _Method]] = {
    "POST /v1/responses": _Method("responses.create", "output_text", "output_text"),
    "POST /v1/chat/completions": _Method(
        "chat.completions.create", "choices[0].message.content", "choices[0].message.content"
    ),
    "POST /v1/embeddings": _Method(
        "embeddings.create", "data[0].embedding[:3]", "data[0].embedding.slice(0, 3)"
    ),
    "POST /v1/moderations": _Method(
        "moderations.create", "results[0].flagged", "results[0].flagged"
    ),
    "POST /v1/files": _Method("files.create", "id", "id"),
    "GET /v1/files": _Method("files.list", "id", "id", each=True),
    "GET /v1/files/{}": _Method("files.retrieve", "filename", "filename"),
    "GET /v1/files/{}/content": _Method("files.content", "text", "text()"),
    "DELETE /v1/files/{}": _Method("files.delete", "deleted", "deleted"),
    "POST /v1/batches": _Method("batches.create", "id", "id"),
    "GET /v1/batches": _Method("batches.list", "id", "id", each=True),
    "GET /v1/batches/{}": _Method("batches.retrieve", "status", "status"),
    "POST /v1/batches/{}/cancel": _Method("batches.cancel", "status", "status"),
    "GET /v1/models": _Method("models.list", "id", "id", each=True),
    "GET /v1/models/{}": _Method("models.retrieve", "id", "id"),
}


def samples_of(
    endpoint: Endpoint, examples: Examples, *, url: str, wants_project: bool = False
) -> list[dict[str, str]]:
    """Return the samples of every example, as ``x-codeSamples`` has them."""
    requests: Mapping[str, Json | None] = examples.requests or {"": None}
    return [
        {"lang": lang, "label": label, "source": source, "x-example": title}
        for title, body in requests.items()
        for lang, label, source in _Call(endpoint, examples, body, url, wants_project).samples()
    ]


class _Call:
    """One example of one operation, against a server."""

    def __init__(
        self,
        endpoint: Endpoint,
        examples: Examples,
        body: Json | None,
        url: str,
        wants_project: bool,
    ) -> None:
        # By header, what variable its value is in; OpenAI's clients have an argument for the key.
        self._more = {"x-project-id": PROJECT} if wants_project else {}
        self._who = {"x-api-key": KEY} | self._more
        self._endpoint = endpoint
        self._examples = examples
        self._url = url
        self._form = endpoint.form is not None
        self._body = body
        self._streams = bool(body and body.get("stream"))
        self._method = _METHODS.get(f"{endpoint.method} {_PLACEHOLDER.sub('{}', endpoint.path)}")
        path = _PLACEHOLDER.sub(examples.path or "", endpoint.path)
        query = f"?{urlencode(examples.query)}" if examples.query else ""
        self._at = f"{url}{path}{query}"

    def samples(self) -> Iterator[tuple[str, str, str]]:
        """Yield (language, its name, the code)."""
        yield "shell", "curl", self._curl()
        if self._method is None:
            yield "python", "Python", self._requests()
            yield "javascript", "JavaScript", self._fetch()
        else:
            yield "python", "Python", self._python(self._method)
            yield "javascript", "JavaScript", self._javascript(self._method)

    def _curl(self) -> str:
        method = self._endpoint.method
        flags = "-N " if self._streams else ""
        at = f"'{self._at}'" if "?" in self._at else self._at
        lines = [f"curl {flags}{at}"]
        if method == "DELETE" or (method == "POST" and self._body is None):
            lines[0] = f"curl -X {method} {at}"
        lines += [f'  -H "{name}: ${variable}"' for name, variable in self._who.items()]
        if self._form and self._body is not None:
            lines += [
                f"  -F {name}={'@' if name == 'file' else ''}{value}"
                for name, value in self._body.items()
            ]
        elif self._body is not None:
            text = json.dumps(self._body, indent=2, ensure_ascii=False).replace("'", "'\\''")
            lines += ['  -H "content-type: application/json"', f"  -d '{text}'"]
        return " \\\n".join(lines)

    # ── with OpenAI's clients ────────────────────────────────────────────────────────────────────

    def _python(self, method: _Method) -> str:
        lines = [
            "from os import environ",
            "",
            "from openai import OpenAI",
            "",
            "client = OpenAI(",
            f'    base_url="{self._url}/v1",',
            f'    api_key=environ["{KEY}"],',
            *(
                f'    default_headers={{"{name}": environ["{variable}"]}},'
                for name, variable in self._more.items()
            ),
            ")",
        ]
        call = f"client.{method.name}({self._python_arguments()})"
        if self._streams:
            lines += [f"for event in {call}:", *_PYTHON_EVENTS[method.name]]
        elif method.each:
            lines += [f"for one in {call}:", f"    print(one.{method.python})"]
        else:
            lines += [f"answer = {call}", f"print(answer.{method.python})"]
        return "\n".join(lines)

    def _python_arguments(self) -> str:
        if self._examples.path is not None:
            return _quoted(self._examples.path)
        if self._form and self._body is not None:
            file = _quoted(self._body["file"])
            return f'\n    file=open({file}, "rb"),\n    purpose="batch",\n'
        given = self._body if self._body is not None else self._examples.query
        return _lines([f"{name}={_python(value, 1)}" for name, value in given.items()])

    def _javascript(self, method: _Method) -> str:
        imports = ['import OpenAI from "openai";']
        if self._form:
            imports.insert(0, 'import fs from "node:fs";')
        lines = [
            *imports,
            "",
            "const client = new OpenAI({",
            f'  baseURL: "{self._url}/v1",',
            f"  apiKey: process.env.{KEY},",
            *(
                f'  defaultHeaders: {{ "{name}": process.env.{variable} }},'
                for name, variable in self._more.items()
            ),
            "});",
        ]
        call = f"client.{method.name}({self._javascript_arguments()})"
        if self._streams:
            lines += [
                f"const stream = await {call};",
                "for await (const event of stream) {",
                *_JAVASCRIPT_EVENTS[method.name],
                "}",
            ]
        elif method.each:
            lines += [
                f"for await (const one of {call}) {{",
                f"  console.log(one.{method.javascript});",
                "}",
            ]
        else:
            awaits = "await " if method.javascript.endswith("text()") else ""
            lines += [
                f"const answer = await {call};",
                f"console.log({awaits}answer.{method.javascript});",
            ]
        return "\n".join(lines)

    def _javascript_arguments(self) -> str:
        if self._examples.path is not None:
            return _quoted(self._examples.path)
        if self._form and self._body is not None:
            file = _quoted(self._body["file"])
            return f'{{\n  file: fs.createReadStream({file}),\n  purpose: "batch",\n}}'
        given = self._body if self._body is not None else self._examples.query
        return _javascript(given, 0) if given else ""

    # ── without ──────────────────────────────────────────────────────────────────────────────────

    def _requests(self) -> str:
        body = "" if self._body is None else f"    json={_python(self._body, 1)},\n"
        who = ", ".join(f'"{name}": environ["{variable}"]' for name, variable in self._who.items())
        return (
            "from os import environ\n\nimport requests\n\n"
            f"answer = requests.{self._endpoint.method.lower()}(\n"
            f"    {_quoted(self._at)},\n"
            f"    headers={{{who}}},\n"
            f"{body}"
            ")\n"
            "print(answer.json())"
        )

    def _fetch(self) -> str:
        headers = ", ".join(
            f'"{name}": process.env.{variable}' for name, variable in self._who.items()
        )
        body = ""
        if self._body is not None:
            headers += ', "content-type": "application/json"'
            body = f"  body: JSON.stringify({_javascript(self._body, 1)}),\n"
        method = "" if self._endpoint.method == "GET" else f'  method: "{self._endpoint.method}",\n'
        return (
            f"const answer = await fetch({_quoted(self._at)}, {{\n"
            f"{method}"
            f"  headers: {{ {headers} }},\n"
            f"{body}"
            "});\n"
            "console.log(await answer.json());"
        )


_PYTHON_EVENTS: Final[Mapping[str, list[str]]] = {
    "responses.create": [
        '    if event.type == "response.output_text.delta":',
        '        print(event.delta, end="")',
    ],
    "chat.completions.create": [
        '    print(event.choices[0].delta.content or "", end="")',
    ],
}
_JAVASCRIPT_EVENTS: Final[Mapping[str, list[str]]] = {
    "responses.create": [
        '  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);',
    ],
    "chat.completions.create": [
        '  process.stdout.write(event.choices[0].delta.content ?? "");',
    ],
}


def _lines(arguments: list[str]) -> str:
    """Return arguments in one line if there is one, else one a line."""
    if len(arguments) < 2:
        return "".join(arguments)
    return "".join(f"\n    {one}," for one in arguments) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(value: Any, depth: int) -> str:
    """Return a value of JSON as Python has it, indented by four for what is nested."""
    match value:
        case None | bool():
            return repr(value)
        case Mapping():
            return _block(
                "{}",
                [f"{_quoted(k)}: {_python(v, depth + 1)}" for k, v in value.items()],
                depth * 4,
                4,
            )
        case list():
            return _block("[]", [_python(one, depth + 1) for one in value], depth * 4, 4)
        case _:
            return _quoted(value)


def _javascript(value: Any, depth: int) -> str:
    match value:
        case Mapping():
            fields = [f"{name}: {_javascript(v, depth + 1)}" for name, v in value.items()]
            return _block("{}", fields, depth * 2, 2, space=" ")
        case list():
            return _block("[]", [_javascript(one, depth + 1) for one in value], depth * 2, 2)
        case _:
            return _quoted(value)


def _block(ends: str, items: list[str], indent: int, step: int, *, space: str = "") -> str:
    """Return ``items`` between brackets: in one line where that is short."""
    short = f"{ends[0]}{space}{', '.join(items)}{space}{ends[1]}"
    if len(short) <= 60 and "\n" not in short and not (step == 2 and indent == 0):
        return short
    pad = " " * (indent + step)
    return f"{ends[0]}\n" + "".join(f"{pad}{one},\n" for one in items) + " " * indent + ends[1]
