"""What a run has found: tables for people, figures against their targets, JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

JSON_NAME: Final = "report.json"
MARKDOWN_NAME: Final = "report.md"


class Figure(msgspec.Struct, frozen=True):
    """One number; ``at_most`` or ``at_least`` is its target, where it has one."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {self.unit}"
        return "" if self.at_least is None else f"≥ {self.at_least:g} {self.unit}"

    @property
    def verdict(self) -> str:
        return {None: "", True: "met", False: "missed"}[self.met]


class Table(msgspec.Struct, frozen=True):
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Section(msgspec.Struct, frozen=True):
    """The latest run of one benchmark; ``measured_at`` and ``machine`` are filled in when kept."""

    name: str
    title: str
    figures: Sequence[Figure]
    tables: Sequence[Table] = ()
    note: str = ""
    measured_at: str = ""
    machine: str = ""


class Report(msgspec.Struct, frozen=True):
    sections: dict[str, Section] = {}


def keep(folder: Path, section: Section, *, at: str) -> Report:
    """Put a section into the report files of ``folder``, in place of its earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JSON_NAME
    try:
        sections = msgspec.json.decode(path.read_bytes(), type=Report).sections
    except (FileNotFoundError, msgspec.DecodeError):
        sections = {}  # no earlier run, or one of another version
    section = msgspec.structs.replace(section, measured_at=at, machine=machine())
    report = Report({**sections, section.name: section})
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (folder / MARKDOWN_NAME).write_text(markdown(report))
    return report


def machine() -> str:
    """Return what the numbers were measured on, without naming the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = f"{len(named)} × {named[0]}" if named else model
    return f"{model}, {platform.system()}, Python {platform.python_version()}"


def markdown(report: Report) -> str:
    """Return the report as Markdown tables."""
    parts = ["# Benchmarks\n"]
    for section in report.sections.values():
        parts.append(f"\n## {section.title}\n")
        parts.append(f"\n{section.measured_at}, {section.machine}. {section.note}\n")
        parts += [f"\n{_markdown_table(table)}" for table in _tables(section)]
    return "".join(parts)


def show(section: Section, console: Console) -> None:
    """Print a section as it was just measured."""
    console.print(f"\n[bold]{section.title}[/bold]  {section.note}")
    for table in _tables(section):
        shown = RichTable(*table.columns, box=None, pad_edge=False)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def _tables(section: Section) -> Iterable[Table]:
    yield from section.tables
    rows = [
        (
            figure.name,
            f"{figure.value:.4g} {figure.unit}",
            figure.target,
            figure.verdict,
        )
        for figure in section.figures
    ]
    yield Table(("figure", "value", "target", ""), rows)


def _markdown_table(table: Table) -> str:
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
