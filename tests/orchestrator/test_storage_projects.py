"""Projects' rules in a real database: what is allowed, kept, noted and read with a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.model import DEFAULT_RULES, ProjectId, Rules
from orchestrator.errors import OperatorError
from orchestrator.storage import audit_log, keys, projects
from orchestrator.storage.database import Database
from orchestrator.storage.schema import projects as table
from tests.orchestrator.databases import database_in


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


def change(database: Database, project_id: str, **changes: object) -> Rules | None:
    return projects.change_rules(
        database,
        ProjectId(project_id),
        projects.RuleChanges(**changes),  # type: ignore[typeddict-item]
        who="me",
        now=2.0,
    )


@pytest.fixture
def made(database: Database) -> keys.NewKey:
    return keys.create_key(database, keys.load_pepper(database), name="k", now=1.0)


def test_every_rule_is_a_column() -> None:
    assert set(Rules.__struct_fields__) <= set(table.columns.keys())


def test_rules_are_read_with_the_key(database: Database, made: keys.NewKey) -> None:
    digest = keys.load_pepper(database).digest(made.api_key.encode())
    before = keys.find_key(database, digest)
    strict = Rules("always", "trusted", "NA-US", 0.5, replays=False)

    assert change(database, made.project_id, **{
        name: getattr(strict, name) for name in Rules.__struct_fields__
    }) == strict  # fmt: skip

    assert before is not None
    assert before.rules == DEFAULT_RULES
    assert keys.find_key(database, digest) == keys.Principal(
        made.project_id, made.key_id, rules=strict
    )
    [project] = projects.list_projects(database)
    assert (project.project_id, project.rules) == (made.project_id, strict)


def test_rules_that_are_not_named_stay(database: Database, made: keys.NewKey) -> None:
    change(database, made.project_id, region="EU", weight=3.0)

    assert change(database, made.project_id, verify="always") == Rules(
        verify="always", region="EU", weight=3.0
    )


def test_what_changes_is_noted_and_what_does_not_is_not(
    database: Database, made: keys.NewKey
) -> None:
    change(database, made.project_id, region="EU", weight=1.0)
    change(database, made.project_id, region="EU")

    assert audit_log.list_actions(database) == [
        audit_log.OperatorAction(2.0, "me", "set_rules", made.project_id, "region: '' → 'EU'")
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("region", "eu"),
        ("region", "XX"),
        ("region", "EU-"),
        ("region", "EU-de"),
        ("region", "EU-DE-BE"),
        ("region", "EU\n"),
        ("weight", 0.0099),
        ("weight", 100.1),
        ("weight", -1.0),
        ("weight", float("nan")),
        ("weight", float("inf")),
        ("verify", "never"),
        ("placement", "edge"),
    ],
)
def test_a_value_that_is_not_allowed_changes_nothing(
    database: Database, made: keys.NewKey, name: str, value: object
) -> None:
    with pytest.raises(OperatorError, match=f"^{name} is .*; it must be "):
        change(database, made.project_id, **{"replays": False, name: value})

    [project] = projects.list_projects(database)
    assert project.rules == DEFAULT_RULES
    assert audit_log.list_actions(database) == []


@pytest.mark.parametrize("region", ["", "AF", "AN", "AS", "EU", "NA", "OC", "SA", "AS-JP"])
def test_every_continent_and_its_countries_are_regions(
    database: Database, made: keys.NewKey, region: str
) -> None:
    assert change(database, made.project_id, region=region) == Rules(region=region)


def test_a_project_that_is_not_there_is_none(database: Database) -> None:
    assert change(database, "nowhere", weight=2.0) is None
    assert audit_log.list_actions(database) == []
