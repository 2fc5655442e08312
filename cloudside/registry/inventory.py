"""What the rules need to know, as rules.model: sites, devices at overlay addresses, servers, policies in force.

Revoked and retired sites and their devices are left out: for the rules they do not exist, so nothing is
permitted to them.

Columns are read, not objects: at 10,000 sites those cost seconds. InventoryReader reads again only what a writing
session marked as changed (see revisions).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Generic, TypeVarTuple

from sqlalchemy import Connection, Row, Select, bindparam, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from cloudside.registry.addresses import overlay_address
from cloudside.registry.revisions import SHARED
from cloudside.registry.sites import Phase
from cloudside.registry.tables import Device, PlatformPolicy, Policy, RuleRevision, Server, Site, Tenant
from rules import model
from rules.parts import Parts

_Columns = TypeVarTuple("_Columns")

_NAME = attrgetter("name")
_SITE_AND_NAME = attrgetter("site", "name")

#: From so many changed tenants on, one reading of everything is cheaper than one of each (measured: 1 ms a tenant).
READ_ALL_FROM_TENANTS = 50


@dataclass(frozen=True, slots=True)
class TenantPart:
    """What the rules need to know of one tenant, each part sorted by name. ``policy`` None: none in force."""

    tenant: str
    block: model.Network
    sites: tuple[model.Site, ...]
    devices: tuple[model.Device, ...]
    servers: tuple[model.Server, ...]
    policy: model.PolicySource | None


@dataclass(frozen=True, slots=True)
class SharedPart:
    """What is above all tenants: the servers that each may use, and the platform's file if one is in force."""

    servers: tuple[model.Server, ...]
    platform: model.PlatformSource | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the rules are compiled from, as of one reading.

    ``changed`` are the tenants that may differ from the reading before, and SHARED if what they share may. Those with
    a new grant or one that was ended are among them. Objects of the others are the very objects of the reading before.
    """

    parts: Parts
    policies: tuple[model.PolicySource, ...]
    platform: model.PlatformSource | None
    changed: frozenset[str]


class _Query(Generic[*_Columns]):
    """Rows of all tenants or of some. Made once: to make a statement takes as long as to run it."""

    def __init__(self, of_all: Select[*_Columns], owner: InstrumentedAttribute[Any]) -> None:
        self._of_all = of_all
        self._of_some = of_all.where(owner.in_(bindparam("wanted", expanding=True)))

    def rows(self, session: Session, wanted: Collection[str] | None) -> Sequence[Row[*_Columns]]:
        """Those of the wanted tenants; None wants all."""
        if wanted is None:
            return _connection(session).execute(self._of_all).all()
        return _connection(session).execute(self._of_some, {"wanted": sorted(wanted)}).all()


_ALIVE = Site.revoked_at.is_(None) & (Site.phase != Phase.RETIRED.value)
_LATER = aliased(Policy)
_NEWEST = select(func.max(_LATER.version)).where(_LATER.tenant_id == Policy.tenant_id).scalar_subquery()

_BLOCKS = _Query(select(Tenant.id, Tenant.block), Tenant.id)
_SITES = _Query(select(Site.id, Site.tenant_id, Site.overlay).where(_ALIVE), Site.tenant_id)
_DEVICES = _Query(
    select(Site.tenant_id, Site.lan, Site.overlay, Device.site_id, Device.name, Device.lan_address)
    .join(Site, Site.id == Device.site_id)
    .where(_ALIVE),
    Site.tenant_id,
)
_SERVERS = _Query(
    select(Server.id, Server.tenant_id, Server.address).where(Server.tenant_id.is_not(None)), Server.tenant_id
)
_POLICIES = _Query(
    select(Policy.tenant_id, Policy.file_name, Policy.text).where(Policy.version == _NEWEST), Policy.tenant_id
)
_SHARED_SERVERS = select(Server.id, Server.address).where(Server.tenant_id.is_(None))
_PLATFORM = select(PlatformPolicy.file_name, PlatformPolicy.text).order_by(PlatformPolicy.version.desc()).limit(1)
_TENANTS = select(Tenant.id)
_REVISIONS = select(RuleRevision.scope, RuleRevision.revision)


def load(session: Session) -> model.Inventory:
    """The whole inventory, each part sorted by name."""
    return _assembled(_tenant_parts(session, None).values(), load_shared(session))


def policy_sources(session: Session) -> tuple[model.PolicySource, ...]:
    """The policy in force of each tenant that has one, by tenant."""
    found = _policies(session, None)
    return tuple(found[tenant] for tenant in sorted(found))


def platform_source(session: Session) -> model.PlatformSource | None:
    """The platform's file in force, for our own code on whoever's behalf; None: there is none."""
    row = _connection(session).execute(_PLATFORM).first()
    return None if row is None else model.PlatformSource(row.file_name, row.text)


def revisions(session: Session) -> Mapping[str, int]:
    """A number for each tenant, and for SHARED, that is another one after each change of what the rules read of it.

    Numbers have no order: any difference means a change, as does a scope that is new or gone.
    """
    return dict(_connection(session).execute(_REVISIONS).all())


def load_tenant(session: Session, tenant_id: str) -> TenantPart | None:
    """One tenant's part; None: there is no such tenant."""
    return _tenant_parts(session, [tenant_id]).get(tenant_id)


