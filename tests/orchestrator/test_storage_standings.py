"""Standings, the evidence against nodes and operators' orders in a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser_node.protocol import NodeId
from orchestrator.domain import trust
from orchestrator.domain.effects import Evidence
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from orchestrator.storage import audit_log, standings
from orchestrator.storage.database import Database
from orchestrator.storage.nodes import NodeLog
from orchestrator.storage.schema import standings as table
from orchestrator.storage.writer import Writer
from tests.orchestrator.databases import database_in

WASM = RuntimeClass("browser/wasm")
NATIVE = RuntimeClass("native/cpu")
ANNA = Identity("a" * 64)
BERT = Identity("b" * 64)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    made = Writer(database, queue_max=10_000, flush_s=0)
    yield made
    assert made.close(10)
    assert made.dropped == 0


def wrong(number: int) -> Evidence:
    return Evidence(NodeId(f"node_{number}"), "m", "audit", 0.25, f"reason {number}")


def test_a_standing_s_fields_are_the_table_s_first_columns_in_order() -> None:
    assert (*Standing.__struct_fields__, "updated_at") == tuple(table.columns.keys())


def test_a_standing_comes_back_as_it_was_kept_each_runtime_on_its_own(
    database: Database, writer: Writer
) -> None:
    log = standings.StandingLog(writer)
    whole = Standing(ANNA, WASM, 1, 2, 3, 4, 5, quarantined=True, reason="why")

    log.changed(Standing(ANNA, WASM, consecutive=9), now=1.0)
    log.changed(whole, now=2.0)
    log.changed(Standing(ANNA, NATIVE, agreed=7), now=3.0)
    assert writer.flush(10)

    assert standings.find_standing(database, ANNA, WASM) == whole
    assert standings.find_standing(database, ANNA, NATIVE) == Standing(ANNA, NATIVE, agreed=7)
    assert standings.find_standing(database, BERT, WASM) is None
    times = {r.standing.runtime: r.updated_at for r in standings.list_standings(database)}
    assert times == {WASM: 2.0, NATIVE: 3.0}


def test_a_ban_and_its_end_are_of_the_key_whatever_it_runs_in(
    database: Database, writer: Writer
) -> None:
    log = standings.StandingLog(writer)
    log.changed(Standing(ANNA, WASM, agreed=3), now=1.0)
    log.changed(Standing(ANNA, NATIVE, banned=True, reason="why"), now=2.0)
    log.changed(Standing(BERT, WASM, banned=True), now=2.0)
    assert writer.flush(10)
    banned = standings.find_standing(database, ANNA, WASM)
    elsewhere = standings.find_standing(database, ANNA, RuntimeClass("browser/webgpu"))

    log.changed(Standing(ANNA, WASM, agreed=3), now=3.0, released=True)
    assert writer.flush(10)

    assert banned == Standing(ANNA, WASM, agreed=3, banned=True, reason="why")
    assert elsewhere == Standing(ANNA, RuntimeClass("browser/webgpu"), banned=True, reason="why")
    assert standings.find_standing(database, ANNA, WASM) == Standing(ANNA, WASM, agreed=3)
    assert not any(
        record.standing.banned and record.standing.identity == ANNA
        for record in standings.list_standings(database)
    )
    assert standings.find_standing(database, BERT, NATIVE) == Standing(BERT, NATIVE, banned=True)


def test_a_later_change_of_a_live_record_does_not_change_what_was_appended(
    database: Database, writer: Writer
) -> None:
    live = Standing(ANNA, WASM)
    standings.StandingLog(writer).changed(live, now=1.0)
    live.agreed = 99
    assert writer.flush(10)

    assert standings.find_standing(database, ANNA, WASM) == Standing(ANNA, WASM)


def test_only_a_release_lifts_what_another_process_ordered(
    database: Database, writer: Writer
) -> None:
    log = standings.StandingLog(writer)
    log.changed(Standing(ANNA, WASM, agreed=1), now=1.0)
    assert writer.flush(10)
    standings.carry_out(database, ANNA, "ban", who="test", now=2.0)

    # The server still has the record from before in memory.
    log.changed(Standing(ANNA, WASM, agreed=2), now=3.0)
    assert writer.flush(10)
    kept = standings.find_standing(database, ANNA, WASM)
    assert kept is not None
    assert (kept.banned, kept.agreed, kept.reason) == (True, 2, "an operator's order")

    trust.release(kept)
    log.changed(kept, now=4.0, released=True)
    assert writer.flush(10)
    assert standings.find_standing(database, ANNA, WASM) == Standing(ANNA, WASM, agreed=2)


def test_lists_are_filtered_and_paged_the_latest_first(database: Database, writer: Writer) -> None:
    log = standings.StandingLog(writer)
    for number in range(6):
        log.changed(Standing(Identity(f"{number:064}"), WASM), now=float(number))
    log.changed(Standing(Identity(f"{1:064}"), WASM, quarantined=True, disagreed=2), now=11.0)
    log.changed(Standing(Identity(f"{2:064}"), WASM, banned=True), now=12.0)
    log.changed(Standing(Identity(f"{3:064}"), WASM, disagreed=1), now=13.0)
    assert writer.flush(10)

    def listed(only: standings.Only | None = None, limit: int = 100, offset: int = 0) -> list[int]:
        records = standings.list_standings(database, only=only, limit=limit, offset=offset)
        return [int(record.standing.identity) for record in records]

    assert listed() == [3, 2, 1, 5, 4, 0]
    assert listed(limit=2, offset=1) == [2, 1]
    assert listed("quarantined") == [1]
    assert listed("banned") == [2]
    assert listed("disagreed") == [3, 1]


def test_evidence_is_kept_with_the_standing_it_moved(database: Database, writer: Writer) -> None:
    standing = Standing(ANNA, WASM, disagreed=1, strikes=1)

    standings.StandingLog(writer).disagreed(standing, wrong(1), now=5.0)
    assert writer.flush(10)

    assert standings.find_standing(database, ANNA, WASM) == standing
    assert standings.list_disagreements(database, ANNA, WASM) == [
        standings.Disagreement(5.0, wrong(1))
    ]
    assert standings.list_disagreements(database, ANNA, NATIVE) == []


def test_only_the_latest_evidence_of_each_is_kept(database: Database, writer: Writer) -> None:
    log = standings.StandingLog(writer)
    others = [(ANNA, NATIVE), (BERT, WASM)]
    for identity, runtime in others:
        log.disagreed(Standing(identity, runtime), wrong(0), now=0.0)
    for number in range(1, 121):
        log.disagreed(Standing(ANNA, WASM), wrong(number), now=float(number))
    assert writer.flush(10)

    kept = standings.list_disagreements(database, ANNA, WASM, limit=1_000)
    assert [entry.evidence for entry in kept] == [wrong(n) for n in range(120, 70, -1)]
    assert len(standings.list_disagreements(database, ANNA, WASM, limit=3)) == 3
    for identity, runtime in others:
        assert len(standings.list_disagreements(database, identity, runtime)) == 1


def test_a_long_reason_is_cut_not_refused(database: Database, writer: Writer) -> None:
    standing = Standing(ANNA, WASM, quarantined=True, reason="x" * 10_000)
    evidence = Evidence(NodeId("n"), "m", "replay", -1.0, "y" * 10_000)

    standings.StandingLog(writer).disagreed(standing, evidence, now=1.0)
    assert writer.flush(10)

    kept = standings.find_standing(database, ANNA, WASM)
    assert kept is not None
    assert kept.reason == "x" * 400
    [entry] = standings.list_disagreements(database, ANNA, WASM)
    assert entry.evidence.reason == "y" * 400


def test_a_full_queue_drops_standings_instead_of_blocking(database: Database) -> None:
    writer = Writer(database, queue_max=4, flush_s=60)
    log = standings.StandingLog(writer)
    for number in range(10):
        log.disagreed(Standing(ANNA, WASM), wrong(number), now=1.0)
    audit_log.OperatorLog(writer).record("test", "ban", ANNA, "", 1.0)

    assert writer.dropped == 17
    assert writer.close(10)
    assert len(standings.list_disagreements(database, ANNA, WASM)) == 2


def test_an_order_holds_in_every_runtime_class_and_is_noted_once(
    database: Database, writer: Writer
) -> None:
    log = standings.StandingLog(writer)
    log.changed(Standing(ANNA, WASM, agreed=3), now=1.0)
    log.changed(Standing(ANNA, NATIVE), now=1.0)
    log.changed(Standing(BERT, WASM), now=1.0)
    assert writer.flush(10)

    now_are = standings.carry_out(database, ANNA, "quarantine", who="me", now=2.0)

    assert {r.standing.runtime: r.standing.quarantined for r in now_are} == {
        WASM: True,
        NATIVE: True,
    }
    quarantined = standings.list_standings(database, only="quarantined")
    assert {record.standing.identity for record in quarantined} == {ANNA}
    assert audit_log.list_actions(database) == [
        audit_log.OperatorAction(2.0, "me", "quarantine", ANNA, f"{WASM}, {NATIVE}")
    ]


def test_a_node_that_was_never_audited_can_be_banned_and_an_unknown_one_cannot(
    database: Database, writer: Writer
) -> None:
    NodeLog(writer).seen(ANNA, runtime=WASM, now=1.0)
    assert writer.flush(10)

    [banned] = standings.carry_out(database, ANNA, "ban", who="me", now=2.0)

    assert (banned.standing.runtime, banned.standing.banned) == (WASM, True)
    assert standings.find_standing(database, ANNA, WASM) == banned.standing
    assert standings.carry_out(database, BERT, "ban", who="me", now=2.0) == []
    assert standings.find_standing(database, BERT, WASM) is None
    assert len(audit_log.list_actions(database)) == 1


def test_identities_are_found_by_their_start_whether_audited_or_only_seen(
    database: Database, writer: Writer
) -> None:
    NodeLog(writer).seen(ANNA, runtime=WASM, now=1.0)
    standings.StandingLog(writer).changed(Standing(ANNA, WASM), now=1.0)
    standings.StandingLog(writer).changed(Standing(BERT, WASM), now=1.0)
    assert writer.flush(10)

    assert standings.find_identities(database, "aaaaaaaa") == [ANNA]
    assert standings.find_identities(database, "") == [ANNA, BERT]
    assert standings.find_identities(database, "_" * 8) == []


def test_orders_are_listed_newest_first(database: Database, writer: Writer) -> None:
    log = audit_log.OperatorLog(writer)
    for number in range(3):
        log.record("console", "drain", f"node_{number}", "z" * 2_000, float(number))
    assert writer.flush(10)

    latest = audit_log.list_actions(database, limit=2)

    assert [(action.at, action.target) for action in latest] == [(2.0, "node_2"), (1.0, "node_1")]
    assert latest[0].detail == "z" * 1_000
