"""Every change of what is wanted is in the log, with who and what; secrets are not; tampering is found."""

import ast
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from registry_engines import Engine
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

import cloudside
from cloudside.errors import RefusedError
from cloudside.registry import (
    audit,
    auditing,
    certificates,
    chain,
    credentials,
    devices,
    log_requests,
    policies,
    reports,
    routers,
    servers,
    settings,
    sites,
    tenants,
)
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database
from cloudside.registry.tables import AuditEntry, Certificate, EnrolmentToken, Heartbeat, Incident, Site, Table

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OVERLAY = ip_network("10.0.0.0/8")


def _new(database: Database, act: Callable[[Session], object], actor: str | None = None) -> list[AuditEntry]:
    """The entries that an act makes, oldest first."""
    with database.read() as session:
        before = audit.head(session, OPERATOR).number
    with database.write(actor) as session:
        act(session)
    with database.read() as session:
        found = audit.latest(session, OPERATOR, most=1000)
    return [entry for entry in reversed(found) if entry.number > before]


def _verdict(database: Database, *witnesses: chain.Head) -> chain.Verdict:
    with database.read() as session:
        return chain.verify(audit.entries(session, OPERATOR), witnesses)


def _add_site(session: Session, name: str = "kobe-1") -> Site:
    return sites.add(session, OPERATOR, site_id=name, tenant_id="acme", now=NOW)


def test_what_is_added_changed_and_removed(populated: Database) -> None:
    (added,) = _new(populated, lambda s: devices.add(
        s, OPERATOR, site_id="tokyo-1", name="pump", lan_address="192.168.1.9"), actor="ann")  # fmt: skip
    assert (added.actor, added.tenant_id, added.action) == ("ann", "acme", "added")
    assert (added.kind, added.subject, added.before) == ("devices", "tokyo-1/pump", None)
    assert added.after == {
        "site_id": "tokyo-1", "name": "pump", "lan_address": "192.168.1.9", "ssh_host_key": None,
    }  # fmt: skip
    (changed,) = _new(populated, lambda s: sites.change(s, OPERATOR, site_id="osaka-1", phase="retired"))
    assert (changed.actor, changed.tenant_id, changed.action) == ("kyoten", "zenith", "changed")
    assert (changed.before, changed.after) == ({"phase": "operation"}, {"phase": "retired"})
    (removed,) = _new(populated, lambda s: servers.remove(s, OPERATOR, server_id="web"))
    assert (removed.action, removed.subject, removed.tenant_id, removed.after) == ("removed", "web", None, None)
    assert removed.before == {"id": "web", "tenant_id": None, "address": "10.254.0.10"}
    assert added.at <= changed.at <= removed.at
    assert _verdict(populated).key is None


def test_time_and_actor_are_the_databases(database_url: str) -> None:
    database = Database(database_url, actor="worker", clock=lambda: NOW + timedelta(hours=1))
    (entry,) = _new(database, lambda s: tenants.add(s, OPERATOR, tenant_id="new", overlay=OVERLAY, now=NOW))
    database.close()
    assert (entry.at, entry.actor) == (NOW + timedelta(hours=1), "worker")
    assert (entry.after or {})["created_at"] == NOW.isoformat()


def test_change_of_an_object_that_was_not_loaded_has_what_was_there(populated: Database) -> None:
    def change(session: Session) -> None:
        site = sites.get(session, OPERATOR, "tokyo-1")
        session.expire(site)
        site.phase = "retired"

    (entry,) = _new(populated, change)
    assert (entry.before, entry.after) == ({"phase": "operation"}, {"phase": "retired"})


def test_what_was_before_is_what_stood_in_the_registry(populated: Database, populated_url: str, engine: Engine) -> None:
    """A recording session does not hold the lock while it reads: somebody else may have been there since."""
    with populated.write() as session:
        settings.add_version(session, OPERATOR, site_id="tokyo-1", values={}, author="a", now=NOW)
    with populated.record("web") as session:
        row = settings.latest(session, OPERATOR, "tokyo-1")
        assert row is not None
        if engine.name == "postgresql":  # SQLite lets nobody in between
            engine.execute(populated_url, "UPDATE settings SET state = 'reverted'")
        row.state = "applied"
    with populated.read() as session:
        entry = audit.latest(session, OPERATOR, most=1)[0]
    assert entry.before == {"state": "reverted" if engine.name == "postgresql" else "pending"}
    assert (entry.actor, entry.subject) == ("web", "tokyo-1/1")


_SECRETS = ("correct horse", "device-0123", "$argon2", "s3cret-pin", "f" * 64)


