"""Projects and API keys: made once, shown once, stored as HMAC-SHA256 under a pepper file.

Keys carry 256 random bits, so a fast digest is enough; the pepper makes a stolen database useless.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, Connection, insert, select, update

from orchestrator.domain.model import DEFAULT_RULES, KeyId, ProjectId, Rules
from orchestrator.errors import OperatorError
from orchestrator.storage.database import Database, usable
from orchestrator.storage.projects import RULE_COLUMNS, rules_of
from orchestrator.storage.schema import api_keys, projects

KEY_PREFIX: Final = "zgpu-api-"
DEFAULT_PROJECT_NAME: Final = "default"
_PEPPER_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Principal:
    """Whose request it is, and what its project demands of placement.

    A revoked key is still known: its refusals are its project's to see.
    """

    project_id: ProjectId
    key_id: KeyId
    revoked: bool = False
    rules: Rules = DEFAULT_RULES


@dataclass(frozen=True)
class NewKey:
    """A key at the only moment it can be read."""

    api_key: str
    key_id: KeyId
    project_id: ProjectId


@dataclass(frozen=True)
class ListedKey:
    """A key as a list may show it; ``hint`` is its last four characters."""

    key_id: KeyId
    project_id: ProjectId
    name: str
    hint: str
    created_at: float
    revoked_at: float | None


class Pepper:
    """The server's secret ingredient: without it, digests cannot be made or checked."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._keyed = hmac.new(secret, digestmod="sha256")

    def digest(self, api_key: bytes) -> bytes:
        """Return the HMAC-SHA256 that stands for ``api_key`` (32 bytes)."""
        # `hmac.digest` would let go of the interpreter, for longer than the digest takes.
        keyed = self._keyed.copy()
        keyed.update(api_key)
        return keyed.digest()


def load_pepper(database: Database) -> Pepper:
    """Read the pepper beside ``database``, making it while there is no key that lives.

    Losing the file voids every key; a new one in its place would do so without a word. Raises
    `OperatorError`.
    """
    data_dir = database.path.parent
    path = data_dir / "pepper"
    with usable(data_dir):
        # In this order: whoever made a key at the same moment had made the pepper before.
        needed = _has_living_key(database)
        if not path.exists():
            if needed:
                place = shlex.join(["--data-dir", str(data_dir)])
                raise OperatorError(
                    f"{path} is missing, and without it no API key of {database.path} can be"
                    " checked: restore it from the backup. To start over instead, revoke every key"
                    f" that `zerogpu keys list {place}` shows as active (`zerogpu keys revoke"
                    f" {place}`); after that a new pepper is made, and `zerogpu keys create"
                    f" {place}` makes new keys"
                )
            _make_pepper(path)
        secret = path.read_bytes()
    if len(secret) != _PEPPER_BYTES:
        raise OperatorError(
            f"{path} has {len(secret)} bytes instead of {_PEPPER_BYTES}: restore it from a backup;"
            " without it no API key can be checked"
        )
    return Pepper(secret)


def _has_living_key(database: Database) -> bool:
    query = select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None)).limit(1)
    with database.connect() as connection:
        return connection.execute(query).first() is not None


def _make_pepper(path: Path) -> None:
    # Written aside, then linked: of two processes at their first start one wins, and no reader ever
    # sees half a pepper.
    partial = path.with_name(f"pepper.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_PEPPER_BYTES))
        os.fsync(descriptor)
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        partial.unlink()


def create_key(database: Database, pepper: Pepper, *, name: str, now: float) -> NewKey:
    """Make a key of the default project, which is made too if there is none yet."""
    with database.begin() as connection:
        return _insert_key(connection, pepper, name=name, now=now)


def create_first_key(database: Database, pepper: Pepper, *, now: float) -> NewKey | None:
    """Make the default project and a key, or return None if there is a key already."""
    with database.begin() as connection:
        if connection.execute(select(api_keys.c.id).limit(1)).first() is not None:
            return None
        return _insert_key(connection, pepper, name="first", now=now)


def list_keys(database: Database) -> list[ListedKey]:
    """Return all keys, oldest first."""
    columns = api_keys.c
    query = select(
        columns.id,
        columns.project_id,
        columns.name,
        columns.hint,
        columns.created_at,
        columns.revoked_at,
    ).order_by(columns.created_at, columns.id)
    with database.connect() as connection:
        return [ListedKey(*row) for row in connection.execute(query)]


def revoke_key(database: Database, key_id: KeyId, *, now: float) -> bool:
    """End a key for good; returns whether there was such a key. Again changes nothing."""
    with database.begin() as connection:
        known = connection.execute(select(api_keys.c.id).where(api_keys.c.id == key_id)).first()
        connection.execute(
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .where(api_keys.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
    return known is not None


def find_key(database: Database, digest: bytes) -> Principal | None:
    """Return whose key has this digest, revoked or not; None if nobody's."""
    return _find(database, api_keys.c.digest == digest.hex())


def find_key_by_id(database: Database, key_id: str) -> Principal | None:
    """Return whose key this is, revoked or not; None if there is no such key."""
    return _find(database, api_keys.c.id == key_id)


def _find(database: Database, which: ColumnElement[bool]) -> Principal | None:
    query = (
        select(api_keys.c.project_id, api_keys.c.id, api_keys.c.revoked_at, *RULE_COLUMNS)
        .join(projects, projects.c.id == api_keys.c.project_id)
        .where(which)
    )
    with database.connect() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    revoked = row.revoked_at is not None
    return Principal(row.project_id, row.id, revoked=revoked, rules=rules_of(row))


def _insert_key(connection: Connection, pepper: Pepper, *, name: str, now: float) -> NewKey:
    api_key = KEY_PREFIX + secrets.token_urlsafe(32)
    key_id = KeyId(f"key_{secrets.token_hex(8)}")
    project_id = _default_project(connection, now=now)
    connection.execute(
        insert(api_keys).values(
            id=key_id,
            project_id=project_id,
            name=name,
            digest=pepper.digest(api_key.encode()).hex(),
            hint=api_key[-4:],
            created_at=now,
        )
    )
    return NewKey(api_key, key_id, project_id)


def _default_project(connection: Connection, *, now: float) -> ProjectId:
    row = connection.execute(
        select(projects.c.id).order_by(projects.c.created_at, projects.c.id).limit(1)
    ).first()
    if row is not None:
        return ProjectId(row.id)
    project_id = ProjectId(str(uuid.uuid4()))
    connection.execute(
        insert(projects).values(id=project_id, name=DEFAULT_PROJECT_NAME, created_at=now)
    )
    return project_id
