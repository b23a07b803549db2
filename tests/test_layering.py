"""The import rule of the architecture, and the purity of what must stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each layer of the orchestrator may import of the others; same-layer imports are fine.
ORCHESTRATOR_LAYERS = [
    {"settings", "errors", "clock", "logs", "unbroken", "compiled"},
    {"domain"},
    {"storage", "bus"},
    {"engine", "fleet_view", "court"},
    {"batches"},
    {"api", "console", "transport", "orders"},
    {"app"},
    {"__main__", "commands"},
]
NODE_LAYERS = [
    {"protocol"},
    {"models", "session", "session_events", "attempts", "backoff", "commitments", "politeness"},
    {"tokenizer", "agreement", "evidence", "pipelines"},
    {"work"},
    {"executor"},
    {"runtimes"},
]
ALLOWED_OF_NODE = {"protocol", "models", "tokenizer", "agreement"}
# Whether a summary was cut is told by the sentences that its pipeline found.
ALLOWED_OF_PIPELINES = {"browser_node.pipelines.summary.is_cut"}
PURE = [
    "browser_node/protocol.py",
    "browser_node/session.py",
    "browser_node/session_events.py",
    "browser_node/attempts.py",
    "browser_node/backoff.py",
    "browser_node/commitments.py",
    "browser_node/politeness.py",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "orchestrator/domain").glob("*.py")),
]
IMPURE_MODULES = {
    "asyncio", "time", "datetime", "random", "secrets", "uuid", "os", "io", "socket", "ssl",
    "subprocess", "threading", "logging", "structlog", "pathlib", "urllib", "http", "js", "pyodide",
    "sqlite3", "sqlalchemy", "tempfile", "shutil", "signal", "sys",
}  # fmt: skip
# `random.Random` and `os.PathLike` style type names are fine: what is forbidden is calling them.
TYPE_ONLY = {"random"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every absolute module name imported anywhere in the file, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} uses a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def layer_of(part: str, layers: list[set[str]]) -> int:
    for index, names in enumerate(layers):
        if part in names:
            return index
    raise AssertionError(f"{part} has no place in the layers: add it to this test on purpose")


@pytest.mark.parametrize("path", python_files("orchestrator"), ids=lambda p: str(p.name))
def test_the_orchestrator_imports_only_from_layers_at_or_below_its_own(path: Path) -> None:
    relative = path.relative_to(ROOT / "orchestrator")
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        return
    own = layer_of(relative.parts[0].removesuffix(".py"), ORCHESTRATOR_LAYERS)
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] == "orchestrator" and len(parts) > 1:
            other = layer_of(parts[1], ORCHESTRATOR_LAYERS)
            assert other <= own, f"{path}:{line} imports {module} from a layer above"


@pytest.mark.parametrize("path", python_files("orchestrator"), ids=lambda p: str(p.name))
def test_the_orchestrator_knows_of_the_node_only_what_it_may(path: Path) -> None:
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] != "browser_node" or len(parts) == 1:
            continue
        entry = path.name in {"__main__.py"} and parts[1] == "runtimes"
        known = parts[1] in ALLOWED_OF_NODE or module in ALLOWED_OF_PIPELINES
        assert known or entry, f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", python_files("browser_node"), ids=lambda p: str(p.name))
def test_the_node_imports_nothing_of_the_orchestrator_and_keeps_its_layers(path: Path) -> None:
    relative = path.relative_to(ROOT / "browser_node")
    for module, line in imports(path):
        parts = module.split(".")
        assert parts[0] not in {"orchestrator", "wasm_build"}, f"{path}:{line} imports {module}"
        if relative.parts == ("__init__.py",) or parts[0] != "browser_node" or len(parts) == 1:
            continue
        own = layer_of(relative.parts[0].removesuffix(".py"), NODE_LAYERS)
        other = layer_of(parts[1], NODE_LAYERS)
        assert other <= own, f"{path}:{line} imports {module} from a layer above"


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_clock_randomness_io_or_logging(name: str) -> None:
    path = ROOT / name
    for module, line in imports(path):
        top = module.split(".")[0]
        assert top not in IMPURE_MODULES - TYPE_ONLY, f"{name}:{line} imports {module}"
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{name} awaits"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            called = isinstance(owner, ast.Name) and owner.id in TYPE_ONLY
            assert not called, f"{name}:{node.lineno} draws from a global random source"


def test_only_the_composition_root_reads_the_environment() -> None:
    for path in python_files("orchestrator"):
        if path.name in {"app.py", "__main__.py", "commands.py", "compiled.py"}:
            continue
        text = path.read_text()
        assert "os.environ" not in text, f"{path} reads the environment"
        assert "getenv" not in text, f"{path} reads the environment"


def test_only_the_browser_runtime_imports_js() -> None:
    for path in python_files("browser_node"):
        for module, line in imports(path):
            top = module.split(".")[0]
            if top in {"js", "pyodide", "pyodide_js"}:
                assert path.name == "browser.py", f"{path}:{line} imports {module}"


def test_page_scripts_contain_no_frame_type() -> None:
    """JavaScript owns consent and rendering; the protocol is Python's."""
    from browser_node import protocol

    frames = [*protocol.NodeFrame.__args__, *protocol.OrchestratorFrame.__args__]
    tags = {frame.__struct_config__.tag for frame in frames}
    # Words that are also plain English on a page.
    suspicious = tags - {"ready", "load", "failed", "results", "jobs", "cancel", "notice", "drain"}
    for path in sorted((ROOT / "static/js").rglob("*.js")):
        text = path.read_text()
        for tag in suspicious:
            assert f'"{tag}"' not in text, f"{path} mentions the frame type {tag}"
            assert f"'{tag}'" not in text, f"{path} mentions the frame type {tag}"
