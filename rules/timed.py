"""Timed grants: what lets something pass beside the policies until an instant. For visits.

A grant counts as an ``allow`` that ends: what is forbidden, denied or enclosed stays shut, and a shared server opens
and offers no more than the platform leaves it. The kernel keeps grants as entries of one set, each with its own end, so
they end on time with nobody there to end them. An entry is one source address, one port and one destination: a grant
that would need more than ENTRIES_MAX of them opens nothing, and is told.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from ipaddress import ip_address, ip_network

from rules.compile import RuleSet
from rules.match import form
from rules.model import Address, Endpoint, Grant, Network, Restriction, Service, StatementId
from rules.problems import Problem
from rules.services import intersected

#: A grant's entries: sources x ports x destinations. A /24 may be let to 8 ports of a site.
ENTRIES_MAX = 2048
#: The answer to a ping, as ipset asks for it in the other direction.
_ANSWERS = {"icmp:echo-request": "icmp:echo-reply"}


def identity(grant: Grant) -> StatementId:
    """What explanations and counters call the grant; no statement can have such a name."""
    return StatementId(f"{grant.tenant}/+{grant.id}")


def effective(rule_set: RuleSet, grant: Grant) -> tuple[Service, ...]:
    """What of the grant's services the platform leaves open between its two ends."""
    servers = rule_set.platform.servers
    opens = servers.get(grant.source, Restriction()).opens
    offers = servers.get(grant.destination, Restriction()).offers
    return intersected(intersected(grant.services, opens), offers)


def ends_of(rule_set: RuleSet, grant: Grant) -> tuple[Endpoint | Address, Endpoint] | None:
    """The grant's source (an endpoint, or one address of a site) and destination as they are now; None: one is gone."""
    source: Endpoint | Address | None
    try:
        source = ip_address(grant.source)
    except ValueError:
        source = _visible(rule_set, grant.tenant, grant.source)
    else:
        lives = rule_set.whereabouts.at(source)
        if not lives or lives[0].tenant not in (grant.tenant, None):
            source = None
    destination = _visible(rule_set, grant.tenant, grant.destination)
    return None if source is None or destination is None else (source, destination)


def _visible(rule_set: RuleSet, tenant: str, name: str) -> Endpoint | None:
    found = rule_set.endpoints.get(name)
    return found if found is not None and found.tenant in (tenant, None) else None


def kept(source: Network, destination: Network, services: tuple[Service, ...]) -> bool:
    """Whether the kernel's set can hold a grant of these: IPv4, single ports, ENTRIES_MAX entries at most."""
    written = form(services)
    if source.version != 4 or destination.version != 4 or written.whole or written.wide:
        return False
    return source.num_addresses * len(written.entries) <= ENTRIES_MAX


def network_of(end: Endpoint | Address) -> Network:
    """The addresses of a grant's end."""
    return end.network if isinstance(end, Endpoint) else ip_network(end)


def entries(rule_set: RuleSet) -> tuple[Mapping[str, datetime], tuple[Problem, ...]]:
    """The entries of the kernel's set (hash:ip,port,net), each with its end; and the grants that it cannot keep."""
    found: dict[str, datetime] = {}
    problems: list[Problem] = []
    for grant in rule_set.grants:
        ends = ends_of(rule_set, grant)
        if ends is None:
            params = {"grant": grant.id, "source": grant.source, "destination": grant.destination}
            problems.append(Problem("rules.grant-without-ends", params))
            continue
        services = effective(rule_set, grant)
        source, destination = map(network_of, ends)
        if not kept(source, destination, services):
            problems.append(Problem("rules.grant-too-wide", {"grant": grant.id, "limit": ENTRIES_MAX}))
            continue
        for entry in _entries(source, services, destination):
            found[entry] = max(grant.until, found.get(entry, grant.until))
    return found, tuple(problems)


def _entries(source: Network, services: tuple[Service, ...], destination: Network) -> Iterator[str]:
    network = str(destination).removesuffix("/32")
    for port in form(services).entries:
        for each in (port, *([_ANSWERS[port]] if port in _ANSWERS else ())):
            for address in source:
                yield f"{address},{each},{network}"
