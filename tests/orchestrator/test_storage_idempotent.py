"""Answers that outlive a restart, committed with what they stand for, in a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import Conflict
from orchestrator.storage.database import Database
from orchestrator.storage.idempotent import IdempotentAnswers, Scope, Settled
from orchestrator.storage.schema import batches, idempotent_answers
from tests.orchestrator.databases import database_in

TTL_S = 100.0
ASKED, ELSE = b"\x01" * 32, b"\x02" * 32
SCOPE = Scope(ProjectId("p"), KeyId("k"), "/v1/files", "one")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def answers(database: Database) -> IdempotentAnswers:
    return IdempotentAnswers(database, ttl_s=TTL_S)


def batch(name: str) -> Callable[[Connection], bytes]:
    """Return what writes one row that can be counted afterwards."""

    def write(connection: Connection) -> bytes:
        connection.execute(
            insert(batches).values(
                id=name,
                project_id="p",
                key_id="k",
                endpoint="/v1/embeddings",
                input_file_id="f",
                completion_window="24h",
                status="in_progress",
                created_at=0.0,
                expires_at=1.0,
            )
        )
        return name.encode()

    return write


def settle(
    answers: IdempotentAnswers,
    name: str,
    *,
    scope: Scope | None = SCOPE,
    digest: bytes = ASKED,
    now: float = 0.0,
) -> Settled:
    return answers.settle(scope, digest, status=200, now=now, write=batch(name))


def written(database: Database) -> list[str]:
    with database.connect() as connection:
        return sorted(connection.execute(batches.select()).scalars())


def kept(database: Database) -> int:
    with database.connect() as connection:
        return len(connection.execute(idempotent_answers.select()).all())


def test_the_second_request_gets_the_first_ones_answer_and_writes_nothing(
    database: Database, answers: IdempotentAnswers
) -> None:
    first = settle(answers, "a")
    second = settle(answers, "b")

    assert first == Settled(200, b"a")
    assert second == Settled(200, b"a", replayed=True)
    assert answers.find(SCOPE, ASKED, now=1.0) == second
    assert written(database) == ["a"]


def test_an_answer_is_found_after_a_restart(tmp_path: Path) -> None:
    before = database_in(tmp_path)
    settle(IdempotentAnswers(before, ttl_s=TTL_S), "a")
    before.close()
    after = database_in(tmp_path)

    found = IdempotentAnswers(after, ttl_s=TTL_S).find(SCOPE, ASKED, now=TTL_S - 1)
    after.close()

    assert found == Settled(200, b"a", replayed=True)


def test_another_request_under_the_same_key_is_a_conflict_and_writes_nothing(
    database: Database, answers: IdempotentAnswers
) -> None:
    settle(answers, "a")

    with pytest.raises(Conflict) as looked_up:
        answers.find(SCOPE, ELSE, now=1.0)
    with pytest.raises(Conflict) as settled:
        settle(answers, "b", digest=ELSE)
    assert looked_up.value.code == settled.value.code == "idempotency_key_reused"
    assert written(database) == ["a"]


@pytest.mark.parametrize(
    "other",
    [
        SCOPE._replace(project_id=ProjectId("p2")),
        SCOPE._replace(key_id=KeyId("k2")),
        SCOPE._replace(path="/v1/batches"),
        SCOPE._replace(key="two"),
    ],
)
def test_a_key_stands_for_its_project_api_key_and_path_only(
    database: Database, answers: IdempotentAnswers, other: Scope
) -> None:
    settle(answers, "a")

    assert answers.find(other, ELSE, now=1.0) is None
    assert settle(answers, "b", scope=other, digest=ELSE) == Settled(200, b"b")
    assert written(database) == ["a", "b"]


def test_an_answer_ends_with_its_time_and_its_row_goes_with_the_next(
    database: Database, answers: IdempotentAnswers
) -> None:
    settle(answers, "a")
    settle(answers, "b", scope=SCOPE._replace(key="two"), now=1.0)

    assert answers.find(SCOPE, ASKED, now=TTL_S) is None
    assert settle(answers, "c", now=TTL_S) == Settled(200, b"c")
    assert kept(database) == 2


def test_an_answer_that_is_forgotten_is_not_one_that_was_made_since(
    database: Database, answers: IdempotentAnswers
) -> None:
    settle(answers, "a")
    answers.forget(SCOPE, body=b"a")
    assert settle(answers, "b") == Settled(200, b"b")

    # Whoever else found out about the first is late.
    answers.forget(SCOPE, body=b"a")

    assert settle(answers, "c") == Settled(200, b"b", replayed=True)
    assert written(database) == ["a", "b"]


def test_without_a_key_every_request_writes(database: Database, answers: IdempotentAnswers) -> None:
    settle(answers, "a", scope=None)
    settle(answers, "b", scope=None)

    assert written(database) == ["a", "b"]
    assert kept(database) == 0


def test_what_cannot_be_written_leaves_no_answer(
    database: Database, answers: IdempotentAnswers
) -> None:
    def write_and_fail(connection: Connection) -> bytes:
        batch("a")(connection)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        answers.settle(SCOPE, ASKED, status=200, now=0.0, write=write_and_fail)

    assert answers.find(SCOPE, ASKED, now=0.0) is None
    assert written(database) == []
    assert settle(answers, "b") == Settled(200, b"b")


def test_of_requests_that_race_one_writes_and_all_get_its_answer(
    database: Database, answers: IdempotentAnswers
) -> None:
    together = threading.Barrier(8)
    got: list[Settled] = []

    def ask(name: str) -> None:
        together.wait()
        got.append(settle(answers, name))

    threads = [threading.Thread(target=ask, args=(f"batch_{at}",)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    [winner] = written(database)
    assert {one.body.decode() for one in got} == {winner}
    assert [one.replayed for one in got].count(False) == 1
