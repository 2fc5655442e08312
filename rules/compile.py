"""Policy + Inventory -> RuleSet: the whole decision as data, of which evaluate, render, explain and diff are readings.

A packet passes if at least one ``allow`` covers it, no ``deny`` does, the platform does not forbid it, and its source
is in every nested group that its destination is in. The order of statements has no meaning, nor has which of them is
the more particular: a deny about a site holds for each of its devices, and no allow overrules it.

A rule set is put together of one *domain* a tenant: its rules (rules.blocks) and where its endpoints are. Between a
tenant's endpoints, and between them and shared servers, its own domain decides and no other; so nothing crosses
tenants whatever a policy names. A domain of which neither policy nor inventory changed is taken over as it is, which
makes the change of one site in ten thousand a matter of a millisecond.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rules.blocks import TenantRules, compile_tenant, hashed, written
from rules.collector import paused
from rules.inventory import check_inventory, check_shared
from rules.model import Address, Endpoint, Grant, Inventory, Kind, Network, Platform, Policy, TenantPolicy, endpoints
from rules.parts import Parts, parts_of
from rules.problems import PolicyError


class Whereabouts:
    """Which of one tenant's endpoints an address belongs to."""

    def __init__(self, known: Iterable[Endpoint]) -> None:
        self._devices = {one.network.network_address: one for one in known if one.kind is Kind.DEVICE}
        sites = sorted((*_start(one.network), one.name, one) for one in known if one.kind is Kind.SITE)
        self._starts = [site[:2] for site in sites]
        self._sites = [site[3] for site in sites]

    def at(self, address: Address) -> tuple[Endpoint, ...]:
        """The most particular endpoint first: (device, site), (site,) or nothing."""
        position = bisect_right(self._starts, (address.version, int(address))) - 1
        if position < 0 or address not in self._sites[position].network:
            return ()
        site = self._sites[position]
        device = self._devices.get(address)
        return (site,) if device is None else (device, site)


@dataclass(frozen=True, slots=True)
class Domain:
    """What one tenant's policy decides about: its own endpoints and the shared servers.

    ``policy`` and ``part`` are what it was made of; it is known by their identity. ``particular`` has the devices, by
    site, that the rules name: they alone can differ from their sites. ``ipv6`` has the names with an IPv6 network.
    """

    block: Network
    rules: TenantRules
    endpoints: Mapping[str, Endpoint]
    digest: str
    whereabouts: Whereabouts = field(compare=False, repr=False)
    particular: Mapping[str, tuple[str, ...]] = field(compare=False, repr=False)
    ipv6: tuple[str, ...] = field(compare=False)
    policy: TenantPolicy = field(compare=False, repr=False)
    part: Inventory = field(compare=False, repr=False)


class Territories:
    """Which endpoints of all tenants an address belongs to."""

    def __init__(self, domains: Mapping[str, Domain], servers: Iterable[Endpoint]) -> None:
        self._domains = sorted(domains.values(), key=lambda one: _start(one.block))
        self._starts = [_start(one.block) for one in self._domains]
        self._servers = {server.network.network_address: server for server in servers}

    def at(self, address: Address) -> tuple[Endpoint, ...]:
        """The most particular endpoint first: (device, site), (site,), (server,) or nothing."""
        if (server := self._servers.get(address)) is not None:
            return (server,)
        position = bisect_right(self._starts, (address.version, int(address))) - 1
        if position < 0 or address not in self._domains[position].block:
            return ()
        return self._domains[position].whereabouts.at(address)


def _start(network: Network) -> tuple[int, int]:
    return network.version, int(network.network_address)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Who may reach what. A name that no domain's rules know may reach nothing.

    A device has the blocks of its site besides its own. ``endpoints`` has all tenants'; ``shared`` the servers that
    every tenant may name, ``servers`` those and the tenants' own. ``fingerprint`` is equal exactly if everything else
    is. ``next_change``: when the next statement begins or ends, or a grant ends; compile again then.
    """

    domains: Mapping[str, Domain]
    shared: Mapping[str, Endpoint]
    servers: Mapping[str, Endpoint]
    endpoints: Mapping[str, Endpoint]
    platform: Platform
    #: Those that hold now.
    grants: tuple[Grant, ...]
    fingerprint: str
    whereabouts: Territories = field(compare=False, repr=False)
    parts: Parts = field(compare=False, repr=False)
    next_change: datetime | None = field(default=None, compare=False)
    at: datetime | None = field(default=None, compare=False)

    def between(self, source: Endpoint, destination: Endpoint) -> Domain | None:
        """The domain that decides; None if none does (two tenants, or two shared servers)."""
        tenants = {source.tenant, destination.tenant} - {None}
        if len(tenants) != 1:
            return None
        return self.domains.get(str(tenants.pop()))

    def about(self, endpoint: Endpoint) -> list[Domain]:
        """The domains that say something about what the endpoint may do."""
        if endpoint.tenant is not None:
            return [self.domains[endpoint.tenant]] if endpoint.tenant in self.domains else []
        return [domain for domain in self.domains.values() if endpoint.name in domain.rules.named]

    def particular(self, site: Endpoint) -> tuple[str, ...]:
        """The site's devices that a clause or a nested group names."""
        domain = self.domains.get(site.tenant or "")
        return () if domain is None else domain.particular.get(site.name, ())


def compile_policy(
    policy: Policy,
    inventory: Inventory,
    *,
    at: datetime | None = None,
    grants: Iterable[Grant] = (),
    previous: RuleSet | None = None,
) -> RuleSet:
    """Decide for the instant ``at``; it may be left out if no statement has a validity and there are no grants. Names
    that the inventory does not have, or that are not the statement's tenant's, fall away.

    Raises PolicyError if the inventory is inconsistent: with overlapping prefixes there is no right decision.
    """
    if problems := check_inventory(inventory):
        raise PolicyError(problems)
    with paused():
        return _assembled(policy, parts_of(inventory), at=at, grants=grants, previous=previous, checked=True)


