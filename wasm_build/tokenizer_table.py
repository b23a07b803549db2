"""Step: the table of the pure-Python tokenizer."""

from __future__ import annotations

from wasm_build import files, wordpiece
from wasm_build.work import Work


def run(work: Work) -> None:
    published = (work.inputs["backbone"] / "tokenizer.json").read_bytes()
    files.write(work.output / "wordpiece.json", wordpiece.build_table(published))
