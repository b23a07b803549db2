"""Which files of ours a module is made of: itself and, through its imports, the rest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def module_files(module: str, repository: Path) -> list[Path]:
    """Return the repository's files that importing ``module`` reads, sorted; nothing of others.

    Imports are read from the source, those inside functions too. Raises `FileNotFoundError` for a
    module that is not in the repository.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name, repository)
        if path is None:
            if name == module:
                raise FileNotFoundError(f"module {module} is not in {repository}")
            continue
        if path in found:
            continue
        found.add(path)
        # A package's __init__ runs before anything inside it.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += _imports(ast.parse(path.read_bytes(), filename=str(path)))
    return sorted(found)


def _file_of(module: str, repository: Path) -> Path | None:
    base = repository.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            # `from package import module`; a name that is no module has no file and is passed over.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
