"""Keys, sign-in links and node records in a real database."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.model import KeyId
from orchestrator.errors import OperatorError
from orchestrator.storage import console_sessions, keys, nodes
from orchestrator.storage.bootstrap import bootstrap
from orchestrator.storage.database import Database
from orchestrator.storage.writer import Writer
from tests.orchestrator.databases import database_in


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def pepper(database: Database) -> keys.Pepper:
    return keys.load_pepper(database)


def everything_stored(database: Database) -> str:
    with database.connect() as connection:
        rows = [
            connection.exec_driver_sql(f"SELECT * FROM {table}").all()
            for table in ("api_keys", "sign_in_links", "console_sessions")
        ]
    return repr(rows)


def test_a_key_is_found_by_its_digest_and_stored_by_nothing_else(
    database: Database, pepper: keys.Pepper
) -> None:
    made = keys.create_key(database, pepper, name="mine", now=1.0)

    assert made.api_key.startswith("zgpu-api-")
    assert len(made.api_key) > 50
    found = keys.find_key(database, pepper.digest(made.api_key.encode()))
    assert found == keys.Principal(made.project_id, made.key_id)
    assert made.api_key not in everything_stored(database)
    assert keys.find_key(database, pepper.digest(b"zgpu-api-another")) is None


def test_the_digest_is_hmac_sha256_under_the_pepper(tmp_path: Path, pepper: keys.Pepper) -> None:
    expected = hmac.digest((tmp_path / "pepper").read_bytes(), b"a key", "sha256")

    assert pepper.digest(b"a key") == expected


def test_the_pepper_is_made_once_and_is_for_its_owner_only(
    database: Database, tmp_path: Path
) -> None:
    first = keys.load_pepper(database)
    again = keys.load_pepper(database)

    assert first.secret == again.secret
    assert (tmp_path / "pepper").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("pepper*")] == ["pepper"]


def test_a_damaged_pepper_is_refused_rather_than_used(database: Database, tmp_path: Path) -> None:
    (tmp_path / "pepper").write_bytes(b"short")

    with pytest.raises(OperatorError, match="has 5 bytes instead of 32"):
        keys.load_pepper(database)


def test_a_lost_pepper_is_not_replaced_while_there_are_keys_that_it_would_void(
    database: Database, pepper: keys.Pepper, tmp_path: Path
) -> None:
    made = keys.create_key(database, pepper, name="mine", now=1.0)
    (tmp_path / "pepper").rename(tmp_path / "elsewhere")

    with pytest.raises(OperatorError, match=r"is missing.*restore it from the backup") as told:
        keys.load_pepper(database)

    assert str(tmp_path / "pepper") in str(told.value)
    assert not (tmp_path / "pepper").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "pepper")
    again = keys.load_pepper(database)
    assert keys.find_key(database, again.digest(made.api_key.encode())) is not None


def test_one_starts_over_without_the_pepper_by_revoking_every_key(
    database: Database, pepper: keys.Pepper, tmp_path: Path
) -> None:
    lost = [keys.create_key(database, pepper, name=name, now=1.0) for name in ("a", "b")]
    (tmp_path / "pepper").unlink()

    assert keys.revoke_key(database, lost[0].key_id, now=2.0)
    with pytest.raises(OperatorError, match="zerogpu keys revoke"):
        keys.load_pepper(database)
    assert keys.revoke_key(database, lost[1].key_id, now=2.0)

    anew = keys.load_pepper(database)
    made = keys.create_key(database, anew, name="c", now=3.0)
    assert anew.secret != pepper.secret
    assert keys.find_key(database, anew.digest(made.api_key.encode())) is not None


def test_all_keys_belong_to_one_default_project(database: Database, pepper: keys.Pepper) -> None:
    first = keys.create_key(database, pepper, name="a", now=1.0)
    second = keys.create_key(database, pepper, name="b", now=2.0)

    assert first.project_id == second.project_id
    assert [key.name for key in keys.list_keys(database)] == ["a", "b"]
    assert keys.list_keys(database)[0].hint == first.api_key[-4:]


def test_a_revoked_key_stays_known_and_keeps_the_time_of_its_end(
    database: Database, pepper: keys.Pepper
) -> None:
    made = keys.create_key(database, pepper, name="mine", now=1.0)

    assert keys.revoke_key(database, made.key_id, now=5.0)
    assert keys.revoke_key(database, made.key_id, now=9.0)
    assert not keys.revoke_key(database, KeyId("key_none"), now=9.0)

    found = keys.find_key(database, pepper.digest(made.api_key.encode()))
    assert found is not None
    assert found.revoked
    assert keys.list_keys(database)[0].revoked_at == 5.0


def test_the_first_start_is_told_its_secrets_once(database: Database, pepper: keys.Pepper) -> None:
    first = bootstrap(database, pepper, now=1.0, link_lifetime_s=60)
    again = bootstrap(database, pepper, now=2.0, link_lifetime_s=60)

    assert first is not None
    assert again is None
    assert keys.find_key(database, pepper.digest(first.api_key.encode())) is not None
    session = console_sessions.redeem_link(
        database, first.console_token, now=2.0, session_lifetime_s=60
    )
    assert session is not None


def test_a_link_signs_in_once_and_only_in_its_time(database: Database) -> None:
    def redeem(token: str, now: float) -> str | None:
        return console_sessions.redeem_link(database, token, now=now, session_lifetime_s=100)

    link = console_sessions.create_link(database, now=0.0, lifetime_s=10)
    late = console_sessions.create_link(database, now=0.0, lifetime_s=10)

    session = redeem(link, now=5.0)
    assert session is not None
    assert redeem(link, now=6.0) is None
    assert redeem(late, now=10.0) is None
    assert redeem("no-such-link", now=5.0) is None
    stored = everything_stored(database)
    assert link not in stored
    assert session not in stored


def test_a_session_holds_until_it_ends_or_is_ended(database: Database) -> None:
    def signed_in() -> str:
        link = console_sessions.create_link(database, now=0.0, lifetime_s=10)
        session = console_sessions.redeem_link(database, link, now=0.0, session_lifetime_s=100)
        assert session is not None
        return session

    first, second = signed_in(), signed_in()

    assert console_sessions.find_session(database, first, now=99.0) is not None
    assert console_sessions.find_session(database, first, now=100.0) is None
    assert console_sessions.find_session(database, "unknown \ud800", now=1.0) is None
    console_sessions.end_session(database, second)
    assert console_sessions.find_session(database, second, now=1.0) is None


def test_a_node_is_known_by_its_key_and_its_jobs_add_up(database: Database) -> None:
    writer = Writer(database, queue_max=100, flush_s=0)
    log = nodes.NodeLog(writer)
    digest = nodes.key_digest(b"public key")

    log.seen(digest, runtime="browser/wasm", now=10.0)
    log.seen(digest, runtime="browser/webgpu", now=30.0, jobs=3)
    log.seen(digest, runtime="browser/webgpu", now=20.0, jobs=4)
    assert writer.close(10)

    assert nodes.find_node(database, digest) == nodes.NodeRecord(
        key_digest=digest, runtime="browser/webgpu", first_seen=10.0, last_seen=30.0, jobs=7
    )
    assert nodes.find_node(database, "0" * 64) is None
