"""docs/protocol.md says exactly what the code defines."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from browser_node import protocol as p
from browser_node.runtimes.isolation import Bounds
from tests.browser_node.frames import NODE_FRAMES, ORCHESTRATOR_FRAMES

PAGE = (Path(__file__).resolve().parents[2] / "docs/protocol.md").read_text()


def fields_by_heading() -> dict[str, list[str]]:
    """Return, for each third-level heading, the first column of the table below it."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        found[heading.strip("`\n ")] = re.findall(r"^\| `(\w+)` \|", body, flags=re.MULTILINE)
    return found


def parts() -> dict[str, type[msgspec.Struct]]:
    return {
        name: kind
        for name, kind in vars(p).items()
        if isinstance(kind, type) and issubclass(kind, p.Part) and kind is not p.Part
    }


def test_the_page_has_every_frame_with_every_field_in_order_and_no_other() -> None:
    documented = fields_by_heading()
    for kind in NODE_FRAMES + ORCHESTRATOR_FRAMES:
        tag = str(kind.__struct_config__.tag)
        assert documented.pop(tag) == list(kind.__struct_fields__), tag
    for name, part in parts().items():
        assert documented.pop(name) == list(part.__struct_fields__), name
    assert not {heading: fields for heading, fields in documented.items() if fields}


def test_the_page_lists_frames_under_the_side_that_sends_them() -> None:
    node, orchestrator = PAGE.index("## From the node"), PAGE.index("## From the orchestrator")
    for kind in NODE_FRAMES:
        assert node < PAGE.index(f"### `{kind.__struct_config__.tag}`") < orchestrator
    for kind in ORCHESTRATOR_FRAMES:
        assert PAGE.index(f"### `{kind.__struct_config__.tag}`") > orchestrator


def test_the_page_lists_every_close_code_and_no_other() -> None:
    documented = re.findall(r"^\| (\d{4}) \| `(\w+)` \|", PAGE, flags=re.MULTILINE)

    assert [(int(code), name) for code, name in documented] == [
        (int(code), code.name) for code in p.CloseCode
    ]


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    for number in (
        f"`{p.SUBPROTOCOL}`",
        f"within {p.HELLO_TIMEOUT_S:.0f} seconds",
        f"for {p.NONCE_LIFETIME_S:.0f} seconds",
        f"at most {p.MAX_FRAME_BYTES >> 20} MiB",
        f"at most {p.MAX_FRAME_BYTES_BEFORE_WELCOME >> 10} KiB",
        f"up to {p.MAX_INPUT_CHARS:,}".replace(",", " "),
        f"1–{p.MAX_DELTA_CHARS:,} characters".replace(",", " "),
        f"`{p.HANDED_BACK}`",
        f"`{p.CRASHED_IN_ISOLATION}`",
        f"`{p.TIMED_OUT_IN_ISOLATION}` ({Bounds().wall_s:.0f} seconds",
        f"`{p.OUT_OF_MEMORY_IN_ISOLATION}` ({Bounds().memory_bytes >> 20} MiB",
    ):
        assert number in PAGE, number


def test_every_frame_named_in_the_prose_exists() -> None:
    tags = {str(kind.__struct_config__.tag) for kind in NODE_FRAMES + ORCHESTRATOR_FRAMES}
    order = PAGE[PAGE.index("## Order") : PAGE.index("## Close codes")]

    assert set(re.findall(r"`(\w+)`", order)) <= tags
