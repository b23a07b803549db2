"""The commands beside a server, run as a person or a script runs them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import httpx2 as httpx
import pytest
from click.testing import CliRunner, Result

from orchestrator import commands
from orchestrator.errors import CatalogueError, OperatorError
from orchestrator.storage import console_sessions, keys
from orchestrator.storage.database import open_for_command
from tests.orchestrator.fakes import EMBEDDINGS, IAB_ALIAS, backend_in, serving, write_build

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against an empty data directory; exceptions come through."""
    monkeypatch.setenv("ZEROGPU_DATA_DIR", str(tmp_path / "data"))
    group = click.Group(commands={command.name or "": command for command in commands.COMMANDS})

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(group, words, catch_exceptions=False)

    return invoke


def test_a_key_is_printed_as_json_and_nothing_else(run: Run, tmp_path: Path) -> None:
    result = run("keys", "create", "--json")

    made = json.loads(result.stdout)
    assert set(made) == {"api_key", "project_id"}
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""
    database = open_for_command(tmp_path / "data")
    digest = keys.load_pepper(tmp_path / "data").digest(made["api_key"].encode())
    found = keys.find_key(database, digest)
    database.close()
    assert found is not None
    assert found.project_id == made["project_id"]


def test_keys_are_listed_masked_and_revoked_by_id(run: Run) -> None:
    made = run("keys", "create", "--name", "shop").stdout
    [api_key] = re.findall(r"zgpu-api-\S+", made)
    [key_id] = re.findall(r"key_\w+", made)

    listed = run("keys", "list").stdout
    assert key_id in listed
    assert "shop" in listed
    assert f"zgpu-api-…{api_key[-4:]}" in listed
    assert api_key not in listed

    assert "is revoked" in run("keys", "revoke", key_id).stdout
    [row] = json.loads(run("keys", "list", "--json").stdout)
    assert row["revoked_at"] is not None
    with pytest.raises(OperatorError, match="no key key_none"):
        run("keys", "revoke", "key_none")


def test_an_empty_list_says_what_to_do(run: Run) -> None:
    assert "zerogpu keys create" in run("keys", "list").stdout


def test_a_console_link_is_for_the_url_that_people_use(run: Run, tmp_path: Path) -> None:
    local = run("console-link").stdout.strip()
    public = run("console-link", "--public-url", "https://gpu.example/").stdout.strip()

    assert local.startswith("http://127.0.0.1:8000/console/sign-in?token=")
    assert public.startswith("https://gpu.example/console/sign-in?token=")
    database = open_for_command(tmp_path / "data")
    session = console_sessions.redeem_link(
        database, public.partition("token=")[2], now=0.0, session_lifetime_s=60
    )
    database.close()
    assert session is not None


def test_models_are_listed_from_the_build(run: Run, tmp_path: Path) -> None:
    build_dir = str(write_build(tmp_path / "build"))

    listed = run("models", "--build-dir", build_dir).stdout
    rows = json.loads(run("models", "--build-dir", build_dir, "--json").stdout)

    assert EMBEDDINGS in listed
    assert f"also {IAB_ALIAS}" in listed
    assert {row["id"]: row["max_tokens"] for row in rows}[EMBEDDINGS] == 16
    with pytest.raises(CatalogueError, match="nothing has been built"):
        run("models", "--build-dir", str(tmp_path))


async def test_a_key_made_on_the_command_line_works_at_once_in_the_running_server(
    run: Run, tmp_path: Path
) -> None:
    with backend_in(tmp_path) as backend:
        async with serving(backend) as url, httpx.AsyncClient(base_url=url) as client:
            result = await asyncio.to_thread(run, "keys", "create", "--json")
            made = json.loads(result.stdout)
            reply = await client.get("/v1/models", headers={"x-api-key": made["api_key"]})

    assert reply.status_code == 200
