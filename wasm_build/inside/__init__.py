"""Scripts that run inside Pyodide under Node, never in the host's Python (`wasm_build.node`)."""
