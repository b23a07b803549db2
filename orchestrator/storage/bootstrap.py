"""The first start of a data directory: what is made once and shown once."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.model import ProjectId
from orchestrator.storage import console_sessions, keys
from orchestrator.storage.database import Database


@dataclass(frozen=True)
class FirstStart:
    """The only time these can be read."""

    project_id: ProjectId
    api_key: str
    console_token: str


def bootstrap(
    database: Database, pepper: keys.Pepper, *, now: float, link_lifetime_s: float
) -> FirstStart | None:
    """Make the default project, its first key and a sign-in link; None if there is a key."""
    key = keys.create_first_key(database, pepper, now=now)
    if key is None:
        return None
    token = console_sessions.create_link(database, now=now, lifetime_s=link_lifetime_s)
    return FirstStart(key.project_id, key.api_key, token)
