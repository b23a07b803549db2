"""Attempts in a child process: what kills it is blamed on the input, and nothing else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from browser_node import protocol as p
from browser_node.runtimes.isolation import Bounds, IsolatedProcess
from tests.browser_node.fake_orchestrator import recipe
from tests.browser_node.misbehaving import BROKEN_RUNNER, RUNNER
from tests.browser_node.processes import ROOT, end_of
from tests.browser_node.tiny import OTHER_BACKBONE, build

Start = Callable[..., IsolatedProcess]


@pytest.fixture
def build_dir(tmp_path: Path) -> Path:
    build(tmp_path, "other", backbone=OTHER_BACKBONE)
    return build(tmp_path, "tiny")


@pytest.fixture
async def start(build_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started: list[IsolatedProcess] = []

    def start(runner: str = RUNNER, **bounds: float) -> IsolatedProcess:
        started.append(
            IsolatedProcess(
                build_dir / "models",
                threads=1,
                log=lambda event, **fields: None,
                bounds=Bounds(**bounds),  # type: ignore[arg-type]
                runner=runner,
            )
        )
        return started[-1]

    yield start
    for isolation in started:
        await isolation.close()


@pytest.fixture
def item(build_dir: Path) -> Callable[[str], p.JobItem]:
    digest = recipe(build_dir, "tiny").digest

    def item(text: str) -> p.JobItem:
        return p.JobItem(
            attempt_id=text[:16], digest=digest, lease_s=60, tokens=1, input=text, isolated=True
        )

    return item


Item = Callable[[str], p.JobItem]


def pid_of(outcome: p.Result | p.Failed) -> int:
    assert isinstance(outcome, p.Result), outcome
    return int(outcome.output)


def limits_of(pid: int | None) -> tuple[dict[str, str], int]:
    """Return a process's soft limits by name, and its score for a kernel out of memory."""
    folder = Path(f"/proc/{pid}")
    lines = (folder / "limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in lines}
    return soft, int((folder / "oom_score_adj").read_text())


async def test_an_answer_comes_from_another_process_and_the_next_one_from_the_same(
    start: Start, item: Item
) -> None:
    isolation = start()

    outcomes = [await isolation.run(item(text)) for text in ("the sea", "good news")]

    pids = {pid_of(outcome) for outcome in outcomes}
    assert pids == {isolation.pid} != {os.getpid()}
    assert [outcome.attempt_id for outcome in outcomes] == ["the sea", "good news"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("abort", p.CRASHED_IN_ISOLATION, "ended the process"),
        ("segfault", p.CRASHED_IN_ISOLATION, "ended the process"),
        ("exit", p.CRASHED_IN_ISOLATION, "ended the process"),
        ("hog", p.OUT_OF_MEMORY_IN_ISOLATION, "more than 64 MiB"),
        ("grow", p.OUT_OF_MEMORY_IN_ISOLATION, "more than 64 MiB"),
    ],
)
async def test_an_input_that_takes_the_process_down_is_blamed_and_the_next_is_answered(
    start: Start, item: Item, text: str, code: str, words: str
) -> None:
    isolation = start(memory_bytes=64 << 20)
    before = pid_of(await isolation.run(item("the sea")))

    failed = await isolation.run(item(text))

    assert isinstance(failed, p.Failed)
    assert (failed.attempt_id, failed.blame, failed.code) == (text, "input", code)
    assert words in failed.message
    assert failed.message.endswith(".")
    assert isolation.pid is None
    assert pid_of(await isolation.run(item("good news"))) != before


@pytest.mark.parametrize("text", ["loop", "backtrack", "sleep"])
async def test_an_input_that_never_ends_is_cut_off_while_the_loop_goes_on(
    start: Start, item: Item, text: str
) -> None:
    isolation = start(wall_s=0.2)
    await isolation.run(item("the sea"))
    assert isolation.pid is not None
    gone = end_of(isolation.pid)
    turns = 0

    running = asyncio.create_task(isolation.run(item(text)))
    while not running.done():
        await asyncio.sleep(0)
        turns += 1

    failed = running.result()
    assert isinstance(failed, p.Failed)
    assert (failed.blame, failed.code) == ("input", p.TIMED_OUT_IN_ISOLATION)
    assert failed.message == "This input alone took more than 0.2 s of computing."
    assert turns > 10
    await asyncio.wait_for(gone, 5)


async def test_an_input_that_cannot_be_planned_fails_as_it_does_everywhere(
    start: Start, item: Item
) -> None:
    failed = await start().run(item("sea " * 100))

    assert isinstance(failed, p.Failed)
    assert (failed.blame, failed.code) == ("input", "too_many_tokens")


async def test_what_a_library_prints_does_not_come_between_the_frames(
    start: Start, item: Item
) -> None:
    isolation = start()

    assert pid_of(await isolation.run(item("chatter"))) == isolation.pid


async def test_attempts_wait_for_each_other(start: Start, item: Item) -> None:
    isolation = start()

    outcomes = await asyncio.gather(
        *(isolation.run(item(text)) for text in ("the sea", "abort", "good news"))
    )

    assert [isinstance(outcome, p.Result) for outcome in outcomes] == [True, False, True]


