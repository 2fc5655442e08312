"""Does a plan need an explicit yes? It does if it opens many pairs, or crosses an invariant.

Judged by what the policy permits at any time, not by what it permits now: a statement that begins to hold tonight, or
whose hours grow, counts already. So a plan has the same code at noon and at midnight.

The invariants: no row between two tenants' own endpoints; every endpoint inside its tenant's block, or a server outside
all blocks; default deny, which a policy crosses by opening everything between all of a tenant's sites, or from a
shared server to all of them. The first two are held by compile and by check_inventory already: this is a second pair of
eyes. A crossing that was there before is no news, and was acknowledged then.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from rules.compile import compile_policy
from rules.diff import Difference, Rows, diff
from rules.matrix import Pair
from rules.model import (
    SELECTOR_MAX,
    Action,
    Endpoint,
    Inventory,
    Kind,
    Network,
    Policy,
    Protocol,
    Restriction,
    Service,
    Statement,
    TenantPolicy,
    endpoints,
)
from rules.problems import Parameter, Reason
from rules.services import intersected, subtracted

#: All that is needed to work on anything: whoever opens both has opened everything.
_WIDE = (Service(Protocol.TCP, 1, SELECTOR_MAX), Service(Protocol.UDP, 1, SELECTOR_MAX))
#: With fewer sites “all of a tenant's sites” says nothing.
_SITES_MIN = 2


@dataclass(frozen=True, slots=True)
class Assessment:
    """``opened`` is what gets opened at some time. ``code`` names this very plan."""

    opened: Rows
    limit: int
    crossings: tuple[Reason, ...]
    code: str

    @property
    def pairs(self) -> int:
        """How many pairs of source and destination get something opened."""
        return self.opened.pairs

    @property
    def too_many(self) -> bool:
        """Whether more pairs are opened than pass without a word."""
        return self.pairs > self.limit

    @property
    def needs_yes(self) -> bool:
        """Whether the plan may be applied only with its code."""
        return self.too_many or bool(self.crossings)


def assess(
    before: Policy | None,
    after: Policy,
    inventory: Inventory,
    now: Difference,
    *,
    at: datetime,
    scope: str,
    against: int,
    limit: int,
) -> Assessment:
    """Judge a plan. ``now`` is the difference of this moment; ``scope`` and ``against`` say whose policy is replaced,
    and which version of it: the code is bound to them.

    Raises PolicyError if the inventory is inconsistent.
    """
    old, new = at_any_time(before, after, at)
    difference = now
    if old is not before or new is not after:
        was = None if old is None else compile_policy(old, inventory, at=at)
        difference = diff(was, compile_policy(new, inventory, at=at))
    known = endpoints(inventory)
    widest = [at_any_time(None, one, at)[1] for one in (before, after) if one is not None]
    earlier = {_subject(one) for policy in widest[:-1] for one in _disguised(policy, known)}
    crossings = (
        *_across_tenants(difference.opened.ends(), known),
        *_misplaced(known.values(), inventory.tenants),
        *(one for one in _disguised(widest[-1], known) if _subject(one) not in earlier),
    )
    return Assessment(difference.opened, limit, crossings, _code(scope, against, difference, crossings))


def at_any_time(before: Policy | None, after: Policy, at: datetime) -> tuple[Policy | None, Policy]:
    """Both policies without validities, so that what their difference opens is all that may ever be opened.

    After: allows hold always, denies that have a validity never. Before the same for statements that did not change;
    of the others the narrowest is taken: an allow with a validity never held, a deny always. What is over never counts.
    The very objects come back where there are no validities.
    """
    kept = {_content(one) for own in after.tenants.values() for one in own.statements if one.validity is not None}
    new = _freed(after, at, lambda one: one.action is Action.ALLOW)
    if before is None:
        return None, new
    return _freed(before, at, lambda one: (one.action is Action.ALLOW) is (_content(one) in kept)), new


def _freed(policy: Policy, at: datetime, keeps: Callable[[Statement], bool]) -> Policy:
    """The policy where each statement with a validity holds always, if ``keeps`` says so, or is left out."""
    tenants: dict[str, TenantPolicy] = {}
    changed = False
    for tenant, own in policy.tenants.items():
        tenants[tenant] = own
        if any(one.validity is not None for one in own.statements):
            changed = True
            statements = tuple(
                one if one.validity is None else replace(one, validity=None)
                for one in own.statements
                if one.validity is None or (keeps(one) and (one.validity.until is None or at < one.validity.until))
            )
            tenants[tenant] = replace(own, statements=statements)
    return replace(policy, tenants=tenants) if changed else policy


def _content(one: Statement) -> tuple[object, ...]:
    """All of a statement but where it stands and whose it is."""
    return (one.id, one.sources, one.destinations, one.services, one.both, one.action, one.validity)


def _subject(crossing: Reason) -> tuple[object, ...]:
    return (crossing.key, crossing.params.get("tenant"), crossing.params.get("server"))


def _across_tenants(pairs: Iterable[Pair], known: Mapping[str, Endpoint]) -> Iterable[Reason]:
    tenant_of = {name: one.tenant for name, one in known.items()}
    for source, destination in pairs:
        one, other = tenant_of.get(source), tenant_of.get(destination)
        if one != other and one is not None and other is not None:
            yield Reason("rules.gate-across-tenants", {"source": source, "destination": destination})


def _misplaced(known: Iterable[Endpoint], blocks: Mapping[str, Network]) -> Iterable[Reason]:
    for endpoint in known:
        if endpoint.kind is Kind.SERVER:
            inside = [tenant for tenant, block in blocks.items() if _within(endpoint.network, block)]
            if not inside:
                continue
        else:
            block = blocks.get(endpoint.tenant or "")
            if block is not None and _within(endpoint.network, block):
                continue
        yield Reason("rules.gate-misplaced", {"name": endpoint.name, "address": str(endpoint.network)})


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _disguised(policy: Policy, known: Mapping[str, Endpoint]) -> Iterable[Reason]:
    """Default-allow in disguise. Denies are not taken off: a list of exceptions to everything is no default deny."""
    sites: dict[str, set[str]] = {}
    for endpoint in known.values():
        if endpoint.kind is Kind.SITE and endpoint.tenant is not None:
            sites.setdefault(endpoint.tenant, set()).add(endpoint.name)
    shared = {name for name, one in known.items() if one.kind is Kind.SERVER and one.tenant is None}
    for tenant, own in sorted(policy.tenants.items()):
        theirs = frozenset(sites.get(tenant, ()))
        if len(theirs) < _SITES_MIN:
            continue
        opened = [_opened(own.statements, wide) for wide in _WIDE]
        params: dict[str, Parameter] = {"tenant": tenant, "sites": len(theirs)}
        if all(_everyone(table, theirs) for table in opened):
            yield Reason("rules.gate-all-open", params)
        for server in sorted(shared):
            may = policy.platform.servers.get(server, Restriction()).opens
            if not subtracted(_WIDE, may) and all(_everything(table, server, theirs) for table in opened):
                yield Reason("rules.gate-server-open", {**params, "server": server})


_Table = set[tuple[frozenset[str], frozenset[str]]]


def _opened(statements: Iterable[Statement], wide: Service) -> _Table:
    """The (sources, destinations) that statements open all of a protocol between."""
    found: _Table = set()
    for one in statements:
        if one.action is Action.ALLOW and intersected([wide], one.services) == (wide,):
            found.add((one.sources, one.destinations))
            if one.both:
                found.add((one.destinations, one.sources))
    return found


def _everyone(table: _Table, sites: frozenset[str]) -> bool:
    """Whether each of the sites may open all the others."""
    return all(_everything(table, site, sites - {site}) for site in sorted(sites))


def _everything(table: _Table, source: str, wanted: frozenset[str]) -> bool:
    return wanted <= frozenset().union(*(destinations for sources, destinations in table if source in sources))


def _code(scope: str, against: int, difference: Difference, crossings: Iterable[Reason]) -> str:
    """Eight letters and digits (40 bits) of a digest: against mistakes and stale plans, not against a forger."""
    content = [
        scope,
        against,
        difference.digest,
        [[one.key, sorted(one.params.items())] for one in crossings],
    ]
    digest = base64.b32encode(hashlib.sha256(json.dumps(content).encode()).digest()).decode().lower()
    return f"{digest[:4]}-{digest[4:8]}"
