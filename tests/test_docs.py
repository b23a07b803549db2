"""The documentation says what the code does: links, settings, errors, commands, modules, examples.

python tests/test_docs.py        writes the settings table into docs/operations.md
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator import errors
from orchestrator.__main__ import cli
from orchestrator.api.codes import CODES
from orchestrator.api.endpoints import ENDPOINTS
from orchestrator.settings import OTHER_VARIABLES, Settings, describe

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
SETTINGS = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- /settings -->)", re.DOTALL)
FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
# A command in code: after a backtick, a path or a variable, or at the start of a line.
COMMAND = re.compile(r"(?:[`/]|^#? *|[A-Z_]+=\S+ )zerogpu ([a-z][^`\n#]*)", re.MULTILINE)
LINK = re.compile(r"\]\((?P<to>[^)\s]+)\)|(?:src|href)=\"(?P<tag>[^\"]+)\"")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ── pages ────────────────────────────────────────────────────────────────────────────────────────


def anchors(page: Path) -> set[str]:
    """Return the fragments that a page's headings make, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def links(page: Path) -> Iterator[str]:
    for match in LINK.finditer(FENCED.sub("", page.read_text())):
        target = match["to"] or match["tag"]
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, fragment = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{name_of(document)} links to {target}"
        assert not fragment or fragment in anchors(found), (
            f"{name_of(document)}: no heading #{fragment}"
        )


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_every_path_a_page_names_exists(document: Path) -> None:
    folders = "browser_node|orchestrator|static|wasm_build|tests|docs|examples|bench|e2e|scripts"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", document.read_text()):
        assert (ROOT / path).exists(), f"{name_of(document)} names {path}"


def test_every_module_beside_its_folder_exists() -> None:
    """In the architecture's table short names stand in the row of their folder."""
    for row in re.findall(r"^\| `(\w+/\w+)/` \|(.*)$", read("architecture.md"), re.MULTILINE):
        folder, text = row
        for short in re.findall(r"`(\w+\.py)`", text):
            assert (ROOT / folder / short).exists(), f"{folder}/{short}"


def test_every_test_a_page_names_exists() -> None:
    sources = (path for folder in ("tests", "e2e") for path in (ROOT / folder).rglob("test_*.py"))
    known = {name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text())}
    for document in PAGES:
        for name in re.findall(r"`(test_\w+)`", document.read_text()):
            assert name in known, f"{name_of(document)} names {name}"


def test_decisions_are_numbered_without_gaps_dated_and_listed() -> None:
    decisions = sorted(DOCS.glob("decisions/[0-9]*.md"))
    listed = (DOCS / "decisions" / "README.md").read_text()
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text()
        assert re.match(rf"# {int(path.name[:4])}\. .+\n\n\d{{4}}-\d\d-\d\d · \w+\n", text), (
            path.name
        )
        for heading in ("## Context", "## Options", "## Outcome", "## Consequences"):
            assert heading in text, f"{path.name} has no {heading}"
        assert listed.count(f"({path.name})") == 1, f"{path.name} is to be listed once"


def read(page: str) -> str:
    return (DOCS / page).read_text()


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


def settings_table() -> str:
    rows = [
        f"| `{setting.variable}` | {default(setting.default, setting.unit)} | {setting.text} |\n"
        for setting in describe()
    ]
    return "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows)


def default(value: str, unit: str) -> str:
    return " ".join(part for part in (f"`{value}`" if value else "none", unit) if part)


def test_the_settings_table_is_that_of_the_code() -> None:
    written = SETTINGS.search(read("operations.md"))
    assert written is not None
    assert written[0] == f"{written[1]}\n{settings_table()}{written[2]}", (
        "write it with `python tests/test_docs.py`"
    )


def test_every_variable_a_page_names_is_a_setting() -> None:
    known = {setting.variable for setting in describe()}
    known |= OTHER_VARIABLES
    for path in [*PAGES, *EXAMPLES]:
        for variable in re.findall(r"\bZEROGPU_[A-Z_]+\b", path.read_text()):
            assert variable in known, f"{name_of(path)} names {variable}"