async def test_another_model_is_loaded_in_the_same_process(
    start: Start, item: Item, build_dir: Path
) -> None:
    isolation = start()
    other = recipe(build_dir, "other").digest
    elsewhere = p.JobItem(attempt_id="b", digest=other, lease_s=9, tokens=1, input="the sea")

    first = pid_of(await isolation.run(item("the sea")))

    assert pid_of(await isolation.run(elsewhere)) == first
    assert pid_of(await isolation.run(item("the sea"))) == first


async def test_a_process_that_nobody_needs_ends(start: Start, item: Item) -> None:
    isolation = start(idle_s=0.01)
    await isolation.run(item("the sea"))
    assert isolation.pid is not None

    await asyncio.wait_for(end_of(isolation.pid), 5)

    assert isinstance(await isolation.run(item("good news")), p.Result)


async def test_a_process_that_died_while_idle_is_replaced_and_no_input_is_blamed(
    start: Start, item: Item
) -> None:
    isolation = start()
    await isolation.run(item("the sea"))
    assert isolation.pid is not None
    os.kill(isolation.pid, signal.SIGKILL)

    assert isinstance(await isolation.run(item("good news")), p.Result)


async def test_signals_to_the_whole_group_do_not_end_an_attempt(start: Start, item: Item) -> None:
    isolation = start()
    before = pid_of(await isolation.run(item("the sea")))
    os.kill(before, signal.SIGTERM)
    os.kill(before, signal.SIGINT)

    assert pid_of(await isolation.run(item("good news"))) == before


@pytest.mark.parametrize("runner", [BROKEN_RUNNER, "no.such.module:runner"])
async def test_a_process_that_does_not_start_is_the_nodes_fault(
    start: Start, item: Item, runner: str
) -> None:
    failed = await start(runner).run(item("the sea"))

    assert isinstance(failed, p.Failed)
    assert (failed.blame, failed.code) == ("node", "isolation_unavailable")


async def test_a_model_that_is_not_there_is_the_nodes_fault(start: Start, item: Item) -> None:
    missing = p.JobItem(attempt_id="a", digest="0" * 64, lease_s=9, tokens=1, input="the sea")

    failed = await start().run(missing)

    assert isinstance(failed, p.Failed)
    assert (failed.blame, failed.code) == ("node", "isolation_unavailable")
    assert "ManifestError" in failed.message


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are read from /proc")
async def test_a_process_has_its_limits_and_dumps_no_core(start: Start, item: Item) -> None:
    isolation = start(memory_bytes=64 << 20)
    await isolation.run(item("the sea"))

    soft, oom_score = limits_of(isolation.pid)

    assert soft["Max core file size"] == "0"
    assert 64 << 20 < int(soft["Max data size"]) < 512 << 20
    # Two threads' worth of ten seconds on top of what starting took.
    assert 20 <= int(soft["Max cpu time"]) <= 40
    assert oom_score == 1000


async def test_cancelling_an_attempt_ends_its_process(
    start: Start, item: Item, tmp_path: Path
) -> None:
    isolation = start()
    await isolation.run(item("the sea"))
    assert isolation.pid is not None
    gone = end_of(isolation.pid)
    os.mkfifo(tmp_path / "fifo")
    running = asyncio.create_task(isolation.run(item(f"loop > {tmp_path}/fifo")))
    await asyncio.to_thread((tmp_path / "fifo").read_bytes)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(gone, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the processor limit ends it")
async def test_a_process_in_a_loop_ends_when_its_parent_is_killed(
    build_dir: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = f"""
import asyncio
from pathlib import Path
from browser_node import protocol as p
from browser_node.runtimes.isolation import IsolatedProcess

def item(text):
    return p.JobItem(attempt_id="a", digest={recipe(build_dir, "tiny").digest!r}, lease_s=60,
                     tokens=1, input=text)

async def main():
    isolation = IsolatedProcess(Path({str(build_dir / "models")!r}), threads=1,
                                log=lambda event, **fields: None, runner={RUNNER!r})
    await isolation.run(item("the sea"))
    print(isolation.pid, flush=True)
    await isolation.run(item("backtrack > {tmp_path}/fifo"))

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    gone = end_of(int(await asyncio.wait_for(parent.stdout.readline(), 30)))
    await asyncio.to_thread((tmp_path / "fifo").read_bytes)

    parent.kill()

    await asyncio.wait_for(gone, 5)
    await parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in /proc what is open")
async def test_a_child_whose_attempt_was_cancelled_leaves_no_pipe_open(
    start: Start, item: Item
) -> None:
    def pipes() -> set[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        names = {os.readlink(link) for link in links if os.path.islink(link)}
        return {name for name in names if name.startswith("pipe:")}

    before = pipes()
    isolation = start()
    await isolation.run(item("the sea"))
    assert pipes() - before
    running = asyncio.create_task(isolation.run(item("for ever")))
    await asyncio.sleep(0)

    running.cancel()
    await asyncio.wait({running})
    await isolation.close()

    assert running.cancelled()
    assert pipes() <= before
