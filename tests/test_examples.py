"""What the examples say of mistakes; ``e2e`` runs them against a whole server."""

from __future__ import annotations

import asyncio
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.orchestrator.fakes import IAB, backend_in, client_of, serving

ROOT = Path(__file__).parent.parent


def test_embedding_without_a_file_says_how_to_name_one() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/batch_embeddings.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("Name the file whose lines to embed: python examples/")
    assert done.stderr.count("\n") == 1


def of_csv(
    folder: Path, text: str, *, encoding: str = "utf-8", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the example on a table; where ``env`` names no server, there is none."""
    (folder / "texts.csv").write_text(text, encoding=encoding)
    return subprocess.run(
        [sys.executable, str(ROOT / "examples/batch_csv.py"), "texts.csv", "answers.csv"],
        env={
            **os.environ,
            "ZEROGPU_URL": "http://127.0.0.1:9",
            "ZEROGPU_API_KEY": "zgpu-api-none",
            "ZEROGPU_MODEL": IAB,
            "POLL_S": "0.05",
            **env,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_id_that_is_there_twice_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    done = of_csv(tmp_path, "id,text\na,one\nb,two\na,three\n")

    assert done.returncode == 1
    assert done.stderr.startswith("The id 'a' is there twice")
    assert done.stderr.count("\n") == 1


def test_a_table_without_the_columns_is_told_which_it_must_have(tmp_path: Path) -> None:
    done = of_csv(tmp_path, "id;text\na;one\n")

    assert done.returncode == 1
    assert done.stderr == "texts.csv must begin with a line of columns, id and text among them.\n"


async def test_a_table_of_excel_s_is_answered_and_it_is_said_where_failures_are_told(
    tmp_path: Path,
) -> None:
    too_long = "the cat " * 50
    with backend_in(tmp_path) as backend:
        api_key = backend.new_key().api_key
        headers = {"x-api-key": api_key}
        async with serving(backend) as url, client_of(url, headers=headers) as client:

            async def run(*rows: str) -> tuple[subprocess.CompletedProcess[str], str]:
                """Return what was said, and the lines of the error file that it names."""
                done = await asyncio.to_thread(
                    of_csv,
                    tmp_path,
                    "\n".join(["id,text", *rows]),
                    encoding="utf-8-sig",
                    ZEROGPU_URL=url,
                    ZEROGPU_API_KEY=api_key,
                )
                [error_file] = re.findall(r"file-\w+", done.stdout + done.stderr)
                told = await client.get(f"/v1/files/{error_file}/content")
                return done, told.text

            some, errors_of_some = await run("a,the cat", f"b,{too_long}")
            none, errors_of_none = await run(f"a,{too_long}", f"b,{too_long}")

    assert some.returncode == 0, some.stderr
    assert some.stdout.startswith("1 of 2 answers in answers.csv\n")
    assert errors_of_some.count("context_length_exceeded") == 1
    with (tmp_path / "answers.csv").open(newline="") as opened:
        assert [(row["id"], bool(row["answer"])) for row in csv.DictReader(opened)] == [
            ("a", True),
            ("b", False),
        ]
    assert none.returncode == 1
    assert "ended with the status completed, without answers. Why, line by line" in none.stderr
    assert errors_of_none.count("context_length_exceeded") == 2