def assemble(
    policy: Policy,
    parts: Parts,
    *,
    at: datetime | None = None,
    grants: Iterable[Grant] = (),
    previous: RuleSet | None = None,
) -> RuleSet:
    """The same from an inventory in parts.

    Of ``previous`` those domains are taken over whose policy and part are the very same objects and that no validity
    changes between then and ``at``. Parts that are new are checked; raises PolicyError.
    """
    with paused():
        return _assembled(policy, parts, at=at, grants=grants, previous=previous, checked=False)


def _assembled(
    policy: Policy,
    parts: Parts,
    *,
    at: datetime | None,
    grants: Iterable[Grant],
    previous: RuleSet | None,
    checked: bool,
) -> RuleSet:
    kept = previous.domains if previous is not None and _lasts(previous, policy.platform, at) else {}
    if not checked:
        _check(parts, previous)
    domains: dict[str, Domain] = {}
    for tenant, part in sorted(parts.own.items()):
        old = kept.get(tenant)
        own = policy.tenants.get(tenant)
        if own is None:
            own = old.policy if old is not None and not old.policy.statements else TenantPolicy(tenant, ())
        lasting = old is not None and old.policy is own and _holds_still(old.rules, at)
        if old is not None and lasting and old.part is part:
            domains[tenant] = old
            continue
        rules = old.rules if old is not None and lasting else compile_tenant(own, policy.platform, at=at)
        domains[tenant] = _domain(own, part, rules)
    common = endpoints(parts.shared)
    everything = dict(common)
    for domain in domains.values():
        everything.update(domain.endpoints)
    servers = dict(common)
    for domain in domains.values():
        servers.update((one.name, domain.endpoints[one.name]) for one in domain.part.servers)
    holding = tuple(sorted(grant for grant in grants if at is None or at < grant.until))
    changes = [change for one in domains.values() if (change := one.rules.next_change) is not None]
    return RuleSet(
        domains,
        common,
        servers,
        everything,
        policy.platform,
        holding,
        _fingerprint(domains, common, policy.platform, holding),
        Territories(domains, servers.values()),
        parts,
        min((*changes, *(grant.until for grant in holding)), default=None),
        at,
    )


def _check(parts: Parts, previous: RuleSet | None) -> None:
    """Check what is new since ``previous``. Raises PolicyError."""
    before = previous.parts if previous is not None else Parts()
    new = [tenant for tenant, part in parts.own.items() if before.own.get(tenant) is not part]
    problems = [found for tenant in new for found in check_inventory(parts.own[tenant])]
    if previous is None or parts.shared is not before.shared or any(_spreads(parts, previous, one) for one in new):
        problems += check_shared(parts)
    if problems:
        raise PolicyError(problems)


def _spreads(parts: Parts, previous: RuleSet, tenant: str) -> bool:
    """Whether the tenant's new part may be in the way of another tenant's."""
    old, new = previous.parts.own.get(tenant), parts.own[tenant]
    if old is None or old.tenants != new.tenants or old.servers != new.servers:
        return True
    known = {site.name for site in old.sites}
    # A name that is new may be an older one's of another tenant, or of one that is new as well.
    return any(site.name not in known for site in new.sites) and (
        any(site.name in previous.endpoints for site in new.sites if site.name not in known)
        or sum(previous.parts.own.get(one) is not part for one, part in parts.own.items()) > 1
    )


def _lasts(previous: RuleSet, platform: Platform, at: datetime | None) -> bool:
    """Whether anything of the previous rule set can be taken over: not after a clock was set back."""
    if previous.platform != platform:
        return False
    return (at is None) == (previous.at is None) and (at is None or previous.at is None or previous.at <= at)


def _holds_still(rules: TenantRules, at: datetime | None) -> bool:
    return rules.next_change is None or at is None or at < rules.next_change


def _domain(policy: TenantPolicy, part: Inventory, rules: TenantRules) -> Domain:
    known = endpoints(part)
    particular: dict[str, list[str]] = {}
    for name, endpoint in known.items():
        if endpoint.kind is Kind.DEVICE and endpoint.site is not None and name in rules.named:
            particular.setdefault(endpoint.site, []).append(name)
    ((_, block),) = part.tenants.items()
    ordered = sorted(known.items())
    # Numbers, because to write ten thousand networks as text takes as long as all the rest.
    named = [
        [name, one.kind.value, one.network.version, int(one.network.network_address), one.network.prefixlen]
        for name, one in ordered
    ]
    content = [str(block), rules.digest, named]
    return Domain(
        block,
        rules,
        known,
        hashed(content),
        Whereabouts(known.values()),
        {site: tuple(sorted(names)) for site, names in particular.items()},
        tuple(name for name, one in ordered if one.network.version == 6),
        policy,
        part,
    )


def _fingerprint(
    domains: Mapping[str, Domain], shared: Mapping[str, Endpoint], platform: Platform, grants: Iterable[Grant]
) -> str:
    content = [
        [[tenant, domain.digest] for tenant, domain in sorted(domains.items())],
        [[name, str(one.network)] for name, one in sorted(shared.items())],
        written(platform.forbidden),
        [[name, written(one.offers), written(one.opens)] for name, one in sorted(platform.servers.items())],
        [[one.tenant, one.id, one.source, one.destination, written(one.services), str(one.until)] for one in grants],
    ]
    return hashed(content)