def _everything_secret(session: Session) -> None:
    credentials.issue(session, OPERATOR, site_id="tokyo-1", user="plc", password="correct horse", now=NOW)
    routers.enrol(session, OPERATOR, site_id="tokyo-1", device_id="device-0123", ssh_host_key="k", now=NOW)
    values = {"mobile.pin": "s3cret-pin", "log.level": "debug"}
    settings.add_version(session, OPERATOR, site_id="tokyo-1", values=values, author="a", now=NOW)
    token = EnrolmentToken(
        token_sha256="f" * 64, site_id="tokyo-1", created_at=NOW, created_by="ann", expires_at=NOW + timedelta(days=1)
    )
    session.add(token)


def test_secrets_stay_out_and_their_changes_are_seen(populated: Database) -> None:
    made = _new(populated, _everything_secret)
    told = json.dumps([[entry.subject, entry.before, entry.after] for entry in made])
    assert [entry.kind for entry in made if entry.tenant_id == "acme"] == [entry.kind for entry in made]
    assert {entry.kind for entry in made} == {"smtp_credentials", "routers", "settings", "enrolment_tokens"}
    assert [secret for secret in _SECRETS if secret in told] == []
    assert routers.hash_device_id("device-0123") not in told
    assert "debug" in told
    (entry,) = _new(populated, lambda s: routers.enrol(
        s, OPERATOR, site_id="tokyo-1", device_id="another", ssh_host_key="k", now=NOW))  # fmt: skip
    # Both are secret, and that it is another one is what matters.
    assert (entry.before, entry.after) == ({"device_id_sha256": "***"}, {"device_id_sha256": "***"})


def test_long_texts_are_told_by_their_hash(populated: Database) -> None:
    def act(session: Session) -> None:
        policies.add_version(session, OPERATOR, tenant_id="acme", text="allow", file_name="f", author="a", now=NOW)
        certificates.record(session, Certificate(
            serial="1", authority="tenant-acme", kind="site", subject="tokyo-1", pem="PEM", not_before=NOW,
            not_after=NOW))  # fmt: skip
        certificates.keep_revocation_list(session, authority="tenant-acme", number=1, der=b"DER", next_update=NOW)

    made = {entry.kind: entry for entry in _new(populated, act)}
    assert {entry.tenant_id for entry in made.values()} == {"acme"}
    assert made["certificates"].subject == "tokyo-1/1"  # found under the site's name
    texts = [(made["policies"], "text"), (made["certificates"], "pem"), (made["revocation_lists"], "der")]
    assert all(str((entry.after or {})[name]).startswith("sha256:") for entry, name in texts)


def test_what_is_observed_is_not_audited(populated: Database) -> None:
    def act(session: Session) -> None:
        reports.record_heartbeat(
            session, OPERATOR, site_id="tokyo-1", received_at=NOW, source=ip_address("10.0.0.1"), report={}
        )
        reports.record_gateway(session, OPERATOR, name="gw1", seen_at=NOW)
        session.execute(delete(Heartbeat))
        sites.change(session, OPERATOR, site_id="tokyo-1", phase="operation")  # as it was

    assert _new(populated, act) == []


def test_every_table_is_told_or_left_out_on_purpose() -> None:
    known = {table.class_ for table in Table.registry.mappers}
    assert known == {*auditing.FORMS, *auditing.OBSERVED, AuditEntry}
    assert not auditing.FORMS.keys() & auditing.OBSERVED
    for table, form in auditing.FORMS.items():
        columns = {attribute.key for attribute in table.__mapper__.column_attrs}
        named = {*form.secret, *form.digested, *form.subject, form.site, form.tenant} - {None}
        assert named <= columns, table
        hashed = {name for name in columns if name.endswith(("_sha256", "_hash", "password", "secret"))}
        assert hashed <= form.secret, table


def test_what_fails_or_is_undone_leaves_no_entry(populated: Database) -> None:
    with pytest.raises(RuntimeError), populated.write() as session:
        _add_site(session)
        raise RuntimeError

    def act(session: Session) -> None:
        undone = session.begin_nested()
        _add_site(session, "undone-1")
        undone.rollback()
        _add_site(session)

    assert [entry.subject for entry in _new(populated, act)] == ["kobe-1"]
    assert _verdict(populated).key is None


def test_several_changes_in_one_session_are_entries_of_their_own(populated: Database) -> None:
    def act(session: Session) -> None:
        site = _add_site(session)
        site.phase = "construction"
        session.flush()
        session.delete(site)

    made = _new(populated, act)
    assert [entry.action for entry in made] == ["added", "changed", "removed"]
    assert [entry.number for entry in made] == list(range(made[0].number, made[0].number + 3))


def test_number_that_the_database_gives_is_in_the_entry(populated: Database) -> None:
    def act(session: Session) -> None:
        session.add(Incident(kind="site-silent", subject="tokyo-1", params={}, opened_at=NOW))

    (entry,) = _new(populated, act)
    assert (entry.subject, entry.tenant_id) == (str((entry.after or {})["id"]), "acme")


