"""Which site is in which ring. Pure, and the same each time: what a dry run says is what will be.

Sites are put in an order by the hash of rollout and site, so another rollout begins with other sites: it is not always
the same ones that try first, and whoever has a bad batch of hardware has no say in it. A ring by label takes its sites
wherever they stand in the order; one by share is filled up to its share of all, in order. Who is in no ring by then is
in the last one.

Two sites that exclude each other are kept apart where there are rings enough: the second goes one ring further, so
that a building's other gateway is still on the old version while the first one is watched.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

from cloudside.errors import InputError, combined
from cloudside.fleet.rollouts.model import DAY_S, HOUR_S, Ring, last_ring

RINGS_MAX = 20
SOAK_MAX_S = 90 * DAY_S
_UNITS = {"m": 60.0, "h": HOUR_S, "d": DAY_S}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A site as rings see it. ``exclusive``: whom it must not be at work with; empty: nobody."""

    site: str
    labels: Mapping[str, str] = field(default_factory=dict)
    exclusive: str = ""


def position(rollout: str, site: str) -> str:
    """Where a site stands in the order of a rollout."""
    return hashlib.sha256(f"{rollout}\n{site}".encode()).hexdigest()


def assign(rollout: str, candidates: Collection[Candidate], rings: Sequence[Ring]) -> dict[str, int]:
    """The ring of each site, from 0."""
    ordered = sorted(candidates, key=lambda one: (position(rollout, one.site), one.site))
    found: dict[str, int] = {}
    for number, ring in enumerate(rings):
        if ring.label:
            key, _, value = ring.label.partition("=")
            found |= {one.site: number for one in ordered if one.site not in found and one.labels.get(key) == value}
        elif ring.share is not None:
            # 1e-9: 0.07 * 100 is 7.000000000000001.
            room = ceil(ring.share * len(ordered) - 1e-9) - len(found)
            left = (one.site for one in ordered if one.site not in found)
            found |= {site: number for site, _ in zip(left, range(max(0, room)), strict=False)}
    last = last_ring(rings)
    for one in ordered:
        found.setdefault(one.site, last)
    return _kept_apart(ordered, found, last)


def _kept_apart(ordered: Sequence[Candidate], found: dict[str, int], last: int) -> dict[str, int]:
    taken: dict[str, set[int]] = {}
    for one in sorted((one for one in ordered if one.exclusive), key=lambda one: found[one.site]):
        rings = taken.setdefault(one.exclusive, set())
        ring = found[one.site]
        while ring in rings and ring < last:
            ring += 1
        rings.add(ring)
        found[one.site] = ring
    return found


def parse(text: str) -> Ring:
    """A ring as people write it: ``5%``, ``5%:24h``, ``canary=yes:2d``. Raises InputError."""
    what, _, soak = text.partition(":")
    what = what.strip()
    soak_s = _soak(text, soak.strip())
    if what.endswith("%"):
        try:
            share = float(what[:-1]) / 100
        except ValueError:
            raise InputError("rollout.bad-ring", ring=text[:60]) from None
        if not 0 < share <= 1:
            raise InputError("rollout.bad-ring", ring=text[:60])
        return Ring(share, soak_s=soak_s)
    key, equals, value = what.partition("=")
    if not (key and equals and value):
        raise InputError("rollout.bad-ring", ring=text[:60])
    return Ring(None, what, soak_s)


def checked(rings: Sequence[Ring]) -> tuple[Ring, ...]:
    """The rings in the order given; a last one with all sites is put behind them where there is none.

    Raises InputError (or InputErrors): too many, shares that do not grow, a label twice.
    """
    found = list(rings)
    if not found or found[-1].share != 1.0:
        found.append(Ring(1.0, soak_s=0.0))
    problems: list[InputError] = []
    if len(found) > RINGS_MAX:
        problems.append(InputError("rollout.too-many-rings", most=RINGS_MAX))
    shares = [ring.share for ring in found if ring.share is not None]
    for before, after in pairwise(shares):
        if after <= before:
            problems.append(InputError("rollout.ring-order", before=f"{100 * before:g}%", after=f"{100 * after:g}%"))
    labels = [ring.label for ring in found if ring.label]
    problems += [
        InputError("rollout.ring-twice", label=label[:60])
        for label in sorted({one for one in labels if labels.count(one) > 1})
    ]
    if problems:
        raise combined(problems)
    return tuple(found)


def in_words(ring: Ring) -> str:
    """As `parse` reads it."""
    who = ring.label if ring.share is None else f"{ring.share * 100:g}%"
    for unit, length in reversed(_UNITS.items()):
        if ring.soak_s >= length and ring.soak_s % length == 0:
            return f"{who}:{ring.soak_s / length:g}{unit}"
    return f"{who}:{ring.soak_s / 60:g}m"


def _soak(text: str, soak: str) -> float:
    if not soak:
        return DAY_S
    unit = _UNITS.get(soak[-1])
    number = soak[:-1]
    if unit is None or not number.isascii() or not number.isdigit() or int(number) * unit > SOAK_MAX_S:
        raise InputError("rollout.bad-ring", ring=text[:60])
    return int(number) * unit
