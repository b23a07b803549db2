"""The worker's messages with its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from browser_node.politeness import Signals, VolunteerLimits
from browser_node.protocol import Device
from browser_node.runtimes.page import read_device, read_limits, read_signals, status_message
from browser_node.runtimes.status import ModelRow, Status, phase_of

CONTRACT = (Path(__file__).resolve().parents[2] / "static/worker/node.js").read_text()


def documented(kind: str) -> set[str]:
    """Return the property names of a typedef in the worker's contract."""
    section = CONTRACT[CONTRACT.index(f"@typedef {{object}} {kind}") :]
    section = section[: section.index("@typedef", 10)]
    return set(re.findall(r"@property \{.*\} (\w+)", section))


def test_limits_change_only_where_the_message_says_so() -> None:
    before = VolunteerLimits(cpu_share=0.5, threads=2, run_hidden=True)

    after = read_limits({"type": "limits", "cpuShare": 1, "runOnBattery": True}, before)

    assert after == VolunteerLimits(cpu_share=1.0, threads=2, run_hidden=True, run_on_battery=True)


def test_signals_change_only_where_the_message_says_so() -> None:
    before = Signals(user_paused=True, battery=0.5, charging=True)

    after = read_signals({"type": "signals", "hidden": True, "charging": None}, before)

    assert after == Signals(user_paused=True, hidden=True, battery=0.5, charging=None)


def test_a_pressure_of_a_later_browser_counts_as_not_told() -> None:
    assert read_signals({"pressure": "extreme"}, Signals()).pressure is None


@pytest.mark.parametrize(
    ("message", "device"),
    [
        ({}, Device(cores=1)),
        ({"cores": None, "memoryMb": None, "connection": None}, Device(cores=1)),
        ({"cores": 10**9, "memoryMb": 0.5, "connection": ""}, Device(cores=4096, memory_mb=0)),
        (
            {"cores": 8, "memoryMb": 8000, "connection": "4g", "timeZone": "Asia/Tokyo"},
            Device(cores=8, memory_mb=8000, connection="4g", time_zone="Asia/Tokyo"),
        ),
    ],
)
def test_a_device_is_told_within_the_protocols_limits(
    message: dict[str, object], device: Device
) -> None:
    assert read_device(message, Signals()) == device


def test_a_device_tells_that_its_browser_saves_data() -> None:
    assert not read_device({}, Signals()).data_saver
    assert read_device({}, read_signals({"saveData": True}, Signals())).data_saver


def test_a_status_message_has_the_fields_of_the_contract() -> None:
    status = Status(phase="ready", models=(ModelRow(id="m", state="ready"),))

    message = status_message(status)

    assert set(message) == documented("StatusMessage")
    assert set(message["models"][0]) == documented("ModelRow")


def test_what_the_contract_lets_the_page_say_is_understood() -> None:
    limits = read_limits(dict.fromkeys(documented("Limits"), 1), VolunteerLimits())
    signals = read_signals(dict.fromkeys(documented("Signals"), 1), Signals())

    assert limits == VolunteerLimits(
        cpu_share=1.0, threads=1, run_hidden=True, run_on_battery=True, run_on_save_data=True
    )
    assert signals == Signals(hidden=True, frozen=True, battery=1, charging=1, save_data=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "facts"),
    [
        ("stopped", {"session": "stopped"}),
        ("loading", {"session": "registering"}),
        ("reconnecting", {"session": "registering", "met": True}),
        ("reconnecting", {"session": "waiting"}),
        ("paused", {"session": "serving", "keeps_work": False, "models": ("ready",)}),
        ("loading", {"session": "serving"}),
        ("loading", {"session": "serving", "models": ("loading", "failed")}),
        ("calibrating", {"session": "serving", "models": ("calibrating", "loading")}),
        ("ready", {"session": "serving", "models": ("ready", "loading")}),
        ("working", {"session": "serving", "models": ("ready",), "working": True}),
        ("error", {"session": "serving", "models": ("failed", "failed")}),
    ],
)
def test_the_phase_follows_from_the_facts(phase: str, facts: dict[str, object]) -> None:
    session = facts.pop("session")
    given = {"keeps_work": True, "working": False, "models": (), "met": False, **facts}

    assert phase_of(session, **given) == phase  # type: ignore[arg-type]
