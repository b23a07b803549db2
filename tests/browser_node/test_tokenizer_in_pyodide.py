"""The tokenizer where tabs run it: Pyodide, with the wheel, lock file and table they download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from browser_node.tokenizer import RustTokenizer
from tests.browser_node import built
from tests.browser_node.stress import stress_texts
from wasm_build import node


@pytest.mark.slow
def test_ids_in_pyodide_are_those_of_the_published_tokenizer(tmp_path: Path) -> None:
    index = json.loads((built.BUILD / "index.json").read_bytes())
    _, files = built.model("all-minilm-l6-v2")
    table, texts = tmp_path / "wordpiece.json", tmp_path / "texts.json"
    table.write_bytes(files["wordpiece.json"])
    some = stress_texts(2500)
    # Not as escapes: reading them would join two halves of a surrogate pair that stand apart.
    texts.write_bytes(json.dumps(some, ensure_ascii=False).encode(errors="surrogatepass"))

    printed = node.find().run(
        [
            Path(__file__).with_name("tokenizer_in_pyodide.mjs"),
            built.BUILD / "runtime" / index["runtime"]["hash"],
            table,
            texts,
        ],
        advice="Look at what Pyodide printed.",
    )

    rust = RustTokenizer(files["tokenizer.json"])
    assert json.loads(printed)["ids"] == [rust.encode(text, max_tokens=256) for text in some]
