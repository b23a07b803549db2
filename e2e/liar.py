"""``python -m e2e.liar URL DATA_DIR``: a native node that calibrates honestly, then lies.

The real node in all but one thing: it answers every job as if another text had been asked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from browser_node.executor import Executor
from browser_node.protocol import JobItem
from browser_node.runtimes import native, workshop

LIE = "Wash the wool by hand. Dry it flat. Never wring it. Keep it away from the heater."


class LyingExecutor(Executor):
    def add(self, items: Iterable[JobItem]) -> None:
        super().add(
            item
            if item.attempt_id.startswith("challenge-")
            else msgspec.structs.replace(item, input=LIE)
            for item in items
        )


if __name__ == "__main__":
    workshop.Executor = LyingExecutor  # type: ignore[attr-defined]
    url, data_dir = sys.argv[1:]
    sys.exit(native.run_node(url=url, data_dir=Path(data_dir), cpu_share=1.0, threads=1))
