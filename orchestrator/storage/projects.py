"""Projects and the rules they set for the placement of their jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypedDict, get_args

import msgspec
from sqlalchemy import ColumnElement, Row, select, update

from orchestrator.domain.model import Placement, ProjectId, Rules, Verify
from orchestrator.errors import OperatorError
from orchestrator.storage import audit_log
from orchestrator.storage.database import Database
from orchestrator.storage.schema import projects

CONTINENTS: Final = ("AF", "AN", "AS", "EU", "NA", "OC", "SA")
WEIGHT_MIN: Final = 0.01
WEIGHT_MAX: Final = 100.0
_REGION: Final = re.compile(rf"(?:{'|'.join(CONTINENTS)})(?:-[A-Z]{{2}})?")

RULE_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = tuple(
    projects.c[name] for name in Rules.__struct_fields__
)


class RuleChanges(TypedDict, total=False):
    """Which of `Rules` are to be others."""

    verify: Verify
    placement: Placement
    region: str
    weight: float
    replays: bool


@dataclass(frozen=True)
class Project:
    """What requests are logged under, and what it demands of placement."""

    project_id: ProjectId
    name: str
    created_at: float
    rules: Rules


def rules_of(row: Row[Any]) -> Rules:
    """Return the rules in a row that has `RULE_COLUMNS`."""
    return Rules(**{name: row._mapping[name] for name in Rules.__struct_fields__})


def list_projects(database: Database) -> list[Project]:
    """Return all projects, oldest first."""
    query = select(projects).order_by(projects.c.created_at, projects.c.id)
    with database.connect() as connection:
        return [
            Project(ProjectId(row.id), row.name, row.created_at, rules_of(row))
            for row in connection.execute(query)
        ]


def change_rules(
    database: Database, project_id: ProjectId, changes: RuleChanges, *, who: str, now: float
) -> Rules | None:
    """Change some rules of a project, and note that in the audit log if they were others.

    A running server acts by them once it looks the project's keys up again. Returns the rules as
    they are now, or None if there is no such project; raises `OperatorError` for a value that is
    not allowed.
    """
    with database.begin() as connection:
        row = connection.execute(select(*RULE_COLUMNS).where(projects.c.id == project_id)).first()
        if row is None:
            return None
        before = rules_of(row)
        after = msgspec.structs.replace(before, **changes)
        _check(after)
        changed = [
            f"{name}: {old!r} → {new!r}"
            for name in Rules.__struct_fields__
            if (old := getattr(before, name)) != (new := getattr(after, name))
        ]
        if changed:
            connection.execute(
                update(projects)
                .where(projects.c.id == project_id)
                .values(msgspec.structs.asdict(after))
            )
            audit_log.note(connection, who, "set_rules", project_id, ", ".join(changed), now=now)
    return after


def _check(rules: Rules) -> None:
    for name, value, allowed in (
        ("verify", rules.verify, get_args(Verify)),
        ("placement", rules.placement, get_args(Placement)),
    ):
        if value not in allowed:
            raise OperatorError(f"{name} is {value!r}; it must be {' or '.join(allowed)}")
    if rules.region and not _REGION.fullmatch(rules.region):
        raise OperatorError(
            f"region is {rules.region!r}; it must be a continent ({', '.join(CONTINENTS)}), a"
            " continent and a country as in EU-DE, or empty for anywhere"
        )
    # Written so that a NaN fails it.
    if not WEIGHT_MIN <= rules.weight <= WEIGHT_MAX:
        raise OperatorError(
            f"weight is {rules.weight:g}; it must be from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}"
        )
