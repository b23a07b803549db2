"""What audits have shown of a stranger: adaptive replication, per identity and runtime class.

An audit holds a node's answer against a trusted one to the same task. The rule is BOINC's adaptive
replication (https://github.com/BOINC/boinc/wiki/AdaptiveReplication) with a floor:

    newcomer     fewer than `TRUST_AFTER` consecutive agreed audits, of which at least `REAL_AFTER`
                 on customers' texts: none of its answers is delivered before it was compared
    trusted      audited with probability max(share, 1 / consecutive)
    quarantined  disagreed twice within about a hundred audits: gets no work until released
    banned       by an operator: refused at the door

One disagreement makes a trusted node a newcomer again, and asks more of it than the first time.
What makes up for it doubles with each: a node learns what it was found out in, and could else lie a
little after every pardon. `UNSHOWN_MAX` answers whose evidence it did not show, and whose output
does not tell, are one disagreement.
Only what a trusted node said moves this record: what two strangers say of each other does not.
"""

from __future__ import annotations

from typing import Final, Literal, NewType

import msgspec

Identity = NewType("Identity", str)
"""Hex SHA-256 of a node's public key; empty for the CPU worker."""
RuntimeClass = NewType("RuntimeClass", str)
"""``kind/backend``, as ``browser/wasm``: answers are compared, and trust is kept, within one."""

TRUST_AFTER: Final = 10
# Texts made here can be told from customers' by whoever reads this project's source: a liar could
# be honest on those alone. These many audits must have been on texts that nobody could know.
REAL_AFTER: Final = 3
AUDIT_SHARE: Final = 0.05
STRIKES: Final = 2
# So many agreed audits in a row, on customers' texts, make up for the first disagreement.
FORGIVEN_AFTER: Final = 100
# A tab that is closed may have an audit open, but not three times within about sixty audits: so
# many agreed ones make up for one that was not shown.
UNSHOWN_MAX: Final = 3
SHOWN_AFTER: Final = 20
# A node that has disagreed once must agree so many times as often to be trusted again.
PROBATION: Final = 4
PROBATION_SHARE: Final = 0.25

Level = Literal["newcomer", "trusted", "quarantined", "banned"]


class Policy(msgspec.Struct, frozen=True):
    """The operator's knobs. ``trust_after`` 0 trusts every node that calibrates: a private fleet.

    ``audit_share`` is the least share of a trusted node's answers that is audited.
    """

    trust_after: int = TRUST_AFTER
    real_after: int = REAL_AFTER
    audit_share: float = AUDIT_SHARE


class Standing(msgspec.Struct, gc=False):
    """The record of one identity in one runtime class. Outlives every session of it.

    ``consecutive`` counts agreed audits since the last disagreement, ``real`` those of them on
    customers' texts; ``strikes`` are disagreements not yet made up for, ``unshown`` audits that
    could not be decided for want of evidence, neither.
    """

    identity: Identity
    runtime: RuntimeClass
    consecutive: int = 0
    real: int = 0
    agreed: int = 0
    disagreed: int = 0
    strikes: int = 0
    unshown: int = 0
    quarantined: bool = False
    banned: bool = False
    reason: str = ""


def level(standing: Standing, policy: Policy) -> Level:
    """Return what the node may be used for."""
    if standing.banned:
        return "banned"
    if standing.quarantined:
        return "quarantined"
    if policy.trust_after == 0:
        return "trusted"
    # Both grow with strikes: known texts are answered in milliseconds, and can be recognised.
    factor = PROBATION**standing.strikes
    if standing.consecutive < policy.trust_after * factor:
        return "newcomer"
    return "newcomer" if standing.real < policy.real_after * factor else "trusted"


def audit_share(standing: Standing, policy: Policy) -> float:
    """Return the probability with which a trusted node's next answer is audited."""
    if policy.audit_share <= 0:
        return 0.0
    if policy.trust_after == 0 and not standing.strikes:
        return policy.audit_share
    floor = PROBATION_SHARE if standing.strikes else policy.audit_share
    return min(max(floor, 1.0 / max(standing.consecutive, 1)), 1.0)


def agreed(standing: Standing, *, real: bool) -> None:
    """Count an audit that the node passed; ``real`` if on a customer's text."""
    standing.consecutive += 1
    standing.agreed += 1
    standing.real += real
    if standing.strikes and real:
        pardon = FORGIVEN_AFTER << max(standing.disagreed - 1, 0)
        standing.strikes -= standing.real % pardon == 0
    if standing.unshown and standing.consecutive % SHOWN_AFTER == 0:
        standing.unshown -= 1


def disagreed(standing: Standing, reason: str) -> None:
    """Count a wrong answer; the second not made up for quarantines."""
    standing.consecutive = 0
    standing.real = 0
    standing.disagreed += 1
    standing.strikes += 1
    if standing.strikes >= STRIKES:
        standing.quarantined = True
        standing.reason = reason


def unshown(standing: Standing) -> bool:
    """Count an audit without evidence; returns whether it is one too many: a disagreement."""
    standing.unshown += 1
    if standing.unshown < UNSHOWN_MAX:
        return False
    standing.unshown = 0
    return True


def erred(standing: Standing) -> None:
    """Count a failure of the node's own making: worth less than a wrong answer, not nothing."""
    standing.consecutive //= 2
    standing.real //= 2


def release(standing: Standing) -> None:
    """Undo quarantine and ban; the node starts as a newcomer with its strikes forgotten."""
    standing.quarantined = standing.banned = False
    standing.strikes = standing.consecutive = standing.real = standing.unshown = 0
    standing.reason = ""
