"""A process that runs batches of a data directory, to be killed at any moment.

    python -m tests.orchestrator.batches.killed FOLDER

Makes a batch of the file ``file-1`` if there is no batch yet. Writes a letter a hundred lines that
were answered, and ends when all batches have.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from orchestrator.batches.lines import Line
from orchestrator.batches.outcomes import LineOutcome
from orchestrator.batches.service import NewBatch
from orchestrator.errors import BadRequest
from orchestrator.storage.batches import ENDED, BatchRow
from tests.orchestrator.batches.stage import CHAT, MINE, OK, Answer, Model, staged

LINES = 8_000


def says(custom_id: str) -> Answer:
    """Refuse every seventh line."""
    return BadRequest("Odd.") if int(custom_id) % 7 == 0 else OK


class Speaking(Model):
    async def __call__(self, batch: BatchRow, line: Line) -> LineOutcome:
        outcome = await super().__call__(batch, line)
        if len(self.asked) % 100 == 0:
            sys.stdout.write(".")
            sys.stdout.flush()
        return outcome


async def main(folder: Path) -> None:
    async with staged(folder, model=Speaking(says)) as stage:
        sys.stdout.write("s")
        sys.stdout.flush()
        rows, _ = await stage.service.page("p1", after=None, limit=10)
        if not rows:
            await stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
            rows, _ = await stage.service.page("p1", after=None, limit=10)
        for row in rows:
            await stage.until(row, lambda now: now.status in ENDED)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