def test_recording_session_refuses_what_others_decide_on(populated: Database) -> None:
    for act in (_add_site, lambda s: setattr(sites.get(s, OPERATOR, "tokyo-1"), "phase", "retired")):
        with pytest.raises(TypeError, match="recording"), populated.record() as session:
            act(session)
    assert _new(populated, lambda _: None) == []


def test_parallel_writers_make_one_chain(populated: Database) -> None:
    problems: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(5):
                with populated.write(f"writer-{worker}") as session:
                    _add_site(session, f"s{worker}-{number}")
                with populated.record(f"writer-{worker}") as session:
                    log_requests.ask(session, OPERATOR, request_id=f"{worker}{number}", site_id=f"s{worker}-{number}",
                                     lines=1, requested_by="a", now=NOW)  # fmt: skip
        except BaseException as problem:
            problems.append(problem)

    before = _verdict(populated).head.number
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    verdict = _verdict(populated)
    assert (verdict.key, verdict.head.number) == (None, before + 40)


def test_tenant_sees_its_own_entries_and_no_head(populated: Database) -> None:
    acme = Caller("acme")
    with populated.read() as session:
        found = audit.latest(session, acme, most=1000)
        assert {entry.tenant_id for entry in found} == {"acme"}
        assert audit.latest(session, acme, most=10, tenant_id="zenith") == []
        for act in (audit.head, audit.entries):
            with pytest.raises(RefusedError):
                act(session, acme)


def test_entries_are_found_by_subject_actor_and_time(populated: Database) -> None:
    with populated.write("ann") as session:
        _add_site(session, "tokyo-10")
    with populated.read() as session:
        subjects = {entry.subject for entry in audit.latest(session, OPERATOR, most=99, subject="tokyo-1")}
        assert subjects == {"tokyo-1", "tokyo-1/plc"}
        assert audit.latest(session, OPERATOR, most=99, subject="tokyo_1") == []
        assert [entry.subject for entry in audit.latest(session, OPERATOR, most=99, actor="ann")] == ["tokyo-10"]
        later = datetime.now(UTC) + timedelta(hours=1)
        assert audit.latest(session, OPERATOR, most=99, since=later) == []
        assert len(audit.latest(session, OPERATOR, most=2, since=NOW - timedelta(days=9000))) == 2


_LET_ME = {
    "sqlite": ("DROP TRIGGER audit_entries_no_update", "DROP TRIGGER audit_entries_no_delete"),
    "postgresql": ("DROP TRIGGER audit_entries_append_only ON audit_entries",),
}
_COPY = (
    "INSERT INTO audit_entries SELECT {}, at, actor, tenant_id, action, kind, subject, before, after, previous, hash "
    "FROM audit_entries WHERE number = {}"
)
_RENUMBER = "UPDATE audit_entries SET number = {} WHERE number = {}"
_TAMPERING = {
    "changed": (["UPDATE audit_entries SET actor = 'bob' WHERE number = 3"], "audit.changed", 3),
    "what was changed": (["UPDATE audit_entries SET after = '{}' WHERE number = 3"], "audit.changed", 3),
    "removed": (["DELETE FROM audit_entries WHERE number = 3"], "audit.missing", 3),
    "all removed but one": (["DELETE FROM audit_entries WHERE number > 1"], "audit.tail-missing", 2),
    "put in": (
        [_COPY.format(0, 1)],
        "audit.put-in", 0,
    ),
    "put in at the end": (
        [_COPY.format(9, 8)],
        "audit.changed", 9,
    ),
    "reordered": (
        [_RENUMBER.format(99, 2), _RENUMBER.format(2, 3), _RENUMBER.format(3, 99)],
        "audit.changed", 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _TAMPERING)
def test_tampering_in_the_database_is_found(populated: Database, populated_url: str, engine: Engine, name: str) -> None:
    statements, key, number = _TAMPERING[name]
    whole = _verdict(populated)
    assert (whole.key, whole.head.number) == (None, 8)
    with pytest.raises(Exception, match="audit entries are never changed"):  # psycopg's or sqlite3's own
        engine.execute(populated_url, "UPDATE audit_entries SET actor = 'bob' WHERE number = 3")
    engine.execute(populated_url, *_LET_ME[engine.name], *statements)
    verdict = _verdict(populated, whole.head)
    assert (verdict.key, verdict.number) == (key, number)


def test_our_own_sessions_cannot_change_entries_either(populated: Database) -> None:
    for act in (lambda s, row: setattr(row, "actor", "bob"), lambda s, row: s.delete(row)):
        with pytest.raises(TypeError, match="never changed"), populated.write() as session:
            act(session, session.scalar(select(AuditEntry).limit(1)))


def test_each_daemon_says_who_it_is() -> None:
    """Without an actor the log would say that the program itself did it."""
    root = Path(cloudside.__file__).parent
    silent = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Database"
        and "actor" not in {keyword.arg for keyword in node.keywords}
    ]
    assert silent == []
