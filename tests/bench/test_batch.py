"""The benchmarks of batches and of streams: their input, how lines are judged, what is reported."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import pytest

from bench import batch, sse
from bench.batch import QUICK, Killed, Large, Memory, Run, Waits, wrong_lines
from bench.batch_client import Customer, write_input
from bench.sse import API, NODES, STARLETTE, Sample
from tests.orchestrator.shop import open_shop


def test_an_input_file_has_so_many_lines_of_so_many_bytes(tmp_path: Path) -> None:
    write_input(tmp_path / "in", lines=50, bytes_per_line=2_000)

    lines = (tmp_path / "in").read_bytes().splitlines()
    assert {len(line) for line in lines} == {1_999}
    assert [json.loads(line)["custom_id"] for line in lines] == [f"line-{n}" for n in range(50)]


def test_a_batch_is_sent_waited_for_and_read_back(tmp_path: Path) -> None:
    write_input(tmp_path / "in", lines=20, bytes_per_line=200)
    with open_shop(tmp_path / "shop") as shop:
        customer = Customer(shop)
        ended = customer.wait(customer.create(customer.upload(tmp_path / "in")), timeout_s=30)

        assert ended["status"] == "completed"
        assert wrong_lines(customer, ended, 20) == 0
        # One that the input does not have, and two that the files lack.
        assert wrong_lines(customer, ended, 19) == 1
        assert wrong_lines(customer, ended, 22) == 2
        with pytest.raises(RuntimeError, match="404"):
            customer.batch("batch_0")


def test_the_most_memory_counts() -> None:
    # Mapped, to be pages of its own: an array may be put where tests before this one freed some.
    with Memory(os.getpid()) as memory, mmap.mmap(-1, 40_000_000) as kept:
        kept.write(bytes(len(kept)))
        memory.look()

    assert memory.growth_mb > 35


def test_a_report_says_what_batches_cost_those_who_do_not_wait_for_them() -> None:
    idle, during = Waits(10, 0, 5.0, 10.0), Waits(10, 1, 9.0, 25.0)
    counts = {"total": 2000, "completed": 1999, "failed": 1}
    run = Run(10.0, idle, during, counts, edge_share=0.9, growth_mb=61.0, wrong_lines=0)

    found = batch.report(QUICK, run, Large(1.0, 2.0, 3.0), Killed(2, 9.0, "completed", 0))

    figures = {figure.name: figure for figure in found.figures}
    assert figures["interactive p95 meanwhile ÷ before"].value == 2.5
    assert figures["lines a second"].value == 200
    assert figures["answered by tabs, of all"].value == 90
    missed = [figure.name for figure in found.figures if figure.verdict == "missed"]
    assert missed == [
        "interactive p95 meanwhile ÷ before",
        "interactive requests that failed",
        "lines lost, doubled or failed",
        "memory growth meanwhile",
    ]


def test_streams_are_compared_with_those_of_the_same_round() -> None:
    def samples(*cpu_us: float) -> list[Sample]:
        return [Sample(cpu_us=us, events=100, per_s=1000.0) for us in cpu_us]

    by_name = {STARLETTE: samples(20, 40), API: samples(10, 10), NODES: samples(90, 95)}
    found = sse.report(by_name, words=100)

    assert [(f.value, f.verdict) for f in found.figures] == [
        (10.0, "met"),
        (92.5, ""),
        (0.375, ""),
    ]
