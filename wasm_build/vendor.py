"""Step: the pages' libraries, font and icons, bundled from npm."""

from __future__ import annotations

import tempfile
from pathlib import Path

from wasm_build import bundle, node
from wasm_build.compress import Compressor
from wasm_build.work import Work


def run(work: Work) -> None:
    with tempfile.TemporaryDirectory() as folder:
        node.find().run(
            [
                work.repository / "wasm_build" / "vendor.mjs",
                work.inputs["npm"] / "node_modules",
                folder,
            ],
            advice="Read wasm_build/vendor.mjs: a new version may have moved a file or an icon.",
        )
        bundle.collect(
            {path.name: path for path in Path(folder).iterdir()},
            work.output,
            Compressor(work.cache / "brotli"),
            progress=work.progress,
        )
