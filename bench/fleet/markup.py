"""The report's page and tables as HTML. All text is escaped here, and only here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import msgspec

_CSS = Path(__file__).with_name("report.css")


class Cell(msgspec.Struct, frozen=True):
    """``note`` stands below in small; ``tone`` is "", "better", "worse" (of the note) or "bad"."""

    text: str
    note: str = ""
    tone: str = ""


class Rows(msgspec.Struct, frozen=True):
    """Rows under a heading of their own; the first cell of each is its name."""

    rows: Sequence[Sequence[Cell]]
    heading: str = ""


def page(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_CSS.read_text()}</style>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, says: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(says)}</p>\n{''.join(parts)}</section>"


def paragraph(text: str, *, muted: bool = False) -> str:
    return f'<p class="muted">{escape(text)}</p>' if muted else f"<p>{escape(text)}</p>"


def command(text: str) -> str:
    return f"<p><code>{escape(text)}</code></p>"


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Return figures with what they are."""
    body = "".join(f"<div><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in pairs)
    return f'<div class="cards">{body}</div>'


def charts(figures: Iterable[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>'


def table(columns: Sequence[str], groups: Iterable[Rows], *, name: str) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    bodies = "".join(_body(group, len(columns)) for group in groups)
    return (
        f'<div class="panel scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f"<table><thead><tr>{head}</tr></thead>{bodies}</table></div>"
    )


def _body(group: Rows, columns: int) -> str:
    heading = ""
    if group.heading:
        rest = f'<td colspan="{columns - 1}"></td>'
        heading = f'<tr class="group"><th scope="rowgroup">{escape(group.heading)}</th>{rest}</tr>'
    rows = "".join(
        f"<tr>{_name(row[0])}{''.join(_cell(cell) for cell in row[1:])}</tr>" for row in group.rows
    )
    return f"<tbody>{heading}{rows}</tbody>"


def _name(cell: Cell) -> str:
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    return f'<th scope="row">{escape(cell.text)}{note}</th>'


def _cell(cell: Cell) -> str:
    note = f'<small class="{cell.tone}">{escape(cell.note)}</small>' if cell.note else ""
    kind = ' class="bad"' if cell.tone == "bad" else ""
    return f"<td{kind}>{escape(cell.text)}{note}</td>"
