"""What was promised against what is in the queue and in the smarthost's hands. Pure.

A recipient whose mail got its 250 must stand in the queue exactly once, and be there what it is said to be: delivered
ones were taken whole by the smarthost, bounced and expired ones were reported to their sender, waiting ones have their
body.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloudside.mail.model import State
from lab.mail_proof.ledger import Take
from lab.mail_proof.traffic import Fate, Mix, digest, fate_of, made, number_of

#: Ends that each fate may come to. A slow queue may let a recipient expire that would have been taken later.
ENDS = {
    Fate.TAKEN: {State.DELIVERED},
    Fate.LATER: {State.DELIVERED, State.EXPIRED},
    Fate.GONE: {State.BOUNCED},
    Fate.NEVER: {State.EXPIRED},
}


@dataclass(frozen=True, slots=True)
class Standing:
    """The queue at one moment: recipients with each row's state; digests of bodies that wait; what reports that wait
    are about. A finished recipient has no digest."""

    states: Mapping[str, tuple[State, ...]]
    waiting: Mapping[str, str]
    reported: frozenset[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who was promised, who is lost and why, and mails of which only some recipients are there."""

    promised: int
    lost: Mapping[str, str]
    torn: frozenset[int]

    @property
    def mails_lost(self) -> int:
        """Mails with a recipient that is lost."""
        return len({number_of(recipient) for recipient in self.lost}) + len(self.torn)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Mails that the smarthost took more than once. ``windows_s``: from a take to the cut that made it forgotten.

    RFC 1047: the only way there is the receiver's 250 that the sender did not live to write down. ``unexplained`` are
    those that came again while the relay lived to which the first one's connection belonged.
    """

    windows_s: tuple[float, ...]
    unexplained: tuple[str, ...]


def judge(numbers: Iterable[int], mix: Mix, takes: Sequence[Take], standing: Standing, *, ended: bool) -> Verdict:
    """Every recipient of the mails with these numbers. ``ended``: nothing is to wait any more, each has its fate."""
    taken: dict[str, set[str]] = defaultdict(set)
    for take in takes:
        taken[take.recipient].add(take.digest)
    reported = {take.reported for take in takes if take.reported} | standing.reported
    lost: dict[str, str] = {}
    promised = 0
    known = set(numbers)
    for number in known:
        mail = made(number, mix)
        wanted = digest(mail.body)
        promised += len(mail.recipients)
        for recipient in mail.recipients:
            why = _fault(recipient, wanted, taken.get(recipient, set()), standing, reported, ended=ended)
            if why:
                lost[recipient] = why
    return Verdict(promised, lost, _torn(standing, mix, known))


def duplicates(takes: Sequence[Take], cuts: Sequence[float]) -> Duplicates:
    """What was taken twice, and whether a cut explains it. ``cuts`` in rising order, on the takes' clock."""
    last: dict[tuple[str, str], Take] = {}
    windows = []
    unexplained = []
    for take in sorted(takes, key=lambda one: one.at):
        # A report is known by its own id: two about one recipient differ. A mail is known by its body.
        key = take.recipient, take.message_id if take.reported else take.digest
        if key in last:
            first = last[key]
            # The end of the relay that the connection came from.
            place = bisect_left(cuts, first.at if first.opened is None else first.opened)
            if place < len(cuts) and cuts[place] <= take.at:
                windows.append(max(0.0, cuts[place] - first.at))
            else:
                unexplained.append(take.recipient)
        last[key] = take
    return Duplicates(tuple(windows), tuple(unexplained))


def reported_twice(takes: Sequence[Take]) -> tuple[str, ...]:
    """Recipients about whom more than one report was written (a report that was only sent twice is one)."""
    reports: dict[str, set[str]] = defaultdict(set)
    for take in takes:
        if take.reported:
            reports[take.reported].add(take.message_id)
    return tuple(sorted(recipient for recipient, ids in reports.items() if len(ids) > 1))


def _fault(recipient: str, wanted: str, taken: set[str], standing: Standing, reported: set[str], *, ended: bool) -> str:
    states = standing.states.get(recipient, ())
    if len(states) != 1:
        return "not in the queue" if not states else f"in the queue {len(states)} times"
    (state,) = states
    fate = fate_of(recipient)
    if ended and fate is not None and state not in ENDS[fate]:
        return f"{state}, which is not its end"
    match state:
        case State.DELIVERED if not taken:
            return "delivered, says the queue; the smarthost has nothing"
        case State.DELIVERED if taken != {wanted}:
            return "delivered with another body"
        case State.BOUNCED | State.EXPIRED if recipient not in reported:
            return f"{state}, and nobody was told"
        case State.DROPPED:
            return "dropped, and nobody had asked for it"
        case State.QUEUED | State.SENDING | State.HELD if standing.waiting.get(recipient) != wanted:
            return f"{state} with another body" if recipient in standing.waiting else f"{state}, and never comes up"
    return ""


def _torn(standing: Standing, mix: Mix, promised: set[int]) -> frozenset[int]:
    """Mails that nobody promised, of which some recipients are there and some are not."""
    there: dict[int, int] = defaultdict(int)
    for recipient in standing.states:
        number = number_of(recipient)
        if number is not None and number not in promised:
            there[number] += 1
    return frozenset(number for number, count in there.items() if count != len(made(number, mix).recipients))
