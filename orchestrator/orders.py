"""Orders given on the command line, taken up by the server that runs on the same data.

A command writes what it does to a node's record, and a line in the audit log in the same
transaction; the server reads the log every two seconds and does the same to who is connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal, cast

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.domain.trust import Identity, RuntimeClass
from orchestrator.engine import Engine
from orchestrator.storage.audit_log import COMMAND_LINE, actions_after, newest_action
from orchestrator.storage.database import Database
from orchestrator.storage.standings import find_standing

INTERVAL_S: Final = 2.0
_ORDERS: Final = frozenset({"quarantine", "ban", "release"})

log = structlog.get_logger("orders")


class Orders:
    """Follows the audit log from where it ends when this is made."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._engine = engine
        self._sleep = sleep
        self._seen = newest_action(database)

    async def follow(self) -> None:
        """Carry out what is ordered, until cancelled; waits out a database that cannot be read."""
        while True:
            await self._sleep(INTERVAL_S)
            try:
                await self.catch_up()
            except SQLAlchemyError as error:
                log.warning("the audit log could not be read", error=type(error).__name__)

    async def catch_up(self) -> None:
        """Carry out the orders that are new."""
        for number, action in await asyncio.to_thread(actions_after, self._database, self._seen):
            self._seen = number
            if action.who != COMMAND_LINE or action.action not in _ORDERS:
                continue
            for runtime in filter(None, action.detail.split(", ")):
                await self._order(Identity(action.target), RuntimeClass(runtime), action.action)

    async def _order(self, identity: Identity, runtime: RuntimeClass, order: str) -> None:
        standing = await asyncio.to_thread(find_standing, self._database, identity, runtime)
        named = cast(Literal["quarantine", "ban", "release"], order)
        known = self._engine.order_standing(identity, runtime, named, standing)
        log.info("order from the command line", order=order, identity=identity[:12], known=known)
