"""The official `openai` npm package, unmodified, run by Node: what `sdk.mjs` claims holds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.orchestrator.fakes import EMBEDDINGS, IAB, SUMMARY
from tests.orchestrator.shop import open_shop
from wasm_build import node

INSTALLED = Path(__file__).resolve().parents[2] / "build" / "cache" / "steps" / "npm"
SCRIPT = Path(__file__).with_name("sdk.mjs")

pytestmark = pytest.mark.slow


@pytest.fixture
def package() -> Path:
    found = sorted(INSTALLED.glob("*/node_modules/openai/index.mjs"))
    if not found:
        pytest.fail("the npm packages are not installed: run `make setup` first")
    return found[-1]


def test_the_npm_package_runs_every_operation(package: Path, tmp_path: Path) -> None:
    program = node.on_path() or node.packaged()
    assert program is not None, "make setup has installed its packages with a Node.js"
    with open_shop(tmp_path, batch_under_way=2) as shop:
        done = subprocess.run(
            [program.node, SCRIPT],
            env={
                **os.environ,
                "BASE_URL": f"{shop.url}/v1",
                "API_KEY": shop.key.api_key,
                "PROJECT_ID": shop.key.project_id,
                "OPENAI_PACKAGE": str(package),
                "SUMMARY": SUMMARY,
                "EMBEDDINGS": EMBEDDINGS,
                "IAB": IAB,
            },
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 10
    assert {claim: wrong for claim, wrong in found.items() if wrong is not None} == {}
