"""The README and the examples, run as they are written, against a server with its CPU worker."""

from __future__ import annotations

import contextlib
import csv
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.server import ROOT, Server
from e2e.texts import SENTENCES
from wasm_build import node

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
# Where the README says that the server is.
STANDARD_URL = "http://127.0.0.1:8000"


def run(server: Server, *words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words,
        env={
            **os.environ,
            "ZEROGPU_URL": server.url,
            "ZEROGPU_API_KEY": server.api_key,
            "POLL_S": "0.1",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def readme_block(server: Server, language: str, holds: str) -> str:
    """Return the README's code block that holds a word, pointed at ``server``."""
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M
    )
    [block] = [block for block in blocks if holds in block]
    assert STANDARD_URL in block
    return str(block).replace(STANDARD_URL, server.url)


def test_the_readmes_curl_answers(shared_server: Server) -> None:
    block = readme_block(shared_server, "sh", "curl ")
    # The reader puts a key there; the test has set it already.
    script = re.sub(r"^export ZEROGPU_API_KEY=.*$", "", block, flags=re.MULTILINE)

    answer = run(shared_server, "sh", "-c", script).stdout

    assert "x-inference-type: cloud" in answer
    assert (
        '"name":"Sports"'
        in json.loads(answer[answer.index("{") :])["output"][0]["content"][0]["text"]
    )


def test_the_readmes_python_answers(shared_server: Server) -> None:
    block = readme_block(shared_server, "python", "OpenAI")

    assert run(shared_server, sys.executable, "-c", block).stdout == "2 vectors of 384\n"


def test_the_sdk_example_answers(shared_server: Server) -> None:
    said = run(shared_server, sys.executable, str(EXAMPLES / "openai_sdk.py")).stdout

    assert re.search(r"^Summary: .+\.$", said, re.MULTILINE)
    assert "Category: Sports" in said
    assert "Answered by: cloud" in said
    found = re.search(r"ferry/boat (\d\.\d\d), ferry/onions (-?\d\.\d\d)", said)
    assert found is not None
    assert float(found[1]) > float(found[2]) + 0.3


def test_the_curl_example_answers_texts_that_json_must_escape(shared_server: Server) -> None:
    text = 'She said "the goal was onside", \\ and\nthe referee agreed.'

    done = run(shared_server, str(EXAMPLES / "classify.sh"), text)

    assert json.loads(done.stdout)["status"] == "completed"
    assert "x-inference-type:" in done.stderr


def test_the_batch_example_writes_a_line_for_each(shared_server: Server, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"{sentence} {n}\n" for n in range(75) for sentence in SENTENCES))

    done = run(shared_server, sys.executable, str(EXAMPLES / "batch_embeddings.py"), str(lines))

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 300
    assert rows[0]["text"] == f"{SENTENCES[0]} 0"
    assert {len(row["embedding"]) for row in rows} == {384}


@pytest.mark.parametrize("example", ["batch_walkthrough.sh", "batch_walkthrough.py"])
def test_a_batch_walkthrough_prints_the_answer_of_every_line(
    shared_server: Server, tmp_path: Path, example: str
) -> None:
    if example.endswith(".sh") and shutil.which("jq") is None:
        hint = "this example needs jq, which is not here: apt-get install jq"
        if os.environ.get("CI"):
            pytest.fail(hint)
        pytest.skip(hint)
    program = [sys.executable] if example.endswith(".py") else []

    said = run(shared_server, *program, str(EXAMPLES / example), folder=tmp_path).stdout

    assert "Created batch_" in said
    assert {line.partition(":")[0] for line in said.splitlines()[-3:]} == {"ferry", "cup", "storm"}
    lines = (tmp_path / "output.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"]["status_code"] for line in lines] == [200] * 3
    assert not (tmp_path / "errors.jsonl").exists()


def test_the_csv_example_answers_in_the_order_of_its_rows(
    shared_server: Server, tmp_path: Path
) -> None:
    texts, answers = tmp_path / "texts.csv", tmp_path / "answers.csv"
    with texts.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["id", "text"])
        rows.writerows([f"doc-{number}", f'"Ferry" {number}, late.'] for number in range(100))

    run(shared_server, sys.executable, str(EXAMPLES / "batch_csv.py"), str(texts), str(answers))

    with answers.open(newline="") as opened:
        found = list(csv.DictReader(opened))
    assert [row["id"] for row in found] == [f"doc-{number}" for number in range(100)]
    assert all(row["answer"] == f'"Ferry" {number}, late.' for number, row in enumerate(found))


class Front(http.server.ThreadingHTTPServer):
    """In front of a server: each client's first request is answered as ``first`` says."""

    def __init__(self, server: Server, first: int) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind = server
        self.first = first
        self.seen: list[str] = []


class Passing(http.server.BaseHTTPRequestHandler):
    """Tells clients apart by the name that they put into the key."""

    server: Front

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        client, _, key = self.headers["x-api-key"].partition("@")
        is_first = client not in self.server.seen
        self.server.seen.append(client)
        if is_first:
            status, answer = self.server.first, b"{}"
        else:
            headers = {"x_api_key": key, "content_type": "application/json"}
            status, _, answer = self.server.behind.send("POST", self.path, body, **headers)
        self.send_response(status)
        self.send_header("retry-after", "1")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def front(server: Server, first: int) -> Iterator[Front]:
    with Front(server, first) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield serving
        finally:
            serving.shutdown()
            thread.join()


def retrying(front: Front, example: str) -> subprocess.CompletedProcess[str]:
    """Run a retry example against ``front``."""
    found = node.on_path() or node.packaged()
    assert found is not None, "make setup has installed its packages with a Node.js"
    programs = {"retry.py": [sys.executable], "retry.mjs": [str(found.node)], "retry.sh": []}
    return subprocess.run(
        [*programs[example], str(EXAMPLES / example)],
        env={
            **os.environ,
            "ZEROGPU_URL": f"http://127.0.0.1:{front.server_address[1]}",
            "ZEROGPU_API_KEY": f"{example}@{front.behind.api_key}",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


RETRYING = ("retry.py", "retry.mjs", "retry.sh")


@pytest.mark.parametrize("busy", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(shared_server: Server, busy: int) -> None:
    with front(shared_server, busy) as between, ThreadPoolExecutor() as pool:
        done = list(pool.map(retrying, [between] * 3, RETRYING))

    for example, told in zip(RETRYING, done, strict=True):
        assert told.returncode == 0, (example, told.stderr)
        assert "It was late all week." in told.stdout, example
        assert between.seen.count(example) == 2


def test_what_will_not_get_better_is_not_asked_again(shared_server: Server) -> None:
    with front(shared_server, 401) as between, ThreadPoolExecutor() as pool:
        done = list(pool.map(retrying, [between] * 3, RETRYING))

    assert all(told.returncode != 0 for told in done)
    assert sorted(between.seen) == sorted(RETRYING)
