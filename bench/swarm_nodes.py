"""Many volunteers on one loop, in a process of their own: idle, working, killed and replaced.

    python -m bench.swarm_nodes --url URL --data-dir DIR [--worker]
        reads one JSON command a line (`Join`, `Churn`, `Tell`) and prints the answer to each;
        with --worker it is the server's CPU worker, too

Each comes from its own place in 127.0.0.0/8, so that the server's limits per address hold as they
are. Moments are those of the machine's monotonic clock: all processes share it.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, assert_never

import click
import msgspec
import uvloop

from bench.stub import Models, StubNode, built_models
from browser_node import protocol as p
from browser_node.protocol import ModelDigest

MODEL_ID: Final = "all-minilm-l6-v2"
TEXT: Final = "Report {number}: "
_NUMBER: Final = re.compile(r"Report (\d+): ")
_JOINING_MAX: Final = 32
_ADDRESSES: Final = 200
# A server that has more to do than it can is asked again, as real nodes do.
_JOIN_TRIES: Final = 5


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of node: speeds are drawn from between ``slowest`` and ``fastest``, in tokens/s."""

    slowest: float
    fastest: float
    slots: int = 4
    pong_after_s: float = 0.0


WORKER: Final = Profile(slowest=6000, fastest=6000, slots=64)


class Join(msgspec.Struct, frozen=True, tag=True):
    """Let ``count`` nodes of one kind join, a few at a time."""

    count: int
    profile: Profile


