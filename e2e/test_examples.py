"""The README and the examples, run as they are written, against a server with its CPU worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.server import ROOT, Server
from e2e.texts import SENTENCES

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
# Where the README says that the server is.
STANDARD_URL = "http://127.0.0.1:8000"


def run(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words,
        env={**os.environ, "ZEROGPU_URL": server.url, "ZEROGPU_API_KEY": server.api_key},
        cwd=ROOT,
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
