"""The commands beside a server, run as a person or a script runs them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from orchestrator import commands
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from orchestrator.errors import CatalogueError, OperatorError
from orchestrator.storage import audit_log, console_sessions, keys, standings
from orchestrator.storage.database import open_for_command
from orchestrator.storage.writer import Writer
from tests.orchestrator.databases import database_in
from tests.orchestrator.fakes import (
    EMBEDDINGS,
    IAB_ALIAS,
    backend_in,
    client_of,
    serving,
    write_build,
)

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
    digest = keys.load_pepper(database).digest(made["api_key"].encode())
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
        async with serving(backend) as url, client_of(url) as client:
            result = await asyncio.to_thread(run, "keys", "create", "--json")
            made = json.loads(result.stdout)
            reply = await client.get("/v1/models", headers={"x-api-key": made["api_key"]})

    assert reply.status_code == 200


def test_a_project_s_rules_are_shown_changed_and_noted(run: Run, tmp_path: Path) -> None:
    assert "zerogpu keys create" in run("projects", "list").stdout
    project_id = json.loads(run("keys", "create", "--json").stdout)["project_id"]
    before = run("projects", "list").stdout
    assert "verify adaptive  placement any  region anywhere  weight 1  replays yes" in before

    changed = run(
        "projects", "set", project_id, "--verify", "always", "--placement", "trusted",
        "--region", "EU-DE", "--weight", "2.5", "--no-replays",
    )  # fmt: skip
    again = run("projects", "set", project_id, "--region", "", "--replays")

    assert "placement trusted  region EU-DE  weight 2.5  replays no" in changed.stdout
    assert "placement trusted  region anywhere  weight 2.5  replays yes" in again.stdout
    [row] = json.loads(run("projects", "list", "--json").stdout)
    assert {name: row[name] for name in ("verify", "placement", "region", "weight", "replays")} == {
        "verify": "always", "placement": "trusted", "region": "", "weight": 2.5, "replays": True,
    }  # fmt: skip
    database = open_for_command(tmp_path / "data")
    latest, first = audit_log.list_actions(database)
    database.close()
    assert (latest.who, latest.action, latest.target) == ("command line", "set_rules", project_id)
    assert latest.detail == "region: 'EU-DE' → '', replays: False → True"
    assert "weight: 1.0 → 2.5" in first.detail


def test_a_rule_that_is_not_allowed_is_refused_in_words(run: Run) -> None:
    project_id = json.loads(run("keys", "create", "--json").stdout)["project_id"]

    for words, said in (
        (("--region", "Europe"), "region is 'Europe'; it must be a continent"),
        (("--weight", "0"), "weight is 0; it must be from 0.01 to 100"),
        ((), "nothing to change"),
    ):
        with pytest.raises(OperatorError, match=said):
            run("projects", "set", project_id, *words)
    with pytest.raises(OperatorError, match="no project elsewhere"):
        run("projects", "set", "elsewhere", "--weight", "2")
    assert (
        "is not one of 'adaptive', 'always'"
        in run("projects", "set", project_id, "--verify", "maybe").stderr
    )


def keep_standings(folder: Path, *kept: Standing) -> None:
    database = database_in(folder)
    writer = Writer(database, queue_max=100, flush_s=0)
    for number, standing in enumerate(kept):
        standings.StandingLog(writer).changed(standing, now=float(number))
    assert writer.close(10)
    database.close()


def test_nodes_are_listed_and_ordered_about_by_the_start_of_their_identity(
    run: Run, tmp_path: Path
) -> None:
    assert "no such nodes" in run("nodes", "list").stdout
    wasm = RuntimeClass("browser/wasm")
    liar, honest = Identity("ab" * 32), Identity("cd" * 32)
    keep_standings(
        tmp_path / "data",
        Standing(liar, wasm, disagreed=2, strikes=2, quarantined=True, reason="cosine 0.1"),
        Standing(honest, wasm, consecutive=20, real=9, agreed=20),
        Standing(Identity("ef" * 32), wasm, consecutive=1, agreed=1),
    )

    listed = run("nodes", "list").stdout
    assert listed.index(honest[:16]) < listed.index(liar[:16])
    assert "quarantined  agreed 0  disagreed 2" in listed
    assert "trusted  agreed 20" in listed
    assert "newcomer  agreed 1" in listed
    assert honest[:16] not in run("nodes", "list", "--only", "disagreed").stdout

    released = run("nodes", "release", liar[:8].upper()).stdout
    assert f"{liar} is released." in released
    assert "takes it up within two seconds" in released
    run("nodes", "ban", honest)
    run("nodes", "quarantine", honest[:12])
    rows = {row["identity"]: row for row in json.loads(run("nodes", "list", "--json").stdout)}
    assert (rows[liar]["quarantined"], rows[liar]["disagreed"]) == (False, 2)
    assert (rows[honest]["banned"], rows[honest]["quarantined"]) == (True, True)
    database = open_for_command(tmp_path / "data")
    noted = [(one.who, one.action, one.target) for one in audit_log.list_actions(database)]
    database.close()
    assert noted == [
        ("command line", "quarantine", honest),
        ("command line", "ban", honest),
        ("command line", "release", liar),
    ]


def test_an_identity_that_is_not_one_node_s_is_refused_in_words(run: Run, tmp_path: Path) -> None:
    wasm = RuntimeClass("browser/wasm")
    keep_standings(
        tmp_path / "data",
        Standing(Identity("ab" * 31 + "00"), wasm),
        Standing(Identity("ab" * 31 + "01"), wasm),
    )

    for prefix, said in (
        ("abab", "at least the first 8 hex digits"),
        ("abababa_", "does not name a node"),
        ("ab" * 8, "more than one node's identity begins with"),
        ("cd" * 8, "none ever came here"),
    ):
        with pytest.raises(OperatorError, match=said):
            run("nodes", "ban", prefix)
