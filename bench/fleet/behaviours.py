"""How nodes behave: the honest one, and the attacks of volunteer computing, one row each.

A conduct says which answers a node gives (`lie_of`) and what else it does. All liars answer the
calibration's challenge honestly: one that does not is sent away before it gets any work.
"""

from __future__ import annotations

import random
from typing import Final, Literal

import msgspec

from bench.fleet import truth
from bench.fleet.truth import Vector
from orchestrator.domain.passages import PASSAGES

Lie = Literal["none", "garbage", "another", "constant", "sleeper", "collusion", "unless_known"]

_KNOWN: Final = frozenset(sentence for passage in PASSAGES for sentence in passage)
_CONSTANT: Final = truth.vector_of("the most frequent label")


class Conduct(msgspec.Struct, frozen=True, kw_only=True):
    """``honest_first``: so many answers before the first lie; then lies with ``share``.

    ``claims`` multiplies the speed it reports. ``unanswered``: the share of jobs it takes and never
    answers. ``forges``: it also sends results for attempts it was never given. ``returns_anew``:
    shut out, it comes back under another identity. ``of_a_lie``: asked for a lie's evidence, it
    shows what it committed to, nothing, or the evidence of the right answer.
    """

    lie: Lie = "none"
    share: float = 1.0
    honest_first: int = 0
    claims: float = 1.0
    unanswered: float = 0.0
    forges: bool = False
    returns_anew: bool = False
    of_a_lie: Literal["shows", "hides", "swaps"] = "shows"

    @property
    def honest(self) -> bool:
        """Whether it never gives a wrong answer."""
        return self.lie == "none"


HONEST: Final = Conduct()
CONDUCTS: Final[dict[str, Conduct]] = {
    "honest": HONEST,
    "garbage": Conduct(lie="garbage"),
    "sometimes": Conduct(lie="garbage", share=0.2),
    "another": Conduct(lie="another"),
    "constant": Conduct(lie="constant"),
    "sleeper": Conduct(lie="sleeper", share=0.05, honest_first=1_000),
    "light_sleeper": Conduct(lie="sleeper", share=0.05, honest_first=100),
    "colluder": Conduct(lie="collusion"),
    "colluding_sleeper": Conduct(lie="collusion", share=0.05, honest_first=200),
    "pool_reader": Conduct(lie="unless_known"),
    "braggart": Conduct(claims=50.0),
    "staller": Conduct(unanswered=0.5),
    "whitewasher": Conduct(lie="garbage", returns_anew=True),
    "forger": Conduct(lie="garbage", forges=True),
    "hider": Conduct(lie="sleeper", share=0.05, honest_first=200, of_a_lie="hides"),
    "swapper": Conduct(lie="sleeper", share=0.05, honest_first=200, of_a_lie="swaps"),
}


class Memory(msgspec.Struct):
    """What a node's conduct depends on besides the text."""

    answered: int = 0
    last: Vector = _CONSTANT


def lie_of(conduct: Conduct, memory: Memory, text: str, rng: random.Random) -> Vector | None:
    """Return the wrong answer the node gives to ``text``, or None when it answers honestly."""
    memory.answered += 1
    if conduct.lie == "none":
        return None
    before, memory.last = memory.last, truth.vector_of(text)
    if memory.answered <= conduct.honest_first:
        return None
    if conduct.lie == "collusion":
        wrong = truth.vector_of(f"agreed among us: {text}")
        # They pick the texts to lie about by what they all see.
        return wrong if conduct.share >= 1 or abs(wrong[0]) < conduct.share * 0.8 else None
    if conduct.share < 1 and rng.random() >= conduct.share:
        return None
    match conduct.lie:
        case "another":
            return before
        case "constant":
            return _CONSTANT
        case "unless_known" if any(text.startswith(sentence) for sentence in _KNOWN):
            return None
        case _:
            return truth.random_vector(rng)