class Churn(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Every ``every_s`` kill ``share`` of the nodes at once; others join in the time between."""

    share: float
    every_s: float
    times: int
    profile: Profile


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Tell what happened so far."""


Command = Join | Churn | Tell


class Joined(msgspec.Struct, frozen=True):
    seconds: float


class Kill(msgspec.Struct, frozen=True):
    """``held`` are the numbers of the texts that the killed nodes had in hand."""

    at: float
    nodes: int
    held: list[int]


class Churned(msgspec.Struct, frozen=True):
    kills: list[Kill]


class Served(msgspec.Struct, frozen=True, array_like=True):
    """An answer sent: which text, when, and the seconds of work in it."""

    number: int
    sent_at: float
    work_s: float


class Told(msgspec.Struct, frozen=True):
    """``dropped`` nodes lost their connection without having been killed.

    ``failed_joins`` were tried again, a few times.
    """

    nodes: int
    dropped: int
    failed_joins: int
    pings: int
    served: list[Served]


class Volunteer:
    """A stub node that works on one job after the other and takes the time that its speed asks."""

    def __init__(
        self,
        models: Models,
        profile: Profile,
        rng: random.Random,
        served: list[Served],
        *,
        cached: Collection[ModelDigest] | None = None,
    ) -> None:
        self.speed = rng.uniform(profile.slowest, profile.fastest)
        self._rng = rng
        self._served = served
        self._held: dict[str, p.JobItem] = {}
        self._queue: deque[p.JobItem] = deque()
        self._is_working = False
        self.killed = False
        self.stub = StubNode(
            models,
            slots=profile.slots,
            tokens_per_s=self.speed,
            pong_after_s=profile.pong_after_s,
            cached=cached,
            on_jobs=self._take,
            on_cancel=self._give_up,
        )

    @property
    def is_open(self) -> bool:
        return self.stub.wire is not None and not self.stub.wire.closed.is_set()

    def kill(self) -> list[int]:
        """Cut the connection; returns the numbers of the texts in hand."""
        self.killed = True
        if self.stub.wire is not None:
            self.stub.wire.drop()
        return [number_of(item.input) for item in self._held.values()]

    def _take(self, _: StubNode, frame: p.Jobs) -> None:
        for item in frame.items:
            self._held[item.attempt_id] = item
            self._queue.append(item)
        if not self._is_working:
            self._work()

    def _give_up(self, frame: p.Cancel) -> None:
        for attempt_id in frame.attempt_ids:
            self._held.pop(attempt_id, None)

    def _work(self) -> None:
        while self._queue:
            item = self._queue.popleft()
            if item.attempt_id in self._held:
                self._is_working = True
                # No two runs of a text take the same time on a machine that others use, too.
                seconds = item.tokens / self.speed * self._rng.uniform(0.9, 1.2)
                started_at = time.monotonic()
                loop = asyncio.get_running_loop()
                loop.call_later(seconds, self._finish, item, started_at)
                return
        self._is_working = False

    def _finish(self, item: p.JobItem, started_at: float) -> None:
        if self.killed:
            return
        if self._held.pop(item.attempt_id, None) is not None:
            now = time.monotonic()
            self._served.append(Served(number_of(item.input), now, now - started_at))
            self.stub.answer(item)
        self._work()


class Swarm:
    """All the volunteers of this process."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self._url = url
        self._rng = rng
        self._models = built_models()
        # The one that the customer asks for: what others there are costs this measurement nothing.
        self._cached = self._models.of(MODEL_ID)
        self._volunteers: list[Volunteer] = []
        self._served: list[Served] = []
        self._pings_of_killed = 0
        self._failed_joins = 0
        self._places = _places()

    async def hire_worker(self, data_dir: Path) -> None:
        """Be the server's CPU worker."""
        worker = Volunteer(self._models, WORKER, self._rng, self._served)
        await worker.stub.join_as_worker(data_dir)

    async def carry_out(self, command: Command) -> Joined | Churned | Told:
        match command:
            case Join():
                started_at = time.monotonic()
                await self._join(command.count, command.profile)
                return Joined(time.monotonic() - started_at)
            case Churn():
                return Churned(await self._churn(command))
            case Tell():
                return self._tell()
            case _:
                assert_never(command)

    def _tell(self) -> Told:
        volunteers = self._volunteers
        return Told(
            nodes=len(volunteers),
            dropped=sum(not volunteer.is_open for volunteer in volunteers),
            failed_joins=self._failed_joins,
            pings=self._pings_of_killed + sum(v.stub.pings for v in volunteers),
            served=self._served,
        )

    async def _join(self, count: int, profile: Profile) -> None:
        waiting = iter(range(count))

        async def join_some() -> None:
            for _ in waiting:
                await self._join_one(profile)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(count, _JOINING_MAX)):
                group.create_task(join_some())

    async def _join_one(self, profile: Profile) -> None:
        """Let one more join; one that cannot, however often it tries, is counted and stays away."""
        for tries_left in reversed(range(_JOIN_TRIES)):
            volunteer = Volunteer(
                self._models, profile, self._rng, self._served, cached=self._cached
            )
            try:
                await volunteer.stub.join(self._url, source=next(self._places))
            except (OSError, TimeoutError):
                volunteer.kill()
                self._failed_joins += 1
                if tries_left:
                    await asyncio.sleep(self._rng.uniform(1, 3))
            else:
                self._volunteers.append(volunteer)
                return

    async def _churn(self, churn: Churn) -> list[Kill]:
        kills = []
        started_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for time_ in range(churn.times):
                await asyncio.sleep(started_at + time_ * churn.every_s - time.monotonic())
                kill = self._kill(churn.share)
                kills.append(kill)
                # Not all at once: people come back when they do. Most of the time is left to join.
                pause_s = churn.every_s * 0.7 / max(kill.nodes, 1)
                group.create_task(self._replace(kill.nodes, churn.profile, pause_s))
            await asyncio.sleep(started_at + churn.times * churn.every_s - time.monotonic())
        return kills

    def _kill(self, share: float) -> Kill:
        count = max(round(len(self._volunteers) * share), 1)
        self._rng.shuffle(self._volunteers)
        killed, self._volunteers = self._volunteers[:count], self._volunteers[count:]
        self._pings_of_killed += sum(volunteer.stub.pings for volunteer in killed)
        at = time.monotonic()
        held = [number for volunteer in killed for number in volunteer.kill()]
        return Kill(at, count, held)

    async def _replace(self, count: int, profile: Profile, pause_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._join_one(profile))
                await asyncio.sleep(pause_s)


def number_of(text: str) -> int:
    """Return which of the customer's texts this is; -1 for one that is none of them."""
    found = _NUMBER.match(text)
    return int(found[1]) if found else -1


def _places() -> Iterator[str]:
    """Yield addresses of this machine, each in a network of its own, in turn without end."""
    if sys.platform != "linux":
        raise RuntimeError("the swarm needs Linux: all of 127.0.0.0/8 is its loopback")
    while True:
        yield from (f"127.{number}.0.1" for number in range(1, _ADDRESSES + 1))


async def _run(url: str, data_dir: Path, *, worker: bool) -> None:
    swarm = Swarm(url, random.Random(f"{data_dir}{worker}"))
    if worker:
        await swarm.hire_worker(data_dir)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        done = await swarm.carry_out(msgspec.json.decode(line, type=Command))
        print(msgspec.json.encode(done).decode(), flush=True)


@click.command()
@click.option("--url", required=True)
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--worker", is_flag=True, help="Be the server's CPU worker, too.")
def main(url: str, data_dir: Path, worker: bool) -> None:
    """Run a swarm of stub nodes until its input ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(url, data_dir, worker=worker))


if __name__ == "__main__":
    main()
