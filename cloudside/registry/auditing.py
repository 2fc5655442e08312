"""The audit log writes itself: each writing session adds an entry for every row of wanted state that it changes.

No function has to think of it. An entry is written in the transaction of its change, under the registry's lock, with
the number after the newest one's. A table is audited unless it stands in OBSERVED. Statements that change audited rows
without objects are refused (TypeError, a bug of ours): nobody would see what they changed.

What is secret never gets here, not even hashed: an entry says that it changed. Long texts (policies, certificates) are
kept in versions of their own; an entry has their SHA-256, so they cannot be exchanged unnoticed either.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import event, insert, inspect, select
from sqlalchemy.orm import InstanceState, ORMExecuteState, Session, UOWTransaction

from cloudside.registry import tables
from cloudside.registry.chain import EMPTY, Entry, Head, digest
from cloudside.registry.sessions import WritingSession, take_lock
from cloudside.registry.tables import AuditEntry, Site, Table

#: What is seen, counted or made from other rows: it changes by itself all day, and nobody has wanted it.
OBSERVED: frozenset[type[Table]] = frozenset(
    {
        tables.Heartbeat,
        tables.Tunnel,
        tables.TunnelChange,
        tables.SiteProblem,
        tables.GatewayState,
        tables.SiteUsage,
        tables.MembershipUsage,
        tables.UsageCursor,
        tables.StatementCounter,
        tables.Refusal,
        tables.RuleRevision,
        tables.MailDomain,
        tables.SiteFirmware,
        tables.RolloutTarget,
        tables.RolloutProgress,
        tables.SettingsChangeSite,
        tables.LogUpload,
        tables.LogPiece,
        tables.CrashReport,
    }
)
_NAMES_NOT_AUDITED = frozenset(table.__tablename__ for table in OBSERVED)

#: Stands for a value that is secret.
SECRET = "***"  # noqa: S105 - the opposite of one
#: The last word of a key in a JSON column whose value is secret, such as "mobile.pin".
_SECRET_WORDS = frozenset({"password", "passphrase", "secret", "pin", "puk", "psk", "token"})

_SUBJECT_MAX_CHARS = 300
_ACTOR_MAX_CHARS = 100


@dataclass(frozen=True, slots=True)
class Form:
    """How rows of a table are told: whose they are, what identifies them, what of them is secret or too long."""

    #: The columns with the tenant and with the site; neither: the whole service's.
    tenant: str | None = None
    site: str | None = None
    #: Identify a row instead of its primary key.
    subject: tuple[str, ...] = ()
    secret: frozenset[str] = field(default_factory=frozenset)
    digested: frozenset[str] = field(default_factory=frozenset)


FORMS: Mapping[type[Table], Form] = {
    tables.Tenant: Form(tenant="id"),
    tables.Site: Form(tenant="tenant_id"),
    tables.Router: Form(site="site_id", secret=frozenset({"device_id_sha256"})),
    tables.Device: Form(site="site_id"),
    tables.Server: Form(tenant="tenant_id"),
    tables.Policy: Form(tenant="tenant_id", digested=frozenset({"text"})),
    tables.PlatformPolicy: Form(digested=frozenset({"text"})),
    tables.Grant: Form(tenant="tenant_id"),
    tables.Settings: Form(site="site_id"),
    tables.LogRequest: Form(site="site_id"),
    tables.SettingsDraft: Form(site="site_id"),
    tables.SettingsChange: Form(tenant="tenant_id"),
    tables.LogPull: Form(site="site_id", subject=("site_id", "id")),
    # What a command brought may be long, and the row has it.
    tables.SiteCommand: Form(site="site_id", subject=("site_id", "id"), digested=frozenset({"output"})),
    tables.ConsoleAnswer: Form(site="site_id", subject=("site_id", "challenge")),
    tables.SmtpCredential: Form(
        site="site_id", secret=frozenset({"password_hash", "previous_hash", "cram_secret"})
    ),
    tables.MailProfile: Form(site="site_id"),
    tables.MailLimit: Form(tenant="tenant_id"),
    tables.MailHold: Form(tenant="tenant_id"),
    tables.Suppression: Form(tenant="tenant_id"),
    tables.SiteLabel: Form(site="site_id"),
    tables.FirmwareRelease: Form(),
    tables.Rollout: Form(tenant="tenant_id"),
    tables.Incident: Form(site="subject"),
    # The one it is for comes first: whoever asks for a site finds its certificates as well.
    tables.Certificate: Form(site="subject", subject=("subject", "serial"), digested=frozenset({"pem"})),
    tables.RevocationList: Form(),
    tables.EnrolmentToken: Form(
        site="site_id", subject=("site_id", "created_at"), secret=frozenset({"token_sha256"})
    ),
}  # fmt: skip


@dataclass(slots=True)
class _Change:
    """A row that a flush changes. ``before`` None: it is new. ``names``: the attributes that may differ."""

    row: Table
    action: str
    names: tuple[str, ...]
    before: dict[str, Any] | None


@event.listens_for(WritingSession, "before_flush")
def _look_before(session: WritingSession, _flush: UOWTransaction, _objects: object) -> None:
    if any(isinstance(row, AuditEntry) for row in (*session.new, *session.dirty, *session.deleted)):
        raise TypeError("audit entries are written here and never changed")
    changes = list(_changes(session))
    if changes and not session.decides:
        take_lock(session.connection())  # before rows are read: what they were must not move any more
    for change in changes:
        if change.action != "added":
            change.before = _standing(session, change)
    session.info.setdefault("changes", []).extend(changes)


@event.listens_for(WritingSession, "after_flush")
def _write_entries(session: WritingSession, _flush: UOWTransaction) -> None:
    changes: list[_Change] = session.info.pop("changes", [])
    if not changes:
        return
    head = _head(session)
    owners = _owners(session, changes)
    at = session.clock()
    rows = []
    for change in changes:
        before, after = _told(change)
        if before is None and after is None:
            continue  # a value that is written anew in the same words
        row = change.row
        entry = Entry(
            number=head.number + 1,
            at=at,
            actor=session.actor[:_ACTOR_MAX_CHARS],
            tenant=owners[id(row)],
            action=change.action,
            kind=row.__tablename__,
            subject=_subject(row),
            before=before,
            after=after,
            previous=head.hash,
        )
        head = Head(entry.number, digest(entry))
        rows.append({
            "number": entry.number, "at": at, "actor": entry.actor, "tenant_id": entry.tenant, "action": entry.action,
            "kind": entry.kind, "subject": entry.subject, "before": before, "after": after,
            "previous": entry.previous, "hash": head.hash,
        })  # fmt: skip
    if rows:
        session.connection().execute(insert(AuditEntry), rows)


@event.listens_for(WritingSession, "after_soft_rollback")
def _forget(session: Session, _transaction: object) -> None:
    session.info.pop("changes", None)


@event.listens_for(WritingSession, "do_orm_execute")
def _refuse_statements(state: ORMExecuteState) -> None:
    if state.is_select:
        return
    table = getattr(state.statement, "table", None)
    if table is None or table.name not in _NAMES_NOT_AUDITED:
        raise TypeError("a statement without objects on audited rows: change objects, the audit log sees those")


def _changes(session: Session) -> Iterator[_Change]:
    for row in session.new:
        if type(row) not in OBSERVED:
            yield _Change(row, "added", _columns(row), None)
    for row in session.dirty:
        if type(row) not in OBSERVED and session.is_modified(row):
            state: InstanceState[Any] = inspect(row)
            changed = tuple(name for name in _columns(row) if state.attrs[name].history.has_changes())
            yield _Change(row, "changed", changed, None)
    for row in session.deleted:
        if type(row) not in OBSERVED:
            yield _Change(row, "removed", _columns(row), None)


def _columns(row: Table) -> tuple[str, ...]:
    return tuple(attribute.key for attribute in inspect(type(row)).column_attrs)


def _standing(session: Session, change: _Change) -> dict[str, Any] | None:
    """What stands in the database now, which need not be what the object was loaded with."""
    kind = type(change.row)
    identity: Sequence[Any] = inspect(change.row).identity or ()
    keys = inspect(kind).primary_key
    query = select(*(getattr(kind, name) for name in change.names))
    query = query.where(*(key == value for key, value in zip(keys, identity, strict=True)))
    found = session.connection().execute(query).first()
    return None if found is None else dict(zip(change.names, found, strict=True))


def _told(change: _Change) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    form = FORMS.get(type(change.row), Form())
    old, new = change.before, None
    if change.action != "removed":
        new = {name: getattr(change.row, name) for name in change.names}
    if old is not None and new is not None:
        differing = [name for name in new if old[name] != new[name]]
        old, new = {name: old[name] for name in differing}, {name: new[name] for name in differing}
    if change.action == "changed" and not new:
        return None, None
    return _shown(form, old), _shown(form, new)


def _shown(form: Form, values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if name in form.secret and value is not None:
            shown[name] = SECRET
        elif name in form.digested and value is not None:
            shown[name] = _sha256(value.encode())
        else:
            shown[name] = _plain(value)
    return shown


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return _sha256(value)
    if isinstance(value, Mapping):
        return {str(key): SECRET if _is_secret(str(key)) else _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)


def _is_secret(key: str) -> bool:
    return re.split(r"[._-]", key.lower())[-1] in _SECRET_WORDS


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _subject(row: Table) -> str:
    names = FORMS.get(type(row), Form()).subject
    if not names:
        mapper = inspect(type(row))
        names = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
    return "/".join(str(_plain(getattr(row, name))) for name in names)[:_SUBJECT_MAX_CHARS]


def _owners(session: Session, changes: Iterable[_Change]) -> dict[int, str | None]:
    """Whose each row is, by the row's id()."""
    found: dict[int, str | None] = {}
    homes: dict[int, str] = {}
    for change in changes:
        row, form = change.row, FORMS.get(type(change.row), Form())
        found[id(row)] = None if form.tenant is None else getattr(row, form.tenant)
        authority = str(getattr(row, "authority", ""))
        if authority.startswith("tenant-"):
            found[id(row)] = authority.removeprefix("tenant-")
        elif form.site is not None:
            homes[id(row)] = getattr(row, form.site)
    wanted = sorted(set(homes.values()))
    tenants: dict[str, str] = {}
    for start in range(0, len(wanted), 1000):  # SQLite takes 32,766 parameters at most
        query = select(Site.id, Site.tenant_id).where(Site.id.in_(wanted[start : start + 1000]))
        tenants.update((site, tenant) for site, tenant in session.connection().execute(query))
    return {**found, **{row: tenants.get(site) for row, site in homes.items()}}


def _head(session: Session) -> Head:
    query = select(AuditEntry.number, AuditEntry.hash).order_by(AuditEntry.number.desc()).limit(1)
    newest = session.connection().execute(query).first()
    return EMPTY if newest is None else Head(newest.number, newest.hash)
