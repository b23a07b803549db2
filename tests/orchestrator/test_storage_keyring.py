"""The key cache: what it remembers, for how long, and what it does when the database is ill."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from orchestrator.domain.model import KeyId, ProjectId, Rules
from orchestrator.errors import Overloaded, Unavailable
from orchestrator.storage.keyring import GRACE_S, Keyring
from orchestrator.storage.keys import Pepper, Principal

MINE = Principal(ProjectId("p1"), KeyId("k1"))
PEPPER = Pepper(b"p" * 32)
KEY = b"key"


@dataclass
class Shelf:
    """A database of keys that counts its lookups, can be ill, and can be made to wait."""

    keys: dict[bytes, Principal] = field(default_factory=dict)
    ill: bool = False
    lookups: int = 0
    now: float = 0.0
    let_go: threading.Event = field(default_factory=threading.Event)
    # Keys that are found without waiting.
    at_once: set[bytes] = field(default_factory=set)

    def find(self, digest: bytes) -> Principal | None:
        self.lookups += 1
        assert digest in self.at_once or self.let_go.wait(10)
        if self.ill:
            raise OSError("disk gone")
        return self.keys.get(digest)


@pytest.fixture
def shelf() -> Shelf:
    made = Shelf()
    made.let_go.set()
    return made


@pytest.fixture
def ring(shelf: Shelf) -> Iterator[Keyring]:
    made = Keyring(PEPPER, shelf.find, monotonic=lambda: shelf.now, ttl_s=2.0, max_entries=3)
    yield made
    shelf.let_go.set()
    made.close()


async def test_a_known_key_is_looked_up_once_until_its_time_is_over(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE

    assert ring.cached(KEY) == (False, None)
    assert await ring.find(KEY) == MINE
    assert await ring.find(KEY) == MINE
    assert ring.cached(KEY) == (True, MINE)
    assert shelf.lookups == 1

    shelf.now = 2.5
    assert ring.cached(KEY) == (False, None)
    assert await ring.find(KEY) == MINE
    assert shelf.lookups == 2


async def test_a_key_that_ends_elsewhere_ends_here_within_the_time(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    await ring.find(KEY)

    shelf.keys[PEPPER.digest(KEY)] = Principal(MINE.project_id, MINE.key_id, revoked=True)
    shelf.now = 2.5

    found = await ring.find(KEY)
    assert found is not None
    assert found.revoked


async def test_rules_that_change_elsewhere_hold_here_within_the_time(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    await ring.find(KEY)
    strict = Rules(verify="always", region="EU")

    shelf.keys[PEPPER.digest(KEY)] = Principal(MINE.project_id, MINE.key_id, rules=strict)

    assert ring.cached(KEY) == (True, MINE)
    shelf.now = 2.5
    found = await ring.find(KEY)
    assert found is not None
    assert found.rules == strict


async def test_an_unknown_key_is_remembered_too_and_forgotten_when_we_change_keys(
    shelf: Shelf, ring: Keyring
) -> None:
    assert await ring.find(KEY) is None
    assert await ring.find(KEY) is None
    assert shelf.lookups == 1
    shelf.keys[PEPPER.digest(KEY)] = MINE
    ring.forget_all()
    assert await ring.find(KEY) == MINE


async def test_guesses_do_not_push_real_keys_out_and_memory_is_bounded(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    await ring.find(KEY)

    for number in range(10):
        await ring.find(b"guess %d" % number)

    assert ring.cached(KEY) == (True, MINE)
    assert ring.cached(b"guess 9") == (True, None)
    assert ring.cached(b"guess 0") == (False, None)


async def test_requests_with_one_key_share_one_lookup_and_outlive_each_other(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    shelf.let_go.clear()

    waiting = [asyncio.create_task(ring.find(KEY)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    shelf.let_go.set()

    assert await asyncio.gather(*waiting[1:]) == [MINE] * 4
    assert shelf.lookups == 1


async def test_too_many_lookups_at_once_are_refused(shelf: Shelf, ring: Keyring) -> None:
    shelf.let_go.clear()
    waiting = [asyncio.create_task(ring.find(b"%d" % number)) for number in range(256)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="256 keys"):
        await ring.find(b"one more")

    shelf.let_go.set()
    assert await asyncio.gather(*waiting) == [None] * 256


async def test_a_known_key_is_looked_up_again_past_all_guesses(shelf: Shelf, ring: Keyring) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    await ring.find(KEY)
    shelf.at_once.add(PEPPER.digest(KEY))
    shelf.let_go.clear()
    guesses = [asyncio.create_task(ring.find(b"%d" % number)) for number in range(256)]
    await asyncio.sleep(0)

    shelf.now = 2.5
    assert await ring.find(KEY) == MINE
    shelf.keys[PEPPER.digest(KEY)] = Principal(MINE.project_id, MINE.key_id, revoked=True)
    shelf.now = 5.0
    found = await ring.find(KEY)

    assert found is not None
    assert found.revoked
    assert not any(guess.done() for guess in guesses)
    shelf.let_go.set()
    await asyncio.gather(*guesses)


async def test_known_keys_go_on_working_while_the_database_is_ill(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    await ring.find(KEY)
    shelf.ill, shelf.now = True, 100.0

    assert await ring.find(KEY) == MINE
    assert await ring.find(KEY) == MINE
    assert shelf.lookups == 2
    with pytest.raises(Unavailable) as error:
        await ring.find(b"never seen")
    assert error.value.code == "key_check_unavailable"

    shelf.now = GRACE_S + 1
    with pytest.raises(Unavailable):
        await ring.find(KEY)


async def test_a_lookup_that_began_before_a_change_is_not_remembered(
    shelf: Shelf, ring: Keyring
) -> None:
    shelf.keys[PEPPER.digest(KEY)] = MINE
    shelf.let_go.clear()
    early = asyncio.create_task(ring.find(KEY))
    await asyncio.sleep(0)

    ring.forget_all()
    shelf.let_go.set()

    assert await early == MINE
    assert ring.cached(KEY) == (False, None)
