"""What the examples do that needs no server; ``e2e`` runs them against one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_embedding_without_a_file_says_how_to_name_one() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/batch_embeddings.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("Name the file whose lines to embed: python examples/")
    assert done.stderr.count("\n") == 1