def test_every_default_of_the_api_page_is_that_of_the_code() -> None:
    text, settings = read("api.md"), Settings()
    for said in (
        f"1 to {settings.inputs_max} strings",
        f"within {settings.body_timeout_s:g} s",
        f"over {settings.body_max_bytes >> 20} MiB",
        f"more than {settings.key_concurrency} requests",
        f"| requests a minute | {settings.key_requests_per_minute:,} "
        f"| {settings.project_requests_per_minute:,} |",
        f"| input tokens a minute | {settings.key_tokens_per_minute:,} "
        f"| {settings.project_tokens_per_minute:,} |",
        f"| requests under way | {settings.key_concurrency:,} | {settings.project_concurrency:,} |",
        f"an upload {settings.file_max_bytes >> 20} MiB",
        f"headers {settings.headers_max} fields and {settings.headers_max_bytes >> 10} KiB",
        f"at most {settings.batch_lines_max:,} lines, {settings.batch_input_max_bytes >> 20} MiB in"
        f" all and {settings.batch_line_max_bytes >> 20} MiB a line",
    ):
        assert said in text, said


# ── the API ──────────────────────────────────────────────────────────────────────────────────────


def api_errors() -> list[type[errors.ApiError]]:
    found, open_ = [], [errors.ApiError]
    while open_:
        below = open_.pop().__subclasses__()
        # Those that tests derive are not ours.
        ours = [error for error in below if error.__module__ == errors.__name__]
        found += ours
        open_ += ours
    return found


def error_rows() -> dict[int, str]:
    rows = re.findall(r"^\| (\d{3}) \| (.+)$", read("api.md"), re.MULTILINE)
    return {int(status): text for status, text in rows}


@pytest.mark.parametrize("error", api_errors(), ids=lambda error: str(error.__name__))
def test_the_errors_table_has_every_error(error: type[errors.ApiError]) -> None:
    row = error_rows()[error.status]
    assert f"`{error.type}`" in row
    assert f"`{error.default_code}`" in row


def test_the_errors_table_has_every_code_and_no_other() -> None:
    documented = {code for row in error_rows().values() for code in re.findall(r"`(\w+)`", row)} - {
        error.type for error in api_errors()
    }
    # That these are what the source raises, tests/orchestrator/test_api_openapi.py says.
    known = {one.code for one in CODES}
    same_name = {error.type for error in api_errors()}
    assert documented | same_name >= known
    assert documented <= known | {"metrics_forbidden"}


def test_the_api_page_has_every_route() -> None:
    text = read("api.md")
    for endpoint in ENDPOINTS:
        assert f"`{endpoint.method} {endpoint.path}`" in text, endpoint.operation_id


# ── commands and examples ────────────────────────────────────────────────────────────────────────


def commands(group: click.Group, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{above}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")


def options(words: str) -> set[str]:
    command: click.Command = cli
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return {"--help", "--version"} | {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("document", [*PAGES, *EXAMPLES], ids=name_of)
def test_every_command_a_page_names_exists_with_its_options(document: Path) -> None:
    known = set(commands(cli))
    for line in COMMAND.findall(document.read_text()):
        words = line.split()
        pair = " ".join(words[:2])
        names = pair if pair in known else words[0]
        assert names in known, f"{name_of(document)} names `zerogpu {line}`"
        for option in re.findall(r"--[a-z-]+", line):
            assert option in options(names), f"{name_of(document)} names `zerogpu {line}`"


def test_every_command_is_documented() -> None:
    text = read("operations.md")
    for name in cli.commands:
        assert f"zerogpu {name}" in text, name


def test_every_make_target_a_page_names_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make (\w+)", page.read_text()):
            assert target in targets, f"{name_of(page)} names make {target}"


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.suffix == ".py"], ids=name_of)
def test_python_examples_compile(path: Path) -> None:
    compile(path.read_text(), path, "exec")


@pytest.mark.parametrize(
    ("program", "path"),
    [
        (program, path)
        for program, suffix in ((sys.executable, ".py"), ("sh", ".sh"))
        for path in EXAMPLES
        if path.suffix == suffix
    ],
)
def test_an_example_without_a_key_ends_with_a_sentence(program: str, path: Path) -> None:
    without = {name: value for name, value in os.environ.items() if name != "ZEROGPU_API_KEY"}
    # Any file will do where one is wanted: without a key it is not read.
    done = subprocess.run(
        [program, path, path], env=without, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "zerogpu keys create" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.suffix == ".sh"], ids=name_of)
def test_shell_examples_parse(path: Path) -> None:
    subprocess.run(["sh", "-n", path], check=True)


def test_python_in_the_readme_compiles() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.M
    )
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


if __name__ == "__main__":
    operations = DOCS / "operations.md"
    operations.write_text(
        SETTINGS.sub(lambda m: f"{m[1]}\n{settings_table()}{m[2]}", operations.read_text())
    )