def load_shared(session: Session) -> SharedPart:
    """What is above all tenants."""
    rows = _connection(session).execute(_SHARED_SERVERS)
    servers = sorted((model.Server(name, None, address) for name, address in rows), key=_NAME)
    return SharedPart(tuple(servers), platform_source(session))


class InventoryReader:
    """Reads the registry again and again, each time only what changed. One for each daemon; not for several threads."""

    def __init__(self) -> None:
        self._revisions: Mapping[str, int] = {}
        self._parts: Mapping[str, TenantPart] = {}
        self._shared = SharedPart((), None)
        self._own: Mapping[str, model.Inventory] = {}
        self._common = model.Inventory({}, (), (), ())

    def read(self, session: Session, *, whole: bool = False, again: Collection[str] | None = None) -> Snapshot:
        """What holds now. ``whole``: read everything and compare, whatever the revisions say. ``again``: the same for
        these tenants, and for which tenants there are. Either is to be done now and then.

        A reading that raises leaves the reader as it was: what it would have found is found by the next.
        """
        # First of all: a change that slips in between, on an engine without snapshots, is read twice and never missed.
        found = revisions(session)
        stale = {scope for scope in {*found, *self._revisions} if found.get(scope) != self._revisions.get(scope)}
        everything = whole or not self._revisions or len(stale) >= READ_ALL_FROM_TENANTS
        wanted = stale - {SHARED}
        if again is not None:
            wanted |= set(again) | (set(_connection(session).scalars(_TENANTS)) ^ self._parts.keys())
        fresh: Mapping[str, TenantPart] = {}
        if everything or wanted:
            fresh = _tenant_parts(session, None if everything else wanted)
        shared = self._shared
        if everything or again is not None or SHARED in stale:
            shared = load_shared(session)
        parts = dict(self._parts)
        moved: set[str] = set()
        for tenant in {*fresh, *parts} if everything else wanted:
            old, new = parts.pop(tenant, None), fresh.get(tenant)
            if old != new:
                stale.add(tenant)
            if _holdings(old) != _holdings(new):
                moved.add(tenant)
            if new is not None:
                parts[tenant] = _known_again(old, new)
        if shared != self._shared:
            stale.add(SHARED)
        own = dict(self._own)
        for tenant in moved:
            if (part := parts.get(tenant)) is None:
                del own[tenant]
            else:
                own[tenant] = model.Inventory({tenant: part.block}, part.sites, part.devices, part.servers)
        if shared.servers != self._shared.servers:
            self._common = model.Inventory({}, (), (), shared.servers)
        self._revisions, self._parts, self._shared, self._own = found, parts, shared, own
        policies = sorted((part.policy for part in parts.values() if part.policy), key=attrgetter("tenant"))
        return Snapshot(Parts(self._common, own), tuple(policies), shared.platform, frozenset(stale))


def _holdings(part: TenantPart | None) -> tuple[object, ...]:
    return () if part is None else (part.block, part.sites, part.devices, part.servers)


def _known_again(old: TenantPart | None, new: TenantPart) -> TenantPart:
    """The new part with the very objects of the old one where they are equal: readers know them by their identity."""
    if old == new and old is not None:
        return old
    return new if old is None or old.policy != new.policy else replace(new, policy=old.policy)


def _assembled(parts: Collection[TenantPart], shared: SharedPart) -> model.Inventory:
    blocks = {part.tenant: part.block for part in parts}
    servers = [*shared.servers, *(server for part in parts for server in part.servers)]
    return model.Inventory(
        tenants=dict(sorted(blocks.items())),
        sites=tuple(sorted((site for part in parts for site in part.sites), key=_NAME)),
        devices=tuple(sorted((device for part in parts for device in part.devices), key=_SITE_AND_NAME)),
        servers=tuple(sorted(servers, key=_NAME)),
    )


def _tenant_parts(session: Session, wanted: Collection[str] | None) -> dict[str, TenantPart]:
    """The parts of the wanted tenants that exist; None wants all."""
    sites: dict[str, list[model.Site]] = {}
    for name, tenant, overlay in _SITES.rows(session, wanted):
        sites.setdefault(tenant, []).append(model.Site(name, tenant, overlay))
    devices: dict[str, list[model.Device]] = {}
    for tenant, lan, overlay, site, name, address in _DEVICES.rows(session, wanted):
        device = model.Device(site, name, overlay_address(lan, overlay, address))
        devices.setdefault(tenant, []).append(device)
    servers: dict[str, list[model.Server]] = {}
    for name, owner, address in _SERVERS.rows(session, wanted):
        servers.setdefault(owner or SHARED, []).append(model.Server(name, owner, address))
    policies = _policies(session, wanted)
    return {
        tenant: TenantPart(
            tenant,
            block,
            tuple(sorted(sites.get(tenant, ()), key=_NAME)),
            tuple(sorted(devices.get(tenant, ()), key=_SITE_AND_NAME)),
            tuple(sorted(servers.get(tenant, ()), key=_NAME)),
            policies.get(tenant),
        )
        for tenant, block in _BLOCKS.rows(session, wanted)
    }


def _policies(session: Session, wanted: Collection[str] | None) -> dict[str, model.PolicySource]:
    rows = _POLICIES.rows(session, wanted)
    return {tenant: model.PolicySource(tenant, file_name, text) for tenant, file_name, text in rows}


def _connection(session: Session) -> Connection:
    """Past the session's own execute, which takes thrice the time; like it, what waits to be written is seen."""
    session.flush()
    return session.connection()
