"""Rules that the sources of the pages keep: contrast of the tokens, length, and who knows what."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from browser_node import protocol

STATIC = Path(__file__).resolve().parents[2] / "static"
SCRIPTS = sorted((STATIC / "js").rglob("*.js"))
TOKENS = (STATIC / "css/tokens.css").read_text()

Rgb = tuple[float, float, float]

TEXTS = ("text", "muted", "accent", "ok", "info", "warn", "bad", "violet")
GRAPHICS = ("g-ok", "g-info", "g-warn", "g-bad", "g-violet", "line-strong")
SURFACES = ("bg", "surface", "surface-2")
THEMES = {"light": 0, "dark": 1}


def _rgb(name: str, theme: str) -> Rgb:
    """Return a token's linear sRGB value; OKLCH by the matrices of CSS Color 4 §10."""
    match = re.search(rf"--{name}: light-dark\(oklch\(([^)]+)\), oklch\(([^)]+)\)\)", TOKENS)
    assert match is not None, name
    lightness, chroma, hue = (float(part) for part in match[THEMES[theme] + 1].split())
    a, b = (chroma * f(math.radians(hue)) for f in (math.cos, math.sin))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _clip(4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short),
        _clip(-1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short),
        _clip(-0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short),
    )


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def contrast(one: Rgb, other: Rgb) -> float:
    """Return the contrast ratio of WCAG 2.2; both colours in linear light."""
    lights = sorted(
        (0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in (one, other)),
        reverse=True,
    )
    return (lights[0] + 0.05) / (lights[1] + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_is_readable_on_every_surface(text: str, surface: str, theme: str) -> None:
    assert contrast(_rgb(text, theme), _rgb(surface, theme)) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    ("text", "surface"),
    [("accent-ink", "accent"), ("accent", "accent-soft"), ("text", "accent-soft")],
)
def test_text_is_readable_on_the_accent(text: str, surface: str, theme: str) -> None:
    assert contrast(_rgb(text, theme), _rgb(surface, theme)) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("graphic", GRAPHICS)
def test_graphics_can_be_told_from_every_surface(graphic: str, surface: str, theme: str) -> None:
    assert contrast(_rgb(graphic, theme), _rgb(surface, theme)) >= 3.0


def test_black_on_white_is_the_most_there_is() -> None:
    assert contrast((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) == pytest.approx(21.0)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_idea_and_checked(script: Path) -> None:
    lines = script.read_text().splitlines()

    assert lines[0] == "// @ts-check"
    assert lines[1].startswith("/**")
    assert len(lines) <= 200


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_of_a_page_builds_markup_or_speaks_to_the_socket(script: Path) -> None:
    source = script.read_text()

    for word in (
        "innerHTML",
        "insertAdjacentHTML",
        "eval(",
        "new Function",
        "WebSocket",
        "msgpack",
    ):
        assert word not in source
    frames = (protocol.NodeFrame.__args__, protocol.OrchestratorFrame.__args__)
    tags = {frame.__struct_config__.tag for group in frames for frame in group}
    # These are also words of the worker's own messages to the page.
    for tag in tags - {"ready", "failed", "load"}:
        assert f"type: '{tag}'" not in source


@pytest.mark.parametrize(
    "page", sorted((STATIC / "html").glob("*.html")), ids=lambda path: path.name
)
def test_a_page_has_no_inline_script_and_no_inline_style(page: Path) -> None:
    source = page.read_text()

    assert " style=" not in source
    assert "<style" not in source
    for attributes in re.findall(r"<script([^>]*)>", source):
        assert "src=" in attributes or "application/json" in attributes


def test_nothing_is_loaded_from_elsewhere() -> None:
    for file in STATIC.rglob("*.*"):
        for address in re.findall(r"https?://[^\s\"'`)<>]+", file.read_text()):
            assert address.startswith("http://www.w3.org/"), (file.name, address)
