"""Live tunnels: what events and listings say, and which of them must go. Pure.

Events are quick and can be lost; listings are sure and leave out an SA that charon works on at that moment (noblock).
So an SA is there from its event on, and gone by its event or when two listings in a row lack it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from cloudside.config import Network
from cloudside.datapath.problems import Problem, problem
from cloudside.vpn.connections import CONNECTION
from linux.charon import IkeSa, SaEvent

#: States of an IKE_SA in which its CHILD_SAs carry traffic.
_ALIVE = frozenset({"ESTABLISHED", "REKEYING", "REKEYED"})
_CHILD_ALIVE = frozenset({"INSTALLED", "INSTALLING", "UPDATING", "REKEYING", "REKEYED"})


@dataclass(frozen=True, slots=True)
class Table:
    """IKE_SAs by unique id, and those that the last listing lacked."""

    sas: Mapping[int, IkeSa] = field(default_factory=dict)
    missing: frozenset[int] = frozenset()


def after_events(table: Table, events: Iterable[SaEvent]) -> Table:
    """The table after these events, in their order."""
    sas = dict(table.sas)
    told: set[int] = set()
    for event in events:
        _note(sas, event)
        told.add(event.sa.unique_id)
    return Table(sas, table.missing - told)


def _note(sas: dict[int, IkeSa], event: SaEvent) -> None:
    sa = event.sa
    if event.kind == "ike" and not event.up:
        sas.pop(sa.unique_id, None)
    elif event.kind == "child":
        known = sas.get(sa.unique_id, replace(sa, children=()))
        numbers = {child.unique_id for child in sa.children}
        others = tuple(child for child in known.children if child.unique_id not in numbers)
        # The event comes while the child is installed: its state is not yet what it is about to be.
        children = tuple(replace(child, state="INSTALLED") for child in sa.children) if event.up else ()
        sas[sa.unique_id] = replace(sa, children=others + children)
    else:
        known = sas.get(sa.unique_id, sa)  # its children came up a moment before it did
        sas[sa.unique_id] = replace(sa, children=known.children)


def after_listing(table: Table, listing: Iterable[IkeSa]) -> Table:
    """The table after a listing."""
    found = {sa.unique_id: sa for sa in listing}
    lacking = table.sas.keys() - found.keys()
    kept = {number: table.sas[number] for number in lacking - table.missing}
    return Table(found | kept, frozenset(lacking - table.missing))


def unannounced(table: Table, listing: Iterable[IkeSa], *, younger_than_s: float) -> tuple[int, ...]:
    """SAs of a listing that came up in the last so many seconds, and that neither an event nor an earlier listing told
    of. With a stream of events that works they are told of in a moment: an event comes when an SA is up.
    """
    return tuple(
        sa.unique_id
        for sa in listing
        # charon tells whole seconds: in doubt it is the older one.
        if sa.unique_id not in table.sas and sa.state in _ALIVE and sa.established_s + 1 < younger_than_s
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """What a tunnel has to keep to besides its prefix. ``old_sites`` may use a class for old routers."""

    old_sites: frozenset[str] = frozenset()
    child_sas_per_site: int = 16


@dataclass(frozen=True, slots=True)
class Live:
    """A tunnel that carries traffic and may."""

    site: str
    prefixes: tuple[Network, ...]
    peer: str
    suite: str
    established_s: int
    #: 1 or 2; 0: charon did not say.
    ike_version: int = 0


_RULES = Rules()


class Accepted(NamedTuple):
    """An IKE_SA that was found to be in order, with the prefix that it was held against."""

    sa: IkeSa
    prefix: Network
    live: Live


@dataclass(frozen=True, slots=True)
class Judgement:
    """``live`` by site; ``expelled`` IKE_SAs that must end, and why; ``accepted`` is for the next judgement."""

    live: Mapping[str, Live]
    expelled: tuple[int, ...]
    problems: tuple[Problem, ...]
    accepted: Mapping[int, Accepted] = field(default_factory=dict)


def judge(
    table: Table,
    prefixes: Mapping[str, Network],
    revoked_s: Mapping[str, float] | None = None,
    rules: Rules = _RULES,
    before: Mapping[int, Accepted] = MappingProxyType({}),
) -> Judgement:
    """Hold live tunnels against the registry. ``prefixes``: site -> overlay prefix, for sites that may be here.
    ``revoked_s``: site -> seconds since a certificate of its was revoked, for sites where that happened.

    A tunnel of an unknown, revoked or retired site ends, and one that carries more than its site's prefix: then
    certificate and registry disagree, and the registry is the truth. So does one that is older than the revocation:
    its peer, a router that was replaced, may not prove itself any more, and rekeying never asks it to (RFC 7296 2.8).
    So does one by an old IKE version that its site is not permitted, and one of a router that makes SAs without end.

    ``before``: what the last judgement, by the same ``rules``, accepted. Of thousands of tunnels a few have changed;
    what did not is the very same object.
    """
    live: dict[str, Live] = {}
    accepted: dict[int, Accepted] = {}
    expelled: list[int] = []
    problems: dict[Problem, None] = {}
    for number, sa in sorted(table.sas.items()):
        known = before.get(number)
        if (
            known is not None
            and known.sa is sa
            and prefixes.get(sa.remote_id) is known.prefix
            and (revoked_s is None or sa.remote_id not in revoked_s)
        ):
            accepted[number] = known
            _join(live, known.live)
            continue
        if sa.state not in _ALIVE:
            continue
        prefix = prefixes.get(sa.remote_id)
        if prefix is None:
            expelled.append(number)
            problems[problem("vpn.site-not-admitted", site=sa.remote_id[:80], peer=sa.remote_host)] = None
            continue
        # charon tells whole seconds: in doubt the SA is the older one, and a router that may come back does so.
        if revoked_s is not None and sa.established_s + 1 > revoked_s.get(sa.remote_id, math.inf):
            expelled.append(number)
            problems[problem("vpn.router-replaced", site=sa.remote_id, peer=sa.remote_host)] = None
            continue
        if sa.connection != CONNECTION and sa.remote_id not in rules.old_sites:
            expelled.append(number)
            problems[problem("vpn.old-class-not-permitted", site=sa.remote_id, peer=sa.remote_host)] = None
            continue
        children = [child for child in sa.children if child.state in _CHILD_ALIVE]
        if len(children) > rules.child_sas_per_site:
            expelled.append(number)
            limit = rules.child_sas_per_site
            problems[problem("vpn.too-many-child-sas", site=sa.remote_id, peer=sa.remote_host, limit=limit)] = None
            continue
        carried = tuple(dict.fromkeys(network for child in children for network in child.remote))
        foreign = [network for network in carried if not _inside(network, prefix)]
        if foreign:
            expelled.append(number)
            shown = ", ".join(map(str, foreign))
            problems[problem("vpn.foreign-prefix", site=sa.remote_id, carried=shown, prefix=str(prefix))] = None
        elif carried:
            suite = f"{sa.suite} {children[0].suite}".strip()
            one = Live(sa.remote_id, carried, sa.remote_host, suite, sa.established_s, sa.ike_version)
            accepted[number] = Accepted(sa, prefix, one)
            _join(live, one)
    return Judgement(live, tuple(expelled), tuple(problems), accepted)


def _join(live: dict[str, Live], one: Live) -> None:
    """A site may have two IKE_SAs for a moment: the newer one counts, with what both carry."""
    older = live.get(one.site)
    if older is not None:
        one = replace(one, prefixes=tuple(dict.fromkeys((*older.prefixes, *one.prefixes))))
    live[one.site] = one


def _inside(network: Network, prefix: Network) -> bool:
    return (
        network.version == prefix.version
        and network.prefixlen >= prefix.prefixlen
        and network.network_address in prefix
    )
