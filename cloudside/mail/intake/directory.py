"""The last good snapshot of the registry, so that mail is taken while the registry is away.

A refresh looks at the audit log first, which has an entry for each change of what we read, and reads again only what
changed. What passed the log by (somebody's own SQL) is found by reading everything once in a while.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.errors import UnavailableError
from cloudside.mail.intake.origins import Credential, Origin, Snapshot, Suppressed
from cloudside.mail.intake.places import Network, Places
from cloudside.mail.model import Action, Limit, Scope
from cloudside.registry.chain import EMPTY
from cloudside.registry.database import Database
from cloudside.registry.mail_limits import Defaults, in_force
from cloudside.registry.tables import (
    AuditEntry,
    MailHold,
    MailLimit,
    MailProfile,
    Server,
    Site,
    SmtpCredential,
    Suppression,
)

#: Everything is read again after so many seconds.
FULL_READ_S = 600.0
#: With more changed suppressions than this the whole table is read.
_SINGLY_MAX = 200

_CLIENTS = frozenset(
    table.__tablename__ for table in (Site, Server, SmtpCredential, MailProfile, MailLimit, MailHold)
)  # fmt: skip

__all__ = ["Credential", "Defaults", "Directory", "Origin", "Snapshot", "Suppressed"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """How far the audit log was read, and when everything was read last, seconds since the epoch."""

    number: int
    hash: str
    at: float


class Directory:
    """Holds the snapshot; ``refresh`` is called on a clock, from a thread, one call at a time."""

    def __init__(self, database: Database, defaults: Defaults = Defaults(hourly=60, daily=500)) -> None:  # noqa: B008
        """``defaults``: the limits of sites and servers without their own."""
        self._database = database
        self._defaults = defaults
        self._snapshot: Snapshot | None = None
        self._seen: _Seen | None = None
        #: When a raise or a suppression ends, and the snapshot is no longer right; seconds since the epoch.
        self._right_until = float("inf")

    @property
    def snapshot(self) -> Snapshot:
        """The last good one. Raises UnavailableError when there never was one."""
        if self._snapshot is None:
            raise UnavailableError("mail.registry-never-read")
        return self._snapshot

    def refresh(self, now: datetime | None = None) -> bool:
        """Read what changed; whether anything did. ``now``: this moment, if it is not given.

        Raises KyotenError when the registry cannot be read; the last good snapshot stays.
        """
        now = datetime.now(UTC) if now is None else now
        at = now.timestamp()
        with self._database.read() as session:
            seen, changes = self._changes(session, at)
            if changes is None or self._snapshot is None or at >= self._right_until:
                self._read_all(session, now)
                changed = True
            else:
                changed = self._read_changed(session, now, self._snapshot, changes)
        self._seen = seen  # last: what could not be read is tried again
        return changed

    def _read_changed(
        self, session: Session, now: datetime, snapshot: Snapshot, changes: Collection[tuple[str, str]]
    ) -> bool:
        until = self._right_until
        found = snapshot
        if any(kind in _CLIENTS for kind, _ in changes):
            clients, first_end = _clients(session, now, self._defaults)
            found = replace(clients, suppressions=found.suppressions)
            until = min(until, first_end)
        addresses = {subject for kind, subject in changes if kind == Suppression.__tablename__}
        if addresses:
            suppressions, first_end = _suppressions_changed(session, found.suppressions, addresses, now.timestamp())
            found = replace(found, suppressions=suppressions)
            until = min(until, first_end)
        self._snapshot, self._right_until = found, until
        return found is not snapshot

    def _read_all(self, session: Session, now: datetime) -> None:
        snapshot, until = _clients(session, now, self._defaults)
        suppressions, first_end = _suppressions(session.execute(select(*_SUPPRESSION)).all(), now.timestamp())
        self._snapshot = replace(snapshot, suppressions=MappingProxyType(suppressions))
        self._right_until = min(until, first_end)

    def _changes(self, session: Session, at: float) -> tuple[_Seen, list[tuple[str, str]] | None]:
        """How far the log goes now, and table and key of what changed; None: unknown, or time to read everything."""
        seen = self._seen
        query = select(AuditEntry.number, AuditEntry.hash, AuditEntry.kind, AuditEntry.subject)
        if seen is not None and at - seen.at < FULL_READ_S:
            rows = session.execute(query.where(AuditEntry.number >= seen.number).order_by(AuditEntry.number)).all()
            if rows and (rows[0].number, rows[0].hash) == (seen.number, seen.hash):
                return _Seen(rows[-1].number, rows[-1].hash, seen.at), [(row.kind, row.subject) for row in rows[1:]]
        # The log begins here, or another registry was put in its place.
        newest = session.execute(query.order_by(AuditEntry.number.desc()).limit(1)).first()
        if newest is None:
            return _Seen(EMPTY.number, EMPTY.hash, at), None
        return _Seen(newest.number, newest.hash, at), None


def _clients(session: Session, now: datetime, defaults: Defaults) -> tuple[Snapshot, float]:
    """Everything but the suppressions, and when the first raise ends."""
    sites = session.execute(
        select(Site.id, Site.tenant_id, Site.overlay, Site.mail_hourly_limit, Site.revoked_at)
    ).all()
    servers = session.execute(select(Server.id, Server.address)).all()
    profiles = {row.site_id: row for row in session.scalars(select(MailProfile))}
    rows = list(session.scalars(select(MailLimit)))
    holds = list(session.scalars(select(MailHold)))
    credentials = session.execute(select(*_CREDENTIAL).where(SmtpCredential.revoked_at.is_(None))).all()

    limits = {(row.scope, row.name): _limit(row, now) for row in rows}
    held = {(row.scope, row.name): row.reason for row in holds}
    origins = {}
    places: list[tuple[Network, Origin]] = []
    for site in sites:
        own = limits.get((Scope.SITE, site.id)) or _default(site.id, site.mail_hourly_limit, defaults)
        origin = _site(
            site.id,
            site.tenant_id,
            revoked=site.revoked_at is not None,
            limits=(*_found(limits.get((Scope.TENANT, site.tenant_id))), own),
            hold=held.get((Scope.TENANT, site.tenant_id)) or held.get((Scope.SITE, site.id), ""),
            profile=profiles.get(site.id),
        )
        origins[origin.name] = origin
        places.append((site.overlay, origin))
    for server in servers:
        name = f"server/{server.id}"
        own = limits.get((Scope.SITE, name)) or _default(name, None, defaults)
        origin = Origin(name, limits=(own,), hold=held.get((Scope.SITE, name), ""))
        origins[name] = origin
        places.append((ip_network(server.address), origin))
    snapshot = Snapshot(
        places=Places(places),
        origins=MappingProxyType(origins),
        credentials=MappingProxyType({row.user: _credential(row) for row in credentials}),
        device_limits=MappingProxyType(
            {(row.tenant_id or "", row.name): _limit(row, now) for row in rows if row.scope == Scope.DEVICE}
        ),
        device_holds=MappingProxyType(
            {(row.tenant_id or "", row.name): row.reason for row in holds if row.scope == Scope.DEVICE}
        ),
    )
    ends = (row.raised_until.timestamp() for row in rows if row.raised_until is not None and row.raised_until > now)
    return snapshot, min(ends, default=float("inf"))


def _site(
    name: str, tenant: str, *, revoked: bool, limits: tuple[Limit, ...], hold: str, profile: MailProfile | None
) -> Origin:
    if profile is None:
        return Origin(name, tenant, limits, hold, revoked)
    return Origin(
        name,
        tenant,
        limits,
        hold,
        revoked,
        notify=profile.notify,
        old_tls=profile.old_tls,
        senders=_lowered(profile.senders),
        recipients=_lowered(profile.recipients),
    )


def _limit(row: MailLimit, now: datetime) -> Limit:
    counts = in_force(row, now)
    return Limit(Scope(row.scope), row.name, counts["hourly"], counts["daily"], Action(row.action))


def _default(name: str, hourly: int | None, defaults: Defaults) -> Limit:
    hourly = hourly or defaults.hourly
    return Limit(Scope.SITE, name, hourly, max(hourly, defaults.daily), Action.NOTIFY)


def _found(limit: Limit | None) -> tuple[Limit, ...]:
    return () if limit is None else (limit,)


def _credential(row: Any) -> Credential:
    return Credential(
        user=row.user,
        site_id=row.site_id,
        password_hash=row.password_hash,
        previous_hash=row.previous_hash,
        previous_until=0.0 if row.previous_until is None else row.previous_until.timestamp(),
        cram_secret=row.cram_secret,
        sources=tuple(ip_network(prefix) for prefix in row.sources),
        senders=_lowered(row.senders),
        recipients=_lowered(row.recipients),
    )


def _lowered(allowed: Iterable[str]) -> frozenset[str]:
    return frozenset(one.lower() for one in allowed)


#: Columns and not objects: of thousands of rows, objects cost three times as much.
_CREDENTIAL = (
    SmtpCredential.user,
    SmtpCredential.site_id,
    SmtpCredential.password_hash,
    SmtpCredential.previous_hash,
    SmtpCredential.previous_until,
    SmtpCredential.cram_secret,
    SmtpCredential.sources,
    SmtpCredential.senders,
    SmtpCredential.recipients,
)
_SUPPRESSION = (
    Suppression.tenant_id,
    Suppression.address,
    Suppression.cause,
    Suppression.reason,
    Suppression.message,
    Suppression.created_at,
    Suppression.expires_at,
)


def _suppressions(rows: Iterable[Any], at: float) -> tuple[dict[tuple[str, str], Suppressed], float]:
    """Those that are not over, and when the first of them is."""
    found = {}
    first_end = float("inf")
    for row in rows:
        end = None if row.expires_at is None else row.expires_at.timestamp()
        if end is not None and end <= at:
            continue
        found[row.tenant_id, row.address] = Suppressed(
            row.address, row.cause, row.reason, row.message, row.created_at.timestamp(), end
        )
        first_end = first_end if end is None else min(first_end, end)
    return found, first_end


def _suppressions_changed(
    session: Session, known: Mapping[tuple[str, str], Suppressed], subjects: Collection[str], at: float
) -> tuple[Mapping[tuple[str, str], Suppressed], float]:
    if len(subjects) > _SINGLY_MAX:
        found, first_end = _suppressions(session.execute(select(*_SUPPRESSION)).all(), at)
        return MappingProxyType(found), first_end
    rows: list[Any] = []
    merged = dict(known)
    for subject in subjects:
        tenant, _, address = subject.partition("/")  # a tenant's name holds none
        merged.pop((tenant, address), None)
        query = select(*_SUPPRESSION).where(Suppression.tenant_id == tenant, Suppression.address == address)
        rows.extend(session.execute(query).all())
    found, first_end = _suppressions(rows, at)
    merged.update(found)
    return MappingProxyType(merged), first_end
