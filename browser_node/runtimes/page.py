"""The worker's messages with its page as values; their contract: ``static/worker/node.js``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from browser_node.politeness import Pressure, Signals, VolunteerLimits
from browser_node.protocol import Device
from browser_node.runtimes.driver import Driver
from browser_node.runtimes.status import Status

Message = Mapping[str, Any]

_PRESSURES: Final = ("nominal", "fair", "serious", "critical")


def read_limits(message: Message, limits: VolunteerLimits) -> VolunteerLimits:
    """Return ``limits`` with what the message changes."""
    return VolunteerLimits(
        cpu_share=float(message.get("cpuShare", limits.cpu_share)),
        threads=max(1, int(message.get("threads", limits.threads))),
        run_hidden=bool(message.get("runHidden", limits.run_hidden)),
        run_on_battery=bool(message.get("runOnBattery", limits.run_on_battery)),
        run_on_save_data=bool(message.get("runOnSaveData", limits.run_on_save_data)),
    )


def read_signals(message: Message, signals: Signals) -> Signals:
    """Return ``signals`` with what the message changes; unknown pressures count as not told."""
    pressure = message.get("pressure", signals.pressure)
    return Signals(
        user_paused=signals.user_paused,
        hidden=bool(message.get("hidden", signals.hidden)),
        frozen=bool(message.get("frozen", signals.frozen)),
        battery=message.get("battery", signals.battery),
        charging=message.get("charging", signals.charging),
        save_data=bool(message.get("saveData", signals.save_data)),
        pressure=cast(Pressure, pressure) if pressure in _PRESSURES else None,
    )


def read_device(message: Message, signals: Signals) -> Device:
    """Return what the node says of its machine; absurd values are left out."""
    memory = message.get("memoryMb")
    return Device(
        cores=min(max(int(message.get("cores") or 1), 1), 4096),
        memory_mb=int(memory) if memory else None,
        connection=_name(message.get("connection")),
        battery=signals.battery,
        charging=signals.charging,
        time_zone=_name(message.get("timeZone")),
        data_saver=signals.save_data,
    )


def _name(value: object) -> str | None:
    return value[:64] if isinstance(value, str) and value else None


def status_message(status: Status) -> dict[str, Any]:
    """Return the page's ``status`` message."""
    return {
        "type": "status",
        "phase": status.phase,
        "state": status.state,
        "reason": status.reason,
        "progress": {"doneBytes": status.done_bytes, "totalBytes": status.total_bytes},
        "jobsDone": status.jobs_done,
        "tokensDone": status.tokens_done,
        "tokensPerS": round(status.tokens_per_s, 1),
        "nodeId": status.node_id,
        "models": [{"id": row.id, "state": row.state} for row in status.models],
        "notice": status.notice,
    }


def apply(message: Message, driver: Driver) -> None:
    """Do what a later message of the page asks; one of an unknown type is ignored."""
    match message.get("type"):
        case "signals":
            driver.signals = read_signals(message, driver.signals)
        case "limits":
            driver.limits = read_limits(message, driver.limits)
        case "pause":
            driver.signals = replace(driver.signals, user_paused=True)
        case "resume":
            driver.signals = replace(driver.signals, user_paused=False)
        case "stop":
            driver.stop("the volunteer stopped")
        case _:
            return
