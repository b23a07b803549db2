"""Orders from the command line reach the nodes that are connected."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.domain.trust import Identity, RuntimeClass
from orchestrator.orders import Orders
from orchestrator.storage.nodes import NodeLog, key_digest
from orchestrator.storage.standings import StandingLog, carry_out, find_standing
from orchestrator.storage.writer import Writer
from tests.arena import arena
from tests.orchestrator.databases import database_in

BANNED = 4461


async def test_a_ban_from_the_command_line_closes_a_connected_node_and_a_release_lets_it_back(
    tmp_path: Path,
) -> None:
    database = database_in(tmp_path)
    writer = Writer(database, queue_max=1000, flush_s=0.001)
    try:
        async with arena(
            standings=StandingLog(writer),
            find_standing=lambda identity, runtime: find_standing(database, identity, runtime),
        ) as a:
            await a.join_worker()
            node = await a.join()
            identity = Identity(key_digest(node.public_key))
            NodeLog(writer).seen(identity, runtime="native/onnxruntime", now=time.time())
            assert writer.flush(5)
            orders = Orders(database, a.engine)

            carry_out(database, identity, "ban", who="command line", now=time.time())
            await orders.catch_up()
            await a.until(node.closed.is_set)
            again = a.node()
            again.key = node.key
            await again.join(a.url)
            await a.until(again.closed.is_set)
            carry_out(database, identity, "release", who="command line", now=time.time())
            await orders.catch_up()
            back = a.node()
            back.key = node.key
            await back.join(a.url)
            await a.until(back.calibrated.is_set)

            assert (node.close_code, again.close_code) == (BANNED, BANNED)
            assert writer.flush(5)
            kept = find_standing(database, identity, RuntimeClass("native/onnxruntime"))
            assert kept is not None
            assert not kept.banned
    finally:
        writer.close(5)
        database.close()


async def test_orders_given_before_the_server_started_are_not_given_again(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    writer = Writer(database, queue_max=1000, flush_s=0.001)
    try:
        async with arena() as a:
            await a.join_worker()
            node = await a.join()
            identity = Identity(key_digest(node.public_key))
            NodeLog(writer).seen(identity, runtime="native/onnxruntime", now=time.time())
            assert writer.flush(5)
            carry_out(database, identity, "ban", who="command line", now=time.time())
            orders = Orders(database, a.engine)

            await orders.catch_up()

            assert a.engine.fleet().totals.nodes == 1
    finally:
        writer.close(5)
        database.close()
